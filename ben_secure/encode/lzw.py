"""The codes of a strip or tile that is compressed with LZW, checked before imagecodecs decodes them (T27).

imagecodecs (2026.3 and before) takes the first code behind a CLEAR for a byte without looking at it. One of 258 or more
makes it use a row of its table that it has never written: it copies from wild addresses, and writes behind its buffer.
Here every code has to be one that a decoder knows by then. No string is looked up, so that whole runs of codes are
checked at once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Numbers = npt.NDArray[np.int64]
_CLEAR, _END, _FIRST = 256, 257, 258  # TIFF 6.0, section 13
_MOST_CODES = 4_096 - _FIRST + 2  # from one CLEAR to the next; a table of 12 bits is full then
_KNOWN = _FIRST + np.arange(_MOST_CODES) - 1  # the greatest code that each place of a run may have
_KNOWN[0] = 255
_WIDTHS = 9 + (_KNOWN >= 511) + (_KNOWN >= 1023) + (_KNOWN >= 2047)  # which change one code early
_STARTS = np.concatenate([[0], np.cumsum(_WIDTHS)])
_LEAST_RUN_BYTES = 512  # on average; libtiff clears its table when it is full, after some 4,000 bytes
_MORE_RUNS = 16


def check_codes(packed: bytes) -> None:
    """Check every code up to the one that ends the data, or to the end of the bytes.

    Args:
        packed: The strip or tile; hostile.

    Raises:
        ValueError: It does not begin with CLEAR in the bit order of TIFF 6.0, has a code that stands for nothing, more
            codes than its table has room for, or clears the table again and again.
    """
    if packed[:1] != b"\x80" or packed[1:2] >= b"\x80":
        raise ValueError("its LZW does not begin with a clear code in the bit order of TIFF 6.0")
    padded = np.frombuffer(packed + bytes(3), np.uint8).astype(np.int64)
    start, end = 9, 8 * len(packed)
    for _ in range(_MORE_RUNS + len(packed) // _LEAST_RUN_BYTES):
        for most in (_MORE_RUNS, _MOST_CODES):  # a few first: there may be many short runs
            places = start + _STARTS[:most]
            places = places[places + _WIDTHS[:most] <= end]
            codes, stop = _run(padded, places)
            if stop < len(codes) or len(codes) < most:
                break
        if np.any(codes[:stop] > _KNOWN[:stop]):
            raise ValueError("its LZW has a code that stands for nothing")
        if stop == len(codes) == _MOST_CODES:
            raise ValueError("its LZW has more codes than its table has room for")
        if stop == len(codes) or codes[stop] == _END:
            return
        start = int(places[stop] + _WIDTHS[stop])
    raise ValueError("its LZW clears its table again and again")


def _run(padded: _Numbers, places: _Numbers) -> tuple[_Numbers, int]:
    """The codes that begin at some bits, and the place of the first that is CLEAR or ends the data."""
    at = places >> 3
    words = padded[at] << 16 | padded[at + 1] << 8 | padded[at + 2]
    widths = _WIDTHS[: len(places)]
    codes = (words >> (24 - (places & 7) - widths)) & ((1 << widths) - 1)
    stops = np.flatnonzero((codes == _CLEAR) | (codes == _END))
    return codes, int(stops[0]) if len(stops) else len(codes)
