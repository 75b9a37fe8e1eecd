import copy
import datetime
import decimal
import enum
import io
import math
import pathlib
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure.bands import PIXEL_DTYPES
from ben_secure.limits import Limits
from ben_secure.metadata import (
    array_from_bytes,
    check_name,
    check_value,
    equal,
    pack,
    rebuild_array,
    rebuild_scalar,
)
from support.effort import effort_below
from support.strategies import metadata_values


class Text(str):
    """A subclass, which could carry methods of its own."""


class Numbers(np.ndarray):
    """The same for arrays."""


class Colour(enum.IntEnum):
    """A subclass of int."""

    RED = 1


def nested(depth):
    """A list in a list ... around nothing."""
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def doubled(times):
    """A small DAG that is 2 ** times objects when written out."""
    value = ["x"]
    for _ in range(times):
        value = [value, value]
    return value


def objects(*items):
    """A one-dimensional object array."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def empty_texts(*shape):
    """An array of empty texts, which has no bytes."""
    return np.ndarray(shape, "<U0", b"")


ACCEPTED = [
    "text",
    "\ud800 lone surrogate",
    1,
    1 - 2**511,
    1.5,
    math.nan,
    True,
    None,
    b"bytes",
    [],
    ["a", ("b", {"c": [1, None]})],
    (),
    {},
    {"": 1},
    set(),
    {1, "a", b"b", None, 2.5},
    np.array([[1, 2]], dtype=">i2"),
    np.array(["a", "bb"]),
    np.array([True]),
    np.zeros((0, 3)),
    np.array(1 + 2j),
    np.float32(1),
    np.bool_(True),
    np.str_("a"),
    np.complex128(1j),
    objects("a", "b"),
    objects(),
    nested(24),
]

REFUSED = [
    (Text("text"), "test_metadata.Text"),
    (Colour.RED, "test_metadata.Colour"),
    (1j, "complex"),
    (bytearray(b"bytes"), "bytearray"),
    (frozenset({1}), "frozenset"),
    (range(3), "range"),
    (datetime.date(2020, 1, 2), r"datetime\.date; .*dates as ISO 8601 strings"),
    (pathlib.PurePosixPath("a"), r"pathlib.*PurePosixPath; .*paths as str"),
    (decimal.Decimal(1), r"decimal\.Decimal"),
    (len, "builtin_function_or_method"),
    (int, "type"),
    (object(), "object"),
    (np.array([1, "a"], dtype=object), "object array whose item 0 is a int"),
    (objects("a", None), "object array whose item 1 is a NoneType"),
    (objects("a", Text("b")), "object array whose item 1 is a Text"),
    (objects("a", "b").reshape(1, 2), r"array of shape \(1, 2\) and dtype object"),
    (np.array("a", dtype=object), r"array of shape \(\) and dtype object"),
    (np.zeros(1, "M8[s]"), r"dtype datetime64\[s\]"),
    (np.zeros(1, "m8[s]"), "dtype timedelta64"),
    (np.zeros(1, "S3"), r"dtype \|S3"),
    (np.zeros(1, "V3"), r"dtype \|V3"),
    (np.zeros(1, "u2,u2"), "dtype"),
    (np.zeros(1, np.longdouble), "dtype float128|dtype longdouble"),
    (np.zeros(1).view(Numbers), r"test_metadata\.Numbers"),
    (np.ma.masked_array([1]), "MaskedArray"),
    (np.datetime64("2020"), r"numpy\.datetime64"),
    (np.bytes_(b"a"), r"numpy\.bytes_"),
    (np.longdouble(1), r"numpy\.(longdouble|float128)"),
    (np.void(b"a"), r"numpy\.void"),
    ({1: "a"}, "key of type int"),
    ({Text("a"): 1}, "key of type Text"),
    ({(1, 2)}, "set member of type tuple"),
    ({np.int64(1)}, "set member of type int64"),
]


@pytest.mark.parametrize("value", ACCEPTED, ids=range(len(ACCEPTED)))
def test_plain_data_is_admitted(value):
    """Every admitted type, alone and inside a list, a tuple and a dict; it counts each object once."""
    alone = check_value("x", value)
    assert alone >= 1
    assert check_value("x", value, spent=5) == alone + 5
    if value is not ACCEPTED[-1]:  # which is as deep as it may be
        assert check_value("x", [value, (value,), {"k": value}]) >= 4


@pytest.mark.parametrize(("value", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_anything_else_is_refused_wherever_it_is(value, message):
    """They are refused at the top, deep inside, and among accepted values; the message names the type."""
    with pytest.raises(TypeError, match=f"metadata 'x' .*{message}"):
        check_value("x", value)
    with pytest.raises(TypeError, match=rf"metadata 'x'\[1\]\['k'\]\[0\] .*{message}"):
        check_value("x", ["ok", {"fine": "yes", "k": (value,)}, "ok"])


def test_the_message_has_path_type_and_remedy():
    """The message contains everything needed for a repair."""
    with pytest.raises(TypeError) as caught:
        check_value("acquired", {"x": ["a", "b", datetime.datetime(2020, 1, 2)]})
    assert str(caught.value).startswith("metadata 'acquired'['x'][2] is a datetime.datetime; use str, int, float")


def test_hostile_text_is_escaped_in_messages():
    """Names and keys come from files."""
    with pytest.raises(TypeError, match=r"metadata '\\x1b\[2J'\['\\n'\] is a object") as caught:
        check_value("\x1b[2J", {"\n": object()})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("good", "bad", "limits", "message"),
    [
        (nested(24), nested(25), Limits(), "nested deeper than 24"),
        ([["a"] * 4], [["a"] * 5], Limits(max_nodes=6), "at most 6 objects"),
        ([{"a": 1, "b": 2, "c": 3}], [{"a": 1, "b": 2, "c": 3, "d": 4}], Limits(max_nodes=5), "at most 5 objects"),
        ([{1, 2}], [{1, 2, 3}], Limits(max_nodes=4), "at most 4 objects"),
        (objects("a", "b"), objects("a", "b", "c"), Limits(max_nodes=3), "at most 3 objects"),
        (np.array(["a", "b"]), np.array(["a", "b", "c"]), Limits(max_nodes=3), "at most 3 objects"),
        (np.array([["a", "b"]]), np.array([["a", "b"]] * 2), Limits(max_nodes=3), "at most 3 objects"),
        (np.array(["a" * 63]), np.array(["a" * 64]), Limits(max_nodes=2), "at most 2 objects"),
        (empty_texts(49_999), empty_texts(50_000), Limits(), "at most 50000 objects"),
        (empty_texts(200, 100), empty_texts(2**15, 2**15), Limits(), "at most 50000 objects"),
        ([empty_texts(10)], [empty_texts(10)] * 2, Limits(max_nodes=20), "at most 20 objects"),
        (np.zeros(255, "u1"), np.zeros(256, "u1"), Limits(max_nodes=1), "at most 1 objects"),
        (doubled(3), doubled(4), Limits(max_nodes=30), "at most 30 objects"),
        (2**511 - 1, 2**511, Limits(), "takes more than 64 bytes"),
        ([{1 - 2**511}], [{-(2**512)}], Limits(), "takes more than 64 bytes"),
        (np.zeros((1,) * 16), np.zeros((1,) * 17), Limits(), "at most 16 dimensions, not 17"),
    ],
    ids=range(16),
)
def test_size_and_depth_are_bounded(good, bad, limits, message):
    """Each bound is tested on both sides."""
    check_value("x", good, limits)
    with pytest.raises(ValueError, match=message):
        check_value("x", bad, limits)


def test_an_array_may_have_as_many_dimensions_as_one_that_is_read():
    """No more and no fewer."""
    assert array_from_bytes("|u1", (1,) * 16, b"x").shape == (1,) * 16
    with pytest.raises(ValueError, match="16 dimensions, not 17"):
        array_from_bytes("|u1", (1,) * 17, b"x")


def test_cycles_and_shared_references_end_quickly():
    """A cycle, a billion laughs, and a big set shared many times are refused in well under a second."""
    cycle = []
    cycle.append([cycle, cycle])
    loop = {}
    loop["again"] = loop
    with effort_below(60):
        for value in (cycle, loop, doubled(20), [set(range(1000))] * 50_000, [objects(*map(str, range(999)))] * 50_000):
            with pytest.raises(ValueError, match=r"nested deeper|at most \d+ objects"):
                check_value("x", value)


@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    "value",
    {
        "texts": ["x"] * 10**7,
        "numbers": [1] * 10**7,
        "set": set(range(10**6)),
        "dict": dict.fromkeys(map(str, range(10**6))),
        "object array": np.full(10**7, "x", dtype=object),
        "array of text": np.full(10**7, "x"),
        "array without bytes": empty_texts(2**31 - 1),
    }.items(),
    ids=lambda case: case[0],
)
def test_elements_are_counted_before_one_is_looked_at(value):
    """Content with too many elements takes no longer than content at the limit."""
    with effort_below(1), pytest.raises(ValueError, match="at most 50000 objects"):
        check_value("x", value[1])


def test_the_bound_on_objects_is_common_to_all_values():
    """Objects that were counted before count."""
    limits = Limits(max_nodes=10)
    spent = check_value("a", [1, 2, 3, 4], limits)
    assert check_value("b", [1, 2, 3, 4], limits, spent) == 10
    with pytest.raises(ValueError, match="at most 10 objects"):
        check_value("b", [1, 2, 3, 4, 5], limits, spent)


@pytest.mark.parametrize("name", ["labels", "größe", "not an identifier", "_private", "__half", "a" * 256])
def test_names_are_admitted(name):
    """Any text that nothing else uses."""
    check_name(name, {"bands"})


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("bands", ValueError, "metadata 'bands' would shadow"),
        ("__class__", ValueError, "'__class__' would shadow"),
        ("__x__", ValueError, "would shadow"),
        ("", ValueError, "1 to 256 characters, not 0"),
        ("a" * 257, ValueError, "1 to 256 characters, not 257"),
        (Text("labels"), TypeError, "must be a str, not Text"),
        (b"labels", TypeError, "must be a str, not bytes"),
        (np.str_("labels"), TypeError, "must be a str, not str_"),
    ],
)
def test_names_are_refused(name, error, message):
    """Names that are taken, dunder, empty, too long, or not exactly a str are refused."""
    with pytest.raises(error, match=message):
        check_name(name, {"bands"})


DISTINCT = [
    None,
    False,
    True,
    0,
    1,
    0.0,
    -0.0,
    1.0,
    math.nan,
    "",
    "1",
    b"1",
    [],
    (),
    {},
    set(),
    [1],
    [1.0],
    [True],
    [1, 1],
    (1,),
    {"a": 1},
    {"a": True},
    {"b": 1},
    {1},
    {1.0},
    {True},
    {"1"},
    {0.0},
    {-0.0},
    np.array([1], "<u2"),
    np.array([1], ">u2"),
    np.array([1], "<i2"),
    np.array([2], "<u2"),
    np.array([[1]], "<u2"),
    np.array([], "<u2"),
    np.array([0.0]),
    np.array([-0.0]),
    np.array([math.nan]),
    np.array(["1"]),
    objects("1"),
    objects("1", "2"),
    np.uint16(1),
    np.int16(1),
    np.float64(1),
    np.float32(1),
    np.float64(0.0),
    np.float64(-0.0),
    np.bool_(True),
    np.str_("1"),
]


def test_equal_tells_types_and_bits_apart():
    """Of a list of values that == often confuses, each equals a copy of itself and no other."""
    for i, a in enumerate(DISTINCT):
        for j, b in enumerate(DISTINCT):
            assert equal(a, copy.deepcopy(b)) is (i == j), (a, b)


def test_equal_compares_nan_and_memory_order_by_content():
    """NaN equals NaN of the same bits; memory order and numpy's equivalent types make no difference."""
    quiet, other = (np.frombuffer(bits, "<f8") for bits in (b"\0" * 6 + b"\xf8\x7f", b"\1" + b"\0" * 5 + b"\xf8\x7f"))
    assert equal([quiet], [quiet.copy()])
    assert not equal([quiet], [other])
    grid = np.arange(6).reshape(2, 3)
    assert equal(grid, np.asfortranarray(grid))
    assert equal(np.longlong(3), np.int64(3))


