"""A reader refuses, before it decodes anything, every value that does not verify as its caller asked."""

import base64
import dataclasses
import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
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
    UntrustedDataError,
    Verification,
)
from ben_secure.audit import Options, Run, audit_database
from ben_secure.batches import PatchArrays
from ben_secure.pages.reader import PageReader
from ben_secure.patches import random_ben_S1_band
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey, Suite
from ben_secure.signing.tags import append_tag
from ben_secure.stats import stats
from ben_secure.store.change.convert import convert
from ben_secure.store.change.sign import sign_database
from ben_secure.store.change.verify import verify

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
    """They are read with the key and the context, and with one of several keys."""
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
    """The same database with both correct is read above."""
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
        assert reader.verified.startswith(f"tags of context '{CONTEXT}' by {mac_key.fingerprint}; manifest of ")
    wrong = PatchReader(tagged, mac_key=MacKey.generate(), verify_key=publisher.verify_key)
    with wrong as reader, pytest.raises(TagMismatchError):
        reader["patch 0"]


@pytest.mark.threat("T8")
def test_a_key_of_the_team_does_not_replace_the_publishers_signature(tagged, mac_key, publisher):
    """A value that the team has tagged again is refused by the manifest; the other values pass both checks."""
    sign(tagged, publisher)
    other = append_tag(mac_key, CONTEXT.encode(), b"patch 0", make_patch(7).dumps())
    change(tagged, lambda values: {b"patch 0": other})
    with PatchReader(tagged, mac_key=mac_key, context=CONTEXT) as reader:
        assert reader["patch 0"] == make_patch(7)
    with PatchReader(tagged, mac_key=mac_key, context=CONTEXT, verify_key=publisher.verify_key) as reader:
        assert reader["patch 1"] == make_patch(1)
        with pytest.raises(ManifestMismatchError):
            reader["patch 0"]


# The object that says what to verify.


def read(database, verification):
    with PatchReader(database, verification=verification) as reader:
        dict(reader.items())


def batch(database, verification):
    PatchArrays(database, bands="S1", labels=None, verification=verification).batch(range(3))


def count(database, verification):
    stats(database, verification=verification)


def audit(database, verification):
    options = Options(verification=verification, opinions=False)
    if audit_database(database, options=options, run=Run(workers=1)).exit_code == 1:
        raise UntrustedDataError("the audit has findings")


def check(database, verification):
    with PageReader(database) as pages:
        if verify(pages, verification).refused:
            raise UntrustedDataError("there are faults")


def copy(database, verification):
    for error in convert(database, f"{database}.new", verification=verification).refusals.first:
        raise error


CONSUMERS = [read, batch, count, audit, check, copy]


@pytest.mark.threat("T8")
@pytest.mark.threat("T9")
@pytest.mark.parametrize("consume", CONSUMERS)
@pytest.mark.parametrize("asked", ["tags", "manifest", "both"])
def test_one_object_is_taken_everywhere(tagged, mac_key, publisher, consume, asked):
    """Everything that reads a database accepts the signed one, and refuses one with exchanged values."""
    sign(tagged, publisher)
    tags = {"mac_key": mac_key, "context": CONTEXT}
    manifest = {"verify_key": publisher.verify_key, "name": "BigEarthNet-S1", "version": "1.0"}
    verification = Verification(**(manifest if asked == "manifest" else tags if asked == "tags" else tags | manifest))
    consume(tagged, verification)
    shutil.rmtree(f"{tagged}.new", ignore_errors=True)
    change(tagged, lambda v: {b"patch 0": v[b"patch 1"]})
    with pytest.raises(UntrustedDataError):
        consume(tagged, verification)


@pytest.mark.parametrize("consume", CONSUMERS)
def test_nothing_else_stands_in_for_it(tagged, mac_key, publisher, consume):
    """A key alone, or a path, is the caller's mistake and not taken for no demand."""
    for wrong in (mac_key, publisher.verify_key, "key", {"mac_key": mac_key}):
        with pytest.raises(TypeError, match=f"verification must be Verification, not {type(wrong).__name__}"):
            consume(tagged, wrong)


