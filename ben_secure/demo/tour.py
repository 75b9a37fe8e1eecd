"""The two-minute tour: write synthetic patches, read them, plant attacks in a copy, show that each is refused.

The attacks are real and are never run: this module builds their bytes, opcode by opcode, and hands them to the audit.
It never unpickles anything itself. Four of them would create a canary file, which must be absent at the end.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import lmdb
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.rules import Level
from ben_secure.audit.run.runner import audit_database
from ben_secure.bands import S1_BANDS, S2_BANDS
from ben_secure.demo.signed_tour import show_signing
from ben_secure.errors import StoreError, printable
from ben_secure.patches import BigEarthNet_S1_S2_Patch
from ben_secure.store.reader import PatchReader
from ben_secure.store.writer import PatchWriter

if TYPE_CHECKING:
    import numpy.typing as npt

_COLUMNS, _ROWS = 6, 4
_SIDE = 120
_PASSES = 5
_Image: TypeAlias = "npt.NDArray[np.float64]"

# Typical digital numbers of Level-2A (reflectance times 10,000) of B01 ... B12 in natural order, and backscatter of VH
# and VV in decibel: invented, but with the marks of each cover (water dark and smooth, leaves bright in the infrared).
_COVERS: tuple[tuple[str, tuple[int, ...], tuple[float, float]], ...] = (
    ("Arable land", (450, 560, 850, 820, 1300, 2400, 2800, 2900, 3100, 3100, 2300, 1400), (-18.0, -11.0)),
    ("Coniferous forest", (240, 260, 420, 280, 700, 1900, 2300, 2400, 2600, 2600, 1200, 550), (-14.0, -8.5)),
    ("Urban fabric", (900, 1000, 1250, 1400, 1650, 2000, 2150, 2250, 2350, 2400, 2300, 1950), (-12.0, -5.0)),
    ("Inland waters", (700, 560, 480, 340, 320, 300, 300, 260, 250, 240, 150, 110), (-25.0, -18.0)),
)
_SPECKLE_LOOKS = 4.4  # equivalent number of looks of Sentinel-1 IW GRD at full resolution (ESA product specification)


def make_patch(column: int, row: int) -> BigEarthNet_S1_S2_Patch:
    """Make a plausible scene: terrain, fields, forest, a lake, a village.

    Args:
        column: Place of the patch in its tile; with ``row`` the seed.
        row: The same.

    Returns:
        uint16 digital numbers and float32 decibel, and the metadata ``labels``: what covers 5 % or more.
    """
    random = np.random.default_rng((column, row))
    height, moisture, density = (_smooth(random, waves) for waves in (2, 5, 4))
    cover = np.zeros((_SIDE, _SIDE), int)
    cover[moisture > random.uniform(0, 3)] = 1
    cover[density > random.uniform(1, 2.5)] = 2
    cover[-height > random.uniform(0.8, 2.5)] = 3
    y, x = np.mgrid[:_SIDE, :_SIDE]
    parcels = random.uniform(0.75, 1.3, (8, 8))[(y + x // 4) // 20, (x + y // 5) // 22]
    light = (1 + 1.5 * np.gradient(height, axis=1)) * np.where(cover == 0, parcels, 1)
    bands: dict[str, npt.NDArray[Any]] = {}
    for place, spec in enumerate(S2_BANDS):
        numbers = np.array([cover_numbers[place] for _, cover_numbers, _ in _COVERS], float)
        image = _shrink(numbers[cover] * light, spec.side)
        bands[spec.name] = np.clip(image * random.normal(1, 0.03, image.shape), 1, 20_000).astype(np.uint16)
    for place, spec in enumerate(S1_BANDS):
        decibel = np.array([backscatter[place] for _, _, backscatter in _COVERS])[cover]
        speckle = random.gamma(_SPECKLE_LOOKS, 1 / _SPECKLE_LOOKS, cover.shape)
        bands[spec.name] = (decibel + 10 * np.log10(speckle)).astype(np.float32)
    labels = [name for index, (name, _, _) in enumerate(_COVERS) if (cover == index).mean() >= 0.05]
    return BigEarthNet_S1_S2_Patch.short_init(**bands, labels=labels)


def _smooth(random: np.random.Generator, waves: int) -> _Image:
    """A smooth random surface of mean 0 and standard deviation 1."""
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE * 2 * np.pi
    surface = np.zeros((_SIDE, _SIDE))
    for _ in range(8):
        u, v = random.uniform(-waves, waves, 2)
        surface += np.cos(u * x + v * y + random.uniform(0, 2 * np.pi)) / (1 + u * u + v * v) ** 0.5
    surface -= surface.mean()
    surface /= surface.std()
    return surface


def _shrink(image: _Image, side: int) -> _Image:
    step = _SIDE // side
    means: _Image = image.reshape(side, step, side, step).mean(axis=(1, 3))
    return means


# The attacks. What each opcode does: pickletools.dis.

_PROTO = b"\x80\x04"
_STOP = b"."


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _call(module: str, name: str, arguments: bytes) -> bytes:
    return _global(module, name) + b"(" + arguments + b"tR"


def _dict(**items: bytes) -> bytes:
    return b"}(" + b"".join(_text(name) + value for name, value in items.items()) + b"u"


def _s1_patch(vh: bytes) -> bytes:
    """A patch of the original package whose VH is what is given."""
    module = "bigearthnet_patch_interface.s1_interface"
    return _PROTO + _global(module, "BigEarthNet_S1_Patch") + b")\x81" + _dict(bandVH=vh) + b"b" + _STOP


def _s1_band(pixels: bytes) -> bytes:
    """A band of the original package (pydantic 1) with these pixels."""
    names = ("name", "spatial_resolution", "data_shape", "data")
    fields = _dict(name=_text("VH"), spatial_resolution=b"K\x0a", data_shape=b"KxKx\x86", data=pixels)
    fields_set = b"\x8f(" + b"".join(map(_text, names)) + b"\x90"
    state = _dict(__dict__=fields, __fields_set__=fields_set, __private_attribute_values__=b"}")
    return _global("bigearthnet_patch_interface.band_interface", "BenS1_Band") + b")\x81" + state + b"b"


def _array(shape: bytes) -> bytes:
    """numpy's empty array of a shape, as its pickles begin."""
    return _call("numpy.core.multiarray", "_reconstruct", _global("numpy", "ndarray") + shape + b"C\x01b")


