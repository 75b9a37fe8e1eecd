"""The two-minute tour: write synthetic patches, read them, attack a copy, sign, tamper, and show the refusals.

The attacks (``hostile``) are real and are never run. Four of them would create a canary file, which must be absent at
the end. The tour writes into a temporary directory, or into an empty one that the user names. It never writes keys.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from ben_secure._system.appear import Workspace, checked_path, refuse_full
from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.rules import Level
from ben_secure.audit.run.runner import audit_database
from ben_secure.bands import S1_BANDS, S2_BANDS
from ben_secure.demo.hostile import Attack, attacks
from ben_secure.errors import UntrustedDataError, shell_command
from ben_secure.patches import BigEarthNet_S1_S2_Patch
from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.signing.keys import MacKey, SigningKey
from ben_secure.signing.manifest import manifest_path
from ben_secure.store.change.sign import sign_database
from ben_secure.store.reader import PatchReader
from ben_secure.store.writer import PatchWriter
from ben_secure.values import loads

_COLUMNS, _ROWS = 6, 4
_FIELDS = 5  # along each side of a patch
_ATTACKED = "attacked.lmdb"

# Typical digital numbers of Level-2A (reflectance times 10,000) of B01 ... B12 in natural order, then backscatter of VH
# and VV in dB. They are invented, but typical of each cover (water is dark, leaves are bright in the infrared).
_COVERS = {
    "Arable land": (450, 560, 850, 820, 1300, 2400, 2800, 2900, 3100, 3100, 2300, 1400, -18, -11),
    "Coniferous forest": (240, 260, 420, 280, 700, 1900, 2300, 2400, 2600, 2600, 1200, 550, -14, -8.5),
    "Urban fabric": (900, 1000, 1250, 1400, 1650, 2000, 2150, 2250, 2350, 2400, 2300, 1950, -12, -5),
    "Inland waters": (700, 560, 480, 340, 320, 300, 300, 260, 250, 240, 150, 110, -25, -18),
}


def make_patch(column: int, row: int) -> BigEarthNet_S1_S2_Patch:
    """Make a patch of square fields of a few covers.

    Args:
        column: Column of the patch in its tile. Column and row are the seed.
        row: Row of the patch in its tile.

    Returns:
        The patch, with uint16 digital numbers, float32 backscatter in dB, and the covers as metadata ``labels``.
    """
    random = np.random.default_rng((column, row))
    covers = random.choice(len(_COVERS), (_FIELDS, _FIELDS), p=random.dirichlet(np.full(len(_COVERS), 0.5)))
    bands: dict[str, Any] = {}
    for spec, typical in zip(S2_BANDS + S1_BANDS, np.array([*_COVERS.values()]).T, strict=True):
        image = np.kron(typical[covers], np.ones((spec.side // _FIELDS, spec.side // _FIELDS)))
        if spec.sensor == "S2":
            bands[spec.name] = (image * random.normal(1, 0.05, image.shape)).astype(np.uint16)
        else:
            bands[spec.name] = (image + random.normal(0, 2, image.shape)).astype(np.float32)
    return BigEarthNet_S1_S2_Patch.short_init(**bands, labels=[[*_COVERS][index] for index in np.unique(covers)])


def run(directory: str | None, out: Console) -> int:
    """Show the tour.

    Args:
        directory: Directory for the databases, new or empty, or None for a temporary directory.
        out: The output. It must not interpret markup.

    Returns:
        0 if everything behaved as expected, 1 if an attack was accepted or an honest patch was refused.

    Raises:
        StoreError: The directory is not empty, or cannot be made.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="ben-secure-demo-") as temporary:
            return _tour(Path(temporary), out, "To keep the databases and look into them: ben-secure demo DIR")
    target = os.path.abspath(checked_path(directory))
    refuse_full(target)
    command = shell_command("ben-secure", "inspect", os.path.join(target, _ATTACKED), _name(0, 0), "--disassemble")
    workspace = Workspace(target)
    try:
        exit_code = _tour(Path(workspace.directory), out, f"Look into it: {command}")
        workspace.put_folder()
    finally:
        workspace.discard()
    return exit_code


def _tour(folder: Path, out: Console, hint: str) -> int:
    patches = {_name(column, row): make_patch(column, row) for column in range(_COLUMNS) for row in range(_ROWS)}
    out.print("1. Write honest patches and read them back", style="bold")
    stored = _write(folder / "honest.lmdb", patches)
    out.print(f"   {len(patches)} made-up scenes, Sentinel-1 and Sentinel-2 with labels")
    problems = [f"{name} changed" for name, value in stored.items() if loads(value) != patches[name]]
    if _audited(folder / "honest.lmdb", out).exit_code:
        problems.append("the audit refuses honest patches")
    hostile = attacks(next(iter(stored.values())), str(folder / "canary"))
    problems += _show_attacked(folder, stored, dict(zip(list(stored)[::2], hostile, strict=False)), out)
    with tempfile.TemporaryDirectory(dir=folder, prefix="signed-") as signed:
        problems += _show_signing(Path(signed), patches, out)
    out.print(hint, soft_wrap=True)
    for problem in problems:
        out.print(f"WRONG: {problem}", style="bold red", soft_wrap=True)
    if not problems:
        out.print(f"OK: all honest patches read, {len(hostile)} of {len(hostile)} attacks refused", style="bold green")
    return 1 if problems else 0


