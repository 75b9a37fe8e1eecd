import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure.bands import BAND_CLASSES, BANDS, PIXEL_DTYPES, S1_BANDS, S2_BANDS, STORAGE_ORDER, natural_key
from support.strategies import band_names


def test_names_and_orders_are_as_published():
    """Natural order counts B8A between B08 and B09; storage order goes by resolution, then S1."""
    assert " ".join(band.name for band in S2_BANDS) == "B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"
    assert " ".join(band.name for band in S1_BANDS) == "VH VV"
    assert " ".join(band.name for band in STORAGE_ORDER) == "B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 B01 B09 VH VV"
    assert list(BANDS) == [band.name for band in STORAGE_ORDER]


@pytest.mark.parametrize(
    ("names", "resolution_m", "side", "band_class"),
    [
        ("B02 B03 B04 B08", 10, 120, "BenS2_10mBand"),
        ("B05 B06 B07 B8A B11 B12", 20, 60, "BenS2_20mBand"),
        ("B01 B09", 60, 20, "BenS2_60mBand"),
        ("VH VV", 10, 120, "BenS1_Band"),
    ],
)
def test_each_band_has_its_published_grid(names, resolution_m, side, band_class):
    """Every band covers 1200 m; the 60 m bands have 20 pixels a side, not 30."""
    assert [spec.name for spec in BAND_CLASSES[band_class]] == names.split()
    for spec in BAND_CLASSES[band_class]:
        assert (spec.resolution_m, spec.shape, spec.band_class) == (resolution_m, (side, side), band_class)
        assert spec.resolution_m * spec.side == 1200


def test_attributes_are_the_originals_arguments():
    """B02 is band02, B8A is band8A, VV is bandVV."""
    assert [BANDS[name].attribute for name in ("B02", "B8A", "B12", "VV")] == ["band02", "band8A", "band12", "bandVV"]


def test_tables_cannot_be_changed():
    """Neither a row nor a table takes an assignment."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        S1_BANDS[0].side = 1
    for table in (BANDS, BAND_CLASSES):
        with pytest.raises(TypeError, match="does not support item assignment"):
            table["B10"] = S1_BANDS[0]


def test_pixel_dtypes_are_the_fixed_size_numbers_in_both_byte_orders():
    """They are integers of 1 to 8 bytes, floats of 2 to 8 and complex numbers of 8 and 16, in numpy's notation."""
    codes = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
    assert {np.dtype(order + code).str for order in "<>" for code in codes} == PIXEL_DTYPES
    for other in ("?", "O", "S1", "U1", "M8[s]", "m8[s]", "g", "G", "V2", "u2,u2"):
        assert np.dtype(other).str not in PIXEL_DTYPES


@pytest.mark.parametrize(
    ("given_order", "sorted_order"),
    [
        ("VV B12 B8A B09 B08 B01 VH", "B01 B08 B8A B09 B12 VH VV"),
        ("B10 B9 B2", "B2 B9 B10"),
        ("B08 B8", "B08 B8"),
        ("B8 B08", "B8 B08"),
        ("B08A B8A B8 B9", "B8 B08A B8A B9"),
        ("a B 01 B1.5 b10 B01a B1 A", "01 A B B1 B1.5 B01a a b10"),
    ],
)
def test_natural_order(given_order, sorted_order):
    """The order of natsort.natsorted on the same names, equal keys keeping theirs."""
    assert sorted(given_order.split(), key=natural_key) == sorted_order.split()


@given(st.lists(band_names(), max_size=6))
def test_any_names_can_be_sorted(names):
    """Keys of any two names compare, a longer name comes after its beginning, leading zeros do not matter."""
    assert len(sorted(names, key=natural_key)) == len(names)
    for name in names:
        assert natural_key(name) <= natural_key(name + "x")
        assert natural_key(f"x7{name}".replace("7", "007", 1)) == natural_key(f"x7{name}")
