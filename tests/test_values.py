"""Values of both formats, told apart by their first bytes alone."""

import io

import pytest

import ben_secure
from ben_secure import tensors, values
from ben_secure.audit.judge.scan import scan_value
from ben_secure.errors import BenSecureError, LimitExceededError, PatchFormatError, Rule
from ben_secure.limits import Limits
from ben_secure.patches import BigEarthNet_S1_Patch
from ben_secure.signing.footer import FOOTER_BYTES
from support.assembler import canonical
from support.legacy_values import GENERATIONS, small_tree, write
from support.strategies import make_patch
from support.tensor_files import S1_FILE, S1_NAMES, pattern, raw, sentinel, spell


def unpickled(value):
    """Read a value as a pickle and nothing else."""
    return ben_secure.PatchUnpickler(io.BytesIO(value)).load()


PICKLES = [canonical(), *(write(small_tree(generation)) for generation in GENERATIONS)]


@pytest.mark.parametrize("value", PICKLES)
def test_pickles_are_read_as_before(tmp_path, value):
    """The same patch as from the reader of pickles, which reads nothing else."""
    alone = unpickled(value)
    assert values.loads(value) == ben_secure.loads(value) == alone
    assert values.load(io.BytesIO(value)) == ben_secure.load(io.BytesIO(value)) == alone
    (tmp_path / "value").write_bytes(value)
    for path in (tmp_path / "value", str(tmp_path / "value")):
        assert ben_secure.load(path) == type(alone).load(path) == alone
    with pytest.raises(FileNotFoundError):
        ben_secure.load(tmp_path / "nothing")


def test_safetensors_values_are_read():
    """All public functions read them, except those for pickles."""
    patch = tensors.read(S1_FILE, len(S1_FILE), (), Limits())
    assert values.loads(S1_FILE) == ben_secure.loads(bytearray(S1_FILE)) == values.load(io.BytesIO(S1_FILE)) == patch
    assert BigEarthNet_S1_Patch.loads(S1_FILE) == BigEarthNet_S1_Patch.load(io.BytesIO(S1_FILE)) == patch
    assert scan_value(b"k", S1_FILE) is None
    with pytest.raises(PatchFormatError, match="not a pickle"):
        unpickled(S1_FILE)


@pytest.mark.threat("T16")
@pytest.mark.parametrize("length", [0x180, 0x480, 0x580, 0x8880, 0xFF80])
def test_a_length_that_begins_like_a_pickle_is_a_length(length):
    """The first byte of a header's length may be that of a pickle, and the second a protocol."""
    header = spell(sentinel(S1_NAMES)).ljust(length)
    value = raw(header, pattern(28800))
    assert value[0] == 0x80
    assert values.loads(value) == values.loads(S1_FILE)
    with pytest.raises(BenSecureError):
        unpickled(value)


@pytest.mark.threat("T16")
@pytest.mark.parametrize("first", [b"\x80\x04", b"\x80\x05"])
def test_no_pickle_is_admitted_that_looks_like_safetensors(first):
    """For any two bytes between, in a pickle with these upper length bytes and brace."""
    tail = PICKLES[0][9:]
    for between in range(0, 2**16, 5):  # each value of either byte, and most pairs of digits
        value = first + between.to_bytes(2, "little") + tensors.SIGN + tail
        with pytest.raises(BenSecureError):
            unpickled(value)
    assert unpickled(PICKLES[0])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"", "it is empty; a pickled"),
        (b"{", "starts with b'{'"),
        (b"\x93NUMPY\x01\0", "NUMPY"),
        (b"PK\x03\x04" + bytes(60), "PK"),
        (S1_FILE[:8], "not a safetensors"),
        (S1_FILE[1:], "not a safetensors"),
        (b"\x1b[31m" * 3, r"\\x1b\[31m"),
    ],
)
def test_neither_is_refused_by_a_message_that_names_both(value, shown):
    """No format is guessed; the error has both expectations, and the accepted counterpart is read."""
    with pytest.raises(PatchFormatError, match="not a pickle and not a safetensors file") as caught:
        values.loads(value)
    assert (caught.value.rule, caught.value.offset) == (Rule.NOT_A_PICKLE, 0)
    with pytest.raises(PatchFormatError, match=shown):
        values.loads(value)
    assert values.loads(S1_FILE)


def test_what_follows_the_payload_is_not_looked_at():
    """A value cut short in front of its format's sign is neither, even if a footer would complete it."""
    assert values.Decoder().load(S1_FILE + b"more", len(S1_FILE)) == values.loads(S1_FILE)
    with pytest.raises(BenSecureError):
        values.Decoder().load(S1_FILE, 8)


def test_limits_and_types():
    """Too long a file is refused without reading all of it; other types are the caller's mistake."""
    limits = Limits(max_value_bytes=len(S1_FILE) - 1)
    file = io.BytesIO(S1_FILE + bytes(10**6))
    with pytest.raises(LimitExceededError, match="max_value_bytes"):
        values.load(file, limits=limits)
    assert file.tell() <= len(S1_FILE) + FOOTER_BYTES
    with pytest.raises(TypeError, match="must be bytes"):
        values.loads("text")
    with pytest.raises(TypeError, match="classes must hold"):
        values.loads(make_patch().dumps(), classes=[int])
