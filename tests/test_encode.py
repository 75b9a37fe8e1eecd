"""Folders of GeoTIFFs become databases: whole patches, pairs, metadata, failures, interruptions."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
import warnings

import numpy as np
import pytest

from ben_secure import (
    BigEarthNet_S1_Patch,
    BigEarthNet_S1_S2_Patch,
    BigEarthNet_S2_Patch,
    EncodeError,
    MissingExtraError,
    PatchReader,
    StoreError,
    TagMismatchError,
)
from ben_secure.bands import BANDS
from ben_secure.encode import encode, read_patch
from ben_secure.encode import run as run_module
from ben_secure.errors import printable
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import MacKey
from ben_secure.store import writer as writer_module
from support.geotiffs import (
    LABELS,
    NEW_LABELS,
    S1_NAME,
    S2_NAME,
    label_file,
    make_map,
    make_pairs,
    make_patch,
    pixels,
    tiff,
)

S1, S2 = S1_NAME.format(1, 2), S2_NAME.format(1, 2)
STORED = {"labels": LABELS, "new_labels": NEW_LABELS}


def same_pixels(patch, arrays):
    """Whether the bands of a patch are these arrays, in value and dtype."""
    bands = {band.name: band.data for band in patch.bands}
    return bands.keys() == arrays.keys() and all(
        bands[name].dtype == array.dtype and np.array_equal(bands[name], array) for name, array in arrays.items()
    )


def records(path):
    with PageReader(path) as reader:
        return dict(reader.items())


@pytest.mark.parametrize(("name", "cls"), [(S1, BigEarthNet_S1_Patch), (S2, BigEarthNet_S2_Patch)])
def test_a_folder_is_a_patch(tmp_path, name, cls):
    """``read_patch`` gives the patch of the sensor with the pixels of the files, labels and more metadata."""
    folder, arrays = make_patch(tmp_path, name)
    patch = read_patch(folder, metadata={"split": "train"})
    assert type(patch) is cls
    assert same_pixels(patch, arrays)
    acquired = {"acquired": "2017-06-13T16:50:43Z" if name == S1 else "2017-06-13T10:10:31Z"}
    assert patch.__stored_args__ == STORED | {"split": "train"} | acquired
    assert read_patch(str(folder) + "/", labels=False, place=False).__stored_args__ == {}


def test_pixels_may_have_another_dtype_than_published(tmp_path):
    """A band keeps the dtype of its file, independent of the others."""
    folder, arrays = make_patch(tmp_path, S2)
    arrays["B05"] = pixels(BANDS["B05"]).astype(np.float64)
    (folder / f"{S2}_B05.tif").write_bytes(tiff(arrays["B05"], order=">", rows=9))
    assert same_pixels(read_patch(folder), arrays)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.threat("T15")
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / f"{S2}_B8A.tif").unlink(), r"S2A[^/]*: band B8A missing; expected 12 files"),
        (lambda f: [path.unlink() for path in f.glob("*B0[12].tif")], r"bands B01, B02 missing"),
        (lambda f: (f / "again_B03.tif").touch(), r"B03\.tif: it is a second file of B03, beside"),
        (lambda f: _cut(f / f"{S2}_B03.tif"), r"_B03\.tif: .*; fetch this patch again"),
        (lambda f: (f / f"{S2}_B03.tif").write_bytes(b""), r"_B03\.tif: it is not a TIFF file; fetch"),
        (lambda f: (f / f"{S2}_B03.tif").write_bytes(b"{}" * 90), r"_B03\.tif: it is not a TIFF file; fetch"),
        (
            lambda f: (f / f"{S2}_B03.tif").write_bytes((f / f"{S2}_B05.tif").read_bytes()),
            r"_B03\.tif: it has 60 rows and 60 columns, expected 120 of each",
        ),
        (
            lambda f: (f / f"{S2}_B11.tif").rename(f / f"{S2}_B10.tif"),
            r"_B10\.tif: its name does not end",
        ),
        (lambda f: (f / f"{S2}_VV.tif").write_bytes(tiff(pixels(BANDS["VV"]))), r"B01 is a band of the other sensor"),
        (lambda f: label_file(f).write_text("{"), r"metadata\.json: it is not JSON"),
        (
            lambda f: label_file(f).write_text('{"labels": ["Forest"]}'),
            r"json: the label .Forest. is not one of",
        ),
        (lambda f: label_file(f).unlink(), r"it has no labels: .* encode without labels \(--no-labels"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, harm, message):
    """Each defect of a patch is an error with the patch, the file and the remedy; nothing is guessed."""
    folder, _ = make_patch(tmp_path, S2)
    read_patch(folder)
    harm(folder)
    with pytest.raises(EncodeError, match=rf"cannot encode patch {S2}: .*{message}"):
        read_patch(folder)


@pytest.mark.threat("T15")
def test_links_are_not_followed(tmp_path):
    """A folder that is a link is refused like a file that is one, and neither is opened."""
    folder, _ = make_patch(tmp_path / "a", S2)
    (tmp_path / S2).symlink_to(folder)
    with pytest.raises(EncodeError, match=r"Not a directory|symbolic links"):
        read_patch(tmp_path / S2)
    secret = tmp_path / "secret"
    label_file(folder).rename(secret)
    label_file(folder).symlink_to(secret)
    with pytest.raises(EncodeError, match="it is a link, and links are not followed"):
        read_patch(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_pairs_of_v1_are_merged(tmp_path, monkeypatch, workers):
    """With both folders, pairs named by the Sentinel-1 label files are stored under the Sentinel-2 names, in order."""
    monkeypatch.setattr(run_module, "_BATCH", 2)
    names = make_pairs(tmp_path, 5)
    seen = []
    done = encode(
        tmp_path / "out.lmdb",
        s2=tmp_path / "s2",
        s1=tmp_path / "s1",
        workers=workers,
        progress=lambda *counts: seen.append(counts),
    )
    assert (done.written, done.resumed, done.failures.count) == (5, 0, 0)
    assert seen == [(place, 5) for place in range(1, 6)]
    with PatchReader(tmp_path / "out.lmdb") as reader:
        assert list(reader) == names
        for place, name in enumerate(names):
            patch = reader[name]
            assert type(patch) is BigEarthNet_S1_S2_Patch
            assert same_pixels(patch, {spec.name: pixels(spec, place) for spec in BANDS.values()})
            assert patch.__stored_args__ == STORED | {"acquired": "2017-06-13T10:10:31Z"}


def test_pairs_of_v2_are_in_the_table(tmp_path):
    """The ``s1_name`` of the table names the pair, its labels are stored, and its columns become metadata."""
    names = make_pairs(tmp_path)
    for folder in (*(tmp_path / "s1").iterdir(), *(tmp_path / "s2").iterdir()):
        label_file(folder).unlink()
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    columns = {
        "patch_id": names,
        "labels": [["Marine waters"], ["Pastures", "Inland wetlands"]],
        "split": ["train", "test"],
        "s1_name": [S1_NAME.format(1, 7), S1_NAME.format(0, 7)],
        "contains_seasonal_snow": [True, False],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    encode(tmp_path / "both", s2=tmp_path / "s2", s1=tmp_path / "s1", metadata=tmp_path / "t.parquet")
    with PatchReader(tmp_path / "both") as reader:
        patch = reader[names[0]]
        assert patch.__stored_args__ == {
            "labels": ["Marine waters"],
            "new_labels": ["Marine waters"],
            "split": "train",
            "s1_name": S1_NAME.format(1, 7),
            "contains_seasonal_snow": True,
            "acquired": "2017-06-13T10:10:31Z",
        }
        assert np.array_equal(patch.get_band_data_by_name("VV"), pixels(BANDS["VV"], 1))
        assert np.array_equal(patch.get_band_data_by_name("B01"), pixels(BANDS["B01"], 0))
    encode(tmp_path / "one", s1=tmp_path / "s1", metadata=[tmp_path / "t.parquet"])
    with PatchReader(tmp_path / "one") as reader:
        assert reader[S1_NAME.format(1, 7)].patch_id == names[0]
        assert reader[S1_NAME.format(0, 7)].labels == ["Pastures", "Inland wetlands"]


def test_tables_must_cover_the_patches(tmp_path):
    """A patch without a row fails, or is passed over if that is asked for; two rows for one patch are refused."""
    names = make_pairs(tmp_path)
    (tmp_path / "t.csv").write_text(f"patch_id,split\n{names[1]},train\n")
    (tmp_path / "u.csv").write_text(f"patch_id,split\n{names[0]},test\n")
    with pytest.raises(EncodeError, match=rf"{names[0]}: .*no row for it; add a row"):
        encode(tmp_path / "out", s2=tmp_path / "s2", metadata=tmp_path / "t.csv")
    done = encode(tmp_path / "out", s2=tmp_path / "s2", metadata=tmp_path / "t.csv", listed_only=True)
    assert (done.written, done.left_out) == (1, 1)
    encode(tmp_path / "all", s2=tmp_path / "s2", metadata=[tmp_path / "t.csv", tmp_path / "u.csv"])
    with PatchReader(tmp_path / "all") as reader:
        assert [reader[name].split for name in names] == ["test", "train"]
    with pytest.raises(EncodeError, match=rf"has a row for patch {names[1]}, and so has an earlier table"):
        encode(tmp_path / "no", s2=tmp_path / "s2", metadata=[tmp_path / "t.csv", tmp_path / "t.csv"])


@pytest.mark.parametrize("column", ["bands", "band01", "__class__", "s1_patch"])
def test_columns_may_not_shadow_a_patch(tmp_path, column):
    """A column that would shadow something of the patch is left out by name, and refused if it is asked for."""
    names = make_pairs(tmp_path, 1)
    (tmp_path / "t.csv").write_text(f"patch_id,{column}\n{names[0]},x\n")
    options = {"s2": tmp_path / "s2", "s1": tmp_path / "s1", "metadata": tmp_path / "t.csv"}
    assert encode(tmp_path / "out", **options).columns_left_out.keys() == {column}
    with PatchReader(tmp_path / "out") as reader:
        assert reader[names[0]].__stored_args__ == STORED | {"acquired": "2017-06-13T10:10:31Z"}
    with pytest.raises(EncodeError, match=r"cannot use a column of the metadata tables: .*would shadow"):
        encode(tmp_path / "no", **options, columns=[column])


def test_values_are_tagged(tmp_path):
    """With a MAC key every value has a tag for the key and the context, and only these can read it."""
    (name,) = make_pairs(tmp_path, 1)
    mac_key = MacKey.generate()
    encode(tmp_path / "out", s2=tmp_path / "s2", mac_key=mac_key, context="ben")
    with PatchReader(tmp_path / "out", mac_key=mac_key, context="ben") as reader:
        assert reader[name].labels == LABELS
    with PatchReader(tmp_path / "out", mac_key=mac_key, context="other") as reader, pytest.raises(TagMismatchError):
        reader[name]


@pytest.mark.threat("T15")
def test_twins_are_looked_up_and_never_opened(tmp_path):
    """A name is compared with the found folders and never opened, so a path has no effect; clashes are refused."""
    names = make_pairs(tmp_path)
    s1_folder = tmp_path / "s1" / S1_NAME.format(0, 7)
    twin = json.loads(label_file(s1_folder).read_text())
    for hostile in (f"../s2/{names[0]}", f"{tmp_path}/s2/{names[0]}", "\x1b[31m"):
        label_file(s1_folder).write_text(json.dumps(twin | {"corresponding_s2_patch": hostile}))
        with pytest.raises(EncodeError, match=rf"{names[0]}: .*it has no Sentinel-1 patch"):
            encode(tmp_path / "out", s2=tmp_path / "s2", s1=tmp_path / "s1")
    label_file(s1_folder).write_text(json.dumps(twin | {"corresponding_s2_patch": names[1]}))
    with pytest.raises(EncodeError, match=rf"names the Sentinel-2 patch {names[1]}, and so does that of"):
        encode(tmp_path / "out", s2=tmp_path / "s2", s1=tmp_path / "s1")
    label_file(s1_folder).unlink()
    with pytest.raises(EncodeError, match="no label file names its Sentinel-2 patch"):
        encode(tmp_path / "out", s2=tmp_path / "s2", s1=tmp_path / "s1")


@pytest.mark.threat("T15")
def test_names_may_not_clash(tmp_path):
    """One patch in two scenes is refused, even if other failures are not the end."""
    for scene in ("S2A_MSIL2A_20170613T101031", "S2B_MSIL2A_20170613T101031"):
        make_patch(tmp_path / "s2" / scene, S2)
    with pytest.raises(EncodeError, match="another folder has the same name"):
        encode(tmp_path / "out", s2=tmp_path / "s2", keep_going=True)


@pytest.mark.threat("T15")
def test_names_must_be_lmdb_keys(tmp_path):
    """A folder name that is not UTF-8 is refused, and the message escapes it."""
    folder = os.fsencode(tmp_path / "s2") + b"/\xff\x1b"
    os.makedirs(folder)
    with open(folder + b"/x_B01.tif", "wb"):
        pass
    with pytest.raises(EncodeError, match=r"patch \\udcff\\x1b: .*its name cannot be an LMDB key"):
        encode(tmp_path / "out", s2=tmp_path / "s2")


@pytest.mark.parametrize("workers", [1, 2])
def test_keep_going_writes_the_rest(tmp_path, monkeypatch, workers):
    """Failures are counted and the first ones kept, the other patches are written; without it nothing is."""
    monkeypatch.setattr(run_module, "_BATCH", 1)
    names = make_pairs(tmp_path, 4)
    for name in names[1:3]:
        (tmp_path / "s2" / name / f"{name}_B02.tif").unlink()
    with pytest.raises(EncodeError, match=rf"{names[1]}: .*band B02 missing"):
        encode(tmp_path / "out", s2=tmp_path / "s2", workers=workers)
    assert sorted(os.listdir(tmp_path)) == ["s1", "s2"]
    done = encode(tmp_path / "out", s2=tmp_path / "s2", workers=workers, keep_going=True)
    assert (done.written, done.failures.count) == (2, 2)
    assert [name in str(error) for name, error in zip(names[1:3], done.failures.first, strict=True)] == [True, True]
    with PatchReader(tmp_path / "out") as reader:
        assert list(reader) == [names[0], names[3]]


def test_if_all_fail_nothing_appears(tmp_path):
    """If no patch can be written there is no database, and no remains."""
    (name,) = make_pairs(tmp_path, 1)
    label_file(tmp_path / "s2" / name).unlink()
    done = encode(tmp_path / "out", s2=tmp_path / "s2", keep_going=True)
    assert (done.written, done.failures.count) == (0, 1)
    assert sorted(os.listdir(tmp_path)) == ["s1", "s2"]


def test_nothing_to_encode_is_undecided(tmp_path):
    """An empty or missing folder is refused, and so is a target that exists, and calls that mean nothing."""
    with pytest.raises(EncodeError, match="no patch folders in"):
        encode(tmp_path / "out", s2=tmp_path)
    with pytest.raises(EncodeError, match=r"cannot read the folder .*No such file"):
        encode(tmp_path / "out", s1=tmp_path / "none")
    with pytest.raises(StoreError, match="exists and is not overwritten"):
        encode(tmp_path, s2=tmp_path)
    for wrong in ({}, {"s2": tmp_path, "workers": 0}, {"s2": tmp_path, "listed_only": True}):
        with pytest.raises(ValueError, match=r"nothing to encode|at least 1|requires a metadata"):
            encode(tmp_path / "out", **wrong)


def test_a_missing_library_ends_it_all(tmp_path, monkeypatch):
    """A missing library is not a failure of a patch: it ends the run even with ``keep_going``."""
    (name,) = make_pairs(tmp_path, 1)
    (tmp_path / "s2" / name / f"{name}_B02.tif").write_bytes(tiff(pixels(BANDS["B02"]), tags={259: ("H", [5])}))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(MissingExtraError, match="imagecodecs"):
        encode(tmp_path / "out", s2=tmp_path / "s2", keep_going=True)


class _Stop(KeyboardInterrupt):
    """An interruption of these tests."""


def interrupted(tmp_path, after, **options):
    """Run ``encode`` and interrupt it after so many patches."""

    def stop(done, total):
        if done == after:
            raise _Stop

    with pytest.raises(_Stop):
        encode(tmp_path / "out", progress=stop, **options)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_is_resumed(tmp_path, monkeypatch):
    """The same call continues after the written patches, reads none of them again, and has the same result."""
    monkeypatch.setattr(writer_module, "_CHUNK_BYTES", 1)
    names = make_pairs(tmp_path, 5)
    options = {"s2": tmp_path / "s2", "s1": tmp_path / "s1"}
    encode(tmp_path / "whole", **options)
    interrupted(tmp_path, 3, **options)
    read = []
    original = run_module.read_source
    monkeypatch.setattr(run_module, "read_source", lambda *args: read.append(args[0].name) or original(*args))
    seen = []
    done = encode(tmp_path / "out", progress=lambda *counts: seen.append(counts), **options)
    assert (done.written, done.resumed) == (5, 3)
    assert read == names[3:]
    assert seen == [(4, 5), (5, 5)]
    assert records(tmp_path / "out") == records(tmp_path / "whole")
    assert sorted(os.listdir(tmp_path)) == ["out", "s1", "s2", "whole"]
    assert os.listdir(tmp_path / "out") == ["data.mdb"]


@pytest.mark.parametrize("change", ["labels", "mac_key", "context", "folders", "table"])
def test_another_call_begins_anew(tmp_path, monkeypatch, change):
    """Patches written with other options, folders or tables are not reused."""
    monkeypatch.setattr(writer_module, "_CHUNK_BYTES", 1)
    names = make_pairs(tmp_path, 3)
    table = tmp_path / "t.csv"
    table.write_text("patch_id,x\n" + "".join(f"{name},1\n" for name in names))
    mac_key = MacKey.generate()
    options = {"s2": tmp_path / "s2", "metadata": table, "mac_key": mac_key, "context": "a"}
    interrupted(tmp_path, 2, **options)
    interrupted(tmp_path, 3, **options)  # resumed, and interrupted again
    if change == "labels":
        options["labels"] = False
    elif change == "mac_key":
        options["mac_key"] = MacKey.generate()
    elif change == "context":
        options["context"] = "b"
    elif change == "folders":
        (tmp_path / "s2" / names[0]).rename(tmp_path / "s2" / S2_NAME.format(9, 9))
        table.write_text(table.read_text() + f"{S2_NAME.format(9, 9)},1\n")
    else:
        table.write_text(table.read_text().replace(",1", ",2"))
    done = encode(tmp_path / "out", **options)
    assert (done.written, done.resumed) == (3, 0)


@pytest.mark.threat("T5")
def test_only_what_we_left_is_taken_up(tmp_path, monkeypatch):
    """A place, or a file in it, that others could have made is not resumed."""
    monkeypatch.setattr(writer_module, "_CHUNK_BYTES", 1)
    make_pairs(tmp_path, 3)
    options = {"s2": tmp_path / "s2"}
    interrupted(tmp_path, 2, **options)
    place = tmp_path / ".out.ben-secure-writing"
    assert place.stat().st_mode & 0o777 == 0o700
    data = place / "new" / "data.mdb"
    os.link(data, tmp_path / "other name")
    assert encode(tmp_path / "out", **options).resumed == 0
    (tmp_path / "out").rename(tmp_path / "first")
    interrupted(tmp_path, 2, **options)
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    assert encode(tmp_path / "out", **options).resumed == 0
    (tmp_path / "out").rename(tmp_path / "second")
    interrupted(tmp_path, 2, **options)
    place.chmod(0o770)
    with pytest.raises(StoreError, match="is not a private directory of this user"):
        encode(tmp_path / "out", **options)
    place.chmod(0o700)
    assert encode(tmp_path / "out", **options).resumed == 2


SCRIPT = textwrap.dedent(
    """
    import sys
    from ben_secure.encode import encode, run
    from ben_secure.store import writer

    if __name__ == "__main__":
        writer._CHUNK_BYTES = 200_000
        run._BATCH = 2
        root, workers = sys.argv[1:]
        print("started", flush=True)
        done = encode(root + "/out", s1=root + "/s1", workers=int(workers))
        print(done.written, done.resumed, flush=True)
    """
)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_run_is_resumed(tmp_path, workers):
    """After kills at random moments, repeated runs end with the records of an undisturbed run."""
    for place in range(24):
        make_patch(tmp_path / "s1", S1_NAME.format(place, 1), seed=place)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), workers]
    chance = random.Random(workers)
    kills = 5 if workers == "1" else 1
    while not (tmp_path / "out").exists():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout.readline() == "started\n"
        if kills:
            time.sleep(chance.uniform(0, 0.08 if workers == "1" else 0.6))
            process.send_signal(signal.SIGKILL)
            kills -= 1
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
    encode(tmp_path / "whole", s1=tmp_path / "s1")
    assert records(tmp_path / "out") == records(tmp_path / "whole")
    assert len(records(tmp_path / "out")) == 24


@pytest.mark.parametrize(("batch", "late"), [(2, 0), (1, 1)])
def test_a_worker_that_dies_is_told(tmp_path, monkeypatch, batch, late):
    """A worker that is killed, at work or with its work done, ends the run with the names of the patches it had."""
    for place in range(8):
        make_patch(tmp_path / "s1", S1_NAME.format(place, 1))
    monkeypatch.setattr(run_module, "_BATCH", batch)

    def kill(done, total):
        time.sleep(late)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()

    with pytest.raises(EncodeError, match=r"a worker ended while it read the patches S1A\S+ to S1A"):
        encode(tmp_path / "out", s1=tmp_path / "s1", workers=2, progress=kill)


def test_the_real_patches_are_those_of_the_field(real_data, tmp_path):
    """All six real pairs have the arrays and labels of the databases written by the field's encoder."""
    for archive in real_data.glob("*.tar.bz2"):
        with tarfile.open(archive) as tar, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tar.extractall(tmp_path)
    s1, s2 = tmp_path / "BigEarthNet-S1-Example", tmp_path / "BigEarthNet-S2-Example"
    twins = {
        folder.name: json.loads(label_file(folder).read_text())["corresponding_s2_patch"] for folder in s1.iterdir()
    }
    for name, options in (("s1", {"s1": s1}), ("s2", {"s2": s2}), ("s1_s2", {"s1": s1, "s2": s2})):
        assert encode(tmp_path / name, **options, place=False).written == 6
        with PatchReader(tmp_path / name) as ours:
            for legacy in sorted((real_data / "legacy").glob(f"*/{name}.lmdb")):
                with PatchReader(legacy) as theirs:
                    assert len(theirs) == len(ours)
                    for patch_name in ours:  # only the encoder's own archive has Sentinel-1 patches by their name
                        stored_name = patch_name if patch_name in theirs else twins[patch_name]
                        assert ours[patch_name] == theirs[stored_name]


