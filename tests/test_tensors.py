"""Safetensors values: read with the verdict of one strict reader, written as the library writes them, nothing lost."""

import copy
import gc
import json
import random
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import loads, tensors
from ben_secure.bands import BANDS, STORAGE_ORDER
from ben_secure.errors import LimitExceededError, PatchFormatError, Rule
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.reader import PageReader
from ben_secure.patches import (
    Band,
    BigEarthNet_S1_Patch,
    BigEarthNet_S1_S2_Patch,
    BigEarthNet_S2_Patch,
    BigEarthNetPatch,
)
from ben_secure.signing.keys import MacKey
from ben_secure.signing.tags import append_tag
from ben_secure.tensors.header import DTYPES
from ben_secure.tensors.note import NAME
from support.fuzz_core import examine, honest_tensors, mutate_tensors
from support.strategies import STANDARD_CLASSES, TwoBandPatch, make_patch, noise, standard_specs
from support.tensor_files import MAP, S1_FILE, S1_NAMES, S2_NAMES, entry, file, noted, raw, sentinel, spell, table

library = pytest.importorskip("safetensors.numpy")

CODES = sorted(DTYPES.values())
_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**500), 2**500) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
_names = st.sampled_from(["labels", "new_labels", "patch_id", "größe", "not an identifier", "a\ud800"])
plain_metadata = st.dictionaries(_names, _plain, max_size=3)


def bands_of(patch):
    """Pixels by band name."""
    return {band.name: band.data for band in patch.bands}


@st.composite
def patches(draw, metadata=plain_metadata):
    """Patches of every class, in dtypes that safetensors has."""
    seed = draw(st.integers(0, 2**16))
    codes = dict(zip(BANDS, draw(st.lists(st.sampled_from(CODES), min_size=14, max_size=14)), strict=True))
    cls = draw(st.sampled_from([*STANDARD_CLASSES, TwoBandPatch, BigEarthNetPatch]))
    stored = draw(metadata)
    if cls is TwoBandPatch:
        patch = cls(noise((3, 2), codes["B02"], seed), noise((60, 60), codes["B11"], seed), **stored)
    elif cls is BigEarthNetPatch:
        names = draw(st.lists(st.sampled_from(["h", "B02", "VV", "Ä", "Data"]), min_size=1, max_size=4, unique=True))
        data = {name: noise((1, 3), codes[band], seed) for name, band in zip(names, BANDS, strict=False)}
        bands = [Band(name=name, spatial_resolution=7, data_shape=(1, 3), data=data[name]) for name in names]
        patch = BigEarthNetPatch(bands, **stored)
    else:
        patch = make_patch(cls, codes if draw(st.booleans()) else None, seed, **stored)
    for name, value in draw(metadata).items():
        setattr(patch, name, value)
    return patch


@given(patches())
def test_what_is_written_is_the_same_patch_when_it_is_read(patch):
    """Class, bands, dtypes, metadata, attributes that were set later: all come back."""
    value = tensors.dumps(patch)
    assert loads(value, classes=[TwoBandPatch]) == patch
    assert tensors.dumps(loads(value, classes=[TwoBandPatch])) == value


@given(patches())
def test_the_library_reads_what_is_written(patch):
    """The same arrays under the same names, for any patch."""
    arrays = library.load(tensors.dumps(patch))
    assert arrays.keys() == bands_of(patch).keys()
    for name, array in bands_of(patch).items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        assert arrays[name].tobytes() == array.tobytes()


@given(st.sampled_from(STANDARD_CLASSES), st.lists(st.sampled_from(CODES), min_size=14, max_size=14))
def test_a_bare_patch_is_written_as_the_library_writes_it(cls, codes):
    """The bytes are equal for any dtypes, in rico-hdl's layout."""
    patch = make_patch(cls, dict(zip(BANDS, codes, strict=True)))
    assert tensors.dumps(patch) == library.save(bands_of(patch))


def test_the_order_of_dtypes_is_the_librarys():
    """Wide dtypes first, as the library has it."""
    arrays = {str(place): np.zeros((1, 1), code) for place, code in enumerate(CODES)}
    bands = [Band(name=name, spatial_resolution=1, data_shape=(1, 1), data=array) for name, array in arrays.items()]
    ours, theirs = (
        list(read_header_of(value)) for value in (tensors.dumps(BigEarthNetPatch(bands)), library.save(arrays))
    )
    assert ours == theirs


