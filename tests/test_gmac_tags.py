"""Suite 2 of the value tag, A256GMAC: its refusals and guarantees beyond those that ``test_tags`` shows for both."""

import inspect
import json
import multiprocessing
import operator
import os
import pathlib
import runpy
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import PatchReader, TagMismatchError
from ben_secure.errors import Rule
from ben_secure.signing import tags
from ben_secure.signing.footer import FOOTER_BYTES, Footer, Suite, footer_of
from ben_secure.signing.keys import MacKey, MacKeySet, read_mac_keys
from ben_secure.signing.tags import append_tag, context_bytes, make_tag, verified_payload
from support.patch_databases import database, patches

pytestmark = pytest.mark.threat("T18")

VECTORS = pathlib.Path(__file__).parent / "vectors"
GENERATOR = runpy.run_path(str(VECTORS / "generate_gmac_tags.py"))
TAGS = json.loads((VECTORS / "gmac_tags.json").read_text())
SECRET = bytes(range(32))
KEY, OTHER = MacKey(SECRET, Suite.A256GMAC), MacKey(bytes(range(32, 64)), Suite.A256GMAC)
KEYS = MacKeySet(KEY)
FIRST = MacKey(SECRET)  # the same secret, as a key of suite 1
PLACE = b"context", b"LMDB key"

payloads = st.binary(max_size=100)


def refused(value, keys=KEYS, context=PLACE[0], lmdb_key=PLACE[1]):
    """The rule by which a value is refused."""
    with pytest.raises(TagMismatchError) as caught:
        verified_payload(keys, context, lmdb_key, value)
    return caught.value.rule


def tagged(payload, tag, key=KEY, suite=Suite.A256GMAC, length=None):
    """A payload with a footer of these fields."""
    return payload + Footer(tag, key.key_id, suite).pack(len(payload) if length is None else length)


# Vectors.


