"""Tell which program wrote a value, from a few of its bytes: a statistic for reports, and no verdict.

Costs a microsecond or two, because an audit does it for every value. Looks at the beginning, behind the first pixels
and at the end; never at the pixels. It decides nothing: a value is what the loader says that it is.
"""

from __future__ import annotations

from ben_secure.tensors.reading import SIGN

REFUSED = "refused"
"""What refused values are counted as."""

SAFETENSORS = "safetensors"

_WINDOW = 512
_TAIL = 4096
_CANONICAL = b"ben_secure.patches"
_LEGACY = b"bigearthnet_patch_interface."
_PIXELS = b"\x89B"  # the order flag of an array state (C order), then its bytes and, in four bytes, how many


def format_of(value: bytes) -> str:
    """Name the writer of a value that the loader has accepted.

    Args:
        value: The stored bytes.

    Returns:
        ``canonical``, ``legacy: interface ..., numpy ..., pydantic ...``, ``safetensors`` or ``other``.
    """
    if value[4:9] == SIGN:
        return SAFETENSORS
    head = value[:_WINDOW]
    if _LEGACY in head:
        return _generation(value, head)
    return "canonical" if _CANONICAL in head else "other"


def _generation(value: bytes, head: bytes) -> str:
    numpy = "2" if b"numpy._core" in head else "1"
    behind = _behind_pixels(value, 0)
    pydantic = "2" if b"__pydantic_fields_set__" in value[behind : behind + _WINDOW] else "1"
    if b"merged_interface" in head:  # the S1 half comes first: what stands behind its second band
        behind = _behind_pixels(value, behind)
        names = value[behind : behind + _WINDOW]
    else:
        names = value[-_TAIL:]
    interface = "0.1.2" if b"\x8c\x06_bands" in names else "0.1.0"
    return f"legacy: interface {interface}, numpy {numpy}, pydantic {pydantic}"


def _behind_pixels(value: bytes, start: int) -> int:
    """Position behind the first pixel block that begins within two windows from ``start``; ``start`` if none does."""
    found = value.find(_PIXELS, start, start + 2 * _WINDOW) + len(_PIXELS)
    if found < len(_PIXELS):
        return start
    return found + 4 + int.from_bytes(value[found : found + 4], "little")
