"""Statistics are exact, and the same whatever the order, the cut and the number of processes."""

import json
import math
import multiprocessing.popen_spawn_posix
import multiprocessing.synchronize
import os
import pickle
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ben_secure.errors import (
    LimitExceededError,
    MissingExtraError,
    PatchFormatError,
    StoreError,
    TagMismatchError,
    UnsafePickleError,
)
from ben_secure.patches import Band, BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNetPatch
from ben_secure.signing.keys import MacKey, MacKeySet
from ben_secure.stats import Statistics, plot_png, stats
from ben_secure.stats import tally as tally_module
from ben_secure.stats.results import BINS, to_json
from ben_secure.stats.sums import Sums, code_of, edge_of
from ben_secure.stats.tally import Tally
from ben_secure.store.reader import PatchReader
from support.databases import make_database
from support.strategies import make_patch, noise

REAL = ["|i1", "|u1", "<i2", ">u2", "<u2", "<i4", "<u8", ">i8", "<f2", ">f4", "<f4", "<f8"]


def arrays(dtypes=REAL):
    """Arrays of any numbers: NaN, infinities, zeros of both signs and denormals included."""
    return st.sampled_from(dtypes).flatmap(lambda dtype: hnp.arrays(dtype, st.integers(0, 8)))


def summed(parts):
    """The sums of some arrays."""
    sums = Sums()
    for part in parts:
        sums.add(part)
    return sums


def seen(sums):
    """All that can be asked of sums, as text, so that 0.0 and -0.0 differ."""
    odd = sorted(sums.odd.items())
    return repr((sums.count, odd, sums.extremes(), sums.mean_and_deviation(), sorted(sums.fine_bins())))


def assert_exact(sums, numbers):
    """The mean is the exact one, rounded; the deviation differs from the exact one by less than a unit."""
    mean = Fraction(sum(numbers)) / len(numbers)
    variance = Fraction(sum(n * n for n in numbers)) / len(numbers) - mean**2
    found, deviation = sums.mean_and_deviation()
    assert found == float(mean)
    assert Fraction(math.nextafter(deviation, 0)) ** 2 <= variance
    above = math.nextafter(deviation, math.inf)
    assert above == math.inf or variance < Fraction(above) ** 2
    assert sums.count == len(numbers)


def band_patch(**pixels):
    """A patch of bands of any name."""
    bands = [Band(name=name, spatial_resolution=10, data_shape=a.shape, data=a) for name, a in pixels.items()]
    return BigEarthNetPatch(bands)


def counted(*patches):
    """Statistics of some patches."""
    tally = Tally()
    for patch in patches:
        tally.add(patch)
    return Statistics.of("db", tally)


@given(st.lists(arrays(), max_size=6), st.randoms())
def test_any_order_and_any_partition_give_the_same_bits(parts, random):
    """Adding arrays one by one, in another order, or merging sums of groups in any tree gives identical results."""
    expected = seen(summed(parts))
    shuffled = [random.choice([part, part[::-1]]) for part in parts]
    random.shuffle(shuffled)
    assert seen(summed(shuffled)) == expected
    heap = [summed(parts[start : start + 2]) for start in range(0, len(parts), 2)] or [Sums()]
    while len(heap) > 1:
        random.shuffle(heap)
        heap[0].merge(heap.pop())
    assert seen(heap[0]) == expected


@given(st.lists(arrays(), min_size=1, max_size=4))
def test_mean_and_deviation_are_exact(parts):
    """They are the rational numbers that they should be, rounded to float64."""
    numbers = [Fraction(n) for part in parts for n in part.tolist() if np.isfinite(n)]
    if numbers:
        assert_exact(summed(parts), numbers)
    else:
        assert summed(parts).mean_and_deviation() is None


