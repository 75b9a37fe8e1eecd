"""A reader refuses, before it decodes anything, every value that does not verify as its caller asked."""

import multiprocessing
import pickle
import shutil
from datetime import datetime, timezone

import lmdb
import numpy as np
import pytest

from ben_secure import (
    BigEarthNet_S1_Patch,
    ManifestMismatchError,
    PatchReader,
    PatchWriter,
    SignatureError,
    StoreError,
    TagMismatchError,
)
from ben_secure.patches import random_ben_S1_band
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey
from ben_secure.store.change.sign import sign_database

CONTEXT = "BigEarthNet-S1"


def make_patch(seed):
    np.random.seed(seed)
    return BigEarthNet_S1_Patch(random_ben_S1_band(), random_ben_S1_band(), labels=[str(seed)])


@pytest.fixture
def mac_key():
    return MacKey(bytes(range(32)))


@pytest.fixture
def tagged(tmp_path, mac_key):
    """A database of three tagged patches."""
    with PatchWriter(tmp_path / "tagged.lmdb", mac_key=mac_key, context=CONTEXT) as writer:
        for seed in range(3):
            writer[f"patch {seed}"] = make_patch(seed)
    return tmp_path / "tagged.lmdb"


def change(database, change_values):
    """Change the raw values of a database."""
    with lmdb.open(str(database), map_size=2**28, lock=False) as environment, environment.begin(write=True) as writing:
        values = {bytes(key): bytes(value) for key, value in writing.cursor()}
        for key, value in change_values(dict(values)).items():
            writing.put(key, value)


@pytest.mark.threat("T9")
def test_tagged_patches_are_read(tagged, mac_key):
    """With the key and the context, and with one of several keys."""
    for key in (mac_key, MacKeySet(MacKey.generate(), mac_key)):
        with PatchReader(tagged, mac_key=key, context=CONTEXT) as reader:
            assert [reader[name].labels for name in reader] == [["0"], ["1"], ["2"]]
            assert CONTEXT in str(reader.verified)
            assert mac_key.fingerprint in str(reader.verified)


@pytest.mark.threat("T9")
@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda v: {b"patch 0": v[b"patch 0"][:-64]}, id="untagged"),
        pytest.param(lambda v: {b"patch 0": v[b"patch 1"]}, id="swapped"),
        pytest.param(lambda v: {b"patch 0": v[b"patch 0"][:999] + b"\0" + v[b"patch 0"][1000:]}, id="changed"),
        pytest.param(lambda v: {b"patch 0": v[b"patch 0"] + b"\0"}, id="extended"),
        pytest.param(lambda v: {b"patch 0": pickle.dumps(print)}, id="replaced"),
    ],
)
def test_a_value_that_is_not_the_tagged_one_is_refused(tagged, mac_key, attack):
    """Before it is decoded, with the database and the LMDB key; the others are still read."""
    change(tagged, attack)
    with PatchReader(tagged, mac_key=mac_key, context=CONTEXT) as reader:
        for read in (reader.__getitem__, reader.raw):
            with pytest.raises(TagMismatchError) as refusal:
                read("patch 0")
            assert refusal.value.lmdb_key == b"patch 0"
            assert refusal.value.database == str(tagged)
        assert reader["patch 2"].labels == ["2"]


@pytest.mark.threat("T9")
def test_another_key_or_context_is_refused(tagged, mac_key):
    """The twin with both right is read above."""
    for key, context in ((MacKey.generate(), CONTEXT), (mac_key, "another"), (mac_key, "")):
        with PatchReader(tagged, mac_key=key, context=context) as reader, pytest.raises(TagMismatchError):
            reader["patch 0"]


def test_tagged_patches_are_read_without_a_key(tagged):
    """As by every program that knows nothing of tags: the footer is passed over, and nothing is claimed."""
    with PatchReader(tagged) as reader:
        assert reader["patch 1"] == make_patch(1)
        assert reader.verified is None


@pytest.fixture
def publisher():
    return SigningKey.generate()


def sign(database, publisher, version="1.0"):
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    return sign_database(database, [publisher], name="BigEarthNet-S1", version=version, created=created)


@pytest.fixture
def released(tmp_path, publisher):
    """A database of three patches with a signed manifest beside it."""
    with PatchWriter(tmp_path / "released.lmdb") as writer:
        for seed in range(3):
            writer[f"patch {seed}"] = make_patch(seed)
    sign(tmp_path / "released.lmdb", publisher)
    return tmp_path / "released.lmdb"


@pytest.mark.threat("T8")
def test_released_patches_are_read(released, publisher):
    """With the publisher's public key, and with name and version asked for; pickled readers verify too."""
    key = publisher.verify_key
    with PatchReader(released, verify_key=key, name="BigEarthNet-S1", version="1.0") as reader:
        assert reader["patch 1"] == make_patch(1)
        assert "1.0" in str(reader.verified)
        with pickle.loads(pickle.dumps(reader)) as twin:
            assert twin["patch 1"] == make_patch(1)
            assert twin.verified == reader.verified