@pytest.mark.parametrize("workers", [1, 2])
def test_unknown_pixels_are_counted_by_band(tmp_path, workers):
    """No-data values, NaN and masks of all patches are summed for each band, of both sensors, by workers too."""
    make_pairs(tmp_path, 9)
    vv, b02 = pixels(BANDS["VV"]), pixels(BANDS["B02"])
    vv[0, 0], b02[:2] = np.nan, 0
    for place in range(2):
        s1, s2 = S1_NAME.format(place, 7), S2_NAME.format(place, 7)
        (tmp_path / "s1" / s1 / f"{s1}_VV.tif").write_bytes(tiff(vv))
        (tmp_path / "s2" / s2 / f"{s2}_B02.tif").write_bytes(tiff(b02, tags={42113: ("s", [b"0"])}))
    options = {"s1": tmp_path / "s1", "s2": tmp_path / "s2", "workers": workers}
    found = encode(tmp_path / "out", **options).unknown
    assert found.keys() == {"VV", "B02"}
    assert (found["VV"].patches, found["VV"].no_data, found["VV"].not_finite, found["VV"].masks) == (2, 0, 2, 0)
    assert (found["B02"].patches, found["B02"].not_finite) == (2, 0)
    assert found["B02"].no_data == 2 * int((b02 == 0).sum())
    (tmp_path / "s2" / s2 / f"{s2}_B02.tif").write_bytes(tiff(pixels(BANDS["B02"])))
    assert encode(tmp_path / "out2", **options).unknown["B02"].patches == 1


