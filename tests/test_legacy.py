"""Values of every generation of the original package are the patches that it wrote."""

import contextlib
import itertools
import pickletools

import numpy as np
import pytest

import ben_secure
from ben_secure import BigEarthNetPatch, loads
from ben_secure.bands import PIXEL_DTYPES, natural_key
from ben_secure.errors import BenSecureError, PatchFormatError
from ben_secure.patches.layout import STANDARD_KINDS
from support import fuzz_core
from support.legacy_values import (
    GENERATIONS,
    MERGED,
    S1,
    S1_BANDS,
    S2,
    S2_BANDS,
    Maker,
    labels,
    pixels_of,
    small_tree,
    tree,
    write,
)

KINDS = {S1: S1_BANDS, S2: S2_BANDS, MERGED: S1_BANDS + S2_BANDS}


def constructed(kind, pixels, **metadata):
    """The patch that our own constructor makes of the same pixels."""
    arrays = {"band" + band.removeprefix("B"): pixels[band] for band, _ in KINDS[kind]}
    return getattr(ben_secure, kind)(**arrays, **metadata)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", [4, 5])
def test_honest_values_are_the_patches_they_were(kind, generation, protocol):
    """Class, bands, dtypes, pixels, metadata: equal to the patch that is constructed from the same parts."""
    pixels = pixels_of(7)
    metadata = {**labels(), "cloud": 0.25, "count": 2**70, "none": None, "nested": {"a": (1, 2.5)}}
    value = write(Maker(GENERATIONS[generation]).standard(kind, pixels, metadata), protocol)
    for _ in range(6):
        patch = loads(value)
        assert type(patch) is getattr(ben_secure, kind)
        assert patch == constructed(kind, pixels, **metadata)
        for band, metres in KINDS[kind]:
            found = patch.get_band_by_name(band)
            assert (found.spatial_resolution, found.data.dtype) == (metres, pixels[band].dtype)
            assert np.array_equal(found.data, pixels[band])
            assert found.data.flags.writeable
        assert {name: getattr(patch, name) for name in metadata} == metadata == patch.__stored_args__
        assert [band.name for band in patch.bands] == sorted((band for band, _ in KINDS[kind]), key=natural_key)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_small_generic_patches(generation):
    """A class of its own bands keeps their names, attributes and order."""
    patch = loads(write(small_tree(generation)))
    assert type(patch) is BigEarthNetPatch
    assert patch.green.data.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (patch.red.name, patch.red.spatial_resolution, patch.red.data.dtype) == ("red", 20, np.float32)
    assert patch.labels == labels()["labels"]


def test_bands_without_an_attribute_are_bands_all_the_same():
    """The original's base class lists bands; that a band is an attribute too is up to the subclass."""
    graph = small_tree()
    del graph.state["green"]
    patch = loads(write(graph))
    assert patch.get_band_by_name("green").data.shape == (2, 3)
    assert not hasattr(patch, "green")


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_list_does_not_matter(kind):
    """The list has to hold each band once, in any order."""
    graph = tree(kind, s1="|i1", s2="|u1")
    expected = loads(write(graph))
    graph.state["_bands"].reverse()
    assert loads(write(graph)) == expected


@pytest.mark.parametrize("dtype", sorted(PIXEL_DTYPES))
def test_pixels_of_every_numeric_dtype(dtype):
    """Every dtype that pixels may have loads; foreign byte order becomes native, as numpy does it."""
    pixels = pixels_of(3, s1=dtype, s2="|u1")
    patch = loads(write(Maker().standard(S1, pixels, {})))
    native = np.dtype(dtype).newbyteorder("=")
    assert {band.data.dtype for band in patch.bands} == {native}
    assert np.array_equal(patch.get_band_data_by_name("VV"), pixels["VV"])


def test_mixed_dtypes_and_column_major_bands():
    """Each band has its own dtype and memory order; the patch has them row by row."""
    pixels = pixels_of(4)
    pixels["B02"] = pixels["B02"].astype("<f4")
    pixels["B8A"] = np.asfortranarray(pixels["B8A"])
    pixels["B11"] = np.asfortranarray(pixels["B11"].astype(">i4"))
    for protocol in (4, 5):
        patch = loads(write(Maker().standard(S2, pixels, {}), protocol))
        for band, _ in S2_BANDS:
            assert np.array_equal(patch.get_band_data_by_name(band), pixels[band])
            assert patch.get_band_data_by_name(band).flags.c_contiguous
        assert patch.get_band_data_by_name("B02").dtype == np.float32


