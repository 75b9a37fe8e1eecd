"""``PatchArrays`` returns the content of the patches in the requested form, and refuses impossible requests."""

import json
import multiprocessing
import os
import pickle
import re
import threading
import time
import timeit
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone

import lmdb
import numpy as np
import pytest

from ben_secure import (
    BenSecureError,
    BigEarthNet_S1_Patch,
    BigEarthNet_S1_S2_Patch,
    BigEarthNet_S2_Patch,
    ManifestMismatchError,
    PatchFormatError,
    PatchReader,
    TableError,
    TagMismatchError,
    loads,
)
from ben_secure.bands import BAND_GROUPS, BANDS, STORAGE_ORDER
from ben_secure.batches import PatchArrays
from ben_secure.batches.labels import Labels
from ben_secure.batches.resampling import resample
from ben_secure.labels.nomenclature import BEN_19, CORINE_43
from ben_secure.signing.keys import MacKey, SigningKey
from ben_secure.store.change.sign import sign_database
from ben_secure.store.pairs import PairedReader
from ben_secure.tensors import dumps
from support.attacks import ATTACKS
from support.legacy_values import MERGED, S2, tree, write
from support.patch_databases import KEY, LABELS, NEW_LABELS, database, patches
from support.strategies import make_patch

CREATED = datetime(2026, 1, 2, tzinfo=timezone.utc)


def write_values(path, values):
    """Write raw values with liblmdb, as another program would."""
    with lmdb.open(str(path), map_size=2**28, sync=False) as environment, environment.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name.encode(), value)
    return path


@pytest.fixture(scope="module")
def merged():
    return patches()


@pytest.fixture(scope="module")
def canonical(tmp_path_factory, merged):
    return database(tmp_path_factory.mktemp("arrays") / "canonical.lmdb", merged)


def all_names():
    return [band.name for band in STORAGE_ORDER]


class TestGroups:
    """The groups of bands and their order."""

    def test_each_group_is_its_bands(self):
        """Red before green before blue; otherwise by resolution, each as ``get_stacked_*`` has it."""
        patch = make_patch(BigEarthNet_S1_S2_Patch)
        for metres in (10, 20, 60):
            stacked = getattr(patch.s2_patch, f"get_stacked_{metres}m_bands")()
            assert np.array_equal(patch.select(BAND_GROUPS[f"{metres}m"]), stacked)
        assert np.array_equal(
            patch.s1_patch.select(BAND_GROUPS["S1"]), patch.s1_patch.get_stacked_bands(), equal_nan=True
        )
        assert BAND_GROUPS["RGB"] == ("B04", "B03", "B02")
        assert BAND_GROUPS["10m_20m"] == BAND_GROUPS["10m"] + BAND_GROUPS["20m"]
        assert BAND_GROUPS["S2"] == BAND_GROUPS["10m"] + BAND_GROUPS["20m"] + BAND_GROUPS["60m"]
        assert BAND_GROUPS["all"] == BAND_GROUPS["S2"] + BAND_GROUPS["S1"]

    @pytest.mark.parametrize(
        ("bands", "message"),
        [
            ("20 m", "names of bands or one of RGB, 10m"),
            (["B02", "B10"], "the band B10 is unknown"),
            (["B02", "B02"], "each band once"),
            ([], "at least one"),
        ],
    )
    def test_other_bands_are_refused(self, canonical, bands, message):
        """A band that is not known, one that is there twice, none."""
        with pytest.raises(ValueError, match=message):
            PatchArrays(canonical, bands=bands)
        assert PatchArrays(canonical, bands="B02").bands == ("B02",)
        assert PatchArrays(canonical, bands=["B8A", "B02"]).bands == ("B8A", "B02")


