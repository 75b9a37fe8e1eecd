"""Lock a folder for one writer: by ``flock``, or, if the file system has no locks, by a file that names the writer.

Without ``flock``, every writer first makes a file of its own, whose name identifies the process, and then looks for
files of others. If two writers do this at once, the one that looks last sees the other, so at most one continues. A
file is stale only if its process has certainly ended: it was of this boot and this PID namespace, and no process has
its number and its start time. The state of a process of another machine or another boot is unknown, so its file holds
the lock until somebody removes it.
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
    """A locked folder, from ``take`` to ``give_up``."""

    def __init__(self, folder: str, name: str, fd: int = -1) -> None:
        self._folder = folder
        self._name = name
        self._fd = fd

    def give_up(self) -> None:
        """Remove the folder if it is otherwise empty, and release the lock; to be called once."""
        # No other process can lock it while it is open. Nothing is removed twice, because the next writer may have made
        # it again.
        removed(os.unlink, os.path.join(self._folder, self._name))
        removed(os.rmdir, self._folder)
        if self._fd >= 0:
            os.close(self._fd)


def removed(remove: Callable[[str], None], path: str) -> None:
    """Remove a file or folder if it exists, with a second attempt after a failure that may be temporary.

    Args:
        remove: A function such as ``os.unlink``.
        path: The file or folder.
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
    """Try to lock a folder.

    Args:
        folder: A private folder of this user.

    Returns:
        The lock, or None if the folder does not exist or was released just now: make it and try again.

    Raises:
        BlockingIOError: Another writer holds it. The text describes that writer.
        OSError: The operating system refuses.
    """
    path = os.path.join(folder, NAME)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The previous writer may have removed the file after we opened it: then this lock has no effect.
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
    with contextlib.suppress(FileNotFoundError):  # it has no effect here
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
    """Return the identity of a process.

    Args:
        pid: Its number.

    Returns:
        Boot, PID namespace, number, and start time; "0" for an unknown part, and for a process that has ended.
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
    """Whether the process that made a file has certainly ended."""
    boot, namespace, pid, start = [*name[len(_HELD) :].split("-"), *["0"] * 4][:4]
    if "0" in (boot, namespace, start) or not pid.isdecimal():
        return False
    now = identity(int(pid))
    return now[:2] == (boot, namespace) and now[3] != start
