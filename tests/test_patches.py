import copy
import gc
import io
import math
import pickle
import pickletools
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure import metadata
from ben_secure.bands import BANDS, PIXEL_DTYPES
from ben_secure.errors import BenSecureError
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches import (
    S2_DN_TO_REFLECTANCE,
    Band,
    BenS1_Band,
    BenS2_10mBand,
    BenS2_20mBand,
    BenS2_60mBand,
    BigEarthNet_S1_Patch,
    BigEarthNet_S1_S2_Patch,
    BigEarthNet_S2_Patch,
    BigEarthNetPatch,
    kind_of,
    random_ben_S1_band,
    random_ben_S2_band,
    rebuild,
    rebuild_patch,
    s2_to_float,
    s2_to_float32,
    s2_to_float64,
)
from support.strategies import STANDARD_CLASSES, TwoBandPatch, make_patch, noise, patches, standard_specs

S1_NAMES = ["VH", "VV"]
S2_NAMES = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]
LABELS = {"new_labels": ["Sea and ocean"], "labels": ["Sea", "Beach"]}


RAN = []


class Hostile:
    """Pickles as a call that leaves a trace."""

    def __reduce__(self):
        return run, ("ran",)


def run(trace):
    """Leave the trace."""
    RAN.append(trace)


def parts(patch):
    """The arguments of rebuild for a patch."""
    kind, layout, pixels, stored, extras = patch.__reduce_ex__(4)[1][1:]
    assert kind == type(patch).__name__ or kind is type(patch)
    return layout, pixels, stored, extras


def two_bands(**metadata):
    """A patch of a subclass."""
    return TwoBandPatch(noise((3, 2), "<f4"), noise((60, 60), "<u2"), **metadata)


class TestBand:
    @pytest.mark.parametrize(("cls", "names", "metres", "side"), [
        (BenS1_Band, "VH VV", 10, 120),
        (BenS2_10mBand, "B02 B03 B04 B08", 10, 120),
        (BenS2_20mBand, "B05 B06 B07 B8A B11 B12", 20, 60),
        (BenS2_60mBand, "B01 B09", 60, 20),
    ])  # fmt: skip
    def test_fixed_forms_know_their_bands(self, cls, names, metres, side):
        """Each takes its own names in its own shape, and no other name of the tables."""
        data = np.zeros((side, side), "u2")
        for name in BANDS:
            if name in names.split():
                band = cls(name=name, data=data)
                assert (band.name, band.spatial_resolution, band.data_shape) == (name, metres, (side, side))
                assert band.data is data
            else:
                with pytest.raises(ValueError, match=f"found band name '{name}', expected one of {names.split()[0]}"):
                    cls(name=name, data=data)

    def test_a_free_band_takes_any_name_and_shape(self):
        """Name and shape are then required arguments."""
        band = Band(name="green", spatial_resolution=5, data_shape=[2, 3], data=np.zeros((2, 3)))
        assert (band.name, band.spatial_resolution, band.data_shape) == ("green", 5, (2, 3))
        with pytest.raises(TypeError, match="Band needs spatial_resolution and data_shape"):
            Band(name="green", data=np.zeros((2, 3)))
        for metres, shape in [(0, (2, 3)), (5, (2, 3, 1)), (5, (2, 0)), (5, (-2, 3))]:
            with pytest.raises(ValueError, match="expected positive metres and two positive lengths"):
                Band(name="green", spatial_resolution=metres, data_shape=shape, data=np.zeros((2, 3)))

    @pytest.mark.parametrize(("data", "error", "message"), [
        ([[1, 2]], TypeError, "band B01: found list, expected a numpy.ndarray"),
        (np.ma.zeros((20, 20)), TypeError, "found MaskedArray"),
        (np.float64(1), TypeError, "found float64"),
        (np.zeros((30, 30)), ValueError, r"band B01: found shape \(30, 30\), expected \(20, 20\)"),
        (np.zeros((1, 20, 20)), ValueError, r"found shape \(1, 20, 20\)"),
        (np.zeros((20, 20), bool), ValueError, "band B01: found dtype bool, expected a numeric one"),
        (np.zeros((20, 20), object), ValueError, "found dtype object"),
        (np.zeros((20, 20), "M8[s]"), ValueError, r"found dtype datetime64\[s\]"),
        (np.zeros((20, 20), "U1"), ValueError, "found dtype <U1"),
        (np.zeros((20, 20), "u2,u2"), ValueError, "found dtype"),
        (np.zeros((20, 20), np.longdouble), ValueError, "found dtype"),
    ])  # fmt: skip
    def test_pixels_are_checked(self, data, error, message):
        """The message has the band, the found and the expected; the correct pixels are accepted."""
        BenS2_60mBand(name="B01", data=np.zeros((20, 20)))
        with pytest.raises(error, match=message):
            BenS2_60mBand(name="B01", data=data)

    def test_a_memory_map_is_an_array(self, tmp_path):
        """Big rasters are often mapped; nothing of their meaning is lost."""
        np.save(tmp_path / "b.npy", np.ones((20, 20), "u2"))
        mapped = np.load(tmp_path / "b.npy", mmap_mode="r")
        assert BenS2_60mBand(name="B01", data=mapped) == BenS2_60mBand(name="B01", data=np.ones((20, 20), "u2"))

    def test_fixed_numbers_may_be_repeated_but_not_changed(self):
        """They are accepted as keyword arguments, like the original's fields."""
        data = np.zeros((20, 20))
        BenS2_60mBand(name="B01", spatial_resolution=60, data_shape=(20, 20), data=data)
        for wrong in ({"spatial_resolution": 10}, {"data_shape": (30, 30)}):
            with pytest.raises(ValueError, match="a BenS2_60mBand has 60 and"):
                BenS2_60mBand(name="B01", data=data, **wrong)
        with pytest.raises(TypeError, match="must be a str, not int"):
            BenS2_60mBand(name=1, data=data)

    def test_a_band_is_read_only_but_its_pixels_are_not(self):
        """No attribute can be set, added or deleted; pixels can be written in place."""
        band = BenS2_60mBand(name="B01", data=np.zeros((20, 20)))
        for name in ("name", "data", "other", "_data"):
            with pytest.raises(AttributeError, match=f"'{name}' cannot be set"):
                setattr(band, name, 1)
            with pytest.raises(AttributeError, match=f"'{name}' cannot be deleted"):
                delattr(band, name)
        band.data[0, 0] = 7
        assert band.data[0, 0] == 7

    def test_bands_compare_copy_and_pickle(self):
        """By class, name, resolution, dtype and every bit, NaN included."""
        data = np.full((20, 20), np.nan)
        band = BenS2_60mBand(name="B01", data=data)
        for protocol in range(2, 6):
            assert pickle.loads(pickle.dumps(band, protocol)) == band
        assert copy.deepcopy(band) == band == copy.copy(band)
        assert band != BenS2_60mBand(name="B09", data=data)
        assert band != BenS2_60mBand(name="B01", data=data.astype("f4"))
        assert band != BenS2_60mBand(name="B01", data=-data)
        assert band != Band(name="B01", spatial_resolution=60, data_shape=(20, 20), data=data)
        assert band != "B01"
        with pytest.raises(TypeError, match="unhashable"):
            hash(band)

    def test_text(self):
        """As the original writes it."""
        band = Band(name="g", spatial_resolution=5, data_shape=(1, 2), data=np.array([[1, 2]]))
        assert str(band) == "g with 5m spatial resolution and a size of (1, 2) pixel"
        assert repr(band) == "Band(name='g', spatial_resolution=5, data_shape=(1, 2), data=array([[1, 2]]))"


