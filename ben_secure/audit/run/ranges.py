"""Cut the keys of a database into ranges, and judge one range. The workers of an audit run this module.

A range is a task that contains everything needed to judge it in another process or on another machine. This module
starts no process and keeps no value. The law: for any partition of the keys, the tallies of the ranges, added up in
key order, are the tally of the whole database.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from ben_secure.audit.findings import Finding, Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.errors import BenSecureError, LimitExceededError, ResourceError, Rule, StoreError
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import FOOTER_BYTES

if TYPE_CHECKING:
    from ben_secure.signing.manifest import Manifest

CHANGED = "the database changed during the audit; repeat it when no program writes to the database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Identifies one state of one data file. Equal for an unchanged file on all machines that share the file system.

    Attributes:
        inode: Inode number.
        file_bytes: Size of the file.
        mtime_ns: Modification time, nanoseconds since 1970 (UTC).
        ctime_ns: Time of the last status change, nanoseconds since 1970 (UTC). The owner of the file cannot set it.
        txnid: Id of the last committed transaction.
        entries: Number of records according to the meta page.
    """

    inode: int
    file_bytes: int
    mtime_ns: int
    ctime_ns: int
    txnid: int
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTask:
    """One range of keys to judge.

    Attributes:
        path: Absolute path of the database.
        identity: State of the database when it was cut into ranges.
        start: First LMDB key; ``b""`` for the beginning.
        stop: LMDB key before which the range ends, or None for the end of the database.
        position: Number of records before the range.
        records: Number of records in the range.
        options: How to judge.
        whole: Whether records between ``start`` and ``stop`` that a manifest lists but the database lacks count as
            missing. False for samples.
    """

    path: str
    identity: Identity
    start: bytes
    stop: bytes | None
    position: int
    records: int
    options: Options
    whole: bool = True

    @property
    def alone(self) -> bool:
        """Whether the range can contain only the key ``start``."""
        return self.stop == self.start + b"\0"


def open_pages(path: str, options: Options) -> PageReader:
    """Open a database for its audit. Raises as ``PageReader`` does."""
    return PageReader(path, max_value_bytes=options.limits.max_value_bytes + FOOTER_BYTES)


def identity_of(pages: PageReader) -> Identity:
    """Identify the current state of a database.

    Raises:
        StoreError: The data file cannot be read.
    """
    status, facts = pages.status, pages.facts
    return Identity(
        inode=status.st_ino,
        file_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        txnid=facts.txnid,
        entries=facts.entries,
    )


def cut(
    pages: PageReader, path: str, options: Options, records: int, start: bytes = b"", position: int = 0
) -> Iterator[RangeTask]:
    """Cut a database into ranges by a walk over its keys. Overflow pages are not read.

    Args:
        pages: The database.
        path: Its absolute path, for the workers.
        options: How to judge.
        records: Maximum number of records in a range.
        start: LMDB key to begin at.
        position: Number of records before ``start``.

    Yields:
        At least one range, in key order. Together the ranges cover all possible keys from ``start`` on.

    Raises:
        StoreError: The tree is damaged. The ranges before the damage have been yielded.
    """
    identity = identity_of(pages)
    seen = 0
    previous = start

    def task(stop: bytes | None) -> RangeTask:
        return RangeTask(
            path=path, identity=identity, start=start, stop=stop, position=position, records=seen, options=options
        )

    try:
        for lmdb_key in pages.keys(start):
            if seen == records:
                yield task(lmdb_key)
                start, position, seen = lmdb_key, position + seen, 0
            seen += 1
            previous = lmdb_key
    except BenSecureError:
        if seen:
            yield task(previous + b"\0")
        raise
    yield task(None)


def of_shard(tasks: Iterator[RangeTask], number: int, count: int, entries: int) -> Iterator[RangeTask]:
    """Select the ranges of one shard. Each range belongs to exactly one shard.

    Args:
        tasks: From ``cut``, with the same number of records per range for all shards.
        number: Number of the shard, starting at 1.
        count: Number of shards.
        entries: Number of records in the database.

    Yields:
        The ranges of the shard, which are consecutive.

    Raises:
        StoreError: As ``cut``.
    """
    first, last = (number - 1) * entries // count, number * entries // count
    for task in tasks:
        if number < count and task.position >= last:
            return
        if task.position >= first:
            yield task


def sample(pages: PageReader, path: str, options: Options, count: int) -> Iterator[RangeTask]:
    """Select records spread evenly over the keys. Each call selects the same ones.

    Args:
        pages: The database.
        path: Its absolute path, for the workers.
        options: How to judge.
        count: Number of records to select, fewer than the database has.

    Yields:
        Ranges of one record, in key order.

    Raises:
        StoreError: The tree is damaged.
    """
    identity = identity_of(pages)
    lmdb_keys = pages.keys()
    walked = 0
    for number in range(count):
        position = number * identity.entries // count
        lmdb_key = next(islice(lmdb_keys, position - walked, None), None)
        walked = position + 1
        if lmdb_key is None:
            return
        yield RangeTask(
            path=path,
            identity=identity,
            start=lmdb_key,
            stop=lmdb_key + b"\0",
            position=position,
            records=1,
            options=options,
            whole=False,
        )