def test_the_readers_keywords_make_one(tagged, mac_key, publisher):
    """For a reader and a dataset; defaults request nothing, and keywords together with an object are a mistake."""
    sign(tagged, publisher)
    parts = {
        "mac_key": mac_key, "context": CONTEXT, "verify_key": publisher.verify_key, "threshold": 1,
        "manifest": f"{tagged}.manifest", "name": "BigEarthNet-S1", "version": "1.0",
    }  # fmt: skip
    nothing = dict.fromkeys(parts) | {"context": "", "threshold": 1}
    verification = Verification(**parts)
    for make in (PatchReader, lambda path, **options: PatchArrays(path, labels=None, bands="S1", **options).readers[0]):
        for options, expected in (
            (parts, verification),
            ({"verification": verification}, verification),
            (nothing | {"verification": verification}, verification),
            (nothing, None),
            ({}, None),
        ):
            with make(tagged, **options) as reader:
                assert reader.verification == expected
                assert (reader.verified is None) == (expected is None)
        with pytest.raises(
            ValueError, match="a verification has its own keys; pass context, mac_key to the Verification"
        ):
            make(tagged, verification=verification, mac_key=mac_key, context=CONTEXT)
        for unknown in ({"mackey": None}, {"mac_key": mac_key, "contxt": CONTEXT}):
            with pytest.raises(TypeError, match="unexpected keyword argument"):
                make(tagged, **unknown)


def test_an_open_reader_keeps_its_own(tagged, mac_key):
    """Functions that take a reader accept no verification with it."""
    verification = Verification(mac_key=mac_key, context=CONTEXT)
    with PatchReader(tagged, verification=verification) as reader:
        assert stats(reader).patches == len(PatchArrays(reader, bands="S1", labels=None)) == 3
        for consume in (stats, lambda reader, **options: PatchArrays(reader, bands="S1", labels=None, **options)):
            with pytest.raises(ValueError, match="an open reader has its own verification"):
                consume(reader, verification=verification)


KEY = MacKey(bytes(range(32)))
FIRST, SECOND = SigningKey.generate(), SigningKey.generate()
PUBLISHED = {"verify_key": FIRST.verify_key}
BOTH = [FIRST.verify_key, SECOND.verify_key]


@pytest.mark.parametrize(
    ("wrong", "message", "right"),
    [
        ({}, "a verification needs mac_key, verify_key, or both", {"mac_key": KEY, **PUBLISHED}),
        ({"context": "c"}, "context requires mac_key", {"context": "c", "mac_key": KEY}),
        ({"context": "c", **PUBLISHED}, "context requires mac_key", PUBLISHED),
        ({"mac_key": KEY, "context": "c" * 256}, "256 bytes", {"mac_key": KEY, "context": "c" * 255}),
        ({"mac_key": KEY, "context": "\ud800"}, "surrogates", {"mac_key": KEY, "context": "\ue000"}),
        ({"mac_key": KEY, "threshold": 2}, "threshold require verify_key", {"verify_key": BOTH, "threshold": 2}),
        ({"mac_key": KEY, "manifest": "m"}, "manifest, .* require verify_key", {"manifest": "m", **PUBLISHED}),
        ({"mac_key": KEY, "name": "n"}, "name, .* require verify_key", {"name": "n", **PUBLISHED}),
        ({"mac_key": KEY, "version": "1"}, "version and .* require verify_key", {"version": "1", **PUBLISHED}),
        ({"verify_key": []}, "verify_key must contain at least one key", {"verify_key": BOTH[:1]}),
        ({"verify_key": BOTH, "threshold": 3}, "threshold is 3, expected 1 to 2", {"verify_key": BOTH, "threshold": 2}),
        ({"verify_key": BOTH, "threshold": 0}, "threshold is 0, expected 1 to 2", {"verify_key": BOTH, "threshold": 1}),
        ({"verify_key": BOTH[:1] * 2, "threshold": 2}, "expected 1 to 1", {"verify_key": BOTH[:1] * 2}),
        ({"threshold": True + 1.0, "verify_key": BOTH}, "threshold is 2.0", {"threshold": 2, "verify_key": BOTH}),
    ],
)
def test_what_means_nothing_is_the_callers_mistake(wrong, message, right):
    """A field without its key, no key, or more signatures than keys; similar correct arguments are accepted."""
    with pytest.raises(ValueError, match=message):
        Verification(**wrong)
    made = Verification(**right)
    assert made == Verification(**right) == pickle.loads(pickle.dumps(made))


