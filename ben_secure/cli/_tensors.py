"""Describe the header of an untrusted safetensors value, as plain data and as lines of text.

This module judges nothing. Its output is escaped and bounded, like all text from a file.
"""

from __future__ import annotations

from ben_secure.errors import BenSecureError, printable
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.signing.footer import payload_end
from ben_secure.tensors.header import DTYPES, LENGTH_BYTES, header_bytes, read_header

_NAMES = {code: name for name, code in DTYPES.items()}
_LINE_BYTES = 80
_MAX_LINES = 60


def tensor_facts(value: bytes) -> dict[str, object]:
    """Describe an accepted value: ``format``, ``globals`` (always empty) and ``tensors``."""
    header = header_bytes(value, payload_end(value), DEFAULT_LIMITS)
    start = LENGTH_BYTES + len(header)
    return {
        "format": f"safetensors, header of {len(header):,} bytes",
        "globals": [],
        "tensors": [
            {
                "name": printable(tensor.name),
                "dtype": _NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "bytes": [start + tensor.start, start + tensor.stop],
            }
            for tensor in read_header(header, DEFAULT_LIMITS).tensors
        ],
    }


def header_lines(value: bytes) -> list[str]:
    """List a header: a line for each tensor and each item of metadata, or the raw bytes if it cannot be parsed.

    Args:
        value: The stored bytes (untrusted).

    Returns:
        Lines of printable ASCII.
    """
    try:
        header = header_bytes(value, payload_end(value), DEFAULT_LIMITS)
        parsed = read_header(header, DEFAULT_LIMITS)
    except BenSecureError:
        return _raw_lines(value)
    start = LENGTH_BYTES + len(header)
    lines = [
        f"{start + tensor.start:>11,}  {_NAMES[tensor.dtype]:<5}  {list(tensor.shape)!s:<12}  {printable(tensor.name)}"
        for tensor in parsed.tensors
    ]
    items = (parsed.metadata or {}).items()
    metadata = [f"{'metadata':>11}  {printable(name)}: {len(text):,} characters" for name, text in items]
    return [*lines, *metadata[:_MAX_LINES]]


def _raw_lines(value: bytes) -> list[str]:
    end = min(len(value), LENGTH_BYTES + int.from_bytes(value[:LENGTH_BYTES], "little"))
    starts = range(LENGTH_BYTES, end, _LINE_BYTES)
    lines = [
        f"{start:>11,}  {printable(value[start : min(end, start + _LINE_BYTES)], 400)}" for start in starts[:_MAX_LINES]
    ]
    left_out = [f"{'':11}  ... the rest of the header, up to byte {end:,}, left out ..."]
    return lines + left_out * (len(starts) > _MAX_LINES)
