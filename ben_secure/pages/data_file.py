"""The data file of an LMDB environment: open it read-only and read byte ranges with ``os.pread``.

It never maps the file (a file that shrinks under a map kills the process, T7), never writes, never creates or opens
``lock.mdb``, and never blocks on something that is not a regular file. Whatever the operating system says leaves as
a ``StoreError``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from ben_secure.errors import ResourceError, Rule, StoreError, printable

DATA_FILE_NAME = "data.mdb"
"""Name of the data file in an environment that is a directory (liblmdb, ``DATANAME`` in mdb.c)."""


def data_file_path(path: str) -> str:
    """Find the data file of an environment, which is a directory or (``subdir=False``) the file itself.

    Args:
        path: What the user calls the database.

    Returns:
        ``path/data.mdb`` if ``path`` is a directory, else ``path``.
    """
    return os.path.join(path, DATA_FILE_NAME) if os.path.isdir(path) else path


def lock_file_path(path: str) -> str:
    """Where liblmdb keeps the lock file of an environment (``LOCKNAME`` and ``LOCKSUFF`` in mdb.c).

    Args:
        path: What the user calls the database.

    Returns:
        ``path/lock.mdb`` if ``path`` is a directory, else ``path-lock``.
    """
    return os.path.join(path, "lock.mdb") if os.path.isdir(path) else path + "-lock"


class DataFile:
    """A file descriptor and what may be done with it.

    ``os.pread`` takes its offset as an argument, so threads share one descriptor without a lock, and a forked child
    keeps using the one that it inherited: there is no common file offset that one could move under the other.
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
        # O_NONBLOCK: opening a FIFO must not wait for a writer. On a regular file the flag means nothing.
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
            raise StoreError(f"cannot open {printable(file_path, 400)}: {printable(str(error))}") from error
        if not stat.S_ISREG(mode):
            self.close()
            raise StoreError(
                f"{printable(file_path, 400)} is a {stat.filemode(mode)[0]!r} node, expected a regular file; "
                "an LMDB database is read from a regular file only"
            )

    @property
    def descriptor(self) -> int:
        """The file descriptor, for a child process that is to read this very file."""
        return self._fd

    def size(self) -> int:
        """Bytes in the file now; raises as ``status``."""
        return self.status().st_size

    def status(self) -> os.stat_result:
        """What the operating system says of the file that was opened, now.

        Raises:
            StoreError: The operating system refuses to say.
            ValueError: The file was closed.
        """
        try:
            return os.fstat(self._fd)
        except OSError as error:
            raise self._failed(error) from error

    def is_in_place(self) -> bool:
        """Whether its path still leads to the file that was opened, and not to another one or to none."""
        try:
            return os.path.samestat(os.stat(self._path), self.status())
        except OSError:
            return False

    def read_up_to(self, offset: int, size: int) -> bytes:
        """Read a private copy of a byte range; shorter than asked for where the file ends.

        Raises:
            StoreError: The operating system reports an error.
            ResourceError: There is not enough memory.
            ValueError: The file was closed.
        """
        try:
            return os.pread(self._fd, size, offset)
        except MemoryError as error:
            raise ResourceError.reading(size) from error
        except (OSError, OverflowError) as error:  # OverflowError: an offset that no system can express
            raise self._failed(error) from error

    def read(self, offset: int, size: int) -> bytes:
        """Read a private copy of exactly ``size`` bytes.

        Raises:
            StoreError: The file ends before, or the operating system reports an error.
            ValueError: The file was closed.
        """
        data = self.read_up_to(offset, size)
        if len(data) != size:
            raise self._truncated(offset, size, len(data))
        return data

    def read_behind(self, offset: int, header_bytes: int, size: int) -> tuple[bytes, bytes]:
        """Read a header and, in a copy of its own, what follows it; otherwise as ``read``."""
        # What follows first: then the header is in the page cache, and a cold read costs one access to the disk.
        data = self.read(offset + header_bytes, size)
        return self.read(offset, header_bytes), data

    def read_into(self, offset: int, header: bytearray, view: memoryview) -> None:
        """Fill a header, then a writable view, with the bytes from ``offset`` on; otherwise as ``read``."""
        try:
            size = os.preadv(self._fd, (header, view), offset)
        except (OSError, OverflowError) as error:
            raise self._failed(error) from error
        if size != len(header) + len(view):
            raise self._truncated(offset, len(header) + len(view), size)

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Take note that ranges (offset, bytes) will be read; the operating system reads ahead by itself."""

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
        """Close the file; doing it twice is harmless. No other thread may be reading."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()