@pytest.mark.threat("T10")
@pytest.mark.parametrize(
    "wrong",
    [
        {"mac_key": bytes(range(32))},
        {"mac_key": FIRST},
        {"mac_key": FIRST.verify_key},
        {"mac_key": [KEY]},
        {"verify_key": KEY},
        {"verify_key": MacKeySet(KEY)},
        {"verify_key": FIRST},
        {"verify_key": [FIRST.verify_key, KEY]},
        {"verify_key": "publisher.pub"},
        {"mac_key": KEY, "context": 3},
        {"mac_key": KEY, "context": None},
        {"name": b"n", **PUBLISHED},
        {"version": 1, **PUBLISHED},
        {"manifest": 3, **PUBLISHED},
    ],
)
def test_no_kind_of_key_stands_in_for_another(wrong):
    """Other objects are refused, too; the message has the types and no secret."""
    with pytest.raises(TypeError) as error:
        Verification(**wrong)
    assert not any(secret in str(error.value) for secret in secrets(KEY))


def secrets(mac_key):
    """The secret in the spellings in which it could leak."""
    secret = pickle.loads(pickle.dumps(mac_key)).__reduce__()[1][0]
    return secret.hex(), base64.urlsafe_b64encode(secret).decode().rstrip("="), repr(secret)[2:20]


def test_one_key_and_a_list_of_one_are_the_same():
    """Each spelling makes an equal object, fit for a set and for ``dataclasses.replace``."""
    one = Verification(verify_key=FIRST.verify_key, manifest="m")
    several = Verification(verify_key=[FIRST.verify_key], manifest="m")
    assert len({one, several, dataclasses.replace(several)}) == 1
    assert one.verify_keys == (FIRST.verify_key,)
    assert list(Verification(mac_key=KEY).mac_keys) == [KEY]
    assert dataclasses.replace(one, mac_key=KEY, threshold=1).mac_keys == MacKeySet(KEY)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.verify_key = None


@pytest.mark.threat("T10")
def test_it_shows_key_ids_and_no_secret(tagged):
    """In its ``repr`` and in the description of a reader."""
    verification = Verification(mac_key=MacKeySet(KEY), context=CONTEXT, verify_key=BOTH, version="1.0")
    for name in (KEY.fingerprint, FIRST.fingerprint, SECOND.fingerprint, CONTEXT, "1.0"):
        assert name in repr(verification)
    tags = dataclasses.replace(verification, verify_key=None, version=None)
    with PatchReader(tagged, verification=tags) as reader:
        for text in (repr(verification), repr(reader), reader.verified, repr(Options(verification=verification))):
            assert not any(secret in text for secret in secrets(KEY))


class MarkedKey(MacKey):
    """A key that knows more than its secret."""

    __slots__ = ("mark",)

    def __init__(self, secret, suite, mark):
        super().__init__(secret, suite)
        self.mark = mark

    def __reduce__(self):
        return MarkedKey, (*super().__reduce__()[1], self.mark)


def marks_in_worker(verification):
    return verification, [key.mark for key in verification.mac_keys]


def test_it_travels_to_workers_whole():
    """A spawned process has an equal object with the same keys."""
    keys = MacKeySet(MarkedKey(bytes(range(32)), Suite.HS256, 2), MarkedKey(bytes(32), Suite.A256GMAC, 1))
    verification = Verification(
        mac_key=keys, context=CONTEXT, verify_key=BOTH, threshold=2, manifest="m", name="n", version="1"
    )
    # Unlike a Pool, it ends with an error if the sent object cannot be unpickled.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for given, marks in ((verification, [2, 1]), (Verification(mac_key=keys.signing), [2])):
            assert pool.submit(marks_in_worker, given).result() == (given, marks)


def read_in_worker(reader):
    return reader["patch 1"].labels


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_keys_travel_to_workers(tagged, mac_key, method):
    """A pickled reader carries its keys, and nothing that prints them."""
    with PatchReader(tagged, mac_key=mac_key, context=CONTEXT) as reader:
        assert bytes(range(32)).hex() not in repr(reader) + str(reader.verified)
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert pool.submit(read_in_worker, reader).result() == ["1"]


def test_a_manifest_is_that_of_one_database(tmp_path):
    """Of several databases each has its own beside it, so naming one for all is a mistake of the caller."""
    verify_key = SigningKey.generate().verify_key
    named = Verification(verify_key=verify_key, manifest=tmp_path / "a.manifest")
    named.check_databases(1)
    Verification(verify_key=verify_key).check_databases(2)
    with pytest.raises(ValueError, match="manifest is for a single database"):
        named.check_databases(2)
