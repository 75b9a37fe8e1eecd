"""The pixels of one band of a GeoTIFF file: exactly those that are stored, or a refusal that says what is wrong.

The file is untrusted. tifffile reads what it says about itself, from a copy in memory of which it gets a bounded
number of bytes; what it found is then compared with the band tables before a pixel is decoded. Stored pixels are taken
from where it found them. Compressed ones are first unpacked by imagecodecs into no more than a strip or tile must
have, so that no file can make the encoder take more memory than its band needs, and then decoded by tifffile; lossy
schemes are refused. Values are never scaled, and what a file says about no-data or colour is not applied.
"""

from __future__ import annotations

import io
import logging
import struct
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.bands import PIXEL_DTYPES, BandSpec
from ben_secure.errors import MissingExtraError, printable

if TYPE_CHECKING:
    import tifffile

    from ben_secure.patches.layout import PixelArray

MAX_FILE_BYTES = 4 * 2**20
"""Bytes of one file; a band of complex128 at 10 m takes 230,400, and georeferencing a few hundred."""

MAX_HEADER_BYTES = 2**16
"""Bytes that are read of what a file says about itself, all tags together; GDAL writes less than 2,000."""

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF 6.0 and BigTIFF; tifffile takes relatives of them, too
_NONE = 1
# Numbers of TIFF 6.0 and of libtiff's tiff.h (Deflate has two), with imagecodecs' name of what undoes them.
_CODECS = {
    5: "lzw_decode",
    8: "zlib_decode",
    32946: "zlib_decode",
    32773: "packbits_decode",
    34925: "lzma_decode",
    50000: "zstd_decode",
}
_SAMPLE_FORMATS = (1, 2, 3, 6)  # unsigned, signed, floating point, complex; tifffile takes undefined ones as unsigned
# Attributes of tifffile's TiffPage that a tag of a wrong type or count makes something else than a number.
_NUMBERS = (
    *("imagelength", "imagewidth", "samplesperpixel", "bitspersample", "sampleformat", "compression"),
    *("predictor", "fillorder", "rowsperstrip", "tilelength", "tilewidth", "tiledepth"),
)


