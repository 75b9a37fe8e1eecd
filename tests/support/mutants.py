"""Mutation of the lines that security rests on, by hand: ``python tests/support/mutants.py --count 150 --seed 1``.

A mutant is the package with one change: a comparison turned or moved by one, a guard that never fires, an ``and`` that
is an ``or``, a check or a sync that is not called. The tests must notice. Mutants that survive are printed with their
line; each needs a test, or an argument why no behaviour differs (``mutants.md``, beside this file). The checkout is not
touched: the package and the tests are copied to a temporary folder first.

A mutant is shown the test files of its module first, and with ``--quick`` no others. ``--rerun LOG`` tries the
survivors of an earlier run again, with all test files of their room. A test that notices must pass without the mutant.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

CHECKOUT = pathlib.Path(__file__).resolve().parents[2]

#: Room, and the test files that must notice a change in it.
ROOMS = {
    "pickles": "machine legacy pickle_names arrays templates unpickler hostile clean_law",
    "metadata.py": "metadata machine legacy hostile clean_law",
    "values.py": "values tensors clean_law hostile",
    "pages": "pages structure reader remote",
    "signing": "footer tags manifest envelope statement keys verification digests sign cli_verify cli_sign cli_keygen",
    "store": "writer reader pairs append sign rewrite convert verification cli_sign cli_verify cli_convert publish",
    "tensors": "tensors values cli_tensors hostile",
    "audit/judge": "audit remarks programs run explain workers hostile",
    "audit/structure": "structure run cluster",
    "_system": "files file_systems interrupts writer outputs exposure forks workers",
}
#: Modules whose own test file has another name.
NEAR = {
    "pickles/names": "pickle_names", "pickles/records": "machine", "pickles/loader": "templates machine clean_law",
    "pages/reader": "pages", "pages/_snapshot": "pages", "pages/_nodes": "pages", "pages/_meta": "pages",
    "pages/_census": "structure pages", "pages/_accounts": "structure pages", "pages/data_file": "pages",
    "signing/tags": "tags gmac_tags", "_record_list": "manifest manifest_v2", "signing/policy": "verification",
    "_mac_keys": "keys gmac_tags", "_keyfiles": "keys", "signing/_kinds": "verification", "publisher/files": "forms",
    "store/_released": "append cli_sign", "store/_names": "reader clean_law", "store/_environment": "writer",
    "change/verify": "cli_verify digests", "change/tag": "cli_sign", "change/in_place": "rewrite cli_sign",
    "tensors/header": "tensors", "tensors/note": "tensors", "tensors/reading": "tensors", "tensors/writing": "tensors",
    "judge/scan": "audit", "judge/names": "audit", "judge/formats": "audit", "structure/identity": "structure run",
    "structure/checks": "structure", "_verify_worker": "structure", "_system/appear": "files file_systems writer",
    "_system/naming": "files file_systems", "_system/locks": "file_systems", "_system/causes": "writer file_systems",
    "_system/files": "files outputs keys",
}  # fmt: skip
_QUIET = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what is imported already
_HEAVY = "pytest hypothesis numpy lmdb click rich.console rich.table cryptography.hazmat.primitives.asymmetric.ed25519"

_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
}  # fmt: skip
_CALLS = ("check", "verify", "require", "refuse", "fsync", "sync", "ensure", "confirm")


class Mutant(NamedTuple):
    """One change: file, lines of the statement (from 1), text before and after, offset in the file."""

    path: pathlib.Path
    lines: range
    start: int
    old: str
    new: str

    @property
    def context(self) -> str:
        """The first line of the changed text, by which a mutant is found again in another revision."""
        source = self.path.read_bytes()
        return source[source.rfind(b"\n", 0, self.start) + 1 :].split(b"\n", 1)[0].decode().strip()


class Mutator(ast.NodeVisitor):
    """Collects the mutants of one file; messages, ``__repr__`` and what is for type checkers are left alone."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.source, self.mutants = path, path.read_bytes(), list[Mutant]()
        self.starts, self.lines = [0], range(0)
        for line in self.source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.visit(ast.parse(self.source))

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            self.lines = range(
                node.lineno, max(node.lineno + 1, body[0].lineno if body else (node.end_lineno or 0) + 1)
            )
        super().visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name != "__repr__":
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        pass

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) == "TYPE_CHECKING":
            return
        refusal = isinstance(node.body[0], ast.Return) and isinstance(node.body[0].value, ast.Constant | None)
        if refusal or any(isinstance(step, ast.Raise) for step in node.body):
            self._replace(node.test, "False")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        left = node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            self._between(left, right, *_COMPARISONS[type(operator)])
            left = right
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        if len(node.values) == 2:
            self._between(node.values[0], node.values[1], *words)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        called = node.value.func if isinstance(node.value, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name.lstrip("_").startswith(_CALLS):
            self._replace(node, "pass")
        self.generic_visit(node)

    def _replace(self, node: ast.expr | ast.stmt, text: str) -> None:
        self._add(*self._span(node), text)

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        start, stop = self._span(left)[1], self._span(right)[0]
        text = self.source[start:stop].decode()
        if text.count(old) == 1:
            self._add(start, stop, text.replace(old, new))

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        first = self.starts[node.lineno - 1] + node.col_offset
        return first, self.starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def _add(self, start: int, stop: int, text: str) -> None:
        self.mutants.append(Mutant(self.path, self.lines, start, self.source[start:stop].decode(), text))


def tests_of(path: pathlib.Path, work: pathlib.Path, quick: bool) -> list[str]:
    """The test files that must notice a change in a module, the nearest first; ``quick`` for these alone."""
    module = path.relative_to(work / "ben_secure").with_suffix("").as_posix()
    near = next((tests for name, tests in NEAR.items() if module.endswith(name)), module.rsplit("/")[-1].strip("_"))
    room = next(tests for room, tests in ROOMS.items() if path.is_relative_to(work / "ben_secure" / room))
    names = dict.fromkeys(near.split() if quick else [*near.split(), *room.split()])
    return [f"tests/test_{name}.py" for name in names]


def pytest(work: pathlib.Path, arguments: list[str], seconds: int) -> tuple[bool, str]:
    """Run tests in a fork of this process, which has imported what takes long; whether they pass, and the last line."""
    with tempfile.TemporaryFile("w+", errors="replace") as output, tempfile.TemporaryDirectory() as base:
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.setsid()
                os.chdir(work)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
                os.environ |= {"PYTHONPATH": str(work), "HYPOTHESIS_PROFILE": "ci"}
                sys.path[:0] = [str(work), str(work / "tests")]
                options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", f"--basetemp={base}/t", *_QUIET]
                code = int(importlib.import_module("pytest").main([*options, *arguments]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # processes that a test has left running
        output.seek(0)
        lines = output.read().strip().splitlines() or [f"ended with {ended}"]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return ended == 0, (failures or lines[-1:])[0]


def killed(work: pathlib.Path, mutant: Mutant, seconds: int, quick: bool) -> tuple[bool, str]:
    """Whether a test notices the mutant, and how."""
    before = mutant.path.read_bytes()
    stop = mutant.start + len(mutant.old.encode())
    try:
        write(mutant.path, before[: mutant.start] + mutant.new.encode() + before[stop:])
        passed, last = pytest(work, tests_of(mutant.path, work, quick), seconds)
    finally:
        write(mutant.path, before)
    return not passed, last


def write(path: pathlib.Path, content: bytes) -> None:
    """Write a module with a time that it has not had, so that no older bytecode passes for its own."""
    then = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(then + 10**10, then + 10**10))


def logged(log: pathlib.Path) -> set[tuple[str, str, str, str]]:
    """The survivors of an earlier run: path, line of source, old text and new text."""
    pattern = r"SURVIVED (\S+):\d+ (.*) (\".*\"|'.*') -> (\".*\"|'.*') \["
    found = (re.match(pattern, line) for line in log.read_text().splitlines())
    return {(m[1], ast.literal_eval(m[2]), ast.literal_eval(m[3]), ast.literal_eval(m[4])) for m in found if m}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=300, help="of the processor; anything longer is noticed")
    parser.add_argument("--room", choices=ROOMS, action="append", help="only this room")
    parser.add_argument("--quick", action="store_true", help="only the test files of the module itself")
    parser.add_argument("--rerun", type=pathlib.Path, metavar="LOG", help="only the survivors in the output of a run")
    options = parser.parse_args()
    for name in _HEAVY.split():
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        work = pathlib.Path(folder).resolve()
        for name in ("ben_secure", "tests", "benchmarks", "docs"):
            shutil.copytree(CHECKOUT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        for file in (*CHECKOUT.glob("*.md"), *map(CHECKOUT.joinpath, ("pyproject.toml", "LICENSE", "mkdocs.yml"))):
            shutil.copy(file, work)
        return run(work, chosen(work, options), options)


def chosen(work: pathlib.Path, options: argparse.Namespace) -> list[Mutant]:
    """The mutants to try."""
    mutants: list[Mutant] = []
    for room in options.room or ROOMS:
        place = work / "ben_secure" / room
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            mutants += Mutator(file).mutants
    if options.rerun:
        again = logged(options.rerun)
        return [m for m in mutants if (str(m.path.relative_to(work)), m.context, m.old, m.new) in again]
    return random.Random(options.seed).sample(mutants, min(options.count, len(mutants)))


def run(work: pathlib.Path, mutants: list[Mutant], options: argparse.Namespace) -> int:
    """Try the mutants; 1 if one survives."""
    survivors, sound = 0, set[str]()
    if not pytest(work, ["tests/test_footer.py"], options.seconds)[0]:
        raise SystemExit("no tests can be run here")
    for mutant in mutants:
        began, context = time.monotonic(), mutant.context
        noticed, last = killed(work, mutant, options.seconds, options.quick)
        test = last.removeprefix("FAILED ").split(" - ")[0]
        if last.startswith("FAILED ") and test not in sound:
            passed, _ = pytest(work, [test], options.seconds)
            if not passed:
                raise SystemExit(f"{test} fails without a mutant")
            sound.add(test)
        survivors += not noticed
        where = f"{mutant.path.relative_to(work)}:{mutant.lines.start}"
        word = "killed  " if noticed else "SURVIVED"
        seconds = time.monotonic() - began
        print(
            f"{word} {where} {context!r} {mutant.old!r} -> {mutant.new!r} [{seconds:.0f} s; {last[:120]}]", flush=True
        )
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants killed")
    return min(survivors, 1)


if __name__ == "__main__":
    sys.exit(main())
