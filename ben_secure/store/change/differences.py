"""The changes between two releases: records added, changed and removed, by their lists alone.

This module compares two lists of records in key order, and counts. It does not verify signatures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ben_secure.signing._record_list import Record

KEPT = 20
"""Number of LMDB keys that a tally keeps. Further ones are only counted."""


@dataclass(slots=True)
class Tally:
    """Counts the records of one sort, and keeps the first keys.

    Attributes:
        count: Number of records.
        first: LMDB keys of the first ones, at most ``KEPT``.
    """

    count: int = 0
    first: list[bytes] = field(default_factory=list)

    def add(self, lmdb_key: bytes) -> None:
        """Count one record."""
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(lmdb_key)


@dataclass(slots=True)
class Changes:
    """The differences between a list of records and the previous one.

    Attributes:
        added: Records that only the new list has.
        changed: Records with another value.
        removed: Records that only the old list has.
        unchanged: Number of records in both lists, with the same value.
    """

    added: Tally = field(default_factory=Tally)
    changed: Tally = field(default_factory=Tally)
    removed: Tally = field(default_factory=Tally)
    unchanged: int = 0


def changes(old: Iterable[Record], new: Iterable[Record]) -> Changes:
    """Compare two lists of records, in constant memory.

    Args:
        old: LMDB key and digest of each record of the previous release, keys ascending.
        new: LMDB key and digest of each record of the new release, with the same kind of digest.

    Returns:
        The changes.
    """
    result = Changes()
    deque(compared(old, new, result), maxlen=0)
    return result


def compared(old: Iterable[Record], new: Iterable[Record], result: Changes) -> Iterator[Record]:
    """Compare two lists like ``changes``, while iterating over the new one.

    Args:
        old: As for ``changes``.
        new: As for ``changes``.
        result: Counts the changes. Complete when the iterator is at its end.

    Yields:
        The records of ``new``.
    """
    remaining = iter(old)
    before = next(remaining, None)
    for lmdb_key, digest in new:
        while before is not None and before[0] < lmdb_key:
            result.removed.add(before[0])
            before = next(remaining, None)
        if before is None or before[0] != lmdb_key:
            result.added.add(lmdb_key)
        else:
            if before[1] == digest:
                result.unchanged += 1
            else:
                result.changed.add(lmdb_key)
            before = next(remaining, None)
        yield lmdb_key, digest
    while before is not None:
        result.removed.add(before[0])
        before = next(remaining, None)
