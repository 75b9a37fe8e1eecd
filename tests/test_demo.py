"""The demo shows its promised output, runs nothing, and leaves nothing behind."""

import io
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from rich.console import Console

from ben_secure import BenSecureError, PatchReader, StoreError, loads
from ben_secure.audit import audit_database
from ben_secure.cli import main
from ben_secure.demo import tour as demo
from ben_secure.errors import Rule
from support.attacks import FRAMES_ARE_DROPPED
from support.databases import make_database

CANARIES = 4
# Reads like a program that does not know better: from a stream, to its end.
STOCK_PICKLE = """
import io, pathlib, pickle, sys
stream = io.BytesIO(pathlib.Path(sys.argv[1]).read_bytes())
while stream.read(1):
    stream.seek(-1, io.SEEK_CUR)
    pickle.load(stream)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder in which the demo makes its temporary directory."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def tour(directory=None, width=100):
    """Exit code and output of the demo."""
    out = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False)
    exit_code = demo.run(directory, out)
    return exit_code, out.file.getvalue()


def test_the_demo_shows_every_attack_refused(temporary):
    """The output fits a screen, names each attack, and nothing stays behind."""
    exit_code, text = tour(width=80)
    assert exit_code == 0
    assert len(text.splitlines()) <= 60
    assert max(map(len, text.splitlines())) <= 100
    for attack in demo.attacks(b"", ""):
        assert re.search(rf"^{re.escape(attack.holds)} +{re.escape(attack.would)} +[a-z]+-[a-z]+", text, re.MULTILINE)
    assert "audit: 24 values, 24 clean, 0 refused; exit code 0 (clean)" in text
    assert "audit: 24 values, 15 clean, 9 refused; exit code 1 (refused)" in text
    assert "create: absent" in text
    for done in ("bit of a value flipped", "tag of a value stripped", "values swapped", "deleted", "older signed copy"):
        assert re.search(rf"{done}.* +\w+ .*(changed|no tag|moved|records|version|release)", text), text
    assert "NOT NOTICED" not in text
    assert text.splitlines()[-1] == "OK: all honest patches read, 9 of 9 attacks refused"
    assert list(temporary.iterdir()) == []


def test_a_directory_that_is_named_stays(tmp_path, capsys):
    """Both databases are there to be looked at, with the commands that the demo and its README name."""
    directory = tmp_path / "it's here"
    exit_code, text = tour(str(directory))
    assert exit_code == 0
    assert sorted(path.name for path in directory.iterdir()) == ["attacked.lmdb", "honest.lmdb"]
    assert main(["audit", str(directory / "honest.lmdb")]) == 0
    assert main(["audit", str(directory / "attacked.lmdb")]) == 1
    capsys.readouterr()
    hint = re.search(r"Look into it: ben-secure (.+)", text)[1]
    command, shell = f"{sys.executable} -m ben_secure {hint}", shutil.which("bash")
    done = subprocess.run(command, shell=True, executable=shell, capture_output=True, text=True)
    assert done.returncode == 1
    assert "STACK_GLOBAL" in done.stdout
    with PatchReader(directory / "honest.lmdb") as reader:
        assert len(reader) == 24
        assert reader["S2A_MSIL2A_20170613T101031_30_40"].s2_patch.get_stacked_10m_bands().shape == (4, 120, 120)


def test_a_directory_that_is_not_empty_is_left_alone(tmp_path, capsys):
    """The demo does not write into existing data."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(StoreError, match="exists and is not an empty folder"):
        tour(str(tmp_path))
    assert main(["demo", str(tmp_path)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    with pytest.raises(StoreError, match="exists and is not an empty folder"):
        tour(str(tmp_path / "mine"))
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "temporary"}


def test_the_process(tmp_path):
    """``python -m ben_secure demo`` ends with 0 and cleans up."""
    command = [sys.executable, "-m", "ben_secure", "demo"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={"TMPDIR": str(tmp_path), "PATH": ""})
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert main(["demo", "--json"]) == 2


def test_an_attack_that_gets_through_is_told(monkeypatch):
    """The demo does not say OK by habit: a value that is accepted, a patch that is refused, a canary."""
    attacks = demo.attacks

    def harmless(honest, canary):
        first, *others = attacks(honest, canary)
        return demo.Attack(holds=first.holds, would=first.would, value=honest), *others

    monkeypatch.setattr(demo, "attacks", harmless)
    exit_code, text = tour()
    assert exit_code == 1
    assert "WRONG: a shell command: got through" in text
    assert "OK" not in text


def test_a_canary_is_told(monkeypatch):
    """If anything had run, the demo would say so."""
    attacks = demo.attacks

    def run_one(honest, canary):
        pathlib.Path(canary).touch()
        return attacks(honest, canary)

    monkeypatch.setattr(demo, "attacks", run_one)
    exit_code, text = tour()
    assert exit_code == 1
    assert "create: THERE" in text
    assert "WRONG: an attack ran" in text


def test_an_honest_patch_that_is_refused_is_told(tmp_path, monkeypatch):
    """The database must be clean before attacks are planted, and its honest values must stay clean."""
    make_database(tmp_path / "bad", {b"honest": b"cos\nsystem\n."})
    monkeypatch.setattr(demo, "audit_database", lambda _: audit_database(tmp_path / "bad"))
    exit_code, text = tour()
    assert exit_code == 1
    assert "WRONG: the audit refuses honest patches" in text
    assert "WRONG: the honest patch honest was refused" in text


@pytest.mark.threat("T1")
@pytest.mark.parametrize("folder", [".", "a long name" * 12])
def test_the_attacks_are_live(tmp_path, folder):
    """Under ``pickle``, in a separate process, the first four attacks have the effect that the demo describes."""
    honest = demo.make_patch(0, 0).dumps()
    canary = tmp_path / folder / "it's a canary"
    canary.parent.mkdir(exist_ok=True)
    for number, attack in enumerate(demo.attacks(honest, str(canary))[:CANARIES]):
        value = tmp_path / f"value{number}"
        value.write_bytes(attack.value)
        subprocess.run([sys.executable, "-c", STOCK_PICKLE, value], capture_output=True)
        assert canary.exists() or ("false frame" in attack.holds and not FRAMES_ARE_DROPPED), attack.holds
        canary.unlink(missing_ok=True)


@pytest.mark.threat("T1")
def test_each_attack_meets_its_own_rule():
    """The attacks are of different kinds, and an honest value in the same database is accepted."""
    honest = demo.make_patch(0, 0).dumps()
    rules = []
    for attack in demo.attacks(honest, "canary"):
        with pytest.raises(BenSecureError) as refusal:
            loads(attack.value)
        rules.append(refusal.value.rule)
    assert rules == [
        Rule.FORBIDDEN_GLOBAL, Rule.FORBIDDEN_GLOBAL, Rule.STRUCTURE, Rule.TRAILING_DATA, Rule.CALL_SHAPE, Rule.ARRAY,
        Rule.FORBIDDEN_OPCODE, Rule.LIMIT, Rule.PATCH,
    ]  # fmt: skip
    assert loads(honest) == demo.make_patch(0, 0)


def test_the_scenes_are_plausible():
    """Digital numbers, decibel and labels are in the range of real patches, and repeat."""
    patches = [demo.make_patch(column, row) for column in range(4) for row in range(3)]
    for patch in patches:
        s2 = np.concatenate([band.data.ravel() for band in patch.bands if band.data.dtype == np.uint16])
        s1 = np.stack([patch.bandVH.data, patch.bandVV.data])
        assert 1 <= s2.min() < s2.max() < 10_000
        assert -50 < s1.min() < s1.max() < 10
        assert s1.dtype == np.float32
        assert 1 <= len(patch.labels) <= 4
    assert len({tuple(patch.labels) for patch in patches}) > 2
    assert patches[1] == demo.make_patch(0, 1) != patches[2]