def test_columns_are_chosen(tmp_path):
    """All plain columns become metadata, or those that are named; labels and pairs need no naming."""
    s2_name, s1_name = make_pairs(tmp_path, 1)[0], S1_NAME.format(0, 7)
    table = tmp_path / "t.csv"
    table.write_text(f"patch_id;s1_name;split;country;bands;labels\n{s2_name};{s1_name};train;Austria;4;['Pastures']\n")
    label_file(tmp_path / "s2" / s2_name).unlink()
    label_file(tmp_path / "s1" / s1_name).unlink()
    folders = {"s1": tmp_path / "s1", "s2": tmp_path / "s2", "metadata": table}
    labels = {"labels": ["Pastures"], "new_labels": ["Pastures"]}

    def stored(out, **options):
        done = encode(tmp_path / out, **folders, **options, place=False)
        with PatchReader(tmp_path / out) as reader:
            return reader[s2_name].__stored_args__, done.columns_left_out

    metadata, left_out = stored("all")
    assert metadata == labels | {"s1_name": s1_name, "split": "train", "country": "Austria"}
    assert left_out.keys() == {"bands"}
    assert "would shadow" in left_out["bands"]
    assert stored("one", columns=["country"]) == (labels | {"country": "Austria"}, {})
    assert stored("none", columns=[], labels=False) == ({}, {})
    with pytest.raises(EncodeError, match="the requested column nowhere is not in the metadata tables"):
        encode(tmp_path / "no", **folders, columns=["nowhere"])
    with pytest.raises(ValueError, match="columns requires a metadata table"):
        encode(tmp_path / "no", s2=tmp_path / "s2", columns=["country"])
    assert not (tmp_path / "no").exists()


