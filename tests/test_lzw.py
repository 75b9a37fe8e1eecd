"""The codes of LZW: codes that a decoder knows at that point are passed on, anything else never reaches imagecodecs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure.bands import BANDS
from ben_secure.encode.geotiff import decode_band
from ben_secure.encode.lzw import check_codes
from support.geotiffs import tiff

pytestmark = pytest.mark.threat("T27")

CLEAR, END = 256, 257
SPEC = BANDS["B01"]


def packed(codes):
    """Codes as TIFF stores them, each as wide as the table then needs; written apart from the code under test."""
    bits, size = "", None
    for code in codes:
        width = 9 if size is None or size < 511 else 10 if size < 1023 else 11 if size < 2047 else 12
        bits += f"{code:0{width}b}"
        size = None if code == CLEAR else 258 if size is None else size + 1
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def file(strip):
    """A GeoTIFF of one strip that is compressed with LZW."""
    pixels = np.zeros(SPEC.shape, "u2")
    content = tiff(pixels, tags={259: ("H", [5]), 279: ("I", [len(strip)])})
    return content[:8] + strip.ljust(pixels.nbytes, b"\0")[: pixels.nbytes] + content[8 + pixels.nbytes :]


@given(st.binary(max_size=300) | st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).bytes(20_000)))
def test_what_an_encoder_writes_is_passed(data):
    """Also where the table is filled and cleared several times, and where the width of the codes changes."""
    imagecodecs = pytest.importorskip("imagecodecs")
    check_codes(imagecodecs.lzw_encode(data))
    check_codes(imagecodecs.lzw_encode(data * 5))


@pytest.mark.parametrize("place", [1, 2, 3, 254, 255, 256, 2000, 3800])
@pytest.mark.parametrize("before", [0, 700])
def test_a_code_that_stands_for_nothing_is_refused(place, before):
    """At any place of a run, at any width: one more than the decoder may know; at the place itself it is passed."""
    run = [CLEAR, *[65] * place]
    known = 255 if place == 1 else 256 + place
    start = [CLEAR, *[66] * before] if before else []
    check_codes(packed([*start, *run[:-1], known, END]))
    for code in {known + 1, min(known + 200, 4095)} - {CLEAR, END}:
        with pytest.raises(ValueError, match="an undefined code"):
            check_codes(packed([*start, *run[:-1], code, 65, END]))


def test_runs_are_bounded():
    """A table that is never cleared is refused, and one that is cleared again and again, in time."""
    check_codes(packed([CLEAR, *[65] * 3_800]))
    with pytest.raises(ValueError, match="more codes than the table can hold"):
        check_codes(packed([CLEAR, *[65] * 4_000]))
    check_codes(packed([CLEAR] * 10 + [65]))
    with pytest.raises(ValueError, match="clears the table too often"):
        check_codes(packed([CLEAR] * 8_000))
    for begin in (b"", b"\x00\x01abc", b"\x80\x80", b"A"):  # the second one is LZW of before TIFF 6.0
        with pytest.raises(ValueError, match="does not begin with a clear code"):
            check_codes(begin)


def test_no_file_gives_memory_of_the_process_as_pixels():
    """The code 300 right behind CLEAR, which imagecodecs looks up in a table that it has not written, is refused."""
    imagecodecs = pytest.importorskip("imagecodecs")
    honest = imagecodecs.lzw_encode(b"AB" * 400)
    assert decode_band(file(honest), SPEC).tobytes() == b"AB" * 400
    bits = f"{int.from_bytes(honest, 'big'):0{8 * len(honest)}b}"
    changed = int(f"{bits[:9]}{300:09b}{bits[18:]}", 2).to_bytes(len(honest), "big")
    with pytest.raises(ValueError, match="an undefined code"):
        decode_band(file(changed), SPEC)
