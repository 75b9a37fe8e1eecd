"""Manifests of version 2: the list and the statement name the hash, and nothing else decides it."""

import contextlib
import io
import json
import os
import pathlib
import runpy
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import ManifestMismatchError, MissingExtraError, PatchReader, SignatureError, loads
from ben_secure.cli import main
from ben_secure.pages.reader import PageReader
from ben_secure.signing._record_list import RecordList, write_record_list
from ben_secure.signing.envelope import sign_statement, verify_envelope
from ben_secure.signing.hashing import Algorithm, hash_of
from ben_secure.signing.keys import SigningKey, write_signing_key, write_verify_key
from ben_secure.signing.manifest import Manifest, open_manifest
from ben_secure.signing.policy import Verification
from ben_secure.signing.statement import Statement
from ben_secure.store.change.sign import sign_database
from ben_secure.store.change.verify import verify
from support.databases import make_database
from support.legacy_values import small_tree, write
from test_envelope import STATEMENT, statements
from test_hashing import by_hand, needs_blake3

pytestmark = pytest.mark.threat("T23")

VECTORS = pathlib.Path(__file__).parent / "vectors"
V1, V2 = (json.loads((VECTORS / f"manifest{end}.json").read_text("utf-8")) for end in ("", "_v2"))
PUBLISHER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(V1["keys"][0]["seed"])))
PUBLIC = PUBLISHER.verify_key
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
RELEASE = {"name": "BigEarthNet-S2", "version": "1.0", "created": CREATED}
VALUES = {b"patch %d" % number: write(small_tree(metadata={"labels": [str(number)]})) for number in range(12)}
by_algorithm = pytest.mark.parametrize(
    "algorithm", [Algorithm.SHA256, pytest.param(Algorithm.BLAKE3, marks=needs_blake3)], ids=lambda each: each.value
)


def opened(vector):
    """The manifest of a vector as a reader has it."""
    return Manifest(bytes.fromhex(vector["manifest"]), verify_envelope(vector["envelope"].encode(), [PUBLIC]))


def file_of(values, algorithm):
    """A list of values, by hand."""
    digest = by_hand if algorithm is Algorithm.BLAKE3 else hash_of(algorithm)
    file = io.BytesIO()
    written = write_record_list([(key, digest(values[key])) for key in sorted(values)], file, algorithm)
    return file.getvalue(), written


def released(values, listed, stated):
    """Bytes of a list under one hash, and the verified statement that names another."""
    data, written = file_of(values, listed)
    statement = replace(
        STATEMENT, count=written.count, manifest_sha256=written.sha256.hex(), algorithm=stated, name="n", version="1"
    )
    return data, verify_envelope(sign_statement(statement, [PUBLISHER]), [PUBLIC])


# Vectors.


def test_vectors_are_made_again_byte_for_byte():
    """The second implementation, stored with the vectors, makes the same bytes; it has its own BLAKE3."""
    generator = runpy.run_path(str(VECTORS / "generate_manifest_v2.py"))
    assert generator["document"]() == (VECTORS / "manifest_v2.json").read_text("utf-8")


@pytest.mark.parametrize("vector", V2["valid"], ids=lambda vector: vector["case"])
def test_valid_vectors_are_written(vector):
    """The package makes the same list and envelope; this needs no library, as the digests are given."""
    values = {bytes.fromhex(lmdb_key): bytes.fromhex(value) for lmdb_key, value in vector["values"].items()}
    data, _ = file_of(values, Algorithm.BLAKE3)
    assert data.hex() == vector["manifest"]
    statement = verify_envelope(vector["envelope"].encode(), [PUBLIC]).statement
    assert statement.algorithm is Algorithm.BLAKE3
    assert json.loads(statement.encode()) == vector["statement"]
    assert sign_statement(statement, [PUBLISHER]) == vector["envelope"].encode()


@needs_blake3
@pytest.mark.parametrize("vector", V2["valid"], ids=lambda vector: vector["case"])
def test_valid_vectors_are_read(vector):
    """Each value is the one that is listed, and one with a flipped bit is not."""
    manifest = opened(vector)
    values = {bytes.fromhex(lmdb_key): bytes.fromhex(value) for lmdb_key, value in vector["values"].items()}
    for lmdb_key, value in values.items():
        manifest.check(lmdb_key, value)
        with pytest.raises(ManifestMismatchError):
            manifest.check(lmdb_key, value + b"\0")
    assert list(manifest.diff((key, manifest.hash(values[key])) for key in sorted(values))) == []