def test_a_folder_too_low_or_too_high_is_said(tmp_path):
    """For one patch, its parent is named; for a parent one too high, the folders that hold patches."""
    name = make_pairs(tmp_path / "BigEarthNet", 1)[0]
    (tmp_path / "BigEarthNet" / "__MACOSX").mkdir()
    (tmp_path / "notes").mkdir()
    s2 = tmp_path / "BigEarthNet" / "s2"
    scene = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP"
    v2 = make_patch(tmp_path / "v2" / "BigEarthNet-S2" / scene, f"{scene}_1_1")[0].parent.parent
    for root, message in (
        (v2.parent, f"the patches are one folder deeper; name {v2}"),
        (s2 / name, f"it is itself a patch; name {s2}"),
        (tmp_path / "BigEarthNet", f"the patches are one folder deeper; name {s2.with_name('s1')} or {s2}"),
    ):
        for keep_going in (False, True):
            with pytest.raises(EncodeError) as caught:
                encode(tmp_path / "out", s2=root, keep_going=keep_going)
            assert caught.value.message.endswith(printable(message, 400))
    assert encode(tmp_path / "v2.lmdb", s2=v2).written == 1
    with pytest.raises(EncodeError, match=r"no patch folders in .*notes"):
        encode(tmp_path / "out", s2=tmp_path / "notes")
    (s2 / "notes").mkdir()
    assert encode(tmp_path / "out", s2=s2, keep_going=True).failures.count == 1
    (s2 / "notes").rmdir()
    (s2 / "._x").touch()
    (s2 / name / "._x").touch()
    assert encode(tmp_path / "out2", s2=s2, s1=s2.with_name("s1")).passed_over == 2


