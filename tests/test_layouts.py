import gc
import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure.bands import PIXEL_DTYPES, STORAGE_ORDER
from ben_secure.limits import Limits
from ben_secure.patches.layout import GENERIC, STANDARD_KINDS, Layout, run_of

S1, S2, S1S2 = "BigEarthNet_S1_Patch", "BigEarthNet_S2_Patch", "BigEarthNet_S1_S2_Patch"
GREEN = ("green", "Band", "G1", 5, 7, 3, "<u2")
DTYPES = st.sampled_from(sorted(PIXEL_DTYPES))


def changed(**fields):
    """One generic entry with some fields replaced."""
    names = ("attribute", "band_class", "name", "resolution_m", "height", "width", "dtype")
    return tuple(fields.get(name, value) for name, value in zip(names, GREEN, strict=True))


@pytest.mark.parametrize(
    ("kind", "dtypes", "nbytes"), [(S1, "<f4", 115_200), (S2, "<u2", 160_000), (S1S2, "<u2,<f4", 275_200)]
)
def test_standard_layouts_lie_end_to_end_in_storage_order(kind, dtypes, nbytes):
    """No gaps, every band after the other, the sizes that the published shapes give."""
    layout = Layout.standard(kind, dtypes)
    assert layout.nbytes == nbytes
    assert layout.gaps == ()
    assert [slot.name for slot in layout.slots] == [band.name for group in STANDARD_KINDS[kind] for band in group]
    assert [slot.offset for slot in layout.slots] == list(np.cumsum([0, *(slot.nbytes for slot in layout.slots[:-1])]))


def test_each_resolution_of_s2_is_one_run():
    """This makes the stacked getters views."""
    layout = Layout.standard(S2, "<u2")
    assert {metres: (run.shape, run.offset) for metres, run in layout.runs.items()} == {
        10: ((4, 120, 120), 0),
        20: ((6, 60, 60), 115_200),
        60: ((2, 20, 20), 158_400),
    }


def test_bands_apart_or_unlike_are_no_run():
    """Order, neighbourhood and dtype all count."""
    layout = Layout.standard(S2, ",".join(["<f4", *["<u2"] * 11]))
    slots = layout.by_name
    assert run_of([slots["B03"], slots["B04"]]).shape == (2, 120, 120)
    for names in (["B04", "B03"], ["B03", "B08"], ["B02", "B03"], ["B08", "B05"], ["B03", "B03"]):
        assert run_of([slots[name] for name in names]) is None
    assert layout.runs[10] is None
    assert layout.runs[20] is not None


@given(st.sampled_from([S1, S2, S1S2]), st.lists(DTYPES, min_size=14, max_size=14))
@settings(max_examples=50)
def test_every_choice_of_dtypes_has_one_spelling(kind, codes):
    """Spelling and reading are inverse, offsets are aligned, bands do not overlap."""
    codes = codes[: sum(map(len, STANDARD_KINDS[kind]))]
    encoded = Layout.canonical_dtypes(kind, codes)
    layout = Layout.parse(kind, encoded)
    assert layout.encoded == encoded
    assert [slot.dtype.str for slot in layout.slots] == codes
    end = 0
    for slot in layout.slots:
        assert slot.offset == end
        assert slot.offset % slot.dtype.itemsize == 0
        end += slot.nbytes
    assert end == layout.nbytes


@pytest.mark.parametrize(
    ("kind", "good", "bad", "error", "message"),
    [
        (S2, "<u2", "u2", ValueError, "dtype u2 cannot be that of pixels"),
        (S2, "<u2", "|b1", ValueError, "cannot be that of pixels"),
        (S2, "<u2", "|O", ValueError, "cannot be that of pixels"),
        (S2, "<u2", "", ValueError, "cannot be that of pixels"),
        (S2, "<u2", "<u2,<u2", ValueError, "takes 1 or 12 dtypes, not 2"),
        (S2, ",".join(["<f4"] + ["<u2"] * 11), ",".join(["<u2"] * 12), ValueError, "shorter form <u2"),
        (S1, "<f4,<f8", "<f4,<f4", ValueError, "shorter form <f4"),
        (S1S2, "<u2,<f4", "<u2", ValueError, "takes 2 or 14 dtypes, not 1"),
        (S1S2, "<u2,<u2", ",".join(["<u2"] * 14), ValueError, "shorter form <u2,<u2"),
        (S2, ",".join(["<c16"] * 11 + ["<u2"]), "<u2," * 40, ValueError, "at most 69 characters"),
        (S2, "<u2", b"<u2", TypeError, "must be a str, not bytes"),
        (S2, "<u2", np.str_("<u2"), TypeError, "must be a str, not str_"),
        (S2, "<u2", (GREEN,), TypeError, "must be a str, not tuple"),
        (GENERIC, (GREEN,), "<u2", TypeError, "must be a tuple, not str"),
    ],
)
def test_only_the_canonical_spelling_is_read(kind, good, bad, error, message):
    """Each refused form has an accepted counterpart."""
    assert Layout.parse(kind, good).encoded == good
    with pytest.raises(error, match=message):
        Layout.parse(kind, bad)


