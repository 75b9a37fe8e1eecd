"""The hashes of manifests: SHA-256 always, BLAKE3 where its library is installed and as its paper says."""

import hashlib
import pathlib
import runpy
import sys
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import MissingExtraError
from ben_secure.signing.hashing import Algorithm, hash_of

VECTORS = pathlib.Path(__file__).parent / "vectors"
by_hand = runpy.run_path(str(VECTORS / "blake3_by_hand.py"))["blake3"]
needs_blake3 = pytest.mark.skipif(find_spec("blake3") is None, reason="the library blake3 is not installed")

# Of test_vectors.json of the reference implementation, by the number of bytes 0, 1, ..., 250, 0, 1, ...
OFFICIAL = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
}


def counted(size):
    return bytes(number % 251 for number in range(size))


@pytest.mark.parametrize("size", OFFICIAL)
def test_the_implementation_of_the_vectors_is_that_of_the_paper(size):
    """The vectors of the project are made with it, so nothing hangs on one library."""
    assert by_hand(counted(size)).hex() == OFFICIAL[size]


@needs_blake3
@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 2049, 3072, 3073, 4097, 10_000])
def test_the_library_agrees_with_the_paper(size):
    """At each border of blocks and chunks, for any kind of buffer."""
    data = counted(size)
    digest = hash_of(Algorithm.BLAKE3)
    assert digest(data) == digest(bytearray(data)) == digest(memoryview(data)) == by_hand(data)


@needs_blake3
@given(st.binary(max_size=3000))
def test_any_bytes_have_one_digest(data):
    """By the library and by hand, and it has 32 bytes."""
    assert hash_of(Algorithm.BLAKE3)(data) == by_hand(data)
    assert hash_of(Algorithm.SHA256)(data) == hashlib.sha256(data).digest()
    assert {len(hash_of(algorithm)(data)) for algorithm in Algorithm} == {32}


def test_without_the_library_the_error_names_it(monkeypatch):
    """And SHA-256 needs none."""
    monkeypatch.setitem(sys.modules, "blake3", None)
    assert hash_of(Algorithm.SHA256)(b"") == hashlib.sha256().digest()
    with pytest.raises(MissingExtraError, match=r"a manifest of BLAKE3 digests needs blake3, .*: pip install blake3"):
        hash_of(Algorithm.BLAKE3)


def test_the_list_is_closed():
    """Two hashes, by the names that statements have."""
    assert [algorithm.value for algorithm in Algorithm] == ["sha256", "blake3"]
