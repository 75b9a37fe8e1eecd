"""Signing a database: the manifest matches the content, the database is unchanged, and files appear complete."""

import hashlib
import os
import pathlib
import shutil
import stat
from datetime import datetime, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import ben_secure
from ben_secure import LimitExceededError, Limits, ManifestMismatchError, PatchFormatError, StoreError
from ben_secure.errors import Rule
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import SigningKey
from ben_secure.signing.manifest import MismatchKind, open_manifest
from ben_secure.signing.policy import Verification, Verifier
from ben_secure.signing.statement import Predecessor, Statement
from ben_secure.store.change import sign
from ben_secure.store.change.digests import record_digests
from ben_secure.store.change.sign import sign_database, sign_release
from support.databases import make_database
from support.page_files import build, open_env

PUBLISHER, PARTNER = (SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in (1, 2))
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
RELEASE = {"name": "BigEarthNet-S2", "version": "1.0", "created": CREATED}
VALUES = {b"patch %d" % number: os.urandom(number * 700) for number in range(20)}


@pytest.fixture
def database(tmp_path):
    """A database in a directory of its own."""
    folder = tmp_path / "ben.lmdb"
    folder.mkdir()
    build(folder / "data.mdb", VALUES.items())
    return folder


def opened(signed, **asked):
    """The manifest as a reader opens it."""
    return open_manifest(signed.manifest, [PUBLISHER.verify_key], **asked)


def differences(database, signed):
    """Every record that is not as signed: kind, key, and the key to which its value belongs."""
    with PageReader(database) as pages:
        found = list(opened(signed).diff(record_digests(pages)))
    return [(str(mismatch.kind), mismatch.lmdb_key, mismatch.belongs_to) for mismatch in found]


def hidden(folder):
    """Files that should not be there any more."""
    return [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]


def test_a_signed_database(database):
    """Both files are beside it and readable by everybody, every record is as signed, and the database is unchanged."""
    before = (database / "data.mdb").read_bytes()
    signed = sign_database(database, [PUBLISHER], **RELEASE, license="CDLA-Permissive-1.0")
    assert (database / "data.mdb").read_bytes() == before
    assert sorted(os.listdir(database)) == ["data.mdb"]
    assert sorted(os.listdir(database.parent)) == ["ben.lmdb", "ben.lmdb.manifest", "ben.lmdb.manifest.dsse.json"]
    manifest = pathlib.Path(signed.manifest)
    assert manifest == database.parent / "ben.lmdb.manifest"
    for path in (manifest, pathlib.Path(f"{manifest}.dsse.json")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert signed.statement == Statement(
        **RELEASE,
        license="CDLA-Permissive-1.0",
        count=20,
        manifest_sha256=hashlib.sha256(manifest.read_bytes()).hexdigest(),
        tool_version=ben_secure.__version__,
    )
    assert opened(signed, name="BigEarthNet-S2", version="1.0").statement == signed.statement
    assert differences(database, signed) == []


def test_equal_arguments_make_equal_files(database, tmp_path):
    """For any number of threads, and any location of the files."""
    signed = [sign_database(database, [PUBLISHER, PARTNER], **RELEASE, manifest=tmp_path / name) for name in "ab"]
    for suffix in ("", ".dsse.json"):
        first, second = (pathlib.Path(one.manifest + suffix).read_bytes() for one in signed)
        assert first == second
    assert signed[0].manifest == str(tmp_path / "a")


@pytest.mark.threat("T8")
def test_what_somebody_without_the_key_can_do(database):
    """A flipped bit, exchanged values, and a removed, added, renamed or copied record are distinguished."""
    signed = sign_database(database, [PUBLISHER], **RELEASE)
    with open_env(database / "data.mdb") as env, env.begin(write=True) as transaction:
        flipped = bytearray(VALUES[b"patch 1"])
        flipped[0] ^= 1
        transaction.put(b"patch 1", bytes(flipped))
        transaction.put(b"patch 2", VALUES[b"patch 3"])
        transaction.put(b"patch 3", VALUES[b"patch 2"])
        transaction.delete(b"patch 4")
        transaction.put(b"patch 55", b"new")
        transaction.delete(b"patch 6")
        transaction.put(b"patch 66", VALUES[b"patch 6"])
    assert differences(database, signed) == [
        ("changed", b"patch 1", None),
        ("moved", b"patch 2", b"patch 3"),
        ("moved", b"patch 3", b"patch 2"),
        ("missing", b"patch 4", None),
        ("added", b"patch 55", None),
        ("missing", b"patch 6", None),
        ("added", b"patch 66", b"patch 6"),
    ]
    assert {kind for kind, _, _ in differences(database, signed)} == set(MismatchKind)
    opened(signed).check(b"patch 7", VALUES[b"patch 7"])
    with pytest.raises(ManifestMismatchError, match="the value was changed"):
        opened(signed).check(b"patch 1", bytes(flipped))


def test_progress_is_told(database):
    """The number of finished and of all records is reported after each record."""
    told = []
    sign_database(database, [PUBLISHER], **RELEASE, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 20) for number in range(1, 21)]