def test_bands_by_frombuffer():
    """Protocol 5, the default from Python 3.14 on, writes arrays by another function."""
    maker, pixels = Maker(GENERATIONS["numpy2-pydantic2"]), pixels_of(5)
    graph = maker.standard(S1, pixels, {})
    for band in ("VH", "VV"):
        graph.state[f"band{band}"].state["__dict__"]["data"] = maker.array_5(pixels[band])
    assert loads(write(graph, 5)) == constructed(S1, pixels)


def test_one_array_may_be_the_pixels_of_two_bands():
    """Sharing is honest: each band has its own copy in the end."""
    maker, pixels = Maker(), pixels_of(6)
    graph = maker.standard(S1, pixels, {})
    graph.state["bandVH"].state["__dict__"]["data"] = graph.state["bandVV"].state["__dict__"]["data"]
    patch = loads(write(graph))
    assert np.array_equal(patch.bandVH.data, pixels["VV"])
    patch.bandVH.data[:] = 0
    assert np.array_equal(patch.bandVV.data, pixels["VV"])


@pytest.mark.threat("T3")
@pytest.mark.parametrize("name", ["s1_patch", "s2_patch"])
@pytest.mark.parametrize("part", ["stored", "attribute"])
def test_the_patches_in_a_merged_one_have_no_metadata(name, part):
    """The original merges what it keeps into the whole; what else stands in a part would be lost."""
    graph = tree(MERGED, s1="|i1", s2="|u1")
    assert loads(write(graph)).labels
    inner = graph.state[name].state
    if part == "stored":
        inner["__stored_args__"] = {"x": "y"}
    else:
        inner["x"] = "y"
    with pytest.raises(PatchFormatError, match=f"its {name} has metadata of its own"):
        loads(write(graph))


@pytest.mark.threat("T3")
def test_each_band_has_the_bytes_of_its_own_pixels():
    """Not only all together: a band that takes four bytes of the next would show other pixels."""
    for taken in (0, 4):
        graph = small_tree()
        for name, length in (("green", 12 + taken), ("red", 16 - taken)):
            array = graph.state[name].state["__dict__"]["data"]
            array.state = (*array.state[:4], bytes(length))
        with pytest.raises(PatchFormatError, match="does not have 6 pixels") if taken else contextlib.nullcontext():
            loads(write(graph))


def test_any_set_of_given_fields_that_a_constructor_can_have_is_admitted():
    """Defaults may be given or not, and do not appear in the patch. Other fields are refused."""
    for generation, extra in itertools.product(GENERATIONS, ([], ["spatial_resolution"], ["data_shape", "name"])):
        graph = tree(S1, generation, s1="|i1")
        state = graph.state["bandVV"].state
        key = next(key for key in state if "fields_set" in key)
        state[key] = {"name", "data", *extra}
        patch = loads(write(graph))
        assert patch == loads(write(tree(S1, s1="|i1")))
        assert vars(patch).keys() == {"labels", "new_labels", "__stored_args__"}
        state[key] = {"name", "data", "other"}
        with pytest.raises(BenSecureError, match="private state"):
            loads(write(graph))


def test_attributes_beyond_the_stored_arguments():
    """Attributes that were set later, or changed, are there as they were; the stored ones are, too."""
    graph = small_tree(metadata={"labels": ["a"]})
    graph.state["labels"] = ["changed"]
    graph.state["note"] = "later"
    for _ in range(6):
        patch = loads(write(graph))
        assert (patch.labels, patch.note, patch.__stored_args__) == (["changed"], "later", {"labels": ["a"]})
        assert loads(patch.dumps()) == patch


@pytest.mark.parametrize(
    "value", [0.5, 2**70, -1, float("nan"), True, None, "x", b"x", (), (0.5, 2**70), [], {}, set()]
)
def test_an_argument_is_no_change_of_itself(value):
    """An object without identity in a pickle, such as a number, is one value in attribute and stored argument."""
    patch = loads(write(small_tree(metadata={"x": value})))
    assert patch._extras() == {}
    assert loads(write(small_tree(metadata={"x": value}))) == patch


