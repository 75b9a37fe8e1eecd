"""Mutation of the lines that security rests on, by hand: ``python tests/support/mutants.py --count 150 --seed 1``.

A mutant is the package with one change: a comparison turned or moved by one, a guard that never fires, an ``and`` that
is an ``or``, a check or a sync that is not called. The tests of its room must notice. Mutants that survive are printed
with their line; each needs a test, or an argument why no behaviour differs. The checkout is not touched: the package
and the tests are copied to a temporary folder first.
"""

from __future__ import annotations

import argparse
import ast
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]

#: Room, and the test files that must notice a change in it, the quickest and nearest first.
ROOMS = {
    "pickles": "machine legacy unpickler pickle_names templates hostile arrays metadata values",
    "metadata.py": "metadata hostile legacy machine",
    "values.py": "values tensors hostile",
    "pages": "pages structure reader",
    "signing": "footer tags gmac_tags manifest envelope keys digests verification cli_keygen cli_sign cli_verify sign",
    "store": "writer reader pairs sign rewrite verification cli_convert publish files",
    "tensors": "tensors values hostile cli_tensors",
    "audit/judge": "audit remarks run workers hostile explain",
    "audit/structure": "structure pages run",
    "_system": "files interrupts writer",
}

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.In: "not in", ast.NotIn: "in", ast.Is: "is not", ast.IsNot: "is",
}  # fmt: skip
_TEXTS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
    ast.In: "in", ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not",
}  # fmt: skip
_CALLS = ("check", "verify", "require", "refuse", "fsync", "sync", "ensure", "confirm")


class Mutant(NamedTuple):
    """One change: the file, the line (from 1), and its text before and after, offsets in the file."""

    path: pathlib.Path
    line: int
    start: int
    stop: int
    text: str


def mutants_of(path: pathlib.Path) -> Iterator[Mutant]:
    """All mutants of one file."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    def replaced(node: ast.expr | ast.stmt, text: str) -> Mutant:
        start, stop = at(node.lineno, node.col_offset), at(node.end_lineno or 0, node.end_col_offset or 0)
        return Mutant(path, node.lineno, start, stop, text)

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and _is_guard(node):
            yield replaced(node.test, "False")
        elif isinstance(node, ast.Compare):
            left = node.left
            for operator, right in zip(node.ops, node.comparators, strict=True):
                start, stop = at(left.end_lineno or 0, left.end_col_offset or 0), at(right.lineno, right.col_offset)
                between, text = source[start:stop].decode(), _TEXTS[type(operator)]
                if between.count(text) == 1:
                    changed = between.replace(text, _COMPARISONS[type(operator)])
                    yield Mutant(path, left.end_lineno or 0, start, stop, changed)
                left = right
        elif isinstance(node, ast.BoolOp):
            first, second = node.values[:2]
            start, stop = at(first.end_lineno or 0, first.end_col_offset or 0), at(second.lineno, second.col_offset)
            between, word = source[start:stop].decode(), "and" if isinstance(node.op, ast.And) else "or"
            if between.count(word) == 1 and len(node.values) == 2:
                changed = between.replace(word, "or" if word == "and" else "and")
                yield Mutant(path, node.lineno, start, stop, changed)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            if name.lstrip("_").startswith(_CALLS):
                yield replaced(node, "pass")


def _is_guard(node: ast.If) -> bool:
    """Whether the branch refuses: raises, or returns a refusal."""
    return any(isinstance(step, ast.Raise) for step in node.body) or (
        isinstance(node.body[0], ast.Return) and isinstance(node.body[0].value, ast.Constant | None)
    )


def noticed(work: pathlib.Path, tests: list[str], timeout: float) -> tuple[bool, str]:
    """Whether a test fails in ``work``, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    environment = {**os.environ, "PYTHONPATH": str(work), "HYPOTHESIS_PROFILE": "ci", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ended = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return True, "timeout"
    return ended.returncode != 0, (ended.stdout.strip().splitlines() or ["?"])[-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300, help="seconds; a mutant that takes longer is noticed")
    parser.add_argument("--room", choices=ROOMS, action="append", help="only this room")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name in ("ben_secure", "tests", "benchmarks", "docs"):
            shutil.copytree(CHECKOUT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (*CHECKOUT.glob("*.md"), CHECKOUT / "pyproject.toml", CHECKOUT / "LICENSE"):
            shutil.copy(file, work)
        return run(work, options.room or list(ROOMS), options.count, random.Random(options.seed), options.timeout)


def run(work: pathlib.Path, rooms: list[str], count: int, chance: random.Random, timeout: float) -> int:
    """Try ``count`` mutants of the rooms; the number of survivors."""
    tests, mutants = {}, []
    for room in rooms:
        place = work / "ben_secure" / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        tests[room] = [f"tests/test_{name}.py" for name in ROOMS[room].split()]
        mutants += [(room, mutant) for file in files for mutant in mutants_of(file)]
        fails, last = noticed(work, tests[room], 10 * timeout)
        if fails:
            raise SystemExit(f"{room}: its tests fail without a mutant: {last}")
    chosen = chance.sample(mutants, min(count, len(mutants)))
    survivors = 0
    for room, mutant in chosen:
        before, began = mutant.path.read_bytes(), time.monotonic()
        mutant.path.write_bytes(before[: mutant.start] + mutant.text.encode() + before[mutant.stop :])
        try:
            killed, last = noticed(work, tests[room], timeout)
        finally:
            mutant.path.write_bytes(before)
        survivors += not killed
        old = before[mutant.start : mutant.stop].decode()
        where = f"{mutant.path.relative_to(work)}:{mutant.line}"
        word = "killed  " if killed else "SURVIVED"
        print(f"{word} {where}: {old!r} -> {mutant.text!r} [{time.monotonic() - began:.0f} s; {last}]", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants killed, out of {len(mutants)} possible")
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main())