def test_gmac_vectors():
    """The GMAC of the generator is that of SP 800-38D: NIST's CAVP, gcmEncryptExtIV256; and GCM's test case 13."""
    key = bytes.fromhex("78dc4e0aaf52d935c3c01eea57428f00ca1fd475f5da86a49c8dd73d68c8e223")
    nonce, data = bytes.fromhex("d79cf22d504cc793c3fb6c8a"), bytes.fromhex("b96baa8c1c75a671bfb2d08d06be5f36")
    assert GENERATOR["gmac"](key, nonce, data).hex() == "3e5d486aa2e30b22e040b85723a06e76"
    assert GENERATOR["gmac"](bytes(32), bytes(12), b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"


def test_vectors_are_made_again_byte_for_byte():
    """The generator knows the format from its description, not from the package."""
    assert GENERATOR["document"]() == (VECTORS / "gmac_tags.json").read_text()


@pytest.mark.parametrize("vector", TAGS["valid"], ids=lambda vector: vector["case"])
def test_valid_vectors(vector, monkeypatch):
    """The package takes the footer, and makes the same one of the same N."""
    key = MacKey(bytes.fromhex(vector["secret"]), Suite.A256GMAC)
    context = context_bytes(vector["context"])
    lmdb_key, payload, footer, n = (bytes.fromhex(vector[name]) for name in ("lmdb_key", "payload", "footer", "n"))
    assert key.fingerprint == vector["key_id"]
    assert verified_payload(MacKeySet(OTHER, key), context, lmdb_key, payload + footer) == payload
    monkeypatch.setattr(os, "urandom", lambda size: n[:size])
    assert append_tag(key, context, lmdb_key, payload) == payload + footer


@pytest.mark.parametrize("vector", TAGS["invalid"]["cases"], ids=lambda vector: vector["case"])
def test_invalid_vectors(vector):
    """Each is refused for the stated reason; the unchanged value is accepted."""
    given_to_all = TAGS["invalid"]
    keys = MacKeySet(MacKey(bytes.fromhex(given_to_all["secret"]), Suite.A256GMAC))
    place = {"context": given_to_all["context"].encode(), "lmdb_key": bytes.fromhex(given_to_all["lmdb_key"])}
    assert refused(bytes.fromhex(vector["value"]), keys, **place) == vector["rule"]
    verified_payload(keys, *place.values(), append_tag(keys.signing, *place.values(), bytes(range(40))))


# Refused.


@given(payloads, payloads)
def test_parts_of_other_taggings_are_refused(payload, other):
    """N and T exchanged, those of another tagging of the record, T of zeros; each tag under its own payload is good."""
    first, second, elsewhere = (
        make_tag(KEY, *PLACE, payload),
        make_tag(KEY, *PLACE, payload),
        make_tag(KEY, *PLACE, other),
    )
    parts = [
        first[16:] + first[:16],
        first[:16] + second[16:],
        second[:16] + first[16:],
        first[:16] + bytes(16),
        bytes(32),
    ]
    if other != payload:
        parts += [elsewhere, first[:16] + elsewhere[16:], elsewhere[:16] + first[16:]]
        verified_payload(KEYS, *PLACE, tagged(other, elsewhere))
    for tag in parts:
        assert refused(tagged(payload, tag)) is Rule.TAG_INVALID
    for tag in (first, second):
        assert verified_payload(KEYS, *PLACE, tagged(payload, tag)) == payload


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 32, 100])
def test_payloads_cut_or_extended_are_refused(size, adjusted):
    """By one byte, by a block, by zeros to its end: with the length left as it was, and with it adjusted."""
    payload = bytes(size - 1) + b"\0"
    tag = make_tag(KEY, *PLACE, payload)
    changed = [payload[:-1], payload[1:], payload[:-16], payload[16:], b"", payload[: size // 16 * 16]]
    changed += [payload + more for more in (b"\0", b"\1", bytes(16), bytes(range(16)), bytes(-size % 16))]
    changed += [b"\0" + payload, bytes(16) + payload]
    for other in changed:
        if other != payload:
            value = tagged(other, tag, length=None if adjusted else size)
            assert refused(value) is Rule.TAG_INVALID
    verified_payload(KEYS, *PLACE, tagged(payload, tag))


@given(payloads, st.binary(min_size=2, max_size=40), st.binary(max_size=40), st.data())
def test_bytes_do_not_move_between_context_lmdb_key_and_payload(payload, lmdb_key, context, data):
    """However they are cut, with the lengths adjusted."""
    joined = context + lmdb_key + payload
    one = data.draw(st.integers(0, len(joined)))
    two = data.draw(st.integers(one, len(joined)))
    moved = joined[:one], joined[one:two], joined[two:]
    tag = make_tag(KEY, context, lmdb_key, payload)
    if moved != (context, lmdb_key, payload):
        refused(tagged(moved[2], tag), context=moved[0], lmdb_key=moved[1])
    verified_payload(KEYS, context, lmdb_key, tagged(payload, tag))


def test_the_suites_do_not_stand_in_for_each_other():
    """A footer of one under the key of the other, made of the same secret or not; under its own key it is accepted."""
    payload = b"payload"
    of_first, of_second = append_tag(FIRST, *PLACE, payload), append_tag(KEY, *PLACE, payload)
    verified_payload(MacKeySet(FIRST), *PLACE, of_first)
    verified_payload(KEYS, *PLACE, of_second)
    assert refused(of_first, KEYS) is Rule.TAG_FOREIGN
    assert refused(of_second, MacKeySet(FIRST)) is Rule.TAG_FOREIGN
    for value, key in ((of_first, KEY), (of_second, FIRST)):
        tag = footer_of(value).unverified_tag
        for suite in Suite:  # with the key id of the other, too
            assert refused(tagged(payload, tag, key, suite), MacKeySet(key)) is Rule.TAG_INVALID


@pytest.mark.parametrize("key", [KEY, FIRST])
def test_another_suite_in_the_footer_is_refused(key):
    """Only that byte differs: the number of the other suite, or an unknown one."""
    value = append_tag(key, *PLACE, b"payload")
    for suite in range(256):
        other = value[:-16] + bytes([suite]) + value[-15:]
        if suite != key.suite:
            assert refused(other, MacKeySet(key)) is Rule.TAG_INVALID
    value = bytearray(value)
    for place in range(-14, -8):
        for bit in range(8):
            value[place] ^= 1 << bit
            assert refused(bytes(value), MacKeySet(key)) is Rule.TAG_INVALID
            value[place] ^= 1 << bit
    verified_payload(MacKeySet(key), *PLACE, bytes(value))


def test_keys_of_a_set_do_not_vouch_for_each_other():
    """The key id of another key of the set under a tag of this one, and a key that was given up."""
    mixed = MacKeySet(KEY, OTHER, MacKey(bytes(40)))
    payload = b"payload"
    for key in mixed:
        value = append_tag(key, *PLACE, payload)
        assert verified_payload(mixed, *PLACE, value) == payload
        for other in mixed:
            if other is not key:
                renamed = value[:-32] + other.key_id + value[-24:]
                assert refused(renamed, mixed) is Rule.TAG_INVALID
                assert refused(value, MacKeySet(other)) is Rule.TAG_FOREIGN


def test_a_key_file_in_which_only_alg_was_edited_is_refused(tmp_path):
    """Without a key id the file is accepted, but no value tagged by the key passes."""
    for key in (KEY, FIRST):
        (swapped,) = {*Suite} - {key.suite}
        for kid in (True, False):
            jwk = key.to_jwk(True)
            if not kid:
                del jwk["kid"]
            path = tmp_path / "key"
            for alg, right in ((jwk["alg"], True), (MacKey(SECRET, swapped).to_jwk(True)["alg"], False)):
                path.write_text(json.dumps({"keys": [jwk | {"alg": alg}]}))
                path.chmod(0o600)
                if right:
                    assert read_mac_keys(path) == MacKeySet(key)
                elif kid:
                    with pytest.raises(Exception, match='the "kid" of a key is not'):
                        read_mac_keys(path)
                else:
                    assert refused(append_tag(key, *PLACE, b"payload"), read_mac_keys(path)) is Rule.TAG_FOREIGN


# Must hold.


def nonces(count):
    """N of so many taggings of one value."""
    return [make_tag(KEY, *PLACE, b"payload")[:16] for _ in range(count)]


def test_no_two_taggings_have_one_n():
    """10,000 of one value, and those of forked processes that have inherited the key."""
    context = multiprocessing.get_context("fork")
    found = nonces(10_000)
    with context.Pool(4) as pool:
        for more in pool.map(nonces, [1000] * 4):
            found += more
    assert len(set(found)) == len(found) == 14_000


def test_n_comes_from_the_operating_system_alone(monkeypatch):
    """16 bytes for each tagging; with the same ones everything is the same. Suite 1 and verification ask for none."""
    asked = []

    def urandom(size):
        asked.append(size)
        return bytes(range(size))

    monkeypatch.setattr(os, "urandom", urandom)
    value = append_tag(KEY, *PLACE, b"payload")
    assert asked == [16]
    assert append_tag(KEY, *PLACE, b"payload") == value
    assert footer_of(value).unverified_tag[:16] == bytes(range(16))
    asked.clear()
    verified_payload(KEYS, *PLACE, value)
    append_tag(FIRST, *PLACE, b"payload")
    assert asked == []


def test_nobody_can_choose_n():
    """No public function of the module takes it."""
    for name, function in inspect.getmembers(tags, inspect.isfunction):
        if not name.startswith("_") and function.__module__ == tags.__name__:
            assert not {"nonce", "n", "N", "random", "iv"} & set(inspect.signature(function).parameters)
    assert list(inspect.signature(append_tag).parameters) == ["mac_key", "context", "lmdb_key", "payload"]
    assert list(inspect.signature(make_tag).parameters) == ["mac_key", "context", "lmdb_key", "payload"]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 277_000, 16 * 2**20])
