"""The hashes that a manifest may list values by: SHA-256, which every reader has, and BLAKE3 (extra ``[blake3]``).

A closed list. Which one a manifest uses stands in its signed bytes and in the signed statement, and both must agree; a
value never says it. BLAKE3 is used in its plain mode with 32 bytes, so ``b3sum`` prints the same. The only module that
imports the library blake3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import Enum

from ben_secure._system.optional import require

Hash = Callable[[bytes | bytearray | memoryview], bytes]
"""Makes the digest (32 bytes) of some bytes; lets other threads run while it does."""


class Algorithm(Enum):
    """A hash, under the name that a signed statement has for it."""

    SHA256 = "sha256"
    """FIPS 180-4."""
    BLAKE3 = "blake3"
    """https://github.com/BLAKE3-team/BLAKE3-specs, section 2, mode ``hash``."""


def hash_of(algorithm: Algorithm) -> Hash:
    """Find the function.

    Raises:
        MissingExtraError: It is BLAKE3, and that library is not installed.
    """
    if algorithm is Algorithm.SHA256:
        return _sha256
    require("a manifest of BLAKE3 digests", "blake3")
    from blake3 import blake3

    return lambda data: bytes(blake3(data).digest())


def _sha256(data: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(data).digest()