@pytest.mark.parametrize("existing", ["ben.lmdb.manifest", "ben.lmdb.manifest.dsse.json"])
def test_nothing_is_overwritten_unless_told(database, existing):
    """One of the two files is enough to refuse; nothing is written then."""
    place = database.parent / existing
    place.write_text("something")
    with pytest.raises(StoreError, match=f"{existing} exists and is not overwritten"):
        sign_database(database, [PUBLISHER], **RELEASE)
    assert sorted(os.listdir(database.parent)) == ["ben.lmdb", existing]
    assert place.read_text() == "something"
    signed = sign_database(database, [PUBLISHER], **RELEASE, overwrite=True)
    assert differences(database, signed) == []
    assert hidden(database.parent) == []


def test_a_file_that_appears_meanwhile_is_not_overwritten(database):
    """The check at the start is not the one that counts."""
    place = database.parent / "ben.lmdb.manifest"
    with pytest.raises(StoreError, match="exists and is not overwritten"):
        sign_database(database, [PUBLISHER], **RELEASE, progress=lambda *_: place.write_text("other"))
    assert place.read_text() == "other"
    assert sorted(os.listdir(database.parent)) == ["ben.lmdb", "ben.lmdb.manifest"]


def test_what_fails_leaves_the_old_release(database):
    """A signer that fails, a writer or another file meanwhile, a value that is too long: all is as it was."""
    signed = sign_database(database, [PUBLISHER], **RELEASE)
    before = {path: path.read_bytes() for path in database.parent.glob("*.manifest*")}
    assert len(before) == 2

    def write(done, _):
        if done == 1:
            with open_env(database / "data.mdb") as env, env.begin(write=True) as transaction:
                transaction.put(b"another", b"new")

    def replace(done, _):
        shutil.copy(database / "data.mdb", database.parent / "copy")
        os.replace(database.parent / "copy", database / "data.mdb")

    for error, options in (
        (StoreError, {"progress": replace}),
        (ValueError, {"signers": [PUBLISHER, PUBLISHER]}),
        (LimitExceededError, {"limits": Limits(max_value_bytes=5000)}),
        (StoreError, {"progress": write}),
    ):
        with pytest.raises(error):
            sign_database(database, **{"signers": [PUBLISHER], "overwrite": True} | options, **RELEASE)
        assert {path: path.read_bytes() for path in database.parent.glob("*.manifest*")} == before
        assert hidden(database.parent) == []
    assert differences(database, signed) == [("added", b"another", None)]


def test_an_empty_database_is_not_signed(tmp_path):
    """A signature over nothing would look like one over records."""
    with pytest.raises(StoreError, match="nothing to sign"):
        sign_database(build(tmp_path / "empty.mdb", []), [PUBLISHER], **RELEASE)
    assert os.listdir(tmp_path) == ["empty.mdb"]


@pytest.mark.parametrize("name", ["manifest", "data.mdb", "inner/manifest", "../ben.lmdb/manifest"])
def test_the_manifest_is_not_put_inside_the_database(database, name):
    """It would be part of a database there, and the data file is not a folder."""
    (database / "inner").mkdir()
    with pytest.raises(StoreError, match="is inside the database"):
        sign_database(database, [PUBLISHER], **RELEASE, manifest=database / name, overwrite=True)
    assert sorted(os.listdir(database)) == ["data.mdb", "inner"]
    single = build(database.parent / "single.mdb", VALUES.items())
    with pytest.raises(StoreError, match="is inside the database"):
        sign_database(single, [PUBLISHER], **RELEASE, manifest=single, overwrite=True)
    assert sign_database(single, [PUBLISHER], **RELEASE).manifest == f"{single}.manifest"