class TestPixels:
    """Arrays hold the pixels of the patches."""

    @pytest.mark.parametrize("group", [*BAND_GROUPS, ("VV", "B03"), ("B03", "B02", "VH", "B04")])
    def test_bands_of_ten_metres_are_copies_and_others_are_repeated(self, canonical, merged, group):
        """In the order asked for, each band; nearest is the default."""
        images, _ = PatchArrays(canonical, bands=group).batch(range(5))
        names = BAND_GROUPS.get(group, group)
        assert images.shape == (5, len(names), 120, 120)
        assert images.dtype == np.float32
        for image, patch in zip(images, merged.values(), strict=True):
            for found, name in zip(image, names, strict=True):
                data = patch.get_band_data_by_name(name)
                times = 120 // len(data)
                assert np.array_equal(found, np.kron(data, np.ones((times, times), data.dtype)))

    @pytest.mark.parametrize("resampling", ["nearest", "bilinear", "bicubic"])
    @pytest.mark.parametrize("size", [120, 60, 128])
    def test_every_band_is_resampled_to_the_size(self, canonical, merged, size, resampling):
        """As ``resample`` does it, band by band."""
        arrays = PatchArrays(canonical, size=size, resampling=resampling, labels=None)
        image, patch = arrays[1], merged["patch 1"]
        for found, name in zip(image, arrays.bands, strict=True):
            expected = np.empty((1, size, size), np.float32)
            resample(patch.get_band_data_by_name(name)[None], expected, resampling)
            assert np.array_equal(found, expected[0])

    def test_bands_keep_their_resolution_without_a_size(self, canonical, merged):
        """The result has an array for each resolution, with bands in the requested order."""
        arrays = PatchArrays(canonical, size=None, bands=["VV", "B12", "B02", "B01", "B05"], labels=None)
        images = arrays[[2, 0]]
        assert list(images) == [10, 20, 60]
        for place, name in enumerate(["patch 2", "patch 0"]):
            for metres, names in ((10, ["VV", "B02"]), (20, ["B12", "B05"]), (60, ["B01"])):
                for found, band in zip(images[metres][place], names, strict=True):
                    assert np.array_equal(found, merged[name].get_band_data_by_name(band))
        assert images[20].shape == (2, 2, 60, 60)

    def test_items_are_those_of_batches(self, canonical):
        """By any kind of index; negative ones count from the end; every item owns its memory."""
        arrays = PatchArrays(canonical, bands="10m")
        images, labels = arrays.batch([3, 1, 4])
        for place, index in enumerate([3, np.int64(1), -1]):
            image, label = arrays[index]
            assert np.array_equal(image, images[place])
            assert np.array_equal(label, labels[place])
            image[...] = 0
            label[...] = 0
        assert np.array_equal(arrays[np.array([3, 1, 4])][0], images)
        assert np.array_equal(arrays[[3, 1, 4]][1], labels)
        assert arrays[[]][0].shape == (0, 4, 120, 120)
        assert arrays[[]][1].shape == (0, 19)
        for index in (5, -6):
            with pytest.raises(IndexError):
                arrays[index]
            with pytest.raises(IndexError):
                arrays.batch([0, index])
        with pytest.raises(TypeError):
            arrays["patch 1"]

    @pytest.mark.parametrize("convert", [list, tuple, np.array])
    def test_a_mask_selects(self, canonical, convert):
        """One bool a patch, as in numpy and torch; it is not taken for places 0 and 1."""
        arrays = PatchArrays(canonical, bands="S1", labels=None)
        mask = convert([False, True, False, True, True])
        assert np.array_equal(arrays[mask], arrays.batch([1, 3, 4]))
        with pytest.raises(IndexError, match="a mask has 4 bools, expected 5"):
            arrays[mask[:4]]
        for several in (arrays.batch, lambda places: arrays.fill([np.empty((5, 2, 120, 120), np.float32)], places)):
            with pytest.raises(TypeError, match="a bool is not the index of a patch"):
                several(mask)
        assert len(arrays.batch(convert([0, 1, 0, 1, 1]))) == 5

    @pytest.mark.parametrize("index", [True, np.True_, np.array(False), [1, True], [np.True_, 2]])
    def test_a_bool_is_no_place(self, canonical, index):
        """Alone or among places, of any make."""
        arrays = PatchArrays(canonical, bands="S1", labels=None)
        with pytest.raises(TypeError, match="a bool is not the index of a patch"):
            arrays[index]
        assert np.array_equal(arrays[[1, np.uint8(2)]], arrays.batch([1, 2]))

    def test_slices_and_ranges_are_batches(self, canonical):
        """They have their Python meaning, also if empty."""
        arrays = PatchArrays(canonical, bands="S1", labels=None)
        everything = arrays.batch(range(5))
        for index in (slice(1, 4), slice(None, None, -2), slice(-2, None), slice(3, 3), slice(99)):
            assert np.array_equal(arrays[index], everything[index])
        assert np.array_equal(arrays[range(3, 0, -1)], everything[[3, 2, 1]])

    @pytest.mark.parametrize("index", ["patch 1", None, 1.0, [1.0], np.array([0.5]), [[1]], np.array([[1, 2]]), {1: 2}])
    def test_what_is_no_index_is_refused(self, canonical, index):
        """Before anything is read."""
        arrays = PatchArrays(canonical, bands="S1", labels=None)
        with pytest.raises(TypeError):
            arrays[index]
        assert arrays[np.array([], int)].shape == (0, 2, 120, 120)

    def test_fill_writes_into_arrays_that_are_there(self, canonical):
        """Arrays of another shape or dtype are refused."""
        arrays = PatchArrays(canonical, bands="RGB", size=None)
        out = np.full((3, 3, 120, 120), -1, np.float32)
        labels = arrays.fill([out[:2]], [4, 2])
        assert np.array_equal(out[:2], arrays.batch([4, 2])[0][10])
        assert np.array_equal(labels, arrays.batch([4, 2])[1])
        assert (out[2] == -1).all()
        for wrong in ([out], [out[:2].astype("f8")], [], [out[:2], out[:2]]):
            with pytest.raises(ValueError, match="expected to fill float32"):
                arrays.fill(wrong, [4, 2])

    @pytest.mark.parametrize("form", ["legacy", "safetensors"])
    def test_other_formats_give_the_same(self, tmp_path, form):
        """Values of the original package and of rico-hdl give the same arrays."""
        if form == "legacy":
            values = {"a": write(tree(MERGED)), "b": write(tree(MERGED, "numpy2-pydantic2"))}
        else:
            values = {name: dumps(patch) for name, patch in patches(2).items()}
        path = write_values(tmp_path / "db", values)
        arrays = PatchArrays(path, labels=None, size=None)
        batch = arrays.batch([0, 1])
        for place, value in enumerate(values.values()):
            patch = loads(value)
            assert np.array_equal(batch[20][place], patch.s2_patch.get_stacked_20m_bands(), equal_nan=True)
            assert np.array_equal(batch[60][place], patch.s2_patch.get_stacked_60m_bands(), equal_nan=True)
            assert np.array_equal(batch[10][place][:4], patch.s2_patch.get_stacked_10m_bands(), equal_nan=True)
            assert np.array_equal(batch[10][place][4:], patch.s1_patch.get_stacked_bands(), equal_nan=True)

    def test_pairs_of_records_are_one_patch(self, tmp_path):
        """Through a ``PairedReader``, as BigEarthNet v2 keeps them."""
        s2, s1 = make_patch(BigEarthNet_S2_Patch), make_patch(BigEarthNet_S1_Patch)
        path = database(tmp_path / "db", {"S2": s2, "S1": s1})
        arrays = PatchArrays(
            PairedReader(PatchReader(path), {"S2": "S1"}), bands=["B02", "VV"], labels=None, fill=np.nan
        )
        assert list(arrays.names) == ["S2"]
        assert np.array_equal(arrays[0][0], s2.band02.data)
        assert np.array_equal(arrays[0][1], s1.bandVV.data, equal_nan=True)

    def test_other_dtypes_are_converted(self, tmp_path):
        """Any real numbers are converted, foreign byte order included; complex ones cannot become float32."""
        patch = make_patch(BigEarthNet_S2_Patch, dtypes={"B02": ">u4", "B05": "<i8", "B11": "|i1"})
        complex_one = make_patch(BigEarthNet_S2_Patch, dtypes={"B02": "<c8"})
        path = database(tmp_path / "db", {"a": patch, "b": complex_one})
        arrays = PatchArrays(path, bands="S2", labels=None)
        for found, name in zip(arrays[0], arrays.bands, strict=True):
            data = patch.get_band_data_by_name(name).astype(np.float32)
            assert np.array_equal(found[:: 120 // len(data), :: 120 // len(data)], data)
        with pytest.raises(PatchFormatError, match=r"band B02 has complex numbers.*LMDB key b'b'"):
            arrays[1]
        assert PatchArrays(path, bands="20m", labels=None)[1].shape == (6, 120, 120)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
    @pytest.mark.parametrize("size", [120, 60, None])
    @pytest.mark.parametrize("normalize", [None, {"VH": (-20, 5), "VV": (-12, 4)}])
    def test_what_is_not_finite_is_filled_or_refused(self, tmp_path, value, size, normalize):
        """Pixels are filled in float32 without a warning, after normalisation, before they spread by resampling."""
        patch = make_patch(BigEarthNet_S1_Patch, dtypes={"VV": "<f8"})
        for band in (patch.bandVH, patch.bandVV):
            band.data[...] = np.random.default_rng(1).normal(-15, 3, (120, 120))
        finite = database(tmp_path / "finite", {"a": patch})
        patch.bandVV.data[5, 7:9] = value
        path = database(tmp_path / "db", {"a": patch})
        options = {"bands": "S1", "labels": None, "size": size, "resampling": "bilinear", "normalize": normalize}
        with pytest.raises(PatchFormatError, match=r"2 pixels of VV are NaN or infinite.*fill=.*LMDB key b'a' in .*db"):
            PatchArrays(path, **options).batch([0])
        alone = PatchArrays(path, **{**options, "bands": "VH"}).batch([0])
        expected, found, kept = (
            arrays.batch([0])[10] if size is None else arrays.batch([0])
            for arrays in (
                PatchArrays(finite, **options),
                PatchArrays(path, fill=0, **options),
                PatchArrays(path, fill=float("nan"), **options),
            )
        )
        assert np.array_equal(found[:, :1], expected[:, :1])
        assert np.array_equal(found[:, :1], alone[10] if size is None else alone)
        touched = np.isnan(kept)
        assert 0 < touched.sum() <= 4
        assert np.array_equal(found[~touched], expected[~touched])
        assert not np.array_equal(found, expected)
        if size != 60:
            assert np.array_equal(np.argwhere(touched), [[0, 1, 5, 7], [0, 1, 5, 8]])
            assert not found[touched].any()

    @pytest.mark.parametrize("fill", ["0", True, None])
    def test_a_fill_is_a_number(self, canonical, fill):
        """A fill is a number or None."""
        if fill is None:
            assert len(PatchArrays(canonical, fill=fill)[0][0]) == 14
        else:
            with pytest.raises(ValueError, match="fill must be a number or None"):
                PatchArrays(canonical, fill=fill)

    def test_a_missing_band_is_named(self, tmp_path):
        """With database and LMDB key; bands that are there are read."""
        path = database(tmp_path / "some.lmdb", {"a": make_patch(BigEarthNet_S2_Patch, labels=[])})
        with pytest.raises(PatchFormatError, match=r"its bands are B02.*at LMDB key b'a' in .*some.lmdb"):
            PatchArrays(path, bands=["B02", "VV"], labels=None).batch([0])
        assert PatchArrays(path, bands=["B02"], labels=None).batch([0]).shape == (1, 1, 120, 120)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 0}, "size must be None or 1 to 4096"),
            ({"size": True}, "size must be None or 1 to 4096"),
            ({"resampling": "lanczos"}, "resampling must be one of nearest, bilinear, bicubic"),
            ({"labels": "one-hot"}, "labels must be None or one of multi-hot-19"),
        ],
    )
    def test_other_arguments_are_refused(self, canonical, options, message):
        """Before anything is read."""
        with pytest.raises(ValueError, match=message):
            PatchArrays(canonical, **options)


