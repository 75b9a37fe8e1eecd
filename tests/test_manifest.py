"""The signed list has one encoding, and every kind of difference from it is distinguished."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import pickle
import stat
import threading
import tracemalloc
from datetime import datetime, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import ManifestMismatchError, SignatureError, StoreError
from ben_secure.errors import Rule
from ben_secure.signing import _record_list
from ben_secure.signing._record_list import RecordList, write_record_list
from ben_secure.signing.envelope import VerifiedStatement, sign_statement, verify_envelope
from ben_secure.signing.keys import SigningKey
from ben_secure.signing.manifest import Manifest, Mismatch, MismatchKind, manifest_path, open_manifest
from ben_secure.signing.statement import Statement

VECTORS = json.loads((pathlib.Path(__file__).parent / "vectors" / "manifest.json").read_text())
PUBLISHER, STRANGER = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in (1, 3))
PUBLIC = PUBLISHER.verify_key
STATEMENT = Statement(
    name="BigEarthNet-S2",
    version="1.0",
    count=0,
    manifest_sha256="0" * 64,
    created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    tool_version="0.1.0",
)

lmdb_keys = st.binary(min_size=1, max_size=8) | st.binary(min_size=1, max_size=511)
# Few digests, so that some are alike, and some begin alike.
digests = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(8) + bytes([n]) * 24 for n in range(3)])
record_dicts = st.dictionaries(lmdb_keys, digests, max_size=12)


def sha256(value):
    return hashlib.sha256(value).digest()


def records_of(values):
    """Records of some values by LMDB key."""
    return [(lmdb_key, sha256(values[lmdb_key])) for lmdb_key in sorted(values)]


def file_of(records):
    """The bytes of a manifest."""
    file = io.BytesIO()
    written = write_record_list(records, file)
    assert written.sha256 == sha256(file.getvalue())
    assert written.count == len(records)
    return file.getvalue()


def statement_of(data, count, **release):
    """A publisher's statement about these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return dataclasses.replace(STATEMENT, count=count, manifest_sha256=digest, **release)


def verified(statement):
    """The result of ``verify_envelope`` for a statement that was signed."""
    return verify_envelope(sign_statement(statement, [PUBLISHER]), [PUBLIC])


def manifest_of(records):
    """A manifest as a reader has it."""
    data = file_of(records)
    return Manifest(data, verified(statement_of(data, len(records))))


def refused(function, *arguments, match=None):
    """The error with which something is refused."""
    with pytest.raises(ManifestMismatchError, match=match) as caught:
        function(*arguments)
    assert caught.value.rule == Rule.MANIFEST
    return caught.value


@pytest.fixture
def small_chunks(monkeypatch):
    """Make a few records as many as a million."""
    monkeypatch.setattr(_record_list, "_CHUNK_RECORDS", 3)
    monkeypatch.setattr(_record_list, "_SPOOL_BYTES", 100)
    monkeypatch.setattr(_record_list, "_COPY_BYTES", 70)


# Laws of the file.


@given(record_dicts)
def test_what_was_written_is_read(found):
    """All records are read in order, and each is found by its key."""
    records = sorted(found.items())
    listed = RecordList(file_of(records))
    assert list(listed) == records
    assert len(listed) == len(records)
    for lmdb_key, digest in records:
        assert listed.digest_of(lmdb_key) == digest
        assert listed.key_of(digest) == min(k for k, d in records if d == digest)
        for neighbour in (lmdb_key + b"\0", lmdb_key[:-1], lmdb_key[:-1] + bytes([lmdb_key[-1] ^ 1])):
            assert listed.digest_of(neighbour) == found.get(neighbour)
    assert listed.key_of(sha256(b"not in the list")) is None


