"""The footer of a tagged value. This module decides, without a key, whether a value has a tag.

All code that reads, tags, untags, converts or verifies values uses it. It checks structure only. ``signing.tags``
checks the tag itself with a key. The footer has 64 bytes behind the payload, with little-endian integers: tag (32), key
id (8), payload length (u64), suite (u8), version (u8), reserved (6, zero), magic (8). All of these fields must be
valid: pixels that end in the magic by chance are not a footer.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

FOOTER_BYTES = 64
MAGIC = b"\x89BenTag\n"
"""The last 8 bytes of a tagged value. Not ASCII, not UTF-8, and not how a pickle ends (``.``)."""
VERSION = 1
Buffer = bytes | bytearray | memoryview
"""An object that holds the bytes of a value; a memoryview must have items of one byte."""


class Suite(IntEnum):
    """The algorithm of tags: a property of the MAC key, never chosen by the data. The footer contains the number."""

    HS256 = 1
    """HMAC-SHA-256 (RFC 2104, FIPS 180-4)."""
    A256GMAC = 2
    """AES-256-GMAC (SP 800-38D) with a new key for each tag."""


_SUITES = frozenset(Suite)
_RESERVED = bytes(6)
_FOOTER = struct.Struct("<32s8sQBB6s8s")  # tag, key id, payload bytes, suite, version, reserved, magic


class Footer(NamedTuple):
    """The variable fields of a footer; unverified.

    Attributes:
        unverified_tag: 32 bytes.
        key_id: 8 bytes that name the MAC key.
        suite: A ``Suite``.
    """

    unverified_tag: bytes
    key_id: bytes
    suite: int

    def pack(self, payload_bytes: int) -> bytes:
        """Return the 64 bytes to append to a payload of this length."""
        return _FOOTER.pack(self.unverified_tag, self.key_id, payload_bytes, self.suite, VERSION, _RESERVED, MAGIC)


def footer_of(value: Buffer) -> Footer | None:
    """Read the footer of a stored value.

    Args:
        value: The stored bytes, unverified.

    Returns:
        The footer if the value has a tag: its last 64 bytes have the magic, a known suite and version, zeros in the
        reserved bytes, and the length of the payload before them. Otherwise None.
    """
    fields = _fields(value)
    if fields is None:
        return None
    tag, key_id, payload_bytes, suite, version, reserved, _ = fields
    if payload_bytes != len(value) - FOOTER_BYTES or not _known(suite, version, reserved):
        return None
    return Footer(tag, key_id, suite)


def payload_end(value: Buffer) -> int:
    """Find where the payload of a stored value ends.

    Args:
        value: The stored bytes, unverified.

    Returns:
        The position of the footer if the value has a tag (``footer_of``), otherwise the length of the value.
    """
    return len(value) - FOOTER_BYTES if footer_of(value) is not None else len(value)


def footer_fault(value: Buffer) -> str | None:
    """Explain, for a message, why a value that seems to be tagged does not have a tag. The result decides nothing.

    Args:
        value: The stored bytes, unverified, for which ``footer_of`` is None.

    Returns:
        The fault of its footer if it has the magic and either the right length or a known suite and version; otherwise
        None: there is no footer.
    """
    fields = _fields(value)
    if fields is None:
        return None
    _, _, payload_bytes, suite, version, reserved, _ = fields
    end = len(value) - FOOTER_BYTES
    if _known(suite, version, reserved):
        return (
            f"the value was changed: {end} bytes are before its tag, expected {payload_bytes}; fetch the database "
            "again from its source"
        )
    if payload_bytes == end:
        return (
            f"the tag of the value is of suite {suite}, version {version}, reserved {reserved.hex()}; "
            f"expected suite 1 or 2, version {VERSION}, reserved zero: a newer ben_secure may read it"
        )
    return None


def _fields(value: Buffer) -> tuple[bytes, bytes, int, int, int, bytes, bytes] | None:
    """Return the fields of a possible footer, or None if the value does not end in the magic."""
    if value[-8:] != MAGIC or len(value) < FOOTER_BYTES:
        return None
    return _FOOTER.unpack(value[-FOOTER_BYTES:])


def _known(suite: int, version: int, reserved: bytes) -> bool:
    return suite in _SUITES and version == VERSION and reserved == _RESERVED
