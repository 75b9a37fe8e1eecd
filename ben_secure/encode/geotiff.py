"""Decode the pixels of one band of a GeoTIFF file, exactly as they are stored.

The file is untrusted. Its fields (``directory``) are compared with the band tables before any pixel is decoded.
Uncompressed pixels are used in place. Compressed pixels are unpacked by imagecodecs (``unpack``) with a bound on the
size of each strip or tile, so a file cannot make the encoder use more memory than its band needs. Lossy schemes are
refused. Overviews and masks are skipped. Values are never scaled. The no-data value is used only to fill tiles that are
left out of the file. The pixels equal those that rasterio reads.
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
"""Maximum size of a file. A band of complex128 at 10 m has 230,400 bytes, and georeferencing a few hundred."""

_MAX_TILE_PIXELS = 2**20  # by default GDAL's tiles have 256 rows and columns, and tiles of COG 512

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
    """How the image is cut into strips or tiles.

    Attributes:
        rows: Rows of a strip or tile. The last strip may have fewer.
        columns: Columns of a strip or tile.
        tiled: Whether these are tiles, which have their full size even at the edge of the image.
    """

    rows: int
    columns: int
    tiled: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """Unknown pixels of one band.

    Attributes:
        no_data: Number of pixels with the no-data value of the file.
        not_finite: Number of other pixels that are NaN or infinite.
        masked: Whether the file has a mask, which is not evaluated.
    """

    no_data: int
    not_finite: int
    masked: bool

    def __bool__(self) -> bool:
        return bool(self.no_data or self.not_finite or self.masked)


def decode_band(content: bytes, spec: BandSpec) -> PixelArray:
    """Decode the pixels of a GeoTIFF file.

    Args:
        content: The whole file (untrusted).
        spec: The expected band.

    Returns:
        Array of ``spec.shape`` with the values as stored, in the stored dtype converted to little-endian. Bit-packed
        pixels get the next larger dtype.

    Raises:
        ValueError: The file is not a TIFF of one band, is damaged or lossily compressed, or has another shape or dtype.
        MissingExtraError: The file is compressed and imagecodecs is not installed.
    """
    directory = first_directory(content)
    for further in further_directories(directory):
        if further.integer(_SUBFILE_TYPE, 0) not in (_REDUCED, _MASK, _REDUCED | _MASK):
            raise ValueError("it has more than one image, expected one image with at most overviews and masks")
    packing = _packing(directory, spec)
    grid = _grid(directory, spec)
    extents = _extents(directory, grid, spec, len(content))
    if packing.raw and not grid.tiled and all(count for _, count in extents):
        return _stored(content, spec, extents, grid.rows, packing.dtype)
    return _decoded(content, spec, grid, extents, packing, _fill(directory, packing.dtype))


def unknown_pixels(content: bytes, pixels: PixelArray) -> Unknown:
    """Count the unknown pixels of a file.

    Args:
        content: The file.
        pixels: Its pixels, from ``decode_band``.

    Returns:
        The counts.

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
    not_finite = 0
    if pixels.dtype.kind in "fc":
        not_finite = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
        not_finite -= missing if number is not None and not math.isfinite(number) else 0
    return Unknown(missing, not_finite, masked)


def _no_data(directory: Directory) -> float | int | None:
    """Return the no-data value in GDAL's field, or None if the field is missing or is not a number."""
    text = (directory.text(_NO_DATA) or "").strip()
    try:
        return int(text) if text.lstrip("+-").isdecimal() and len(text) < 24 else float(text)
    except ValueError:
        return None


def _as_pixel(number: float, dtype: np.dtype[Any]) -> Any:
    """Convert a number into a pixel. Return None if the dtype cannot represent it."""
    if dtype.kind in "fc":
        with np.errstate(over="ignore"):
            return dtype.type(number)
    bounds = np.iinfo(dtype)
    whole = math.isfinite(number) and number == int(number) and bounds.min <= number <= bounds.max
    return dtype.type(int(number)) if whole else None


def _fill(directory: Directory, dtype: np.dtype[Any]) -> Any:
    """Return the pixel for tiles that are left out: the no-data value, clipped to the dtype, or 0 (as GDAL)."""
    number = _no_data(directory)
    if number is None or (math.isnan(number) and dtype.kind not in "fc"):
        return dtype.type(0)
    if dtype.kind in "fc":
        return _as_pixel(number, dtype)
    bounds = np.iinfo(dtype)
    return dtype.type(round(min(max(number, int(bounds.min)), int(bounds.max))))


