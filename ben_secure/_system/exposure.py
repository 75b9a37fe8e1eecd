"""Find the users, apart from trusted ones, who could change a file or replace it by another.

All callers share one walk. It resolves the path like the kernel, component by component and through every symbolic
link, so it visits each folder in which the file, or a link to it, could be replaced. It relies on ``stat``. A POSIX ACL
is visible there, because its mask is in the group bits. NFSv4 ACLs, capabilities and other hosts are not (T11).
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_MAX_LINKS = 40  # as Linux (path_resolution(7))


@dataclass(frozen=True, slots=True)
class PathStep:
    """The file itself, or a folder or link on the way to it.

    Attributes:
        path: Its path.
        status: Its ``lstat``.
        folder: The ``lstat`` of the folder that contains it.
    """

    path: str
    status: os.stat_result
    folder: os.stat_result

    @property
    def writable(self) -> bool:
        """Whether group or others may write to it. In a sticky folder they cannot replace the files of others."""
        mode = self.status.st_mode
        sticky = stat.S_ISDIR(mode) and mode & stat.S_ISVTX  # unlink(2), EPERM
        return not stat.S_ISLNK(mode) and bool(mode & (stat.S_IWGRP | stat.S_IWOTH)) and not sticky

    def foreign(self, trusted: Collection[int]) -> bool:
        """Whether its owner is not one of these users, and could change or replace it."""
        if stat.S_ISLNK(self.status.st_mode) and not self.folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False  # the folder protects a link of any owner
        return self.status.st_uid not in trusted

    def __str__(self) -> str:
        mode = stat.S_IMODE(self.status.st_mode)
        return f"{self.path} (owner {self.status.st_uid}, group {self.status.st_gid}, mode {mode:04o})"


def steps_to(path: str) -> Iterator[PathStep]:
    """Walk to a file like the kernel.

    Args:
        path: The file.

    Yields:
        Each folder, each link and finally the file. A folder that the path passes twice occurs once.

    Raises:
        OSError: A part of the path does not exist or cannot be accessed, or there are too many links.
    """
    current = "/"
    status = os.lstat(current)
    seen = {(status.st_dev, status.st_ino)}
    yield PathStep(current, status, status)
    todo = deque(os.path.join(os.getcwd(), path).split("/"))
    links = 0
    while todo:
        name = todo.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            current = os.path.dirname(current)
            continue
        child = os.path.join(current, name)
        folder, status = os.lstat(current), os.lstat(child)
        if (status.st_dev, status.st_ino) not in seen:
            seen.add((status.st_dev, status.st_ino))
            yield PathStep(child, status, folder)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(child)
            todo.extendleft(reversed(target.split("/")))
            current = "/" if target.startswith("/") else current
        else:
            current = child
