"""``ben-secure encode``: exit codes, output, and remains."""

import json
import os
import re

import numpy as np
import pytest

from ben_secure import PatchReader
from ben_secure.bands import BANDS
from ben_secure.cli import main
from ben_secure.errors import printable
from ben_secure.signing.keys import MacKey, MacKeySet, write_mac_keys
from support.geotiffs import S1_NAME, S2_NAME, label_file, make_pairs, pixels, tiff


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with three pairs in ``s1`` and ``s2``, a key and a table."""
    monkeypatch.chdir(tmp_path)
    names = make_pairs(tmp_path, 3)
    write_mac_keys("key", MacKeySet(MacKey(bytes(range(32)))))
    (tmp_path / "t.csv").write_text("patch_id,split\n" + "".join(f"{name},train\n" for name in names[:2]))
    (tmp_path / "none.csv").write_text("patch_id,split\nother,train\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def run(arguments, capsys):
    """Run a command: exit code, stdout, stderr."""
    code = main(arguments.split())
    out, err = capsys.readouterr()
    return code, out, err


def spoil(place, number=0, what="B02.tif"):
    """Remove a file of a Sentinel-2 patch; returns the patch's name."""
    name = S2_NAME.format(number, 7)
    (place / "s2" / name / f"{name}_{what}").unlink()
    return name


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("--s2 s2", "BigEarthNet_S2_Patch"),
        ("--s1 s1", "BigEarthNet_S1_Patch"),
        ("--s1 s1 --s2 s2 --mac-key key --context c --workers 2", "BigEarthNet_S1_S2_Patch"),
    ],
)
def test_encode_writes_what_is_there(place, capsys, options, kind):
    """Each combination of folders is written whole, exit 0, and read with the key that it was tagged with."""
    assert run(f"encode {options} out", capsys) == (0, "ENCODED: 3 patches are in out\n", "")
    keys = {"mac_key": MacKeySet(MacKey(bytes(range(32)))), "context": "c"} if "key" in options else {}
    with PatchReader("out", **keys) as reader:
        assert {type(patch).__name__ for patch in reader.values()} == {kind}
        assert all("labels" in patch.__stored_args__ for patch in reader.values())


def test_labels_and_tables(place, capsys):
    """``--no-labels`` leaves labels out, ``--metadata`` adds columns, ``--listed-only`` takes patches with a row."""
    assert run("encode --s2 s2 --no-labels --metadata t.csv --listed-only out", capsys) == (
        0,
        "ENCODED: 2 patches are in out; skipped patches without a row: 1\n",
        "",
    )
    with PatchReader("out") as reader:
        assert [patch.__stored_args__ for patch in reader.values()] == [
            {"split": "train", "acquired": "2017-06-13T10:10:31Z"}
        ] * 2


def test_a_failure_ends_it_or_does_not(place, capsys):
    """A patch that cannot be encoded: exit 2 and nothing made; with ``--keep-going`` exit 1 and the rest made."""
    name = spoil(place)
    before = sorted(os.listdir())
    code, out, err = run("encode --s2 s2 out", capsys)
    assert (code, out) == (2, "")
    assert f"cannot encode patch {name}: {printable(str(place / 's2' / name), 400)}: band B02 missing" in err
    assert sorted(os.listdir()) == before
    code, out, err = run("encode --s2 s2 --keep-going out", capsys)
    assert (code, err) == (1, "")
    assert f"cannot encode patch {name}" in out
    assert out.endswith("FAILED: 1 patch could not be encoded; the other 2 are in out\n")
    with PatchReader("out") as reader:
        assert name not in reader
        assert len(reader) == 2


