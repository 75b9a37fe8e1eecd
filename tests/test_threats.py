"""Each row of threat_model.md has a test, and each test that names a row names one that exists."""

import ast
import functools
import gc
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def rows() -> dict[str, str]:
    """Rows of the table of threats by id."""
    lines = (ROOT / "threat_model.md").read_text("utf-8").splitlines()
    return {match[1]: line for line in lines if (match := re.match(r"\| (T\d+) \|", line))}


def decorated(body: list[ast.stmt], marks: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The marks of each test below: its own, those of its class and those of its module."""
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            marks += (ast.unparse(node.value),)
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            own = marks + tuple(map(ast.unparse, node.decorator_list))
            if isinstance(node, ast.ClassDef):
                yield from decorated(node.body, own)
            elif node.name.startswith("test_"):
                yield own


def parsed(path: pathlib.Path) -> list[ast.stmt]:
    """The statements of a module. CPython 3.11 fails if a finalizer parses, too, as that of a traceback does."""
    gc.disable()
    try:
        return ast.parse(path.read_text("utf-8")).body
    finally:
        gc.enable()


@functools.cache
def marked(*, slow: bool) -> dict[str, set[str]]:
    """Names of the test modules by the id that a mark, or a case of the attack corpus, names; with slow ones or not."""
    found: dict[str, set[str]] = {}
    for path in pathlib.Path(__file__).parent.glob("*.py"):
        for marks in decorated(parsed(path)):
            if "pytest.mark.slow" in marks and not slow:
                continue
            for threat in re.findall(r"threat\('(T\d+)'\)", " ".join(marks)):
                found.setdefault(threat, set()).add(path.stem)
        if ".threat)" in path.read_text("utf-8"):  # one mark for each attack of the corpus, by its own id
            from support import attacks

            for attack in attacks.ATTACKS:
                found.setdefault(attack.threat, set()).add(path.stem)
    return found


def test_every_row_has_a_test_and_every_test_a_row():
    """The ids of the table and the ids in the tests are the same; each has a test that the README's command runs."""
    assert set(rows()) == set(marked(slow=True)) == set(marked(slow=False))


@pytest.mark.parametrize("threat", rows())
def test_a_row_names_modules_that_test_it(threat):
    """The modules in the column of tests exist, and one of them carries the mark."""
    named = set(re.findall(r"`(test_\w+|fuzz_core)`", rows()[threat]))
    assert named
    assert all(list((ROOT / "tests").rglob(f"{name}.py")) for name in named)
    assert named & marked(slow=True)[threat]
