"""Describe the header of a safetensors value that nobody vouches for, in plain data and lines. Shows, never judges.

What is shown is escaped and bounded, as everything from a file.
"""

from __future__ import annotations

from ben_secure.errors import BenSecureError, printable
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.signing.footer import payload_end
from ben_secure.tensors.header import DTYPES, LENGTH_BYTES, Header, header_bytes, read_header

_NAMES = {code: name for name, code in DTYPES.items()}
_LINE_BYTES = 80
_MAX_LINES = 60


def tensor_facts(value: bytes) -> dict[str, object]:
    """Describe a value that the loader has accepted: its ``format``, no ``globals``, its ``tensors``."""
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
    """Show a header: a line for each tensor if it can be read, otherwise its bytes as they are.

    Args:
        value: The stored bytes; hostile.

    Returns:
        Lines of printable ASCII.
    """
    try:
        header = header_bytes(value, payload_end(value), DEFAULT_LIMITS)
        found = read_header(header, DEFAULT_LIMITS)
    except BenSecureError:
        return _as_it_is(value)
    start = LENGTH_BYTES + len(header)
    lines = [
        f"{start + tensor.start:>11,}  {_NAMES[tensor.dtype]:<5}  {list(tensor.shape)!s:<12}  {printable(tensor.name)}"
        for tensor in found.tensors
    ]
    metadata = [f"{'metadata':>11}  {printable(name)}: {len(text):,} characters" for name, text in _items(found)]
    return [*lines, *metadata[:_MAX_LINES]]


def _items(found: Header) -> list[tuple[str, str]]:
    return list((found.metadata or {}).items())


def _as_it_is(value: bytes) -> list[str]:
    end = min(len(value), LENGTH_BYTES + int.from_bytes(value[:LENGTH_BYTES], "little"))
    places = range(LENGTH_BYTES, end, _LINE_BYTES)
    lines = [
        f"{place:>11,}  {printable(value[place : min(end, place + _LINE_BYTES)], 400)}" for place in places[:_MAX_LINES]
    ]
    left_out = [f"{'':11}  ... the rest of the header, {end:,} bytes, left out ..."] if len(places) > _MAX_LINES else []
    return lines + left_out
