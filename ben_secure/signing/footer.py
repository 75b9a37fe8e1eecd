"""The footer of a tagged value, and the one answer to whether a value bears a tag; by structure, without a key.

Everything that reads, tags, untags, converts or verifies values asks here. Checks nothing that a key is needed for
(``signing.tags`` does). 64 bytes behind the payload, integers little-endian: tag (32), key id (8), payload length
(u64), suite (u8), version (u8), reserved (6, zero), magic (8). All of them must be right: pixels that end in the magic
by chance are no tag.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

FOOTER_BYTES = 64
MAGIC = b"\x89BenTag\n"
"""The last 8 bytes of a tagged value. Not ASCII, not UTF-8, and not how a pickle ends (``.``)."""
VERSION = 1
SUITE = 1
"""HMAC-SHA-256 (RFC 2104, FIPS 180-4) under a key derived by HKDF (RFC 5869)."""

_RESERVED = bytes(6)
_FOOTER = struct.Struct("<32s8sQBB6s8s")  # tag, key id, payload bytes, suite, version, reserved, magic


class Footer(NamedTuple):
    """The fields of a footer that are not fixed; unverified.

    Attributes:
        unverified_tag: 32 bytes.
        key_id: 8 bytes that name the MAC key.
    """

    unverified_tag: bytes
    key_id: bytes

    def pack(self, payload_bytes: int) -> bytes:
        """Write the 64 bytes that belong behind a payload of this length."""
        return _FOOTER.pack(self.unverified_tag, self.key_id, payload_bytes, SUITE, VERSION, _RESERVED, MAGIC)


def footer_of(value: bytes | bytearray | memoryview) -> Footer | None:
    """Read the footer of a stored value.

    Args:
        value: The stored bytes, unverified (a memoryview: of single bytes).

    Returns:
        The footer if the value bears a tag: its last 64 bytes have the magic, a known suite and version, nothing in
        the reserved bytes, and the length of what stands before them. Otherwise None.
    """
    fields = _fields(value)
    if fields is None:
        return None
    tag, key_id, payload_bytes, suite, version, reserved, _ = fields
    if (payload_bytes, suite, version, reserved) != (len(value) - FOOTER_BYTES, SUITE, VERSION, _RESERVED):
        return None
    return Footer(unverified_tag=tag, key_id=key_id)


def payload_end(value: bytes | bytearray | memoryview) -> int:
    """Find where the payload of a stored value ends.

    Args:
        value: The stored bytes, unverified.

    Returns:
        The position of the footer if the value bears a tag (``footer_of``), otherwise the length of the value.
    """
    return len(value) - FOOTER_BYTES if footer_of(value) is not None else len(value)


def footer_fault(value: bytes | bytearray | memoryview) -> str | None:
    """Say why a value bears no tag although it seems to have been tagged, for a message; decides nothing.

    Args:
        value: The stored bytes, unverified, for which ``footer_of`` is None.

    Returns:
        What is wrong with its footer if it has the magic and either the right length or a known suite and version;
        otherwise None: there is no footer.
    """
    fields = _fields(value)
    if fields is None:
        return None
    _, _, payload_bytes, suite, version, reserved, _ = fields
    end = len(value) - FOOTER_BYTES
    if (suite, version, reserved) == (SUITE, VERSION, _RESERVED):
        return (
            f"the value was changed: {end} bytes stand before its tag, expected {payload_bytes}; "
            "fetch the database again from its source"
        )
    if payload_bytes == end:
        return (
            f"the tag of the value is of suite {suite}, version {version}, reserved {reserved.hex()}; "
            f"expected suite {SUITE}, version {VERSION}, reserved zero: a newer ben_secure may read it"
        )
    return None


def _fields(value: bytes | bytearray | memoryview) -> tuple[bytes, bytes, int, int, int, bytes, bytes] | None:
    """The fields of what would be the footer, if it ends in the magic."""
    if value[-8:] != MAGIC or len(value) < FOOTER_BYTES:
        return None
    return _FOOTER.unpack(value[-FOOTER_BYTES:])
