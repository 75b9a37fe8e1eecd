"""``RangeFile``: one pinned version of one object on a server, read as ``pages.data_file.DataFile`` reads a file.

The first request fetches the beginning of the object and pins its version; every later one asks for that version and
is refused if it is gone. So a snapshot of a remote database is current for as long as it can be read at all, and no
request is spent on finding that out. Nothing but the ranges that are read is fetched, each once, also if threads ask
for one at the same time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Protocol

from ben_secure.errors import ResourceError, StoreError
from ben_secure.remote.addresses import Url, data_files
from ben_secure.remote.answers import Answer, MissingObjectError, Pin, TryAgainError

_HEAD_BYTES = 2**16
_PAUSES_S = (0.25, 1.0, 3.0)
_MOST_EXPECTED, _MOST_EXPECTED_BYTES = 256, 2**25


class _Object(Protocol):
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    async def get(self, start: int, stop: int, pin: Pin | None) -> Answer: ...


class RangeFile:
    """An open object.

    Threads may share it; a forked child opens its own connections to the same version.

    Attributes:
        url: Where it is, with the pinned version, for another process.
    """

    def __init__(self, *places: str) -> None:
        """Fetch the beginning of an object.

        Args:
            places: Where it may be, in the order in which to look. One that is the ``url`` of another ``RangeFile`` is
                pinned to its version.

        Raises:
            MissingExtraError: The packages for this kind of URL are not installed.
            StoreError: It cannot be read, is empty, or the server cannot serve ranges of one version.
        """
        self._flying: dict[tuple[int, int], Future[Answer]] = {}
        for place in places:
            self._place, self._pid = place, -1
            pin = place.pin if isinstance(place, Url) else None
            try:
                self._head, self._size, self._pin = self._begin(0, _HEAD_BYTES, pin).result()
                break
            except MissingObjectError as error:
                if place is places[-1]:
                    raise StoreError(f"it cannot be opened: {error}") from None
        self._flying = {}
        self.url = Url(place[:])
        self.url.pin = self._pin

    def size(self) -> int:
        """Bytes of the object."""
        return self._size

    def is_in_place(self) -> bool:
        """Whether what is read is what was opened: always, or reading is an error."""
        return True

    def read_up_to(self, offset: int, size: int) -> bytes:
        """Read a byte range; shorter than asked for where the object ends.

        Raises:
            StoreError: The object was changed, or the server cannot be reached.
            ValueError: It was closed.
        """
        if self._pid == 0:
            raise ValueError("this database was closed; open it again")
        stop = min(offset + size, self._size)
        if stop <= len(self._head) or stop <= offset:
            return self._head[offset:stop]
        future = self._flying.get((offset, stop)) or self._begin(offset, stop, self._pin)
        try:
            return future.result().data
        except MemoryError as error:
            raise ResourceError.reading(size) from error
        except MissingObjectError as error:
            raise StoreError(f"the object cannot be read any more: {error}") from None
        finally:
            self._flying.pop((offset, stop), None)

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly ``size`` bytes; raises as ``read_up_to``, and StoreError if the object ends before."""
        data = self.read_up_to(offset, size)
        if len(data) != size:
            raise StoreError(
                f"the object is truncated: {size} bytes expected at byte {offset}, found {len(data)}", offset=offset
            )
        return data

    def read_behind(self, offset: int, header_bytes: int, size: int) -> tuple[bytes, bytes]:
        """Read a header and what follows it, in one request; otherwise as ``read``."""
        data = self.read(offset, header_bytes + size)
        return data[:header_bytes], data[header_bytes:]

    def read_into(self, offset: int, header: bytearray, view: memoryview) -> None:
        """Fill a header, then a writable view, with the bytes from ``offset`` on; otherwise as ``read``."""
        header[:], view[:] = self.read_behind(offset, len(header), len(view))

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Begin to fetch ranges (offset, bytes) that will be read, as many at the same time as memory allows."""
        if self._pid == 0:
            return
        if len(self._flying) > _MOST_EXPECTED:  # nobody came for those
            self._flying.clear()
        left = _MOST_EXPECTED_BYTES
        for offset, size in ranges:
            stop = min(offset + size, self._size)
            left -= size
            if left > 0 and stop > max(offset, len(self._head)):
                self._begin(offset, stop, self._pin)

    def _begin(self, start: int, stop: int, pin: Pin | None) -> Future[Answer]:
        if self._pid != os.getpid():  # a forked child has neither the loop nor the connections
            if self._pid > 0:
                _forget_loop()
            self._object = _opened(self._place)
            self._flying = {}
            self._pid = os.getpid()
        mine: Future[Answer] = Future()
        future = self._flying.setdefault((start, stop), mine)  # one step, so one request for all threads
        if future is mine:
            task = asyncio.run_coroutine_threadsafe(_patiently(self._object, start, stop, pin), self._object.loop)
            task.add_done_callback(lambda done: _hand_over(done, mine))
        return future

    def close(self) -> None:
        """Give the object up; doing it twice is harmless."""
        self._pid = 0
        self._flying = {}


def open_data_file(url: str) -> RangeFile:
    """Open the data file of a database at a URL; errors as for ``RangeFile``."""
    pinned = isinstance(url, Url) and url.pin is not None
    return RangeFile(*([url] if pinned else data_files(url)))


def read_small(url: str, max_bytes: int) -> bytes:
    """Read a whole object, or a byte more than it may have if it is longer.

    Raises:
        StoreError: As for ``RangeFile``.
    """
    file = RangeFile(Url(url[:]))
    return file.read_up_to(0, min(file.size(), max_bytes + 1))


def _forget_loop() -> None:
    """Have fsspec start an event loop in this process; releases before 2025 believe in that of the parent."""
    import fsspec.asyn

    thread = fsspec.asyn.iothread[0]
    if thread is not None and not thread.is_alive():
        fsspec.asyn.reset_lock()


def _opened(url: str) -> _Object:
    if url.lower().startswith("s3:"):
        from ben_secure.remote._bucket import BucketObject

        return BucketObject(url)
    from ben_secure.remote._web import WebObject

    return WebObject(url)


async def _patiently(source: _Object, start: int, stop: int, pin: Pin | None) -> Answer:
    """Try again what may succeed, a bounded number of times."""
    for pause in _PAUSES_S:
        try:
            return await source.get(start, stop, pin)
        except TryAgainError:
            await asyncio.sleep(pause)
    try:
        return await source.get(start, stop, pin)
    except TryAgainError as error:
        raise StoreError(f"{error}, also when tried {len(_PAUSES_S) + 1} times; try again later") from None


def _hand_over(done: Future[Answer], mine: Future[Answer]) -> None:
    error = done.exception()
    if error is not None:
        mine.set_exception(error)
    else:
        mine.set_result(done.result())
