"""Writes ``geotiffs.json``: small files of band B01 as GDAL writes them, and the pixels that rasterio reads from them.

Needs rasterio (``pip install rasterio``); the tests do not.
"""

import base64
import json
import pathlib
import tempfile
import warnings
import zlib

import numpy as np
import rasterio
from rasterio.transform import from_origin

SIDE = 20
TILES = {"tiled": True, "blockxsize": 16, "blockysize": 16}
FULL = np.add.outer(np.arange(SIDE) * 7, np.arange(SIDE) % 5)
HOLED = FULL.astype("f4") / 8 - 12
HOLED[3:5] = np.nan
HOLED[7, 7] = -np.inf


def variants():
    """Name, pixels, options of the driver, and the later steps."""
    yield "overviews", FULL.astype("u2"), {}, {"overviews": True}
    yield "mask", FULL.astype("u2"), {"nodata": 7}, {"mask": True}
    yield "mask and overviews", FULL.astype("u2"), {"compress": "DEFLATE"}, {"mask": True, "overviews": True}
    for kind in ("u2", "i4", "u8", "f4", "f8", "c8"):
        for order in ("LITTLE", "BIG"):
            options = {"compress": "DEFLATE", "predictor": 2, "endianness": order}
            yield f"predictor 2 on {kind}, {order}", FULL.astype(kind), options, {}
    for kind in ("f4", "f8"):
        for order in ("LITTLE", "BIG"):
            options = {"compress": "LZW", "predictor": 3, "endianness": order, **TILES}
            yield f"predictor 3 on {kind}, {order}", FULL.astype(kind) / 8, options, {}
    for no_data in (None, 0, 65535):
        for compress in ({}, {"compress": "ZSTD"}):
            options = {"sparse_ok": True, **TILES, **compress} | ({} if no_data is None else {"nodata": no_data})
            yield f"sparse tiles, no-data {no_data}, {compress}", FULL.astype("u2"), options, {"corner": True}
    yield "sparse tiles of NaN", HOLED, {"sparse_ok": True, "nodata": float("nan"), **TILES}, {"corner": True}
    yield "no strip at all", FULL.astype("u2"), {"sparse_ok": True, "nodata": 3}, {"corner": None}
    for inner in ("", "_DEFLATE", "_ZSTD"):
        for kind in ("u1", "u2", "f4"):
            yield f"LERC{inner} of {kind}", FULL.astype(kind), {"compress": "LERC" + inner, **TILES}, {}
        yield f"LERC{inner} of NaN", HOLED, {"compress": "LERC" + inner}, {}
    for bits, kind in ((1, "u1"), (5, "u1"), (12, "u2"), (15, "u2"), (20, "u4")):
        for compress in ({}, {"compress": "DEFLATE", **TILES}):
            yield f"{bits} bits, {compress}", (FULL % 2**bits).astype(kind), {"nbits": bits, **compress}, {}
    yield "half precision", FULL.astype("f4") / 8, {"nbits": 16}, {}
    yield "COG", FULL.astype("u2"), {"driver": "COG", "blocksize": 16}, {"mask": True}
    yield (
        "COG of one large block",
        HOLED,
        {"driver": "COG", "blocksize": 512, "compress": "LZW", "predictor": "YES"},
        {},
    )
    yield "BigTIFF", FULL.astype("u2"), {"bigtiff": "YES", "compress": "DEFLATE"}, {"overviews": True}


def write(path, pixels, options, more):
    """Write one file as GDAL does."""
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 1, "dtype": pixels.dtype} | options
    profile |= {"crs": "EPSG:32633", "transform": from_origin(399960, 5300040, 60, 60)}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile) as file:
        corner = more.get("corner", False)
        if corner:
            file.write(pixels[:16, :16], 1, window=((0, 16), (0, 16)))
        elif corner is False:
            file.write(pixels, 1)
        if more.get("mask"):
            file.write_mask(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) > 30)
    if more.get("overviews"):
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])


def packed(data):
    """Bytes as text."""
    return base64.b64encode(zlib.compress(data, 9)).decode()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    vectors = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, pixels, options, more) in enumerate(variants()):
            path = pathlib.Path(folder) / f"{number}.tif"
            write(path, pixels, options, more)
            with rasterio.open(path) as file:
                read = file.read(1)
            if name == "half precision":  # rasterio widens the values of the file
                read = read.astype("f2")
            vectors.append({"name": name, "file": packed(path.read_bytes()), "dtype": read.dtype.str})
            vectors[-1] |= {"pixels": packed(read.tobytes())}
    document = {"source": f"rasterio {rasterio.__version__}, GDAL {rasterio.__gdal_version__}", "vectors": vectors}
    (pathlib.Path(__file__).parent / "geotiffs.json").write_text(json.dumps(document, indent=1) + "\n")