def _show_attacked(folder: Path, stored: dict[str, bytes], planted: dict[str, Attack], out: Console) -> list[str]:
    """Audit a copy with attacks in it, and return the problems."""
    out.print(f"\n2. Plant {len(planted)} hostile values in a copy, and audit it", style="bold")
    _write(folder / _ATTACKED, stored | {name: attack.value for name, attack in planted.items()})
    report = _audited(folder / _ATTACKED, out)
    errors = [finding for finding in report.findings if finding.level is Level.ERROR]
    refused = {finding.lmdb_key.decode(): _reason(finding) for finding in errors if finding.lmdb_key is not None}
    rows = [(attack.holds, attack.would, refused.get(name, "NOT REFUSED")) for name, attack in planted.items()]
    _print_table(("the value holds", "pickle would", "ben_secure refuses it"), rows, out)
    ran = (folder / "canary").exists()
    out.print("\n3. Did anything run?", style="bold")
    out.print(f"   the file that four of them create: {'THERE' if ran else 'absent'}")
    problems = [f"{attack.holds}: got through" for name, attack in planted.items() if name not in refused]
    problems += [f"the honest patch {name} was refused" for name in refused.keys() - planted.keys()]
    return [*problems, "an attack ran"] if ran else problems


def _show_signing(folder: Path, patches: dict[str, BigEarthNet_S1_S2_Patch], out: Console) -> list[str]:
    """Tag and sign patches, tamper with copies and read them, and return the problems."""
    mac_key, publisher = MacKey.generate(), SigningKey.generate()
    team: dict[str, Any] = {"mac_key": mac_key, "context": "demo"}
    release: dict[str, Any] = {"verify_key": publisher.verify_key, "name": "demo", "version": "2.0"}
    old, new = folder / "old.lmdb", folder / "new.lmdb"
    first, second, *others = patches
    _write(old, {name: patches[name] for name in others}, **team)
    stored = _write(new, patches, **team)
    for database, version in ((old, "1.0"), (new, "2.0")):
        created = datetime.now(timezone.utc).replace(microsecond=0)
        sign_database(database, [publisher], name="demo", version=version, created=created)
    problems = [] if _refusal(new, **team, **release) is None else ["the signed patches are refused"]
    value, listed = stored[first], release | {"manifest": manifest_path(new)}
    tampered: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = {
        "one bit of a value flipped": ({first: value[:1000] + bytes([value[1000] ^ 1]) + value[1001:]}, team),
        "the tag of a value stripped": ({first: value[:-FOOTER_BYTES]}, team),
        "two values swapped": (stored | {first: stored[second], second: value}, listed),
        "one record deleted": ({name: stored[name] for name in stored if name != first}, listed),
    }
    refusals: dict[str, str | None] = {}
    for number, (tampering, (records, checks)) in enumerate(tampered.items()):
        _write(folder / f"{number}.lmdb", records)
        refusals[tampering] = _refusal(folder / f"{number}.lmdb", **checks)
    refusals["an older signed copy in its place"] = _refusal(old, **release)
    out.print(f"\n4. Tag and sign {len(patches)} patches, and tamper with copies", style="bold")
    rows = [(tampering, reason or "NOT NOTICED") for tampering, reason in refusals.items()]
    _print_table(("done without the key", "the reader refuses: "), rows, out)
    return problems + [f"{tampering}: not noticed" for tampering, reason in refusals.items() if reason is None]


def _name(column: int, row: int) -> str:
    return f"S2A_MSIL2A_20170613T101031_{30 + column}_{40 + row}"


def _write(database: Path, patches: Mapping[str, bytes | BigEarthNet_S1_S2_Patch], **tagging: Any) -> dict[str, bytes]:
    """Write patches, or values unchanged, and return the stored values."""
    with PatchWriter(database, **tagging) as writer:
        for name, patch in patches.items():
            if isinstance(patch, bytes):
                writer.put_stored(name.encode(), patch)
            else:
                writer[name] = patch
    with PatchReader(database) as reader:
        return {name: reader.raw(name) for name in reader}


def _refusal(database: Path, **checks: Any) -> str | None:
    """Read every patch with these checks. Return None, or the first sentence of the refusal."""
    try:
        with PatchReader(database, **checks) as reader:
            list(reader.values())
    except UntrustedDataError as refusal:
        return refusal.message.split("; ")[0]
    return None


def _audited(database: Path, out: Console) -> AuditReport:
    report = audit_database(database)
    counts = f"{report.checked} values, {report.clean} clean, {report.refused} refused"
    out.print(f"   audit: {counts}; exit code {report.exit_code} ({report.verdict})")
    return report


def _reason(finding: Finding) -> str:
    if finding.global_name is not None:
        return f"{finding.rule}: {finding.global_name}"
    return str(finding.rule) if finding.offset is None else f"{finding.rule} at byte {finding.offset:,}"


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=heading != headings[-1], overflow="fold")
    for row in rows:
        table.add_row(*row)
    out.print(table)