class TestNormalisation:
    """(value - mean) / deviation, band by band."""

    STATISTICS = {name: (100.0 + 7 * place, 20.0 + place) for place, name in enumerate(BANDS)}  # noqa: RUF012

    @pytest.mark.parametrize("size", [None, 120, 64])
    @pytest.mark.parametrize("resampling", ["nearest", "bicubic"])
    def test_before_or_after_resampling_is_the_same(self, canonical, size, resampling):
        """So it is done where there are fewer pixels."""
        options = {"size": size, "resampling": resampling, "labels": None}
        plain = PatchArrays(canonical, **options).batch([0, 1])
        normalised = PatchArrays(canonical, normalize=self.STATISTICS, **options).batch([0, 1])
        groups = [BAND_GROUPS["all"]]
        if size is None:
            groups = [[n for n in BAND_GROUPS["all"] if BANDS[n].resolution_m == metres] for metres in plain]
            plain, normalised = plain.values(), normalised.values()
        else:
            plain, normalised = [plain], [normalised]
        for names, before, after in zip(groups, plain, normalised, strict=True):
            mean, deviation = np.array([self.STATISTICS[name] for name in names]).T[:, :, None, None]
            np.testing.assert_allclose(after, (before - mean) / deviation, rtol=1e-4, atol=2e-2)

    def test_statistics_come_from_a_file(self, canonical, tmp_path):
        """The JSON that ``ben-secure stats`` writes; other entries of it do not matter."""
        path = tmp_path / "stats.json"
        bands = {n: {"mean": mean, "std": deviation, "min": 0} for n, (mean, deviation) in self.STATISTICS.items()}
        path.write_text(json.dumps({"schema": 1, "bands": bands}))
        for given in (path, str(path)):
            found = PatchArrays(canonical, normalize=given)[0][0]
            assert np.array_equal(found, PatchArrays(canonical, normalize=self.STATISTICS)[0][0])

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "Expecting value"),
            ("[]", "list indices"),
            ("{}", "the field 'bands'"),
            ('{"bands": {"B02": {"mean": 1}}}', "the field 'std'"),
            ('{"bands": {"B02": {"mean": "x", "std": 1}}}', "a mean or standard deviation is x, expected a number"),
            ('{"bands": {"B02": {"mean": 1, "std": 1' + "0" * 400 + "}}}", "too large"),
            ('{"bands": []}', "no attribute 'items'"),
            ("[" * 100_000, "it is nested too deep"),
            (None, "No such file"),
        ],
    )
    def test_other_files_are_refused(self, canonical, tmp_path, text, reason):
        """The error has the name of the file and its fault."""
        path = tmp_path / "stats.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(TableError, match=rf"(?s)stats.json: .*{re.escape(reason)}.*ben-secure stats --json"):
            PatchArrays(canonical, normalize=path)

    def test_a_band_without_a_mean_says_why(self, canonical, tmp_path):
        """A band without finite pixels has no statistics; other bands can be used."""
        path = tmp_path / "stats.json"
        path.write_text(json.dumps({"bands": {"VV": {"mean": None, "std": None}, "VH": {"mean": -19, "std": 5}}}))
        with pytest.raises(ValueError, match=r"band VV cannot be normalised: .* none of its pixels was finite"):
            PatchArrays(canonical, bands="S1", normalize=path)
        assert len(PatchArrays(canonical, bands="VH", normalize=path)) == 5

    @pytest.mark.parametrize("deviation", [0, -1.0, float("nan"), float("inf")])
    def test_a_deviation_must_be_one(self, canonical, deviation):
        """Positive and finite; and every band needs one."""
        with pytest.raises(ValueError, match="band B02 cannot be normalised"):
            PatchArrays(canonical, bands="B02", normalize={"B02": (0, deviation)})
        with pytest.raises(ValueError, match="no mean and standard deviation for band B03"):
            PatchArrays(canonical, bands=["B02", "B03"], normalize={"B02": (0, 1)})
        assert len(PatchArrays(canonical, bands="B02", normalize={"B02": (0, 1)})) == 5


