"""Value tags: every change of a value, its key, its context or its footer is refused."""

import array
import json
import pathlib
import pickle
import re
import runpy
import threading
import time
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import TagMismatchError, UntrustedDataError, loads
from ben_secure.errors import Rule
from ben_secure.signing import _mac_keys, tags
from ben_secure.signing.footer import FOOTER_BYTES, MAGIC
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey, Suite
from ben_secure.signing.tags import append_tag, context_bytes, make_tag, verified_payload
from support import legacy_values

pytestmark = pytest.mark.threat("T9")

VECTORS = pathlib.Path(__file__).parent / "vectors"
TAGS = json.loads((VECTORS / "tags.json").read_text())
KEY, OTHER = MacKey(bytes(range(32))), MacKey(bytes(range(32, 64)))
KEYS = MacKeySet(KEY)
OTHERS = {suite: MacKey(bytes(range(32, 64)), suite) for suite in Suite}
SETS = {suite.name: MacKeySet(MacKey(bytes(range(32)), suite)) for suite in Suite}
both = pytest.mark.parametrize("keys", SETS.values(), ids=SETS)

contexts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(context_bytes)
lmdb_keys = st.binary(min_size=1, max_size=511)
payloads = st.binary(max_size=300)


def refused(context, lmdb_key, value, keys=KEYS):
    """The error with which a value is refused; it names the place, and never says how the check failed."""
    with pytest.raises(TagMismatchError) as caught:
        verified_payload(keys, context, lmdb_key, value)
    error = caught.value
    assert isinstance(error, UntrustedDataError)
    assert error.lmdb_key == lmdb_key
    assert error.rule in (Rule.TAG_MISSING, Rule.TAG_INVALID, Rule.TAG_FOREIGN)
    assert error.__cause__ is None
    return error


# Laws.


@both
@given(contexts, lmdb_keys, payloads)
def test_what_was_tagged_is_given_back(keys, context, lmdb_key, payload):
    """The payload is a view of the value, 64 bytes shorter, and any key of a set may have tagged it."""
    other = OTHERS[keys.signing.suite]
    value = append_tag(keys.signing, context, lmdb_key, payload)
    assert value.startswith(payload)
    assert len(value) == len(payload) + FOOTER_BYTES
    for several in (keys, MacKeySet(other, keys.signing), MacKeySet(keys.signing, other)):
        found = verified_payload(several, context, lmdb_key, value)
        assert found == payload
        assert type(found) is memoryview
        assert found.obj is value


