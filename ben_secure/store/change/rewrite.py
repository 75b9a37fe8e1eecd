"""Copy a database record by record, transforming each value. The copy appears complete or not at all.

This module reads raw records with ``pages`` and never changes the source. A value that cannot be transformed is
refused. By default, nothing is copied from a database with a refused value. All refusals are counted in any case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ben_secure._system.appear import refuse_taken
from ben_secure.errors import LimitExceededError, StoreError, UntrustedDataError
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.reader import DatabaseFacts, PageReader
from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.store._names import check_length
from ben_secure.store.change.digests import check_unchanged
from ben_secure.store.writer import PatchWriter

KEPT = 20
"""Number of refusals that are kept in detail. Further ones are only counted."""

Progress = Callable[[int, int], None]
"""Called with the number of processed records, and the number of all records."""

Transform = Callable[[bytes, bytes], bytes]
"""Makes the new value of an LMDB key and an old value, or raises ``UntrustedDataError``."""

CopyTransform = Callable[[bytes, bytes], bytes | None]
"""Like ``Transform``, for a copy. None leaves the record out, because another record has its content."""


@dataclass(slots=True, kw_only=True)
class Refusals:
    """The number of refused values, and the first of them.

    Attributes:
        count: Number of refused values.
        first: The errors of the first ones in key order, at most ``KEPT``, each with its LMDB key.
    """

    count: int = 0
    first: list[UntrustedDataError] = field(default_factory=list)

    def add(self, lmdb_key: bytes, error: UntrustedDataError) -> None:
        """Count one refused value."""
        self.count += 1
        if len(self.first) < KEPT:
            error.lmdb_key = lmdb_key
            self.first.append(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """Result of ``rewrite``.

    Attributes:
        checked: Number of records, all of which were read.
        written: Number of records in the new database, or 0 if there is none.
        refusals: Values that could not be transformed.
        joined: Number of records whose content is in another record.
    """

    checked: int
    written: int
    refusals: Refusals
    joined: int = 0


def records(reader: PageReader) -> Iterator[tuple[bytes, bytes | LimitExceededError]]:
    """Iterate over all records, and continue after values that are too long to be read.

    Args:
        reader: The database.

    Yields:
        LMDB key, and the stored bytes or the error for a value that is too long.

    Raises:
        StoreError: The database is damaged, or it was changed while it was read.
    """
    before = reader.facts
    start = None
    while True:
        try:
            yield from reader.items(start)
            break
        except LimitExceededError as error:
            if error.lmdb_key is None:
                raise
            yield error.lmdb_key, error
            start = error.lmdb_key + b"\0"  # the least greater key
    check_unchanged(reader, before)


def rewrite(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    transform: CopyTransform,
    *,
    skip_refused: bool = False,
    others: Sequence[tuple[PageReader, DatabaseFacts]] = (),
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Rewritten:
    """Write a new database from the values of another.

    Args:
        source: The database to read.
        target: Directory to make. It must not exist.
        transform: Makes each new value.
        skip_refused: Leave refused values out and write the rest. Otherwise nothing is written if a value is refused,
            but the others are still checked.
        others: Further databases that ``transform`` reads, or that were verified, with their facts at that time. They
            must not be changed or replaced meanwhile.
        limits: Limits for old and new values.
        progress: Called after each record.

    Returns:
        The result. There is a new database exactly if ``written`` is not 0.

    Raises:
        StoreError: There is no database at ``source``, it is empty, damaged or was changed meanwhile, ``target``
            exists, or it cannot be written.
    """
    target = os.fspath(target)
    refuse_taken(target)
    refusals = Refusals()
    checked = written = joined = 0
    try:
        with (
            PageReader(source, max_value_bytes=limits.max_value_bytes + FOOTER_BYTES) as reader,
            PatchWriter(target, limits=limits) as writer,
        ):
            total = len(reader)
            for lmdb_key, value in records(reader):
                checked += 1
                try:
                    if not isinstance(value, bytes):
                        raise value
                    check_length(lmdb_key)
                    new_value = transform(lmdb_key, value)
                    if new_value is None:
                        joined += 1
                    elif skip_refused or not refusals.count:
                        writer.put_stored(lmdb_key, new_value)
                        written += 1
                except UntrustedDataError as error:
                    refusals.add(lmdb_key, error)
                if progress is not None:
                    progress(checked, total)
            for other, facts in others:
                check_unchanged(other, facts)
            if not checked:
                raise StoreError("the database is empty, so there is nothing to write", database=reader.path)
            if not written or (refusals.count and not skip_refused):
                raise _Abandoned
    except _Abandoned:
        written = joined = 0
    return Rewritten(checked=checked, written=written, refusals=refusals, joined=joined)


class _Abandoned(Exception):
    """Leaves the block of a writer without a new database."""
