"""``show``: pictures of patches in files, and nothing of a patch that was not checked."""

import io
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from ben_secure.cli import main
from ben_secure.patches import BigEarthNet_S1_Patch
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey, write_mac_keys, write_signing_key, write_verify_key
from ben_secure.signing.tags import append_tag
from support.attacks import ATTACKS
from support.databases import make_database
from support.strategies import make_patch

HOSTILE = "p\x1b[31m\u202e"
PATCHES = {name: make_patch(seed=place) for place, name in enumerate(["one", "two", HOSTILE])}


def tagged(records, keys):
    """The same records with their tags."""
    return {lmdb_key: append_tag(keys.signing, b"c", lmdb_key, value) for lmdb_key, value in records.items()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with databases and keys."""
    monkeypatch.chdir(tmp_path)
    keys = MacKeySet(MacKey(bytes(range(32))))
    write_mac_keys("key", keys)
    publisher = SigningKey.generate()
    write_signing_key("publisher", publisher)
    write_verify_key("publisher.pub", publisher.verify_key)
    records = {name.encode(): patch.dumps() for name, patch in PATCHES.items()}
    make_database(tmp_path / "db", records)
    make_database(tmp_path / "tagged", tagged(records, keys))
    make_database(tmp_path / "radar", {b"r": make_patch(BigEarthNet_S1_Patch).dumps()})
    make_database(tmp_path / "bad", {b"bad": b"cos\nsystem\n.", b"good": records[b"one"]})
    make_database(tmp_path / "empty", {})
    return tmp_path


def run(capsys, command):
    """Exit code, stdout and stderr of a command."""
    code = main(shlex.split(command))
    return code, *capsys.readouterr()


def pixels(path):
    """The pixels of a PNG."""
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


def test_one_patch_is_written_as_png(place, capsys):
    """The PNG is the composite, each pixel four by four, of the kind that is asked for."""
    assert run(capsys, "show db one -o a.png") == (0, "true-colour of one in a.png\n", "")
    image = PATCHES["one"].quicklook().image
    assert np.array_equal(pixels(place / "a.png")[::4, ::4], image)
    assert run(capsys, "show db one -o b.png --kind swir")[:2] == (0, "swir of one in b.png\n")
    assert np.array_equal(pixels(place / "b.png")[::4, ::4], PATCHES["one"].quicklook("swir").image)


def test_what_was_shown_as_json(place, capsys):
    """One object describes the PNG; a failure is one object, too."""
    code, out, err = run(capsys, "show db two one -o a.png --json")
    document = json.loads(out)
    assert (code, err, document["exit_code"], document["verdict"]) == (0, "", 0, "shown")
    assert (document["png"], document["entries"]) == ("a.png", 3)
    assert document["shown"] == [{"name": name, "kind": "true-colour"} for name in ("two", "one")]
    for command, exit_code in (("show db none -o b.png --json", 2), ("show bad bad -o b.png --json", 1)):
        code, out, err = run(capsys, command)
        assert (code, json.loads(out)["exit_code"], err) == (exit_code, exit_code, "")
    assert not (place / "b.png").exists()


def test_several_patches_are_one_sheet(place, capsys):
    """Named patches are on it in the order of their names on the command line; without names the first of all."""
    assert run(capsys, "show db two one -o a.png") == (0, "true-colour of 2 patches in a.png\n", "")
    assert pixels(place / "a.png").shape[1] > 2 * 240
    assert run(capsys, "show db -o b.png")[:2] == (0, "true-colour of 3 patches in b.png\n")
    make_database(place / "many", {b"%02d" % n: PATCHES["one"].dumps() for n in range(14)})
    assert run(capsys, "show many -o c.png")[1] == "true-colour of the first 12 of 14 patches in c.png\n"


def test_a_sheet_has_one_stretch(place, capsys):
    """A patch alone has the full range of brightness; beside a brighter one on a sheet, it is darker."""
    dark, bright = make_patch(labels=[]), make_patch(labels=[])
    bright.band04.data[:] = bright.band04.data // 2 + 2**15
    make_database(place / "pair", {b"dark": dark.dumps(), b"bright": bright.dumps()})
    for command in (
        "show pair dark -o alone.png --kind infrared",
        "show pair dark bright -o sheet.png --kind infrared",
    ):
        assert run(capsys, command)[0] == 0
    alone, sheet = pixels(place / "alone.png")[..., 1], pixels(place / "sheet.png")[8:248, ..., 1]
    assert sheet[:, 8:248].mean() < alone.mean() < sheet[:, 256:496].mean()
    red = pixels(place / "sheet.png")[8:248, ..., 0]
    assert np.array_equal(red[:, 8:248], red[:, 256:496])


def test_a_sheet_has_labels(place, capsys):
    """The labels of each patch are below its name."""
    for database, labels in (("without", []), ("with", ["Pastures"])):
        make_database(place / database, {name: make_patch(labels=labels).dumps() for name in (b"a", b"b")})
        assert run(capsys, f"show {database} -o {database}.png")[0] == 0
    without, labelled = pixels(place / "without.png"), pixels(place / "with.png")
    assert np.array_equal(without[8:260], labelled[8:260])
    assert len(labelled) > len(without)


def test_nothing_is_overwritten_without_force(place, capsys):
    """A second picture of the same name is exit code 2 and leaves the first."""
    assert run(capsys, "show db one -o a.png")[0] == 0
    first = (place / "a.png").read_bytes()
    code, out, err = run(capsys, "show db two -o a.png")
    assert (code, out) == (2, "")
    assert "a.png exists and is not overwritten; choose another name, or overwrite it knowingly (--force" in err
    assert (place / "a.png").read_bytes() == first
    assert run(capsys, "show db two -o a.png --force")[0] == 0
    assert (place / "a.png").read_bytes() != first


@pytest.mark.parametrize(
    ("command", "exit_code", "words"),
    [
        ("show db", 2, "--output is missing"),
        ("show db none -o a.png", 2, "none is not in this database; its first key is one"),
        ("show empty none -o a.png", 2, "none is not in this database, which is empty"),
        ("show empty -o a.png", 2, "this database is empty, so there is nothing to show"),
        ("show nowhere -o a.png", 2, "nowhere"),
        ("show db one -o a.jpg", 2, "--output is a.jpg; expected a name that ends in .png"),
        ("show db one -o a.png --kind ndvi", 2, "--kind is ndvi; expected true-colour, infrared, swir or radar"),
        ("show db one -o a.png --kind radar", 2, "one: radar takes bands VV, VH, and this patch has B01, B02"),
        (
            "show radar r -o a.png --kind swir",
            2,
            "swir takes bands B12, B8A, B04, and this patch has VH, VV, so choose radar",
        ),
        ("show db one -o no/a.png", 2, "must exist and be writable"),
        ("show db one -o a.png --context c", 2, "--context requires --mac-key"),
        ("show db one -o a.png --manifest m", 2, "--version and --threshold require --verify-key"),
        ("show db one -o a.png --verify-key publisher.pub --threshold 2", 2, "--threshold is 2, expected 1 to 1"),
        ("show db one -o a.png --mac-key nokey", 2, "nokey"),
        ("show db one -o a.png --mac-key key --context c", 1, "has no tag"),
        ("show tagged one -o a.png --mac-key key --context d", 1, "at LMDB key b'one'"),
        ("show bad bad -o a.png", 1, "at LMDB key b'bad'"),
        ("show bad good bad -o a.png", 1, "at LMDB key b'bad'"),
    ],
)
def test_wrong_input_writes_nothing(place, capsys, command, exit_code, words):
    """Each kind of wrong input has its exit code and a reason on stderr, and leaves no file."""
    before = sorted(place.iterdir())
    code, out, err = run(capsys, command)
    assert (code, out) == (exit_code, "")
    assert words in err
    assert sorted(place.iterdir()) == before


def test_more_than_a_sheet_holds_is_refused_at_once(place, capsys):
    """The number of patches is bounded before any is read."""
    assert "101 patches do not fit on one sheet" in run(capsys, "show db -o a.png " + "x " * 101)[2]


def test_verified_patches_are_shown(place, capsys):
    """With the right keys the same pictures come out."""
    assert run(capsys, "show db one -o a.png")[0] == 0
    assert run(capsys, "show tagged one -o b.png --mac-key key --context c")[0] == 0
    assert run(capsys, "sign db --signing-key publisher --name Ben --version 1 --license MIT")[0] == 0
    assert run(capsys, "show db one -o c.png --verify-key publisher.pub --name Ben --version 1")[0] == 0
    assert (place / "a.png").read_bytes() == (place / "b.png").read_bytes() == (place / "c.png").read_bytes()
    assert run(capsys, "show tagged one -o d.png --verify-key publisher.pub")[0] == 2
    assert run(capsys, "show db one -o d.png --verify-key publisher.pub --version 2")[0] == 1
    (place / "db.manifest").write_bytes(b"x")
    assert run(capsys, "show db one -o d.png --verify-key publisher.pub")[0] == 1


@pytest.mark.threat("T4")
def test_names_reach_a_terminal_escaped(place, capsys):
    """A patch name full of escapes is shown as text."""
    code, out, _ = run(capsys, f"show db {shlex.quote(HOSTILE)} -o a.png")
    assert (code, out) == (0, "true-colour of p\\x1b[31m\\u202e in a.png\n")
    code, _, err = run(capsys, "show db $'\x1b[31m' -o b.png")
    assert code == 2
    assert "\x1b" not in err


@pytest.mark.threat("T1")
def test_hostile_values_are_refused_and_do_nothing(tmp_path, capsys, monkeypatch):
    """Every known attack that is a value is exit code 1, and no canary appears."""
    monkeypatch.chdir(tmp_path)
    attacks = ATTACKS[:12]
    make_database(tmp_path / "db", {str(n).encode(): attack.value() for n, attack in enumerate(attacks)})
    for n in range(len(attacks)):
        assert run(capsys, f"show db {n} -o a.png")[:2] == (1, "")
    assert [path.name for path in tmp_path.iterdir()] == ["db"]