class TestConstruction:
    @pytest.mark.parametrize("cls", STANDARD_CLASSES)
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_bands_are_what_was_given(self, cls, order):
        """By keyword, by position and by short_init: each band under its names, copied, in its dtype."""
        dtypes = ["<u2", ">u2", "<f4", "|u1", ">f8"]
        natural = sorted(standard_specs(cls), key=lambda spec: (spec.sensor, (S1_NAMES + S2_NAMES).index(spec.name)))
        given = {
            spec.name: np.array(noise(spec.shape, dtypes[place % 5], place), order=order)
            for place, spec in enumerate(natural)
        }
        by_keyword = cls(**{BANDS[name].attribute: array for name, array in given.items()})
        for patch in (by_keyword, cls(*given.values()), cls.short_init(**given), cls.short_init(*given.values())):
            assert patch == by_keyword
            for name, array in given.items():
                band = patch.get_band_by_name(name)
                assert band is getattr(patch, BANDS[name].attribute)
                assert type(band).__name__ == BANDS[name].band_class
                assert band.data is patch.get_band_data_by_name(name)
                assert band.data.dtype.str == array.dtype.str
                assert band.data.tobytes() == array.tobytes()
                assert band.data.flags.writeable
                assert band.data.flags.aligned
                assert not np.shares_memory(band.data, array)

    @pytest.mark.parametrize("name", ["B02", "B8A", "B09"])
    def test_a_wrong_band_is_named(self, name):
        """Type, dtype and shape are checked for the band at fault; the patch before and after is fine."""
        spec = BANDS[name]
        good = {s.attribute: np.zeros(s.shape, "u2") for s in standard_specs(BigEarthNet_S2_Patch)}
        BigEarthNet_S2_Patch(**good)
        for bad, error, message in [
            (good[spec.attribute][1:], ValueError, f"band {name}: found shape .* expected"),
            (good[spec.attribute].astype(object), ValueError, f"band {name}: found dtype object"),
            (good[spec.attribute].tolist(), TypeError, f"band {name}: found list"),
            (None, TypeError, f"band {name}: found NoneType"),
        ]:
            with pytest.raises(error, match=message):
                BigEarthNet_S2_Patch(**{**good, spec.attribute: bad})
        with pytest.raises(TypeError, match=spec.attribute):
            BigEarthNet_S2_Patch(**{key: value for key, value in good.items() if key != spec.attribute})

    @pytest.mark.parametrize("code", sorted(PIXEL_DTYPES))
    def test_every_numeric_dtype_is_kept(self, code):
        """Values, dtype and stacking are kept for each dtype."""
        data = noise((120, 120), code)
        patch = BigEarthNet_S1_Patch(data, data)
        assert patch.get_stacked_bands().dtype.str == code
        assert patch.bandVV.data.tobytes() == data.tobytes()

    def test_metadata_becomes_attributes_and_stored_args(self):
        """The same objects are kept, in their order."""
        patch = make_patch(**LABELS)
        assert patch.__stored_args__ == LABELS
        assert list(patch.__stored_args__) == ["new_labels", "labels"]
        assert patch.labels is patch.__stored_args__["labels"] is LABELS["labels"]
        assert make_patch().__stored_args__ == {}

    @pytest.mark.parametrize("name", [
        "bands", "load", "dumps", "select", "get_band_by_name", "get_10m_bands", "short_init", "B02", "B8A", "_bands",
        "_layout", "_pixels", "_assemble", "__class__", "__dict__", "__stored_args__", "__x__",
    ])  # fmt: skip
    def test_metadata_may_not_shadow(self, name):
        """Methods, bands, inner names and dunders are refused, by constructor, later and by the helper."""
        patch = make_patch(labels=[], **{name.strip("_") + "_": 1})
        for attempt in (
            lambda: make_patch(**{name: 1}),
            lambda: setattr(patch, name, 1),
            lambda: patch.store_kwargs_as_props(**{name: 1}),
        ):
            with pytest.raises(ValueError, match=f"'{name}' would shadow"):
                attempt()
        assert patch.__stored_args__["labels"] == []
        for attempt in (lambda: setattr(patch, "band02", 1), lambda: patch.store_kwargs_as_props(band8A=1)):
            with pytest.raises(ValueError, match=r"'band02' would shadow|'band8A' would shadow"):
                attempt()

    def test_a_merged_patch_also_reserves_its_parts(self):
        """s1_patch is a property there, and plain metadata on others."""
        assert make_patch(s1_patch="x").s1_patch == "x"
        with pytest.raises(ValueError, match="'s1_patch' would shadow"):
            make_patch(BigEarthNet_S1_S2_Patch, s1_patch="x")

    @pytest.mark.parametrize("cls", STANDARD_CLASSES)
    def test_metadata_values_are_checked(self, cls):
        """At construction, with name, type and remedy."""
        make_patch(cls, when="2020-01-02")
        with pytest.raises(TypeError, match=r"metadata 'when'\[0\] is a object; use str, .*ISO 8601"):
            make_patch(cls, when=[object()])

    def test_metadata_is_bounded_as_a_whole(self):
        """Many values that are each within the bound are not, together."""
        third = ["x"] * (DEFAULT_LIMITS.max_nodes // 3)
        make_patch(a=third, b=third)
        with pytest.raises(ValueError, match=r"metadata 'c': a patch may have at most \d+ objects"):
            make_patch(a=third, b=third, c=third)


class TestOwnClasses:
    def test_bands_of_a_subclass_become_the_patchs_own(self):
        """Attributes lead to views of the buffer, not to the bands that were handed in."""
        green = noise((3, 2), "<f4")
        patch = TwoBandPatch(green, noise((60, 60), "<u2"), note="x")
        assert type(patch.green) is Band
        assert patch.green is patch.get_band_by_name("green") is patch.bands[1]
        assert patch.swir is patch.get_band_by_name("B11")
        assert patch.green.data.tobytes() == green.tobytes()
        assert not np.shares_memory(patch.green.data, green)
        assert vars(patch) == {"note": "x", "__stored_args__": {"note": "x"}}
        assert kind_of(TwoBandPatch) == "BigEarthNetPatch"

    def test_a_plain_list_of_bands_needs_no_subclass(self):
        """The base class accepts bands; they have no attributes then."""
        bands = [
            BenS1_Band(name="VV", data=noise((120, 120), "f4")),
            BenS2_60mBand(name="B09", data=noise((20, 20), "u2")),
        ]
        patch = BigEarthNetPatch(bands, snow=True)
        assert [band.name for band in patch.bands] == ["B09", "VV"]
        assert [type(band) for band in patch.bands] == [BenS2_60mBand, BenS1_Band]
        assert patch.get_natsorted_bands_by_spatial_res(60)[0].tobytes() == bands[1].data.tobytes()
        assert not hasattr(patch, "bandVV")

    @pytest.mark.parametrize(("bands", "error", "message"), [
        ([], ValueError, "1 to 64 bands, not 0"),
        ([np.zeros((2, 2))], TypeError, "found ndarray among the bands"),
        ([make_patch().band01, make_patch().band01], ValueError, "band B01 occurs twice"),
    ])  # fmt: skip
    def test_wrong_lists_of_bands(self, bands, error, message):
        """None, no bands, the same name twice."""
        with pytest.raises(error, match=message):
            BigEarthNetPatch(bands)

    def test_a_band_class_of_ones_own_is_refused(self):
        """No other program could read it."""

        class MyBand(Band):
            pass

        band = MyBand(name="g", spatial_resolution=5, data_shape=(1, 1), data=np.zeros((1, 1)))
        with pytest.raises(TypeError, match="found MyBand among the bands, expected one of Band, BenS1_Band"):
            BigEarthNetPatch([band])

    def test_band_attributes_must_be_among_the_bands(self):
        """A band that is an attribute only would be lost; one under two names is ambiguous."""

        def build(extra):
            patch = BigEarthNetPatch.__new__(BigEarthNetPatch)
            band = Band(name="g", spatial_resolution=5, data_shape=(1, 1), data=np.zeros((1, 1)))
            patch.first = band
            if extra is not None:
                patch.second = (
                    band
                    if extra == "same"
                    else Band(name="h", spatial_resolution=5, data_shape=(1, 1), data=np.zeros((1, 1)))
                )
            patch.__init__(bands=[band])
            return patch

        assert build(None).first.name == "g"
        with pytest.raises(ValueError, match="attributes second hold bands that are not among bands="):
            build("other")
        with pytest.raises(ValueError, match="band g is both 'first' and 'second'"):
            build("same")

    def test_a_class_with_fixed_bands_takes_no_others(self):
        """They are refused as attributes of a subclass and by the base constructor."""

        class More(BigEarthNet_S1_Patch):
            def __init__(self, how, **arrays):
                band = Band(name="g", spatial_resolution=5, data_shape=(1, 1), data=np.zeros((1, 1)))
                if how == "attribute":
                    self.more = band
                if how == "base":
                    BigEarthNetPatch.__init__(self, bands=[band])
                else:
                    super().__init__(**arrays)

        arrays = {"bandVH": noise((120, 120), "f4"), "bandVV": noise((120, 120), "f4")}
        assert More("plain", **arrays).get_stacked_bands().shape == (2, 120, 120)
        for how in ("attribute", "base"):
            with pytest.raises(TypeError, match="bands of a BigEarthNet_S1_Patch are fixed"):
                More(how, **arrays)

    def test_an_unbuilt_patch_says_so(self):
        """Forgetting super().__init__ is explained wherever it is noticed."""

        class Forgot(BigEarthNetPatch):
            def __init__(self):
                self.note = "x"

        patch = Forgot()
        assert patch.note == "x"
        for use in (
            lambda: patch.bands,
            lambda: patch.missing,
            patch.dumps,
            lambda: repr(patch),
        ):
            with pytest.raises(AttributeError, match=r"Forgot is not built yet; call super\(\)\.__init__"):
                use()

    def test_attributes_set_before_and_after_construction_are_kept(self):
        """They are attributes, not stored arguments, and travel."""

        class Noted(BigEarthNet_S1_Patch):
            labels = None

            def __init__(self, *arrays, **metadata):
                self.before = "b"
                super().__init__(*arrays, **metadata)
                self.after = ["a"]

        globals()["Noted"] = Noted
        Noted.__qualname__ = "Noted"
        patch = Noted(noise((120, 120), "f4"), noise((120, 120), "f4"), labels=["x"])
        assert patch.__stored_args__ == {"labels": ["x"]}
        for again in (patch, pickle.loads(patch.dumps()), copy.copy(patch), copy.deepcopy(patch)):
            assert (again.before, again.after, again.labels) == ("b", ["a"], ["x"])
            assert again == patch
            assert type(again) is Noted
        assert Noted(noise((120, 120), "f4"), noise((120, 120), "f4")).labels is None

    def test_a_method_of_a_subclass_may_not_be_shadowed(self):
        """Nor may a default of the class hide a band."""

        class Clever(TwoBandPatch):
            def cloudy(self):
                return False

        class Hidden(TwoBandPatch):
            green = None

        arrays = noise((3, 2), "<f4"), noise((60, 60), "<u2")
        assert Clever(*arrays, cloud=1).cloudy() is False
        with pytest.raises(ValueError, match="'cloudy' would shadow"):
            Clever(*arrays, cloudy=1)
        with pytest.raises(ValueError, match="'green' is defined by Hidden itself"):
            Hidden(*arrays)

    def test_a_subclass_may_not_pose_as_a_standard_class(self):
        """The names of canonical values are closed."""
        for kind in ("BigEarthNet_S1_Patch", "Mine"):
            with pytest.raises(TypeError, match="leave it out"):

                class Poser(BigEarthNetPatch, kind=kind):
                    pass


class TestAttributes:
    def test_metadata_can_be_set_changed_and_deleted(self):
        """A new attribute is not a stored argument; a changed one differs from it; a deleted one is gone."""
        patch = make_patch(**LABELS)
        patch.note = {"seen": True}
        patch.labels = ["River"]
        assert patch.__stored_args__ == LABELS
        assert pickle.loads(patch.dumps()).labels == ["River"]
        assert pickle.loads(patch.dumps()).__stored_args__ == LABELS
        assert patch.to_dict()["metadata"] == {**LABELS, "labels": ["River"], "note": {"seen": True}}
        del patch.note, patch.labels
        assert patch == make_patch(new_labels=LABELS["new_labels"])
        for name in ("labels", "band02", "bands", "__stored_args__"):
            with pytest.raises(AttributeError, match=f"'{name}' is not metadata"):
                delattr(patch, name)

    def test_an_attribute_is_checked_when_set(self):
        """Value and name, as at construction."""
        patch = make_patch()
        with pytest.raises(TypeError, match="metadata 'note' is a object"):
            patch.note = object()
        with pytest.raises(TypeError, match=r"'note' cannot become a band: .*bands of a built patch are fixed"):
            patch.note = patch.band02
        with pytest.raises(TypeError, match="'band02' cannot become a band"):
            patch.band02 = patch.band03
        assert not hasattr(patch, "note")
        with pytest.raises(AttributeError, match="'BigEarthNet_S2_Patch' object has no attribute 'note'"):
            patch.note  # noqa: B018

    def test_store_kwargs_as_props_replaces_stored_args(self):
        """As in the original: older attributes stay attributes."""
        patch = make_patch(old=1)
        patch.store_kwargs_as_props(new=2)
        assert (patch.old, patch.new, patch.__stored_args__) == (1, 2, {"new": 2})
        assert pickle.loads(patch.dumps()) == patch
        with pytest.raises(TypeError, match="metadata 'x' is a object"):
            patch.store_kwargs_as_props(x=object())
        assert patch.__stored_args__ == {"new": 2}

    def test_dir_lists_bands_and_metadata(self):
        """Tab completion shows these names."""
        assert {"band8A", "labels", "select", "bands"} <= set(dir(make_patch(labels=[])))
        assert "green" in dir(two_bands())

    def test_a_part_of_a_merged_patch_takes_no_metadata(self):
        """It would be lost when the merged patch is written; its pixels are the merged patch's."""
        patch = make_patch(BigEarthNet_S1_S2_Patch)
        for attempt in (
            lambda: setattr(patch.s1_patch, "note", 1),
            lambda: patch.s1_patch.store_kwargs_as_props(note=1),
            lambda: delattr(patch.s1_patch, "note"),
        ):
            with pytest.raises(TypeError, match="set it on the merged patch"):
                attempt()
        patch.note = 1
        assert pickle.loads(patch.dumps()).note == 1


class TestAccess:
    def test_bands_come_in_natural_order(self):
        """S2 bands are sorted by number with B8A after B08, then VH and VV."""
        for cls, names in zip(STANDARD_CLASSES, (S1_NAMES, S2_NAMES, S2_NAMES + S1_NAMES), strict=True):
            patch = make_patch(cls)
            assert [band.name for band in patch.bands] == names
            assert type(patch.bands) is list
            assert list(patch.to_dict()["bands"]) == names

    def test_unknown_bands_are_key_errors(self):
        """With the names that there are."""
        patch = make_patch(BigEarthNet_S1_Patch)
        for name in ("B02", "vv", None, ["VV"]):
            for ask in (patch.get_band_by_name, patch.get_band_data_by_name):
                with pytest.raises(KeyError, match="is not a band of this patch; it has VH, VV"):
                    ask(name)

    @pytest.mark.parametrize(("metres", "names"), [
        (10, ["B02", "B03", "B04", "B08"]),
        (20, ["B05", "B06", "B07", "B8A", "B11", "B12"]),
        (60, ["B01", "B09"]),
    ])  # fmt: skip
    def test_s2_getters(self, metres, names):
        """Tuples and stacks hold the named bands in order; on one dtype the stack is a view of the buffer."""
        for dtypes in (None, {"B03": "<f4", "B8A": "<f4", "B01": "<f4"}):
            patch = make_patch(dtypes=dtypes)
            bands = getattr(patch, f"get_{metres}m_bands")()
            stacked = getattr(patch, f"get_stacked_{metres}m_bands")()
            assert type(bands) is tuple
            for band, name, other in zip(bands, names, patch.get_natsorted_bands_by_spatial_res(metres), strict=True):
                assert band is other is patch.get_band_data_by_name(name)
            expected = np.stack(bands)
            assert stacked.dtype == expected.dtype
            assert stacked.tobytes() == expected.tobytes()
            assert np.shares_memory(stacked, bands[0]) is (dtypes is None)
        assert make_patch().get_natsorted_bands_by_spatial_res(30) == ()

    def test_s1_getters(self):
        """VH before VV, a view if both have one dtype and a promoted copy if not."""
        patch = make_patch(BigEarthNet_S1_Patch)
        bands = patch.get_bands()
        assert type(bands) is tuple
        for band, name in zip(bands, S1_NAMES, strict=True):
            assert band is patch.get_band_data_by_name(name)
        assert np.shares_memory(patch.get_stacked_bands(), patch.bandVV.data)
        mixed = make_patch(BigEarthNet_S1_Patch, {"VH": "<u2"})
        assert mixed.get_stacked_bands().dtype == np.float32
        assert mixed.get_stacked_bands().tobytes() == np.stack(mixed.get_bands()).tobytes()

    def test_views_share_the_buffer(self):
        """Writes through one view appear in all, and are kept in copies."""
        patch = make_patch()
        patch.get_stacked_10m_bands()[2, 5, 7] = 4242
        assert patch.band04.data[5, 7] == 4242
        assert patch.select(["B03", "B04"])[1, 5, 7] == 4242
        assert pickle.loads(patch.dumps()).to_dict()["bands"]["B04"][5, 7] == 4242

    def test_parts_of_a_merged_patch_share_its_buffer(self):
        """Each is a patch of its own over the same bytes, and the same object each time."""
        patch = make_patch(BigEarthNet_S1_S2_Patch, {"B01": "<f8", "VV": "<u2"}, labels=["x"])
        assert type(patch.s1_patch) is BigEarthNet_S1_Patch
        assert type(patch.s2_patch) is BigEarthNet_S2_Patch
        assert patch.s1_patch is patch.s1_patch
        for part in (patch.s1_patch, patch.s2_patch):
            assert part.__stored_args__ == {}
            for band in part.bands:
                assert np.shares_memory(band.data, patch.get_band_data_by_name(band.name))
                assert band == patch.get_band_by_name(band.name)
            again = pickle.loads(part.dumps())
            assert again == part
            assert part == again
            again.note = "a patch of its own"
        patch.s1_patch.bandVV.data[0, 0] = 3
        assert patch.bandVV.data[0, 0] == 3
        assert np.shares_memory(patch.s2_patch.get_stacked_20m_bands(), patch.band05.data)

    def test_a_merged_patch_is_freed_at_once(self):
        """Its parts make no reference cycle, because databases have hundreds of thousands of patches."""
        patch = make_patch(BigEarthNet_S1_S2_Patch)
        patch.s1_patch.get_stacked_bands()
        _ = patch.bands, patch.s2_patch.bands
        gone = weakref.ref(patch)
        gc.disable()
        try:
            del patch
            assert gone() is None
        finally:
            gc.enable()

    def test_select(self):
        """Bands of one resolution in any order give one copy or a view, with the same values."""
        patch = make_patch(BigEarthNet_S1_S2_Patch)
        for names in (["B04", "B03", "B02"], ["B02", "B03"], ["B8A"], ("B05", "B05"), ["B02", "VV"], ["VV", "VH"]):
            expected = np.stack([patch.get_band_data_by_name(name) for name in names])
            chosen = patch.select(names)
            assert chosen.dtype == expected.dtype
            assert chosen.tobytes() == expected.tobytes()
            assert chosen.shape == expected.shape
        assert np.shares_memory(patch.select(["B02", "B03"]), patch.band02.data)
        with pytest.raises(ValueError, match=r"B02 \(10 m, 120 x 120\), B8A \(20 m, 60 x 60\)"):
            patch.select(["B02", "B8A"])
        with pytest.raises(KeyError, match="'B10' is not a band"):
            patch.select(["B02", "B10"])
        with pytest.raises(ValueError, match="at least one"):
            patch.select([])
        with pytest.raises(TypeError, match=r"write \['B02'\]"):
            patch.select("B02")

    def test_to_dict(self):
        """Views by name and metadata by name, nothing else."""
        patch = make_patch(BigEarthNet_S1_Patch, snow=False)
        taken = patch.to_dict()
        assert set(taken) == {"bands", "metadata"}
        assert taken["metadata"] == {"snow": False}
        assert taken["bands"]["VV"] is patch.bandVV.data

    def test_many_threads_get_one_band(self):
        """The band that one thread has seen is the band that every thread sees."""
        patch = make_patch()
        barrier = threading.Barrier(4)
        seen = []

        def look():
            barrier.wait()
            seen.append([id(patch.get_band_by_name(name)) for name in S2_NAMES])

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(tuple, seen))) == 1

    def test_repr(self):
        """The text is the original's, byte for byte, with and without metadata."""
        patch = make_patch(BigEarthNet_S1_Patch)
        text = (
            "BigEarthNet_S1_Patch with:\n"
            "\tVH with 10m spatial resolution and a size of (120, 120) pixel\n"
            "\tVV with 10m spatial resolution and a size of (120, 120) pixel"
        )
        assert repr(patch) == text
        patch.store_kwargs_as_props(labels=["Sea"], country="Österreich", n=2)
        assert repr(patch) == (text + "\nAnd the extra metadata:\n\tlabels: ['Sea']\n\tcountry: Österreich\n\tn: 2\n")

    def test_repr_escapes_what_would_drive_a_terminal(self):
        """Metadata comes from files."""
        text = repr(make_patch(BigEarthNet_S1_Patch, **{"a\x1b[2J": "b\x1b]0;c\u202e", "l": ["\x1b"]}))
        assert text.replace("\n", "").replace("\t", "").isprintable()
        assert "\ta\\x1b[2J: b\\x1b]0;c\\u202e\n\tl: ['\\x1b']\n" in text

    @pytest.mark.parametrize(("short", "long"), [
        ("B01", "band01"), ("01", "band01"), ("1", "band01"), ("B1", "band01"), ("b8a", "band8A"), ("8A", "band8A"),
        ("08A", "band8A"), ("B12", "band12"), ("BB1", "band01"),
    ])  # fmt: skip
    def test_short_to_long_band_name_s2(self, short, long):
        """The result is the original's."""
        assert BigEarthNet_S2_Patch.short_to_long_band_name(short) == long

    @pytest.mark.parametrize(
        ("short", "long"), [("VV", "bandVV"), ("vh", "bandVH"), ("BVV", "bandVV"), ("abcd", "bandABCD")]
    )
    def test_short_to_long_band_name_s1(self, short, long):
        """The result is the original's."""
        assert BigEarthNet_S1_Patch.short_to_long_band_name(short) == long

    @pytest.mark.parametrize("cls", [BigEarthNet_S1_Patch, BigEarthNet_S2_Patch])
    def test_short_names_are_bounded(self, cls):
        """Names have 1 to 4 characters."""
        for short in ("", "B8A  "):
            with pytest.raises(ValueError, match="1 to 4 characters"):
                cls.short_to_long_band_name(short)
        with pytest.raises(TypeError, match="must be a str, not NoneType"):
            cls.short_to_long_band_name(None)
        for short in ("B", "VV", "A"):
            with pytest.raises(ValueError, match="invalid literal for int"):
                BigEarthNet_S2_Patch.short_to_long_band_name(short)


