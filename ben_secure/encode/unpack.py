"""One strip or tile of a TIFF file: packed bytes to pixels, never more of them than there must be.

The bytes are untrusted. A codec of imagecodecs gets a bound on what it may write; then predictors and odd numbers of
bits are undone. The codes of LZW are checked first (``lzw``). Schemes that may change pixels are refused, also LERC
with an error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure._system.optional import require
from ben_secure.encode.lzw import check_codes
from ben_secure.errors import printable

if TYPE_CHECKING:
    from ben_secure.patches.layout import PixelArray

NONE = 1
LERC = 34887
_USE = "a compressed GeoTIFF"
_LZW = 5
_PACKBITS = 32773
# Numbers of TIFF 6.0 and of libtiff's tiff.h (Deflate has two), with imagecodecs' name of what undoes them.
_CODECS = {
    _LZW: "lzw_decode",
    8: "zlib_decode",
    32946: "zlib_decode",
    _PACKBITS: "packbits_decode",
    34925: "lzma_decode",
    50000: "zstd_decode",
}
_REFUSED = {
    2: "CCITT RLE",
    3: "CCITT fax 3",
    4: "CCITT fax 4",
    6: "old JPEG",
    7: "JPEG",
    34661: "JBIG",
    34712: "JPEG 2000",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_HORIZONTAL, _FLOATING_POINT = 2, 3  # predictors of TIFF 6.0 section 14 and of Adobe's technical note 3
_LERC_CODECS = {0: None, 1: "zlib_decode", 2: "zstd_decode"}  # the second of LERC's parameters (libtiff)
_LERC_DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")  # by number in LERC's header
_LERC_HEADER_BYTES = 512


@dataclass(frozen=True, slots=True)
class Packing:
    """How pixels are stored.

    Attributes:
        dtype: Their dtype, in the file's byte order.
        bits: Bits of one pixel in the file, fewer than the dtype's if their number is odd.
        scheme: Number of the compression scheme.
        predictor: Number of the predictor; 1 is none.
        inner: Number of the scheme that LERC is packed in, in its own counting; 0 is none.
    """

    dtype: np.dtype[Any]
    bits: int
    scheme: int
    predictor: int
    inner: int = 0

    @property
    def plain(self) -> bool:
        """Whether the bytes in the file are those of the pixels."""
        return self.scheme == NONE and not self.odd

    @property
    def odd(self) -> bool:
        """Whether pixels are packed in fewer bits than the dtype has (GDAL's NBITS)."""
        return self.bits != 8 * self.dtype.itemsize


def check_scheme(packing: Packing) -> None:
    """Check that pixels are stored in a way that ``unpack`` undoes, and that every reader undoes alike.

    Args:
        packing: The way; hostile.

    Raises:
        ValueError: It is not.
    """
    scheme, predictor, kind = packing.scheme, packing.predictor, packing.dtype.kind
    if scheme not in _CODECS and scheme not in (NONE, LERC):
        name = f"{_REFUSED[scheme]} (scheme {scheme})" if scheme in _REFUSED else f"scheme {scheme}"
        raise ValueError(
            f"it is compressed with {name}, expected none, Deflate, LZW, PackBits, LZMA, Zstandard or lossless LERC"
        )
    if packing.inner not in _LERC_CODECS:
        raise ValueError(f"its LERC is packed with scheme {packing.inner}, expected none, Deflate or Zstandard")
    if scheme == LERC and (packing.odd or packing.dtype.str[1:] not in _LERC_DTYPES):
        raise ValueError(f"it is compressed with LERC, which has no pixels of {packing.bits} bits of kind {kind}")
    if packing.dtype.str[0] == ">" and (scheme == LERC or (packing.odd and packing.bits % 8 == 0)):
        raise ValueError(
            f"its pixels of {packing.bits} bits are {'LERC' if scheme == LERC else 'packed'} in a big-endian file, "
            "which readers take in different ways; write it in little-endian order"
        )
    if predictor == 1:
        return
    if scheme in (NONE, _PACKBITS, LERC):
        way = {NONE: "not compressed", LERC: "compressed with LERC"}.get(scheme, "compressed with PackBits")
        raise ValueError(f"it has predictor {predictor} on pixels that are {way}, expected none")
    # As libtiff has it: differences of whole words of any kind, or of the bytes of floating-point numbers.
    fits = kind == "f" if predictor == _FLOATING_POINT else predictor == _HORIZONTAL and packing.dtype.itemsize <= 8
    if packing.odd or not fits:
        raise ValueError(f"it has predictor {predictor} on pixels of {packing.bits} bits of kind {kind}, expected none")


def unpack(packed: bytes, packing: Packing, shape: tuple[int, int]) -> PixelArray:
    """Undo all that was done to the pixels of a strip or tile.

    Args:
        packed: Its bytes in the file; hostile.
        packing: How pixels are stored; ``check_scheme`` has passed it.
        shape: Rows and columns.

    Returns:
        Array of this shape, of the dtype that the pixels have, in any byte order.

    Raises:
        ValueError: The bytes are damaged, more or fewer than there must be, or LERC that has changed pixels.
        MissingExtraError: imagecodecs is not installed, and it takes more than numpy.
    """
    rows, columns = shape
    if packing.scheme == LERC:
        return _lerc(packed, packing, shape)
    expected = rows * -(-columns * packing.bits // 8)
    data = packed
    if packing.scheme != NONE:
        require(_USE, "imagecodecs")
        if packing.scheme == _LZW:
            check_codes(packed)
        data = _call(_CODECS[packing.scheme], packed, out=expected + 1)
    if len(data) != expected:
        raise ValueError(f"{rows} rows of {columns} pixels unpack to {len(data)} bytes, expected {expected}")
    if packing.odd:
        native = packing.dtype.newbyteorder("=")
        values = _call("packints_decode", data, native, packing.bits, runlen=columns)
        return np.asarray(values).reshape(shape)
    if packing.predictor == _FLOATING_POINT:
        return _floating_point(data, packing.dtype, shape)
    stored: PixelArray = np.frombuffer(data, packing.dtype).reshape(shape)
    if packing.predictor == _HORIZONTAL:
        words = np.dtype(f"u{packing.dtype.itemsize}")
        differences = stored.view(words.newbyteorder(packing.dtype.byteorder)).astype(words)
        return np.add.accumulate(differences, axis=1, dtype=words).view(packing.dtype.newbyteorder("="))
    return stored


def _floating_point(data: bytes, dtype: np.dtype[Any], shape: tuple[int, int]) -> PixelArray:
    """Undo the predictor of floating point: bytes by rank, the highest of a row first, and differences of them."""
    rows, columns = shape
    ranks = np.add.accumulate(np.frombuffer(data, np.uint8).reshape(rows, -1), axis=1, dtype=np.uint8)
    words = np.ascontiguousarray(ranks.reshape(rows, dtype.itemsize, columns).transpose(0, 2, 1))
    return words.view(dtype.newbyteorder(">")).reshape(shape)


def _lerc(packed: bytes, packing: Packing, shape: tuple[int, int]) -> PixelArray:
    native = packing.dtype.newbyteorder("=")
    codec = _LERC_CODECS[packing.inner]
    if codec is not None:
        # LERC stores what it cannot make smaller as it is, behind a header.
        most = shape[0] * shape[1] * native.itemsize * 9 // 8 + _LERC_HEADER_BYTES
        packed = bytes(_call(codec, packed, out=most + 1))
        if len(packed) > most:
            raise ValueError(f"its LERC unpacks to more than {most} bytes")
    _check_lerc(packed, native, shape)
    values, valid = _call("lerc_decode", packed, masks=True)
    pixels = np.asarray(values)
    if pixels.shape != shape or pixels.dtype != native:
        raise ValueError(f"its LERC is {pixels.dtype.str} {pixels.shape}, expected {native.str} {shape}")
    if valid is not None and not np.all(valid):
        # As libtiff does: what LERC has left out is NaN, or 0 where there is none.
        pixels = np.where(valid, pixels, native.type(np.nan if native.kind == "f" else 0))
    return pixels


def _check_lerc(blob: bytes, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    """Check what LERC says of itself before it is decoded: shape, dtype, and that no pixel was changed.

    The header is that of Esri's Lerc2 (``Lerc2.h``), versions 2 to 6; the versions differ in what stands between.
    """
    try:
        name, version = struct.unpack_from("<6si", blob)
        if name != b"Lerc2 " or not 2 <= version <= 6:
            raise ValueError("its LERC is of a version that is not known")
        place = 10 + (4 if version >= 3 else 0)
        rows, columns = struct.unpack_from("<ii", blob, place)
        place += 8
        depth = 1
        if version >= 4:
            (depth,) = struct.unpack_from("<i", blob, place)
            place += 4
        *_, number = struct.unpack_from("<iiii", blob, place)
        place += 16 + (8 if version >= 6 else 0)
        (error,) = struct.unpack_from("<d", blob, place)
    except struct.error as broken:
        raise ValueError("its LERC is truncated") from broken
    found = _LERC_DTYPES[number] if 0 <= number < len(_LERC_DTYPES) else "another dtype"
    if (rows, columns) != shape or depth != 1 or found != dtype.str[1:]:
        raise ValueError(f"its LERC has {rows} rows and {columns} columns of {found}, expected {shape} of {dtype.str}")
    if not 0 <= error <= (0.5 if dtype.kind in "iu" else 0):  # half of one is none for whole numbers
        raise ValueError(f"its LERC may have changed pixels by {error}, expected a lossless one")


def _call(name: str, *args: object, **options: object) -> Any:
    """Call imagecodecs, whose errors have a class for each codec and no common base."""
    require(_USE, "imagecodecs")
    import imagecodecs

    try:
        return getattr(imagecodecs, name)(*args, **options)
    except Exception as error:
        raise ValueError(f"its pixels cannot be unpacked: {printable(str(error))}") from error