@both
@given(contexts, lmdb_keys, payloads, st.data())
def test_a_flipped_bit_is_refused(keys, context, lmdb_key, payload, data):
    """A bit in the value, the footer, the LMDB key or the context is covered."""
    value = append_tag(keys.signing, context, lmdb_key, payload)
    parts = [value, lmdb_key, context]
    which = data.draw(st.integers(0, 2 if context else 1))
    bit = data.draw(st.integers(0, len(parts[which]) * 8 - 1))
    changed = bytearray(parts[which])
    changed[bit // 8] ^= 1 << bit % 8
    parts[which] = bytes(changed)
    refused(parts[2], parts[1], parts[0], keys)
    verified_payload(keys, context, lmdb_key, value)


@both
@pytest.mark.parametrize(
    ("field", "start", "end", "message"),
    [
        ("payload", 0, 7, "was changed: it is not the one that was tagged"),
        ("tag", 7, 39, "was changed: it is not the one that was tagged"),
        ("key id", 39, 47, "is tagged with the key .*, which is not among the keys given"),
        ("payload length", 47, 55, r"was changed: 7 bytes are before its tag, expected \d+"),
        ("suite and version", 55, 57, "expected suite 1 or 2, version 1"),
        ("reserved", 57, 63, "reserved [0-9a-f]{12}; expected .*, reserved zero"),
        ("magic", 63, 71, "has no tag"),
    ],
)
def test_every_bit_of_a_value_counts(keys, field, start, end, message):
    """All of them, so that no field of the footer is left to chance."""
    value = append_tag(keys.signing, b"c", b"k", b"payload")
    assert len(value) == 71
    for bit in range(start * 8, end * 8):
        changed = bytearray(value)
        changed[bit // 8] ^= 1 << bit % 8
        assert re.search(message, refused(b"c", b"k", bytes(changed), keys).message)


@both
@given(contexts, lmdb_keys, payloads, st.data())
def test_a_shortened_or_lengthened_value_is_refused(keys, context, lmdb_key, payload, data):
    """Wherever bytes are cut out or put in."""
    value = append_tag(keys.signing, context, lmdb_key, payload)
    start = data.draw(st.integers(0, len(value)))
    end = data.draw(st.integers(start, len(value)))
    more = data.draw(st.binary(max_size=70))
    changed = value[:start] + more + value[end:]
    if changed != value:
        refused(context, lmdb_key, changed, keys)


@both
@given(contexts, lmdb_keys, lmdb_keys, payloads, payloads)
def test_swapped_values_are_refused(keys, context, one, other, first, second):
    """A value is good under its own LMDB key only."""
    if one != other:
        values = append_tag(keys.signing, context, one, first), append_tag(keys.signing, context, other, second)
        assert refused(context, one, values[1], keys).rule is Rule.TAG_INVALID
        assert refused(context, other, values[0], keys).rule is Rule.TAG_INVALID


@both
@given(contexts, contexts, lmdb_keys, payloads)
def test_a_value_of_another_dataset_is_refused(keys, context, elsewhere, lmdb_key, payload):
    """A value is good in its own context only, under the same MAC key too."""
    if context != elsewhere:
        value = append_tag(keys.signing, context, lmdb_key, payload)
        assert refused(elsewhere, lmdb_key, value, keys).rule is Rule.TAG_INVALID


@given(contexts, lmdb_keys, payloads)
def test_a_value_without_its_tag_is_refused(context, lmdb_key, payload):
    """The data cannot weaken the requested check."""
    assert refused(context, lmdb_key, payload).rule is Rule.TAG_MISSING


@both
@given(contexts, lmdb_keys, payloads)
def test_a_value_tagged_with_another_key_is_refused(keys, context, lmdb_key, payload):
    """The message has the key id that was found and those that are known."""
    other = OTHERS[keys.signing.suite]
    value = append_tag(other, context, lmdb_key, payload)
    error = refused(context, lmdb_key, value, keys)
    assert (
        f"the key {other.fingerprint}, which is not among the keys given ({keys.signing.fingerprint})" in error.message
    )
    # And with the key id of a known one written over it.
    renamed = value[:-32] + keys.signing.key_id + value[-24:]
    assert "was changed" in refused(context, lmdb_key, renamed, keys).message


@given(contexts, contexts, lmdb_keys, lmdb_keys, payloads, payloads)
def test_different_inputs_have_different_tags(context, context2, lmdb_key, lmdb_key2, payload, payload2):
    """The parts cannot run into each other."""
    same = (context, lmdb_key, payload) == (context2, lmdb_key2, payload2)
    assert (make_tag(KEY, context, lmdb_key, payload) == make_tag(KEY, context2, lmdb_key2, payload2)) == same
    joined = context + lmdb_key + payload
    if context:
        assert make_tag(KEY, b"", lmdb_key, joined) != make_tag(KEY, context, lmdb_key, joined[len(context) :])


@given(st.binary(max_size=200) | payloads.map(lambda payload: append_tag(KEY, b"c", b"k", payload)[5:]))
def test_any_bytes_are_verified_or_refused(value):
    """The result is the payload or a refusal."""
    refused(b"c", b"k", value)


@both
def test_a_tagged_value_is_not_tagged_again(keys):
    """It would be read as something else than it is."""
    value = append_tag(keys.signing, b"", b"k", b"payload")
    with pytest.raises(ValueError, match="already has a tag"):
        append_tag(keys.signing, b"", b"k", value)
    again = append_tag(keys.signing, b"", b"k", verified_payload(keys, b"", b"k", value))
    assert verified_payload(keys, b"", b"k", again) == b"payload"


def test_the_magic_can_be_told_from_text_and_from_pickles():
    """It is not ASCII and not UTF-8, and a pickle ends otherwise."""
    assert len(MAGIC) == 8
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode()
    assert not MAGIC.endswith(pickle.STOP)


# Messages.


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            b"payload",
            "the value has no tag, but a MAC key was given; get the tagged database from the owner of the key "
            "[at LMDB key b'k']",
        ),
        (
            append_tag(KEY, b"c", b"other", b"payload"),
            "the value was changed: it is not the one that was tagged for this LMDB key in the context 'c'; if that "
            "is the context, fetch the database again from its source [at LMDB key b'k']",
        ),
        (
            append_tag(OTHER, b"c", b"k", b"payload"),
            f"the value is tagged with the key {OTHER.fingerprint}, which is not among the keys given "
            f"({KEY.fingerprint}); if it was rotated, get the current key file from its owner "
            "[at LMDB key b'k']",
        ),
    ],
)
def test_messages_say_what_to_do(value, message):
    """And that is never to read without verification."""
    assert str(refused(b"c", b"k", value)) == message