@given(arrays().filter(len))
def test_counts_and_histogram_lose_nothing(numbers):
    """Every number is in its bin, and numbers that are not finite are counted separately."""
    band = counted(band_patch(a=numbers[None])).bands["a"]
    flat = numbers.astype(np.float64)
    finite = flat[np.isfinite(flat)]
    odd = [int(where.sum()) for where in (np.isnan(flat), flat == np.inf, flat == -np.inf)]
    assert [band.nan, band.positive_infinite, band.negative_infinite, band.count] == [*odd, len(finite)]
    if len(finite):
        assert (band.minimum, band.maximum) == (finite.min(), finite.max())
        assert band.histogram.counts == tuple(np.histogram(finite, band.histogram.edges)[0].tolist())


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_codes_are_ordered_bins(x, y):
    """A greater number is in no lower bin, and a bin has the numbers from its edge on, each within 1/128."""
    low, high = sorted((x, y))
    code, other = code_of(np.array([low, high])).tolist()
    assert code <= other
    assert edge_of(code) <= low
    assert low < edge_of(code + 1) or edge_of(code + 1) == sys.float_info.max
    if abs(low) > 1e-300:
        assert edge_of(code + 1) - edge_of(code) <= abs(low) / 64


@pytest.mark.parametrize("dtype", ["<u2", "<f4", "<f8"])
def test_sums_agree_with_numpy(dtype):
    """For typical numbers of patches, numpy agrees except for its own rounding."""
    numbers = (np.random.default_rng(1).gamma(2, 700, 300_000) - (12 if "f" in dtype else 0)).astype(dtype)
    mean, deviation = summed([numbers]).mean_and_deviation()
    assert mean == pytest.approx(numbers.astype(np.float64).mean(), rel=1e-13)
    assert deviation == pytest.approx(numbers.astype(np.float64).std(), rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("<f8", [2 - 2**-52, -(1 + 2**-52)]),
        ("<f8", [sys.float_info.max, -5e-324]),
        ("<f4", [3.4028234663852886e38, 1e-45]),
        ("<u2", [65535, 65534]),
        ("<i2", [-32768, 32767]),
        ("<i8", [-(2**63), 2**63 - 1]),
        ("<u8", [2**64 - 1, 2**64 - 2]),
    ],
)
def test_many_extreme_numbers_are_summed_exactly(dtype, values):
    """Nothing overflows and nothing is rounded, however many of the largest mantissas and integers there are."""
    numbers = np.array(values * 40_000, dtype)
    exact = [Fraction(number) for number in np.array(values, dtype).tolist()]
    assert_exact(summed([numbers]), exact * 40_000)


def test_numbers_of_any_bits_are_summed_exactly():
    """More numbers of all magnitudes than are summed at a time, and many of nearly the same magnitude."""
    rng = np.random.default_rng(1)
    numbers = rng.integers(-(2**63), 2**63, 40_000).view(np.float64)
    assert_exact(summed([numbers]), [Fraction(n) for n in numbers[np.isfinite(numbers)].tolist()])
    integers = 2**53 - rng.integers(1, 2**33, 200_000)
    assert_exact(summed([integers.astype(np.float64)]), integers.tolist())


@pytest.mark.parametrize("other", [-1.0, 0.0, 1.0])
def test_zeros_of_both_signs_are_one_number(other):
    """Neither extreme depends on which zero came first."""
    for zeros in ([0.0, -0.0], [-0.0, 0.0], [-0.0]):
        found = summed(np.array([other, zero], "<f4") for zero in zeros).extremes()
        assert repr(found) == repr((min(other, 0.0), max(other, 0.0)))


@pytest.mark.threat("T2")
def test_sums_take_five_megabytes():
    """For any numbers; usual bands take far less, with zeros and both signs."""
    worst = summed(np.arange(*ends).astype(dtype) for ends, dtype in (((-(2**15), 0), "<i2"), ((0, 2**16), "<u2")))
    for exponent in range(-1074, 1024):
        steps = np.ldexp(np.linspace(1, 2, 129)[:-1], exponent)
        worst.add(np.concatenate([steps, -steps]))
    assert len(pickle.dumps(worst)) < 5_000_000
    usual = np.random.default_rng(1).normal(-3, 5, 14400).astype("<f4")
    usual[0] = 0
    assert len(pickle.dumps(summed([usual]))) < 100_000