def test_failures_are_listed_up_to_a_bound(place, capsys, monkeypatch):
    """Of many failures the first are shown, all are counted, and if all failed nothing was written."""
    monkeypatch.setattr("ben_secure.encode.plan.KEPT", 2)
    for number in range(3):
        spoil(place, number)
    code, out, _ = run("encode --s2 s2 --keep-going out", capsys)
    assert code == 1
    assert out.count("cannot encode") == 2
    assert "and 1 more could not be encoded\n" in out
    assert out.endswith("FAILED: 3 patches could not be encoded; nothing was written\n")
    code, out, _ = run("encode --s2 s2 --keep-going --json out", capsys)
    document = json.loads(out)
    assert (code, document["failed"], document["failures_left_out"], document["out"]) == (1, 3, 1, None)
    assert not os.path.exists("out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("out", "nothing to encode"),
        ("--s2 s2", "OUT is missing"),
        ("--s2 empty out", "no patch folders in"),
        ("--s2 missing out", "No such file or directory"),
        ("--s2 t.csv out", "Not a directory"),
        ("--s2 s2 empty", "exists and is not overwritten"),
        ("--s2 s1 --s1 s2 out", "has no Sentinel-1 patch|names its Sentinel-2 patch"),
        ("--s2 s1 out", "is a band of the other sensor; sort"),
        ("--s2 s2 --context c out", "--context requires --mac-key"),
        ("--s2 s2 --listed-only out", "--listed-only requires --metadata"),
        ("--s2 s2 --columns country out", "--columns requires --metadata"),
        (
            "--s2 s2 --metadata t.csv --columns country out",
            "the requested column country is not in the metadata tables",
        ),
        ("--s2 s2 --workers 0 out", "--workers"),
        ("--s2 s2 --metadata missing.csv out", "missing.csv: No such file"),
        ("--s2 s2 --metadata key out", r"expected .csv, .tsv or .parquet"),
        ("--s2 s2 --metadata t.csv out", "the metadata table has no row for it"),
        ("--s2 s2 --metadata none.csv --listed-only out", "has no row for any of the 3 patches"),
        ("--s2 s2 --mac-key t.csv out", "t.csv can be used by others"),
    ],
)
def test_what_cannot_be_done_is_exit_2(place, capsys, arguments, message):
    """Wrong calls and unusable input end with exit 2, one line on stderr, nothing made; as JSON it is the same."""
    before = sorted(os.listdir())
    code, out, err = run(f"encode {arguments}", capsys)
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert sorted(os.listdir()) == before
    code, out, err = run(f"encode --json {arguments}", capsys)
    assert (code, err) == (2, "")
    assert json.loads(out)["verdict"] == "undecided"


def test_json_says_all(place, capsys):
    """One JSON object with counts, on success too."""
    code, out, err = run("encode --s1 s1 --json out", capsys)
    document = json.loads(out)
    assert (code, err, document.pop("schema")) == (0, "", 1)
    assert document == {
        "command": "encode",
        "database": "out",
        "verdict": "encoded",
        "exit_code": 0,
        "error": None,
        "out": "out",
        "written": 3,
        "resumed": 0,
        "left_out": 0,
        "failed": 0,
        "failures": [],
        "failures_left_out": 0,
        "passed_over": 0,
        "columns_left_out": {},
        "unknown_pixels": {},
    }


def test_columns_are_chosen_and_odd_ones_named(place, capsys):
    """``--columns`` stores the named columns; a column that a patch cannot hold is left out with a note and in JSON."""
    (place / "odd.csv").write_text(
        (place / "t.csv").read_text().replace("split", "bands,country").replace("n\n", "n,x\n")
    )
    code, out, _ = run("encode --s2 s2 --metadata odd.csv --listed-only out", capsys)
    assert code == 0
    assert "note: the column bands is left out: " in out
    _, out, _ = run("encode --s2 s2 --metadata odd.csv --listed-only --json out2", capsys)
    assert json.loads(out)["columns_left_out"].keys() == {"bands"}
    code, out, _ = run("encode --s2 s2 --metadata odd.csv --listed-only --columns country, out3", capsys)
    assert (code, "note" in out) == (0, False)
    with PatchReader("out3") as reader:
        assert [patch.country for patch in reader.values()] == ["x", "x"]


def test_what_is_passed_over_is_said(place, capsys):
    """Files and folders of other programs are counted in the verdict."""
    (place / "s2" / "@eaDir").mkdir()
    code, out, _ = run("encode --s2 s2 out", capsys)
    assert code == 0
    assert "; skipped files and folders of other programs: 1\n" in out
    (place / "s2" / "._x").touch()
    _, out, _ = run("encode --s2 s2 out2", capsys)
    assert "; skipped files and folders of other programs: 2\n" in out


