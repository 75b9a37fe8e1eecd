"""What a TIFF file says about itself: the fields of an image file directory, as TIFF 6.0 and BigTIFF store them.

The file is untrusted and whole in memory. Every offset and length is checked against it, a field is read only when it
is asked for, and no field may take more than ``MAX_FIELD_BYTES``. No pixel is touched here, and no field is believed:
that is ``geotiff``'s part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAX_FIELD_BYTES = 2**16
"""Bytes of one field that is read, and of the entries of one directory; GDAL writes less than 2,000 in all."""

MAX_IMAGES = 64
"""Images of one file: a band, its mask, and overviews of both, of which each has half the side of the one before."""

_ORDERS = {b"II": "<", b"MM": ">"}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8
_FLOATS = {11: "f", 12: "d"}  # FLOAT, DOUBLE
_ASCII = 2
# Bytes of one value by its type: TIFF 6.0, section 2, the types of Adobe's and of BigTIFF's notes behind them.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Directory:
    """The fields of one image.

    Attributes:
        order: Byte order of the file: ``<`` or ``>``.
        following: Offset of the next directory; 0 if there is none.
    """

    __slots__ = ("_big", "_content", "_entries", "following", "order")

    def __init__(self, content: bytes, order: str, big: bool, offset: int) -> None:
        """Read the entries of a directory.

        Args:
            content: The whole file; hostile.
            order: Byte order.
            big: Whether it is BigTIFF.
            offset: Where the directory begins.

        Raises:
            ValueError: It does not lie in the file, is too large, or has a field twice.
        """
        self._content, self.order, self._big = content, order, big
        (count,) = self._unpack("Q" if big else "H", offset)
        entry, start = (20, offset + 8) if big else (12, offset + 2)
        if count * entry > MAX_FIELD_BYTES:
            raise ValueError(f"it has {count} fields, expected at most {MAX_FIELD_BYTES // entry}")
        self._entries: dict[int, tuple[int, int, int]] = {}
        for place in range(start, start + count * entry, entry):
            code, kind, length = self._unpack("HHQ" if big else "HHI", place)
            if code in self._entries:
                raise ValueError(f"it has the field {code} twice")
            self._entries[code] = kind, length, place + (12 if big else 8)
        (self.following,) = self._unpack("Q" if big else "I", start + count * entry)

    def next(self) -> Directory:
        """Read the directory that follows.

        Raises:
            ValueError: As for the constructor.
        """
        return Directory(self._content, self.order, self._big, self.following)

    def _unpack(self, code: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.order + code, self._content, offset)
        except (struct.error, OverflowError) as error:  # the latter of offsets beyond those of memory
            raise ValueError("it is truncated: a directory lies behind its end") from error

    def _field(self, code: int, kinds: dict[int, str], expected: str) -> tuple[str, int, int]:
        """Type, number of values and offset of a field, all of it in the file."""
        kind, count, place = self._entries[code]
        if kind not in kinds:
            raise ValueError(f"its field {code} has values of type {kind}, expected {expected}")
        size = count * _SIZES[kind]
        if size > MAX_FIELD_BYTES:
            raise ValueError(f"its field {code} has {size} bytes, expected at most {MAX_FIELD_BYTES}")
        if size > (8 if self._big else 4):
            (place,) = self._unpack("Q" if self._big else "I", place)
        if place + size > len(self._content):
            raise ValueError(f"it is truncated: its field {code} lies behind its end")
        return kinds[kind], count, place

    def __contains__(self, code: int) -> bool:
        return code in self._entries

    def integers(self, code: int) -> tuple[int, ...]:
        """Take the values of a field of whole numbers.

        Args:
            code: Number of the field.

        Returns:
            The values; none if there is no such field.

        Raises:
            ValueError: It is of another type, too large, or not in the file.
        """
        if code not in self._entries:
            return ()
        letter, count, place = self._field(code, _INTEGERS, "whole numbers")
        return struct.unpack_from(f"{self.order}{count}{letter}", self._content, place)

    def integer(self, code: int, default: int) -> int:
        """Take a field of one whole number.

        Args:
            code: Number of the field.
            default: What TIFF 6.0 lets a missing field stand for.

        Returns:
            The number.

        Raises:
            ValueError: As ``integers``, or there are several.
        """
        values = self.integers(code)
        if len(values) > 1 or (not values and code in self._entries):
            raise ValueError(f"its field {code} has {len(values)} numbers, expected 1")
        return values[0] if values else default

    def floats(self, code: int) -> tuple[float, ...]:
        """Take the values of a field of floating-point numbers; otherwise as ``integers``."""
        if code not in self._entries:
            return ()
        letter, count, place = self._field(code, _FLOATS, "floating-point numbers")
        return struct.unpack_from(f"{self.order}{count}{letter}", self._content, place)

    def text(self, code: int) -> str | None:
        """Take a field of text up to its first null, every byte one character; None if there is no such field.

        Raises:
            ValueError: As ``integers``.
        """
        if code not in self._entries:
            return None
        _, count, place = self._field(code, {_ASCII: "s"}, "text")
        return self._content[place : place + count].partition(b"\0")[0].decode("latin-1")


def first_directory(content: bytes) -> Directory:
    """Find the directory of a file's first image.

    Args:
        content: The whole file; hostile.

    Returns:
        The directory.

    Raises:
        ValueError: The file is no TIFF, has no image, or is truncated.
    """
    order = _ORDERS.get(content[:2])
    if order is None or content[2:4] not in (struct.pack(order + "H", 42), struct.pack(order + "H", 43)):
        raise ValueError("it is no TIFF file")
    big = content[2:4] == struct.pack(order + "H", 43)
    try:
        if big and struct.unpack_from(order + "HH", content, 4) != (8, 0):
            raise ValueError("it is a BigTIFF file with offsets that have not 8 bytes")
        (offset,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    except struct.error as error:
        raise ValueError("it has no image, or is truncated") from error
    if not 8 <= offset < len(content):
        raise ValueError("it has no image, or is truncated")
    return Directory(content, order, big, offset)


def further_directories(first: Directory) -> Iterator[Directory]:
    """Follow the chain of a file's images.

    Args:
        first: The directory of the first image.

    Yields:
        The others.

    Raises:
        ValueError: There are more than ``MAX_IMAGES``, as in a loop, or one cannot be read.
    """
    directory = first
    for _ in range(MAX_IMAGES):
        if not directory.following:
            return
        directory = directory.next()
        yield directory
    raise ValueError(f"it has more than {MAX_IMAGES} images")
