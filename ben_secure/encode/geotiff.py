"""The pixels of one band of a GeoTIFF file: exactly those that are stored, or a refusal that says what is wrong.

The file is untrusted. What it says about itself (``directory``) is compared with the band tables before a pixel is
decoded. Stored pixels are taken from where they lie. Compressed ones are unpacked by imagecodecs (``unpack``) into no
more than a strip or tile must have, so that no file can make the encoder take more memory than its band needs; lossy
schemes are refused. Overviews and masks are passed over. Values are never scaled, and what a file says about no-data is
not applied, but where a tile is left out because it has nothing else. The pixels are those that rasterio reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.bands import PIXEL_DTYPES, BandSpec
from ben_secure.encode.directory import Directory, first_directory, further_directories
from ben_secure.encode.unpack import LERC, NONE, Packing, check_scheme, unpack

if TYPE_CHECKING:
    from ben_secure.patches.layout import PixelArray

MAX_FILE_BYTES = 4 * 2**20
"""Bytes of one file; a band of complex128 at 10 m takes 230,400, and georeferencing a few hundred."""

_MAX_TILE_PIXELS = 2**20  # GDAL's tiles have 256 rows and columns unless it is asked for others, and those of COG 512

# Fields of TIFF 6.0, of its supplements and of GDAL.
_SUBFILE_TYPE, _COLUMNS, _ROWS, _BITS, _COMPRESSION = 254, 256, 257, 258, 259
_FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES = 266, 273, 277, 278, 279
_PREDICTOR, _TILE_COLUMNS, _TILE_ROWS, _TILE_OFFSETS, _TILE_BYTES = 317, 322, 323, 324, 325
_SAMPLE_FORMAT, _TILE_DEPTH, _LERC_PARAMETERS, _NO_DATA = 339, 32998, 50674, 42113
_ALL_ROWS = 2**32 - 1
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_KINDS = {1: "u", 2: "i", 3: "f", 6: "c"}  # of SampleFormat: unsigned, signed, floating point, complex


@dataclass(frozen=True, slots=True)
class _Grid:
    """How the pixels are cut into strips or tiles.

    Attributes:
        rows: Rows of each; the last strip may have fewer.
        columns: Columns of each.
        tiled: Whether they are tiles, which are whole even where the image ends.
    """

    rows: int
    columns: int
    tiled: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """Pixels of one band of which the file says, or their value shows, that nothing is known there.

    Attributes:
        no_data: Pixels that have the file's no-data value.
        not_finite: Other pixels that are NaN or infinite.
        masked: Whether the file has a mask of its own, which is not looked at.
    """

    no_data: int
    not_finite: int
    masked: bool

    def __bool__(self) -> bool:
        return bool(self.no_data or self.not_finite or self.masked)


def decode_band(content: bytes, spec: BandSpec) -> PixelArray:
    """Take the pixels out of a GeoTIFF file.

    Args:
        content: The whole file; hostile.
        spec: The band that it is to be.

    Returns:
        Array of ``spec.shape``, in the stored dtype (little-endian whatever the file's order, the next larger one if
        pixels have an odd number of bits), values as stored.

    Raises:
        ValueError: The file is no TIFF of one band, misshapen, of another dtype, damaged, or compressed lossily.
        MissingExtraError: The file is compressed and imagecodecs is not installed.
    """
    directory = first_directory(content)
    for further in further_directories(directory):
        if further.integer(_SUBFILE_TYPE, 0) not in (_REDUCED, _MASK, _REDUCED | _MASK):
            raise ValueError("it has more than one image, expected 1 with overviews and masks at most")
    packing = _packing(directory, spec)
    grid = _grid(directory, spec)
    extents = _extents(directory, grid, spec, len(content))
    if packing.plain and not grid.tiled and all(count for _, count in extents):
        return _stored(content, spec, extents, grid.rows, packing.dtype)
    return _decoded(content, spec, grid, extents, packing, _fill(directory, packing.dtype))


def unknown_pixels(content: bytes, pixels: PixelArray) -> Unknown:
    """Count the pixels of a file about which nothing is known.

    Args:
        content: The file.
        pixels: What ``decode_band`` has made of it.

    Returns:
        The numbers.

    Raises:
        ValueError: As ``decode_band``.
    """
    directory = first_directory(content)
    masked = any(further.integer(_SUBFILE_TYPE, 0) & _MASK for further in further_directories(directory))
    number = _no_data(directory)
    missing = 0
    if number is not None:
        if math.isnan(number):
            missing = int(np.count_nonzero(np.isnan(pixels)))
        elif (value := _as_pixel(number, pixels.dtype)) is not None:
            missing = int(np.count_nonzero(pixels == value))
    odd = 0
    if pixels.dtype.kind in "fc" and (odd := pixels.size - int(np.count_nonzero(np.isfinite(pixels)))):
        odd -= missing if number is not None and not math.isfinite(number) else 0
    return Unknown(missing, odd, masked)


def _no_data(directory: Directory) -> float | int | None:
    """Return the number in GDAL's field; None if the field is missing or is not a number."""
    text = (directory.text(_NO_DATA) or "").strip()
    try:
        return int(text) if text.lstrip("+-").isdecimal() and len(text) < 24 else float(text)
    except ValueError:
        return None


