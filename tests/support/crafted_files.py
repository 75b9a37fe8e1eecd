"""Data files that LMDB would not write: with changed numbers, cycles, shared pages, cut or extended.

    python -m support.crafted_files COUNT SEED

makes COUNT files, and runs the programs of the package on each in child processes. It prints wrong endings, exit codes,
the most work (bytes read beyond those of the honest file, in sizes of that file) and the longest time. It is a separate
program because it forks, which a process with threads must not do.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import pathlib
import random
import shutil
import signal
import struct
import sys
import tempfile
import time

import lmdb
import numpy as np

from ben_secure import PatchReader
from ben_secure.cli import main
from ben_secure.errors import BenSecureError
from ben_secure.signing.keys import SigningKey, write_signing_key, write_verify_key
from support.databases import HONEST
from support.strategies import make_patch

P = 4096
# Offsets behind the page header of a meta page (MDB_meta), and in the record of a tree (MDB_db).
META = {"magic": (0, "<I"), "version": (4, "<I"), "map": (16, "<Q"), "last": (120, "<Q"), "txnid": (128, "<Q")}
TREE = {
    "pad": (0, "<I"), "flags": (4, "<H"), "depth": (6, "<H"), "branches": (8, "<Q"), "leaves": (16, "<Q"),
    "overflows": (24, "<Q"), "entries": (32, "<Q"), "root": (40, "<Q"),
}  # fmt: skip
PAGE = {"number": (0, "<Q"), "pad": (8, "<H"), "type": (10, "<H"), "lower": (12, "<H"), "upper": (14, "<H")}
NODE = {"low": (0, "<H"), "high": (2, "<H"), "flags": (4, "<H"), "key size": (6, "<H")}
SECONDS = 60
SLACK = 2**17  # bytes: what opening a file and a message cost, whatever its size


def name_of(number: int) -> bytes:
    """A key that is long, so that the tree is high."""
    return b"%0180d" % number


def honest_values() -> dict[bytes, bytes]:
    """Records in leaves and records with pages of their own."""
    large = [make_patch(map=np.arange(n, n + 1000.0)).dumps() for n in range(3)]
    return {name_of(n): large[n % 3] if n % 6 == 0 else HONEST[n % 4] for n in range(150)}


class Honest:
    """The database that all others are made from, with a signed manifest and keys.

    Attributes:
        folder: Its folder.
        data: The data file.
        patches: Its patches, by name.
        numbers: The position of each number: meaning, offset and form.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        values = honest_values()
        with lmdb.open(str(folder / "db"), map_size=2**28, sync=False) as env:
            for part in range(3):
                with env.begin(write=True) as transaction:
                    for number, (lmdb_key, value) in enumerate(values.items()):
                        if number % 3 >= part:
                            transaction.put(lmdb_key, value)
        key = SigningKey.generate()
        write_signing_key(folder / "publisher.key", key)
        write_verify_key(folder / "publisher.pub", key.verify_key)
        sign = ["sign", str(folder / "db"), "--signing-key", str(folder / "publisher.key"), "--name", "n"]
        if main([*sign, "--version", "1"]):
            raise RuntimeError
        self.data = (folder / "db" / "data.mdb").read_bytes()
        with PatchReader(folder / "db") as reader:
            self.patches = dict(reader.items())
        self.numbers = [*self._metas(), *self._pages()]

    def u(self, offset: int, form: str) -> int:
        """A number of the file."""
        number: int = struct.unpack_from(form, self.data, offset)[0]
        return number

    def _metas(self):
        for slot in (0, 1):
            for name, (offset, form) in META.items():
                yield f"{name} of meta page {slot}", slot * P + 16 + offset, form
            for tree, at in (("free", 24), ("main", 72)):
                for name, (offset, form) in TREE.items():
                    yield f"{name} of {tree} in meta page {slot}", slot * P + 16 + at + offset, form
            for name, (offset, form) in PAGE.items():
                yield f"{name} of meta page {slot}", slot * P + offset, form

    def _pages(self):
        for page in range(2, len(self.data) // P):
            number, kind = self.u(page * P, "<Q"), self.u(page * P + 10, "<H")
            if number != page or kind not in (1, 2, 4):
                continue
            for name, (offset, form) in PAGE.items():
                yield f"{name} of page {page} ({kind})", page * P + offset, form
            if kind == 4:
                continue
            for index in range((self.u(page * P + 12, "<H") - 16) // 2):
                yield f"pointer {index} of page {page}", page * P + 16 + 2 * index, "<H"
                node = page * P + self.u(page * P + 16 + 2 * index, "<H")
                for name, (offset, form) in NODE.items():
                    yield f"{name} of node {index} of page {page} ({kind})", node + offset, form
                if kind == 2 and self.u(node + 4, "<H") == 1:
                    key_bytes = self.u(node + 6, "<H")
                    yield f"run of node {index} of page {page}", node + 8 + key_bytes, "<Q"
                elif kind == 1:
                    yield f"child {index} of page {page}", node, "<I"


def crafted(honest: Honest, seed: int):
    """Yield crafted files without end.

    Args:
        honest: The database that they are made from.
        seed: Seed of the choices.

    Yields:
        The change, and the bytes of the file; a file that is longer ends in a hole.
    """
    chance = random.Random(seed)
    while True:
        data, said = bytearray(honest.data), []
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            said.append(_changed(honest, data, chance))
        length = len(data)
        shape = chance.random()
        if shape < 0.08:
            length = chance.choice((P * chance.randrange(len(data) // P), chance.randrange(len(data))))
            said.append(f"cut to {length}")
        elif shape < 0.16:
            length = chance.choice((length + P, 2 * length, 2**33, 2**40))
            said.append(f"grown to {length}")
        yield "; ".join(said), bytes(data[:length]), length


def _changed(honest: Honest, data: bytearray, chance: random.Random) -> str:
    """Change one number, and return a description."""
    places = honest.numbers
    kind = chance.random()
    if kind < 0.3:  # cycles and shared pages are made of these
        places = [place for place in places if place[0].startswith(("child", "run", "root", "last", "entries"))]
    elif kind < 0.5:
        places = [place for place in places if "meta" in place[0]]
    what, offset, form = chance.choice(places)
    number, most, pages = honest.u(offset, form), 256 ** struct.calcsize(form) - 1, len(data) // P
    others = [honest.u(place, other) for _, place, other in chance.choices(places, k=3) if other == form]
    new = chance.choice(
        [0, 1, 2, number + 1, number - 1, number ^ 1 << chance.randrange(16), pages, pages - 1, most, most >> 1,
         chance.randrange(pages), chance.randrange(P), *others]
    )  # fmt: skip
    struct.pack_into(form, data, offset, new & most)
    return f"{what}: {number} -> {new & most}"


# What works on them.


def _read(place: pathlib.Path, honest: Honest, *, signed: bool) -> int:
    """Read every patch by name; each must be the stored one, under its key if the database is signed."""
    key = {"verify_key": _public(honest), "manifest": place / "db.manifest"} if signed else {}
    stored = list(honest.patches.values())
    try:
        with PatchReader(place / "db", **key) as reader:
            for name in [*reader, *honest.patches]:
                with contextlib.suppress(BenSecureError, KeyError):
                    patch = reader[name]
                    if patch != honest.patches.get(name) if signed else patch not in stored:
                        return 99
    except BenSecureError:
        return 2
    return 0


def _public(honest: Honest):
    from ben_secure.signing.keys import read_verify_key

    return read_verify_key(honest.folder / "publisher.pub")


def _convert(place: pathlib.Path, honest: Honest) -> int:
    code = main(["convert", str(place / "db"), str(place / "out")])
    if code == 0:
        stored = list(honest.patches.values())
        with PatchReader(place / "out") as reader:
            if any(patch not in stored for patch in reader.values()):
                return 99
    return code


def programs(place: pathlib.Path, honest: Honest):
    """The programs by name."""
    db, publisher = str(place / "db"), honest.folder / "publisher"
    return {
        "read": lambda: _read(place, honest, signed=False),
        "read signed": lambda: _read(place, honest, signed=True),
        "audit": lambda: main(["audit", db, "--workers", "1", "--no-fickling"]),
        "verify": lambda: main(["verify", db, "--verify-key", f"{publisher}.pub"]),
        "sign": lambda: main(
            ["sign", db, "--signing-key", f"{publisher}.key", "--name", "n", "--version", "2", "--force"]
        ),
        "convert": lambda: _convert(place, honest),
    }


def in_child(program, place: pathlib.Path) -> tuple[int, int, float]:
    """Run a program in a forked child.

    Returns:
        Its exit code, or minus a signal; bytes that it and its children have read; seconds.
    """
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            signal.alarm(SECONDS)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            code = program()
            counts = pathlib.Path("/proc/self/io").read_text() if sys.platform == "linux" else "rchar: 0"
            (place / "io").write_text(counts)
            os._exit(code)
        os._exit(98)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        read = int((place / "io").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        read = 0
    return code, read, time.monotonic() - start


def placed(honest: Honest, place: pathlib.Path, data: bytes, length: int) -> None:
    """Put a file where the programs find it, with the manifest of the honest one."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "db").mkdir(parents=True)
    (place / "db" / "data.mdb").write_bytes(data)
    os.truncate(place / "db" / "data.mdb", length)
    for suffix in (".manifest", ".manifest.dsse.json"):
        shutil.copy(f"{honest.folder / 'db'}{suffix}", place / f"db{suffix}")


def attacked(honest: Honest, place: pathlib.Path, data: bytes, length: int, usual: dict[str, int]):
    """Let all programs work on a crafted file.

    Args:
        honest: The database that it was made from.
        place: Folder to work in.
        data: Its bytes.
        length: Its length; beyond its bytes is a hole.
        usual: By program, the bytes that it reads for the honest file.

    Returns:
        By program: exit code, bytes read, seconds; and descriptions of wrong endings.
    """
    results, wrong = {}, []
    placed(honest, place, data, length)
    before = _bytes_in(place)
    for name, program in programs(place, honest).items():
        code, read, _ = results[name] = in_child(program, place)
        if code not in (0, 1, 2):
            wrong.append(f"{name} ended with {code}")
        if read > usual[name] + 2 * len(data) + SLACK:
            wrong.append(f"{name} read {read} bytes, {usual[name]} of the honest file")
        if _bytes_in(place) - before > 2 * len(data) + SLACK:
            wrong.append(f"{name} wrote {_bytes_in(place) - before} bytes for {len(data)}")
        shutil.rmtree(place / "out", ignore_errors=True)
    return results, wrong


def _bytes_in(place: pathlib.Path) -> int:
    """Bytes that the files in a folder take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in place.rglob("*") if path.is_file())


def usual_work(honest: Honest, place: pathlib.Path) -> dict[str, int]:
    """How much each program reads for the honest file, all of which they take."""
    usual = {}
    for name in programs(place, honest):
        placed(honest, place, honest.data, len(honest.data))
        code, usual[name], _ = in_child(programs(place, honest)[name], place)
        if code:
            raise RuntimeError(f"{name} of the honest file ended with {code}")
    return usual


def run(count: int, seed: int) -> int:
    """Attack everything with so many files; returns how many of them did harm."""
    codes = collections.defaultdict(collections.Counter)
    most, longest, harmful = collections.Counter(), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        honest, place = Honest(pathlib.Path(folder)), pathlib.Path(folder, "place")
        usual = usual_work(honest, place)
        for said, data, length in itertools.islice(crafted(honest, seed), count):
            results, wrong = attacked(honest, place, data, length, usual)
            for name, (code, read, seconds) in results.items():
                codes[name][code] += 1
                most[name] = max(most[name], round((read - usual[name]) / len(honest.data), 2))
                longest[name] = max(longest[name], round(seconds, 1))
            if results["audit"][0] == 0 and any(code for code, *_ in results.values()):
                wrong.append(f"it is clean, and programs end with {results}")
            if wrong:
                harmful += 1
                print(f"{said}: {'; '.join(wrong)}", flush=True)
    for name, counted in codes.items():
        print(f"{name}: exit codes {dict(counted)}, most work {most[name]}, longest {longest[name]} s")
    print(f"{harmful} of {count} did harm")
    return harmful


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), int(sys.argv[2])) > 0)
