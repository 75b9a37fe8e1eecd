"""Apply a function, such as a hash, to every value of a database: in threads, with bounded memory, in key order.

This module reads only through ``pages`` (private copies by pread, no liblmdb) and decodes nothing. Hashes and ``pread``
release the GIL, so threads suffice, and values stay in this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from ben_secure._system.processors import processors
from ben_secure.errors import LimitExceededError, StoreError
from ben_secure.pages.reader import DatabaseFacts, PageReader
from ben_secure.signing.hashing import Algorithm, hash_of

_BATCH_RECORDS = 256  # enough that the cost of passing a batch is negligible
_BATCHES_A_WORKER = 8  # at least, so that all threads are busy to the end, even in a small database
_REQUESTS = 32  # in flight, to a server
_BATCHES_AHEAD = 3  # for each thread; bounds the results that wait for a slow caller

_Result = TypeVar("_Result")


def record_digests(
    pages: PageReader, workers: int | None = None, algorithm: Algorithm = Algorithm.SHA256
) -> Iterator[tuple[bytes, bytes]]:
    """Hash every value.

    Args:
        pages: The database.
        workers: Number of threads, or None for the number of available processors.
        algorithm: The hash.

    Yields:
        LMDB key, and digest of the whole stored value (32 bytes), keys strictly ascending.

    Raises:
        StoreError: The database is damaged or truncated, or it was written to meanwhile.
        LimitExceededError: A value is longer than ``pages.max_value_bytes``.
        MissingExtraError: The hash is BLAKE3, and its library is not installed.
    """
    function = hash_of(algorithm)
    return map_values(pages, lambda _, value: function(value), workers)


def map_values(
    pages: PageReader, function: Callable[[bytes, bytes], _Result], workers: int | None = None
) -> Iterator[tuple[bytes, _Result]]:
    """Apply a function to every record, in threads.

    Args:
        pages: The database.
        function: Receives LMDB key and value. Threads help if it releases the GIL most of the time. An exception ends
            the iteration.
        workers: Number of threads, or None for the number of available processors.

    Yields:
        LMDB key and what the function returned, keys strictly ascending.

    Raises:
        StoreError: The database is damaged or truncated, or it was written to meanwhile.
        LimitExceededError: A value is longer than ``pages.max_value_bytes``.
    """
    workers = workers or processors()
    facts = pages.facts

    def work(start: bytes, stop: bytes | None) -> list[tuple[bytes, _Result]]:
        return [(lmdb_key, function(lmdb_key, value)) for lmdb_key, value in pages.items(start, stop)]

    pending: deque[Future[list[tuple[bytes, _Result]]]] = deque()
    processed = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ben-secure-values")
    try:
        for start, stop in _ranges(pages, min(_BATCH_RECORDS, 1 + len(pages) // (workers * _BATCHES_A_WORKER))):
            pending.append(pool.submit(work, start, stop))
            if len(pending) > workers * _BATCHES_AHEAD:
                results = pending.popleft().result()
                processed += len(results)
                yield from results
        while pending:
            results = pending.popleft().result()
            processed += len(results)
            yield from results
    finally:
        pool.shutdown(cancel_futures=True)
    check_unchanged(pages, facts)
    # The iteration over all keys has counted the records. A crafted tree can hide some of them from a search.
    if processed != facts.entries:
        raise StoreError(
            f"this LMDB file is damaged: {facts.entries} records are in its tree, and {processed} are found by key; "
            "fetch this database again",
            database=pages.path,
        )


def check_unchanged(pages: PageReader, before: DatabaseFacts) -> None:
    """Check that a database was neither changed nor replaced while it was read.

    Args:
        pages: The database.
        before: Its facts when it was opened.

    Raises:
        StoreError: The database was written to or replaced.
    """
    if not pages.is_in_place():
        raise StoreError(
            "the database was replaced by another file, or removed, during the reading; nothing was written: begin "
            "again with the database that is there now",
            database=pages.path,
        )
    if pages.facts != before:
        raise StoreError(
            "the database was written to while it was read; try again when the writer is done", database=pages.path
        )


def map_some(
    pages: PageReader, function: Callable[[bytes, bytes | None], _Result], lmdb_keys: Iterable[bytes]
) -> Iterator[tuple[bytes, _Result | LimitExceededError]]:
    """Apply a function to some records, in threads: many at a time if each read waits for a server.

    Args:
        pages: The database.
        function: Receives LMDB key and value, or None if there is no such record. An exception ends the iteration.
        lmdb_keys: Keys of the records.

    Yields:
        LMDB key and result of the function, or the error for a value that is too long to be read; in the order of
        ``lmdb_keys``.

    Raises:
        StoreError: The database is damaged or cannot be read.
    """
    workers = _REQUESTS if pages.remote else processors()

    def work(lmdb_key: bytes) -> tuple[bytes, _Result | LimitExceededError]:
        try:
            return lmdb_key, function(lmdb_key, pages.get(lmdb_key))
        except LimitExceededError as error:
            return lmdb_key, error

    pending: deque[Future[tuple[bytes, _Result | LimitExceededError]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ben-secure-values")
    try:
        for lmdb_key in lmdb_keys:
            pending.append(pool.submit(work, lmdb_key))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ranges(pages: PageReader, records: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Divide the keys into ranges of ``records`` records: first key of the range, first key of the next range."""
    starts = islice(pages.keys(), 0, None, records)
    start = next(starts, None)
    while start is not None:
        stop = next(starts, None)
        yield start, stop
        start = stop