def split(pages: PageReader, task: RangeTask, index: int) -> list[RangeTask]:
    """Cut a range around one of its records, so that this record can be judged alone.

    Args:
        pages: The database.
        task: The range.
        index: Index of the record in the range.

    Returns:
        Consecutive ranges that together are the range. The range of the record is ``alone``.

    Raises:
        StoreError: The tree is damaged.
    """
    lmdb_key = next(islice(pages.keys(task.start, task.stop), index, None), None)
    if lmdb_key is None:
        return [task]
    after = lmdb_key + b"\0"  # the smallest key after it
    bounds = [
        (task.start, lmdb_key, task.position, index),
        (lmdb_key, after, task.position + index, 1),
        (after, task.stop, task.position + index + 1, task.records - index - 1),
    ]
    return [
        replace(task, start=start, stop=stop, position=position, records=records)
        for start, stop, position, records in bounds
        if start != stop
    ]


@lru_cache(maxsize=1)
def _opened(path: str, identity: Identity, options: Options) -> tuple[PageReader, Judge]:
    """Open the reader and the judge of this process. Another state of the database needs new ones."""
    return open_pages(path, options), Judge(path, options)


class _Buffer:
    """Memory into which values are read one after another. It grows to the size of the longest value."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(2**18))

    def __call__(self, size: int) -> memoryview:
        if size > len(self._view):
            self._view = memoryview(bytearray(size))
        return self._view[:size]


_buffer = _Buffer()


def _silent(_: int) -> None:
    pass


def judge_range(task: RangeTask, announce: Callable[[int], None] = _silent) -> Tally:
    """Judge every record of a range.

    Args:
        task: The range.
        announce: Called with n before record n of the range is read, and with the number of records at the end. If the
            process dies, this number identifies the record that it was judging.

    Returns:
        The tally. If not every record could be judged, ``undecided`` is the reason, and the tally has the earlier
        findings.

    Raises:
        ResourceError: There is not enough memory to judge a value. End this process. A new one may be able to judge
            that value alone.
    """
    tally = Tally()
    try:
        pages, judge = _opened(task.path, task.identity, task.options)
        _check_unchanged(pages, task)
        try:
            _judge(task, pages, judge, tally, announce)
        finally:
            _check_unchanged(pages, task)  # otherwise the records or the damage may mix two states
    except ResourceError:
        raise
    except BenSecureError as error:  # about the database or the manifest; errors of values are findings
        tally.undecided = error.message
        _opened.cache_clear()
    return tally


def _check_unchanged(pages: PageReader, task: RangeTask) -> None:
    if identity_of(pages) != task.identity:
        raise StoreError(CHANGED)


def _judge(task: RangeTask, pages: PageReader, judge: Judge, tally: Tally, announce: Callable[[int], None]) -> None:
    missing = _Missing(judge.listed, task) if judge.listed is not None and task.whole else None
    start: bytes = task.start
    announce(0)
    while True:
        try:
            for lmdb_key, value in pages.items_into(_buffer, start, task.stop):
                if missing is not None:
                    missing.before(lmdb_key, tally)
                judge.count(tally, task.position + tally.processed, lmdb_key, value)
                announce(tally.processed)
            break
        except (LimitExceededError, StoreError) as error:
            if error.lmdb_key is None or error.rule is None:  # not about one value, so the walk cannot continue
                raise
            # The value is too long, or its pages are damaged.
            if missing is not None:
                missing.before(error.lmdb_key, tally)
            judge.refuse_unread(tally, task.position + tally.processed, error)
            announce(tally.processed)
            start = error.lmdb_key + b"\0"  # the smallest key after it
    if missing is not None:
        missing.before(None, tally)
    if tally.processed != task.records:
        raise StoreError(
            f"this LMDB file is damaged: a part of its tree has {task.records} records, but a search by key finds "
            f"{tally.processed}; fetch this database again"
        )


class _Missing:
    """Finds the records that a manifest lists but a range lacks, in key order."""

    def __init__(self, manifest: Manifest, task: RangeTask) -> None:
        self._listed = manifest.keys_between(task.start, task.stop)
        self._next = next(self._listed, None)
        self._position = task.position

    def before(self, lmdb_key: bytes | None, tally: Tally) -> None:
        """Report the listed records before the next existing key. Return None for the end of the range."""
        while self._next is not None and (lmdb_key is None or self._next < lmdb_key):
            tally.add(
                Finding(
                    lmdb_key=self._next,
                    rule=Rule.RECORD_MISSING,
                    message="the record is missing: the signed manifest lists it, but the database does not have it; "
                    "fetch this database again from its publisher",
                    position=self._position + tally.processed,
                )
            )
            self._next = next(self._listed, None)
        if self._next == lmdb_key and lmdb_key is not None:
            self._next = next(self._listed, None)
