"""Files around the package: the manual page, completions, images, the recipe, the action."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import ben_secure
from ben_secure.cli import main
from support.documents import ROOT, command

PACKAGING = ROOT / "packaging"
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The files that the script makes, below a prefix."""
    folder = tmp_path_factory.mktemp("prefix")
    paths = {"PYTHONPATH": f"{pathlib.Path(ben_secure.__file__).parent.parent}:{os.environ.get('PYTHONPATH', '')}"}
    script = [sys.executable, str(PACKAGING / "manual.py"), str(folder)]
    subprocess.run(script, check=True, capture_output=True, env={**os.environ, **paths})
    return folder / "share"


def listed(*arguments, capsys):
    """Commands and options that a help lists."""
    main([*arguments, "--help"])
    text = capsys.readouterr().out
    commands = re.search(r"^Commands:\n((?:  .*\n)*)", text, re.MULTILINE)
    return re.findall(r"^  (\w\S*)", commands[1], re.MULTILINE) if commands else [], re.findall(
        r"^ +(?:-\w, )?(--[a-z0-9-]+)", text, re.MULTILINE
    )


def test_the_manual_has_every_command_and_option(made, capsys):
    """Whatever the help lists is on the page."""
    page = (made / "man/man1/ben-secure.1").read_text("utf-8").replace("\\-", "-")
    commands, _ = listed(capsys=capsys)
    assert len(commands) > 10
    for name in commands:
        nested, options = listed(name, capsys=capsys)
        for inner in nested or [""]:
            arguments = [name, inner] if inner else [name]
            section = page.partition(f".SS ben-secure {' '.join(arguments)} [options]")[2].partition("\n.S")[0]
            options = listed(*arguments, capsys=capsys)[1]
            assert [option for option in options if option != "--help" and f"\\fB{option}\\fR" not in section] == []
            assert section


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_the_manual_is_sound(made):
    """groff finds nothing to warn of, and prints the first sentence."""
    page = ["groff", "-man", "-Tascii", "-ww", str(made / "man/man1/ben-secure.1")]
    found = subprocess.run(page, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "audit and publish" in found.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"), [("ben-secure pub", "publish"), ("ben-secure audit --fail-", "--fail-on")]
)
def test_bash_completes(made, tmp_path, words, expected):
    """The completion file gives the same completions as the Tab key."""
    file = made / "bash-completion/completions/ben-secure"
    *before, last = words.split()
    script = f"""
        complete() {{ true; }}; compopt() {{ true; }}
        source {shlex.quote(str(file))}
        COMP_WORDS=({words}); COMP_CWORD={len(before)}
        _ben_secure_completion ben-secure {last} {before[-1]}
        echo "${{COMPREPLY[@]}}"
    """
    path = {"PATH": f"{command(tmp_path / 'bin')}:{os.environ['PATH']}"}
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={**os.environ, **path})
    assert found.stdout.split() == [expected], found.stderr


def test_both_images_install_the_same():
    """The install command of the Dockerfile is that of the Apptainer definition, with an extra that exists."""
    installs = [
        re.search(r"/opt/ben-secure/bin/pip install .*", (PACKAGING / name).read_text("utf-8"))[0]
        for name in ("Dockerfile", "apptainer.def")
    ]
    assert installs[0] == installs[1]
    for extra in re.search(r"\[([a-z,]+)\]", installs[0])[1].split(","):
        assert re.search(rf"^{extra} = \[", PROJECT, re.MULTILINE), extra


def test_both_images_have_what_the_build_needs():
    """The files that go into an image exist, and are those that pyproject.toml names."""
    ignored = (PACKAGING / "Dockerfile.dockerignore").read_text("utf-8")
    allowed = re.findall(r"^!(\S+)", ignored, re.MULTILINE)
    copied = re.findall(r"^    (\S+) /src/\1$", (PACKAGING / "apptainer.def").read_text("utf-8"), re.MULTILINE)
    assert sorted(allowed) == sorted(copied) == ["LICENSE", "README.md", "ben_secure", "pyproject.toml"]
    assert all((ROOT / name).exists() for name in allowed)


def test_the_recipe_has_the_requirements_of_the_package():
    """conda installs what pip installs, under its names."""
    names = {"lmdb": "python-lmdb", "typing-extensions": "typing_extensions"}
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", PROJECT, re.DOTALL | re.MULTILINE)[1]
    expected = {"python >=3.10"}
    for name, least in re.findall(r'^  "([\w-]+)(>=[\d.]+)?', listed, re.MULTILINE):
        expected.add(f"{names.get(name, name)} {least}".strip())
    recipe = (PACKAGING / "conda/meta.yaml").read_text("utf-8")
    for part, more in (("host", {"pip", "hatchling >=1.24"}), ("run", set())):
        found = re.search(rf"^  {part}:\n((?:    - .*\n)*)", recipe, re.MULTILINE)[1]
        assert {*re.findall(r"- (.*)", found)} == expected | more


def test_the_citation_has_the_version():
    """The version has one place, ben_secure/__init__.py; the citation repeats it."""
    assert f"\nversion: {ben_secure.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert 'dynamic = ["version"]' in PROJECT


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_action_ends_as_the_audit_does(tmp_path, monkeypatch):
    """The script of its last step writes the report and ends with 0, or with 1 if something is refused."""
    yaml = pytest.importorskip("yaml")
    steps = yaml.safe_load((PACKAGING / "action/action.yml").read_text("utf-8"))["runs"]["steps"]
    step = steps[-1]
    assert {*step["env"]} == {*re.findall(r"\$(AUDIT_\w+)", step["run"])}
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "tour"]) == 0
    command(tmp_path / "ben-secure" / "bin")
    for database, code in (("honest", 0), ("attacked", 1)):
        environment = {"AUDIT_PATH": f"tour/{database}.lmdb", "AUDIT_FORMAT": "sarif", "AUDIT_FAIL_ON": "error",
                       "AUDIT_OUTPUT": f"{database}.sarif", "RUNNER_TEMP": str(tmp_path)}  # fmt: skip
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        found = subprocess.run(shell, env={**os.environ, **environment}, capture_output=True, text=True)
        assert found.returncode == code, found.stderr
        assert (tmp_path / f"{database}.sarif").read_text("utf-8").startswith("{")
