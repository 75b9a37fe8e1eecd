"""Unpack one strip or tile of a TIFF file into exactly the expected number of pixels.

The bytes are untrusted. The output of each imagecodecs codec is bounded, and the codes of LZW are checked first
(``lzw``). Afterwards predictors and bit packing are undone. Lossy schemes are refused, including LERC with a tolerance.
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
# Compression schemes of TIFF 6.0 and libtiff's tiff.h (Deflate has two numbers), with the decoder in imagecodecs.
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
_LERC_CODECS = {0: None, 1: "zlib_decode", 2: "zstd_decode"}  # by the second LERC parameter (libtiff)
_LERC_DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")  # by number in the LERC header
_LERC_HEADER_BYTES = 512


@dataclass(frozen=True, slots=True)
class Packing:
    """How pixels are stored.

    Attributes:
        dtype: Dtype of the pixels, in the byte order of the file.
        bits: Bits per pixel in the file. There may be fewer than in the dtype.
        scheme: Number of the compression scheme.
        predictor: Number of the predictor; 1 means no predictor.
        inner: Number of the scheme around LERC, as in the LERC parameters; 0 means no scheme.
    """

    dtype: np.dtype[Any]
    bits: int
    scheme: int
    predictor: int
    inner: int = 0

    @property
    def raw(self) -> bool:
        """Whether the file contains the bytes of the pixels unchanged."""
        return self.scheme == NONE and not self.bit_packed

    @property
    def bit_packed(self) -> bool:
        """Whether pixels have fewer bits in the file than in the dtype (GDAL's NBITS)."""
        return self.bits != 8 * self.dtype.itemsize


def check_scheme(packing: Packing) -> None:
    """Check that ``unpack`` supports a packing, and that all readers agree on its meaning.

    Args:
        packing: How the pixels are stored (untrusted).

    Raises:
        ValueError: The packing is lossy, unknown, ambiguous or invalid.
    """
    scheme, predictor, kind = packing.scheme, packing.predictor, packing.dtype.kind
    if scheme not in _CODECS and scheme not in (NONE, LERC):
        name = f"{_REFUSED[scheme]} (scheme {scheme})" if scheme in _REFUSED else f"scheme {scheme}"
        raise ValueError(
            f"it is compressed with {name}, expected none, Deflate, LZW, PackBits, LZMA, Zstandard or lossless LERC"
        )
    if packing.inner not in _LERC_CODECS:
        raise ValueError(f"its LERC data has compression scheme {packing.inner}, expected none, Deflate or Zstandard")
    if scheme == LERC and (packing.bit_packed or packing.dtype.str[1:] not in _LERC_DTYPES):
        raise ValueError(f"it is compressed with LERC, which does not support {packing.bits}-bit pixels of kind {kind}")
    if packing.dtype.str[0] == ">" and (scheme == LERC or (packing.bit_packed and packing.bits % 8 == 0)):
        raise ValueError(
            f"its pixels of {packing.bits} bits are {'LERC' if scheme == LERC else 'packed'} in a big-endian file, "
            "which readers interpret differently; write the file in little-endian order"
        )
    if predictor == 1:
        return
    if scheme in (NONE, _PACKBITS, LERC):
        way = {NONE: "not compressed", LERC: "compressed with LERC"}.get(scheme, "compressed with PackBits")
        raise ValueError(f"it has predictor {predictor} on pixels that are {way}, expected none")
    # As in libtiff: differences of whole words of any kind, or of the bytes of floating-point numbers.
    fits = kind == "f" if predictor == _FLOATING_POINT else predictor == _HORIZONTAL and packing.dtype.itemsize <= 8
    if packing.bit_packed or not fits:
        raise ValueError(f"it has predictor {predictor} on pixels of {packing.bits} bits of kind {kind}, expected none")


def unpack(packed: bytes, packing: Packing, shape: tuple[int, int]) -> PixelArray:
    """Unpack the pixels of a strip or tile.

    Args:
        packed: Bytes of the strip or tile in the file (untrusted).
        packing: How the pixels are stored; accepted by ``check_scheme``.
        shape: Rows and columns.

    Returns:
        Array of this shape and the dtype of the pixels, in any byte order.

    Raises:
        ValueError: The bytes are damaged, give another number of pixels, or are LERC that may have changed pixels.
        MissingExtraError: imagecodecs is needed but not installed.
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
        raise ValueError(f"a piece of {rows} rows and {columns} columns has {len(data)} bytes, expected {expected}")
    if packing.bit_packed:
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
    """Undo the floating-point predictor: differences of bytes, grouped by significance, the highest bytes first."""
    rows, columns = shape
    ranks = np.add.accumulate(np.frombuffer(data, np.uint8).reshape(rows, -1), axis=1, dtype=np.uint8)
    words = np.ascontiguousarray(ranks.reshape(rows, dtype.itemsize, columns).transpose(0, 2, 1))
    return words.view(dtype.newbyteorder(">")).reshape(shape)


def _lerc(packed: bytes, packing: Packing, shape: tuple[int, int]) -> PixelArray:
    native = packing.dtype.newbyteorder("=")
    codec = _LERC_CODECS[packing.inner]
    if codec is not None:
        # At worst, LERC stores the pixels uncompressed after a header.
        most = shape[0] * shape[1] * native.itemsize * 9 // 8 + _LERC_HEADER_BYTES
        packed = bytes(_call(codec, packed, out=most + 1))
        if len(packed) > most:
            raise ValueError(f"its LERC data has more than {most} bytes")
    _check_lerc(packed, native, shape)
    values, valid = _call("lerc_decode", packed, masks=True)
    pixels = np.asarray(values)
    if pixels.shape != shape or pixels.dtype != native:
        raise ValueError(f"its LERC data is {pixels.dtype.str} {pixels.shape}, expected {native.str} {shape}")
    if valid is not None and not np.all(valid):
        # As in libtiff: pixels that are masked in LERC become NaN, or 0 for integers.
        pixels = np.where(valid, pixels, native.type(np.nan if native.kind == "f" else 0))
    return pixels


def _check_lerc(blob: bytes, dtype: np.dtype[Any], shape: tuple[int, int]) -> None:
    """Check the LERC header before decoding: shape, dtype, and that the compression was lossless.

    Esri's ``Lerc2.h`` defines the header. Its versions 2 to 6 differ in optional fields.
    """
    try:
        name, version = struct.unpack_from("<6si", blob)
        if name != b"Lerc2 " or not 2 <= version <= 6:
            raise ValueError("its LERC data has an unknown version")
        offset = 10 + (4 if version >= 3 else 0)
        rows, columns = struct.unpack_from("<ii", blob, offset)
        offset += 8
        depth = 1
        if version >= 4:
            (depth,) = struct.unpack_from("<i", blob, offset)
            offset += 4
        *_, number = struct.unpack_from("<iiii", blob, offset)
        offset += 16 + (8 if version >= 6 else 0)
        (tolerance,) = struct.unpack_from("<d", blob, offset)
    except struct.error as error:
        raise ValueError("its LERC data is truncated") from error
    stored = _LERC_DTYPES[number] if 0 <= number < len(_LERC_DTYPES) else "another dtype"
    if (rows, columns) != shape or depth != 1 or stored != dtype.str[1:]:
        raise ValueError(
            f"its LERC data has {rows} rows and {columns} columns of {stored}, expected {shape} of {dtype.str}"
        )
    if not 0 <= tolerance <= (0.5 if dtype.kind in "iu" else 0):  # 0.5 changes no integer
        raise ValueError(f"its LERC compression may have changed pixels by {tolerance}, expected lossless compression")


def _call(name: str, *args: object, **options: object) -> Any:
    """Call imagecodecs. Each of its codecs raises errors of another class, without a common base."""
    require(_USE, "imagecodecs")
    import imagecodecs

    try:
        return getattr(imagecodecs, name)(*args, **options)
    except Exception as error:
        raise ValueError(f"its pixels cannot be unpacked: {printable(str(error))}") from error
