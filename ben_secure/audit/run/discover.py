"""Find the databases below a folder: by what is in a file, not by its name; and name what could not be looked at.

Follows symbolic links to regular files and folders, each file and folder once, by its identity. Reads nothing of a file
but where an LMDB data file has its magic. The walk is bounded, and whatever it passes over is in the result, since a
hostile database may be in it.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ben_secure.errors import printable
from ben_secure.pages.data_file import DATA_FILE_NAME

MAX_ENTRIES = 1_000_000
"""Files and folders that one walk looks at."""
_SUFFIXES = (".lmdb", ".mdb")
_LOCK = "lock.mdb"
# mm_magic in mdb.c, behind the page header of both meta pages; the second begins at the page size, a power of two.
_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_PLACES = (16, *(2**power + 16 for power in range(9, 17)))
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Found(NamedTuple):
    """One path that an audit has to speak of.

    Attributes:
        path: A database; or what could not be looked at.
        problem: Why it could not be looked at, or None.
    """

    path: str
    problem: str | None = None


def databases_in(path: str) -> list[Found]:
    """List the databases that a path stands for.

    Args:
        path: A database (a directory with ``data.mdb`` inside, or a data file), or a folder above databases.

    Returns:
        The path itself if it is not a folder. Else, in order of their paths: the folder, if it holds ``data.mdb``, and
        every database below it, whatever it is called, links followed; then what could not be looked at.
    """
    try:
        if not os.path.isdir(path):
            return [Found(path)]
    except ValueError:  # a NUL: what opens it says so
        return [Found(path)]
    walk = _Walk()
    walk.look(path)
    found = walk.databases()
    if not found and not walk.problems:
        problem = "there is no LMDB database in this folder or below; check the path"
        return [Found(path, problem)]
    return [*map(Found, found), *sorted(walk.problems)]


class _Walk:
    """A walk over folders.

    Attributes:
        problems: What could not be looked at.
    """

    def __init__(self) -> None:
        self.problems: list[Found] = []
        self._seen: set[tuple[int, int]] = set()  # identities of folders
        # By the identity of a data file: whether its name does not say so, and its path.
        self._files: dict[tuple[int, int], tuple[bool, str]] = {}
        self._left = MAX_ENTRIES

    def databases(self) -> list[str]:
        """Each database once, in order."""
        split = (os.path.split(path) for _, path in self._files.values())
        return sorted(folder if name == DATA_FILE_NAME else os.path.join(folder, name) for folder, name in split)

    def look(self, top: str) -> None:
        """Look at a folder and everything below it."""
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in self._seen:
                    continue
                self._seen.add((status.st_dev, status.st_ino))
                entries = sorted(os.listdir(folder))
            except OSError as error:
                self._problem(folder, error)
                continue
            self._left -= len(entries)
            if self._left < 0:
                self.problems.append(
                    Found(folder, f"more than {MAX_ENTRIES} files and folders; audit the folders in it one by one")
                )
                return
            for name in entries:
                self._look_at(os.path.join(folder, name), pending)

    def _look_at(self, path: str, pending: list[str]) -> None:
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
            elif not stat.S_ISREG(status.st_mode):
                kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
                self.problems.append(Found(path, f"{kind} was not looked at; expected regular files"))
            elif _is_named_so(path) or _has_magic(path):
                # Several paths may lead to one file: a name that says so is better than that of a blob behind a link.
                key = status.st_dev, status.st_ino
                rank = not _is_named_so(path), path
                self._files[key] = min(rank, self._files.get(key, rank))
        except OSError as error:
            self._problem(path, error)

    def _problem(self, path: str, error: OSError) -> None:
        reason = printable(error.strerror or str(error))
        self.problems.append(Found(path, f"it cannot be looked at: {reason}; a database may be in it"))


def _is_named_so(path: str) -> bool:
    name = os.path.basename(path)
    return name == DATA_FILE_NAME or (name != _LOCK and name.lower().endswith(_SUFFIXES))


def _has_magic(path: str) -> bool:
    """Whether a regular file begins as an LMDB data file does; one meta page is enough."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        begin = os.pread(descriptor, _PLACES[-1] + len(_MAGIC), 0)
    finally:
        os.close(descriptor)
    return any(begin[place : place + len(_MAGIC)] == _MAGIC for place in _PLACES)
