"""The blocks of the documentation's pages, and a reader who runs them in order."""

import importlib.util
import os
import pathlib
import re
import shlex
import subprocess
import sys
import types
from dataclasses import dataclass

import ben_secure
from ben_secure import cli

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGES = sorted(
    str(path.relative_to(ROOT))
    for folder in ("*", ".github/*", "docs/**/*", "packaging/**/*")
    for path in ROOT.glob(f"{folder}.md")
)
HAS_TORCH = importlib.util.find_spec("torch") is not None
ROUTES = frozenset("|<>$;&*`()#\\\n")
"""A command with one of these needs a shell."""

_BLOCK = re.compile(r"(?:^<!-- not run: (\S.*?) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block: its language, its text, and why no test runs it (None if a test does)."""

    kind: str
    text: str
    reason: str | None


def parse(text):
    """The blocks of a text in Markdown."""
    return [Block(kind, content, reason or None) for reason, kind, content in _BLOCK.findall(text)]


def blocks(page):
    """The blocks of a page of the repository."""
    return parse((ROOT / page).read_text("utf-8"))


def to_run(page):
    """The blocks of a page that are not marked."""
    return [block for block in blocks(page) if block.reason is None]


def fences(page):
    """How many lines of a page open or close a block, in any form."""
    return len(re.findall(r"^\s*(?:```|~~~)", (ROOT / page).read_text("utf-8"), re.MULTILINE))


def command(folder):
    """Make a folder with the program ``ben-secure``, wherever the package is imported from."""
    path = f"{pathlib.Path(ben_secure.__file__).parent.parent}:$PYTHONPATH"
    folder.mkdir(parents=True)
    program = folder / "ben-secure"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec "{sys.executable}" -m ben_secure "$@"\n')
    program.chmod(0o700)
    return folder


class Reader:
    """Someone who types the blocks of pages into a terminal and a Python session, in one folder."""

    def __init__(self, folder, monkeypatch, capsys):
        """Go to an empty home."""
        self.capsys = capsys
        self.module = types.ModuleType("page")
        monkeypatch.chdir(folder)
        monkeypatch.setitem(sys.modules, "page", self.module)
        monkeypatch.setenv("HOME", str(folder))
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("PATH", f"{command(folder.parent / f'{folder.name}-programs')}:{os.environ['PATH']}")

    def run(self, page):
        """Run the blocks of a page in order."""
        for block in to_run(page):
            if block.kind == "python":
                self.python(block.text, page)
            elif block.kind == "console":
                self.console(block.text)
            else:
                raise AssertionError(
                    f"{page}: no way to run a block of kind {block.kind!r}; say why: <!-- not run: ... -->"
                )

    def python(self, source, page):
        """Run a block in the session. Without torch, the blocks that need it are left out."""
        if HAS_TORCH or not re.search(r"^[^#\n]*(torch|dataset)", source, re.MULTILINE):
            exec(compile(source, page, "exec"), vars(self.module))

    def console(self, text):
        """Run each ``$`` line, and compare its output with the lines below it.

        A shown line has to be among the printed ones; the width of columns may differ. A command has to end with 0,
        unless ``echo $?`` follows it.
        """
        code, printed = 0, ""
        for line, shown in _COMMAND.findall(text):
            if line == "echo $?":
                code, printed = 0, f"{code}\n"
            else:
                assert code == 0, printed
                code, printed = self._type(line)
            lines = [row.split() for row in printed.splitlines()]
            for expected in shown.splitlines():
                assert expected.split() in lines, f"{line}\n{expected}\n{printed}"
        assert code == 0, printed

    def _type(self, line):
        """Run one command and return its exit code and output."""
        if line.startswith("ben-secure ") and not ROUTES.intersection(line):
            self.capsys.readouterr()
            code = cli.main([os.path.expanduser(argument) for argument in shlex.split(line)[1:]])
            return code, "".join(self.capsys.readouterr())
        found = subprocess.run(["bash", "-c", line], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return found.returncode, found.stdout + found.stderr