def test_a_place_that_cannot_be_written_to(database):
    """Is known before anything is hashed."""
    with pytest.raises(StoreError, match="cannot write"):
        sign_database(database, [PUBLISHER], **RELEASE, manifest=database.parent / "none" / "m", progress=pytest.fail)


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"version": "1\n"}, {"license": ""}, {"created": datetime(2026, 1, 1)}], ids=str
)
def test_a_release_that_cannot_be_named_so(database, wrong):
    """The caller's mistake, told before anything is hashed."""
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is "):
        sign_database(database, [PUBLISHER], **RELEASE | wrong, progress=pytest.fail)
    assert os.listdir(database.parent) == ["ben.lmdb"]


@pytest.mark.parametrize(
    ("good", "bad", "fault"),
    [
        (b"k" * 511, b"k" * 512, "has 512 bytes, expected at most 511"),  # in databases of other builds of liblmdb
        ("k\u00fc".encode(), b"k\xc3", r"is not UTF-8 \(byte 1 of 2\)"),
    ],
    ids=["too long", "not UTF-8"],
)
def test_a_key_that_no_reader_can_name_is_not_signed(database, monkeypatch, good, bad, fault):
    """The message says how to leave it out."""
    for lmdb_key in (good, bad):
        records = [(lmdb_key, bytes(32))]
        monkeypatch.setattr(sign, "record_digests", lambda _, algorithm, records=records: records)
        if lmdb_key is good:
            assert list(opened(sign_database(database, [PUBLISHER], **RELEASE))) == records
        else:
            with pytest.raises(
                PatchFormatError, match=f"the LMDB key {fault}, .*--skip-refused.* in .*ben.lmdb"
            ) as caught:
                sign_database(database, [PUBLISHER], **RELEASE, overwrite=True)
            assert caught.value.rule is Rule.LMDB_KEY


def test_a_release_since_another(database):
    """The statement names the previous release; all values are hashed again; changes are reported first."""
    first = sign_database(database, [PUBLISHER], **RELEASE, license="CC0")
    old = opened(first)
    pathlib.Path(first.manifest).rename(database.parent / "old.manifest")
    pathlib.Path(f"{first.manifest}.dsse.json").rename(database.parent / "old.manifest.dsse.json")
    values = {**VALUES, b"patch 3": b"new", b"patch new": b"new"}
    del values[b"patch 7"]
    (database / "data.mdb").unlink()
    build(database / "data.mdb", values.items())
    told = []
    release = RELEASE | {"version": "1.1"}
    signed = sign_database(database, [PUBLISHER], **release, since=old, on_changes=told.append)
    assert [kind.first for kind in (told[0].added, told[0].changed, told[0].removed)] == [
        [b"patch new"],
        [b"patch 3"],
        [b"patch 7"],
    ]
    assert told[0].unchanged == 18
    assert signed.statement.predecessor == Predecessor(
        version="1.0", manifest_sha256=hashlib.sha256((database.parent / "old.manifest").read_bytes()).hexdigest()
    )
    assert opened(signed, version="1.1").statement == signed.statement
    assert differences(database, signed) == []
    for wrong in ({"version": "1.0"}, {"name": "another"}):
        with pytest.raises(ValueError, match="expected the same name and another version"):
            sign_database(database, [PUBLISHER], **release | wrong, since=old, overwrite=True)

    def stop(found):
        raise StoreError("no")

    content = pathlib.Path(signed.manifest).read_bytes()
    with pytest.raises(StoreError, match="no"):
        sign_database(database, [PUBLISHER], **release | {"version": "2"}, since=old, on_changes=stop, overwrite=True)
    assert pathlib.Path(signed.manifest).read_bytes() == content
    assert hidden(database.parent) == []


def several(folder, **databases):
    """Databases in a folder of their own."""
    for name, values in databases.items():
        (folder / f"{name}.lmdb").mkdir(parents=True)
        build(folder / f"{name}.lmdb" / "data.mdb", values.items())
    return [folder / f"{name}.lmdb" for name in databases]


TRAIN = {b"a": b"1", b"b": b"2"}
TEST = {b"c": b"3"}


