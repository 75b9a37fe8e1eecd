"""Check the LZW codes of a strip or tile before imagecodecs decodes them (T27).

imagecodecs (2026.3 and earlier) assumes without a check that the first code after a CLEAR is a byte. If the code is 258
or more, it uses an uninitialized row of its table: it copies from wild addresses and writes beyond its buffer. This
module accepts a code only if a decoder knows it at that position. It looks up no strings, so it can check a whole run
of codes at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Numbers = npt.NDArray[np.int64]
_CLEAR, _END, _FIRST = 256, 257, 258  # TIFF 6.0, section 13
_MAX_RUN_CODES = 4_096 - _FIRST + 2  # between two CLEARs, when a table of 12 bits is full
_KNOWN = _FIRST + np.arange(_MAX_RUN_CODES) - 1  # the largest valid code at each position of a run
_KNOWN[0] = 255
_WIDTHS = 9 + (_KNOWN >= 511) + (_KNOWN >= 1023) + (_KNOWN >= 2047)  # widths change one code early
_STARTS = np.concatenate([[0], np.cumsum(_WIDTHS)])
_MIN_RUN_BYTES = 512  # on average; libtiff clears its table when it is full, after about 4,000 bytes
_EXTRA_RUNS = 16


def check_codes(packed: bytes) -> None:
    """Check all codes up to END or to the end of the bytes.

    Args:
        packed: The strip or tile (untrusted).

    Raises:
        ValueError: The data does not begin with CLEAR in the bit order of TIFF 6.0, has an undefined code or more codes
            than the table can hold, or clears the table too often.
    """
    if packed[:1] != b"\x80" or packed[1:2] >= b"\x80":
        raise ValueError("its LZW data does not begin with a clear code in the bit order of TIFF 6.0")
    padded = np.frombuffer(packed + bytes(3), np.uint8).astype(np.int64)
    start, end = 9, 8 * len(packed)
    for _ in range(_EXTRA_RUNS + len(packed) // _MIN_RUN_BYTES):
        for most in (_EXTRA_RUNS, _MAX_RUN_CODES):  # a few codes first, because there may be many short runs
            offsets = start + _STARTS[:most]
            offsets = offsets[offsets + _WIDTHS[:most] <= end]
            codes, stop = _run(padded, offsets)
            if stop < len(codes) or len(codes) < most:
                break
        if np.any(codes[:stop] > _KNOWN[:stop]):
            raise ValueError("its LZW data has an undefined code")
        if stop == len(codes) == _MAX_RUN_CODES:
            raise ValueError("its LZW data has more codes than the table can hold")
        if stop == len(codes) or codes[stop] == _END:
            return
        start = int(offsets[stop] + _WIDTHS[stop])
    raise ValueError("its LZW data clears the table too often")


def _run(padded: _Numbers, offsets: _Numbers) -> tuple[_Numbers, int]:
    """Return the codes at some bit offsets, and the index of the first one that is CLEAR or END."""
    at = offsets >> 3
    words = padded[at] << 16 | padded[at + 1] << 8 | padded[at + 2]
    widths = _WIDTHS[: len(offsets)]
    codes = (words >> (24 - (offsets & 7) - widths)) & ((1 << widths) - 1)
    stops = np.flatnonzero((codes == _CLEAR) | (codes == _END))
    return codes, int(stops[0]) if len(stops) else len(codes)