def test_the_histogram_of_a_band_has_about_so_many_bins():
    """Small ranges have a bin for each integer, large ones about 128 bins of whole numbers; so have floats."""
    grid = np.arange(14400).reshape(120, 120)
    found = counted(band_patch(few=(grid % 5).astype("<u2"), many=grid.astype("<u2"), db=(grid / -600).astype("<f4")))
    assert found.bands["few"].histogram.edges == (0, 1, 2, 3, 4, 5)
    assert found.bands["few"].histogram.counts == (2880,) * 5
    assert len(found.bands["many"].histogram.counts) <= BINS
    assert all(isinstance(edge, int) for edge in found.bands["many"].histogram.edges)
    histogram = found.bands["db"].histogram
    assert BINS / 2 < len(histogram.counts) <= BINS + 1
    counts = np.histogram((grid / -600).astype("<f4").astype(np.float64), histogram.edges)[0]
    assert tuple(counts.tolist()) == histogram.counts


def test_extreme_numbers_have_statistics():
    """The largest and smallest floats have finite, exact results; without finite numbers there are none."""
    top = sys.float_info.max
    found = counted(band_patch(a=np.array([[top, -top]]), b=np.array([[5e-324, 0.0]]), c=np.array([[np.nan, np.inf]])))
    assert (found.bands["a"].mean, found.bands["a"].std) == (0.0, top)
    assert (found.bands["b"].minimum, found.bands["b"].maximum) == (0.0, 5e-324)
    assert sum(found.bands["a"].histogram.counts) == sum(found.bands["b"].histogram.counts) == 2
    odd = found.bands["c"]
    assert (odd.count, odd.nan, odd.positive_infinite, odd.mean, odd.std, odd.histogram) == (0, 1, 1, None, None, None)
    json.dumps(to_json(found), allow_nan=False)
    assert plot_png(found).startswith(b"\x89PNG")


def test_integers_and_floats_of_one_band_add_up():
    """A band that is uint16 in one patch and float32 in another has one mean and one histogram, of floats."""
    found = counted(band_patch(a=np.array([[1, 4]], "<u2")), band_patch(a=np.array([[2.5, -1.5]], "<f4"))).bands["a"]
    assert (found.count, found.mean) == (4, 1.5)
    assert repr((found.minimum, found.maximum)) == "(-1.5, 4.0)"
    assert sum(found.histogram.counts) == 4
    integers = counted(band_patch(a=np.array([[1, 4]], "<u2"))).bands["a"]
    assert repr((integers.minimum, integers.maximum)) == "(1, 4)"


def test_labels_are_counted_by_patch():
    """However labels are kept, each counts once a patch; patches without them are counted too."""
    found = counted(
        make_patch(labels=["a", "b", "a"], new_labels=[]),
        make_patch(labels=("b",)),
        make_patch(labels=np.array(["b", "c"])),
        make_patch(labels={"c"}, other=["z"]),
        make_patch(labels="d"),
        make_patch(labels=7),
        make_patch(),
    )
    assert found.labels == {"labels": {"b": 3, "c": 2, "a": 1, "d": 1}, "new_labels": {}}
    assert list(found.labels["labels"]) == ["b", "c", "a", "d"]
    assert found.unlabelled == {"labels": 1, "new_labels": 6}
    assert counted(make_patch()).labels == {}


def test_bands_are_in_natural_order_and_classes_are_counted():
    """B8A is between B08 and B09, and S1 after S2."""
    found = counted(make_patch(BigEarthNet_S1_S2_Patch), make_patch())
    assert " ".join(found.bands) == "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12 VH VV"
    assert found.classes == {"BigEarthNet_S1_S2_Patch": 1, "BigEarthNet_S2_Patch": 1}
    radar = found.bands["VH"]
    assert (found.patches, found.bands["B02"].count) == (2, 2 * 14400)
    assert radar.count + radar.nan + radar.positive_infinite + radar.negative_infinite == 14400