class TestLabels:
    """Labels as vectors of either nomenclature, as names, or not at all."""

    def labels(self, tmp_path, kind, **metadata):
        path = database(tmp_path / "db", {"a": make_patch(BigEarthNet_S1_Patch, **metadata)})
        arrays = PatchArrays(path, bands="S1", labels=kind, fill=0)
        _, labels = arrays[0]
        together = arrays.batch([0, 0])[1]
        for one in together:
            assert np.array_equal(one, labels) if arrays.classes else one == labels
        return [arrays.classes[place] for place in np.flatnonzero(labels)] if arrays.classes else labels

    def test_the_19(self, tmp_path):
        """``new_labels`` as they are stored; they are the 19 in published order."""
        assert self.labels(tmp_path, "multi-hot-19", labels=LABELS, new_labels=NEW_LABELS) == [
            "Arable land",
            "Pastures",
        ]
        assert BEN_19[0] == "Urban fabric"

    def test_the_19_of_the_43(self, tmp_path):
        """Without ``new_labels``, classes outside the 19 are dropped."""
        assert self.labels(tmp_path, "multi-hot-19", labels=LABELS) == ["Arable land", "Pastures"]

    def test_the_19_of_version_2(self, tmp_path):
        """Which has them in ``labels``."""
        assert self.labels(tmp_path, "multi-hot-19", labels=("Marine waters", "Arable land")) == [
            "Arable land",
            "Marine waters",
        ]

    def test_none_of_the_19(self, tmp_path):
        """The field's encoder stores None then, which gives an empty vector."""
        assert self.labels(tmp_path, "multi-hot-19", labels=["Airports"], new_labels=None) == []

    def test_the_43(self, tmp_path):
        """The 43 classes come only from ``labels``."""
        found = self.labels(tmp_path, "multi-hot-43", labels=LABELS, new_labels=NEW_LABELS)
        assert sorted(found, key=LABELS.index) == LABELS
        assert found == sorted(LABELS, key=CORINE_43.index)

    def test_names(self, tmp_path):
        """As they are stored."""
        assert self.labels(tmp_path, "names", labels=["whatever", "Pastures"]) == ("whatever", "Pastures")

    def test_no_labels(self, canonical):
        """Then an item is the array alone."""
        assert PatchArrays(canonical, bands="S1", labels=None)[0].shape == (2, 120, 120)
        assert PatchArrays(canonical, bands="S1", labels=None)[[0]].shape == (1, 2, 120, 120)

    @pytest.mark.parametrize(
        ("kind", "metadata", "message"),
        [
            ("multi-hot-19", {}, "has no labels; pass labels=None"),
            ("multi-hot-43", {"new_labels": ["Pastures"]}, "has no labels"),
            ("names", {"labels": "Pastures"}, "labels of the patch is a str"),
            ("names", {"labels": ["Pastures", 1]}, "labels of the patch is a list"),
            ("multi-hot-43", {"labels": None}, "labels of the patch is a NoneType"),
            ("multi-hot-43", {"labels": ["Arable land"]}, "'Arable land' is not one of the 43"),
            ("multi-hot-19", {"labels": ["Arable\x1b[31m"]}, r"'Arable\\\\x1b\[31m' is not one of the 19"),
        ],
    )
    def test_other_labels_are_refused(self, tmp_path, kind, metadata, message):
        """With database and LMDB key; text of the file is escaped."""
        with pytest.raises(PatchFormatError, match=rf"{message}.*at LMDB key b'a' in .*db"):
            self.labels(tmp_path, kind, **metadata)

    @pytest.mark.threat("T2")
    def test_no_list_of_labels_is_kept(self):
        """However long they are and however many; each is turned into a vector as it comes."""
        labels = Labels("multi-hot-19")
        tracemalloc.start()
        try:
            for place in range(200):
                names = ["Pastures"] * 20_000
                names[place] = "Arable land"
                assert labels.of({"new_labels": names}).sum() == 2
            assert tracemalloc.get_traced_memory()[0] < 2**20
        finally:
            tracemalloc.stop()

    def test_labels_cost_little(self):
        """A vector costs about fifteen times an empty one; and each vector is the caller's own."""
        labels, metadata = Labels("multi-hot-43"), {"labels": list(CORINE_43[:3])}
        empty = min(timeit.repeat(lambda: np.zeros(43, "f4"), timer=time.process_time, number=5000, repeat=5))
        assert (
            min(timeit.repeat(lambda: labels.of(metadata), timer=time.process_time, number=5000, repeat=5)) < 60 * empty
        )
        first = labels.of(metadata)
        first[:] = 7
        assert labels.of(metadata).tolist() == [1.0] * 3 + [0.0] * 40