@given(record_dicts, st.data())
def test_what_is_read_is_written_again(found, data):
    """Bytes that can be read as records are exactly the encoding of these records; all others are refused."""
    changed = bytearray(file_of(sorted(found.items())))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1) | st.integers(0, min(len(changed) - 1, 120)))
        kind = data.draw(st.sampled_from(["flip", "set", "cut", "insert"]))
        if kind == "flip":
            changed[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            changed[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del changed[place : place + data.draw(st.integers(1, 40))]
        else:
            changed[place:place] = data.draw(st.binary(max_size=40))
        if not changed:
            break
    try:
        records = list(RecordList(bytes(changed)))
    except ManifestMismatchError:
        return
    assert file_of(records) == changed


@pytest.mark.usefixtures("small_chunks")
def test_long_lists():
    """Records in many chunks, and files of many blocks, make no difference."""
    records = [(b"%05d" % number, sha256(b"%d" % number)) for number in range(1000)]
    data = file_of(records)
    assert list(RecordList(data)) == records
    assert RecordList(data).digest_of(b"00777") == sha256(b"777")
    for first in range(40):  # wherever it is in a chunk
        swapped = [*records[:first], records[first + 1], records[first], *records[first + 2 : 43]]
        with pytest.raises(ValueError, match="expected ascending keys"):
            file_of(swapped)
        good = file_of(records[:43])
        keys = b"".join(lmdb_key for lmdb_key, _ in records[:43])
        assert good.count(keys) == 1
        bad = good.replace(keys, b"".join(lmdb_key for lmdb_key, _ in swapped))
        RecordList(good)
        refused(RecordList, bad, match="its keys do not ascend")


@pytest.mark.parametrize(
    "records",
    [
        [(b"", bytes(32))],
        [(b"k" * 512, bytes(32))],
        [(b"k", bytes(31))],
        [(b"k", bytes(33))],
        [(b"k", bytes(32)), (b"k", bytes(32))],
        [(b"l", bytes(32)), (b"k", bytes(32))],
        [(b"kk", bytes(32)), (b"k", bytes(32))],
    ],
)
def test_records_that_cannot_be_listed(records):
    """They are the caller's mistake."""
    with pytest.raises(ValueError, match="expected ascending keys of 1 to 511 bytes and digests of 32"):
        write_record_list(records, io.BytesIO())


def test_a_list_costs_little_more_than_its_bytes():
    """While it is opened and when it is open."""
    data = file_of([(b"S2A_MSIL2A_20170613T101031_%08d" % number, sha256(b"%d" % number)) for number in range(50_000)])
    tracemalloc.start()
    try:
        listed = RecordList(data)
        kept, peak = tracemalloc.get_traced_memory()
        assert listed.digest_of(b"S2A_MSIL2A_20170613T101031_%08d" % 49_999) == sha256(b"49999")
    finally:
        tracemalloc.stop()
    assert kept < 20_000
    assert peak < len(data)


# Vectors.


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["case"])
def test_valid_vectors(vector):
    """The package makes the same file, and finds each value in it."""
    values = {bytes.fromhex(lmdb_key): bytes.fromhex(value) for lmdb_key, value in vector["values"].items()}
    data = file_of(records_of(values))
    assert data.hex() == vector["manifest"]
    keys = [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["seed"]))) for key in VECTORS["keys"]]
    manifest = Manifest(data, verify_envelope(vector["envelope"].encode(), [key.verify_key for key in keys]))
    for lmdb_key, value in values.items():
        manifest.check(lmdb_key, value)
    assert list(manifest.diff(records_of(values))) == []


@pytest.mark.parametrize("vector", VECTORS["invalid_manifests"], ids=lambda vector: vector["case"])
def test_invalid_vectors(vector):
    """A malformed file is refused even if its digest is signed."""
    data = bytes.fromhex(vector["manifest"])
    refused(Manifest, data, verified(statement_of(data, 4)), match="this is not a manifest of records")


# The manifest and its statement.