@pytest.mark.threat("T8")
@pytest.mark.parametrize(
    ("attack", "words"),
    [
        pytest.param(lambda v: {b"patch 0": v[b"patch 0"][:-1] + b"\0"}, "changed", id="changed"),
        pytest.param(lambda v: {b"patch 0": v[b"patch 1"]}, "moved", id="moved"),
    ],
)
def test_a_value_that_is_not_the_signed_one_is_refused(released, publisher, attack, words):
    """The message says which: changed, or the value of another key."""
    change(released, attack)
    with PatchReader(released, verify_key=publisher.verify_key) as reader:
        with pytest.raises(ManifestMismatchError, match=words):
            reader["patch 0"]
        assert reader["patch 2"].labels == ["2"]


@pytest.mark.threat("T8")
def test_a_record_under_another_name_is_refused(released, publisher):
    """A record that was renamed is missing under the one name and added under the other."""
    with lmdb.open(str(released), map_size=2**28, lock=False) as environment, environment.begin(write=True) as writing:
        value = writing.pop(b"patch 0")
        writing.put(b"patch 9", value)
    with PatchReader(released, verify_key=publisher.verify_key) as reader:
        with pytest.raises(ManifestMismatchError, match="missing"):
            reader["patch 0"]
        with pytest.raises(ManifestMismatchError, match="added"):
            reader["patch 9"]
        with pytest.raises(KeyError):
            reader["never there"]


@pytest.mark.threat("T8")
def test_what_is_refused_at_open(released, publisher, tmp_path):
    """A missing or altered manifest, another key, name or version, an old release, another number of records."""
    key = publisher.verify_key
    for wrong, error in (
        ({"verify_key": SigningKey.generate().verify_key}, SignatureError),
        ({"verify_key": key, "name": "another"}, ManifestMismatchError),
        ({"verify_key": key, "version": "2.0"}, ManifestMismatchError),
        ({"verify_key": key, "manifest": tmp_path / "nowhere"}, StoreError),
    ):
        with pytest.raises(error) as refusal:
            PatchReader(released, **wrong)
        assert refusal.value.database is not None
    manifest = tmp_path / "released.lmdb.manifest"
    intact = manifest.read_bytes()
    manifest.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(ManifestMismatchError):
        PatchReader(released, verify_key=key)
    manifest.write_bytes(intact)
    shutil.copytree(released, tmp_path / "longer.lmdb")
    change(tmp_path / "longer.lmdb", lambda v: {b"one more": v[b"patch 0"]})
    with pytest.raises(ManifestMismatchError, match="4 records"):
        PatchReader(tmp_path / "longer.lmdb", verify_key=key, manifest=manifest)
    with PatchReader(released, verify_key=key) as reader:
        assert len(reader) == 3


@pytest.mark.threat("T8")
@pytest.mark.threat("T9")
def test_both_can_be_asked_for(tagged, mac_key, publisher):
    """Tags and manifest: each value has to pass both."""
    sign(tagged, publisher)
    with PatchReader(tagged, mac_key=mac_key, context=CONTEXT, verify_key=publisher.verify_key) as reader:
        assert reader["patch 0"] == make_patch(0)
        assert reader.verified.tags
        assert reader.verified.manifest
    wrong = PatchReader(tagged, mac_key=MacKey.generate(), verify_key=publisher.verify_key)
    with wrong as reader, pytest.raises(TagMismatchError):
        reader["patch 0"]


def test_what_means_nothing_is_the_callers_mistake(tagged, mac_key, publisher):
    """Types that stand in for one another, and demands without their key."""
    for wrong in (
        {"mac_key": b"secret" * 6},
        {"mac_key": publisher},
        {"verify_key": publisher},
        {"verify_key": mac_key},
        {"mac_key": mac_key, "context": 3},
    ):
        with pytest.raises(TypeError):
            PatchReader(tagged, **wrong)
    for wrong in ({"context": "x"}, {"version": "1.0"}, {"manifest": "m"}, {"verify_key": []}, {"threshold": 2}):
        with pytest.raises(ValueError, match=r"without|empty"):
            PatchReader(tagged, **wrong)


def read_in_worker(reader):
    return reader["patch 1"].labels


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_keys_travel_to_workers(tagged, mac_key, method):
    """A pickled reader carries its keys, and nothing that prints them."""
    with PatchReader(tagged, mac_key=mac_key, context=CONTEXT) as reader:
        assert bytes(range(32)).hex() not in repr(reader) + str(reader.verified)
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(read_in_worker, (reader,)) == ["1"]
