"""CLEAN covers many uses: a value that the audit calls clean can be loaded, tagged, converted and published."""

import datetime
import os
import random
import struct

import numpy as np
import pytest

from ben_secure import BigEarthNet_S1_Patch, PatchReader, loads, tensors
from ben_secure.audit import audit_database
from ben_secure.audit.judge.scan import Options, scan_value
from ben_secure.errors import LimitExceededError, PatchFormatError, Rule, UntrustedDataError
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.publish import publish
from ben_secure.signing.footer import FOOTER_BYTES, MAGIC, payload_end
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey
from ben_secure.store.change.append import append
from ben_secure.store.change.convert import convert
from ben_secure.store.change.in_place import change_in_place
from ben_secure.store.change.rewrite import rewrite
from ben_secure.store.change.tag import Tagger
from support.databases import HAS_LMDB_VERIFY, HONEST, NAME, make_database
from support.fuzz_core import honest_tensors, honest_values, mutate, mutate_tensors
from support.legacy_values import Maker, small_tree, write
from support.strategies import make_patch

pytestmark = pytest.mark.threat("T19")

KEYS = MacKeySet(MacKey(bytes(range(32))))
PUBLISHER = SigningKey.generate()
RELEASE = {"name": "Ben", "version": "1", "created": datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)}


def generated(seed, count):
    """Values of every format, honest ones with changed bytes or parts; some end in the magic of a tag."""
    rng = random.Random(seed)
    honest, tensors = [*HONEST, *honest_values()], honest_tensors()
    for _ in range(count):
        if rng.random() < 0.5:
            value = mutate_tensors(rng, rng.choice(tensors))
        else:
            value = mutate(rng, rng.choice(honest), honest)
        yield value[:-8] + MAGIC if rng.random() < 0.1 else value


def check_law(place, values):
    """Audit values, and do with those that are clean whatever can be done: nothing is refused, nothing is lost."""
    clean = {}
    for number, value in enumerate(values):
        lmdb_key = b"%06d" % number
        finding = scan_value(lmdb_key, value)
        try:
            loads(value)
        except UntrustedDataError:
            assert finding is not None
        else:
            assert finding is None
            clean[lmdb_key] = value
    database = make_database(place / "db", clean)
    database.chmod(0o755)
    report = audit_database(database, options=Options(opinions=False))
    assert (report.refused, report.clean) == (0, len(clean))
    patches = {lmdb_key: loads(value) for lmdb_key, value in clean.items()}
    tagger = Tagger(KEYS, "c")
    copies = {"tagged": rewrite(database, place / "tagged", tagger.tagged)}
    copies["canonical"] = convert(database, place / "canonical")
    copies["both"] = convert(database, place / "both", tagger=tagger)
    for done in copies.values():
        assert (done.refusals.count, done.written) == (0, len(clean))
    for name in copies:
        keys = {} if name == "canonical" else {"mac_key": KEYS, "context": "c"}
        with PatchReader(place / name, **keys) as reader:
            assert all(reader[lmdb_key.decode()] == patch for lmdb_key, patch in patches.items())
        assert audit_database(place / name, options=Options(opinions=False)).verdict == "clean"
    for converted in (False, True):
        released = publish(database, place / f"release{converted}", PUBLISHER, convert=converted, **RELEASE)
        assert (released.refusals.count, released.checked) == (0, len(clean))
    pickled = {lmdb_key: value for lmdb_key, value in clean.items() if value[:1] == b"\x80"}
    bare = make_database(place / "bare", pickled)  # of safetensors values only copies are tagged
    bare.chmod(0o755)
    if pickled and HAS_LMDB_VERIFY:
        assert change_in_place(bare, tagger.tagged_in_place).changed == len(pickled)
    return len(clean)


