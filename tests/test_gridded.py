"""Patches as xarray Datasets: grids, coordinates, attributes; rioxarray reads the place back."""

import sys

import numpy as np
import pytest

from ben_secure import BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch, BigEarthNetPatch, MissingExtraError
from ben_secure.bands import BANDS
from ben_secure.patches import Band
from support.strategies import make_patch

PLACE = {"epsg": 32633, "bounds": [404400.0, 5341200.0, 405600.0, 5342400.0]}


def test_each_band_is_on_its_own_grid():
    """Dimensions by resolution, the middles of the pixels as coordinates, pixels that are the patch's own."""
    pytest.importorskip("xarray")
    codes = np.full((120, 120), 211, np.uint16)
    patch = make_patch(BigEarthNet_S1_S2_Patch, labels=["Pastures"], reference_map=codes, raw=b"x", **PLACE)
    dataset = patch.to_xarray()
    assert set(dataset.data_vars) == {*BANDS, "reference_map"}
    assert (dataset["reference_map"] == codes).all()
    for band in patch.bands:
        ending = {10: "", 20: "_20m", 60: "_60m"}[band.spatial_resolution]
        assert dataset[band.name].dims == (f"y{ending}", f"x{ending}")
        assert np.array_equal(dataset[band.name].values, band.data, equal_nan=band.data.dtype.kind == "f")
        assert np.shares_memory(dataset[band.name].values, band.data)
        half = band.spatial_resolution / 2
        assert (dataset[f"x{ending}"][[0, -1]] == [404400 + half, 405600 - half]).all()
        assert (dataset[f"y{ending}"][[0, -1]] == [5342400 - half, 5341200 + half]).all()
    assert dataset["spatial_ref"].attrs["spatial_ref"] == "EPSG:32633"
    assert dataset.attrs == {"labels": ["Pastures"], "epsg": 32633}


@pytest.mark.parametrize(
    "metadata",
    [{}, {"bounds": "x", "epsg": "32633"}, {"bounds": [1.0, 2.0, 1.0, 3.0]}, {"bounds": [0, 0, float("nan"), 1]}],
)
def test_without_a_place_there_are_no_coordinates(metadata):
    """Metadata that are missing or malformed give a Dataset without coordinates."""
    pytest.importorskip("xarray")
    dataset = make_patch(BigEarthNet_S2_Patch, **metadata).to_xarray()
    assert not dataset.coords
    assert dataset["B02"].shape == (120, 120)


def test_bands_of_any_shape_have_dimensions():
    """Bands of one resolution and different shapes get dimensions of their own."""
    pytest.importorskip("xarray")
    shapes = {"a": (4, 6), "b": (4, 5), "c": (2, 3), "d": (4, 6)}
    bands = [
        Band(name=name, spatial_resolution=10, data_shape=shape, data=np.zeros(shape, np.uint8))
        for name, shape in shapes.items()
    ]
    dataset = BigEarthNetPatch(bands=bands).to_xarray()
    assert {name: dataset[name].shape for name in shapes} == shapes
    assert dataset["a"].dims == dataset["d"].dims == ("y", "x")
    assert len({dataset[name].dims for name in "abc"}) == 3


@pytest.mark.filterwarnings("ignore")  # of the libraries, about themselves
def test_rioxarray_reads_the_place(tmp_path):
    """Bounds, system and pixels of every band survive the way to a GeoTIFF and back."""
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("rioxarray")
    patch = make_patch(BigEarthNet_S2_Patch, **PLACE)
    dataset = patch.to_xarray()
    for band in patch.bands:
        array = dataset[band.name]
        assert list(array.rio.bounds()) == PLACE["bounds"]
        assert array.rio.crs.to_epsg() == 32633
        array.rio.to_raster(tmp_path / "x.tif")
        with rasterio.open(tmp_path / "x.tif") as file:
            assert (list(file.bounds), file.crs.to_epsg()) == (PLACE["bounds"], 32633)
            assert file.res == (band.spatial_resolution, band.spatial_resolution)
            assert np.array_equal(file.read(1), band.data)


def test_xarray_is_an_extra(monkeypatch):
    """Without xarray the message names it."""
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(MissingExtraError, match="to_xarray needs xarray, which is"):
        make_patch(BigEarthNet_S2_Patch).to_xarray()