def test_an_unknown_kind_is_refused():
    """Fixed bands exist for three classes."""
    with pytest.raises(ValueError, match="no patch class Elephant has fixed bands"):
        Layout.standard("Elephant", "<u2")


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        (changed(attribute="with space"), ValueError, "must be an identifier"),
        (changed(attribute="__class__"), ValueError, "does not begin with _"),
        (changed(attribute="_layout"), ValueError, "does not begin with _"),
        (changed(attribute="a" * 257), ValueError, "must be an identifier"),
        (changed(attribute=1), TypeError, r"not \(int, str"),
        (changed(band_class="dict"), ValueError, "band class dict is unknown"),
        (changed(band_class="BenS1_Band"), ValueError, r"BenS1_Band cannot hold G1 .* VH \(120 x 120\), VV"),
        (changed(name=""), ValueError, "printable characters"),
        (changed(name="\x1b[2J"), ValueError, r"band name '\\\\x1b\[2J' must be"),
        (changed(name="a" * 257), ValueError, "printable characters"),
        (changed(name=b"G1"), TypeError, "str, str, bytes"),
        (changed(resolution_m=0), ValueError, "out of bounds"),
        (changed(resolution_m=2**31), ValueError, "out of bounds"),
        (changed(resolution_m=True), TypeError, "bool"),
        (changed(height=0), ValueError, "out of bounds"),
        (changed(height=-7), ValueError, "out of bounds"),
        (changed(width=16_385), ValueError, "1 to 16384 pixels"),
        (changed(width=3.0), TypeError, "float"),
        (changed(width=10**5000), ValueError, "out of bounds"),
        (changed(dtype="|O"), ValueError, r"dtype \|O cannot be that of pixels"),
        (changed(dtype="|V4"), ValueError, "cannot be that of pixels"),
        (GREEN[:6], TypeError, "tuple of 7 items"),
        (list(GREEN), TypeError, "tuple of 7 items, not list"),
    ],
)
def test_a_generic_band_is_checked_in_every_field(entry, error, message):
    """Each field out of type or bounds is refused; the same entry without the fault is accepted."""
    assert Layout.generic((GREEN,)).nbytes == 42
    with pytest.raises(error, match=message):
        Layout.generic((entry,))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ((None, "BenS1_Band", "VV", 10, 120, 120, "<f4"), (None, "BenS1_Band", "VV", 20, 120, 120, "<f4")),
        ((None, "BenS1_Band", "VV", 10, 120, 120, "<f4"), (None, "BenS1_Band", "VV", 10, 120, 60, "<f4")),
        ((None, "BenS2_20mBand", "B8A", 20, 60, 60, "<u2"), (None, "BenS2_20mBand", "B08", 20, 60, 60, "<u2")),
        ((None, "Band", "B08", 20, 60, 60, "<u2"), (None, "BenS2_10mBand", "B08", 20, 60, 60, "<u2")),
    ],
)
def test_a_fixed_band_class_holds_only_its_bands(good, bad):
    """Name, resolution and shape must be those of the tables; Band admits any."""
    assert Layout.generic((good,)).slots[0].name == good[2]
    with pytest.raises(ValueError, match="cannot hold"):
        Layout.generic((bad,))


def test_bands_and_attributes_are_unique_and_bounded():
    """A name or attribute may be used once; None is not an attribute; the number of bands is bounded."""
    assert len(Layout.generic((changed(attribute=None), changed(attribute=None, name="G2"))).slots) == 2
    with pytest.raises(ValueError, match="band G1 occurs twice"):
        Layout.generic((GREEN, changed(attribute="other")))
    with pytest.raises(ValueError, match="attribute green occurs twice"):
        Layout.generic((GREEN, changed(name="G2")))
    with pytest.raises(ValueError, match="1 to 64 bands, not 0"):
        Layout.generic(())
    many = tuple(changed(attribute=None, name=f"G{place}") for place in range(65))
    assert len(Layout.generic(many[:64]).slots) == 64
    with pytest.raises(ValueError, match="1 to 64 bands, not 65"):
        Layout.generic(many)