def test_several_databases_under_one_signature(tmp_path):
    """One statement and equal envelopes; each database opens only as itself."""
    train, test = several(tmp_path / "release", train=TRAIN, test=TEST)
    statement = sign_release([train, test], [PUBLISHER], **RELEASE)
    assert [subject.name for subject in statement.subjects] == ["test.lmdb", "train.lmdb"]
    assert sorted(os.listdir(tmp_path / "release")) == sorted(
        f"{name}.lmdb{suffix}" for name in ("test", "train") for suffix in ("", ".manifest", ".manifest.dsse.json")
    )
    envelopes = {(tmp_path / "release" / f"{name}.lmdb.manifest.dsse.json").read_bytes() for name in ("test", "train")}
    assert len(envelopes) == 1
    for path, values in ((train, TRAIN), (test, TEST)):
        with PageReader(path) as pages:
            verifier = Verifier(
                Verification(verify_key=PUBLISHER.verify_key, version="1.0"), str(path), entries=len(pages)
            )
            assert verifier.manifest.statement.subject.name == path.name
            for key, value in values.items():
                verifier.payload_end(key, value)
    with pytest.raises(StoreError, match="exists"):
        sign_release([train, test], [PUBLISHER], **RELEASE)
    for databases, match in (
        (several(tmp_path / "same", one=TRAIN, two=TRAIN), "two of the databases have the same records"),
        (
            several(tmp_path / "odd", **{"one": TRAIN, "two two": TEST}),
            "a database of a release is named two two.lmdb",
        ),
    ):
        with pytest.raises((ValueError, StoreError), match=match):
            sign_release(databases, [PUBLISHER], **RELEASE)
        assert sorted(os.listdir(databases[0].parent)) == sorted(path.name for path in databases)


@pytest.mark.threat("T8")
def test_a_database_does_not_pass_for_another_of_its_release(tmp_path):
    """Exchanged with its manifest, or under another name: refused unless the caller names the one that it is."""
    train, test = several(tmp_path, train=TRAIN, test=TEST)
    sign_release([train, test], [PUBLISHER], **RELEASE)
    asked = {"verify_key": PUBLISHER.verify_key, "name": "BigEarthNet-S2", "version": "1.0"}

    def open_as(path, **more):
        return Verifier(Verification(**asked, **more), str(path)).manifest

    assert open_as(train).statement.count == 2
    assert open_as(train, subject="train.lmdb").statement.count == 2
    with pytest.raises(ManifestMismatchError, match=r"this is train.lmdb, expected test.lmdb"):
        open_as(train, subject="test.lmdb")
    for suffix in ("", ".manifest", ".manifest.dsse.json"):  # train passes for test, which would train on the test set
        os.rename(f"{test}{suffix}", f"{tmp_path}/kept{suffix}")
        os.rename(f"{train}{suffix}", f"{test}{suffix}")
    with pytest.raises(
        ManifestMismatchError, match=r"this is train.lmdb, expected test.lmdb: .* renamed, or exchanged"
    ):
        open_as(test)
    with pytest.raises(ManifestMismatchError, match=r"this is test.lmdb, expected kept"):
        open_as(tmp_path / "kept")
    assert open_as(tmp_path / "kept", subject="test.lmdb").statement.count == 1
    assert open_as(test, subject="train.lmdb").statement.count == 2
    with pytest.raises(ManifestMismatchError, match=r"this is train\.lmdb"):  # the manifest of another is named
        open_as(tmp_path / "kept", manifest=f"{test}.manifest", subject="test.lmdb")


def test_a_release_of_one_has_no_subject_to_ask_for(database):
    """Asking for one is a refusal; a release of one opens under every name."""
    sign_database(database, [PUBLISHER], **RELEASE)
    moved = database.parent / "other.lmdb"
    for suffix in ("", ".manifest", ".manifest.dsse.json"):
        os.rename(f"{database}{suffix}", f"{moved}{suffix}")
    asked = {"verify_key": PUBLISHER.verify_key}
    assert Verifier(Verification(**asked), str(moved)).manifest.statement.subject is None
    with pytest.raises(ManifestMismatchError, match="the only database of its release"):
        Verifier(Verification(**asked, subject="other.lmdb"), str(moved))


@pytest.mark.threat("T8")
@pytest.mark.parametrize("changes", [True, False])
def test_a_database_that_changes_while_its_signer_takes_long(tmp_path, changes):
    """Is not signed, and nothing is left; one that does not change is signed."""
    path = tmp_path / "x.lmdb"
    make_database(path, {b"a": b"1"})

    class Slow:
        verify_key = PUBLISHER.verify_key

        def sign(self, message):
            if changes:
                make_database(path, {b"b": b"2"})
            return PUBLISHER.sign(message)

    if changes:
        with pytest.raises(StoreError, match="written to while it was read"):
            sign_database(path, [Slow()], name="n", version="1", created=CREATED)
    else:
        sign_database(path, [Slow()], name="n", version="1", created=CREATED)
    made = ["x.lmdb", "x.lmdb.manifest", "x.lmdb.manifest.dsse.json"]
    assert sorted(os.listdir(tmp_path)) == (made[:1] if changes else made)