def read_header_of(value):
    """Names of the tensors in the order of the header."""
    size = int.from_bytes(value[:8], "little")
    return [name for name in json.loads(value[8 : 8 + size]) if name != "__metadata__"]


def test_real_values(real_data):
    """Records of rico-hdl: patches equal the library's arrays, and are written back byte for byte."""
    with PageReader(real_data / "rico") as reader:
        values = dict(reader.items())
    assert len(values) == 2
    for value in values.values():
        patch = loads(value)
        arrays = library.load(value)
        assert type(patch) is (BigEarthNet_S1_Patch if len(arrays) == 2 else BigEarthNet_S2_Patch)
        assert bands_of(patch).keys() == arrays.keys()
        assert all(np.array_equal(bands_of(patch)[name], array) for name, array in arrays.items())
        assert tensors.dumps(patch) == value
        assert BigEarthNetPatch.loads(patch.dumps()) == patch


@pytest.mark.threat("T16")
@given(st.integers(0, 2**32))
def test_one_verdict_with_the_library(seed):
    """For a changed file: a patch has the library's arrays, and files refused by the library are refused."""
    rng = random.Random(seed)
    value = base = rng.choice(honest_tensors())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = mutate_tensors(rng, value)
    examine(value, base)


@pytest.mark.parametrize("value", honest_tensors())
def test_honest_files_are_patches(value):
    """The unmutated files are read, here and by the library."""
    patch = loads(value)
    arrays = library.load(value)
    assert all(arrays[name].tobytes() == array.tobytes() for name, array in bands_of(patch).items())


@pytest.mark.parametrize(
    ("names", "cls"),
    [
        (S1_NAMES, BigEarthNet_S1_Patch),
        (S2_NAMES, BigEarthNet_S2_Patch),
        (S1_NAMES + S2_NAMES, BigEarthNet_S1_S2_Patch),
        (S2_NAMES[:-1], BigEarthNetPatch),
        (("B04", "B03", "B02"), BigEarthNetPatch),
        (("VV",), BigEarthNetPatch),
        ((*S1_NAMES, "B02"), BigEarthNetPatch),
    ],
)
def test_names_decide_the_class(names, cls):
    """All bands of a sensor make its patch; other tensors make a generic patch with the published facts."""
    patch = loads(file(sentinel(names, "U16")))
    assert type(patch) is cls
    assert {band.name for band in patch.bands} == set(names)
    for band in patch.bands:
        spec = BANDS[band.name]
        assert (type(band).__name__, band.spatial_resolution) == (spec.band_class, spec.resolution_m)
        assert getattr(patch, spec.attribute) is band


def test_bands_of_one_resolution_lie_end_to_end():
    """Also of a patch that lists its own: stacking is a view."""
    patch = loads(file(sentinel(("B8A", "B05", "B04", "B03", "B02"), "U16")))
    assert np.shares_memory(patch.select(["B02", "B03", "B04"]), patch.get_band_data_by_name("B03"))


@pytest.mark.parametrize(("side", "metres"), [(120, 10), (60, 20), (20, 60), (240, 5)])
def test_an_unknown_band_gets_its_resolution_from_its_size(side, metres):
    """A patch has 1,200 m a side, so that a reference map of 120 x 120 pixels has 10 m."""
    (band,) = loads(file(table({"Data": [side, side]}))).bands
    assert (type(band), band.spatial_resolution, band.data_shape) == (Band, metres, (side, side))


@pytest.mark.threat("T16")
@pytest.mark.parametrize("shape", [[256, 256], [64, 64], [128, 128], [120, 60], [1, 1201]])
def test_other_datasets_are_refused(shape):
    """Bands of unknown resolution do not make a patch; a band that fits does."""
    with pytest.raises(
        PatchFormatError, match=r"tensor Red does not have the name of a BigEarthNet band, .* other datasets"
    ):
        loads(file(table({"Red": shape})))
    assert loads(file(table({"Red": [120, 120]})))


def test_other_metadata_becomes_metadata_of_the_patch():
    """Texts added by other programs are kept."""
    patch = loads(file({"__metadata__": {"license": "CDLA", "größe": "ä"}, **sentinel(S1_NAMES)}))
    assert patch.license == "CDLA"
    assert patch.__stored_args__ == {"license": "CDLA", "größe": "ä"}
    assert loads(file({"__metadata__": {}, **sentinel(S1_NAMES)})) == loads(S1_FILE)