def test_the_limits_of_the_caller_hold():
    """Fewer bands or smaller sides than the default limits are enforced, for fixed kinds, too."""
    tight = Limits(max_bands=2, max_side=6)
    assert Layout.parse(S1, "<f4", Limits(max_bands=2)).nbytes == 115_200
    with pytest.raises(ValueError, match="12 bands exceed the limit of 2"):
        Layout.parse(S2, "<u2", tight)
    Layout.generic((GREEN,))  # cached now, and still refused:
    with pytest.raises(ValueError, match="1 to 6 pixels"):
        Layout.generic((GREEN,), tight)


def test_a_bool_cannot_borrow_the_cached_layout_of_an_int():
    """True == 1 and hashes alike, yet is another type."""
    assert Layout.generic((changed(height=1),)).slots[0].shape == (1, 3)
    with pytest.raises(TypeError, match="bool"):
        Layout.generic((changed(height=True),))


@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    "make",
    [
        lambda codes: Layout.standard(S2, Layout.canonical_dtypes(S2, codes)),
        lambda codes: Layout.generic(
            tuple(changed(attribute=None, name=f"G{n}", dtype=c) for n, c in enumerate(codes))
        ),
    ],
    ids=["standard", "generic"],
)
def test_layouts_that_nobody_has_any_more_are_forgotten(make):
    """A database can name thousands of layouts of its own; those in use are one object."""
    choices = itertools.islice(itertools.product(sorted(PIXEL_DTYPES), repeat=12), 300)
    tracemalloc.start()
    try:
        for codes in choices:
            latest = make(list(codes))
            assert make(list(codes)) is latest
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()


def test_the_largest_layouts_are_bounded_in_bytes():
    """As many bands as a patch may have, with the longest names, of letters that take four bytes each."""
    name = "\U00020000" * 252
    tracemalloc.start()
    try:
        for n in range(30):
            entries = tuple(changed(attribute=None, name=f"{n:02}{band:02}{name}") for band in range(64))
            assert len(Layout.generic(entries).slots) == 64
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 2 * 2**20
    finally:
        tracemalloc.stop()


@given(st.lists(st.tuples(DTYPES, st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6))
def test_generic_bands_are_aligned_and_gaps_are_known(bands):
    """Offsets are multiples of the itemsize; gaps and bands together cover the buffer exactly once."""
    entries = tuple((None, "Band", f"G{i}", 10, h, w, code) for i, (code, h, w) in enumerate(bands))
    layout = Layout.parse(GENERIC, entries)
    assert layout.encoded == entries
    covered = np.zeros(layout.nbytes, int)
    for slot in layout.slots:
        assert slot.offset % slot.dtype.itemsize == 0
        covered[slot.offset : slot.offset + slot.nbytes] += 1
    for start, stop in layout.gaps:
        covered[start:stop] += 1
    assert (covered == 1).all()


def test_gather_and_view_are_inverse():
    """Views show the copied arrays, for any memory order."""
    layout = Layout.generic((GREEN, changed(attribute=None, name="G2", dtype=">f8")))
    arrays = [np.arange(21, dtype="<u2").reshape(7, 3), np.asfortranarray(np.arange(21.0).reshape(7, 3).astype(">f8"))]
    pixels = layout.gather(arrays)
    assert len(pixels) == layout.nbytes == 48 + 168
    for slot, array in zip(layout.slots, arrays, strict=True):
        view = slot.view(pixels)
        assert view.dtype.str == slot.dtype.str
        assert view.flags.writeable
        assert view.flags.aligned
        np.testing.assert_array_equal(view, array)
        view[0, 0] = 9
        assert slot.view(pixels)[0, 0] == 9


def test_layouts_compare_by_what_they_say():
    """Equal layouts are equal and have one hash; attribute and dtype distinguish others."""
    a, b = Layout(GENERIC, (GREEN,), (GREEN,)), Layout.generic((GREEN,))
    assert a is not b
    assert a == b
    assert hash(a) == hash(b)
    assert a != Layout.generic((changed(attribute=None),))
    assert Layout.standard(S2, "<u2") != Layout.standard(S2, ">u2")
    assert a != "layout"
    assert repr(Layout.standard(S2, "<u2")) == "Layout(BigEarthNet_S2_Patch, '<u2')"


def test_natural_order_of_a_merged_layout():
    """The order is S2 in natural order, then VH and VV."""
    layout = Layout.standard(S1S2, "<u2,<f4")
    assert [slot.name for slot in layout.natural] == [
        *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
        *("VH", "VV"),
    ]
    assert {metres: [s.name for s in slots] for metres, slots in layout.by_resolution.items()} == {
        60: ["B01", "B09"],
        10: ["B02", "B03", "B04", "B08", "VH", "VV"],
        20: ["B05", "B06", "B07", "B8A", "B11", "B12"],
    }
    assert layout.runs[10] is None
    assert {spec.attribute for spec in STORAGE_ORDER} == set(layout.by_attribute)