def test_clean_values_can_be_tagged_converted_and_published(tmp_path):
    """This is checked for a hundred generated values."""
    assert check_law(tmp_path, generated(1, 150)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_clean_values_can_be_tagged_converted_and_published_by_the_thousand(tmp_path, seed):
    """This is checked for many more values."""
    assert check_law(tmp_path, generated(seed, 2_000)) > 100


def test_pixels_that_end_in_the_magic_of_a_tag_are_pixels(tmp_path):
    """The last pixels may end in the magic, or be a whole footer except for its length, in every form."""
    value = next(value for value in honest_tensors() if scan_value(NAME, value) is None)
    almost = struct.pack("<32s8sQBB6s8s", bytes(32), bytes(8), len(value) - FOOTER_BYTES - 1, 1, 1, bytes(6), MAGIC)
    values = [value[:-8] + MAGIC, value[:-FOOTER_BYTES] + almost]
    for changed in values:
        assert changed.endswith(MAGIC)
        assert payload_end(changed) == len(changed)
    assert check_law(tmp_path, values) == 2


def test_a_key_that_cannot_be_written_is_a_finding(tmp_path):
    """Other builds of LMDB have longer keys, which no copy and no manifest takes; 511 bytes are clean."""
    small = min(honest_values(), key=len)
    database = make_database(tmp_path / "db", {b"k" * 511: b"k" + small})
    assert audit_database(database, options=Options(opinions=False)).rules[Rule.NOT_A_PICKLE] == 1
    shorter = make_database(tmp_path / "shorter", {b"k" * 511: small})
    assert audit_database(shorter, options=Options(opinions=False)).verdict == "clean"
    data_file = database / "data.mdb"
    content = bytearray(data_file.read_bytes())
    node = content.index(b"k" * 511) - 8
    struct.pack_into("<H", content, node + 6, 512)  # the first byte of the value belongs to the key
    struct.pack_into("<H", content, node, struct.unpack_from("<H", content, node)[0] - 1)
    data_file.write_bytes(content)
    assert audit_database(database, options=Options(opinions=False)).rules == {Rule.LMDB_KEY: 1}
    with PatchReader(database) as reader:
        assert "k" * 512 not in reader
        with pytest.raises(PatchFormatError, match=r"has 512 bytes, expected at most 511.*--skip-refused"):
            list(reader)
    refusals = rewrite(database, tmp_path / "new", Tagger(KEYS).tagged).refusals
    assert [error.rule for error in refusals.first] == [Rule.LMDB_KEY]
    added = make_database(tmp_path / "added", {b"a": small})
    for out in (None, tmp_path / "new"):
        with pytest.raises(PatchFormatError, match=r"has 512 bytes, .* in .*/db\]") as caught:
            append(database, added, out=out)
        assert caught.value.rule is Rule.LMDB_KEY
        assert append(shorter, added, out=tmp_path / f"copy {out is None}").kept == 1
    assert sorted(os.listdir(tmp_path)) == ["added", "copy False", "copy True", "db", "shorter"]
    assert data_file.read_bytes() == content


def legacy(**metadata):
    """A value of the original package, whose pickler writes a shared object once."""
    return write(small_tree(metadata=metadata))


def noted(count):
    """A safetensors value: two numbers take 6 bytes of its header and 5 opcodes of a canonical value."""
    return tensors.dumps(make_patch(BigEarthNet_S1_Patch, x=[[0, 0] for _ in range(count)]))


def large(many):
    """A value of the original package with 8 MiB of pixels, and an array of 1 MiB that it has many times."""
    maker = Maker()
    bands = {"green": maker.band("Band", "green", 1, np.zeros((2048, 2048), "<u2"))}
    return write(maker.generic(bands, {"x": [PIXELS] * many}))


SCALAR, NUMBERS, PIXELS = np.float32(1), set(range(600)), np.zeros(2**20, "u1")
CASES = {
    "text": (lambda many: legacy(labels=["x" * (DEFAULT_LIMITS.max_text_bytes // 4)] * (4 + many)), 1, -1),
    "opcodes": (lambda many: legacy(x=[SCALAR] * (6000 + many)), 2000, -1000),
    "lists": (lambda many: legacy(x=[[1]] * (15_000 + many)), 5000, 0),
    "numbers in sets": (lambda many: legacy(x=[NUMBERS] * many), 2, 1),
    "bytes": (large, 9, 7),
    "safetensors": (noted, 10_000, 9000),
}


@pytest.mark.threat("T2")
@pytest.mark.parametrize(("make", "many", "fewer"), CASES.values(), ids=CASES)
def test_the_limits_count_what_a_canonical_value_takes(make, many, fewer):
    """Shared objects count as often as they are written out; a value with a little fewer is clean and is written."""
    assert scan_value(NAME, make(many)).rule is Rule.LIMIT
    with pytest.raises(LimitExceededError, match="takes too much when shared objects are written out"):
        loads(make(many))
    assert scan_value(NAME, make(fewer)) is None
    patch = loads(make(fewer))
    assert loads(patch.dumps()) == patch


@pytest.mark.slow
@pytest.mark.parametrize(("make", "many", "fewer"), CASES.values(), ids=CASES)
def test_values_at_the_limits_can_be_tagged_converted_and_published(tmp_path, make, many, fewer):
    """Those that are clean."""
    assert check_law(tmp_path, [make(many), make(fewer)]) == 1