def _as_pixel(number: float, dtype: np.dtype[Any]) -> Any:
    """The pixel that has a value; None if no pixel of the dtype has it."""
    if dtype.kind in "fc":
        with np.errstate(over="ignore"):
            return dtype.type(number)
    bounds = np.iinfo(dtype)
    whole = math.isfinite(number) and number == int(number) and bounds.min <= number <= bounds.max
    return dtype.type(int(number)) if whole else None


def _fill(directory: Directory, dtype: np.dtype[Any]) -> Any:
    """The value of pixels in tiles that are left out: no-data, as near to it as the dtype has one, or 0 (GDAL)."""
    number = _no_data(directory)
    if number is None or (math.isnan(number) and dtype.kind not in "fc"):
        return dtype.type(0)
    if dtype.kind in "fc":
        return _as_pixel(number, dtype)
    bounds = np.iinfo(dtype)
    return dtype.type(round(min(max(number, int(bounds.min)), int(bounds.max))))


def _packing(directory: Directory, spec: BandSpec) -> Packing:
    """Compare what the file says about its pixels with the band tables; returns how they are stored."""
    samples = directory.integer(_SAMPLES, 1)
    if samples != 1:
        raise ValueError(f"it has {samples} bands, expected 1")
    bits = directory.integer(_BITS, 1)
    columns, rows = directory.integer(_COLUMNS, 0), directory.integer(_ROWS, 0)
    if (rows, columns) != spec.shape:
        raise ValueError(f"it has {rows} rows and {columns} columns, expected {spec.side} of each")
    sample_format = directory.integer(_SAMPLE_FORMAT, 1)
    kind = _KINDS.get(sample_format, "")
    whole_bits = bits
    if kind == "u" and bits < 32:
        whole_bits = next(size for size in (8, 16, 32) if bits <= size)
    name = f"{kind}{whole_bits // 8}"
    if not bits or whole_bits % 8 or f"<{name}" not in PIXEL_DTYPES | {"<u1", "<i1"}:
        raise ValueError(f"its pixels have {bits} bits of sample format {sample_format}, which is no dtype of a band")
    if directory.integer(_FILL_ORDER, 1) != 1:
        raise ValueError("its bits are in reversed order, which no band's are")
    scheme = directory.integer(_COMPRESSION, NONE)
    predictor = directory.integer(_PREDICTOR, 1)
    extra = directory.integers(_LERC_PARAMETERS)[1:2] if scheme == LERC else ()
    packing = Packing(np.dtype(directory.order + name), bits, scheme, predictor, extra[0] if extra else 0)
    check_scheme(packing)
    return packing