def through_pickle(value, protocol=5):
    """Pack and pickle a value, check its content, and load it."""
    data = pickle.dumps(pack(value), protocol)
    named = {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "SHORT_BINUNICODE"}
    assert not any("numpy" in str(name) for name in named if name == "numpy" or str(name).startswith("numpy."))
    return pickle.loads(data)


@given(metadata_values())
@settings(max_examples=150)
def test_every_admitted_value_survives_pack_and_pickle(value):
    """Check, pack, pickle and rebuild give an equal value, which is admitted as the same number of objects."""
    nodes = check_value("x", value)
    for protocol in (2, 5):
        again = through_pickle(value, protocol)
        assert equal(again, value)
        assert check_value("x", again) == nodes


@pytest.mark.parametrize("value", ACCEPTED, ids=range(len(ACCEPTED)))
def test_accepted_values_survive_pack_and_pickle(value):
    """The same for every case of the list above."""
    assert equal(through_pickle(value), value)


def test_pack_leaves_plain_data_alone():
    """The same object comes back, however deep, if it has neither sets nor anything of numpy."""
    for value in ["a", 1, None, ["a", {"b": (1, 2)}], {}]:
        assert pack(value) is value
    value = [["a"], {"b": np.zeros(1)}]
    packed = pack(value)
    assert packed is not value
    assert packed[0] is value[0]
    assert type(value[1]["b"]) is np.ndarray