def test_reference_maps_are_stored(tmp_path):
    """Each patch gets the codes of its map, uint16 (120, 120), found by the Sentinel-2 name."""
    names = make_pairs(tmp_path, 2)
    codes = [make_map(tmp_path / "maps", name, seed) for seed, name in enumerate(names)]
    table = tmp_path / "t.csv"
    rows = [f"{name},{S1_NAME.format(place, 7)}\n" for place, name in enumerate(names)]
    table.write_text("patch_id,s1_name\n" + "".join(rows))
    folders = {"s1": tmp_path / "s1", "s2": tmp_path / "s2"}
    for out, options in (
        ("both", folders),
        ("s2only", {"s2": tmp_path / "s2"}),
        ("s1only", {"s1": tmp_path / "s1", "metadata": table, "columns": []}),
    ):
        done = encode(tmp_path / out, reference_maps=tmp_path / "maps", **options)
        assert (done.written, done.failures.count) == (2, 0)
        with PatchReader(tmp_path / out) as reader:
            for patch, expected in zip(reader.values(), codes, strict=True):
                assert patch.reference_map.dtype == np.uint16
                assert np.array_equal(patch.reference_map, expected)
    encode(tmp_path / "none", **folders)
    with PatchReader(tmp_path / "none") as reader:
        assert not hasattr(reader[names[0]], "reference_map")