class TestNames:
    """Which patches there are, and in which order."""

    def test_databases_follow_each_other(self, tmp_path, canonical):
        """Each in key order; a name in two of them is refused."""
        other = database(tmp_path / "other", patches(2, start=7))
        arrays = PatchArrays([other, PatchReader(canonical)], bands="S1")
        assert list(arrays.names) == ["patch 7", "patch 8", *(f"patch {seed}" for seed in range(5))]
        assert len(arrays) == 7
        assert arrays.names[-1] == arrays.names[6] == "patch 4"
        assert arrays.names[1:4] == ["patch 8", "patch 0", "patch 1"]
        alone = PatchArrays(canonical, bands="S1")
        assert np.array_equal(arrays[[3]][0], alone[[1]][0])
        with pytest.raises(ValueError, match=r"patch 0 is in .*canonical.lmdb and in .*canonical.lmdb"):
            PatchArrays([canonical, canonical])
        with pytest.raises(ValueError, match="at least one database"):
            PatchArrays([])

    def test_a_split_names_patches(self, tmp_path, canonical):
        """In its own order, as a list or as a file; each once, and each must be there."""
        wanted = ["patch 3", "patch 0"]
        path = tmp_path / "train.csv"
        path.write_text("patch_id,country\npatch 3,Serbia\npatch 0,Ireland\n")
        for split in (wanted, tuple(wanted), path, str(path)):
            arrays = PatchArrays(canonical, split=split, bands="S1")
            assert list(arrays.names) == wanted
            assert np.array_equal(arrays[0][0], PatchArrays(canonical, bands="S1")[3][0])
        for split, error, message in (
            (
                [*wanted, "patch 9", "x"],
                ValueError,
                r"2 of the 4 patches of the split are not in .*for example patch 9",
            ),
            ([*wanted, "patch 3"], ValueError, "names the patch patch 3 twice"),
            ([*wanted, 3], TypeError, "names of patches as str"),
            (tmp_path / "none.csv", TableError, "none.csv"),
        ):
            with pytest.raises(error, match=message):
                PatchArrays(canonical, split=split)

    def test_names_that_are_not_ascii(self, tmp_path):
        """They are kept as bytes and come back as they were."""
        found = {f"größe {seed} 🛰": make_patch(BigEarthNet_S1_Patch, labels=[]) for seed in range(3)}
        arrays = PatchArrays(database(tmp_path / "db", found), bands="S1")
        assert list(arrays.names) == list(found)
        assert "größe 1 🛰" in arrays.names


