"""The hashes of manifests: SHA-256, which every reader has, and BLAKE3 (extra ``[blake3]``).

The list is closed. The signed bytes of a manifest and its signed statement both name the hash, and must agree. A value
never chooses it. BLAKE3 is used in its plain mode with 32 bytes, so ``b3sum`` prints the same digest. No other module
imports the library blake3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import Enum

from ben_secure._system.optional import require

Hash = Callable[[bytes | bytearray | memoryview], bytes]
"""Computes the digest (32 bytes) of some bytes; other threads can run meanwhile."""


class Algorithm(Enum):
    """A hash. The value is its name in a signed statement."""

    SHA256 = "sha256"
    """FIPS 180-4."""
    BLAKE3 = "blake3"
    """https://github.com/BLAKE3-team/BLAKE3-specs, section 2, mode ``hash``."""


def hash_of(algorithm: Algorithm) -> Hash:
    """Return the function of a hash.

    Raises:
        MissingExtraError: The hash is BLAKE3, and its library is not installed.
    """
    if algorithm is Algorithm.SHA256:
        return _sha256
    require("a manifest of BLAKE3 digests", "blake3")
    from blake3 import blake3

    return lambda data: bytes(blake3(data).digest())


def _sha256(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(data).digest()
