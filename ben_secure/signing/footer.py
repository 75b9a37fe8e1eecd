"""The footer of a tagged value: its structure, so that payload and footer can be told apart without a key.

Checks nothing that a key is needed for (``signing.tags`` does). 64 bytes behind the payload, integers little-endian:
tag (32), key id (8), payload length (u64), suite (u8), version (u8), reserved (6, zero), magic (8).
"""

from __future__ import annotations

import struct

FOOTER_BYTES = 64
MAGIC = b"\x89BenTag\n"
"""The last 8 bytes of a tagged value. Not ASCII, not UTF-8, and not how a pickle ends (``.``)."""
VERSION = 1
SUITE = 1
"""HMAC-SHA-256 (RFC 2104, FIPS 180-4) under a key derived by HKDF (RFC 5869)."""
RESERVED = bytes(6)
FOOTER = struct.Struct("<32s8sQBB6s8s")
"""Tag, key id, payload bytes, suite, version, reserved, magic."""


def payload_end(value: bytes | memoryview) -> int:
    """Find where the payload of a stored value ends.

    Args:
        value: The stored bytes; hostile.

    Returns:
        The position of the footer, if the value ends with one of this version and for a payload of this length;
        otherwise the length of the value.
    """
    end = len(value) - FOOTER_BYTES
    if end < 0 or value[-len(MAGIC) :] != MAGIC:
        return len(value)
    _, _, payload_bytes, suite, version, reserved, _ = FOOTER.unpack_from(value, end)
    known = payload_bytes == end and (suite, version, reserved) == (SUITE, VERSION, RESERVED)
    return end if known else len(value)
