"""``dtype="native"`` and ``Converter``: pixels as stored, later converted to the pixels of float32."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.utils.data import ConcatDataset, DataLoader, Subset  # noqa: E402

from ben_secure import BigEarthNet_S1_Patch, BigEarthNet_S2_Patch, PatchFormatError  # noqa: E402
from ben_secure.bands import BANDS  # noqa: E402
from ben_secure.batches import PatchArrays  # noqa: E402
from ben_secure.torch import Converter, PatchDataset, batch_loader, collate  # noqa: E402
from support.patch_databases import database, patches  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

COUNT = 7


@pytest.fixture(scope="module")
def merged():
    return patches(COUNT)


@pytest.fixture(scope="module")
def path(tmp_path_factory, merged):
    return database(tmp_path_factory.mktemp("convert") / "db", merged)


@pytest.fixture(scope="module")
def native(path):
    return PatchDataset(path, bands="all", dtype="native")


def stored(patch, name):
    part = patch.s1_patch if name in ("VV", "VH") else patch.s2_patch
    return getattr(part, BANDS[name].attribute).data


def test_bands_are_as_they_are_stored(path, native, merged):
    """By resolution, Sentinel-1 apart; from numpy and torch, one patch or several, in the order that was asked for."""
    wanted = {10: ("B08", "B02"), 20: ("B05",), "S1": ("VV",)}
    arrays = PatchArrays(path, bands=["VV", "B08", "B05", "B02"], dtype="native")
    images, labels = arrays[[1, 2]]
    assert labels.shape == (2, 19)
    assert list(images) == list(wanted)
    for key, names in wanted.items():
        assert images[key].dtype == (np.float32 if key == "S1" else np.uint16)
        for image, name in zip(images[key], (arrays.names[1], arrays.names[2]), strict=True):
            assert np.array_equal(image, np.stack([stored(merged[name], band) for band in names]))
    found, _ = native[[1, 2]]
    assert {key: (image.dtype, *image.shape) for key, image in found.items()} == {
        10: (torch.uint16, 2, 4, 120, 120), 20: (torch.uint16, 2, 6, 60, 60), 60: (torch.uint16, 2, 2, 20, 20),
        "S1": (torch.float32, 2, 2, 120, 120),
    }  # fmt: skip
    assert all(torch.equal(found[key][1], image) for key, image in native[2][0].items())
    outputs = [np.empty((1, *image.shape[1:]), image.dtype) for image in images.values()]
    arrays.fill(outputs, [2])
    assert all(np.array_equal(output[0], image[1]) for output, image in zip(outputs, images.values(), strict=True))
    with pytest.raises(ValueError, match="expected to fill uint16"):
        arrays.fill([output.astype(np.float32) for output in outputs], [2])


@pytest.mark.parametrize(
    "options",
    [
        {"bands": "all"},
        {"bands": "10m"},
        {"bands": "S1_10m_20m", "order": "configilm", "normalize": "reben"},
        {"bands": ["B12", "VV", "B01", "B02", "VH"], "normalize": "reben", "fill": 0.0},
        {"bands": "S2", "size": 64, "normalize": "reben"},
        {"bands": "S2", "resampling": "bilinear", "normalize": "reben"},
        {"bands": "all", "resampling": "bicubic-corners", "size": 128},
    ],
)
def test_converted_batches_are_those_of_float32(path, options):
    """They are equal bit for bit with nearest resampling, otherwise within rounding, in batches and single patches."""
    expected, _ = PatchDataset(path, **options)[:3]
    dataset = PatchDataset(path, **options, dtype="native")
    convert = Converter(dataset)
    found = convert(dataset[:3][0])
    assert found.dtype == torch.float32
    if "resampling" in options:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.1)
        torch.testing.assert_close(convert(dataset[2][0]), expected[2], rtol=1e-5, atol=0.1)
    else:
        assert torch.equal(found, expected)
        assert torch.equal(convert(dataset[2][0]), expected[2])


def test_sizes_may_stay(path):
    """Then the parts are converted where they are."""
    dataset = PatchDataset(path, bands="all", size=None, normalize="reben", dtype="native")
    expected, _ = PatchDataset(path, bands="S2", size=None, normalize="reben")[:2]
    found = Converter(dataset)(dataset[:2][0])
    assert list(found) == [10, 20, 60, "S1"]
    assert all(torch.equal(found[key], image) for key, image in expected.items())
    assert torch.equal(found["S1"], PatchDataset(path, bands="S1", normalize="reben")[:2][0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collation", [collate, None])
def test_any_loader_has_them(native, workers, collation):
    """They have the batch axis, from workers and from subsets."""
    ours = batch_loader(native, 3, num_workers=workers)
    plain = DataLoader(native, 3, collate_fn=collation, num_workers=workers)
    parts = DataLoader(ConcatDataset([Subset(native, [0, 1]), Subset(native, range(2, COUNT))]), 3, num_workers=workers)
    for loader in (ours, plain, parts):  # one at a time: the workers of all of them need many descriptors
        places = range(0, len(native), 3)
        for place, (images, _) in zip(places, loader, strict=True):
            for key, image in images.items():
                assert torch.equal(image, native[place : place + 3][0][key])


def test_a_dict_may_hold_them(path):
    """And a transform changes them."""
    dataset = PatchDataset(path, bands="10m", dtype="native", sample="dict", transform=lambda sample: {
        **sample, "image": {10: sample["image"][10].int().flip(-1)}})  # fmt: skip
    sample = next(iter(batch_loader(dataset, 2)))
    expected, _ = PatchDataset(path, bands="10m")[:2]
    assert torch.equal(Converter(dataset)(sample["image"]), expected.flip(-1))


def test_it_moves_to_a_device(native):
    """All buffers move, and nothing is added to a checkpoint; the test device has no memory at all."""
    dataset = PatchDataset(native.readers, bands="all", order="esa", normalize="reben", fill=0.0, dtype="native")
    convert = Converter(dataset).to("meta")
    found = convert({key: image.to("meta") for key, image in dataset[:2][0].items()})
    assert found.device.type == "meta"
    assert found.shape == (2, 14, 120, 120)
    assert not convert.state_dict()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_memory_may_be_pinned(native):
    """Where there is a device to pin it for; elsewhere the batches are the same."""
    expected = list(batch_loader(native, 3))
    for (images, labels), (wanted, wanted_labels) in zip(
        batch_loader(native, 3, pin_memory=True), expected, strict=True
    ):
        assert torch.equal(labels, wanted_labels)
        assert all(torch.equal(images[key], wanted[key]) for key in wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu(path):
    """Copied from pinned memory while the loop goes on, converted there: as on the processor, to its rounding."""
    options = {"bands": "all", "normalize": "reben"}
    dataset = PatchDataset(path, **options, dtype="native")
    convert = Converter(dataset).to("cuda")
    found = []
    for images, _ in batch_loader(dataset, 3, pin_memory=True):
        assert all(image.is_pinned() for image in images.values())
        found.append(convert({key: image.to("cuda", non_blocking=True) for key, image in images.items()}))
    torch.testing.assert_close(torch.cat(found).cpu(), PatchDataset(path, **options)[:][0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite(tmp_path, bad):
    """Are refused where they are read, or filled where they are converted."""
    radar = np.full((120, 120), -9, np.float32)
    radar[3, 4] = bad
    whole = np.full((120, 120), -9, np.float32)
    found = {
        "good": BigEarthNet_S1_Patch(bandVV=whole, bandVH=whole),
        "bad": BigEarthNet_S1_Patch(bandVV=radar, bandVH=whole),
    }
    path = database(tmp_path / "db", found)
    dataset = PatchDataset(path, bands="S1", labels=None, dtype="native")
    assert dataset[dataset.names.index("good")]["S1"].min() == -9
    with pytest.raises(PatchFormatError, match="1 pixels of VV are NaN or infinite"):
        dataset[dataset.names.index("bad")]
    for fill in (0.5, float("nan")):
        options = {"bands": "S1", "labels": None, "fill": fill, "normalize": "reben"}
        dataset = PatchDataset(path, **options, dtype="native")
        expected = PatchDataset(path, **options)[:]
        torch.testing.assert_close(Converter(dataset)(dataset[:]), expected, rtol=0, atol=0, equal_nan=True)


def test_what_the_type_cannot_hold_is_refused(tmp_path):
    """Fewer bits fit, more or a sign do not; as float32 all can be had."""
    sides = {"02": 120, "03": 120}
    values = {}
    for dtype in ("u1", "u2", "i2", "f4"):
        bands = {f"band{name}": np.full((side, side), 7, dtype) for name, side in sides.items()}
        rest = {band.attribute: np.zeros(band.shape, "u2") for band in BANDS.values()
                if band.sensor == "S2" and band.attribute.removeprefix("band") not in sides}  # fmt: skip
        values[dtype] = BigEarthNet_S2_Patch(**bands, **rest)
    path = database(tmp_path / "db", values)
    native = PatchDataset(path, bands="RGB", labels=None, dtype="native")
    converted = PatchDataset(path, bands="RGB", labels=None)
    for place, name in enumerate(native.names):
        assert converted[place].max() == 7
        if name in ("u1", "u2"):
            assert native[place][10].numpy().max() == 7
        else:
            with pytest.raises(PatchFormatError, match="which uint16 cannot hold; pass dtype='float32'"):
                native[place]


def test_arguments(path):
    """An unknown type, and a converter where there is nothing to convert."""
    with pytest.raises(ValueError, match="dtype must be one of float32, native, not 'uint16'"):
        PatchDataset(path, dtype="uint16")
    with pytest.raises(ValueError, match="converts the pixels itself"):
        Converter(PatchDataset(path))