def test_pixels_are_the_patchs_own():
    """They are writable, and not shared with another load, for any cached header."""
    value = tensors.dumps(make_patch(labels=["a"]))
    first, second = loads(value), loads(bytearray(value))
    untouched = copy.deepcopy(second)
    first.get_stacked_10m_bands()[:] = 7
    first.labels.append("b")
    assert second == untouched == loads(memoryview(value))


def test_a_note_that_names_another_class_is_told_which_tensors_are_there():
    """The class of the tensors is accepted."""
    kind = "BigEarthNet_S1_Patch"
    assert type(loads(noted({"kind": kind, "stored": {}}))).__name__ == kind
    for other in ("BigEarthNet_S2_Patch", "BigEarthNet_S1_S2_Patch"):
        with pytest.raises(
            PatchFormatError, match=f"names the class {other}, but the tensors are the bands of a {kind}"
        ):
            loads(noted({"kind": other, "stored": {}}))


def test_a_note_may_be_spelled_otherwise():
    """Whitespace, escapes and the order of members affect caching, not the result."""
    patch = make_patch(BigEarthNet_S1_Patch, labels=["Moors, heathland", "\u2028"], x={"y": 1.5})
    value = tensors.dumps(patch)
    size = int.from_bytes(value[:8], "little")
    members = json.loads(value[8 : 8 + size])
    data = value[8 + size :]
    last = {name: members[name] for name in (*S1_NAMES, "__metadata__")}
    spellings = [spell(members), json.dumps(members), json.dumps(members, indent=1), spell(last)]
    spellings.append(spell(members).replace("ben_secure", "b\\u0065n_secure"))
    spellings.append(spell(members).replace('"},', '"} ,', 1))
    for text in spellings:
        assert loads(raw(text, data)) == patch


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ((1, 2), TypeError, "'x' is a tuple, .* a list"),
        ({"a"}, TypeError, "'x' is a set"),
        (b"raw", TypeError, "'x' is a bytes"),
        (np.float32(1), TypeError, "'x' is a float32, .*item"),
        (np.zeros(2), TypeError, "'x' is a ndarray"),
        ([1, {"y": (2,)}], TypeError, r"'x\[1\].y' is a tuple"),
        ({"a": {"b": [b""]}}, TypeError, r"'x.a.b\[0\]' is a bytes"),
        (float("nan"), ValueError, "'x' is nan, .* None"),
        ([float("inf")], ValueError, r"'x\[0\]' is inf"),
    ],
)
def test_what_json_would_lose_is_refused_by_name(value, error, words):
    """Nothing changes its type; content that JSON has is kept."""
    for make in (lambda value: make_patch(BigEarthNet_S1_Patch, x=value), lambda value: with_attribute(value)):
        with pytest.raises(error, match=words):
            tensors.dumps(make(value))
        assert loads(tensors.dumps(make([1, {"y": [2]}]))).x == [1, {"y": [2]}]


def with_attribute(value):
    """A patch that got metadata after it was made."""
    patch = make_patch(BigEarthNet_S1_Patch)
    patch.x = value
    return patch


def test_metadata_changed_in_place_is_checked():
    """A list that has become more than metadata may be is refused as for a canonical value."""
    patch = make_patch(BigEarthNet_S1_Patch, x=[1])
    assert tensors.dumps(patch)
    patch.x.append(object())
    with pytest.raises(TypeError, match="object"):
        tensors.dumps(patch)


@pytest.mark.parametrize("code", [">u2", ">f4", "<c16"])
def test_dtypes_that_the_format_lacks_are_refused(code):
    """Foreign byte order and complex128 would come back as something else; the band is named."""
    with pytest.raises(ValueError, match=f"band VV has the dtype {code}"):
        tensors.dumps(make_patch(BigEarthNet_S1_Patch, {"VV": code}))
    assert tensors.dumps(make_patch(BigEarthNet_S1_Patch, {"VV": "<u2"}))


