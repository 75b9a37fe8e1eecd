"""``RangeFile``: one pinned version of one object on a server, with the interface of ``pages.data_file.DataFile``.

The first request fetches the beginning of the object and pins its version. Every later request asks for that version,
and fails if it is gone. So a snapshot of a remote database is current as long as it can be read, and no request is
needed to check this. Only the ranges that are read are fetched. Each is fetched once, even if several threads request
it.
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

    Threads may share it. A forked child opens its own connections to the same version.

    Attributes:
        url: Its URL with the pinned version, for another process.
    """

    def __init__(self, *urls: str) -> None:
        """Fetch the beginning of an object.

        Args:
            urls: Possible URLs, in the order to try. The ``url`` of another ``RangeFile`` is pinned to that version.

        Raises:
            MissingExtraError: The packages for this kind of URL are not installed.
            StoreError: The object cannot be read or is empty, or the server cannot serve ranges of one version.
        """
        self._flying: dict[tuple[int, int], Future[Answer]] = {}
        for url in urls:
            self._url, self._pid = url, -1
            pin = url.pin if isinstance(url, Url) else None
            try:
                self._head, self._size, self._pin = self._begin(0, _HEAD_BYTES, pin).result()
                break
            except MissingObjectError as error:
                if url is urls[-1]:
                    raise StoreError(f"it cannot be opened: {error}") from None
        self._flying = {}
        self.url = Url(url[:])
        self.url.pin = self._pin

    def size(self) -> int:
        """Return the size of the object in bytes."""
        return self._size

    def is_in_place(self) -> bool:
        """Whether the opened object is still read. Always True, because reading fails otherwise."""
        return True

    def read_up_to(self, offset: int, size: int) -> bytes:
        """Read a byte range, or less at the end of the object.

        Raises:
            StoreError: The object was changed, or the server cannot be reached.
            ValueError: The file was closed.
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
        """Read exactly ``size`` bytes. Raises like ``read_up_to``, and StoreError if the object ends before."""
        data = self.read_up_to(offset, size)
        if len(data) != size:
            raise StoreError(
                f"the object is truncated: {size} bytes expected at byte {offset}, found {len(data)}", offset=offset
            )
        return data

    def read_behind(self, offset: int, header_bytes: int, size: int) -> tuple[bytes, bytes]:
        """Read a header and the bytes that follow it, in one request. Otherwise like ``read``."""
        data = self.read(offset, header_bytes + size)
        return data[:header_bytes], data[header_bytes:]

    def read_into(self, offset: int, header: bytearray, view: memoryview) -> None:
        """Fill a header, then a writable view, with the bytes from ``offset`` on. Otherwise like ``read``."""
        header[:], view[:] = self.read_behind(offset, len(header), len(view))

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Start to fetch ranges (offset, bytes) that will be read, in parallel, up to a bound on their bytes."""
        if self._pid == 0:
            return
        if len(self._flying) > _MOST_EXPECTED:  # the earlier ranges were never read
            self._flying.clear()
        left = _MOST_EXPECTED_BYTES
        for offset, size in ranges:
            stop = min(offset + size, self._size)
            left -= size
            if left > 0 and stop > max(offset, len(self._head)):
                self._begin(offset, stop, self._pin)

    def _begin(self, start: int, stop: int, pin: Pin | None) -> Future[Answer]:
        if self._pid != os.getpid():  # a forked child has no loop and no connections
            if self._pid > 0:
                _forget_loop()
            self._object = _opened(self._url)
            self._flying = {}
            self._pid = os.getpid()
        mine: Future[Answer] = Future()
        future = self._flying.setdefault((start, stop), mine)  # atomic, so all threads share one request
        if future is mine:
            task = asyncio.run_coroutine_threadsafe(_patiently(self._object, start, stop, pin), self._object.loop)
            task.add_done_callback(lambda finished: _hand_over(finished, mine))
        return future

    def close(self) -> None:
        """Close the object. A second call has no effect."""
        self._pid = 0
        self._flying = {}


def open_data_file(url: str) -> RangeFile:
    """Open the data file of a database at a URL. Raises like ``RangeFile``."""
    pinned = isinstance(url, Url) and url.pin is not None
    return RangeFile(*([url] if pinned else data_files(url)))


def read_small(url: str, max_bytes: int) -> bytes:
    """Read a whole object. Of a longer object than allowed, read one byte too many.

    Raises:
        StoreError: As for ``RangeFile``.
    """
    file = RangeFile(Url(url[:]))
    return file.read_up_to(0, min(file.size(), max_bytes + 1))


def _forget_loop() -> None:
    """Let fsspec start an event loop in this process. Releases before 2025 keep using the parent's loop."""
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
    """Repeat a request that may succeed, a bounded number of times."""
    for pause in _PAUSES_S:
        try:
            return await source.get(start, stop, pin)
        except TryAgainError:
            await asyncio.sleep(pause)
    try:
        return await source.get(start, stop, pin)
    except TryAgainError as error:
        raise StoreError(f"{error}, in all of {len(_PAUSES_S) + 1} attempts; try again later") from None


def _hand_over(finished: Future[Answer], mine: Future[Answer]) -> None:
    error = finished.exception()
    if error is not None:
        mine.set_exception(error)
    else:
        mine.set_result(finished.result())
