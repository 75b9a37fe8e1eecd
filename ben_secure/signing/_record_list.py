"""The file ``NAME.manifest``: every record of a database as its LMDB key and the digest of its stored value.

This module turns records into bytes and bytes into records. It never opens a file by name, and does not know the origin
of the bytes: ``manifest.Manifest`` passes only bytes whose digest was signed. Parsing is strict nevertheless, so each
list has one encoding. All integers are little-endian. The parts follow each other without gaps, and nothing follows the
last:

| offset | bytes | field |
|---|---|---|
| 0 | 8 | magic: 89 42 65 6e 4d 61 6e 0a (hexadecimal) |
| 8 | 4 | version, u32: 1 or 2 |
| 12 | 4 | u32; in version 1 the bytes of a digest, 32; in version 2 the hash, 2 for BLAKE3 |
| 16 | 8 | n, u64: number of records |
| 24 | 8 | k, u64: bytes of all LMDB keys together |
| 32 | 8 (n + 1) | offsets, u64 each: LMDB key i is bytes offset[i] to offset[i + 1] of the next field; offset[n] = k |
| 40 + 8 n | k | the LMDB keys, 1 to 511 bytes each, strictly ascending in LMDB's order (by byte; a prefix first) |
| 40 + 8 n + k | 32 n | digests of the whole stored value of record i: in version 1 SHA-256 (FIPS 180-4) |

Lists of SHA-256 digests are written as version 1, so old readers can read them. Every change that a reader of the old
version would misread or refuse raises the version. A reader refuses versions that it does not know.
"""

from __future__ import annotations

import hashlib
import operator
import struct
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import IO

import numpy as np
import numpy.typing as npt

from ben_secure.errors import ManifestMismatchError, Rule, printable
from ben_secure.signing.hashing import Algorithm

DIGEST_BYTES = 32
MAX_KEY_BYTES = 511
"""Longest LMDB key (``MDB_MAXKEYSIZE`` of liblmdb)."""

_HEADER = struct.Struct("<8sIIQQ")
_MAGIC = b"\x89BenMan\n"
_VERSION_AND_KIND = {
    Algorithm.SHA256: (1, DIGEST_BYTES),
    Algorithm.BLAKE3: (2, 2),
}  # the closed list: version, and u32 at 12
_ALGORITHMS = {numbers: algorithm for algorithm, numbers in _VERSION_AND_KIND.items()}
_OFFSET = struct.Struct("<Q")
_SPAN = struct.Struct("<QQ")
_CHUNK_RECORDS = 16_384
_SPOOL_BYTES = 16 * 2**20
_COPY_BYTES = 2**20

Record = tuple[bytes, bytes]
"""LMDB key, and digest of the value."""


@dataclass(frozen=True, slots=True)
class Written:
    """Facts about a list that ``write_record_list`` wrote.

    Attributes:
        count: Records.
        sha256: SHA-256 of the whole file, 32 bytes.
    """

    count: int
    sha256: bytes


def write_record_list(records: Iterable[Record], file: IO[bytes], algorithm: Algorithm = Algorithm.SHA256) -> Written:
    """Write the list of some records, with bounded memory for any number of records.

    Args:
        records: Key and digest of each record, keys strictly ascending.
        file: The output. It need not be seekable.
        algorithm: The hash that made the digests.

    Returns:
        The number of records, and the digest of the output.

    Raises:
        ValueError: A key is empty, too long or does not ascend, or a digest does not have 32 bytes.
    """
    count = end = 0
    previous = b""
    with ExitStack() as stack:
        offsets, lmdb_keys, digests = (
            stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)) for _ in range(3)
        )
        offsets.write(_OFFSET.pack(0))
        for lmdb_key, digest in records:
            if not previous < lmdb_key or len(lmdb_key) > MAX_KEY_BYTES or len(digest) != DIGEST_BYTES:
                raise ValueError(
                    f"record {count} is {printable(lmdb_key)} with a digest of {len(digest)} bytes, after "
                    f"{printable(previous)}; expected ascending keys of 1 to {MAX_KEY_BYTES} bytes and digests of "
                    f"{DIGEST_BYTES}"
                )
            previous = lmdb_key
            count += 1
            end += len(lmdb_key)
            offsets.write(_OFFSET.pack(end))
            lmdb_keys.write(lmdb_key)
            digests.write(digest)
        header = _HEADER.pack(_MAGIC, *_VERSION_AND_KIND[algorithm], count, end)
        file.write(header)
        whole = hashlib.sha256(header)
        for part in (offsets, lmdb_keys, digests):
            part.seek(0)
            while block := part.read(_COPY_BYTES):
                whole.update(block)
                file.write(block)
    return Written(count, whole.digest())


def max_file_bytes(count: int) -> int:
    """Return the greatest possible size in bytes of a list of ``count`` records."""
    return _HEADER.size + _OFFSET.size + count * (_OFFSET.size + MAX_KEY_BYTES + DIGEST_BYTES)


