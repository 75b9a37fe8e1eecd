"""One structural check decides whether a value has a tag, for all code that handles values."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import BigEarthNet_S1_Patch, PatchReader, TagMismatchError, UntrustedDataError, loads, tensors
from ben_secure.cli import main
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import FOOTER_BYTES, MAGIC, Footer, Suite, footer_fault, footer_of, payload_end
from ben_secure.signing.keys import MacKey, MacKeySet, SigningKey, write_mac_keys, write_signing_key
from ben_secure.signing.tags import append_tag, make_tag, verified_payload
from support.databases import make_database, needs_lmdb_3

pytestmark = pytest.mark.threat("T9")

KEY = MacKey(bytes(range(32)))
KEYS = MacKeySet(KEY)
FOOTER = Footer(bytes(range(32)), KEY.key_id, Suite.HS256)
payloads = st.binary(max_size=300)


# The parser.


@given(payloads, st.sampled_from(Suite))
def test_a_footer_comes_back(payload, suite):
    """From bytes, bytearray and memoryview, with where the payload ends; nothing of it is verified."""
    footer = FOOTER._replace(suite=suite)
    value = payload + footer.pack(len(payload))
    assert len(value) == len(payload) + FOOTER_BYTES
    for given_value in (value, bytearray(value), memoryview(value), memoryview(np.frombuffer(value, np.uint8))):
        assert footer_of(given_value) == footer
        assert payload_end(given_value) == len(payload)


@given(payloads, st.data())
def test_what_is_no_whole_footer_is_payload(payload, data):
    """One bit of its fixed fields or of the length is enough; so is a byte before or behind, or one less."""
    value = payload + FOOTER.pack(len(payload))  # no bit makes suite 2 of suite 1
    bit = data.draw(st.integers((len(payload) + 40) * 8, len(value) * 8 - 1))
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    for other in (bytes(changed), b"x" + value, value + b"x", value[1:], value[:-1], payload, MAGIC):
        assert footer_of(other) is None
        assert payload_end(other) == len(other)
    assert footer_of(value) == FOOTER


def test_a_fault_is_told_of_what_was_tagged_and_not_of_pixels():
    """The magic and one of two more signs: a length that fits, or a suite and version that are known."""
    value = b"payload" + FOOTER.pack(7)
    assert footer_fault(b"" + value[1:]) == (
        "the value was changed: 6 bytes are before its tag, expected 7; fetch the database again from its source"
    )
    for place, message in ((-16, "suite 9, version 1"), (-15, "suite 1, version 9"), (-14, "reserved 090000000000")):
        other = bytearray(value)
        other[place] = 9
        assert message in footer_fault(bytes(other))
        assert footer_fault(bytes(other[1:])) is None
    assert footer_fault(value[:-1] + b"?") is None
    assert footer_fault(MAGIC) is None


# Values that hardly differ, and their treatment.


def value_ending_in(end):
    """A safetensors value of an honest patch, whose last pixels are these bytes."""
    bands = [np.zeros((120, 120), "<f4") for _ in range(2)]
    patch = BigEarthNet_S1_Patch(*bands)
    value = tensors.dumps(patch)
    return value[: len(value) - len(end)] + end


SIZE = len(value_ending_in(b""))
WHOLE = FOOTER.pack(SIZE - FOOTER_BYTES)
NO_TAGS = {
    "plain": b"",
    "the magic": MAGIC,
    "another length": FOOTER.pack(SIZE),
    "no length": FOOTER.pack(0),
    "another suite": WHOLE[:48] + b"\x09" + WHOLE[49:],
    "another version": WHOLE[:49] + b"\x02" + WHOLE[50:],
    "reserved bytes": WHOLE[:50] + b"\x00\x00\x00\x00\x00\x01" + WHOLE[56:],
    "all but a bit of the magic": WHOLE[:-1] + b"\x0b",
}


def records(path):
    """All records of a database."""
    with PageReader(path) as reader:
        return dict(reader.items())


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with keys."""
    monkeypatch.chdir(tmp_path)
    write_mac_keys("key", KEYS)
    write_signing_key("publisher", SigningKey.generate())
    return tmp_path