def _packing(directory: Directory, spec: BandSpec) -> Packing:
    """Compare the fields of the file with the band tables, and return how the pixels are stored."""
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
        raise ValueError(
            f"its pixels have {bits} bits of sample format {sample_format}, expected integer, floating-point or "
            "complex pixels of a usual size"
        )
    if directory.integer(_FILL_ORDER, 1) != 1:
        raise ValueError("its bits are in reversed order, expected the usual order (FillOrder 1)")
    scheme = directory.integer(_COMPRESSION, NONE)
    predictor = directory.integer(_PREDICTOR, 1)
    extra = directory.integers(_LERC_PARAMETERS)[1:2] if scheme == LERC else ()
    packing = Packing(np.dtype(directory.order + name), bits, scheme, predictor, extra[0] if extra else 0)
    check_scheme(packing)
    return packing


def _grid(directory: Directory, spec: BandSpec) -> _Grid:
    tiled = any(code in directory for code in (_TILE_COLUMNS, _TILE_ROWS, _TILE_OFFSETS, _TILE_BYTES))
    if tiled and (_STRIP_OFFSETS in directory or _STRIP_BYTES in directory):
        raise ValueError(
            "it has strips and tiles, so readers differ about its pixels (TIFF 6.0, section 15, forbids it)"
        )
    if tiled:
        grid = _Grid(directory.integer(_TILE_ROWS, 0), directory.integer(_TILE_COLUMNS, 0), True)
    else:
        grid = _Grid(min(directory.integer(_STRIP_ROWS, _ALL_ROWS), spec.side), spec.side, False)
    if min(grid.rows, grid.columns) < 1 or directory.integer(_TILE_DEPTH, 1) != 1:
        raise ValueError("its strips or tiles have no pixels, or more than one plane")
    # A tile has its full size even at the edge of the image, so it may be larger than the image.
    if grid.rows * grid.columns > _MAX_TILE_PIXELS:
        raise ValueError(
            f"its tiles have {grid.rows} rows and {grid.columns} columns, expected at most {_MAX_TILE_PIXELS} pixels"
        )
    return grid


def _extents(directory: Directory, grid: _Grid, spec: BandSpec, file_bytes: int) -> list[tuple[int, int]]:
    """Return offset and size of each strip or tile, checked against the file. A size of 0 means that it is left out."""
    codes = (_TILE_OFFSETS, _TILE_BYTES) if grid.tiled else (_STRIP_OFFSETS, _STRIP_BYTES)
    offsets, counts = map(directory.integers, codes)
    expected = -(-spec.side // grid.rows) * -(-spec.side // grid.columns)
    if not len(offsets) == len(counts) == expected:
        raise ValueError(f"it has {len(offsets)} pieces of pixels and {len(counts)} lengths, expected {expected} each")
    if any(bool(offset) != bool(count) for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("one of its strips or tiles has an offset but no bytes, or bytes but no offset")
    if any(offset + count > file_bytes for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("it is truncated: pixels lie beyond its end")
    if sum(counts) > file_bytes:
        raise ValueError("its strips or tiles overlap")
    return list(zip(offsets, counts, strict=True))


def _stored(
    content: bytes, spec: BandSpec, extents: list[tuple[int, int]], strip_rows: int, dtype: np.dtype[Any]
) -> PixelArray:
    """Return the pixels of uncompressed strips. If the strips are contiguous, this is a view of the file."""
    row_bytes = spec.side * dtype.itemsize
    left = spec.side
    first = end = extents[0][0]
    contiguous = True
    for offset, count in extents:
        rows = min(strip_rows, left)
        if count != rows * row_bytes:
            raise ValueError(f"a strip of {rows} rows has {count} bytes, expected {rows * row_bytes}")
        contiguous &= offset == end
        end = offset + count
        left -= rows
    if not contiguous:
        content = b"".join([content[offset : offset + count] for offset, count in extents])
    pixels: PixelArray = np.ndarray(spec.shape, dtype, content, first if contiguous else 0)
    return pixels.astype(dtype.newbyteorder("<"), copy=False)


def _decoded(
    content: bytes, spec: BandSpec, grid: _Grid, extents: list[tuple[int, int]], packing: Packing, fill: Any
) -> PixelArray:
    """Decode strips or tiles that are compressed, bit-packed or left out."""
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
