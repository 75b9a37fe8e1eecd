"""Every block of the README and of the recipes is run, and prints what it says."""

import importlib.util
import pathlib
import re
import shlex
import shutil
import sys
import types

import pytest

from ben_secure import cli
from support import geotiffs

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RECIPES = [(ROOT / "docs" / name).read_text() for name in ("training.md", "publishing.md")]
HAS_TORCH = importlib.util.find_spec("torch") is not None


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of each block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


BLOCKS = blocks(README)


def run_python(source: str, names: dict[str, object]) -> None:
    if HAS_TORCH or not ("torch" in source or "dataset" in source):
        exec(compile(source, "README.md", "exec"), names)


def run_console(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run each ``$`` line and compare what it prints with what stands below it."""
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
        command, _, target = command.partition(" > ")
        program, *arguments = shlex.split(command)
        assert program == "ben-secure"
        capsys.readouterr()
        code = cli.main(arguments)
        printed = capsys.readouterr().out
        assert code == 0, printed
        if target:
            pathlib.Path(target).write_text(printed)
        for line in expected.splitlines():
            assert line.rstrip() in [found.rstrip() for found in printed.splitlines()], printed


def make_input(folder: pathlib.Path) -> None:
    """What the text takes for granted: folders of GeoTIFFs, and a table with a row for one of the patches."""
    names = geotiffs.make_pairs(folder)
    (folder / "s1").rename(folder / "BigEarthNet-S1")
    (folder / "s2").rename(folder / "BigEarthNet-S2")
    (folder / "table.csv").write_text(f"patch_id,country\n{names[0]},Finland\n")


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    """Python blocks run in order in one namespace, console blocks print what they show; then the recipes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    module = types.ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    names = vars(module)
    make_input(tmp_path)
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("python") >= 3
    assert kinds.count("console") >= 1
    run(BLOCKS, names, capsys)
    for made in ("publisher.pem", "publisher.pem.pub", "team.jwks"):
        (tmp_path / made).unlink()
    shutil.rmtree(tmp_path / "tagged.lmdb")
    for recipe in RECIPES:
        found = blocks(recipe)
        assert len(found) >= 5
        run(found, names, capsys)
    assert (tmp_path / "release" / "RELEASE.md").exists()


def run(found: list[tuple[str, str]], names: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """Run blocks in order; ``sh`` blocks are those of the installation, which CI runs."""
    for kind, text in found:
        if kind == "python":
            run_python(text, names)
        elif kind == "console":
            run_console(text, capsys)
        else:
            assert kind == "sh", f"no way to run a {kind} block"


def test_the_two_commands_are_those_of_ci():
    """The README's install-and-run and install-and-test commands are there, and CI runs the second to the letter."""
    commands = [text.strip() for kind, text in BLOCKS if kind == "sh"]
    run_it, test_it, extras = commands
    assert (run_it, test_it) == ("pip install . && ben-secure demo", "pip install '.[test]' && pytest")
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.fullmatch(r"pip install '\.\[([a-z,]+)\]'", extras)[1].split(","):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    assert f"\n{commands[1]}\n" in (ROOT / ".ci" / "run").read_text()


def test_links_lead_somewhere():
    """Every relative link of the README names a file of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