@pytest.mark.threat("T8")
@given(st.data())
def test_every_changed_manifest_is_refused(data):
    """A flipped bit, missing or additional bytes, and exchanged records are refused."""
    records = records_of({b"a": b"1", b"b": b"2", b"c": b"3"})
    good = file_of(records)
    statement = verified(statement_of(good, 3))
    assert list(Manifest(good, statement)) == records
    bit = data.draw(st.integers(0, len(good) * 8 - 1))
    flipped = bytearray(good)
    flipped[bit // 8] ^= 1 << bit % 8
    end = data.draw(st.integers(0, len(good) - 1))
    swapped = file_of([(b"a", records[1][1]), (b"b", records[0][1]), records[2]])
    shorter = file_of(records[:2])
    for changed in (bytes(flipped), good[:end], good + data.draw(st.binary(min_size=1, max_size=9)), swapped, shorter):
        error = refused(
            Manifest, changed, statement, match="this manifest is not the one that was signed: its SHA-256 is"
        )
        assert f"expected {statement.statement.manifest_sha256}; " in error.message


@pytest.mark.parametrize("count", [0, 2, 4])
def test_the_count_is_signed_too(count):
    """A list that does not have as many records as the statement says is refused."""
    data = file_of(records_of({b"a": b"1", b"b": b"2", b"c": b"3"}))
    Manifest(data, verified(statement_of(data, 3)))
    refused(Manifest, data, verified(statement_of(data, count)), match=f"has 3 records, expected {count}")


@pytest.mark.threat("T8")
def test_the_count_of_the_database():
    """Known at open, before a value is read."""
    manifest = manifest_of(records_of({b"a": b"1", b"b": b"2"}))
    manifest.check_count(2)
    refused(manifest.check_count, 1, match="the database has 1 record, expected 2 as signed")
    refused(manifest.check_count, 3, match="the database has 3 records")


def test_a_manifest_is_made_of_a_verified_statement_only():
    """A statement that was not verified has another type, and is not accepted."""
    data = file_of([])
    with pytest.raises(AttributeError):
        Manifest(data, statement_of(data, 0))
    assert type(verified(statement_of(data, 0))) is VerifiedStatement


VALUES = {b"a": b"1", b"b": b"2", b"c": b"3", b"copy of c": b"3"}


@pytest.mark.threat("T8")
@pytest.mark.parametrize(
    ("lmdb_key", "value", "match"),
    [
        (b"a", b"2", "the value was moved: in the signed manifest it belongs to the LMDB key b'b'"),
        (b"b", b"3", "belongs to the LMDB key b'c'"),
        (b"a", b"1\0", "the value was changed: it is not the one in the signed manifest"),
        (b"a", b"", "the value was changed"),
        (b"d", b"new", "the record was added: it is not in the signed manifest; fetch"),
        (b"d", b"1", "the record was added: .* with the value of the LMDB key b'a'"),
        (b"A", b"1", "the record was added"),
        (b"", b"1", "the record was added"),
    ],
)
def test_a_value_that_is_not_as_signed(lmdb_key, value, match):
    """The error has the kind of the difference, the record, and the remedy."""
    manifest = manifest_of(records_of(VALUES))
    for key, good in VALUES.items():
        manifest.check(key, good)
    error = refused(manifest.check, lmdb_key, value, match=match)
    assert error.lmdb_key == lmdb_key
    assert "fetch this database again" in error.message
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@given(st.dictionaries(lmdb_keys, st.binary(max_size=2), max_size=6), st.data())
def test_a_flipped_bit_of_a_value_is_refused(values, data):
    """For any record in the list, and any meaning of the changed value."""
    values |= {b"name": b"value"}
    manifest = manifest_of(records_of(values))
    lmdb_key = data.draw(st.sampled_from([k for k, v in values.items() if v]))
    changed = bytearray(values[lmdb_key])
    bit = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    refused(manifest.check, lmdb_key, bytes(changed))


few = st.dictionaries(st.binary(min_size=1, max_size=2), st.sampled_from([sha256(b"%d" % n) for n in range(5)]))


@pytest.mark.threat("T8")
@given(few, few)
def test_the_difference_is_complete(listed, found):
    """Every record that is missing, added, changed or moved, once, in key order, and no other."""
    expected = []
    for lmdb_key in sorted(listed.keys() | found.keys()):
        was, now = listed.get(lmdb_key), found.get(lmdb_key)
        owner = min((k for k, d in listed.items() if d == now), default=None)
        if now is None:
            expected.append(Mismatch(kind=MismatchKind.MISSING, lmdb_key=lmdb_key))
        elif was is None:
            expected.append(Mismatch(kind=MismatchKind.ADDED, lmdb_key=lmdb_key, belongs_to=owner))
        elif was != now:
            kind = MismatchKind.CHANGED if owner is None else MismatchKind.MOVED
            expected.append(Mismatch(kind=kind, lmdb_key=lmdb_key, belongs_to=owner))
    manifest = manifest_of(sorted(listed.items()))
    assert list(manifest.diff(iter(sorted(found.items())))) == expected
    assert list(manifest.diff(sorted(listed.items()))) == []


def test_mismatches_as_errors():
    """Text from the file is escaped, and a missing record is reported as missing."""
    error = Mismatch(kind=MismatchKind.MISSING, lmdb_key=b"\x1b[31m").error()
    assert "the record is missing" in str(error)
    assert r"\x1b[31m" in str(error)
    assert "\x1b" not in str(error)
    assert [str(kind) for kind in MismatchKind] == ["missing", "added", "changed", "moved"]


def test_what_a_manifest_shows():
    """Release, size and signers."""
    manifest = manifest_of(records_of(VALUES))
    assert repr(manifest) == "<Manifest of BigEarthNet-S2 1.0, 4 records>"
    assert manifest.statement.version == "1.0"
    assert manifest.signed_by == (PUBLIC,)
    assert list(manifest) == records_of(VALUES)
    assert manifest.digest_of(b"a") == sha256(b"1")
    assert manifest.digest_of(b"z") is None


def test_threads_share_a_manifest():
    """The index that the first failure builds is built by several at once, and serves all."""
    values = {b"%d" % number: b"value %d" % number for number in range(5000)}
    manifest = manifest_of(records_of(values))
    barrier = threading.Barrier(8)
    errors = []

    def check(number):
        barrier.wait()
        try:
            manifest.check(b"%d" % number, b"value %d" % (number + 1))
        except ManifestMismatchError as error:
            errors.append(f"b'{number + 1}'" in str(error))

    threads = [threading.Thread(target=check, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [True] * 8


# The two files.


@pytest.fixture
def release(tmp_path):
    """Write manifest and envelope of a release of some values; returns the path of the manifest."""

    def write(values=VALUES, signers=(PUBLISHER,), **said):
        records = records_of(values)
        data = file_of(records)
        path = tmp_path / "ben.lmdb.manifest"
        path.write_bytes(data)
        statement = statement_of(data, len(records), **said)
        envelope_of(path).write_bytes(sign_statement(statement, signers))
        return path

    return write


def envelope_of(path):
    return path.with_name(path.name + ".dsse.json")


def test_a_release_is_opened(release):
    """By any of the keys, as the release that was asked for."""
    path = release()
    manifest = open_manifest(path, [STRANGER.verify_key, PUBLIC], name="BigEarthNet-S2", version="1.0")
    assert list(manifest) == records_of(VALUES)
    assert list(open_manifest(str(path), [PUBLIC])) == records_of(VALUES)
    both = open_manifest(release(signers=(PUBLISHER, STRANGER)), [STRANGER.verify_key, PUBLIC], threshold=2)
    assert len(both.signed_by) == 2


@pytest.mark.threat("T8")
def test_an_old_release_is_not_the_new_one(release):
    """It is refused as a whole, with the new envelope, and the new manifest with its envelope, too."""
    path = release(VALUES | {b"withdrawn": b"4"}, version="1.0")
    old = path.read_bytes(), envelope_of(path).read_bytes()
    path = release(version="1.1")
    new = path.read_bytes(), envelope_of(path).read_bytes()
    for (data, envelope), match in (
        (old, "another release: version 1.0, expected 1.1"),
        ((old[0], new[1]), "not the one that was signed"),
        ((new[0], old[1]), "another release: version 1.0, expected 1.1"),
    ):
        path.write_bytes(data)
        envelope_of(path).write_bytes(envelope)
        refused(lambda: open_manifest(path, [PUBLIC], version="1.1"), match=match)
    path.write_bytes(new[0])
    envelope_of(path).write_bytes(new[1])
    assert len(open_manifest(path, [PUBLIC], version="1.1")) == len(VALUES)


@pytest.mark.threat("T8")
def test_a_forged_release(release):
    """A release that is well-formed and signed, but not by the publisher, is refused."""
    path = release(signers=(STRANGER,))
    assert open_manifest(path, [STRANGER.verify_key])
    with pytest.raises(SignatureError, match="signed by 0 of the keys") as caught:
        open_manifest(path, [PUBLIC])
    assert caught.value.database == str(envelope_of(path))


def test_the_envelope_is_verified_before_the_manifest_is_read(release):
    """Nothing that is not signed is even opened."""
    path = release(signers=(STRANGER,))
    path.unlink()
    with pytest.raises(SignatureError):
        open_manifest(path, [PUBLIC])
    with pytest.raises(StoreError):
        open_manifest(path, [STRANGER.verify_key])


@pytest.mark.parametrize("which", ["manifest", "envelope"])
def test_a_missing_file(release, which):
    """It cannot be decided without; the message says what to fetch, not how to do without."""
    path = release()
    missing = path if which == "manifest" else envelope_of(path)
    missing.unlink()
    with pytest.raises(StoreError, match="the file does not exist, so the signed content is unknown") as caught:
        open_manifest(path, [PUBLIC])
    assert caught.value.database == str(missing)


@pytest.mark.parametrize("which", ["manifest", "envelope"])
@pytest.mark.parametrize("kind", ["directory", "FIFO", "unreadable name"])
def test_what_is_no_file(release, which, kind):
    """A directory, or a FIFO without a writer, ends in an error without waiting."""
    path = release()
    place = path if which == "manifest" else envelope_of(path)
    if kind == "unreadable name":
        with pytest.raises(StoreError, match="cannot read the file"):
            open_manifest(f"{path}\0", [PUBLIC])
        return
    place.unlink()
    os.mkdir(place) if kind == "directory" else os.mkfifo(place)
    with pytest.raises(StoreError, match=r"cannot read the file|not a regular file"):
        open_manifest(path, [PUBLIC])
    assert stat.S_IFMT(place.stat().st_mode) in (stat.S_IFDIR, stat.S_IFIFO)


def test_no_more_is_read_than_can_be_right(release):
    """Files of a terabyte (without any disk space) are refused at once, because the statement bounds the manifest."""
    path = release()
    os.truncate(path, 2**40)
    refused(lambda: open_manifest(path, [PUBLIC]), match="not the one that was signed")
    os.truncate(envelope_of(path), 2**40)
    with pytest.raises(SignatureError, match="expected at most 65536"):
        open_manifest(path, [PUBLIC])


def test_a_list_of_the_longest_keys_is_read_whole(release):
    """The bound on its length is one that honest lists keep."""
    values = {bytes([number]) * 511: b"" for number in range(256)}
    assert len(open_manifest(release(values), [PUBLIC])) == 256


def test_where_a_manifest_is_looked_for(tmp_path, monkeypatch):
    """The manifest is beside the database and never inside, for all forms of its path."""
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "ben.lmdb.manifest")
    for name in ("ben.lmdb", "./ben.lmdb", "ben.lmdb/", "ben.lmdb/data.mdb", pathlib.Path("ben.lmdb")):
        assert manifest_path(name) == expected
    (tmp_path / "ben.lmdb").mkdir()
    monkeypatch.chdir(tmp_path / "ben.lmdb")
    for name in (".", "data.mdb"):
        assert manifest_path(name) == expected