class TestEquality:
    def test_each_part_counts(self):
        """Class, dtype, one bit of one pixel, stored and other metadata; order of metadata does not."""
        patch = make_patch(**LABELS)
        assert patch == make_patch(**LABELS)
        assert patch == make_patch(**dict(reversed(LABELS.items())))
        others = [make_patch(**LABELS) for _ in range(4)]
        others[0].band12.data[59, 59] ^= 1
        others[1].note = 1
        others[2].labels = ["Sea", "Beach "]
        others[3].store_kwargs_as_props(labels=LABELS["labels"])
        own = type("Own", (BigEarthNet_S2_Patch,), {})
        arrays = {spec.attribute: patch.get_band_data_by_name(spec.name) for spec in standard_specs(type(patch))}
        others += [
            make_patch(),
            make_patch(dtypes={"B01": ">u2"}, **LABELS),
            own(**arrays, **LABELS),
            None,
            patch.bands,
        ]
        for other in others:
            assert patch != other
            assert other != patch

    def test_nan_counts_in_sets(self):
        """Each NaN of a set is a member of its own."""
        one, two, other = ({float("nan") for _ in range(count)} for count in (1, 2, 2))
        assert make_patch(note=two) == make_patch(note=other)
        assert make_patch(note=two) != make_patch(note=one)

    def test_nan_equals_itself_and_patches_have_no_hash(self):
        """Bits are compared, not numbers."""
        data = np.full((120, 120), np.nan, "f4")
        assert BigEarthNet_S1_Patch(data, data, x=np.nan) == BigEarthNet_S1_Patch(data, data, x=np.nan)
        assert BigEarthNet_S1_Patch(data, data) != BigEarthNet_S1_Patch(data, -data)
        with pytest.raises(TypeError, match="unhashable"):
            hash(make_patch())

    @given(patches())
    @settings(max_examples=25, deadline=None)
    def test_copies_are_equal(self, patch):
        """Reflexive, and kept by shallow and deep copies; a deep copy shares nothing."""
        assert patch == patch
        shallow, deep = copy.copy(patch), copy.deepcopy(patch)
        assert shallow == patch == deep
        name = patch.bands[0].name
        assert np.shares_memory(shallow.get_band_data_by_name(name), patch.get_band_data_by_name(name))
        assert not np.shares_memory(deep.get_band_data_by_name(name), patch.get_band_data_by_name(name))
        shallow.only_here = deep.only_here = 1
        assert not hasattr(patch, "only_here")


