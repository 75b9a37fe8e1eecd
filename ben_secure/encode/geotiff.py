"""The pixels of one band of a GeoTIFF file: exactly those that are stored, or a refusal that says what is wrong.

The file is untrusted: it must hold one image of the shape that the band tables say, its pixels of a dtype that a band
may have, and everything is checked from the header (``_tiff``) before a pixel is decoded, so that no file can make
the encoder take more memory than its band needs. Stored pixels are taken as they are; Deflate is decompressed by the
standard library, other schemes by imagecodecs, which is imported for them only; lossy ones are refused. Values are
never scaled, and what a file says about no-data or colour is not applied.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.bands import PIXEL_DTYPES, BandSpec
from ben_secure.encode._tiff import TiffHeader, read_header
from ben_secure.errors import MissingExtraError, printable

if TYPE_CHECKING:
    from ben_secure.layouts import PixelArray

MAX_FILE_BYTES = 4 * 2**20
"""Bytes of one file; a band of complex128 at 10 m takes 230,400, and georeferencing a few hundred."""

_NONE = 1
_DEFLATE = frozenset({8, 32946})  # Adobe's and the older number of the same thing
# Numbers of TIFF 6.0 and of libtiff's tiff.h, with imagecodecs' name of what undoes them.
_CODECS = {5: "lzw_decode", 32773: "packbits_decode", 34925: "lzma_decode", 50000: "zstd_decode"}


def decode_band(content: bytes, spec: BandSpec) -> PixelArray:
    """Take the pixels out of a GeoTIFF file.

    Args:
        content: The whole file; hostile.
        spec: The band that it is to be.

    Returns:
        Array of ``spec.shape``, in the stored dtype (little-endian whatever the file's order), values as stored.

    Raises:
        ValueError: The file is no TIFF of one band, misshapen, of another dtype, damaged, or compressed lossily.
        MissingExtraError: It is compressed with a scheme that needs imagecodecs, which is not installed.
    """
    header = read_header(content)
    if (header.length, header.width) != spec.shape:
        raise ValueError(f"it has {header.length} rows and {header.width} columns, expected {spec.side} of each")
    if header.dtype not in PIXEL_DTYPES:
        raise ValueError(f"its pixels are of dtype {header.dtype}, which no band's are")
    dtype = np.dtype(header.dtype)
    if header.compression == _NONE and not header.tiled:
        pixels = _stored(content, header, dtype)
    else:
        pixels = _decoded(content, header, dtype)
    little: PixelArray = pixels if dtype.str[0] != ">" else pixels.astype(dtype.newbyteorder("<"))
    return little


def _stored(content: bytes, header: TiffHeader, dtype: np.dtype[Any]) -> PixelArray:
    """Pixels of strips that are not compressed: a view of the file if they lie end to end, as they mostly do."""
    row_bytes = header.width * dtype.itemsize
    left = header.length
    first = end = header.extents[0][0]
    together = True
    for offset, count in header.extents:
        rows = min(header.segment[1], left)
        if count != rows * row_bytes:
            raise ValueError(f"a strip of {rows} rows has {count} bytes, expected {rows * row_bytes}")
        together &= offset == end
        end = offset + count
        left -= rows
    if together:
        return np.ndarray((header.length, header.width), dtype, content, first)
    joined = b"".join([content[offset : offset + count] for offset, count in header.extents])
    return np.ndarray((header.length, header.width), dtype, joined)


def _decoded(content: bytes, header: TiffHeader, dtype: np.dtype[Any]) -> PixelArray:
    """Pixels of strips or tiles, each decompressed to exactly its size."""
    columns, rows = header.segment
    # Tiles are whole even where the image ends, and so may be larger than it; but not so large as to be a bomb.
    if header.tiled and max(columns, rows) > 2 * max(header.width, header.length, 256):
        raise ValueError(f"its tiles have {rows} rows and {columns} columns, more than an image of this size needs")
    pixels: PixelArray = np.empty((header.length, header.width), dtype)
    places = [(top, left) for top in range(0, header.length, rows) for left in range(0, header.width, columns)]
    for (top, left), (offset, count) in zip(places, header.extents, strict=True):
        here = rows if header.tiled else min(rows, header.length - top)
        expected = here * columns * dtype.itemsize
        segment = _decompressed(content[offset : offset + count], header.compression, expected)
        if len(segment) != expected:
            raise ValueError(f"{here} rows of {columns} pixels unpack to {len(segment)} bytes, expected {expected}")
        array = _unpredicted(segment, (here, columns), dtype, header.predictor)
        target = pixels[top : top + here, left : left + columns]
        target[...] = array[: target.shape[0], : target.shape[1]]
    return pixels


def _decompressed(packed: bytes, compression: int, expected: int) -> bytes:
    """Decompress to at most one byte more than expected, which tells too much from enough."""
    if compression == _NONE:
        return packed
    if compression in _DEFLATE:
        try:
            return zlib.decompressobj().decompress(packed, expected + 1)
        except zlib.error as error:
            raise ValueError(f"its pixels cannot be unpacked: {printable(str(error))}") from error
    name = _CODECS.get(compression)
    if name is None:
        raise ValueError(
            f"it is compressed with scheme {compression}, expected none, Deflate, LZW, PackBits, LZMA or Zstandard"
        )
    decode = getattr(_imagecodecs(compression), name)
    try:
        return bytes(decode(packed, out=expected + 1))
    except Exception as error:  # imagecodecs has a class for each codec, of no common base
        raise ValueError(f"its pixels cannot be unpacked: {printable(str(error))}") from error


def _unpredicted(segment: bytes, shape: tuple[int, int], dtype: np.dtype[Any], predictor: int) -> PixelArray:
    """Undo the predictor, which stores each pixel of a row as its difference to the one before."""
    array: PixelArray = np.ndarray(shape, dtype, segment)
    if predictor == 1:
        return array
    if predictor == 2 and dtype.kind in "iu":
        # Differences wrap around, and so do the sums.
        sums: PixelArray = np.cumsum(array, axis=1, dtype=dtype.newbyteorder("="))
        return sums
    if predictor == 3 and dtype.kind == "f":
        # Technical note 3 of TIFF: the bytes of a row of pixels are stored most significant first, plane by plane,
        # as differences of bytes.
        planes = np.cumsum(np.frombuffer(segment, np.uint8).reshape(shape[0], -1), axis=1, dtype=np.uint8)
        planes = planes.reshape(shape[0], dtype.itemsize, shape[1]).transpose(0, 2, 1)
        floats: PixelArray = np.ascontiguousarray(planes).view(dtype.newbyteorder(">")).reshape(shape)
        return floats
    raise ValueError(f"it has predictor {predictor} on pixels of dtype {dtype.str}, expected none")


def _imagecodecs(compression: int) -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingExtraError(
            f"a GeoTIFF is compressed with scheme {compression}, and imagecodecs, which unpacks it, is not installed: "
            "pip install 'ben-secure[encode]'"
        ) from error
    return imagecodecs
