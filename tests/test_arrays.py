"""Arrays and scalars written by numpy are rebuilt as numpy would; everything else is refused."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ben_secure import loads
from ben_secure.bands import PIXEL_DTYPES
from ben_secure.errors import LimitExceededError, PatchFormatError, Rule, UnsafePickleError
from ben_secure.limits import Limits
from ben_secure.metadata import rebuild_array
from ben_secure.pickles import machine
from ben_secure.pickles.names import TABLE
from support.assembler import (
    array_graph,
    blob,
    call,
    canonical,
    name,
    new,
    number,
    part,
    program,
    text,
    tup,
    with_metadata,
)
from support.legacy_values import GENERATIONS, Maker, small_tree, write

DTYPES = sorted(PIXEL_DTYPES | {"|b1", "<U1", ">U4", "<U9"})
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


def through(value, protocol=4):
    """Metadata as numpy itself pickles it, in a legacy patch, as we load it."""
    return loads(write(small_tree(metadata={"x": value}), protocol)).x


def same(found, expected):
    """The same array or scalar in every respect that can be seen."""
    assert type(found) is type(expected)
    assert (found.dtype.str, found.shape) == (expected.dtype.str, expected.shape)
    assert found.tobytes() == expected.tobytes() if found.dtype.kind != "O" else found.tolist() == expected.tolist()
    assert found.flags.f_contiguous == expected.flags.f_contiguous


@st.composite
def layouts(draw):
    """Arrays of every admitted dtype, C-contiguous, column-major, strided or read-only."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(shapes)
    count = int(np.prod(shape))
    if dtype.kind in "bU":
        array = draw(hnp.arrays(dtype, shape))
    else:
        array = np.frombuffer(draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize)), dtype)
        array = array.reshape(shape)
    how = draw(st.sampled_from(["plain", "column-major", "transposed", "reversed", "writable"]))
    if how == "column-major":
        array = np.asfortranarray(array)
    elif how == "transposed":
        array = array.T
    elif how == "reversed":
        array = array[::-1] if array.ndim else array
    return array.copy() if how == "writable" else array


@given(layouts(), st.sampled_from([4, 5]))
def test_arrays_come_back_as_from_numpy(array, protocol):
    """Dtype, byte order, shape, memory order and every bit equal those of ``pickle.loads``, in both protocols."""
    found = through(array, protocol)
    same(found, pickle.loads(pickle.dumps(array, protocol)))
    assert found.flags.writeable
    found[...] = found


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_come_back_as_from_numpy(dtype):
    """Scalars of every admitted dtype, in this machine's byte order as numpy has them."""
    for scalar in (np.zeros((), dtype)[()], np.array([1], "u1").astype(dtype)[0]):
        same(through(scalar), pickle.loads(pickle.dumps(scalar)))


@pytest.mark.parametrize("text", ["", "a", "ä\U0001f6f0", "a" * 300, "\ud800"])
def test_numpy_texts_come_back(text):
    """``numpy.str_`` of any length comes back, including empty texts and lone surrogates."""
    assert through(np.str_(text)) == np.str_(text)
    assert type(through(np.str_(text))) is np.str_


def test_object_arrays_of_text_come_back():
    """Labels from a Parquet table, one-dimensional and text only, come back."""
    for strings in ([], ["a"], ["Pastures", "Sea and ocean", ""]):
        array = np.array([*strings, None], dtype=object)[:-1]
        for protocol in (4, 5):
            same(through(array, protocol), array)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_both_names_of_numpys_core_are_admitted(generation):
    """Arrays of numpy 1 and 2 load under either."""
    maker = Maker(GENERATIONS[generation])
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    metadata = {"a": maker.array(array), "b": maker.scalar(array[1, 1]), "c": maker.array_5(array)}
    found = loads(write(small_tree(generation, metadata), 5))
    assert (found.a.tolist(), found.b, found.c.tolist()) == (array.tolist(), 4, array.tolist())