def test_unknown_pixels_are_said(place, capsys):
    """Pixels without data are counted for each band, in text and JSON; without such pixels nothing is printed."""
    folder = place / "s1" / S1_NAME.format(0, 7)
    array = pixels(BANDS["VV"])
    array[0], array[1] = np.nan, -np.inf
    array[0, :3] = -9999
    (folder / f"{folder.name}_VV.tif").write_bytes(tiff(array, tags={42113: ("s", [b"-9999"])}))
    code, out, _ = run("encode --s1 s1 out", capsys)
    assert code == 0
    note = "note: VV: pixels that have the no-data value: 3, other pixels that are NaN or infinite: 237 (patches: 1)"
    assert [line for line in out.splitlines() if "note" in line] == [note]
    _, out, _ = run("encode --s1 s1 --json out2", capsys)
    counts = {"patches": 1, "no_data": 3, "not_finite": 237, "masks": 0}
    assert json.loads(out)["unknown_pixels"] == {"VV": counts}
    _, out, _ = run("encode --s2 s2 out3", capsys)
    assert "note" not in out


@pytest.mark.threat("T15")
def test_nothing_of_the_input_reaches_the_terminal(place, capsys):
    """Escapes in names of folders, files, labels and columns are shown escaped, in text and as JSON."""
    (place / "s2" / "\x1b]0;x\x07").mkdir()
    label_file(place / "s1" / S1_NAME.format(0, 7)).write_text('{"labels": ["\\u001b[31m\\u202e"]}')
    name = spoil(place, 1)
    (place / "s2" / name / "\x1b[2J_B02\x1b.tif").touch()
    for arguments in (
        "encode --s2 s2 out",
        "encode --s2 s2 --keep-going --json out",
        "encode --s1 s1 --keep-going out2",
        "encode --s2 s2 --s1 s1 --keep-going out3",
    ):
        _, out, err = run(arguments, capsys)
        assert "x1b" in out + err
        assert all(" " <= character <= "~" or character == "\n" for character in out + err)


def test_a_resumed_run_says_so(place, capsys, monkeypatch):
    """After an interruption (exit code 130), the same command continues and prints how many patches existed."""
    from ben_secure.encode import run as run_module
    from ben_secure.store import writer

    monkeypatch.setattr(writer, "_CHUNK_BYTES", 1)
    with monkeypatch.context() as patched:
        last = S2_NAME.format(2, 7)
        original = run_module.read_source

        def read(source, labels):
            if source.name == last:
                raise KeyboardInterrupt
            return original(source, labels)

        patched.setattr(run_module, "read_source", read)
        code, out, err = run("encode --s2 s2 out", capsys)
        assert (code, out) == (130, "")
        assert re.fullmatch(
            r"ben-secure: interrupted\nben-secure: finished patches are kept in .+/\.out\.ben-secure-writing; run "
            r"the same command to resume, or delete the folder\n",
            err,
        )
    assert run("encode --s2 s2 out", capsys) == (
        0,
        "ENCODED: 3 patches are in out; 2 of them from an interrupted run\n",
        "",
    )


def test_a_run_that_stopped_at_a_bad_patch_goes_on_when_it_is_mended(place, capsys, monkeypatch):
    """Patches written before a bad one are kept, and the same command continues when the patch is repaired."""
    from ben_secure.store import writer

    monkeypatch.setattr(writer, "_CHUNK_BYTES", 1)
    name = S2_NAME.format(2, 7)
    band = place / "s2" / name / f"{name}_B02.tif"
    band.rename(place / "away")
    code, out, err = run("encode --s2 s2 --json out", capsys)
    assert (code, json.loads(out)["verdict"]) == (2, "undecided")
    assert "finished patches are kept" in err
    (place / "away").rename(band)
    code, out, err = run("encode --s2 s2 --json out", capsys)
    assert (code, err, json.loads(out)["resumed"]) == (0, "", 2)
    assert not list(place.glob(".*"))