@pytest.mark.parametrize("vector", V2["mixtures"], ids=lambda vector: vector["case"])
def test_a_list_of_another_hash_than_the_statement_says(vector):
    """It is refused, although the publisher has signed both."""
    with pytest.raises(ManifestMismatchError, match=r"lists digests of .*, but the signed statement names"):
        opened(vector)


@pytest.mark.parametrize("vector", V2["invalid_manifests"], ids=lambda vector: vector["case"])
def test_lists_that_no_version_writes(vector):
    """Each version has its hashes, with one number for each."""
    RecordList(bytes.fromhex(V2["valid"][0]["manifest"]))
    with pytest.raises(ManifestMismatchError, match="this is not a manifest of records"):
        RecordList(bytes.fromhex(vector["manifest"]))


@pytest.mark.parametrize("vector", V2["invalid_statements"], ids=lambda vector: vector["case"])
def test_statements_that_no_version_writes(vector):
    """Version 1 has only SHA-256 and version 2 only BLAKE3, and no other values are accepted."""
    verify_envelope(V2["valid"][0]["envelope"].encode(), [PUBLIC])
    with pytest.raises(SignatureError, match="not a statement about a manifest of version 1 or 2"):
        verify_envelope(vector["envelope"].encode(), [PUBLIC])


# Laws.


@given(statements, st.sampled_from(Algorithm))
def test_a_statement_of_either_hash_is_read_as_it_was_written(statement, algorithm):
    """One statement has one spelling, and that of SHA-256 is the one of version 1."""
    statement = replace(statement, algorithm=algorithm)
    payload = statement.encode()
    assert Statement.decode(payload) == statement
    assert json.loads(payload)["predicateType"][-2:] == ("v1" if algorithm is Algorithm.SHA256 else "v2")