class TestPickle:
    @given(patches())
    @settings(max_examples=40, deadline=None)
    def test_every_patch_survives_every_way(self, patch):
        """Plain pickle in protocols 2 to 5, dumps, dump and rebuild give an equal patch that can be written to."""
        file = io.BytesIO()
        patch.dump(file)
        assert file.getvalue() == patch.dumps()
        again = [pickle.loads(pickle.dumps(patch, protocol)) for protocol in range(2, 6)]
        again += [pickle.loads(patch.dumps()), rebuild(type(patch), *map(copy.deepcopy, self.unpacked(patch)))]
        for other in again:
            assert other == patch
            assert list(other.__stored_args__) == list(patch.__stored_args__)
            assert all(band.data.flags.writeable for band in other.bands)
            assert all(getattr(other, name) is other.__stored_args__[name] for name in patch.__stored_args__
                       if name not in (parts(patch)[3] or ()))  # fmt: skip

    @staticmethod
    def unpacked(patch):
        """The parts of a patch, numpy leaves rebuilt."""
        layout, pixels, stored, extras = parts(patch)
        stored, extras = pickle.loads(pickle.dumps((stored, extras)))
        return layout, pixels, stored, extras

    @pytest.mark.parametrize("cls", STANDARD_CLASSES)
    def test_the_canonical_program(self, cls):
        """One global, one call, and the pixels as one block outside any frame; about 30 opcodes, no memo."""
        patch = make_patch(cls, **LABELS)
        data = patch.dumps()
        layout, expected, _, _ = parts(patch)
        program = [(opcode.name, argument, place) for opcode, argument, place in pickletools.genops(data)]
        names = [name for name, _, _ in program]
        assert names.count("STACK_GLOBAL") == names.count("REDUCE") == names.count("BYTEARRAY8") == 1
        assert not {"MEMOIZE", "BINGET", "GLOBAL", "NEWOBJ", "BUILD"} & set(names)
        assert len(names) < 32
        assert [argument for name, argument, _ in program if name == "SHORT_BINUNICODE"][:4] == [
            "ben_secure.patches",
            "rebuild_patch",
            cls.__name__,
            layout,
        ]
        ((pixels, start),) = [(argument, place) for name, argument, place in program if name == "BYTEARRAY8"]
        assert pixels == bytes(expected)
        ends = [place + 9 + argument for name, argument, place in program if name == "FRAME"]
        assert ends[0] <= start
        assert data.count(pixels) == 1

    def test_equal_texts_give_equal_bytes(self):
        """Whether or not two strings are one object must not show: the bytes are signed."""
        one = "Sea and ocean"
        two = "".join(["Sea and", " ocean"])
        assert one is not two
        assert make_patch(a=[one], b=[one]).dumps() == make_patch(a=[one], b=[two]).dumps()

    @pytest.mark.parametrize("last", [["a", b"x", None, 1.5, 2.5], [2**70, "b"], []], ids=["mixed", "long", "numbers"])
    def test_equal_sets_give_equal_bytes(self, last):
        """The order in which a set grew, and what was removed from it, must not show: the bytes are signed."""
        written = set()
        for start in ([0, 8, 16, 32], [32, 16, 8, 0], [8, 32, 0, 16]):
            grown = set(start) | set(range(100, 160))
            for members in ({*start, *last}, {*last[::-1], *start}, (grown | set(last)) - set(range(100, 160))):
                data = make_patch(note={"sets": [members]}).dumps()
                written |= {data, BigEarthNet_S2_Patch.loads(data).dumps()}
        assert len(written) == 1

    def test_pixels_are_not_copied_on_the_way_in(self):
        """A bytearray is taken over by rebuild, bytes are copied."""
        layout, pixels, stored, extras = parts(make_patch())
        buffer = bytearray(pixels)
        patch = rebuild(BigEarthNet_S2_Patch, layout, buffer, stored, extras)
        buffer[0] ^= 1
        assert patch != make_patch()
        patch = rebuild(BigEarthNet_S2_Patch, layout, pixels, stored, extras)
        patch.band02.data[0, 0] ^= 1
        assert bytes(pixels) == parts(make_patch())[1]

    def test_metadata_is_checked_again_when_written(self):
        """A list can change after its check; content that could not be read back is not written."""
        patch = make_patch(labels=["x"])
        patch.labels.append(object())
        for write in (patch.dumps, lambda: pickle.dumps(patch)):
            with pytest.raises(TypeError, match=r"metadata 'labels'\[1\] is a object"):
                write()
        patch.labels.pop()
        assert pickle.loads(patch.dumps()).labels == ["x"]

    def test_load_and_loads_are_the_restricted_ones(self):
        """They read what dump and dumps write and refuse what runs code; a class of one's own admits itself."""
        hostile = pickle.dumps(Hostile())
        for patch in (make_patch(**LABELS), make_patch(BigEarthNet_S1_S2_Patch, day=np.float32(3)), two_bands()):
            assert type(patch).loads(patch.dumps()) == patch
            assert type(patch).load(io.BytesIO(patch.dumps())) == patch
        assert BigEarthNetPatch.loads(make_patch().dumps()) == make_patch()
        for refused in (hostile, two_bands().dumps(), pickle.dumps({}), b""):
            with pytest.raises(BenSecureError):
                BigEarthNetPatch.loads(refused)
            with pytest.raises(BenSecureError):
                BigEarthNetPatch.load(io.BytesIO(refused))
        assert RAN == []
        pickle.loads(hostile)
        assert RAN == ["ran"]  # so the canary works

    @pytest.mark.parametrize("value", [
        "x", ["a"] * 20_000, list(map(str, range(20_000))), 2**511 - 1, [{1, 2}] * 3, math.nan, "\ud800",
    ], ids=range(7))  # fmt: skip
    def test_what_may_be_metadata_can_be_read_back(self, value):
        """The restricted loader's limits leave room for every value that a constructor admits."""
        nested = value
        for _ in range(23):
            nested = [nested]
        for metadata_value in (value, nested, np.array(["a"]), np.array(["a", None], dtype=object)[:1]):
            patch = make_patch(BigEarthNet_S1_Patch, x=metadata_value)
            assert BigEarthNetPatch.loads(patch.dumps()) == patch

    def test_what_could_not_be_read_back_is_not_written(self):
        """Each value is within its bounds, the whole is not: refused by dumps and dump, not by the next reader."""
        arrays = [np.zeros(1, "u1")] * (DEFAULT_LIMITS.max_opcodes // 6)
        make_patch(BigEarthNet_S1_Patch, x=arrays[:1000]).dumps()
        patch = make_patch(BigEarthNet_S1_Patch, x=arrays)
        for write in (patch.dumps, lambda: patch.dump(io.BytesIO())):
            with pytest.raises(ValueError, match=r"could not be read back, make it smaller: .* at most"):
                write()

    def test_a_subclass_is_written_as_its_class(self):
        """``pickle`` restores it; the name of a standard class stays a name."""
        patch = two_bands(note=np.arange(3))
        again = pickle.loads(patch.dumps())
        assert type(again) is TwoBandPatch
        assert again == patch
        assert again.green.data.tobytes() == patch.green.data.tobytes()
        assert patch.__reduce_ex__(5)[1][1] is TwoBandPatch
        assert make_patch().__reduce_ex__(5)[1][1] == "BigEarthNet_S2_Patch"

    def test_no_constructor_of_a_subclass_is_called(self):
        """Rebuilding runs neither __new__, __init__, __setattr__ nor __setstate__ of the caller's class."""
        called = []

        class Loud(BigEarthNet_S1_Patch):
            def __new__(cls, *args, **kwargs):
                called.append("new")
                return super().__new__(cls)

            def __init__(self, *args, **kwargs):
                called.append("init")

            def __setattr__(self, name, value):
                called.append("setattr")

            def __setstate__(self, state):
                called.append("setstate")

        layout, pixels, stored, extras = parts(make_patch(BigEarthNet_S1_Patch, labels=[]))
        patch = rebuild(Loud, layout, pixels, stored, extras)
        assert patch.labels == []
        assert called == []


class TestRebuild:
    def good(self, **changes):
        """Arguments of rebuild_patch for a good patch, with some changed."""
        layout, pixels, stored, extras = parts(make_patch(BigEarthNet_S1_Patch, labels=["x"]))
        arguments = {"version": 1, "kind": "BigEarthNet_S1_Patch", "layout": layout, "pixels": pixels}
        return {**arguments, "stored": stored, "extras": extras, **changes}

    def test_the_good_one_is_accepted(self):
        """The accepted counterpart of every refusal below."""
        assert rebuild_patch(**self.good()) == make_patch(BigEarthNet_S1_Patch, labels=["x"])
        assert rebuild_patch(**self.good(extras={"note": 1})).note == 1
        assert rebuild_patch(**self.good(extras={"labels": 1})).__stored_args__ == {"labels": ["x"]}
        assert type(rebuild_patch(**self.good(kind=BigEarthNet_S1_Patch))) is BigEarthNet_S1_Patch

    @pytest.mark.parametrize(("changes", "error", "message"), [
        ({"version": 2}, ValueError, "format version 2 is unknown, expected 1"),
        ({"version": True}, ValueError, "format version True is unknown"),
        ({"version": 1.0}, ValueError, "format version 1.0 is unknown"),
        ({"kind": "dict"}, ValueError, "patch class dict is unknown"),
        ({"kind": "BigEarthNet_S2_Patch"}, ValueError, "take 320000 bytes, not 115200"),
        ({"kind": "BigEarthNetPatch"}, TypeError, "must be a tuple, not str"),
        ({"kind": dict}, TypeError, "a name or a subclass of BigEarthNetPatch"),
        ({"kind": len}, TypeError, "a name or a subclass of BigEarthNetPatch"),
        ({"kind": np.str_("BigEarthNet_S1_Patch")}, TypeError, "a name or a subclass"),
        ({"layout": "|O"}, ValueError, "cannot be that of pixels"),
        ({"layout": "<f4,<f4"}, ValueError, "shorter form"),
        ({"layout": (("a", "Band", "a", 1, 1, 1, "|u1"),)}, TypeError, "must be a str, not tuple"),
        ({"pixels": b""}, ValueError, "take 115200 bytes, not 0"),
        ({"pixels": bytes(115_199)}, ValueError, "take 115200 bytes, not 115199"),
        ({"pixels": bytes(115_201)}, ValueError, "take 115200 bytes, not 115201"),
        ({"pixels": memoryview(bytes(115_200))}, TypeError, "bytearray or bytes, not memoryview"),
        ({"pixels": "\0" * 115_200}, TypeError, "bytearray or bytes, not str"),
        ({"pixels": np.zeros(115_200, "u1")}, TypeError, "bytearray or bytes, not ndarray"),
        ({"stored": None}, TypeError, "must be a dict"),
        ({"stored": [("a", 1)]}, TypeError, "must be a dict"),
        ({"stored": type("D", (dict,), {})()}, TypeError, "must be a dict"),
        ({"stored": {1: 2}}, TypeError, "metadata name must be a str, not int"),
        ({"stored": {"bandVV": 1}}, ValueError, "'bandVV' would shadow"),
        ({"stored": {"dumps": 1}}, ValueError, "'dumps' would shadow"),
        ({"stored": {"__class__": 1}}, ValueError, "'__class__' would shadow"),
        ({"stored": {"__stored_args__": {}}}, ValueError, "'__stored_args__' would shadow"),
        ({"stored": {"x": object()}}, TypeError, "metadata 'x' is a object"),
        ({"extras": {"__dict__": {}}}, ValueError, "'__dict__' would shadow"),
        ({"extras": {"_pixels": b""}}, ValueError, "'_pixels' would shadow"),
        ({"extras": {"x": len}}, TypeError, "metadata 'x' is a builtin"),
        ({"extras": []}, TypeError, "must be a dict"),
    ])  # fmt: skip
    def test_hostile_arguments_are_refused(self, changes, error, message):
        """One thing wrong at a time; nothing but TypeError and ValueError leaves."""
        with pytest.raises(error, match=message):
            rebuild_patch(**self.good(**changes))

    def test_the_limits_of_the_caller_hold(self):
        """They apply to bands and metadata, stored and extra together."""
        layout, pixels, _, _ = parts(make_patch(BigEarthNet_S1_Patch))
        stored, extras = {"a": ["x"] * 5}, {"b": ["x"] * 5}
        assert rebuild(BigEarthNet_S1_Patch, layout, pixels, stored, extras, Limits(max_nodes=12)).b == ["x"] * 5
        with pytest.raises(ValueError, match="at most 11 objects"):
            rebuild(BigEarthNet_S1_Patch, layout, pixels, stored, extras, Limits(max_nodes=11))
        with pytest.raises(ValueError, match="2 bands exceed the limit of 1"):
            rebuild(BigEarthNet_S1_Patch, layout, pixels, stored, extras, Limits(max_bands=1))

    def test_generic_layouts_are_checked_against_the_class(self):
        """A band's attribute must not hide a name of the class, nor metadata one of a band; gaps are zero."""
        green = ("green", "Band", "G", 1, 1, 3, "|u1")
        wide = ("wide", "Band", "W", 1, 1, 1, "<u4")
        patch = rebuild(BigEarthNetPatch, (green, wide), b"\1\2\3\0\4\0\0\0", {"note": 1}, None)
        assert patch.green.data.tolist() == [[1, 2, 3]]
        assert patch.wide.data.tolist() == [[4]]
        assert patch.wide.data.flags.aligned
        with pytest.raises(ValueError, match="unused bytes between bands must be zero"):
            rebuild(BigEarthNetPatch, (green, wide), b"\1\2\3\7\4\0\0\0", {"note": 1}, None)
        for name in ("dumps", "bands", "load"):
            with pytest.raises(ValueError, match=f"band attribute '{name}' is defined by"):
                rebuild(BigEarthNetPatch, ((name, *green[1:]),), b"\1\2\3", {}, None)
        for name in ("green", "G"):
            with pytest.raises(ValueError, match=f"'{name}' would shadow"):
                rebuild(BigEarthNetPatch, (green,), b"\1\2\3", {name: 1}, None)

    @given(st.data())
    def test_any_arguments_give_a_patch_or_a_plain_error(self, data):
        """Of good and hostile arguments in any mixture, nothing but TypeError and ValueError leaves."""
        hostile = st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.binary(max_size=6),
            lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=7).map(tuple)
            | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=8,
        )  # fmt: skip
        good = self.good()
        changed = data.draw(st.sets(st.sampled_from(sorted(good)), max_size=3))
        arguments = {name: data.draw(hostile) if name in changed else value for name, value in good.items()}
        try:
            patch = rebuild_patch(**arguments)
        except (TypeError, ValueError):
            return
        assert pickle.loads(patch.dumps()) == patch
        for value in patch.__stored_args__.values():
            metadata.check_value("x", value)


