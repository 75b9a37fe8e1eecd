"""Signed databases of every released format version are read and verified for ever, and one flipped bit is refused."""

import pathlib
import runpy
import shutil

import pytest

from ben_secure import PatchReader, UntrustedDataError
from ben_secure.pages.reader import PageReader
from ben_secure.signing.manifest import open_manifest
from ben_secure.store.change.digests import record_digests

GOLDEN = pathlib.Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "ben.lmdb").is_dir())
MADE = runpy.run_path(str(GOLDEN / "make.py"))
KEYS = {
    "mac_key": MADE["MAC_KEY"],
    "context": "golden",
    "verify_key": MADE["PUBLISHER"].verify_key,
    "name": "golden",
    "version": "1",
}
FILES = ["ben.lmdb/data.mdb", "ben.lmdb.manifest", "ben.lmdb.manifest.dsse.json"]


def test_there_are_golden_databases():
    """The first version is among them."""
    assert "v1" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_database_is_read(version):
    """Tag, manifest, envelope and canonical values of that version are read."""
    with PatchReader(GOLDEN / version / "ben.lmdb", **KEYS) as reader:
        assert dict(reader.items()) == MADE["patches"]()
        assert reader.verified.startswith("tags of context 'golden' by ")
        assert "; manifest of 'golden' version '1' by " in reader.verified


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_database_is_verified(version):
    """Every record agrees with its manifest, and the statement has the signed content."""
    manifest = open_manifest(GOLDEN / version / "ben.lmdb.manifest", [MADE["PUBLISHER"].verify_key])
    with PageReader(GOLDEN / version / "ben.lmdb") as pages:
        assert list(manifest.diff(record_digests(pages))) == []
    statement = manifest.statement
    assert (statement.name, statement.version, statement.license) == ("golden", "1", "CC0-1.0")
    assert statement.count == len(MADE["patches"]())


@pytest.mark.threat("T8")
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_of_a_golden_database_is_refused(version, file, tmp_path):
    """In a value, in the manifest, in the envelope; without it the copy is read."""
    copy = tmp_path / version
    shutil.copytree(GOLDEN / version, copy)
    with PatchReader(copy / "ben.lmdb", **KEYS) as reader:
        first = next(iter(reader))
        place = (copy / file).read_bytes().find(reader.raw(first)[1000:2000]) if file.endswith(".mdb") else 100
    data = bytearray((copy / file).read_bytes())
    assert 0 < place < len(data)
    data[place] ^= 1
    (copy / file).chmod(0o600)  # the checkout may be read-only
    (copy / file).write_bytes(data)
    with pytest.raises(UntrustedDataError), PatchReader(copy / "ben.lmdb", **KEYS) as reader:
        reader[first]
