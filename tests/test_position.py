"""Where a patch is and when it was taken: from GeoTIFF, label file and name."""

import base64
import json
import pathlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure.bands import BANDS
from ben_secure.encode.position import acquired_from_name, position_from_geotiff, position_from_label_file
from support.geotiffs import pixels, tiff

B01, B02 = BANDS["B01"], BANDS["B02"]
VECTORS = json.loads((pathlib.Path(__file__).parent / "vectors" / "geotiffs.json").read_text())["vectors"]
SCALE = {33550: ("d", [60.0, 60.0, 0.0])}
TIE = {33922: ("d", [0.0, 0.0, 0.0, 399960.0, 5300040.0, 0.0])}
BOUNDS = [399960.0, 5298840.0, 401160.0, 5300040.0]


def keys(**found):
    """A key directory of these keys."""
    codes = {"raster": 1025, "geographic": 2048, "projected": 3072}
    numbers = [number for name, value in found.items() for number in (codes[name], 0, 1, value)]
    return {34735: ("H", [1, 1, 0, len(found), *numbers])}


def place(**tags):
    """The metadata of a file of B01 with these fields."""
    fields = {}
    for part in tags.values():
        fields |= part
    return position_from_geotiff(tiff(pixels(B01), tags=fields), B01)


def test_gdal_writes_a_place_that_is_read():
    """Every file that GDAL wrote has the system and the bounds that it was given."""
    for entry in VECTORS:
        file = zlib.decompress(base64.b64decode(entry["file"]))
        assert position_from_geotiff(file, B01) == {"epsg": 32633, "bounds": BOUNDS}, entry["name"]


def test_rasterio_reads_the_same_place():
    """System and bounds are those that the installed rasterio reads."""
    rasterio = pytest.importorskip("rasterio")
    for entry in VECTORS:
        file = zlib.decompress(base64.b64decode(entry["file"]))
        with rasterio.MemoryFile(file) as memory, memory.open() as opened:
            expected = {"epsg": opened.crs.to_epsg(), "bounds": list(opened.bounds)}
        assert position_from_geotiff(file, B01) == expected


def test_forms_of_a_place():
    """Tie points, matrices, areas and points are read; rotated, mirrored, user-defined or missing ones are left out."""
    assert place(s=SCALE, t=TIE, k=keys(projected=32633)) == {"epsg": 32633, "bounds": BOUNDS}
    assert place(s=SCALE, t=TIE, k=keys(raster=1)) == {"bounds": BOUNDS}
    corner = {33922: ("d", [0.0, 0.0, 0.0, 399990.0, 5300010.0, 0.0])}
    assert place(s=SCALE, t=corner, k=keys(raster=2)) == {"bounds": BOUNDS}
    inside = {33922: ("d", [2.0, 1.0, 0.0, 400080.0, 5299980.0, 0.0])}
    assert place(s=SCALE, t=inside) == {"bounds": BOUNDS}
    matrix = [60.0, 0, 0, 399960.0, 0, -60.0, 0, 5300040.0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert place(m={34264: ("d", matrix)}) == {"bounds": BOUNDS}
    turned = [*matrix[:1], 0.5, *matrix[2:]]
    assert place(m={34264: ("d", turned)}) == {}
    assert place(s={33550: ("d", [60.0, -60.0, 0.0])}, t=TIE) == {}
    assert place(s=SCALE) == place(t=TIE) == place() == {}
    assert place(s=SCALE, t={33922: ("d", [float("inf")] * 6)}) == {}
    assert place(k=keys(geographic=4326)) == {"epsg": 4326}
    assert place(k=keys(projected=32767)) == place(k=keys(projected=0)) == place(k={34735: ("H", [1])}) == {}


WKT = 'PROJCS["WGS 84 / UTM zone 33N",GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]],AUTHORITY["EPSG","32633"]]'
DOCUMENT = {
    "coordinates": {"ulx": 404400, "uly": 5342400, "lrx": 405600, "lry": 5341200},
    "projection": WKT,
    "acquisition_date": "2017-06-13 10:10:31",
}
FOUND = {"epsg": 32633, "bounds": [404400.0, 5341200.0, 405600.0, 5342400.0], "acquired": "2017-06-13T10:10:31Z"}


def test_label_files_have_a_place():
    """Those of Sentinel-2, and of Sentinel-1, which name corner and time otherwise."""
    assert position_from_label_file(DOCUMENT) == FOUND
    corners = {"ulx": 404400, "uly": 5342400, "lrx": 405600, "lly": 5341200}
    s1 = {"coordinates": corners, "projection": WKT, "acquisition_time": "2017-06-13T10:10:31"}
    assert position_from_label_file(s1) == FOUND


@pytest.mark.parametrize(
    ("key", "value", "lost"),
    [
        ("projection", "x", "epsg"),
        ("projection", WKT + ",x", "epsg"),
        ("projection", 3, "epsg"),
        ("coordinates", {"ulx": 1}, "bounds"),
        ("coordinates", DOCUMENT["coordinates"] | {"ulx": "1"}, "bounds"),
        ("coordinates", DOCUMENT["coordinates"] | {"ulx": 10**400}, "bounds"),
        ("coordinates", DOCUMENT["coordinates"] | {"ulx": 405600}, "bounds"),
        ("coordinates", [1, 2], "bounds"),
        ("acquisition_date", "2017-06-31 10:10:31", "acquired"),
        ("acquisition_date", "yesterday at eight..", "acquired"),
        ("acquisition_date", 20170613, "acquired"),
    ],
)
def test_what_makes_no_sense_in_a_label_file_is_left_out(key, value, lost):
    """One of the three is lost by it, and the others stay."""
    assert position_from_label_file(DOCUMENT | {key: value}) == {name: FOUND[name] for name in FOUND if name != lost}


def test_names_have_a_time():
    """Names of v1 and v2; hours without a leading zero; only a date if there is no time; otherwise nothing."""
    for name, expected in (
        ("S2A_MSIL2A_20170613T101031_87_48", "2017-06-13T10:10:31Z"),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57", "2017-06-13T10:10:31Z"),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_87_48", "2017-06-13T16:50:43Z"),
        ("S2B_MSIL2A_20170924T93020_69_24", "2017-09-24T09:30:20Z"),
        ("S2B_MSIL2A_20180204T94161_57_38", "2018-02-04"),
    ):
        assert acquired_from_name(name) == {"acquired": expected}
    for name in ("S2A_MSIL2A_20171313T101031_87_48", "x", "S2A_MSIL2A_20170613", ""):
        assert acquired_from_name(name) == {}


@pytest.mark.threat("T15")
@given(st.data())
def test_any_fields_give_a_place_or_a_refusal(data):
    """Fields of any type and number give plain finite values or a ValueError, nothing else."""
    tags = {}
    for code in (33550, 33922, 34264, 34735):
        kind = data.draw(st.sampled_from("dHI"))
        values = st.floats() if kind == "d" else st.integers(0, 2**16 - 1)
        tags[code] = (kind, data.draw(st.lists(values, max_size=20)))
    try:
        found = position_from_geotiff(tiff(pixels(B01), tags=tags), B01)
    except ValueError:
        return
    assert found.keys() <= {"epsg", "bounds"}
    assert all(abs(edge) < float("inf") for edge in found.get("bounds", []))
