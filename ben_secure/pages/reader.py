"""Read an untrusted LMDB 0.9 database through ``os.pread``: bounds-checked, as private copies, without liblmdb.

The reader never maps the file, never passes it to liblmdb, never writes, and never opens ``lock.mdb``. Every file gives
an answer or a ``BenSecureError``, after work at most in proportion to its size. In contrast to liblmdb with its map, a
crafted file cannot crash the process (T5), a writer cannot change bytes between check and use (T6), and a file that
shrinks causes an error, not a SIGBUS (T7). The results for every well-formed plain database are those of liblmdb.

Consistency without a lock. LMDB never overwrites a page of the last committed state. Let our snapshot be the state of
transaction T. Transactions F >= T + 1 free its pages, and enter them in the free list under F. A writer W reuses only
entries older than ``mdb_find_oldest``, which is W - 1 if no reader is registered (we never register), so F <= W - 2 and
W >= T + 3. There is one writer at a time, so T + 1 and T + 2 were committed before W began. Each commit changes a meta
page: transaction N writes page N & 1, with its transaction id last. Other pages are written before the meta page that
refers to them. So: **read first; if the meta pages have not changed since the snapshot, the bytes belong to state T,
which was current at the check.** If they changed, the snapshot and its cached pages are dropped, and the read is
repeated. This holds for errors, too: an apparent damage during a commit is read again before it is reported. A meta
page that was torn when it was read also differs at the check. (This does not hold on a network file system with the
writer on another host, where LMDB itself does not work either. There, a value is still read within its bounds, and a
signature covers its content.)

The parts: ``data_file`` reads bytes, ``_meta`` and ``_nodes`` parse them, ``_snapshot`` reads one committed state, and
this module notices that a state is no longer current.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

from ben_secure.errors import BenSecureError, Rule, StoreError
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.pages._accounts import check_accounts
from ben_secure.pages._snapshot import Allocate, Snapshot
from ben_secure.pages.data_file import DataFile
from ben_secure.remote.addresses import absolute, is_remote, redacted
from ben_secure.signing.footer import FOOTER_BYTES

if TYPE_CHECKING:
    from ben_secure.remote.range_file import RangeFile

_ATTEMPTS = 1000
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFacts:
    """Facts about a database from its newer meta page; unverified, like everything in the file.

    Attributes:
        page_bytes: Page size.
        depth: Levels of the tree, or 0 for an empty database.
        branch_pages: Number of branch pages.
        leaf_pages: Number of leaf pages.
        overflow_pages: Number of pages of values that do not fit into a leaf.
        last_page: Number of the last page in use.
        entries: Number of records.
        txnid: Id of the last committed transaction.
        map_bytes: Map size of the last writer.
        file_bytes: Size of the data file.
    """

    page_bytes: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    last_page: int
    entries: int
    txnid: int
    map_bytes: int
    file_bytes: int


MAX_STORED_BYTES = DEFAULT_LIMITS.max_value_bytes + FOOTER_BYTES
"""Default maximum length of a value: a payload at the default limit, and its footer."""


class PageReader(AbstractContextManager["PageReader"]):
    """The records of one plain LMDB database, by raw key.

    Threads may share a reader. A forked child may use the inherited one. A pickle of a reader contains its path, and
    unpickling opens the file again. A reader keeps the file that it opened: if a writer replaces the file (as
    ``PatchWriter`` does), open a new reader to see the new one.

    Attributes:
        path: The database as the caller named it; a URL without its credentials.
        absolute_path: The absolute path, for another process; for a URL, the URL with the version that was opened.
        max_value_bytes: Maximum length of a value. Longer ones are refused before they are read.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_value_bytes: int = MAX_STORED_BYTES) -> None:
        """Open a database: a directory with ``data.mdb`` inside, or the data file itself (``subdir=False``).

        Args:
            path: The directory or the file; or an ``https``, ``http`` or ``s3`` URL of one of them.
            max_value_bytes: Longest value to read, with its footer if it is tagged.

        Raises:
            StoreError: There is no readable file at ``path``, it is not a plain LMDB 0.9 database (64-bit,
                little-endian), or it is damaged on the path to its first record.
            MissingExtraError: ``path`` is a URL, and the packages of the extra ``[remote]`` are not installed.
        """
        self.absolute_path = absolute(path)
        self.path = redacted(os.fspath(path))
        self.max_value_bytes = max_value_bytes
        try:
            self._file = self._opened(os.fspath(path))
            self._snapshot = self._take_snapshot()
            next(self.keys(b""), None)  # find named databases and damaged roots here, not in the middle of the work
        except BenSecureError as error:
            self.close()
            error.located(self.path)
            raise

    def _opened(self, path: str) -> DataFile | RangeFile:
        if not is_remote(path):
            return DataFile(path)
        from ben_secure.remote.range_file import open_data_file  # here, because local files do not need it

        file = open_data_file(path)
        self.absolute_path = file.url
        return file

    @property
    def remote(self) -> bool:
        """Whether each read waits for a server, so that many reads at a time are faster."""
        return not isinstance(self._file, DataFile)

    def get(self, lmdb_key: bytes) -> bytes | None:
        """Read the value of a key.

        Args:
            lmdb_key: Raw key.

        Returns:
            A private copy of the value, or None if there is no such key.

        Raises:
            LimitExceededError: The value is longer than ``max_value_bytes``. It was not read.
            StoreError: The database is damaged or truncated, or a writer commits too often for a consistent read.
        """
        value: bytes | None = self._consistent(Snapshot.get, lmdb_key)
        return value

    def get_into(self, lmdb_key: bytes, allocate: Allocate) -> memoryview | None:
        """Read the value of a key into memory of the caller. Otherwise as ``get``.

        Args:
            lmdb_key: Raw key.
            allocate: Returns a writable view of the requested number of bytes. It may be called several times.

        Returns:
            The filled view, or None if there is no such key.
        """
        view: memoryview | None = self._consistent(partial(Snapshot.get, allocate=allocate), lmdb_key)
        return view

    def __contains__(self, lmdb_key: bytes) -> bool:
        """Whether there is such a key. The value is not read. Errors are those of ``get``."""
        return self._consistent(Snapshot.find, lmdb_key) is not None

    def __len__(self) -> int:
        """Number of records, from the meta page. A full iteration checks it."""
        return self._consistent(lambda snapshot, _: snapshot.meta.entries)

    def keys(self, start: bytes | None = None, stop: bytes | None = None) -> Iterator[bytes]:
        """Iterate over the keys in order, without reading values outside the tree.

        If a writer commits meanwhile, the iteration continues in the new state, after its last key.

        Args:
            start: First key, if it exists, or None for the beginning.
            stop: Key to end before, or None for the end.

        Yields:
            Keys, strictly ascending.

        Raises:
            StoreError: As ``get``, or if the keys do not ascend, or their number differs from the meta page.
        """
        return self._follow(Snapshot.key_batches, lambda lmdb_key: lmdb_key, start, stop)

    def items(self, start: bytes | None = None, stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over the records in key order. Arguments and errors as for ``keys``.

        Yields:
            Key and value, keys strictly ascending.

        Raises:
            LimitExceededError: A value is longer than ``max_value_bytes``. This ends the iteration; continue with
                ``start=error.lmdb_key + b"\\0"``.
            StoreError: As ``keys``.
        """
        return self._follow(Snapshot.item_batches, itemgetter(0), start, stop)

    def items_into(self, allocate: Allocate, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, memoryview]]:
        """Iterate over the records in key order, into memory of the caller, without a check that they are current.

        Values and errors are valid only if ``facts`` are the same before the iteration and after its end (see the
        module's docstring). The caller must check this.

        Args:
            allocate: As for ``get_into``. All values may use the same memory.
            start: First key, if it exists.
            stop: Key to end before, or None for the end.

        Yields:
            Key and filled view, keys strictly ascending.

        Raises:
            LimitExceededError: As ``items``.
            StoreError: As ``items``.
        """
        try:
            yield from self._snapshot.items_in(start, stop, allocate)
        except BenSecureError as error:
            error.located(self.path)
            raise

    def spread(self, count: int) -> list[bytes]:
        """Pick keys spread evenly over the tree, the same ones each time, without reading all keys.

        Args:
            count: Number of keys, at least one.

        Returns:
            ``count`` keys or a few less, ascending. All keys if there are not more.

        Raises:
            StoreError: As ``get``.
        """
        if 2 * count >= len(self):
            every = list(self.keys())
            return [every[index * len(every) // count] for index in range(count)] if count < len(every) else every
        return self._consistent(lambda snapshot, _: snapshot.spread(count))

    @property
    def facts(self) -> DatabaseFacts:
        """The present facts, from the newer meta page."""
        return self._consistent(_facts)

    def is_in_place(self) -> bool:
        """Whether the path still leads to the open file."""
        return self._file.is_in_place()

    def file_content(self, offset: int, size: int) -> bytes:
        """Read raw bytes of the data file, without parsing pages and without noticing writers.

        Args:
            offset: First byte.
            size: Number of bytes. Fewer are returned at the end of the file.

        Raises:
            StoreError: The operating system reports an error.
        """
        return self._file.read_up_to(offset, size)

    def page_fault(self) -> str | None:
        """Check that every page of the database has one owner. Values outside the trees are not read.

        Returns:
            None, or a description of the fault: a page has two owners or none, is out of place or damaged, or a count
            of the meta page is wrong.

        Raises:
            StoreError: The operating system reports an error, the database is of another kind, or a writer commits too
                often.
        """

        def look(snapshot: Snapshot, _: bytes) -> str | None:
            try:
                check_accounts(snapshot)
            except StoreError as error:
                if error.rule is not Rule.DAMAGED:
                    raise
                return error.message
            return None

        return self._consistent(look)

    @property
    def status(self) -> os.stat_result:
        """The present ``fstat`` of the open data file: inode, size, time of the last change.

        Raises:
            StoreError: The operating system refuses, or it is not a file of this machine.
        """
        if not isinstance(self._file, DataFile):
            raise StoreError("this needs a database in a file; download it first", database=self.path)
        return self._file.status()

    def _take_snapshot(self) -> Snapshot:
        # A meta page may be read while it is written. An error that persists three times has another cause.
        for _ in range(2):
            try:
                return Snapshot(self._file, self.max_value_bytes)
            except StoreError:
                continue
        return Snapshot(self._file, self.max_value_bytes)

    def _consistent(self, read: Callable[[Snapshot, bytes], _Result], lmdb_key: bytes = b"") -> _Result:
        """Read, then check that the snapshot is current; otherwise repeat in a new one (see the module's docstring)."""
        snapshot = self._snapshot
        for _ in range(_ATTEMPTS):
            try:
                result = read(snapshot, lmdb_key)
            except BenSecureError as error:
                if snapshot.is_current():
                    error.located(self.path, lmdb_key or None)
                    raise
            else:
                if snapshot.is_current():
                    return result
            snapshot = self._snapshot = self._take_snapshot()
        raise self._busy()

    def _follow(
        self,
        batches: Callable[[Snapshot, bytes | None, bytes | None], Iterator[list[_Result]]],
        key_of: Callable[[_Result], bytes],
        start: bytes | None,
        stop: bytes | None,
    ) -> Iterator[_Result]:
        """Yield the results of a walk, and check each batch like ``_consistent``."""
        snapshot = self._snapshot
        walk = batches(snapshot, start, stop)
        failures = 0
        while failures < _ATTEMPTS:
            try:
                batch = next(walk, None)
            except BenSecureError as error:
                if snapshot.is_current():
                    error.located(self.path)
                    raise
            else:
                if snapshot.is_current():
                    if batch is None:
                        return
                    if batch:
                        yield from batch
                        start = key_of(batch[-1]) + b"\0"  # the least greater key
                        failures = 0
                    continue
            failures += 1
            snapshot = self._snapshot = self._take_snapshot()
            walk = batches(snapshot, start, stop)
        raise self._busy()

    def _busy(self) -> StoreError:
        return StoreError(
            f"a writer committed during each of {_ATTEMPTS} attempts to read; try again when it is done",
            database=self.path,
        )

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. A second call has no effect. No other thread may be reading."""
        if hasattr(self, "_file"):
            self._file.close()

    def __reduce__(self) -> tuple[Callable[[str, int], PageReader], tuple[str, int]]:
        return _reopen, (self.absolute_path, self.max_value_bytes)


def _reopen(path: str, max_value_bytes: int) -> PageReader:
    return PageReader(path, max_value_bytes=max_value_bytes)


def _facts(snapshot: Snapshot, _: bytes) -> DatabaseFacts:
    meta = snapshot.meta
    return DatabaseFacts(
        page_bytes=meta.page_bytes,
        depth=meta.depth,
        branch_pages=meta.branch_pages,
        leaf_pages=meta.leaf_pages,
        overflow_pages=meta.overflow_pages,
        last_page=meta.last_page,
        entries=meta.entries,
        txnid=meta.txnid,
        map_bytes=meta.map_bytes,
        file_bytes=snapshot.file_bytes,
    )