@pytest.mark.threat("T15")
def test_bad_reference_maps_are_refused(tmp_path):
    """A missing, linked, misshapen or float map is refused with patch and file; a good one is stored."""
    (name,) = make_pairs(tmp_path, 1)
    good = make_map(tmp_path / "maps", name)
    file = next((tmp_path / "maps").rglob("*.tif"))

    def refused(message):
        with pytest.raises(EncodeError, match=rf"cannot encode patch {name}: .*{message}"):
            encode(tmp_path / "out", s2=tmp_path / "s2", reference_maps=tmp_path / "maps")

    for array, message in (
        (good[:60], "reference_map.tif: it has 60 rows and 120 columns, expected 120"),
        (good.astype("f4"), "reference_map.tif: its pixels are <f4, expected codes of CORINE Land Cover"),
        (good.astype("i4") - 999, "reference_map.tif: its pixels are <i4, expected codes"),
    ):
        file.write_bytes(tiff(array))
        refused(message)
    file.unlink()
    refused("reference_map.tif: No such file")
    file.symlink_to(tmp_path / "s2")
    refused("reference_map.tif: it is a link")
    file.unlink()
    file.parent.rename(file.parent.with_name(name[:-1] + "9"))
    refused(f"has no reference map of {name}")
    file.parent.with_name(name[:-1] + "9").rename(file.parent)
    file.write_bytes(tiff(good.astype("i4")))
    assert encode(tmp_path / "out", s2=tmp_path / "s2", reference_maps=tmp_path / "maps").written == 1