def test_nothing_of_numpy_is_named_in_the_pickle():
    """The only globals are the two rebuilders."""
    data = pickle.dumps(pack([np.zeros(2), np.float32(1), objects("a"), np.array(["a"])]), protocol=2)
    found = {argument for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"}
    assert found == {
        "ben_secure.metadata rebuild_array",
        "ben_secure.metadata rebuild_scalar",
        "_codecs encode",  # how protocol 2 spells bytes
    }


def test_rebuilt_arrays_are_writable_and_own_their_data():
    """They are not views of the payload."""
    data = b"\1\0\2\0"
    array = rebuild_array("<u2", (2,), data)
    array[0] = 7
    assert array.tolist() == [7, 2]
    assert data == b"\1\0\2\0"
    buffer = bytearray(data)
    array_from_bytes("<u2", (2,), buffer)[0] = 7
    assert buffer == data


def test_fortran_order():
    """The bytes run down the columns."""
    grid = np.arange(6, dtype="<u2").reshape(2, 3)
    for fortran in (False, True):
        array = array_from_bytes(np.dtype("<u2"), (2, 3), grid.tobytes("F" if fortran else "C"), fortran)
        np.testing.assert_array_equal(array, grid)


@pytest.mark.parametrize("code", sorted(PIXEL_DTYPES | {"|b1", "<U1", ">U2", "<U0"}))
def test_every_admitted_dtype_is_rebuilt(code):
    """Arrays and scalars are rebuilt from dtype, shape and bytes."""
    size = np.dtype(code).itemsize
    assert rebuild_array(code, (2, 0), b"").shape == (2, 0)
    array = rebuild_array(code, (3,), bytes(3 * size))
    assert array.dtype.str == code
    assert equal(rebuild_scalar(code, bytes(size)), np.str_("\0" * (size // 4)) if "U" in code else array[0])


HOSTILE_ARRAYS = [
    (("<u2", (2,), b"\0" * 3), ValueError, "has 4 bytes, not 3"),
    (("<u2", (2,), b"\0" * 5), ValueError, "has 4 bytes, not 5"),
    (("<u2", (-2,), b""), ValueError, "negative or too large"),
    (("<u2", (-1, -4), b"\0" * 8), ValueError, "negative or too large"),
    (("<u2", (2**31,), b""), ValueError, "negative or too large"),
    (("<u2", (2**63, 0), b""), ValueError, "negative or too large"),
    (("<u2", (2**30, 2**30, 0), b""), ValueError, "negative or too large"),
    (("<u2", (2**16, 2**16, 2**32), b""), ValueError, "negative or too large"),
    (("<u2", (1,) * 17, b"\0\0"), ValueError, "at most 16 dimensions, not 17"),
    (("<u2", [1], b"\0\0"), TypeError, "tuple of int, not list"),
    (("<u2", (True,), b"\0\0"), TypeError, "tuple of int"),
    (("<u2", (1.0,), b"\0\0"), TypeError, "tuple of int"),
    (("<u2", (np.int64(1),), b"\0\0"), TypeError, "tuple of int"),
    (("<u2", 1, b"\0\0"), TypeError, "tuple of int, not int"),
    (("<u2", (1,), "\0\0"), TypeError, "must be bytes, not str"),
    (("<u2", (1,), memoryview(b"\0\0")), TypeError, "must be bytes, not memoryview"),
    (("<u2", (1,), np.zeros(2, "u1")), TypeError, "must be bytes, not ndarray"),
    (("u2", (1,), b"\0\0"), ValueError, "dtype u2 is not allowed"),
    (("=u2", (1,), b"\0\0"), ValueError, "not allowed"),
    (("|V2", (1,), b"\0\0"), ValueError, "not allowed"),
    (("<M8[s]", (1,), b"\0" * 8), ValueError, "not allowed"),
    (("|S2", (1,), b"\0\0"), ValueError, "not allowed"),
    (("<f16", (1,), b"\0" * 16), ValueError, "not allowed"),
    (("<u2,<u2", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("(2,)<u2", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("O", (1,), b"\0" * 8), ValueError, "dtype O is not allowed"),
    (("|O8", (1,), b"\0" * 8), ValueError, "not allowed"),
    (("<U", (1,), b""), ValueError, "not allowed"),
    (("|U1", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("<U01", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("<U-1", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("<U1\n", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("<U\u0661", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("<U99999", (1,), b"\0" * 4), ValueError, "has 399996 bytes, not 4"),
    (("<U100000", (1,), b"\0" * 4), ValueError, "not allowed"),
    (("<U0", (50_001,), b""), ValueError, "at most 50000 texts, not 50001"),
    ((">U0", (2**31 - 1,), b""), ValueError, "at most 50000 texts"),
    (("<U0", (2**15, 2**15), b""), ValueError, "at most 50000 texts"),
    (("<U1", (50_001,), bytes(200_004)), ValueError, "at most 50000 texts"),
    (("<U1", (1,), b"\0\0\x11\0"), ValueError, r"beyond U\+10FFFF"),
    ((">U1", (1,), b"\0\x11\0\0"), ValueError, r"beyond U\+10FFFF"),
    (("|b1", (2,), b"\0\2"), ValueError, "must be 0 or 1"),
    ((b"<u2", (1,), b"\0\0"), TypeError, "given as str, not bytes"),
    ((np.dtype("<u2"), (1,), b"\0\0"), TypeError, "given as str"),
    ((np.str_("<u2"), (1,), b"\0\0"), TypeError, "given as str, not str_"),
    (("|O", (1,), b"\0" * 8), TypeError, "list of str, not bytes"),
    (("|O", (1,), ["a", 1]), TypeError, "list of str"),
    (("|O", (1,), [Text("a")]), TypeError, "list of str"),
    (("|O", (1,), ("a",)), TypeError, "list of str, not tuple"),
    (("|O", (2,), ["a"]), ValueError, r"must have the shape \(1,\)"),
    (("|O", (1, 1), ["a"]), ValueError, r"must have the shape \(1,\)"),
    (("|O", [1], ["a"]), TypeError, "tuple of int, not list"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), HOSTILE_ARRAYS, ids=range(len(HOSTILE_ARRAYS)))
def test_hostile_arrays_are_refused(arguments, error, message):
    """A wrong length, shape, dtype or type is refused; the honest arguments are accepted."""
    assert rebuild_array("<u2", (2,), b"\0" * 4).nbytes == 4
    assert rebuild_array("|O", (1,), ["a"]).tolist() == ["a"]
    assert rebuild_array("<U1", (1,), b"\xff\xff\x10\0").tolist() == ["\U0010ffff"]
    assert rebuild_array("|b1", (2,), b"\0\1").tolist() == [False, True]
    assert rebuild_array("<U0", (250, 200), b"").shape == (250, 200)
    assert rebuild_array("<U0", (0, 2**31 - 1), b"").size == 0
    assert rebuild_array("<U1", (50_000,), bytes(200_000)).size == 50_000
    with pytest.raises(error, match=message):
        rebuild_array(*arguments)


def test_array_from_bytes_takes_plain_dtypes_only():
    """A dtype object is judged by its content, not only by its text."""
    assert array_from_bytes(np.dtype(">f4"), (1,), b"\0" * 4).dtype.str == ">f4"
    for dtype in (np.dtype(object), np.dtype("u2,u2"), np.dtype(("<u2", (2,))), np.dtype("M8[s]"), np.dtype("V4")):
        with pytest.raises(ValueError, match="not allowed"):
            array_from_bytes(dtype, (1,), bytes(dtype.itemsize))
    for other in (None, b"<u2", np.uint16, int):
        with pytest.raises(TypeError, match="given as str"):
            array_from_bytes(other, (1,), b"\0\0")
    noted = np.dtype("<u2", metadata={"x": 1})
    assert array_from_bytes(noted, (1,), b"\0\0").dtype.metadata is None


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("<u2", b"\0"), ValueError, "has 2 bytes, not 1"),
        (("<u2", [0]), TypeError, "must be bytes, not list"),
        (("|O", b"\0" * 8), ValueError, "not allowed"),
        (("|b1", b"\2"), ValueError, "0 or 1"),
        (("<U1", b"\0\0\x11\0"), ValueError, r"beyond U\+10FFFF"),
        ((np.dtype("<u2"), b"\0\0"), TypeError, "given as str"),
    ],
)
def test_hostile_scalars_are_refused(arguments, error, message):
    """The rules are those for arrays."""
    assert rebuild_scalar("<u2", b"\1\0") == np.uint16(1)
    with pytest.raises(error, match=message):
        rebuild_scalar(*arguments)


def test_str_scalars_keep_every_character():
    """Trailing NULs and lone surrogates, which numpy and UTF-32 are apt to lose."""
    for text in ("", "a\0", "\0\0", "\ud800", "\U0010ffff"):
        again = through_pickle(np.str_(text))
        assert type(again) is np.str_
        assert again == text


_hostile = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=16)
_shapes = st.lists(st.integers(-2, 5) | st.integers(), max_size=3).map(tuple)
_codes = st.sampled_from([*sorted(PIXEL_DTYPES), "|b1", "<U1", "<U0", ">U2", "|O", "O", "|S1", "|V2"])


@given(_codes | _hostile, _shapes | _hostile, st.binary(max_size=40) | st.lists(_hostile, max_size=3) | _hostile)
@settings(max_examples=300)
def test_any_arguments_give_an_admitted_array_or_a_plain_error(dtype, shape, data):
    """Only TypeError and ValueError are raised, and every result is accepted as metadata."""
    try:
        array = rebuild_array(dtype, shape, data)
    except (TypeError, ValueError):
        return
    check_value("x", array)
    assert equal(pickle.load(io.BytesIO(pickle.dumps(pack(array), 5))), array)