def codes(*commands):
    """The exit codes of commands."""
    return [main(command.split()) for command in commands]


@needs_lmdb_3
@pytest.mark.parametrize("end", NO_TAGS.values(), ids=NO_TAGS)
def test_pixels_that_look_like_a_footer_are_pixels(place, capsys, end):
    """Such a value is loaded, audited, tagged, verified, untagged, converted, published as any other."""
    value = value_ending_in(end)
    patch = loads(value)
    assert patch.bands[-1].data.tobytes().endswith(end)
    make_database(place / "db", {b"a": value, b"b": value_ending_in(b"")})
    publish = "--signing-key publisher --name n --version 1"
    assert (
        codes(
            "audit db --workers 1 --no-fickling",
            "sign db --mac-key key --out tagged",
            "audit tagged --workers 1 --no-fickling --mac-key key",
            "verify tagged --mac-key key",
            "sign tagged --mac-key key",
            "untag tagged --mac-key key --out bare",
            "convert db canonical",
            "convert tagged again --source-mac-key key",
            f"publish db release {publish}",
            f"publish db converted {publish} --convert",
        )
        == [0] * 10
    )
    assert records("bare") == records("db")
    assert records("again") == records("canonical")
    for path, key in (("db", None), ("tagged", None), ("tagged", KEYS), ("canonical", None)):
        with PatchReader(path, mac_key=key) as reader:
            assert reader["a"] == patch
    capsys.readouterr()
    assert codes("sign db --mac-key key", "sign bare --mac-key key") == [2, 2]  # safetensors values, each as its pair
    assert capsys.readouterr().err.count("the value is a safetensors file") == 2
    with pytest.raises(TagMismatchError), PatchReader("db", mac_key=KEYS) as reader:
        reader["a"]


@needs_lmdb_3
def test_pixels_that_are_a_whole_footer_are_one(place, capsys):
    """Honest pixels never are, but hostile ones can be: everything treats them as a tag, which no key verifies."""
    value = value_ending_in(WHOLE)
    with pytest.raises(UntrustedDataError):
        loads(value)
    make_database(place / "db", {b"a": value})
    assert (
        codes(
            "audit db --workers 1 --no-fickling",
            "sign db --mac-key key",
            "sign db --mac-key key --out tagged",
            "verify db --mac-key key",
            "untag db --mac-key key --out bare",
            "convert db canonical",
            "publish db release --signing-key publisher --name n --version 1",
        )
        == [1] * 7
    )
    assert records("db") == {b"a": value}


@needs_lmdb_3
def test_a_value_with_two_tags_is_refused(place, capsys):
    """Both are valid, one after the other: no writer makes them, and every reader refuses them with the same words."""
    bare = value_ending_in(b"")
    once = append_tag(KEY, b"", b"a", bare)
    tag = make_tag(KEY, b"", b"a", once)
    twice = once + Footer(tag, KEY.key_id, KEY.suite).pack(len(once))
    commands = [
        "audit db --workers 1 --no-fickling --mac-key key",
        "sign db --mac-key key",
        "verify db --mac-key key",
        "untag db --mac-key key --out bare",
        "convert db canonical --source-mac-key key",
    ]
    for value, code in ((once, 0), (twice, 1)):
        make_database(place / "db", {b"a": value})
        assert codes(*commands) == [code] * 5
        for made in ("bare", "canonical"):
            shutil.rmtree(made, ignore_errors=True)
    with PatchReader("db", mac_key=KEYS) as reader, pytest.raises(TagMismatchError, match="has two tags"):
        reader["a"]
    with pytest.raises(TagMismatchError, match="has two tags"):
        verified_payload(KEYS, b"", b"a", twice)
    for read in (loads, lambda value: append_tag(KEY, b"", b"a", value)):
        with pytest.raises((UntrustedDataError, ValueError)):
            read(twice)
    assert verified_payload(KEYS, b"", b"a", once) == bare
