"""Read the fields of an image file directory (IFD) of a TIFF 6.0 or BigTIFF file.

The file is untrusted and completely in memory. Every offset and length is checked against its size. A field is read
only on request, and has at most ``MAX_FIELD_BYTES``. This module reads no pixels and does not check the meaning of
fields, which ``geotiff`` does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

MAX_FIELD_BYTES = 2**16
"""Maximum size of a field, and of the entries of a directory. GDAL writes less than 2,000 bytes in all."""

MAX_IMAGES = 64
"""Maximum number of images in one file: a band, its mask, and overviews of both."""

_ORDERS = {b"II": "<", b"MM": ">"}
_INTEGERS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # BYTE, SHORT, LONG, LONG8
_FLOATS = {11: "f", 12: "d"}  # FLOAT, DOUBLE
_ASCII = 2
# Bytes of one value by its type: TIFF 6.0, section 2, followed by the types of Adobe's notes and of BigTIFF.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Directory:
    """The fields of one image.

    Attributes:
        order: Byte order of the file: ``<`` or ``>``.
        following: Offset of the next directory, or 0 if there is none.
    """

    __slots__ = ("_big", "_content", "_entries", "following", "order")

    def __init__(self, content: bytes, order: str, big: bool, offset: int) -> None:
        """Read the entries of a directory.

        Args:
            content: The whole file (untrusted).
            order: Byte order.
            big: Whether the file is BigTIFF.
            offset: Offset of the directory.

        Raises:
            ValueError: The directory is not within the file, is too large, or has a duplicate field.
        """
        self._content, self.order, self._big = content, order, big
        (count,) = self._unpack("Q" if big else "H", offset)
        entry, start = (20, offset + 8) if big else (12, offset + 2)
        if count * entry > MAX_FIELD_BYTES:
            raise ValueError(f"it has {count} fields, expected at most {MAX_FIELD_BYTES // entry}")
        self._entries: dict[int, tuple[int, int, int]] = {}
        for entry_offset in range(start, start + count * entry, entry):
            code, kind, length = self._unpack("HHQ" if big else "HHI", entry_offset)
            if code in self._entries:
                raise ValueError(f"it has the field {code} twice")
            self._entries[code] = kind, length, entry_offset + (12 if big else 8)
        (self.following,) = self._unpack("Q" if big else "I", start + count * entry)

    def next(self) -> Directory:
        """Read the next directory.

        Raises:
            ValueError: As for the constructor.
        """
        return Directory(self._content, self.order, self._big, self.following)

    def _unpack(self, code: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.order + code, self._content, offset)
        except (struct.error, OverflowError) as error:  # OverflowError: the offset exceeds the address space
            raise ValueError("it is truncated: a directory lies beyond its end") from error

    def _field(self, code: int, kinds: dict[int, str], expected: str) -> tuple[str, int, int]:
        """Return type, number of values and offset of a field, which is within the file."""
        kind, count, offset = self._entries[code]
        if kind not in kinds:
            raise ValueError(f"its field {code} has values of type {kind}, expected {expected}")
        size = count * _SIZES[kind]
        if size > MAX_FIELD_BYTES:
            raise ValueError(f"its field {code} has {size} bytes, expected at most {MAX_FIELD_BYTES}")
        if size > (8 if self._big else 4):
            (offset,) = self._unpack("Q" if self._big else "I", offset)
        if offset + size > len(self._content):
            raise ValueError(f"it is truncated: its field {code} lies beyond its end")
        return kinds[kind], count, offset

    def __contains__(self, code: int) -> bool:
        return code in self._entries

    def integers(self, code: int) -> tuple[int, ...]:
        """Read a field of whole numbers.

        Args:
            code: Number of the field.

        Returns:
            The values. Empty if the field is missing.

        Raises:
            ValueError: The field has another type, is too large, or is not within the file.
        """
        if code not in self._entries:
            return ()
        letter, count, offset = self._field(code, _INTEGERS, "whole numbers")
        return struct.unpack_from(f"{self.order}{count}{letter}", self._content, offset)

    def integer(self, code: int, default: int) -> int:
        """Read a field with one whole number.

        Args:
            code: Number of the field.
            default: Value of a missing field according to TIFF 6.0.

        Returns:
            The number.

        Raises:
            ValueError: As ``integers``, or the field has another count of numbers.
        """
        values = self.integers(code)
        if len(values) > 1 or (not values and code in self._entries):
            raise ValueError(f"its field {code} has {len(values)} numbers, expected 1")
        return values[0] if values else default

    def floats(self, code: int) -> tuple[float, ...]:
        """Read a field of floating-point numbers. Otherwise as ``integers``."""
        if code not in self._entries:
            return ()
        letter, count, offset = self._field(code, _FLOATS, "floating-point numbers")
        return struct.unpack_from(f"{self.order}{count}{letter}", self._content, offset)

    def text(self, code: int) -> str | None:
        """Read a field of text up to its first null byte, as Latin-1. Return None if the field is missing.

        Raises:
            ValueError: As ``integers``.
        """
        if code not in self._entries:
            return None
        _, count, offset = self._field(code, {_ASCII: "s"}, "text")
        return self._content[offset : offset + count].partition(b"\0")[0].decode("latin-1")


def first_directory(content: bytes) -> Directory:
    """Read the directory of the first image.

    Args:
        content: The whole file (untrusted).

    Returns:
        The directory.

    Raises:
        ValueError: The file is not a TIFF, has no image, or is truncated.
    """
    order = _ORDERS.get(content[:2])
    if order is None or content[2:4] not in (struct.pack(order + "H", 42), struct.pack(order + "H", 43)):
        raise ValueError("it is not a TIFF file")
    big = content[2:4] == struct.pack(order + "H", 43)
    try:
        if big and struct.unpack_from(order + "HH", content, 4) != (8, 0):
            raise ValueError("it is a BigTIFF file whose offsets do not have 8 bytes")
        (offset,) = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)
    except struct.error as error:
        raise ValueError("it has no image, or is truncated") from error
    if not 8 <= offset < len(content):
        raise ValueError("it has no image, or is truncated")
    return Directory(content, order, big, offset)


def further_directories(first: Directory) -> Iterator[Directory]:
    """Read the directories of the other images.

    Args:
        first: The directory of the first image.

    Yields:
        The other directories.

    Raises:
        ValueError: There are more than ``MAX_IMAGES``, perhaps because of a loop, or a directory cannot be read.
    """
    directory = first
    for _ in range(MAX_IMAGES):
        if not directory.following:
            return
        directory = directory.next()
        yield directory
    raise ValueError(f"it has more than {MAX_IMAGES} images")