def test_a_hostile_context_is_shown_escaped():
    """Pasted text cannot style the terminal, and bytes that are not text are harmless."""
    value = append_tag(KEY, b"c", b"k", b"payload")
    assert r"in the context '\x1b[31m'" in refused(b"\x1b[31m", b"k", value).message
    assert r"in the context '\xff'" in refused(b"\xff", b"k", value).message


@both
def test_one_message_for_everything_that_was_changed(keys):
    """Value, LMDB key, context or tag: the check cannot know which was changed, and the message does not guess."""
    value = append_tag(keys.signing, b"c", b"k", b"payload")
    changed = [
        b"P" + value[1:],
        value[:7] + bytes([value[7] ^ 1]) + value[8:],
        append_tag(keys.signing, b"d", b"k", b"payload"),
    ]
    changed.append(append_tag(keys.signing, b"c", b"l", b"payload"))
    assert len({refused(b"c", b"k", each, keys).message for each in changed}) == 1


# Callers' mistakes.


@pytest.mark.parametrize("wrong", [b"x" * 32, "key", None, SigningKey.generate(), SigningKey.generate().verify_key])
def test_nothing_stands_in_for_a_mac_key(wrong):
    """Keys of other kinds, bare secrets and paths are a TypeError, wherever a key is used."""
    value = append_tag(KEY, b"", b"k", b"p")
    for call in (
        lambda: append_tag(wrong, b"", b"k", b"p"),
        lambda: make_tag(wrong, b"", b"k", b"p"),
        lambda: verified_payload(wrong, b"", b"k", value),
    ):
        with pytest.raises(TypeError, match=r"mac_keys? must be MacKey(Set)?, not ") as caught:
            call()
        assert "xxxx" not in str(caught.value)
    with pytest.raises(TypeError):
        append_tag(KEYS, b"", b"k", b"p")
    with pytest.raises(TypeError):
        verified_payload(KEY, b"", b"k", value)


@both
def test_a_value_is_verified_where_it_is(keys):
    """In bytes, a bytearray or a memoryview; the payload is a view of it, and no byte of that is copied."""
    value = append_tag(keys.signing, b"", b"k", b"payload!")
    for buffer in (value, bytearray(value), memoryview(value), memoryview(array.array("Q", value))):
        found = verified_payload(keys, b"", b"k", buffer)
        assert found == b"payload!"
        assert found.obj is memoryview(buffer).obj
        for payload in (found, found.cast("Q")):
            again = append_tag(keys.signing, b"", b"k", payload)
            assert verified_payload(keys, b"", b"k", again) == b"payload!"
    for wrong in (memoryview(value)[::2], "text", None):
        with pytest.raises(TypeError):
            verified_payload(keys, b"", b"k", wrong)


def test_context_is_a_short_text():
    """At most 255 bytes in UTF-8, as it is written."""
    assert context_bytes("") == b""
    assert context_bytes("ü" * 127) == "ü".encode() * 127
    with pytest.raises(ValueError, match="the context has 256 bytes, expected at most 255"):
        context_bytes("ü" * 128)
    with pytest.raises(UnicodeEncodeError):
        context_bytes("\ud800")
    with pytest.raises(TypeError, match="must be a str, not bytes"):
        context_bytes(b"name")
    assert context_bytes("e\u0301") != context_bytes("é")
    with pytest.raises(TypeError):
        append_tag(KEY, "text", b"k", b"p")


# Vectors.


def test_vectors_are_made_again_byte_for_byte():
    """The generator knows the format from its description, not from the package."""
    generator = runpy.run_path(str(VECTORS / "generate_tags.py"))
    assert generator["document"]() == (VECTORS / "tags.json").read_text()
    assert MAGIC.hex() == TAGS["magic"]


@pytest.mark.parametrize("vector", TAGS["valid"], ids=lambda vector: vector["case"])
def test_valid_vectors(vector):
    """The package makes the same footer, and takes it."""
    key = MacKey(bytes.fromhex(vector["secret"]))
    context = context_bytes(vector["context"])
    lmdb_key, payload, footer = (bytes.fromhex(vector[name]) for name in ("lmdb_key", "payload", "footer"))
    assert key.fingerprint == vector["key_id"]
    assert append_tag(key, context, lmdb_key, payload) == payload + footer
    assert verified_payload(MacKeySet(OTHER, key), context, lmdb_key, payload + footer) == payload


