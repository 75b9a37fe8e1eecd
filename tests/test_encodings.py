"""Terminals that cannot show every character, and paths that are not UTF-8: no command fails because of them."""

import os
import shlex
import subprocess
import sys

import pytest

from ben_secure import BigEarthNet_S2_Patch
from ben_secure.cli import main
from ben_secure.errors import counted
from support.databases import NAME, SHELL, make_database
from support.geotiffs import make_pairs
from support.locales import names_in_utf8
from support.strategies import make_patch

ODD = os.fsdecode(b"d\xff \xe9'")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with databases, GeoTIFFs and a table, all with names that are not UTF-8 and have a blank."""
    monkeypatch.chdir(tmp_path)
    try:
        os.mkdir(f"{ODD}.geotiffs")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    value = make_patch(BigEarthNet_S2_Patch, labels=["B\xe4ume \u20ac"]).dumps()
    make_database(tmp_path / "db", {NAME: value, b"B\xc3\xa4ume": value}).rename(ODD)
    make_database(tmp_path / "db", {NAME: SHELL}).rename(f"{ODD}.hostile")
    names = make_pairs(tmp_path / f"{ODD}.geotiffs", 1)
    (tmp_path / f"{ODD}.csv").write_text(f"patch_id,country\n{names[0]},Finland\n")
    (tmp_path / f"{ODD}.pairs.csv").write_text("patch_id,s1_name\nA,B\n")
    return tmp_path


COMMANDS = [
    ("keygen mac {}.jwks", 0),
    ("keygen publisher {}.pem --no-passphrase", 0),
    ("audit {} --format html --output {}.html", 0),
    ("audit {} --resume {}.state", 0),
    ("audit {} {}.hostile --format sarif --output {}.sarif", 1),
    ("inspect {}", 0),
    ("inspect {} Bäume", 0),
    ("inspect {}.hostile S2A_MSIL2A_20170613T101031_87_48 --disassemble", 1),
    ("stats {} --plot {}.stats.png", 0),
    ("show {} --output {}.png", 0),
    ("sign {} --mac-key {}.jwks --out {}.tagged", 0),
    ("verify {} --mac-key {}.jwks", 1),
    ("verify {}.tagged --mac-key {}.jwks", 0),
    ("untag {}.tagged --mac-key {}.jwks --out {}.bare", 0),
    ("sign {} --signing-key {}.pem --name Bäume --version 1", 0),
    ("verify {} --verify-key {}.pem.pub", 0),
    ("convert {} {}.new", 0),
    ("convert {} {}.pairs --pairs {}.pairs.csv", 1),
    ("publish {}.new {}.release --signing-key {}.pem --name Bäume --version 1", 0),
    ("encode --s2 {}.geotiffs/s2 --s1 {}.geotiffs/s1 --metadata {}.csv {}.encoded", 0),
    ("audit {}.missing", 2),
    ("inspect {}.missing", 2),
    ("show {} {} --output {}.2.png", 2),
]


def words(command):
    """The arguments of a command; each pair of braces is the odd name."""
    return [word.replace("{}", ODD) for word in command.split()]


@names_in_utf8
def test_paths_need_not_be_utf8(place, capsys):
    """Every command accepts such paths in every role, and prints only printable characters."""
    for command, exit_code in COMMANDS:
        assert main(words(command)) == exit_code, (command, capsys.readouterr())
        out, err = capsys.readouterr()
        assert "internal error" not in out + err
        (out + err).encode()  # no lone surrogates
    for made in ("html", "sarif", "stats.png", "png", "tagged", "bare", "new", "release", "encoded"):
        assert os.path.exists(f"{ODD}.{made}"), made
    with open(f"{ODD}.release/RELEASE.md", encoding="utf-8") as page:
        assert "## B\xe4ume 1" in page.read()


@pytest.mark.slow
@names_in_utf8
def test_paths_in_json_need_not_be_utf8(place, capsys):
    """With ``--json``, the output is one ASCII object, on stdout or in the report."""
    for command, exit_code in COMMANDS:
        if "--format" not in command:
            assert main([*words(command), "--json"]) == exit_code, (command, capsys.readouterr())
            out, err = capsys.readouterr()
            assert "internal error" not in out + err
            assert out.isascii()


RUN_ALL = """
import sys
from ben_secure.cli import main
for command in sys.argv[1].split("\\n"):
    exit_code = main([word.replace("{}", sys.argv[2]) for word in command.split()])
    print(f"exit code {exit_code}")
for command in ("", *"audit convert demo encode inspect keygen publish show sign stats untag verify".split()):
    main([*command.split(), "-h"])
"""


@pytest.mark.parametrize(
    ("encoding", "commands"),
    [("ascii", [command for command in COMMANDS if command[0].startswith("stats")])]
    + [pytest.param(name, COMMANDS, marks=pytest.mark.slow) for name in ("latin-1", "cp1252", "ascii", "utf-8")],
)
def test_stdout_may_be_in_any_encoding(place, encoding, commands):
    """Every command ends with its exit code where the terminal has hardly a character, and writes in its encoding."""
    command = [sys.executable, "-c", RUN_ALL, "\n".join(command for command, _ in commands), ODD]
    variables = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C.UTF-8", "FORCE_COLOR": "1"}
    done = subprocess.run(command, env=variables, capture_output=True, timeout=600)
    text = done.stdout.decode(encoding)
    assert [line for line in text.splitlines() if line.startswith("exit code ")] == [
        f"exit code {exit_code}" for _, exit_code in commands
    ]
    assert b"internal error" not in done.stderr
    assert b"Traceback" not in done.stderr
    assert ("\u2588" in text) == (encoding == "utf-8")


def test_a_command_that_is_suggested_can_be_pasted(place, capsys):
    """Into a shell, for a database of any name: it tags the database."""
    assert main(["keygen", "mac", "key"]) == 0
    assert main(["verify", ODD, "--mac-key", "key"]) == 1
    said = capsys.readouterr().out
    command = said[said.rindex("ben-secure sign") : said.rindex(" tags it")].replace("FILE", "key --out tagged")
    run_it = f'ben-secure() {{ {shlex.quote(sys.executable)} -m ben_secure "$@"; }}; {command}'
    assert subprocess.run(["bash", "-c", run_it], capture_output=True).returncode == 0
    assert main(["verify", "tagged", "--mac-key", "key"]) == 0
    assert counted(2, "value") in capsys.readouterr().out