def test_what_cannot_be_named_or_read_back_is_not_written():
    """A band called as the metadata is, a patch with more metadata than a header holds, something else than a patch."""
    pixels = np.zeros((2, 2), "u1")
    for name, words in (("__metadata__", "cannot be named"), ("_metadata_", None)):
        patch = BigEarthNetPatch([Band(name=name, spatial_resolution=1, data_shape=(2, 2), data=pixels)])
        if words:
            with pytest.raises(ValueError, match=words):
                tensors.dumps(patch)
        else:
            assert loads(tensors.dumps(patch)) == patch
    with pytest.raises(ValueError, match=r"could not be read back, .* 65536"):
        tensors.dumps(make_patch(BigEarthNet_S1_Patch, x=["a" * 1000] * 66))
    assert tensors.dumps(make_patch(BigEarthNet_S1_Patch, x=["a" * 1000] * 60))
    with pytest.raises(TypeError, match="only a patch"):
        tensors.dumps({"VV": pixels})
    with pytest.raises(TypeError, match="must be bytes"):
        loads("text")


def test_a_declared_class_comes_back_only_if_it_is_declared():
    """The note names it; nothing is imported by that name."""
    patch = TwoBandPatch(noise((3, 2), "<u2"), noise((60, 60), "<u2"), x=1)
    value = tensors.dumps(patch)
    assert loads(value, classes=[TwoBandPatch]) == patch
    assert TwoBandPatch.loads(value) == patch
    with pytest.raises(PatchFormatError, match=r"neither a class of BigEarthNet nor declared by the caller"):
        loads(value)
    with pytest.raises(TypeError, match="subclasses of BigEarthNetPatch"):
        loads(value, classes=[int])


@pytest.mark.threat("T16")
@pytest.mark.parametrize(
    ("limit", "least", "value"),
    [
        ("max_value_bytes", len(S1_FILE), S1_FILE),
        ("max_header_bytes", int.from_bytes(S1_FILE[:8], "little"), S1_FILE),
        ("max_bands", 2, S1_FILE),
    ],
)
def test_limits(limit, least, value):
    """Each limit is inclusive, and its refusal names it."""
    assert loads(value, limits=Limits(**{limit: least}))
    with pytest.raises(LimitExceededError, match=limit) as caught:
        loads(value, limits=Limits(**{limit: least - 1}))
    assert caught.value.rule is Rule.LIMIT


@pytest.mark.threat("T16")
def test_the_verdict_does_not_depend_on_the_stack():
    """Brackets are counted before they are parsed: deep in a recursion the same error comes."""
    value = raw('{"a":' + "[" * 5000 + "]" * 5000 + "}")

    def verdict(depth):
        if depth:
            return verdict(depth - 1)
        with pytest.raises(PatchFormatError) as caught:
            loads(value)
        return str(caught.value)

    assert verdict(0) == verdict(sys.getrecursionlimit() // 2)


@pytest.mark.threat("T16")
def test_what_is_remembered_is_bounded():
    """A database with ever new headers of any length does not fill the memory."""
    names = [f"{n:0250}" for n in range(30)]
    values = [
        file({"__metadata__": {"x": "a" * size, "n": str(n)}, **table({name: [1, 1] for name in names[:count]})})
        for n, (size, count) in enumerate([(1000, 8)] * 300 + [(30_000, 30)] * 100)
    ]
    tracemalloc.start()
    try:
        for value in values:
            loads(value)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_a_tagged_value_is_read_here_and_by_no_library():
    """The footer is after the last tensor, so only ben_secure can read tagged databases (docs/format.md)."""
    tagged = append_tag(MacKey(bytes(32)), b"", b"k", S1_FILE)
    assert loads(tagged) == loads(S1_FILE)
    with pytest.raises(Exception, match="not fully covered"):
        library.load(tagged)
    with pytest.raises(PatchFormatError, match="28800 bytes"):
        loads(tagged[:-1])


def test_pixels_are_copied_in_few_pieces():
    """rico-hdl's order by name is that of the buffer, except for a few jumps."""
    from ben_secure.tensors import reading

    value = file(sentinel(S2_NAMES, "U16"))
    plan = reading._plan(value[8 : 8 + int.from_bytes(value[:8], "little")], DEFAULT_LIMITS)
    assert len(plan.pieces) == 7
    assert sum(stop - start for start, stop in plan.pieces) == 160_000


def test_specs_are_those_of_the_patches():
    """The hand-made files of the tests have the published bands."""
    assert {spec.name for spec in standard_specs(BigEarthNet_S2_Patch)} == set(S2_NAMES)
    assert set(S1_NAMES) | set(S2_NAMES) == {spec.name for spec in STORAGE_ORDER}
    assert entry([120, 120]) == MAP["Data"]
    assert noted({"kind": "BigEarthNet_S1_Patch", "stored": {}}).count(NAME.encode()) == 1