def test_transform_is_applied_to_each_patch(canonical):
    """It works for single patches and batches, in place or with new shapes, and on the dict with ``size=None``."""
    plain = PatchArrays(canonical, bands="RGB", labels=None).batch([0, 1])

    def halve(image):
        image *= 0.5
        return image

    in_place = PatchArrays(canonical, bands="RGB", labels=None, transform=halve)
    assert np.array_equal(in_place.batch([0, 1]), plain * np.float32(0.5))
    assert np.array_equal(in_place[1], plain[1] * np.float32(0.5))
    crop = PatchArrays(canonical, bands="RGB", labels=None, transform=lambda image: image[:, :50, :40])
    assert np.array_equal(crop.batch([0, 1]), plain[..., :50, :40])
    assert np.array_equal(crop[1], plain[1, :, :50, :40])
    parts = PatchArrays(
        canonical, bands="RGB", size=None, labels=None, transform=lambda images: {"mean": images[10].mean((1, 2))}
    )
    np.testing.assert_allclose(parts.batch([0, 1])["mean"], plain.mean((2, 3)), rtol=1e-5)
    assert list(parts[0]) == ["mean"]


class TestDicts:
    """Samples as dicts of image, labels and name."""

    def test_a_sample_is_a_dict(self, canonical):
        """It works for single patches and batches, any kind of labels, and images by resolution."""
        for options in ({}, {"labels": "names"}, {"labels": None}, {"size": None}):
            plain = PatchArrays(canonical, bands="10m", **options)
            arrays = PatchArrays(canonical, bands="10m", sample="dict", **options)
            for index, names in ((3, "patch 3"), ([2, 0], ["patch 2", "patch 0"])):
                found = arrays[index]
                images, labels = (plain[index], None) if options.get("labels", "") is None else plain[index]
                assert list(found) == (["image", "name"] if labels is None else ["image", "label", "name"])
                assert found["name"] == names
                assert str(found["image"]) == str(images)
                assert np.array_equal(found.get("label"), labels)
                assert options or found["label"].dtype == np.int64
        with pytest.raises(ValueError, match="sample must be one of tuple, dict, not 'list'"):
            PatchArrays(canonical, sample="list")

    def test_a_transform_gets_the_whole_sample(self, canonical):
        """A transform may change the sample in place, replace parts, or return only a part."""

        def in_place(sample):
            sample["image"] *= 2
            return sample

        def others(sample):
            return {**sample, "image": sample["image"][:, :30], "place": np.float32(sample["name"][-1])}

        plain = PatchArrays(canonical, bands="RGB")
        images, labels = plain.batch([1, 4])
        found = PatchArrays(canonical, bands="RGB", sample="dict", transform=in_place).batch([1, 4])
        assert np.array_equal(found["image"], images * 2)
        arrays = PatchArrays(canonical, bands="RGB", sample="dict", transform=others)
        found = arrays.batch([1, 4])
        assert np.array_equal(found["image"], images[:, :, :30])
        assert np.array_equal(found["label"], labels)
        assert found["name"] == ["patch 1", "patch 4"]
        assert found["place"].tolist() == [1, 4]
        assert arrays[4]["place"] == 4
        only = PatchArrays(canonical, bands="RGB", sample="dict", transform=lambda sample: {"x": sample["image"]})
        assert np.array_equal(only.batch([1, 4])["x"], images)