class TestHelpers:
    def test_reflectance(self):
        """10,000 digital numbers are 1.0, in the float that the name says."""
        digital_numbers = np.array([[0, 5000, 10_000]], "u2")
        assert S2_DN_TO_REFLECTANCE == 10_000
        for convert, dtype in ((s2_to_float, "f4"), (s2_to_float32, "f4"), (s2_to_float64, "f8")):
            converted = convert(digital_numbers)
            assert converted.dtype == dtype
            assert converted.tolist() == [[0.0, 0.5, 1.0]]

    def test_random_bands(self):
        """They fit the constructors in both dtypes, and numpy's seed makes them repeatable."""
        for metres, side in ((10, 120), (20, 60), (60, 20)):
            np.random.seed(1)
            digital_numbers = random_ben_S2_band(spatial_resoluion=metres, original_dtype=True)
            assert digital_numbers.shape == (side, side)
            assert digital_numbers.dtype == np.uint16
            assert digital_numbers.max() < 10_000
            np.random.seed(1)
            np.testing.assert_array_equal(random_ben_S2_band(metres), s2_to_float32(digital_numbers))
        decibel = random_ben_S1_band()
        assert decibel.shape == (120, 120)
        assert -60.1 < decibel.min() < decibel.max() < 0.1
        assert BigEarthNet_S1_Patch(decibel, decibel).get_stacked_bands().dtype == np.float64


def test_importing_the_patches_is_light():
    """Only numpy and the standard library are loaded, because every DataLoader worker imports them."""
    script = "import sys, numpy; had = set(sys.modules); import ben_secure.patches; print(*(set(sys.modules) - had))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    roots = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert roots == {"ben_secure"}
    assert not any(name.startswith("ben_secure.pickles") for name in found)
