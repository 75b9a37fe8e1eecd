"""The keys of a database cut into ranges, and the judgement of one range: what an audit's workers do.

A range is a task that travels: it names everything that is needed to judge it, in another process or on another
machine. Nothing here starts a process, and nothing of a value is kept. The law: the tallies of the ranges of any
partition, added up in key order, are the tally of the whole.
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

CHANGED = "the database was changed while it was checked; check it again when nobody writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells one state of one data file from another; equal for an unchanged file, on every machine.

    Attributes:
        inode: Number of the file in its file system.
        file_bytes: Its size.
        mtime_ns: Time of its last change, nanoseconds since 1970.
        ctime_ns: The same, as the file system notes it, and as who writes the file cannot set it.
        txnid: Id of the last committed transaction.
        entries: Records, as the meta page says.
    """

    inode: int
    file_bytes: int
    mtime_ns: int
    ctime_ns: int
    txnid: int
    entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeTask:
    """One range of keys, to be judged.

    Attributes:
        path: Absolute path of the database.
        identity: The state in which it was when it was cut into ranges.
        start: First key; ``b""`` for the beginning.
        stop: Key to end before; None for the end.
        position: Records of the database before the range.
        records: Records in the range.
        options: How to judge them.
        whole: Whether every record between ``start`` and ``stop`` is to be there, so that what a manifest lists and the
            database lacks is missed; not so for samples.
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
        """Whether nothing but the key ``start`` can be in the range."""
        return self.stop == self.start + b"\0"


def open_pages(path: str, options: Options) -> PageReader:
    """Open a database for its audit; raises as ``PageReader`` does."""
    return PageReader(path, max_value_bytes=options.limits.max_value_bytes + FOOTER_BYTES)


def identity_of(pages: PageReader) -> Identity:
    """Tell in which state a database is now.

    Raises:
        StoreError: It cannot be read.
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
    """Cut a database into ranges by a walk over its keys; reads no values that stand outside the tree.

    Args:
        pages: The database.
        path: Its absolute path, for the workers.
        options: How to judge.
        records: How many records a range has, at most.
        start: Key to begin at.
        position: Records before it.

    Yields:
        The ranges in key order; one at least. Together they are all keys, seen or not.

    Raises:
        StoreError: The tree is damaged. What was walked before was given out.
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
    """Leave to a shard what it is to judge; each range is that of one shard.

    Args:
        tasks: From ``cut``, with as many records a range for each shard.
        number: Of the shard, from 1 on.
        count: How many there are.
        entries: Records of the database.

    Yields:
        Its ranges, which follow each other.

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
    """Pick records spread evenly over the keys, the same ones each time.

    Args:
        pages: The database.
        path: Its absolute path, for the workers.
        options: How to judge.
        count: How many; fewer than there are.

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


def split(pages: PageReader, task: RangeTask, place: int) -> list[RangeTask]:
    """Cut a range around one of its records, so that this one can be judged alone.

    Args:
        pages: The database.
        task: The range.
        place: Records of the range before the one in question.

    Returns:
        Ranges that follow each other and together are the range; the one in question is ``alone`` in its own.

    Raises:
        StoreError: The tree is damaged.
    """
    lmdb_key = next(islice(pages.keys(task.start, task.stop), place, None), None)
    if lmdb_key is None:
        return [task]
    behind = lmdb_key + b"\0"  # the least key behind it
    bounds = [
        (task.start, lmdb_key, task.position, place),
        (lmdb_key, behind, task.position + place, 1),
        (behind, task.stop, task.position + place + 1, task.records - place - 1),
    ]
    return [
        replace(task, start=start, stop=stop, position=position, records=records)
        for start, stop, position, records in bounds
        if start != stop
    ]


@lru_cache(maxsize=1)
def _opened(path: str, identity: Identity, options: Options) -> tuple[PageReader, Judge]:
    """The reader and the judge of this process; made anew for another state of the database."""
    return open_pages(path, options), Judge(path, options)


class _Buffer:
    """The memory into which one value after the other is read; as long as the longest of them."""

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
        announce: Called with n before record n of the range is read, and at the end: what the process is at, should it
            not come back.

    Returns:
        What was found. Why not all could be judged is its ``undecided``; what was found before that is in it.

    Raises:
        ResourceError: There is not enough memory to judge a value. This process is of no more use; a new one may judge
            that value alone.
    """
    tally = Tally()
    try:
        pages, judge = _opened(task.path, task.identity, task.options)
        _check_unchanged(pages, task)
        try:
            _judge(task, pages, judge, tally, announce)
        finally:
            _check_unchanged(pages, task)  # or what was read, or looks damaged, is of no one state
    except ResourceError:
        raise
    except BenSecureError as error:  # of the database or of the manifest; those of a value are findings
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
        except (LimitExceededError, StoreError) as error:  # of the reader: it is too long to be read, or its pages are
            if error.lmdb_key is None or error.rule is None:  # damaged; if it is not the value, nothing is behind it
                raise
            if missing is not None:
                missing.before(error.lmdb_key, tally)
            judge.refuse_unread(tally, task.position + tally.processed, error)
            announce(tally.processed)
            start = error.lmdb_key + b"\0"  # the least key behind it
    if missing is not None:
        missing.before(None, tally)
    if tally.processed != task.records:
        raise StoreError(
            f"this LMDB file is damaged: {task.records} records are in a part of its tree, and "
            f"{tally.processed} are found by their keys; fetch this database again"
        )


class _Missing:
    """Finds the records of a manifest that a range lacks, in key order among the others."""

    def __init__(self, manifest: Manifest, task: RangeTask) -> None:
        self._listed = manifest.keys_between(task.start, task.stop)
        self._next = next(self._listed, None)
        self._position = task.position

    def before(self, lmdb_key: bytes | None, tally: Tally) -> None:
        """Report what is listed before a key that is there; None for the end of the range."""
        while self._next is not None and (lmdb_key is None or self._next < lmdb_key):
            tally.add(
                Finding(
                    lmdb_key=self._next,
                    rule=Rule.RECORD_MISSING,
                    message="the record is missing: the signed manifest lists it, the database does not have it; fetch "
                    "this database again from its publisher",
                    position=self._position + tally.processed,
                )
            )
            self._next = next(self._listed, None)
        if self._next == lmdb_key and lmdb_key is not None:
            self._next = next(self._listed, None)
