"""Fail or kill every writing command at each system call that changes the file system, and run it once more.

By hand, on Linux with strace, in the folder ``tests``: ``python -m support.fault_points [COMMAND ...]``. It prints a
table: for each command, system call and fault the number of points, and how the command and its repetition ended. It
takes an hour on two processors.
After a fault everything must be as before or complete; the same command must then complete, and leave nothing else.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import multiprocessing
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

from ben_secure.cli import main as main_of_program
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey, read_mac_keys, write_key_pair, write_mac_keys
from ben_secure.store.writer import PatchWriter
from support import geotiffs
from support.strategies import make_patch

CALLS = ("link", "linkat", "rename", "renameat2", "fsync", "fdatasync", "mkdir", "unlink", "rmdir", "fchmod", "chmod")
FAULTS = ("EIO", "EPERM", "ENOSPC", "KILL", "INT")

Place = pathlib.Path
Outcomes = collections.Counter[str]
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
RELEASE = ["--name", "a", "--version", "1"]
REFUSES = b"exists and is not", b"are in db already"
APPEND = """
import sys
from ben_secure import UndecidedError
from ben_secure.store.writer import PatchWriter
from support.strategies import make_patch
try:
    with PatchWriter("db", append=True) as writer:
        if "c" not in writer:
            writer["c"] = make_patch()
except UndecidedError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes:
        arguments: Of the program.
        complete: Whether its work is done in a place.
        repeats: Whether it may be done again when it is done.
        prepare: Done in a place before.
        in_place: Whether it changes a file in transactions, of which some may have happened.
    """

    arguments: list[str]
    complete: Callable[[Place], bool]
    repeats: bool = False
    prepare: Callable[[Place], object] = lambda place: None
    in_place: bool = False


def succeeds(*arguments: str) -> Callable[[Place], bool]:
    """Make a check: a command that only reads ends with 0."""
    return lambda place: command(list(arguments), place).returncode == 0


def has_tags(name: str) -> Callable[[Place], bool]:
    """Make a check: all values of a database have tags."""
    return succeeds("verify", name, "--mac-key", "mac")


def signed(place: Place) -> bool:
    """Whether a signed manifest is beside the database."""
    return (place / "db.manifest").exists() and succeeds("verify", "db", "--verify-key", "key.pub", *RELEASE)(place)


def make_release(place: Place) -> None:
    """Sign the database, as something that is replaced."""
    assert command(["sign", "db", "--signing-key", "key", "--name", "old", "--version", "0"], place).returncode == 0


def prepared(arguments: list[str]) -> Callable[[Place], object]:
    """Make a step that runs a command beforehand."""

    def run(place: Place) -> None:
        done = command(arguments, place)
        assert done.returncode == 0, done.stderr

    return run


def exists(name: str, start: bytes = b"") -> Callable[[Place], bool]:
    """Make a check: a file begins so."""
    return lambda place: (place / name).exists() and (place / name).read_bytes().startswith(start)


def pair_fits(place: Place) -> bool:
    """Whether a publisher's two files are there and fit."""
    done = command(["sign", "db", "--signing-key", "new", "--out-manifest", "m", *RELEASE], place).returncode == 0
    fits = done and succeeds("verify", "db", "--verify-key", "new.pub", "--manifest", "m", *RELEASE)(place)
    for name in ("m", "m.dsse.json"):
        (place / name).unlink(missing_ok=True)
    return fits


def mac_keys(name: str, count: int) -> Callable[[Place], bool]:
    """Make a check: a file has so many keys, or more."""
    return lambda place: (place / name).exists() and len(read_mac_keys(place / name)) >= count