class _Metered(io.BytesIO):
    """A file in memory that gives a bounded number of bytes: tags may all point at the same megabytes."""

    left = MAX_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._count(len(data))
        return data

    def readinto(self, buffer: Any, /) -> int:
        count = super().readinto(buffer)
        self._count(count)
        return count

    def _count(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError(f"its tags have more than {MAX_HEADER_BYTES} bytes together")


class _Quiet(threading.local):
    """Whether what tifffile logs in this thread is dropped: it is about a file that is judged here."""

    active = False

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.active


_quiet = _Quiet()


def decode_band(content: bytes, spec: BandSpec) -> PixelArray:
    """Take the pixels out of a GeoTIFF file.

    Args:
        content: The whole file; hostile.
        spec: The band that it is to be.

    Returns:
        Array of ``spec.shape``, in the stored dtype (little-endian whatever the file's order), values as stored.

    Raises:
        ValueError: The file is no TIFF of one band, misshapen, of another dtype, damaged, or compressed lossily.
        MissingExtraError: tifffile is not installed, or the file is compressed and imagecodecs is not.
    """
    library = _tifffile()
    if content[:4] not in _MAGIC:
        raise ValueError("it is no TIFF file")
    file = _Metered(content)
    _quiet.active = True
    try:
        pixels = _pixels(library, file, content, spec)
    except (ValueError, MissingExtraError):
        raise
    except Exception as error:  # what the library raises on bytes like these is no part of its interface
        raise ValueError(f"it is damaged: {type(error).__name__}: {printable(str(error))}") from error
    finally:
        _quiet.active = False
    little: PixelArray = pixels if pixels.dtype.str[0] != ">" else pixels.astype(pixels.dtype.newbyteorder("<"))
    return little


def _pixels(library: Any, file: _Metered, content: bytes, spec: BandSpec) -> PixelArray:
    try:
        # What microscopes write, each in its own way, is read as any other TIFF.
        tif = library.TiffFile(file, is_lsm=False, is_ndpi=False, is_scanimage=False)
        page = tif.pages.first
    except IndexError as error:
        raise ValueError("it has no image, or is truncated") from error
    except Exception as error:
        raise ValueError(f"it is no TIFF file, or damaged: {printable(str(error))}") from error
    dtype = _checked(tif, page, content, spec)
    segment = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    extents = _extents(page, segment, len(content))
    if page.compression == _NONE and page.predictor != 1:
        raise ValueError(f"it has predictor {int(page.predictor)} on pixels that are not compressed, expected none")
    if page.compression == _NONE and not page.is_tiled:
        return _stored(content, spec, extents, segment[0], dtype)
    _check_predictor(page, dtype)
    _check_sizes(content, page, segment, extents, dtype)
    file.left = len(content)
    pixels: PixelArray = page.asarray(maxworkers=1)
    if pixels.shape != spec.shape or pixels.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise ValueError(f"it was decoded to {pixels.dtype.str} {pixels.shape}, expected {dtype.str} {spec.shape}")
    return pixels


def _checked(tif: tifffile.TiffFile, page: tifffile.TiffPage, content: bytes, spec: BandSpec) -> np.dtype[Any]:
    """Compare what the file says with the band tables; returns the dtype of the pixels as stored."""
    for name in _NUMBERS:
        if not isinstance(getattr(page, name), int):
            raise ValueError(f"its {name} is {printable(repr(getattr(page, name)))}, expected one whole number")
    bits = page.tags.get("BitsPerSample")
    if bits is not None and bits.count != 1:
        raise ValueError(f"it has {bits.count} numbers of bits a pixel, expected 1")
    if page.samplesperpixel != 1:
        raise ValueError(f"it has {page.samplesperpixel} bands, expected 1")
    if (page.imagelength, page.imagewidth) != spec.shape or page.shape != spec.shape:
        raise ValueError(
            f"it has {page.imagelength} rows and {page.imagewidth} columns, expected {spec.side} of each, in one plane"
        )
    # The chain of images is not followed: it may be long, or a loop.
    layout = tif.tiff
    (tags,) = struct.unpack_from(layout.tagnoformat, content, page.offset)
    if struct.unpack_from(layout.offsetformat, content, page.offset + layout.tagnosize + tags * layout.tagsize)[0]:
        raise ValueError("it has more than one image, expected 1")
    native = page.dtype if page.sampleformat in _SAMPLE_FORMATS else None
    if native is None or 8 * native.itemsize != page.bitspersample:
        what = f"{page.bitspersample} bits of sample format {int(page.sampleformat)}"
        raise ValueError(f"its pixels have {what}, which is no dtype of a band")
    dtype = native.newbyteorder(tif.byteorder)
    if dtype.str not in PIXEL_DTYPES:
        raise ValueError(f"its pixels are of dtype {dtype.str}, which no band's are")
    if page.fillorder != 1:
        raise ValueError("its bits are in reversed order, which no band's are")
    if page.compression != _NONE and page.compression not in _CODECS:
        raise ValueError(
            f"it is compressed with scheme {int(page.compression)}, "
            "expected none, Deflate, LZW, PackBits, LZMA or Zstandard"
        )
    return dtype


def _extents(page: tifffile.TiffPage, segment: tuple[int, int], file_bytes: int) -> list[tuple[int, int]]:
    """Where each strip or tile lies in the file: offset and bytes, in bounds."""
    rows, columns = segment
    if min(segment) < 1 or page.tiledepth != 1:
        raise ValueError("it has no pixels, or more than a plane of them")
    # Tiles are whole even where the image ends, and so may be larger than it; but not so large as to be a bomb.
    if page.is_tiled and max(segment) > 2 * max(page.imagelength, page.imagewidth, 256):
        raise ValueError(f"its tiles have {rows} rows and {columns} columns, more than an image of this size needs")
    offsets: tuple[object, ...] = tuple(page.dataoffsets)
    counts: tuple[object, ...] = tuple(page.databytecounts)
    expected = -(-page.imagelength // rows) * -(-page.imagewidth // columns)
    if not len(offsets) == len(counts) == expected:
        raise ValueError(f"it has {len(offsets)} pieces of pixels and {len(counts)} lengths, expected {expected} each")
    extents = []
    for offset, count in zip(offsets, counts, strict=True):
        if not (isinstance(offset, int) and isinstance(count, int)) or min(offset, count) < 0:
            raise ValueError("an offset or length of its pixels is no whole number")
        if offset + count > file_bytes:
            raise ValueError("it is truncated: pixels lie behind its end")
        extents.append((offset, count))
    if sum(count for _, count in extents) > file_bytes:
        raise ValueError("its strips or tiles overlap")
    return extents


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
    if together:
        return np.ndarray(spec.shape, dtype, content, first)
    joined = b"".join([content[offset : offset + count] for offset, count in extents])
    return np.ndarray(spec.shape, dtype, joined)


def _check_predictor(page: tifffile.TiffPage, dtype: np.dtype[Any]) -> None:
    """A predictor stores each pixel as its difference to the one before: whole numbers by 2, floating point by 3."""
    if page.predictor != 1 and (page.predictor, dtype.kind) not in {(2, "i"), (2, "u"), (3, "f")}:
        raise ValueError(f"it has predictor {int(page.predictor)} on pixels of dtype {dtype.str}, expected none")


def _check_sizes(
    content: bytes,
    page: tifffile.TiffPage,
    segment: tuple[int, int],
    extents: list[tuple[int, int]],
    dtype: np.dtype[Any],
) -> None:
    """Check that each strip or tile unpacks to exactly its size; tifffile takes less and more without a word."""
    rows, columns = segment
    left = page.imagelength
    for offset, count in extents:
        here = rows if page.is_tiled else min(rows, left)
        left -= here
        expected = here * columns * dtype.itemsize
        found = _unpacked_bytes(content[offset : offset + count], page.compression, expected)
        if found != expected:
            raise ValueError(f"{here} rows of {columns} pixels unpack to {found} bytes, expected {expected}")


def _unpacked_bytes(packed: bytes, compression: int, expected: int) -> int:
    """Bytes that a strip or tile unpacks to, at most one more than expected, which tells too much from enough."""
    if compression == _NONE:
        return len(packed)
    try:
        import imagecodecs
    except ImportError as error:
        raise MissingExtraError(
            f"a GeoTIFF is compressed with scheme {int(compression)}, and imagecodecs, which unpacks it, is not "
            "installed: pip install 'ben-secure[encode]'"
        ) from error
    try:
        return len(getattr(imagecodecs, _CODECS[compression])(packed, out=expected + 1))
    except Exception as error:  # imagecodecs has a class for each codec, of no common base
        raise ValueError(f"its pixels cannot be unpacked: {printable(str(error))}") from error


def _tifffile() -> Any:
    try:
        import tifffile
    except ImportError as error:
        raise MissingExtraError(
            "GeoTIFFs are read by tifffile, which is not installed: pip install 'ben-secure[encode]'"
        ) from error
    for name in ("tifffile", "tifffile.tifffile"):  # of its present and of its older releases
        logging.getLogger(name).addFilter(_quiet)
    return tifffile