@pytest.fixture
def database(tmp_path):
    """A database of some patches, more than one batch of them for two workers."""
    decibel = np.random.default_rng(1).normal(-12, 4, (5, 120, 120)).astype("<f4")
    records = {f"{n:04}".encode(): BigEarthNet_S1_Patch(decibel[n % 5], decibel[n % 4], labels=[str(n % 3)]).dumps()
               for n in range(300)}  # fmt: skip
    make_database(tmp_path / "db", records)
    return tmp_path / "db"


def test_workers_do_not_change_a_bit(database):
    """One process and several give the same statistics, and progress is reported to the end."""
    told = []
    one = stats(database, progress=lambda done, total: told.append((done, total)))
    for workers in (2, 3):
        assert repr(stats(database, workers=workers)) == repr(one)
    assert told == [(256, 300), (300, 300)]
    assert one.labels == {"labels": {"0": 100, "1": 100, "2": 100}}
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        stats(database, workers=0)


def fail(*_, **__):
    """Fail as the operating system does where there are too many open files."""
    raise OSError(24, os.strerror(24))


@pytest.mark.threat("T31")
def test_without_semaphores_one_process_does_it_all(database, monkeypatch):
    """As where nothing can be made in /dev/shm."""
    expected = repr(stats(database))
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", fail)
    assert repr(stats(database, workers=2)) == expected


@pytest.mark.threat("T31")
def test_a_worker_that_cannot_start_is_an_error(database, monkeypatch):
    """With the limit that was met."""
    multiprocessing.Lock()
    monkeypatch.setattr(multiprocessing.popen_spawn_posix.Popen, "_launch", fail)
    with pytest.raises(StoreError, match=r"a worker process could not be started: .*; raise the limit .*ulimit -n"):
        stats(database, workers=2)


def test_the_order_of_the_records_does_not_change_a_bit(tmp_path):
    """The same values under other keys, hence in another order and other batches, have the same JSON."""
    patches = [
        band_patch(VV=noise((9, 9), dtype, seed), B02=noise((9, 9), "<u2", seed))
        for seed, dtype in enumerate(["<f4", "<f8", "<f2", "<i4", "<u8"] * 60)
    ]
    patches += [make_patch(BigEarthNet_S1_Patch, labels=[str(n), "z"]) for n in range(5)]
    records = [patch.dumps() for patch in patches]
    found = []
    for order in (range(305), reversed(range(305)), np.random.default_rng(1).permutation(305)):
        path = tmp_path / f"{len(found)}"
        make_database(path, {f"{n:04}".encode(): records[place] for n, place in enumerate(order)})
        found.append(json.dumps(to_json(stats(path)) | {"database": ""}))
    assert found[0] == found[1] == found[2]


def test_real_data_agree_with_numpy(real_data):
    """Mean, deviation, extremes and histogram of the example patches are those that numpy finds."""
    path = real_data / "legacy" / "numpy2-pydantic2" / "s1_s2.lmdb"
    found = stats(path)
    with PatchReader(path) as reader:
        for name, band in found.bands.items():
            pixels = np.stack([patch.get_band_data_by_name(name) for patch in reader.values()]).astype(np.float64)
            assert (band.count, band.minimum, band.maximum) == (pixels.size, pixels.min(), pixels.max())
            assert (band.mean, band.std) == pytest.approx((pixels.mean(), pixels.std()), rel=1e-12)
            assert tuple(np.histogram(pixels, band.histogram.edges)[0].tolist()) == band.histogram.counts
        expected = {label for patch in reader.values() for label in patch.labels}
    assert set(found.labels["labels"]) == expected


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.threat("T1")
def test_a_refused_value_is_named_and_nothing_is_counted(tmp_path, workers):
    """A database with a hostile value has no statistics, from any process."""
    good = make_patch(BigEarthNet_S1_Patch).dumps()
    make_database(tmp_path / "db", {b"good": good, b"hostile": b"\x80\x04cposix\nsystem\n(S'touch canary'\ntR."})
    with pytest.raises(UnsafePickleError, match=r"at LMDB key b'hostile' in .*db"):
        stats(tmp_path / "db", workers=workers)
    make_database(tmp_path / "clean", {b"good": good})
    assert stats(tmp_path / "clean", workers=workers).patches == 1