SIGN = ["sign", "db", "--signing-key", "key", *RELEASE]
HTML = ["audit", "db", "--no-fickling", "--workers", "1", "--format", "html", "--output", "report"]
CASES = {
    "keygen mac": Case(["keygen", "mac", "new"], mac_keys("new", 1)),
    "keygen mac --add": Case(["keygen", "mac", "mac", "--add"], mac_keys("mac", 2), repeats=True),
    "keygen publisher": Case(["keygen", "publisher", "new", "--no-passphrase"], pair_fits),
    "sign (manifest)": Case(SIGN, signed),
    "sign --force": Case([*SIGN, "--force"], signed, repeats=True, prepare=make_release),
    "sign --mac-key": Case(["sign", "db", "--mac-key", "mac"], has_tags("db"), repeats=True, in_place=True),
    "sign --out": Case(["sign", "db", "--mac-key", "mac", "--out", "new"], has_tags("new")),
    "untag": Case(
        ["untag", "db", "--mac-key", "mac", "--out", "new"],
        succeeds("audit", "new", "--no-fickling", "--workers", "1"),
        prepare=prepared(["sign", "db", "--mac-key", "mac"]),
    ),
    "convert": Case(["convert", "db", "new"], succeeds("audit", "new", "--no-fickling", "--workers", "1")),
    "encode": Case(
        ["encode", "new", "--s2", "s2", "--workers", "1"], succeeds("audit", "new", "--no-fickling", "--workers", "1")
    ),
    "publish": Case(
        ["publish", "db", "new", "--signing-key", "key", *RELEASE],
        succeeds("verify", "new/a.lmdb", "--verify-key", "key.pub", *RELEASE),
    ),
    "audit --output": Case(HTML, exists("report", b"<!DOCTYPE html>")),
    "audit --output --force": Case(
        [*HTML, "--force"],
        exists("report", b"<!DOCTYPE html>"),
        repeats=True,
        prepare=lambda place: (place / "report").write_bytes(b"old"),
    ),
    "show": Case(["show", "db", "a", "-o", "new.png"], exists("new.png", b"\x89PNG")),
    "demo": Case(["demo", "new"], lambda place: (place / "new" / "attacked.lmdb").exists()),
    "append": Case(
        ["append", "db", "more"],
        succeeds("inspect", "db", "c"),
        prepare=lambda place: write_patches(place / "more", "c"),
    ),
    "audit --shard": Case(
        ["audit", "db", "--no-fickling", "--workers", "1", "--shard", "1/1", "--output", "part"], exists("part", b"{")
    ),
    "PatchWriter(append=True)": Case([APPEND], lambda place: succeeds("inspect", "db", "c")(place), repeats=True),
}


@dataclass(frozen=True)
class Done:
    """The end of a process, and its output on stderr."""

    returncode: int
    stderr: bytes


