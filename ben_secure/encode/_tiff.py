"""What the header of a TIFF says about its one image, read with every offset and count checked; no pixel is decoded.

TIFF 6.0 (Adobe, 1992) and BigTIFF, in both byte orders, and of them only what a file of one band needs: one image,
one sample a pixel, in strips or tiles. Whatever else a file has (georeferencing, statistics) is passed over unread.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_WIDTH, _LENGTH, _BITS, _COMPRESSION = 256, 257, 258, 259
_FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 266, 273, 277, 278, 279
_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES, _SAMPLE_FORMAT = 317, 322, 323, 324, 325, 339
_WANTED = frozenset(
    {_WIDTH, _LENGTH, _BITS, _COMPRESSION, _FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES}
    | {_PREDICTOR, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS, _TILE_BYTES, _SAMPLE_FORMAT}
)
_FIELD_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8: those that the wanted tags may have
_KINDS = {1: "u", 2: "i", 3: "f", 6: "c"}  # SampleFormat; 4 is "undefined", 5 complex integers
_MAX_TAGS = 256
_MAX_SEGMENTS = 4_096


@dataclass(frozen=True, slots=True)
class TiffHeader:
    """The one image of a TIFF file; what the file says, in bounds but not yet compared with anything.

    Attributes:
        width: Columns.
        length: Rows.
        dtype: ``numpy.dtype.str`` of a pixel as stored.
        compression: Number of the scheme, 1 for none.
        predictor: 1 for none, 2 for differences, 3 for those of floating point.
        segment: Columns and rows of one strip (as wide as the image, the last one as long as what is left) or tile.
        tiled: Whether segments are tiles, which are all full.
        extents: Where each segment lies in the file: offset and bytes.
    """

    width: int
    length: int
    dtype: str
    compression: int
    predictor: int
    segment: tuple[int, int]
    tiled: bool
    extents: tuple[tuple[int, int], ...]


def read_header(content: bytes) -> TiffHeader:
    """Read the header of a TIFF file of one image with one sample a pixel.

    Args:
        content: The whole file; hostile.

    Returns:
        What it says.

    Raises:
        ValueError: It is no such TIFF, or an offset or count leads out of it.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 16:
        raise ValueError("it is no TIFF file")
    values = _tags(content, order)

    def one(tag: int, default: int | None = None) -> int:
        found = values.get(tag, () if default is None else (default,))
        if len(found) != 1:
            raise ValueError(f"TIFF tag {tag} has {len(found)} values, expected 1")
        return found[0]

    if (samples := one(_SAMPLES, 1)) != 1:
        raise ValueError(f"it has {samples} bands, expected 1")
    if one(_FILL_ORDER, 1) != 1:
        raise ValueError("its bits are in reversed order, which no band's are")
    width, length = one(_WIDTH), one(_LENGTH)
    tiled = _TILE_OFFSETS in values
    if tiled:
        segment = one(_TILE_WIDTH), one(_TILE_LENGTH)
        offsets, counts = values[_TILE_OFFSETS], values.get(_TILE_BYTES, ())
    else:
        segment = width, min(one(_ROWS_PER_STRIP, length), length)
        offsets, counts = values.get(_STRIP_OFFSETS, ()), values.get(_STRIP_BYTES, ())
    if min(width, length, *segment) < 1:
        raise ValueError("it has no pixels")
    expected = -(-width // segment[0]) * -(-length // segment[1])
    if not len(offsets) == len(counts) == expected:
        raise ValueError(f"it has {len(offsets)} pieces of pixels and {len(counts)} lengths, expected {expected} each")
    if any(offset + count > len(content) for offset, count in zip(offsets, counts, strict=True)):
        raise ValueError("it is truncated: pixels lie behind its end")
    return TiffHeader(
        width=width,
        length=length,
        dtype=_dtype(order, one(_BITS, 1), one(_SAMPLE_FORMAT, 1)),
        compression=one(_COMPRESSION, 1),
        predictor=one(_PREDICTOR, 1),
        segment=segment,
        tiled=tiled,
        extents=tuple(zip(offsets, counts, strict=True)),
    )


def _dtype(order: str, bits: int, sample_format: int) -> str:
    kind = _KINDS.get(sample_format)
    if kind is None or bits % 8 or not 8 <= bits <= 128:
        raise ValueError(f"its pixels have {bits} bits of sample format {sample_format}, which is no dtype of a band")
    return f"{'|' if bits == 8 else order}{kind}{bits // 8}"


def _tags(content: bytes, order: str) -> dict[int, tuple[int, ...]]:
    """Values of the wanted tags of the first and only image."""
    magic = struct.unpack_from(order + "H", content, 2)[0]
    big = magic == 43
    if big:
        if struct.unpack_from(order + "HH", content, 4) != (8, 0):
            raise ValueError("it is no BigTIFF file of the known kind")
        (start,) = struct.unpack_from(order + "Q", content, 8)
        count_code, entry_code, next_code = "Q", "HHQ8s", "Q"
    elif magic == 42:
        (start,) = struct.unpack_from(order + "I", content, 4)
        count_code, entry_code, next_code = "H", "HHI4s", "I"
    else:
        raise ValueError("it is no TIFF file")
    try:
        (count,) = struct.unpack_from(order + count_code, content, start)
        if not 1 <= count <= _MAX_TAGS:
            raise ValueError(f"it has {count} TIFF tags, expected 1 to {_MAX_TAGS}")
        start += struct.calcsize(order + count_code)
        entry = struct.Struct(order + entry_code)
        end = start + count * entry.size
        (following,) = struct.unpack_from(order + next_code, content, end)
        if following:
            raise ValueError("it has more than one image, expected 1")
        values: dict[int, tuple[int, ...]] = {}
        for tag, field_type, number, inline in entry.iter_unpack(memoryview(content)[start:end]):
            if tag in _WANTED:
                if tag in values:
                    raise ValueError(f"it has TIFF tag {tag} twice")
                values[tag] = _values(content, order, tag, field_type, number, inline)
    except (struct.error, OverflowError):
        raise ValueError("it is truncated, or an offset leads out of it") from None
    return values


def _values(content: bytes, order: str, tag: int, field_type: int, number: int, inline: bytes) -> tuple[int, ...]:
    code = _FIELD_TYPES.get(field_type)
    if code is None or not 1 <= number <= _MAX_SEGMENTS:
        raise ValueError(f"TIFF tag {tag} has {number} values of type {field_type}, which it may not have")
    code = f"{order}{number}{code}"
    if struct.calcsize(code) <= len(inline):
        return struct.unpack_from(code, inline)
    (place,) = struct.unpack(order + ("I" if len(inline) == 4 else "Q"), inline)
    return struct.unpack_from(code, content, place)