def test_lengths_and_buffers(size):
    """Bytes, bytearray and memoryview have the same tag, which the second implementation makes for short ones too."""
    payload = np.random.default_rng(size).bytes(size)
    value = append_tag(KEY, *PLACE, payload)
    assert len(value) == size + FOOTER_BYTES
    tag = footer_of(value).unverified_tag
    if size <= 17:
        assert GENERATOR["tag_of"](SECRET, *PLACE, payload, tag[:16]) == tag
    for kind in (bytes, bytearray, memoryview):
        assert verified_payload(KEYS, *PLACE, kind(value)) == payload
        assert verified_payload(KEYS, *PLACE, append_tag(KEY, *PLACE, kind(payload))) == payload
    read_only = np.frombuffer(value, np.uint8)
    for array in (read_only, read_only.copy()):  # the way that a reader has them
        assert verified_payload(KEYS, *PLACE, memoryview(array)) == payload
    changed = bytearray(value)
    for place in {0, size // 2, max(size - 1, 0), size, size + 31}:
        changed[place] ^= 0x80
        assert refused(changed) is Rule.TAG_INVALID
        changed[place] ^= 0x80
    assert verified_payload(KEYS, *PLACE, changed) == payload


def test_nothing_secret_is_shown():
    """Neither repr nor errors contain the secret, anything derived from it, or the expected tag."""
    payload = b"payload"
    n = bytes(range(16))
    key_of_value = GENERATOR["value_key_of"](GENERATOR["tag_key_of"](SECRET), KEY.key_id, *PLACE, 7, n)
    expected = GENERATOR["tag_of"](SECRET, *PLACE, payload, n)[16:]
    verified_payload(KEYS, *PLACE, tagged(payload, n + expected))
    texts = [repr(KEY), repr(KEYS), f"{KEY}"]
    for value in (tagged(payload, n + bytes(16)), tagged(payload, n + expected, suite=1), tagged(b"", n + expected)):
        with pytest.raises(TagMismatchError) as caught:
            verified_payload(KEYS, *PLACE, value)
        error = caught.value
        assert error.__cause__ is error.__context__ is None
        texts += [str(error), repr(error), repr(vars(error))]
    for secret in (SECRET, GENERATOR["tag_key_of"](SECRET), key_of_value, expected):
        for text in texts:
            assert secret.hex()[:16] not in text
            assert repr(secret)[2:-1][:16] not in text


def test_what_is_kept_for_a_context_makes_no_difference():
    """The first value of a context, later ones, and those after many other contexts have the same tag."""
    for number in [*range(40), *range(40)]:
        context = b"%d" % number
        value = append_tag(KEY, context, b"k", b"payload")
        tag = footer_of(value).unverified_tag
        assert GENERATOR["tag_of"](SECRET, context, b"k", b"payload", tag[:16]) == tag
        verified_payload(KEYS, context, b"k", value)


# From end to end.


def test_a_database_is_written_and_read(tmp_path):
    """By a writer and a reader with the key; in a spawned process, which gets the key in a pickle; not with another."""
    written = patches(3)
    database(tmp_path / "db", written, mac_key=KEY, context="c")
    with PatchReader(tmp_path / "db", mac_key=MacKeySet(OTHER, KEY), context="c") as reader:
        assert dict(reader.items()) == written
        assert footer_of(reader.raw("patch 1")).suite == Suite.A256GMAC
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(operator.getitem, reader, "patch 2").result() == written["patch 2"]
    for key in (FIRST, OTHER):
        with PatchReader(tmp_path / "db", mac_key=key, context="c") as reader, pytest.raises(TagMismatchError):
            reader["patch 0"]


@pytest.mark.parametrize("mask", [":~0x20000000", ":0", "0:0"])
def test_tags_do_not_depend_on_the_processor(mask):
    """OpenSSL without SHA instructions, or without other extensions, computes the same tags."""
    code = (
        "import sys; from ben_secure.signing.keys import MacKey, MacKeySet, Suite\n"
        "from ben_secure.signing.tags import append_tag, verified_payload\n"
        "for suite in Suite:\n"
        "    key = MacKey(bytes(range(32)), suite)\n"
        "    verified_payload(MacKeySet(key), b'context', b'LMDB key', bytes.fromhex(sys.argv[suite]))\n"
        "    print(append_tag(key, b'context', b'LMDB key', bytes(1000)).hex())"
    )
    values = [append_tag(key, *PLACE, bytes(range(250))).hex() for key in (FIRST, KEY)]
    command = [sys.executable, "-c", code, *values]
    environment = os.environ | {"OPENSSL_ia32cap": mask}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    for key, value in zip((FIRST, KEY), done.stdout.split(), strict=True):
        assert verified_payload(MacKeySet(key), *PLACE, bytes.fromhex(value)) == bytes(1000)