def command(arguments: list[str], place: Place, prefix: list[str] | None = None) -> Done:
    """Run the program, or a script, in a place: under another program, or in a fork of this process (it is faster)."""
    if prefix is not None or os.environ.get("LD_PRELOAD"):
        program = ["-c", *arguments] if arguments == [APPEND] else ["-m", "ben_secure", *arguments]
        tests = str(Place(__file__).parent.parent)
        found = {"PYTHONPATH": os.pathsep.join([*sys.path, tests]), "PYTHONDONTWRITEBYTECODE": "1"}
        line = [*(prefix or []), sys.executable, *program]
        run = subprocess.run(line, cwd=place, capture_output=True, check=False, env=os.environ | found)
        return Done(run.returncode, run.stderr)
    with tempfile.TemporaryFile() as error:
        child = os.fork()
        if child == 0:
            status = 3
            try:
                os.chdir(place)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                os.dup2(error.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
                status = exec(APPEND) or 0 if arguments == [APPEND] else main_of_program(arguments)
                sys.stderr.flush()
            except SystemExit as stop:
                status = stop.code
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        error.seek(0)
        return Done(status, error.read())


def write_patches(path: Place, *names: str) -> None:
    """Write a database of patches."""
    with PatchWriter(path) as writer:
        for seed, name in enumerate(names):
            writer[name] = make_patch(seed=seed)


def make_place(place: Place) -> None:
    """Make the input of the commands."""
    write_patches(place / "db", "a", "b")
    write_key_pair(place / "key", place / "key.pub", SigningKey.generate())
    write_mac_keys(place / "mac", MacKeySet(MacKey.generate()))
    geotiffs.make_pairs(place, 2)


def content(place: Place) -> dict[str, bytes]:
    """All files by path, and folders; lock files of liblmdb have no content."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else b"a folder"
        for path in sorted(place.rglob("*"))
        if path.name != "lock.mdb"
    }


def hidden(place: Place) -> list[str]:
    """The remains of writers."""
    return [str(path.relative_to(place)) for path in place.rglob("*") if path.name.startswith(".")]


def points(case: Case, model: Place) -> dict[str, int]:
    """Count the calls of each kind that the command makes."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder) / "place"
        shutil.copytree(model, place)
        trace = Place(folder) / "trace"
        tracing = ["strace", "-f", "-qq", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
        done = command(case.arguments, place, tracing)
        assert done.returncode == 0, done.stderr
        return collections.Counter(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE))


def judged(case: Case, model: Place, call: str, number: int, fault: str) -> str:
    """Let one call fail, run the command again, and describe the result in a few words."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(folder) / "place"
        shutil.copytree(model, place)
        before = content(place)
        what = f"signal={fault}" if fault in ("KILL", "INT") else f"error={fault}"
        inject = f"trace={call}", "-e", f"inject={call}:{what}:when={number}"
        first = command(case.arguments, place, ["strace", "-f", "-qq", "-o", "/dev/null", "-e", *inject])
        killed = first.returncode in (-9, 137)
        if killed != (fault == "KILL") or first.returncode not in (0, 2, 130, -9, 137):
            return f"BAD: ended with {first.returncode}: {first.stderr[-300:]!r}"
        left = hidden(place)
        complete = case.complete(place)
        after = content(place)
        same = after.keys() == before.keys() if case.in_place else after == before
        if not killed and first.returncode and not complete and not same and not left:
            return f"BAD: it failed and left {sorted(after.keys() ^ before.keys())}: {first.stderr[-300:]!r}"
        if not killed and first.returncode == 0 and not complete:
            return "BAD: it said that all is well"
        if not killed and left and b"kept in" not in first.stderr:
            return f"BAD: it left {left}"
        second = command(case.arguments, place)
        refused = (
            complete and not case.repeats and second.returncode == 2 and any(word in second.stderr for word in REFUSES)
        )
        if second.returncode and not refused:
            return f"BAD: the repetition ended with {second.returncode}: {second.stderr[-300:]!r}"
        if not case.complete(place) or hidden(place):
            return f"BAD: after the repetition it is {case.complete(place)}, and {hidden(place)} is left"
        ended = {0: "done in spite of it", 2: "refused", 130: "interrupted"}.get(first.returncode, "killed")
        again = "was complete, said so" if refused else "completes"
        return f"{ended}; again: {again}"


def table(names: list[str], faults: list[str], every: int = 1) -> Iterator[tuple[str, str, str, Outcomes]]:
    """Judge commands at every so-many-th point.

    Args:
        names: Of cases.
        faults: Of ``FAULTS``.
        every: 1 for all points.

    Yields:
        Case, call, fault, and how often what happened.
    """
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            model = Place(folder)
            make_place(model)
            CASES[name].prepare(model)
            for call, count in sorted(points(CASES[name], model).items()):
                for fault in faults:
                    numbers = range(1, count + 1, every)
                    yield (
                        name,
                        call,
                        fault,
                        collections.Counter(judged(CASES[name], model, call, number, fault) for number in numbers),
                    )


def whole_table(name: str, faults: list[str], every: int) -> list[tuple[str, str, str, Outcomes]]:
    """The table of one command, for a process of its own."""
    return list(table([name], faults, every))


def main() -> int:
    """Print the table; 1 if something is bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(CASES))
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    arguments = parser.parse_args()
    names = sorted(arguments.commands or CASES, key=lambda name: name not in ("demo", "publish"))  # the longest first
    rows = functools.partial(whole_table, faults=arguments.fault or [*FAULTS], every=arguments.every)
    begin, total, bad = time.monotonic(), 0, 0
    with multiprocessing.get_context("fork").Pool(arguments.jobs) as pool:
        for name, call, fault, outcomes in itertools.chain.from_iterable(pool.imap_unordered(rows, names)):
            for outcome, count in sorted(outcomes.items()):
                total += count
                bad += count * outcome.startswith("BAD")
                print(f"{name:24}{call:12}{fault:8}{count:4}  {outcome}", flush=True)
    print(f"{total} points in {time.monotonic() - begin:.0f} s, bad: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
