"""Hold a folder for one writer: by ``flock``, or, where the file system has no locks, by a file that names the writer.

Without ``flock``, every writer first makes a file of its own, whose name says which process it is, and then looks for
those of others. Of two at once, the one that looks last sees the other, so that at most one goes on. A file is stale
only if its process is known to have ended: it was of this boot and this PID namespace, and no process has its number
and its time of start. Nothing is known of a process of another machine or another boot, so its file holds the folder
until somebody removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator

from ben_secure.errors import printable, shell_command

NAME = "lock"
_HELD = "held-"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
_ENDED = b"ZX"  # states of a process that has ended and was not waited for (proc_pid_stat(5))


class Lock:
    """A folder that is held, from ``take`` to ``give_up``."""

    def __init__(self, folder: str, name: str, fd: int = -1) -> None:
        self._folder = folder
        self._name = name
        self._fd = fd

    def give_up(self) -> None:
        """Remove the folder if nothing else is in it, and let the next writer have it; twice is harmless."""
        if not self._name:
            return
        # While it is open nobody else can have it. What is removed is never removed twice: the next writer may have
        # made it again.
        removed(os.unlink, os.path.join(self._folder, self._name))
        removed(os.rmdir, self._folder)
        if self._fd >= 0:
            os.close(self._fd)
        self._name = ""


def removed(remove: Callable[[str], None], path: str) -> None:
    """Remove something, if it is there; a failure that may be of the moment is met by a second attempt.

    Args:
        remove: Such as ``os.unlink``.
        path: What to remove.
    """
    for _ in range(2):
        try:
            remove(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                return
        else:
            return


def take(folder: str) -> Lock | None:
    """Try to take a folder.

    Args:
        folder: A private folder of this user.

    Returns:
        The lock; None if the folder is gone, or was given up just now: make it and try again.

    Raises:
        BlockingIOError: Another writer holds it; the text says what is known of it.
        OSError: The operating system refuses.
    """
    path = os.path.join(folder, NAME)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The writer that had it may have removed the file after we opened it: then this lock holds nothing.
        if not os.path.samestat(os.fstat(fd), os.stat(path)):
            return None
        lock, fd = Lock(folder, NAME, fd), -1
        return lock
    except FileNotFoundError:
        return None
    except BlockingIOError:
        raise BlockingIOError(errno.EWOULDBLOCK, "wait until it is done") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    finally:
        if fd >= 0:
            os.close(fd)
    with contextlib.suppress(FileNotFoundError):  # it holds nothing here
        os.unlink(path)
    return _take_by_name(folder)


def _take_by_name(folder: str) -> Lock | None:
    own = f"{_HELD}{'-'.join(identity(os.getpid()))}-{os.urandom(4).hex()}-{socket.gethostname()[:64]}"
    lock = Lock(folder, own.replace("/", "_"))
    try:
        os.close(os.open(os.path.join(folder, lock._name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileNotFoundError:
        return None
    try:
        for other in _others(folder, lock._name):
            path = os.path.join(folder, other)
            if not _has_ended(other):
                _, _, _, pid, _, _, host, *_ = [*other.split("-", 6), *["?"] * 6]
                raise BlockingIOError(
                    errno.EWOULDBLOCK,
                    f"it is process {printable(pid)} on {printable(host)}; this file system has no locks, so if that "
                    f"process has ended, remove its file: {shell_command('rm', '--', path)}",
                )
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    except BaseException:
        lock.give_up()
        raise
    return lock


def _others(folder: str, own: str) -> Iterator[str]:
    return (name for name in os.listdir(folder) if name.startswith(_HELD) and name != own)


def identity(pid: int) -> tuple[str, str, str, str]:
    """Tell a process from all others.

    Args:
        pid: Its number.

    Returns:
        Boot, PID namespace, number, and time of start; "0" for what is unknown, and for a process that has ended.
    """
    boot = namespace = start = "0"
    with contextlib.suppress(OSError, IndexError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip().replace("-", "")
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The name of the program comes before the last parenthesis, and may hold anything.
            fields = stat.read().rpartition(b")")[2].split()
        start = "0" if fields[0] in _ENDED else fields[19].decode()
    return boot, namespace, str(pid), start


def _has_ended(name: str) -> bool:
    """Whether the process that made a file is known to have ended."""
    boot, namespace, pid, start = [*name[len(_HELD) :].split("-"), *["0"] * 4][:4]
    if "0" in (boot, namespace, start) or not pid.isdecimal():
        return False
    now = identity(int(pid))
    return now[:2] == (boot, namespace) and now[3] != start