def test_place_and_time_are_stored(tmp_path):
    """Pairs have the place of the Sentinel-2 files; a table's column of the same name goes before it."""
    name = make_pairs(tmp_path, 1)[0]
    folder = tmp_path / "s2" / name
    fields = {33550: ("d", [10.0, 10.0, 0.0]), 33922: ("d", [0.0, 0.0, 0.0, 404400.0, 5342400.0, 0.0])}
    keys = {34735: ("H", [1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32633])}
    (folder / f"{name}_B02.tif").write_bytes(tiff(pixels(BANDS["B02"]), tags=fields | keys))
    document = json.loads(label_file(folder).read_text()) | {"acquisition_date": "2017-06-13 10:10:32"}
    label_file(folder).write_text(json.dumps(document))
    (tmp_path / "t.csv").write_text(f"patch_id,epsg\n{name},mine\n")
    folders = {"s2": tmp_path / "s2", "s1": tmp_path / "s1"}
    place = {"epsg": 32633, "bounds": [404400.0, 5341200.0, 405600.0, 5342400.0], "acquired": "2017-06-13T10:10:32Z"}
    for out, options, expected in (
        ("place", {}, STORED | place),
        ("table", {"metadata": tmp_path / "t.csv"}, STORED | place | {"epsg": "mine"}),
        ("none", {"place": False}, STORED),
    ):
        encode(tmp_path / out, **folders, **options)
        with PatchReader(tmp_path / out) as reader:
            assert reader[name].__stored_args__ == expected
    (folder / f"{name}_B02.tif").write_bytes(tiff(pixels(BANDS["B02"]), tags={33550: ("H", [10, 10, 0])}))
    with pytest.raises(EncodeError, match=r"_B02.tif: its field 33550 has values of type 3, expected floating-point"):
        encode(tmp_path / "no", **folders)
