"""The data file of an LMDB environment: open it read-only and read byte ranges with ``os.pread``.

This module never maps the file, because a mapped file that shrinks kills the process (T7). It never writes, never
creates or opens ``lock.mdb``, and never blocks on anything but a regular file. Every error of the operating system
becomes a ``StoreError``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from ben_secure._system.causes import reason
from ben_secure.errors import ResourceError, Rule, StoreError, printable

DATA_FILE_NAME = "data.mdb"
"""Name of the data file in an environment that is a directory (liblmdb, ``DATANAME`` in mdb.c)."""


def data_file_path(path: str) -> str:
    """Return the data file of an environment, which is a directory or (``subdir=False``) the file itself.

    Args:
        path: The database as the user names it.

    Returns:
        ``path/data.mdb`` if ``path`` is a directory, else ``path``.
    """
    return os.path.join(path, DATA_FILE_NAME) if os.path.isdir(path) else path


def lock_file_path(path: str) -> str:
    """Return the path of liblmdb's lock file of an environment (``LOCKNAME`` and ``LOCKSUFF`` in mdb.c).

    Args:
        path: The database as the user names it.

    Returns:
        ``path/lock.mdb`` if ``path`` is a directory, else ``path-lock``.
    """
    return os.path.join(path, "lock.mdb") if os.path.isdir(path) else path + "-lock"


class DataFile:
    """A file descriptor and its operations.

    ``os.pread`` takes the offset as an argument, so there is no common file offset. Threads can share one descriptor
    without a lock, and a forked child can use the inherited one.
    """

    _fd = -1  # so that __del__ finds it if __init__ fails

    def __init__(self, path: str) -> None:
        """Open the data file of the environment at ``path``.

        Args:
            path: Directory with ``data.mdb`` inside, or the data file.

        Raises:
            StoreError: There is no such file, it is not a regular file, or it cannot be opened.
        """
        file_path = data_file_path(path)
        self._path = os.path.abspath(file_path)
        # O_NONBLOCK: opening a FIFO must not wait for a writer. The flag has no effect on a regular file.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            self._fd = os.open(file_path, flags)
            mode = os.fstat(self._fd).st_mode
        except FileNotFoundError as error:
            raise StoreError(
                f"no LMDB database here: {printable(file_path, 400)} does not exist; expected a directory with "
                f"{DATA_FILE_NAME} inside, or the data file itself; check the path"
            ) from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            cause = reason(error) if isinstance(error, OSError) else printable(str(error))
            raise StoreError(f"cannot open {printable(file_path, 400)}: {cause}") from error
        if not stat.S_ISREG(mode):
            self.close()
            raise StoreError(
                f"{printable(file_path, 400)} is a {stat.filemode(mode)[0]!r} node, expected a regular file; "
                "an LMDB database is read from a regular file only"
            )

    @property
    def descriptor(self) -> int:
        """The file descriptor, for a child process that reads the same file."""
        return self._fd

    def size(self) -> int:
        """Return the present size of the file in bytes. Raises like ``status``."""
        return self.status().st_size

    def status(self) -> os.stat_result:
        """Return the present ``fstat`` of the open file.

        Raises:
            StoreError: The operating system refuses.
            ValueError: The file was closed.
        """
        try:
            return os.fstat(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def is_in_place(self) -> bool:
        """Whether the path still leads to the open file."""
        try:
            return os.path.samestat(os.stat(self._path), self.status())
        except OSError:
            return False

    def read_up_to(self, offset: int, size: int) -> bytes:
        """Read a private copy of a byte range. It is shorter at the end of the file.

        Raises:
            StoreError: The operating system reports an error.
            ResourceError: There is not enough memory.
            ValueError: The file was closed.
        """
        try:
            return os.pread(self._fd, size, offset)
        except MemoryError as error:
            raise ResourceError.reading(size) from error
        except (OSError, OverflowError) as error:  # OverflowError: an offset beyond the range of the system
            raise self._failed(error) from error

    def read(self, offset: int, size: int) -> bytes:
        """Read a private copy of exactly ``size`` bytes.

        Raises:
            StoreError: The file is shorter, or the operating system reports an error.
            ValueError: The file was closed.
        """
        data = self.read_up_to(offset, size)
        if len(data) != size:
            raise self._truncated(offset, size, len(data))
        return data

    def read_behind(self, offset: int, header_bytes: int, size: int) -> tuple[bytes, bytes]:
        """Read a header and, as a separate copy, the data after it. Otherwise as ``read``."""
        # The data first: then the header is in the page cache, so a cold read needs one access to the disk.
        data = self.read(offset + header_bytes, size)
        return self.read(offset, header_bytes), data

    def read_into(self, offset: int, header: bytearray, view: memoryview) -> None:
        """Fill a header, then a writable view, with the bytes from ``offset`` on. Otherwise as ``read``."""
        try:
            size = os.preadv(self._fd, (header, view), offset)
        except (OSError, OverflowError) as error:
            raise self._failed(error) from error
        if size != len(header) + len(view):
            raise self._truncated(offset, len(header) + len(view), size)

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Do nothing: the operating system reads ahead by itself. ``RangeFile`` prefetches these (offset, bytes)."""

    @staticmethod
    def _truncated(offset: int, expected: int, size: int) -> StoreError:
        return StoreError(
            f"the data file is truncated: {expected} bytes expected at byte {offset}, found {size}; "
            "fetch this database again",
            rule=Rule.DAMAGED,
            offset=offset,
        )

    def _failed(self, error: Exception) -> Exception:
        if self._fd < 0:
            return ValueError("this database was closed; open it again")
        return StoreError(f"cannot read the data file: {printable(str(error))}")

    def close(self) -> None:
        """Close the file. A second call has no effect. No other thread may be reading."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()