def test_a_reader_brings_its_keys(tmp_path, database):
    """Statistics of verified patches only: an untagged database is refused, in workers as well."""
    with PatchReader(database, mac_key=MacKeySet(MacKey(bytes(32)))) as reader:
        for workers in (1, 2):
            with pytest.raises(TagMismatchError, match="at LMDB key b'0000'"):
                stats(reader, workers=workers)


def test_what_has_no_statistics_is_undecided(tmp_path):
    """An empty database, a missing one, and complex numbers are errors with a reason."""
    make_database(tmp_path / "empty", {})
    with pytest.raises(StoreError, match="empty, so there is nothing to count"):
        stats(tmp_path / "empty")
    with pytest.raises(StoreError, match="none"):
        stats(tmp_path / "none")
    patches = {kind: band_patch(x=np.zeros((2, 2), kind)).dumps() for kind in ("<c8", "<f4")}
    make_database(tmp_path / "complex", {b"c": patches["<c8"]})
    make_database(tmp_path / "float", {b"c": patches["<f4"]})
    with pytest.raises(StoreError, match=r"band x: numbers of dtype complex64 .*at LMDB key b'c'"):
        stats(tmp_path / "complex")
    assert stats(tmp_path / "float").bands["x"].count == 4


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    """The reader's judgement on names holds here too."""
    make_database(tmp_path / "db", {b"\xff": make_patch(BigEarthNet_S1_Patch).dumps()})
    with pytest.raises(PatchFormatError, match="not UTF-8"):
        stats(tmp_path / "db")


@pytest.mark.parametrize("lmdb_key", [b"9999", None], ids=["added", "replaced"])
def test_a_database_that_changes_meanwhile_has_no_statistics(database, lmdb_key):
    """A commit during the walk is noticed, also one that leaves the number of records as it was."""
    with PatchReader(database) as reader:
        more = {lmdb_key or next(iter(reader)).encode(): make_patch(BigEarthNet_S1_Patch).dumps()}
    with pytest.raises(StoreError, match="written to while it was counted"):
        stats(database, progress=lambda done, total: make_database(database, more))
    assert stats(database).patches


@pytest.mark.threat("T2")
def test_names_are_bounded(monkeypatch):
    """More labels or band names than any nomenclature has are refused, whole or in parts; as many as allowed pass."""
    monkeypatch.setattr(tally_module, "MAX_LABELS", 3)
    monkeypatch.setattr(tally_module, "MAX_BANDS", 12)
    tally, other = Tally(), Tally()
    tally.add(make_patch(labels=["a", "b", "c"]))
    other.add(make_patch(labels=["d"]))
    with pytest.raises(LimitExceededError, match="more than 3 different labels"):
        tally.merge(other)
    with pytest.raises(LimitExceededError, match="more than 12 different band names"):
        other.add(make_patch(BigEarthNet_S1_Patch))


@pytest.mark.threat("T2")
def test_labels_are_cut():
    """A label is cut to its first 500 characters, and shorter ones are kept."""
    found = counted(make_patch(labels=["x" * 10_000, "x" * 20_000, "y" * 500]), make_patch(labels=["x" * 500]))
    assert found.labels["labels"] == {"x" * 500: 2, "y" * 500: 1}


@pytest.mark.threat("T4")
def test_names_are_escaped_in_json_and_plot():
    """Control characters, other scripts and mathematics in names are shown as text."""
    patch = make_patch(BigEarthNet_S1_Patch, labels=["\x1b[31m\u202e", "$\\frac$", "x" * 5000])
    found = counted(patch, band_patch(**{"$\\frac$": np.zeros((2, 2), "<u2")}))
    labels = to_json(found)["labels"]["labels"]
    assert "\\x1b[31m\\u202e" in labels
    assert max(map(len, labels)) == 400
    assert plot_png(found).startswith(b"\x89PNG")


def test_without_matplotlib_the_error_names_it(monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="pip install matplotlib"):
        plot_png(counted(make_patch(BigEarthNet_S1_Patch)))