class RecordList:
    """A parsed list. It consists of views of one bytes object, so 600,000 records take little more than their bytes.

    Attributes:
        algorithm: The hash that made the digests.
    """

    def __init__(self, data: bytes) -> None:
        """Parse and check a whole list.

        Args:
            data: The content of the file. It is kept, and each lookup reads from it.

        Raises:
            ManifestMismatchError: ``write_record_list`` does not write these bytes for any records.
        """
        self._data = data
        self.algorithm, self._count, key_bytes = _read_header(data)
        self._offsets_at = _HEADER.size
        self._keys_at = self._offsets_at + _OFFSET.size * (self._count + 1)
        self._digests_at = self._keys_at + key_bytes
        self._check_offsets(key_bytes)
        previous = b""
        for lmdb_keys in self._key_chunks():
            ascending = previous < lmdb_keys[0] and all(map(operator.lt, lmdb_keys, islice(lmdb_keys, 1, None)))
            if not ascending:
                raise _malformed("its keys do not ascend")
            previous = lmdb_keys[-1]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the records (key and digest) in key order."""
        index = 0
        for lmdb_keys in self._key_chunks():
            for lmdb_key in lmdb_keys:
                yield lmdb_key, self._digest(index)
                index += 1

    def digest_of(self, lmdb_key: bytes) -> bytes | None:
        """Find the listed digest of a key.

        Args:
            lmdb_key: Raw key.

        Returns:
            32 bytes, or None if the key is not in the list.
        """
        index = bisect_left(range(self._count), lmdb_key, key=self._lmdb_key)
        if index < self._count and self._lmdb_key(index) == lmdb_key:
            return self._digest(index)
        return None

    def keys_between(self, start: bytes, stop: bytes | None) -> Iterator[bytes]:
        """Iterate over the keys from ``start`` (inclusive) to ``stop`` (exclusive; None for the end), in order."""
        first, last = (
            self._count if bound is None else bisect_left(range(self._count), bound, key=self._lmdb_key)
            for bound in (start, stop)
        )
        return map(self._lmdb_key, range(first, last))

    def key_of(self, digest: bytes) -> bytes | None:
        """Find the key under which a digest is listed. The first call builds an index of 16 bytes per record.

        Args:
            digest: Digest of a value, made by the hash of the list.

        Returns:
            The first key that has this digest, or None.
        """
        order, heads = self._by_digest
        head = np.frombuffer(digest, "<u8", 1)[0]
        first = int(np.searchsorted(heads, head))
        same_head = order[first : int(np.searchsorted(heads, head, "right"))]
        return next((self._lmdb_key(i) for i in same_head.tolist() if self._digest(i) == digest), None)

    @cached_property
    def _by_digest(self) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
        """Record numbers, sorted by the first eight bytes of their digests, and these eight bytes."""
        heads = np.frombuffer(self._data, "<u8", self._count * DIGEST_BYTES // 8, self._digests_at)[
            :: DIGEST_BYTES // 8
        ]
        order = np.argsort(heads, kind="stable")
        return order, heads[order]

    def _check_offsets(self, key_bytes: int) -> None:
        offsets = self._offsets()
        lengths = np.diff(offsets)  # unsigned: a descending offset makes a huge length
        if offsets[0] != 0 or offsets[-1] != key_bytes or not np.all((lengths >= 1) & (lengths <= MAX_KEY_BYTES)):
            raise _malformed(f"its key offsets are not those of keys of 1 to {MAX_KEY_BYTES} bytes")

    def _offsets(self) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._data, "<u8", self._count + 1, self._offsets_at)

    def _key_chunks(self) -> Iterator[list[bytes]]:
        """Iterate over all keys in order, in lists of at most ``_CHUNK_RECORDS``."""
        data = self._data
        offsets = self._offsets()
        for first in range(0, self._count, _CHUNK_RECORDS):
            ends = (offsets[first : first + _CHUNK_RECORDS + 1] + np.uint64(self._keys_at)).tolist()
            yield [data[start:end] for start, end in zip(ends, islice(ends, 1, None), strict=False)]

    def _lmdb_key(self, index: int) -> bytes:
        start, end = _SPAN.unpack_from(self._data, self._offsets_at + _OFFSET.size * index)
        return self._data[self._keys_at + start : self._keys_at + end]

    def _digest(self, index: int) -> bytes:
        start = self._digests_at + DIGEST_BYTES * index
        return self._data[start : start + DIGEST_BYTES]


def _read_header(data: bytes) -> tuple[Algorithm, int, int]:
    """Check the header against the length of the file. Return the hash, and the numbers of records and key bytes."""
    if len(data) < _HEADER.size or data[: len(_MAGIC)] != _MAGIC:
        raise _malformed(f"it begins with {printable(data[: len(_MAGIC)])}, expected {printable(_MAGIC)}")
    _, version, detail, count, key_bytes = _HEADER.unpack_from(data)
    algorithm = _ALGORITHMS.get((version, detail))
    if algorithm is None:
        raise _malformed(
            f"it is of version {version} with digests of kind {detail}, expected one of "
            f"{', '.join(f'{known} with {kind}' for known, kind in _ALGORITHMS)}; a newer ben-secure may read it"
        )
    expected = _HEADER.size + _OFFSET.size * (count + 1) + key_bytes + DIGEST_BYTES * count
    if len(data) != expected:
        raise _malformed(f"it has {len(data)} bytes, expected {expected}")
    return algorithm, count, key_bytes


def _malformed(fault: str) -> ManifestMismatchError:
    return ManifestMismatchError(
        f"this is not a manifest of records: {fault}; fetch the manifest again", rule=Rule.MANIFEST
    )