@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    "value",
    [
        np.array(["2020-01-01"], "M8[D]"),
        np.timedelta64(1, "s"),
        np.zeros(2, [("a", "<u2"), ("b", "O")]),
        np.zeros(2, [("a", "<u2")]),
        np.array([b"x"]),
        np.bytes_(b"x"),
        np.array([b"x"], "V1"),
        np.array([1, None], dtype=object),
        np.array([["a"], ["b"]], dtype=object),
        np.array([b"a", "b"], dtype=object),
        np.zeros(1, np.longdouble),
        np.zeros(1, np.dtype("<u2", metadata={"x": 1})),
        np.zeros(1, np.dtype(("<u2", (2,)))).view(np.dtype([("a", "<u2", (2,))])),
        np.ma.array([1, 2], mask=[0, 1]),
        np.rec.array([(1,)], dtype=[("a", "<u2")]),
    ],
    ids=lambda value: f"{type(value).__name__} {value.dtype}",
)
def test_other_arrays_are_refused(value):
    """Dates, structures, bytes, void, other objects, long doubles, dtype metadata and subclasses are refused."""
    if value.dtype.metadata:  # numpy itself drops it, with a warning
        graph = array_graph(dtype_state=(3, "<", None, None, None, -1, -1, 0, {"x": 1}))
        with pytest.raises(PatchFormatError, match="dtype state"):
            loads(with_metadata(part(graph)))
        return
    with pytest.raises((PatchFormatError, UnsafePickleError)) as caught:
        through(value)
    assert caught.value.rule in (Rule.ARRAY, Rule.FORBIDDEN_GLOBAL)


def test_one_array_in_two_places_is_one_array():
    """Shared arrays stay shared, in lists and between attributes and stored arguments; nothing is built twice."""
    array = np.arange(3)
    patch = loads(write(small_tree(metadata={"x": array, "y": [array, (array,)], "z": {"k": array}})))
    assert patch.x is patch.y[0] is patch.y[1][0] is patch.z["k"] is patch.__stored_args__["x"]


@pytest.mark.threat("T2")
def test_arrays_of_a_value_are_bounded_together():
    """Arrays cannot take more memory than a value may have bytes."""
    patch = small_tree(metadata={"x": [np.zeros(1000, "|u1") for _ in range(10)]})
    assert loads(write(patch), limits=Limits(max_value_bytes=20_000))
    shared = bytes(1000)
    graph = [array_graph(code="u1", dtype_state=(3, "|", None, None, None, -1, -1, 0), shape=(1000,), data=shared)]
    graph *= 1
    many = [
        array_graph(code="u1", dtype_state=(3, "|", None, None, None, -1, -1, 0), shape=(1000,), data=shared)
        for _ in range(100)
    ]
    assert loads(with_metadata(part(graph)), limits=Limits(max_value_bytes=20_000)).x[0].size == 1000
    with pytest.raises((LimitExceededError, PatchFormatError)):
        loads(with_metadata(part(many)), limits=Limits(max_value_bytes=20_000))


@pytest.mark.threat("T3")
@pytest.mark.parametrize("begin", ["dtype", "array", "band", "patch"])
def test_a_state_is_taken_once(begin):
    """A record with a state accepts no second one; with one state, the same program is accepted."""
    made = {
        "dtype": (call(name("numpy", "dtype"), text("u2"), b"\x89", b"\x88"), b")"),
        "array": (
            call(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), tup(number(0)), blob(b"b")),
            b")",
        ),
        "band": (new(name("bigearthnet_patch_interface.band_interface", "Band")), b"}"),
        "patch": (new(name("bigearthnet_patch_interface.s1_interface", "BigEarthNet_S1_Patch")), b"}"),
    }
    instance, state = made[begin]
    once = program(instance + state + b"b")
    assert machine.run(once, len(once), TABLE, Limits()).levels[0][0].is_complete
    with pytest.raises(UnsafePickleError) as caught:
        loads(program(instance + state + b"b" + state + b"b"))
    assert caught.value.rule == Rule.STRUCTURE


@pytest.mark.threat("T3")
def test_rebuild_array_is_what_canonical_values_name():
    """Our own functions are as strict as the machine: ``pickle`` over a canonical value bypasses no check."""
    assert rebuild_array("<u2", (1,), b"\1\0").tolist() == [1]
    for arguments in (("|O", (1,), b"\x41" * 8), ("<u2", (2**40,), b""), ("|V8", (1,), b"\x41" * 8)):
        with pytest.raises((TypeError, ValueError)):
            rebuild_array(*arguments)
    assert loads(canonical()) == pickle.loads(canonical())
