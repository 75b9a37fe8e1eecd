"""The input of encode: GeoTIFFs and label files."""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import pathlib
import random
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ben_secure.bands import BANDS
from ben_secure.encode.geotiff import Unknown, decode_band, unknown_pixels
from ben_secure.encode.labels import LabelFile, metadata_of, parse_label_file
from ben_secure.encode.position import position_from_geotiff
from ben_secure.labels.nomenclature import CORINE_43
from fuzz.target import Refusal, Target, mutate_bytes, mutate_json, odd_number, refusal
from support.geotiffs import tiff

_SPEC = BANDS["B01"]
_VECTORS = pathlib.Path(__file__).resolve().parents[1] / "vectors" / "geotiffs.json"
_KINDS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_LOSSLESS = (1, 5, 8, 32946, 32773, 34925, 50000)
_TAGS = (254, 256, 257, 258, 259, 266, 273, 277, 278, 279, 317, 322, 323, 324, 325, 339, 32998, 50674, 42113,
    33550, 33922, 34264, 34735)  # fmt: skip


# GeoTIFFs.


def _geotiff_seeds() -> list[bytes]:
    vectors = json.loads(_VECTORS.read_text())["vectors"]
    pixels = np.arange(400, dtype="u2").reshape(20, 20)
    place = {33550: ("d", [60.0, 60.0, 0.0]), 33922: ("d", [0.0, 0.0, 0.0, 399960.0, 5300040.0, 0.0])}
    keys = {34735: ("H", [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633])}
    own = [tiff(pixels, order=order, rows=rows) for order in "<>" for rows in (None, 7)]
    own += [
        tiff(pixels, tags=place | keys),
        tiff(pixels.astype("f4"), tags={42113: ("s", [b"-9999\0"])}),
        tiff(pixels, gap=3),
    ]
    return [zlib.decompress(base64.b64decode(entry["file"])) for entry in vectors] + own