@pytest.mark.parametrize("stored", [0, False, 0.0, "", None, -0.0, 1])
@pytest.mark.parametrize("attribute", [0, False, 0.0, "", None, -0.0, 1])
def test_a_changed_attribute_is_kept_apart(stored, attribute):
    """Values that Python calls equal but that are not the same stay different."""
    graph = small_tree(metadata={"x": stored})
    graph.state["x"] = attribute
    patch = loads(write(graph))
    assert (type(patch.x), repr(patch.x)) == (type(attribute), repr(attribute))
    assert (type(patch.__stored_args__["x"]), repr(patch.__stored_args__["x"])) == (type(stored), repr(stored))


def test_one_value_says_nothing_about_the_next():
    """Honest values of all kinds, by turns and over and over, are themselves each time."""
    values = [
        write(tree(kind, generation, {"n": n, **labels()}, s1="|i1", s2="|u1"))
        for n, (kind, generation) in enumerate(itertools.product(KINDS, GENERATIONS))
    ]
    values += [write(small_tree(generation)) for generation in GENERATIONS]
    first = [loads(value) for value in values]
    for _ in range(6):
        for value, expected in zip(values, first, strict=True):
            patch = loads(value)
            assert patch == expected
            assert patch._extras() == {}


def test_values_that_differ_in_one_pixel_or_label_only():
    """The same program over other pixels and labels gives those pixels and labels."""
    for n in range(12):
        pixels = pixels_of(n)
        metadata = {"labels": [f"label {n % 3}"], "n": n % 4}
        value = write(Maker(GENERATIONS["numpy2-pydantic2"]).standard(MERGED, pixels, metadata))
        assert loads(value) == constructed(MERGED, pixels, **metadata)


# Real archives.


def opcodes_of(value):
    """A program without its pixels; the two set fields have one order, for any hash seed."""
    found = []
    for opcode, argument, _ in pickletools.genops(value):
        if isinstance(argument, bytes) and len(argument) > 100:
            argument = len(argument)
        found.append((opcode.name, argument))
        if opcode.name == "ADDITEMS":
            found[-3:-1] = sorted(found[-3:-1], key=str)
    return found


def real_values(folder, generation):
    """The values of one generation, by database."""
    lmdb = pytest.importorskip("lmdb")
    for database in sorted((folder / "legacy" / generation).glob("*.lmdb")):
        with lmdb.open(str(database), readonly=True, lock=False) as environment, environment.begin() as transaction:
            for _, value in transaction.cursor():
                yield database.stem, bytes(value)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_generator_writes_what_the_original_wrote(real_data, generation):
    """The synthetic values of these tests have the program of real ones, opcode by opcode."""
    kinds = {"s1": S1, "s2": S2, "s1_s2": MERGED}
    count = 0
    for database, value in real_values(real_data, generation):
        patch = loads(value)
        pixels = {band.name: band.data for band in patch.bands}
        ours = write(Maker(GENERATIONS[generation]).standard(kinds[database], pixels, dict(patch.__stored_args__)))
        real, made = opcodes_of(value), opcodes_of(ours)
        if generation != "numpy1-pydantic1":
            # Made from patches that had been read: there the names in __stored_args__ are not the attributes' objects.
            end = real.index(("SHORT_BINUNICODE", "labels"))
            real, made = ([op for op in ops[:end] if op[0] != "FRAME"] for ops in (real, made))
        assert real == made
        assert patch == constructed(kinds[database], pixels, **patch.__stored_args__)
        count += 1
    assert count == 18


@pytest.mark.threat("T2")
def test_real_values_cut_or_changed_are_refused(real_data):
    """Damage to real values is found, or is in the pixels or labels."""
    for _, value in real_values(real_data, "numpy2-pydantic2"):
        for end in range(0, len(value), 4999):
            with pytest.raises(BenSecureError):
                loads(value[:end])
        for place in range(0, 1000, 37):
            changed = bytearray(value)
            changed[place] ^= 0x10
            verdict = fuzz_core.verdict(bytes(changed))
            assert isinstance(verdict, BigEarthNetPatch) or verdict[1] is not None


def test_names_of_the_kinds():
    """The kinds of these tests are the package's own."""
    assert set(KINDS) == set(STANDARD_KINDS)