def _grid(directory: Directory, spec: BandSpec) -> _Grid:
    tiled = _TILE_COLUMNS in directory or _TILE_OFFSETS in directory
    if tiled:
        grid = _Grid(directory.integer(_TILE_ROWS, 0), directory.integer(_TILE_COLUMNS, 0), True)
    else:
        grid = _Grid(min(directory.integer(_STRIP_ROWS, _ALL_ROWS), spec.side), spec.side, False)
    if min(grid.rows, grid.columns) < 1 or directory.integer(_TILE_DEPTH, 1) != 1:
        raise ValueError("it has no pixels, or more than a plane of them")
    # Tiles are whole even where the image ends, and so may be larger than it; but not so large as to be a bomb.
    if grid.rows * grid.columns > _MAX_TILE_PIXELS:
        raise ValueError(f"its tiles have {grid.rows} rows and {grid.columns} columns, more than such an image needs")
    return grid


def _extents(directory: Directory, grid: _Grid, spec: BandSpec, file_bytes: int) -> list[tuple[int, int]]:
    """Where each strip or tile lies in the file: offset and bytes, in bounds; no bytes for what is left out."""
    codes = (_TILE_OFFSETS, _TILE_BYTES) if grid.tiled else (_STRIP_OFFSETS, _STRIP_BYTES)
    offsets, counts = map(directory.integers, codes)
    expected = -(-spec.side // grid.rows) * -(-spec.side // grid.columns)
    if not len(offsets) == len(counts) == expected:
        raise ValueError(f"it has {len(offsets)} pieces of pixels and {len(counts)} lengths, expected {expected} each")
    if any(bool(offset) != bool(count) for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("a strip or tile of its pixels has an offset and no bytes, or bytes and no offset")
    if any(offset + count > file_bytes for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("it is truncated: pixels lie behind its end")
    if sum(counts) > file_bytes:
        raise ValueError("its strips or tiles overlap")
    return list(zip(offsets, counts, strict=True))


def _stored(
    content: bytes, spec: BandSpec, extents: list[tuple[int, int]], strip_rows: int, dtype: np.dtype[Any]
) -> PixelArray:
    """Pixels of strips that are not compressed: a view of the file if they lie end to end, as they mostly do."""
    row_bytes = spec.side * dtype.itemsize
    left = spec.side
    first = end = extents[0][0]
    together = True
    for offset, count in extents:
        rows = min(strip_rows, left)
        if count != rows * row_bytes:
            raise ValueError(f"a strip of {rows} rows has {count} bytes, expected {rows * row_bytes}")
        together &= offset == end
        end = offset + count
        left -= rows
    if not together:
        content = b"".join([content[offset : offset + count] for offset, count in extents])
    pixels: PixelArray = np.ndarray(spec.shape, dtype, content, first if together else 0)
    return pixels.astype(dtype.newbyteorder("<"), copy=False)


def _decoded(
    content: bytes, spec: BandSpec, grid: _Grid, extents: list[tuple[int, int]], packing: Packing, fill: Any
) -> PixelArray:
    """Pixels of strips or tiles that are compressed, packed or left out."""
    pixels: PixelArray = np.full(spec.shape, fill, packing.dtype.newbyteorder("<"))
    for (top, left), (offset, count) in zip(_corners(grid, spec.side), extents, strict=True):
        if count:
            area = pixels[top : top + grid.rows, left : left + grid.columns]
            rows = grid.rows if grid.tiled else len(area)
            block = unpack(content[offset : offset + count], packing, (rows, grid.columns))
            area[:] = block[: area.shape[0], : area.shape[1]]
    return pixels


def _corners(grid: _Grid, side: int) -> Iterator[tuple[int, int]]:
    for top in range(0, side, grid.rows):
        for left in range(0, side, grid.columns):
            yield top, left
