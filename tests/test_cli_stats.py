"""``stats``: the numbers of a database as table, JSON and plot, or the reason for a failure."""

import json
import shlex

import numpy as np
import pytest

from ben_secure.cli import main
from ben_secure.patches import BigEarthNet_S1_Patch
from ben_secure.signing.keys import MacKey, MacKeySet, write_mac_keys
from ben_secure.signing.tags import append_tag
from support.databases import make_database
from support.strategies import make_patch


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with databases and a key."""
    monkeypatch.chdir(tmp_path)
    keys = MacKeySet(MacKey(bytes(range(32))))
    write_mac_keys("key", keys)
    records = {
        b"one": make_patch(labels=["Pastures", "Water bodies"]).dumps(),
        b"two": make_patch(labels=["Pastures", "\x1b[31m\u202e"]).dumps(),
        b"vv": BigEarthNet_S1_Patch(np.full((120, 120), -12.5, "<f4"), np.full((120, 120), -6, "<f4")).dumps(),
    }
    make_database(tmp_path / "db", records)
    make_database(tmp_path / "tagged", {k: append_tag(keys.signing, b"", k, v) for k, v in records.items()})
    make_database(tmp_path / "bad", records | {b"bad": b"\x80\x04cposix\nsystem\n."})
    make_database(tmp_path / "empty", {})
    return tmp_path


def run(capsys, command):
    """Exit code, stdout and stderr of a command."""
    code = main(shlex.split(command))
    return code, *capsys.readouterr()


def test_the_table_has_bands_and_labels(place, capsys):
    """Each band and label has its line; the last line has the number of patches."""
    code, out, err = run(capsys, "stats db")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["VH"][1:] == ["14,400", "-12.500", "0", "-12.500", "-12.500"]
    assert rows["B01"][1] == "800"
    assert rows["Pastures"][1:3] == ["2", "66.7%"]
    assert "patches without labels: 1" in out
    assert (
        out.splitlines()[-1]
        == "db: 1 BigEarthNet_S1_Patch, 2 BigEarthNet_S2_Patch; std is the population standard deviation"
    )


@pytest.mark.threat("T4")
def test_labels_are_escaped(place, capsys):
    """A label full of escapes is text in the table and in JSON."""
    for option in ("", " --json"):
        out = run(capsys, "stats db" + option)[1]
        assert "x1b[31m" in out
        assert "\x1b" not in out
        assert "\u202e" not in out


def test_json_has_what_a_loader_normalises_with(place, capsys):
    """Mean and deviation by band name, counts, histograms and labels, in one object with a schema."""
    code, out, err = run(capsys, "stats db --json --workers 2")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["schema"], document["command"], document["exit_code"]) == (1, "stats", 0)
    assert (document["patches"], document["ddof"], document["plot"]) == (3, 0, None)
    band = document["bands"]["VV"]
    assert (band["mean"], band["std"], band["min"], band["max"], band["count"]) == (-6.0, 0.0, -6.0, -6.0, 14400)
    assert sum(band["histogram"]["counts"]) == 14400
    assert len(band["histogram"]["edges"]) == len(band["histogram"]["counts"]) + 1
    assert document["labels"]["labels"]["Pastures"] == 2
    assert document["unlabelled"] == {"labels": 1}


def test_the_plot_is_written_once(place, capsys):
    """A PNG appears, and is overwritten only with --force."""
    code, out, _ = run(capsys, "stats db --plot a.png")
    assert code == 0
    assert out.splitlines()[-1] == "histograms written to a.png"
    assert (place / "a.png").read_bytes().startswith(b"\x89PNG")
    (place / "a.png").write_bytes(b"mine")
    code, out, err = run(capsys, "stats db --plot a.png")
    assert (code, out) == (2, "")
    assert "a.png exists and is not overwritten; choose another name, or overwrite it knowingly (--force" in err
    assert (place / "a.png").read_bytes() == b"mine"
    assert run(capsys, "stats db --plot a.png --force --json")[0] == 0
    assert (place / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "exit_code", "words"),
    [
        ("stats empty", 2, "empty, so there is nothing to count"),
        ("stats nowhere", 2, "nowhere"),
        ("stats db --plot a.pdf", 2, "expected a name that ends in .png"),
        ("stats db --plot no/a.png", 2, "the directory of --plot no/a.png must exist and be writable"),
        ("stats db --workers 0", 2, "--workers"),
        ("stats db --context c", 2, "--context requires --mac-key"),
        ("stats db --mac-key key", 1, "has no tag"),
        ("stats tagged --mac-key key --context d", 1, "at LMDB key b'one'"),
        ("stats bad", 1, "at LMDB key b'bad'"),
        ("stats bad --plot a.png", 1, "at LMDB key b'bad'"),
    ],
)
def test_wrong_input_has_no_statistics(place, capsys, command, exit_code, words):
    """Each kind of wrong input has its exit code and reason, as text and as JSON, and leaves no file."""
    before = sorted(place.iterdir())
    code, out, err = run(capsys, command)
    assert (code, out) == (exit_code, "")
    assert words in err
    code, out, err = run(capsys, command + " --json")
    assert (code, err) == (exit_code, "")
    document = json.loads(out)
    assert (document["verdict"], document["exit_code"]) == ("refused" if exit_code == 1 else "undecided", exit_code)
    assert words in document["error"]
    assert sorted(place.iterdir()) == before


def test_verified_statistics_are_the_same(place, capsys):
    """Tags do not change the statistics, only the accepted values."""
    tagged = json.loads(run(capsys, "stats tagged --mac-key key --json")[1])
    plain = json.loads(run(capsys, "stats db --json")[1])
    assert tagged | {"database": "db"} == plain
