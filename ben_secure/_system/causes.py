"""Explain why the operating system did not write, and the remedy."""

from __future__ import annotations

import contextlib
import errno
import os

from ben_secure.errors import printable

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NOT_ALLOWED = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS}
_FAILED = {errno.EIO, errno.ESTALE, errno.ENXIO, errno.ETIMEDOUT}
_TOO_MANY = {errno.EMFILE, errno.ENFILE}
_TRIAL_BYTES = 2**20


def reason(error: OSError) -> str:
    """Return the text of an error, with the remedy if the process has no file descriptor left."""
    remedy = "; raise the limit on open files (ulimit -n)" if error.errno in _TOO_MANY else ""
    return f"{printable(str(error), 400)}{remedy}"


def unwritable(path: str, error: OSError) -> str:
    """Return the message for a file or folder that cannot be written.

    Args:
        path: The file or folder, as its user named it.
        error: The error of the operating system.

    Returns:
        One line of printable ASCII: the cause, the path, the remedy.
    """
    path_text = printable(path, 400)
    if error.errno in _NO_ROOM:
        return f"{_no_room(error, path)}; {path_text} was not written: free some space, and do it again"
    system_text = printable(error.strerror or str(error))
    remedy = "check the path"
    if error.errno in _NOT_ALLOWED:
        remedy = "the directory must exist and be writable"
    elif error.errno in _FAILED:
        remedy = "the disk or the network failed: check it, and do it again"
    elif error.errno == errno.EFBIG:
        remedy = "the file system, or a limit of this process (ulimit -f), does not allow a file of this size"
    elif error.errno in _TOO_MANY:
        remedy = "too many files are open (ulimit -n)"
    return f"cannot write {path_text}: {system_text}; {remedy}"


def from_text(text: str, folder: str) -> OSError | None:
    """Find the system error in the message of a library. Some libraries report a full disk as an input/output error.

    Args:
        text: The message of the library, with the system's text for the error.
        folder: Folder of the output, in which this user may write.

    Returns:
        The error, or None if the text does not name one.
    """
    number = next((number for number in (*_NO_ROOM, errno.EFBIG, errno.EIO) if os.strerror(number) in text), None)
    if number is None:
        return None
    error = OSError(number, os.strerror(number))
    return error if number != errno.EIO else _trial(os.path.join(folder, "trial")) or error


def _trial(path: str) -> OSError | None:
    """Write a small file and remove it, and return the error if that fails."""
    try:
        with open(path, "xb") as file:
            file.write(bytes(_TRIAL_BYTES))
    except OSError as error:
        return error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return None


def _no_room(error: OSError, path: str) -> str:
    path_text = printable(path, 400)
    free = _free(path)
    if free is None:
        return f"no space left on the disk of {path_text}"
    if error.errno == errno.EDQUOT:
        return f"the disk quota is used up on the disk of {path_text} ({free[0]:,} bytes free for others)"
    if free[0] and free[1] == 0:
        return f"no more files fit on the disk of {path_text} (0 inodes free)"
    return f"no space left on the disk of {path_text} ({free[0]:,} bytes free)"


def _free(path: str) -> tuple[int, int | None] | None:
    """Return the free bytes and inodes for this user on the disk of a path, or None for inodes if it has none."""
    path = os.path.abspath(path)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        return None  # a device is not on a disk
    while True:
        try:
            stats = os.statvfs(path)
        except (FileNotFoundError, NotADirectoryError):
            if path == (path := os.path.dirname(path)):
                return None
        except OSError:
            return None
        else:
            return stats.f_bavail * stats.f_frsize, stats.f_favail if stats.f_files else None