@given(st.dictionaries(st.binary(min_size=1, max_size=6), st.binary(min_size=32, max_size=32), max_size=8), st.data())
def test_a_flipped_bit_never_makes_another_hash(found, data):
    """A changed list is refused, or read with its own hash; the digest of the file then reveals the change."""
    algorithm = data.draw(st.sampled_from(Algorithm))
    file = io.BytesIO()
    write_record_list(sorted(found.items()), file, algorithm)
    assert RecordList(file.getvalue()).algorithm is algorithm
    changed = bytearray(file.getvalue())
    bit = data.draw(st.integers(0, len(changed) * 8 - 1) | st.integers(0, 40 * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(ManifestMismatchError):
        assert RecordList(bytes(changed)).algorithm is algorithm


@pytest.mark.parametrize("listed", Algorithm)
@pytest.mark.parametrize("stated", Algorithm)
def test_no_downgrade(listed, stated):
    """List and statement must agree, in every combination."""
    data, verified = released(VALUES, listed, stated)
    if listed is not stated:
        with pytest.raises(ManifestMismatchError, match=f"lists digests of {listed.value}.* names {stated.value}"):
            Manifest(data, verified)
        return
    try:
        manifest = Manifest(data, verified)
    except MissingExtraError:
        pytest.skip("the library blake3 is not installed")
    for lmdb_key, value in VALUES.items():
        manifest.check(lmdb_key, value)


def test_a_hash_is_one_of_the_list():
    """No str is accepted, not even the name of a hash."""
    with pytest.raises(TypeError, match="algorithm must be Algorithm, not str"):
        replace(STATEMENT, algorithm="blake3")


# A database.


def command(line):
    """Run a command; its exit code."""
    return main(line.split())


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with a database and a pair of keys."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "db", VALUES)
    write_signing_key("publisher", PUBLISHER)
    write_verify_key("publisher.pub", PUBLIC)
    return tmp_path


@by_algorithm
def test_a_signed_database(place, algorithm):
    """It is verified, read and found changed, by the hash that it was signed with."""
    signed = sign_database("db", [PUBLISHER], **RELEASE, algorithm=algorithm)
    assert signed.statement.algorithm is algorithm
    verification = Verification(verify_key=PUBLIC, name="BigEarthNet-S2", version="1.0")
    with PageReader("db") as pages:
        outcome = verify(pages, verification)
    assert (outcome.checked, outcome.refused) == (len(VALUES), False)
    with PatchReader("db", verification=verification) as reader:
        assert reader["patch 3"] == loads(VALUES[b"patch 3"])
    changed = dict(VALUES) | {b"patch 3": VALUES[b"patch 4"], b"patch 5": b"x", b"new": b"y"}
    del changed[b"patch 7"]
    os.rename("db", "before")
    make_database(place / "db", changed)
    with PageReader("db") as pages:
        faults = {kind: listed.count for kind, listed in verify(pages, verification).manifest_faults.items()}
    assert faults == {"missing": 1, "added": 1, "changed": 1, "moved": 1}


@needs_blake3
def test_the_command(place, capsys):
    """``sign --hash blake3``: verify, audit and an audit of new records accept it; the hash is printed."""
    assert (
        main(
            ["sign", "db", "--signing-key", "publisher", "--name", "n", "--version", "1", "--hash", "blake3", "--json"]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["hash"] == "blake3"
    assert command("verify db --verify-key publisher.pub --json") == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["hash"] == "blake3"
    assert command("audit db --verify-key publisher.pub --name n --version 1") == 0
    assert command("audit db --verify-key publisher.pub --since-manifest --json") == 0
    capsys.readouterr()
    assert command("sign db --signing-key publisher --name n --version 1 --out-manifest m --json") == 0
    assert json.loads(capsys.readouterr().out)["hash"] == "sha256"
    assert open_manifest("m", [PUBLIC]).statement.algorithm is Algorithm.SHA256
    assert command("sign db --signing-key publisher --name n --version 1 --hash md5") == 2
    assert "--hash is md5; expected sha256 or blake3" in capsys.readouterr().err


def test_without_the_library_readers_refuse_at_once(place, monkeypatch, capsys):
    """The refusal comes on opening, with the package to install; a list of SHA-256 beside it is read."""
    data, verified = released(VALUES, Algorithm.BLAKE3, Algorithm.BLAKE3)
    pathlib.Path("db.manifest").write_bytes(data)
    pathlib.Path("db.manifest.dsse.json").write_bytes(sign_statement(verified.statement, [PUBLISHER]))
    sign_database("db", [PUBLISHER], **RELEASE, manifest="other")
    monkeypatch.setitem(sys.modules, "blake3", None)
    with pytest.raises(MissingExtraError, match="needs blake3, which is not installed: pip install blake3"):
        PatchReader("db", verify_key=PUBLIC)
    PatchReader("db", verify_key=PUBLIC, manifest="other").close()
    for line in ("verify db --verify-key publisher.pub", "audit db --verify-key publisher.pub"):
        assert command(line) == 2
        assert "pip install blake3" in "".join(capsys.readouterr())
    assert command("sign db --signing-key publisher --name n --version 1 --hash blake3 --out-manifest third") == 2
    assert "pip install blake3" in capsys.readouterr().err
    assert not pathlib.Path("third").exists()


MEMORY = """
import resource, sys, tempfile
from datetime import datetime, timezone
from ben_secure.pages.reader import PageReader
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import SigningKey
from ben_secure.signing.policy import Verification
from ben_secure.store.change.sign import sign_database
from ben_secure.store.change.verify import verify
key = SigningKey.generate()
def signed_and_verified(database):
    created = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/m"
        algorithm = Algorithm(sys.argv[1])
        sign_database(database, [key], name="n", version="1", created=created, algorithm=algorithm, manifest=path)
        with PageReader(database) as pages:
            outcome = verify(pages, Verification(verify_key=key.verify_key, manifest=path))
        assert outcome.checked and not outcome.refused
signed_and_verified("small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
signed_and_verified("large")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@by_algorithm
def test_memory_does_not_grow_with_the_database(place, algorithm):
    """For 32 MB of values the peak memory grows by less than the few values that the threads hold."""
    make_database(place / "small", {b"%03d" % number: os.urandom(2**18) for number in range(16)})
    make_database(place / "large", {b"%03d" % number: os.urandom(2**18) for number in range(128)})
    done = subprocess.run([sys.executable, "-c", MEMORY, algorithm.value], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16