def test_it_is_pickled_as_paths_and_names(canonical):
    """And gives the same where it arrives, without the transform being called before."""
    arrays = PatchArrays(canonical, bands="S1", split=["patch 4", "patch 2"], normalize={"VH": (1, 2), "VV": (3, 4)})
    arrays.batch([0])
    copied = pickle.loads(pickle.dumps(arrays))
    assert list(copied.names) == ["patch 4", "patch 2"]
    assert np.array_equal(copied.batch([0, 1])[0], arrays.batch([0, 1])[0])
    assert len(pickle.dumps(arrays)) < 5_000


def test_threads_may_share_it(canonical):
    """Each thread gets its own request."""
    arrays = PatchArrays(canonical, bands="10m_20m")
    expected = arrays.batch(range(5))[0]
    wrong = []

    def read(seed):
        for _ in range(10):
            order = np.random.default_rng(seed).permutation(5)
            if not np.array_equal(arrays.batch(order)[0], expected[order]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def _batch(pickled):
    """Two patches, in the process that calls it."""
    return pickle.loads(pickled).batch([0, 4])[0]


class TestVerification:
    """The requested checks apply to every value, in whole batches, too."""

    @pytest.mark.threat("T9")
    def test_tags_are_verified(self, tmp_path, merged):
        """A batch with one value that was swapped is refused whole; the key says nothing of itself."""
        path = database(tmp_path / "tagged", merged, mac_key=KEY, context="BEN")
        arrays = PatchArrays(path, bands="S1", mac_key=KEY, context="BEN")
        assert np.array_equal(arrays.batch([0, 4])[0][1], merged["patch 4"].s1_patch.get_stacked_bands())
        assert pickle.loads(pickle.dumps(arrays)).readers[0].verified
        assert bytes(range(32)).hex() not in repr(arrays)
        assert "patches of VH, VV" in repr(arrays)
        with lmdb.open(str(path), map_size=2**28) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"patch 3", bytes(transaction.get(b"patch 2")))
        with pytest.raises(TagMismatchError, match=r"at LMDB key b'patch 3' in .*tagged"):
            arrays.batch([0, 3])
        assert len(arrays.batch([0, 2])[0]) == 2
        with pytest.raises(TagMismatchError):
            PatchArrays(path, bands="S1", mac_key=MacKey.generate(), context="BEN").batch([0])

    @pytest.mark.threat("T32")
    @pytest.mark.parametrize("start", ["fork", "spawn", "forkserver"])
    def test_they_are_verified_where_a_framework_takes_it(self, tmp_path, merged, start):
        """However a worker starts, it refuses a database without tags that took the place of the tagged one."""
        path = database(tmp_path / "tagged", merged, mac_key=KEY, context="BEN")
        database(tmp_path / "untagged", merged)
        arrays = PatchArrays(path, bands="S1", mac_key=KEY, context="BEN")
        with ProcessPoolExecutor(1, multiprocessing.get_context(start)) as pool:
            assert np.array_equal(pool.submit(_batch, pickle.dumps(arrays)).result(), arrays.batch([0, 4])[0])
        os.rename(path, tmp_path / "away")
        os.rename(tmp_path / "untagged", path)
        with ProcessPoolExecutor(1, multiprocessing.get_context(start)) as pool:
            refused = pool.submit(_batch, pickle.dumps(arrays)).exception()
        with pytest.raises(TagMismatchError, match=r"(?s)at LMDB key b'patch 0' in .*tagged"):
            raise refused
        assert PatchArrays(path, bands="S1").batch([0])[0].shape[0] == 1  # without a key it is a database like others

    @pytest.mark.threat("T8")
    def test_manifests_are_verified(self, tmp_path, merged):
        """Each database has its own manifest beside it."""
        key = SigningKey.generate()
        paths = [database(tmp_path / "a", merged), database(tmp_path / "b", patches(2, start=8))]
        for path in paths:
            sign_database(path, [key], name="BEN", version="1", created=CREATED)
        arrays = PatchArrays(paths, bands="S1", verify_key=key.verify_key)
        assert len(arrays.batch(range(7))[0]) == 7
        with pytest.raises(ValueError, match="manifest is for a single database"):
            PatchArrays(paths, verify_key=key.verify_key, manifest=f"{paths[0]}.manifest")
        with lmdb.open(str(paths[1]), map_size=2**28) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"patch 9", bytes(transaction.get(b"patch 8")))
        with pytest.raises(ManifestMismatchError, match=r"at LMDB key b'patch 9' in .*b"):
            PatchArrays(paths, bands="S1", verify_key=key.verify_key).batch(range(7))

    def test_open_readers_bring_their_own_keys(self, tmp_path, merged):
        """Open readers accept no other keys."""
        path = database(tmp_path / "tagged", merged, mac_key=KEY)
        assert len(PatchArrays(PatchReader(path, mac_key=KEY))) == 5
        with pytest.raises(ValueError, match="an open reader has its own verification"):
            PatchArrays(PatchReader(path, mac_key=KEY), mac_key=KEY)

    def test_a_refusal_says_how_to_go_on(self, tmp_path, merged):
        """The message tells how to leave out a value that is not a patch or cannot be used; this then works."""
        single = merged["patch 1"].s1_patch
        values = {"a": merged["patch 0"].dumps(), "b'": b"no patch", "c": single.dumps()}
        path = write_values(tmp_path / "db", values)
        arrays = PatchArrays(path, bands="RGB")
        with pytest.raises(
            BenSecureError, match=r"exclude=\[\"b'\"\] or write a clean copy of the database: ben-secure convert"
        ):
            arrays[1]
        with pytest.raises(PatchFormatError, match=r"does not have band B04.*exclude=\['c'\] \[at") as refused:
            arrays[2]
        assert "convert" not in str(refused.value)
        assert len(PatchArrays(path, bands="RGB", exclude=["b'", "c"])[:][0]) == 1

    @pytest.mark.threat("T9")
    def test_what_was_changed_is_not_to_be_gone_on_without(self, tmp_path, merged):
        """An attack is not a patch to leave out."""
        path = database(tmp_path / "tagged", merged, mac_key=KEY)
        arrays = PatchArrays(path, bands="S1", mac_key=KEY, context="another")
        with pytest.raises(TagMismatchError) as refused:
            arrays[0]
        assert "exclude" not in str(refused.value)

    @pytest.mark.threat("T1")
    def test_hostile_values_are_refused(self, tmp_path, merged):
        """Wherever in a batch they are, with their place; nothing of them runs."""
        values = {f"attack {place:03}": attack.value() for place, attack in enumerate(ATTACKS[::9])}
        path = write_values(tmp_path / "db", {"honest": merged["patch 0"].dumps()} | values)
        arrays = PatchArrays(path, bands="S1")
        for place, name in enumerate(arrays.names):
            if name == "honest":
                assert len(arrays.batch([place, place])[0]) == 2
            else:
                with pytest.raises(BenSecureError, match=name):
                    arrays.batch([place])