def fields(data: bytes) -> list[tuple[int, str, bool]]:
    """Where the entries of all directories stand, the byte order, and whether it is BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    found: list[tuple[int, str, bool]] = []
    try:
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        for _ in range(5):
            (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
            start, step = (at + 8, 20) if big else (at + 2, 12)
            found += [(start + step * place, order, big) for place in range(min(count, 200))]
            (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, start + step * count)
            if not at:
                break
    except (struct.error, OverflowError):
        pass
    return [entry for entry in found if entry[0] + 20 <= len(data)]


def _mutate_geotiff(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    entries = fields(data)
    if not entries or rng.random() < 0.25:
        return mutate_bytes(rng, data, others)
    at, order, big = rng.choice(entries)
    code, kind = struct.unpack_from(order + "HH", data, at)
    wide, value_at = ("Q", at + 12) if big else ("I", at + 8)
    choice = rng.randrange(7)
    if choice == 0:
        form, where, new = "H", at, rng.choice(_TAGS)
    elif choice == 1:
        form, where, new = "H", at + 2, rng.choice((1, 2, 3, 4, 5, 11, 12, 16, 0, 99))
    elif choice == 2:
        form, where = wide, at + 4
        new = odd_number(rng, 8 * struct.calcsize(wide), struct.unpack_from(order + wide, data, where)[0])
    elif code in (259, 317) and choice < 6:
        form, where, new = "H", value_at, rng.choice((1, 2, 3, 5, 8, 32773, 34887, 34925, 50000, 32946, 7))
    else:
        form = _KINDS.get(kind, wide)
        (count,) = struct.unpack_from(order + wide, data, at + 4)
        where = value_at
        if count * struct.calcsize(form) > struct.calcsize(wide):
            (where,) = struct.unpack_from(order + wide, data, value_at)
            where += rng.randrange(min(count, 50)) * struct.calcsize(form)
        if where + struct.calcsize(form) > len(data):
            return mutate_bytes(rng, data, others)
        new = odd_number(rng, 8 * struct.calcsize(form), struct.unpack_from(order + form, data, where)[0])
    packed = struct.pack(order + form, new)
    return data[:where] + packed + data[where + len(packed) :]


@functools.cache
def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError:
        return None
    import logging

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


def _as_tifffile(data: bytes) -> Any:
    """Pixels as tifffile reads them, where it reads what GDAL reads: whole strips without LERC, none left out."""
    try:
        with _tifffile().TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            odd = page.bitspersample % 8 or page.compression not in _LOSSLESS
            if odd or page.nodata or not all(page.databytecounts) or page.fillorder != 1:
                return None
            return page.asarray()
    except Exception:  # it may not read what is read here
        return None


def _examine_geotiff(data: bytes, _: bytes) -> Refusal:
    """Pixels are the same each time and those of tifffile, where it has an opinion; a place is finite."""

    def accepted(pixels: Any) -> None:
        assert pixels.shape == _SPEC.shape
        assert pixels.dtype.byteorder in "<|="
        again = decode_band(data, _SPEC)
        assert again.dtype == pixels.dtype
        assert again.tobytes() == pixels.tobytes()
        if _tifffile() is not None and (theirs := _as_tifffile(data)) is not None and theirs.shape == pixels.shape:
            plain = theirs.astype(theirs.dtype.newbyteorder("<"))
            assert plain.dtype == pixels.dtype
            assert plain.tobytes() == pixels.tobytes(), "tifffile reads other pixels"
        refusal(lambda: unknown_pixels(data, pixels), lambda unknown: counted(unknown, pixels.size), ValueError)

    def counted(unknown: Unknown, size: int) -> None:
        assert 0 <= unknown.no_data <= size
        assert 0 <= unknown.not_finite <= size

    def placed(found: dict[str, Any]) -> None:
        assert found.keys() <= {"epsg", "bounds"}
        if "bounds" in found:
            left, bottom, right, top = found["bounds"]
            assert left < right, "the bounds have no width"
            assert bottom < top
            assert all(map(math.isfinite, found["bounds"]))

    refused = refusal(lambda: decode_band(data, _SPEC), accepted, ValueError)
    if refused is None:
        refusal(lambda: position_from_geotiff(data, _SPEC), placed, ValueError)
    return refused


# Label files.

_ACQUIRED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def _label_seeds() -> list[bytes]:
    corners = {"ulx": 600000.0, "uly": 5300040, "lrx": 601200, "lry": 5298840.0}
    projection = 'PROJCS["WGS 84 / UTM zone 33N",AUTHORITY["EPSG","32633"]]'
    documents: list[Any] = [
        {"labels": ["Pastures", "Peatbogs"], "corresponding_s2_patch": "S2", "projection": "x"},
        {"labels": list(CORINE_43)},
        {"labels": [], "coordinates": corners, "projection": projection, "acquisition_date": "2017-06-13 10:10:31"},
        {"labels": ["Airports"], "coordinates": {"lly": 1, **corners}, "acquisition_time": "2017-06-13T16:50:43"},
        {"labels": ["Pastures"], "acquisition_time": "2017-06-13T16+01:00"},
    ]
    return [json.dumps(document).encode() for document in documents]


def _examine_labels(content: bytes, _: bytes) -> Refusal:
    """Labels are of the 43, each once; place and time make sense; the same document spelled again says the same."""

    def accepted(found: LabelFile) -> None:
        assert set(found.labels) <= set(CORINE_43)
        assert len(set(found.labels)) == len(found.labels)
        position = found.position
        assert position.keys() <= {"epsg", "bounds", "acquired"}
        assert type(position.get("epsg", 4326)) is int
        bounds: Any = position.get("bounds", [0.0, 0.0, 1.0, 1.0])
        assert all(type(edge) is float and math.isfinite(edge) for edge in bounds)
        assert bounds[0] < bounds[2]
        assert bounds[1] < bounds[3]
        assert _ACQUIRED.fullmatch(str(position.get("acquired", "2017-06-13T16:50:43Z"))), position
        metadata = metadata_of(found, None, True)
        assert metadata["labels"] == found.labels
        spelled = json.dumps(json.loads(content), indent=3).encode()
        assert parse_label_file(spelled) == found

    return refusal(lambda: parse_label_file(content[: 64 * 2**10]), accepted, ValueError)


TARGETS = (
    Target("geotiff", _geotiff_seeds, _mutate_geotiff, _examine_geotiff, memory=2**26, seconds=2, needs="imagecodecs"),
    Target("labels", _label_seeds, mutate_json, _examine_labels),
)