def _dtype(code: str, state: bytes) -> bytes:
    return _call("numpy", "dtype", _text(code) + b"\x89\x88") + b"(" + state + b"tb"


def _hidden_program(program: bytes) -> bytes:
    """A frame that ends inside a string.

    Read opcode by opcode this is a string of seven characters, then bytes. CPython's unpickler drops the rest of the
    frame when it reads across its end from a BytesIO: it is five bytes further than one thinks, and runs those bytes.
    """
    frame = b"X\x07\0\0\0abcde"
    block = b"B" + struct.pack("<I", len(program)) + program
    return _PROTO + b"\x95" + struct.pack("<Q", len(frame)) + frame + b"fg" + block + b"\x86" + _STOP


def _pointer_array() -> bytes:
    """A whole band with a dtype that hides an object field: numpy takes its bytes for addresses of objects."""
    objects = _dtype("O8", b"K\x03" + _text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3f")
    fields = b"}" + _text("f") + objects + b"K\0\x86s"
    hidden = _dtype("V8", b"K\x03" + _text("|") + b"N" + _text("f") + b"\x85" + fields + b"K\x08K\x01K\0")
    addresses = b"A" * (8 * _SIDE * _SIDE)
    state = b"K\x01KxKx\x86" + hidden + b"\x89B" + struct.pack("<I", len(addresses)) + addresses
    return _array(b"K\0\x85") + b"(" + state + b"tb"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One hostile value.

    Attributes:
        holds: What it is.
        would: What ``pickle`` would do with it.
        value: Its bytes.
    """

    holds: str
    would: str
    value: bytes


def attacks(honest: bytes, canary: str) -> tuple[Attack, ...]:
    """Build the attacks.

    Args:
        honest: A canonical value.
        canary: Path of the file that four of them would create if they ran.

    Returns:
        The attacks, as far apart as possible.
    """
    command = f"touch {shlex.quote(canary)}"
    shell = _call("posix", "system", _text(command)) + _STOP
    code = _text(f"__import__('os').system({command!r})")
    python = _call("numpy.testing", "runstring", code + b"}") + _STOP
    nested = b"})" + b"\x85" * 300_000 + b"Ns"
    return tuple(
        Attack(holds=holds, would=would, value=value)
        for holds, would, value in (
            ("a shell command", "run it as you", _PROTO + shell),
            ("Python code via numpy's tests", "run it as you", _PROTO + python),
            ("a program in a false frame", "run it; scanners miss it", _hidden_program(shell)),
            ("a second pickle after a patch", "run it if read on", honest + _PROTO + shell),
            ("a band of 64 GB", "ask for 64 GB", _s1_patch(_s1_band(_array(b"\x8a\x05\0\0\0\0\x10\x85")))),
            ("a dtype that hides pointers", "crash on first use", _s1_patch(_s1_band(_pointer_array()))),
            ("memo entry 268,435,455", "take 4 GB for 9 bytes", _PROTO + b"Nr\xff\xff\xff\x0f" + _STOP),
            ("300,000 nested tuples as key", "overflow the C stack", _PROTO + nested + _STOP),
            ("a text in place of a band", "return it as a patch", _s1_patch(_text("not a band"))),
        )
    )


# The tour.


def run(directory: str | None, out: Console) -> int:
    """Show the tour.

    Args:
        directory: Where to build the databases, new or empty; they stay. None for a temporary directory.
        out: Where to print; must not interpret markup.

    Returns:
        0 if everything behaved as it must, 1 if an attack got through or an honest patch did not.

    Raises:
        StoreError: The directory is not empty, or cannot be written to.
    """
    with _workplace(directory) as place:
        honest, attacked, canary = (place / name for name in ("honest.lmdb", "attacked.lmdb", "canary"))
        problems = _show_honest(honest, out)
        shutil.copytree(honest, attacked)
        planted = _plant(attacked, attacks(_any_value(honest), str(canary)))
        problems += _show_attacked(attacked, planted, canary, out)
        problems += show_signing(honest, out)
    if directory is None:
        out.print("To keep the databases and look into them: ben-secure demo DIR")
    else:
        shown = printable(shlex.quote(str(attacked)), 400)
        out.print(f"Look into it: ben-secure inspect {shown} {next(iter(planted))} --disassemble", soft_wrap=True)
    for problem in problems:
        out.print(f"WRONG: {problem}", style="bold red", soft_wrap=True)
    if not problems:
        out.print(f"OK: all honest patches read, {len(planted)} of {len(planted)} attacks refused", style="bold green")
    return 1 if problems else 0


@contextlib.contextmanager
def _workplace(directory: str | None) -> Iterator[Path]:
    """Give an empty directory; one that nobody named is removed afterwards."""
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="ben-secure-demo-") as temporary:
            yield Path(temporary)
        return
    try:
        os.makedirs(directory, exist_ok=True)
        occupied = os.listdir(directory)
    except OSError as error:
        raise StoreError(f"the demo cannot use this directory: {printable(str(error), 400)}") from error
    if occupied:
        raise StoreError(f"{printable(directory, 400)} is not empty; name a new or an empty directory")
    yield Path(directory).resolve()


def _any_value(database: Path) -> bytes:
    with PatchReader(database) as reader:
        return reader.raw(next(iter(reader)))


def _show_honest(database: Path, out: Console) -> list[str]:
    patches = {
        f"S2A_MSIL2A_20170613T101031_{column}_{row}": make_patch(column, row)
        for column in range(30, 30 + _COLUMNS)
        for row in range(40, 40 + _ROWS)
    }
    with PatchWriter(database) as writer:
        for name, patch in patches.items():
            writer[name] = patch
    with PatchReader(database) as reader:
        seconds = min(_time_reading(reader, list(patches)) for _ in range(_PASSES))
        wrong = [name for name, patch in patches.items() if reader[name] != patch]
        megabytes = reader.facts.file_bytes / 1e6
    name = max(patches, key=lambda name: len(patches[name].labels))
    patch = patches[name]
    means = ", ".join(f"{band} {patch.get_band_data_by_name(band).mean():,.0f}" for band in ("B04", "B08", "VV"))
    out.print("1. Write honest patches and read them back", style="bold")
    out.print(f"   {len(patches)} synthetic scenes, Sentinel-1 and Sentinel-2 with labels, {megabytes:.1f} MB on disk")
    out.print(f"   {name}: {', '.join(patch.labels)}", soft_wrap=True)
    out.print(f"   its means: {means} dB")
    out.print(
        f"   read, checked and stacked in {seconds * 1e3:.1f} ms, {seconds / len(patches) * 1e6:.0f} us each "
        f"(best of {_PASSES} passes)"
    )
    report = audit_database(database)
    _show_audit(report, out)
    problems = [f"{name} is not what was written" for name in wrong]
    return problems if report.exit_code == 0 else [*problems, "the audit refuses honest patches"]


def _time_reading(reader: PatchReader, names: Sequence[str]) -> float:
    begin = time.perf_counter()
    for name in names:
        s2 = reader[name].s2_patch
        s2.get_stacked_10m_bands(), s2.get_stacked_20m_bands(), s2.get_stacked_60m_bands()
    return time.perf_counter() - begin


def _plant(database: Path, planted: Sequence[Attack]) -> dict[str, Attack]:
    """Put an attack in the place of every other value; liblmdb, for the file is our own."""
    with lmdb.open(str(database), map_size=2**28, lock=False) as environment, environment.begin(write=True) as writing:
        names = [name.decode() for name, _ in writing.cursor()]
        by_name = dict(zip(names[::2], planted, strict=False))
        for name, attack in by_name.items():
            writing.put(name.encode(), attack.value)
    return by_name


def _show_attacked(database: Path, planted: dict[str, Attack], canary: Path, out: Console) -> list[str]:
    report = audit_database(database)
    found = {
        finding.lmdb_key.decode(): finding
        for finding in report.findings
        if finding.lmdb_key is not None and finding.level is Level.ERROR
    }
    problems = [f"{attack.holds}: got through" for name, attack in planted.items() if name not in found]
    problems += [f"the honest patch {name} was refused" for name in found.keys() - planted.keys()]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("the value holds", no_wrap=True)
    table.add_column("pickle would", no_wrap=True)
    table.add_column("ben_secure refuses it", overflow="fold")
    for name, attack in planted.items():
        table.add_row(attack.holds, attack.would, _refusal(found[name]) if name in found else "NOT REFUSED")
    out.print(f"\n2. Plant {len(planted)} hostile values in a copy, and audit it", style="bold")
    out.print(table)
    _show_audit(report, out)
    with PatchReader(database) as reader:
        others = [reader[name] for name in reader if name not in planted]
    out.print("\n3. Did anything run?", style="bold")
    out.print(f"   the file that four of them create: {'THERE' if canary.exists() else 'absent'}")
    out.print(f"   the other {len(others)} patches of that database: still read")
    return [*problems, "an attack ran"] if canary.exists() else problems


def _refusal(finding: Finding) -> str:
    if finding.global_name is not None:
        return f"{finding.rule}: {finding.global_name}"
    return str(finding.rule) if finding.offset is None else f"{finding.rule} at byte {finding.offset:,}"


def _show_audit(report: AuditReport, out: Console) -> None:
    out.print(
        f"   audit: {report.checked} values, {report.clean} clean, {report.refused} refused; exit code "
        f"{report.exit_code} ({report.verdict})"
    )