def test_real_archives(real_data):
    """Legacy databases of six real pairs give what their patches hold."""
    for generation in sorted((real_data / "legacy").iterdir()):
        path = generation / "s1_s2.lmdb"
        arrays = PatchArrays(path, size=None)
        images, labels = arrays.batch(range(len(arrays)))
        reader = PatchReader(path)
        for place, name in enumerate(arrays.names):
            patch = reader[name]
            assert np.array_equal(images[20][place], patch.s2_patch.get_stacked_20m_bands())
            assert np.array_equal(images[10][place][4:], patch.s1_patch.get_stacked_bands())
            assert {BEN_19[k] for k in np.flatnonzero(labels[place])} == set(patch.new_labels or ())


def test_s2_and_legacy_have_one_plan_each(tmp_path):
    """Layouts that alternate in a batch are distinguished."""
    s2, swapped = tree(S2), make_patch(BigEarthNet_S2_Patch, dtypes=dict.fromkeys(BAND_GROUPS["20m"], "<u4"), seed=9)
    path = write_values(tmp_path / "db", {"a": write(s2), "b": swapped.dumps(), "c": write(s2)})
    images = PatchArrays(path, bands="20m", size=60, labels=None).batch([0, 1, 2, 1])
    assert np.array_equal(images[0], images[2])
    assert np.array_equal(images[1], images[3])
    assert np.array_equal(images[1], swapped.get_stacked_20m_bands().astype(np.float32))