@pytest.mark.parametrize("vector", TAGS["invalid"]["cases"], ids=lambda vector: vector["case"])
def test_invalid_vectors(vector):
    """Each is refused for the stated reason; the original value is accepted."""
    given_to_all = TAGS["invalid"]
    keys = MacKeySet(MacKey(bytes.fromhex(given_to_all["secret"])))
    context, lmdb_key = given_to_all["context"].encode(), bytes.fromhex(given_to_all["lmdb_key"])
    assert refused(context, lmdb_key, bytes.fromhex(vector["value"]), keys).rule == vector["rule"]
    verified_payload(keys, context, lmdb_key, append_tag(keys.signing, context, lmdb_key, b"\x80\x04N."))


@pytest.mark.parametrize("vector", json.loads((VECTORS / "rfc4231.json").read_text())["cases"])
def test_hmac_vectors(vector):
    """RFC 4231, through the object that tags are made with, wherever the message is cut."""
    key = MacKey(bytes(32))
    key._tag_key = bytes.fromhex(vector["key"])
    data = bytes.fromhex(vector["data"])
    for cut in (0, 1, len(data)):
        for _ in range(2):  # the second time from the cache
            mac = key.start(data[:cut])
            mac.update(data[cut:])
            assert mac.hexdigest() == vector["mac"]


# How it is done.


def test_tags_are_compared_in_constant_time(monkeypatch):
    """The one comparison is that of hmac, and its verdict is final."""
    value = append_tag(KEY, b"", b"k", b"p")
    compared = []

    def compare(found, expected):
        compared.append((found, expected))
        return False

    monkeypatch.setattr(tags, "hmac", types.SimpleNamespace(compare_digest=compare))
    refused(b"", b"k", value)
    assert compared == [(value[1:33], value[1:33])]


def test_what_is_kept_of_contexts_is_bounded():
    """A key that sees many contexts forgets, and its tags stay the same."""
    key = MacKey(bytes(32))
    first = {n: make_tag(key, str(n).encode(), b"k", b"p") for n in range(100)}
    assert len(key._starts) <= _mac_keys._KEPT_STARTS
    assert all(make_tag(key, str(n).encode(), b"k", b"p") == tag for n, tag in first.items())


@both
def test_threads_share_a_key(keys):
    """Tags of many threads at once are those of one."""
    payload = bytes(50_000)
    values = {n: append_tag(keys.signing, b"c%d" % (n % 20), b"k%d" % n, payload) for n in range(60)}
    shared = pickle.loads(pickle.dumps(keys))  # nothing is kept in it yet
    failures = []

    def work(start):
        for n in [*range(start, 60), *range(start)]:
            try:
                verified_payload(shared, b"c%d" % (n % 20), b"k%d" % n, values[n])
            except TagMismatchError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(n * 15,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_hash_runs_without_the_gil():
    """Another thread gets on while one large value is verified; with the GIL held it never could."""
    value = append_tag(KEY, b"", b"k", bytes(64 * 2**20))
    assert any(others_get_on(lambda: verified_payload(KEYS, b"", b"k", value)) for _ in range(50))
    assert not any(others_get_on(lambda: 3**1_000_000) for _ in range(3))


def others_get_on(work):
    """Whether this thread can run during another one's work; on a busy machine it may not."""
    spans, ticks = [], []

    def timed():
        begin = time.perf_counter()
        work()
        spans.append((begin, time.perf_counter()))

    thread = threading.Thread(target=timed)
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    [(begin, end)] = spans
    margin = (end - begin) * 0.1
    return any(begin + margin < tick < end - margin for tick in ticks)


@pytest.mark.parametrize("generation", legacy_values.GENERATIONS)
def test_the_trusted_core_reads_what_was_verified(generation):
    """The payload of a tagged legacy value loads like the bare value; with 64 other bytes after it, it does not."""
    bare = legacy_values.write(legacy_values.small_tree(generation))
    value = append_tag(KEY, b"", b"k", bare)
    assert loads(verified_payload(KEYS, b"", b"k", value)) == loads(bare)
    with pytest.raises(UntrustedDataError, match="64 bytes follow the end of the pickle"):
        loads(value[:-1] + b"?")
