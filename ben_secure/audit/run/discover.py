"""Find the databases in a folder by the content of files, and list everything that could not be examined.

The search follows symbolic links to regular files and folders, and visits each file and folder once, by its identity.
It reads only the positions of a file at which an LMDB data file has its magic number. The search is bounded. The
result lists everything that was skipped, because a malicious database may be in it.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ben_secure.errors import printable
from ben_secure.pages.data_file import DATA_FILE_NAME

MAX_ENTRIES = 1_000_000
"""Maximum number of files and folders that one search visits."""
_SUFFIXES = (".lmdb", ".mdb")
_LOCK = "lock.mdb"
# mm_magic in mdb.c follows the page header of both meta pages. The second page begins at the page size, a power of two.
_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_MAGIC_OFFSETS = (16, *(2**power + 16 for power in range(9, 17)))
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class SearchResult(NamedTuple):
    """One path that an audit must report on.

    Attributes:
        path: A database, or something that could not be examined.
        problem: Why it could not be examined, or None for a database.
    """

    path: str
    problem: str | None = None


def databases_in(path: str) -> list[SearchResult]:
    """List the databases at or below a path.

    Args:
        path: A database (a directory with ``data.mdb`` inside, or a data file), or a folder above databases.

    Returns:
        The path itself if it is not a folder. Otherwise, sorted by path: the folder if it contains ``data.mdb``, and
        every database below it, with any name. These are followed by everything that could not be examined. Links are
        followed.
    """
    try:
        if not os.path.isdir(path):
            return [SearchResult(path)]
    except ValueError:  # a NUL in the path, which is reported when it is opened
        return [SearchResult(path)]
    walk = _Walk()
    walk.visit(path)
    databases = walk.databases()
    if not databases and not walk.problems:
        problem = "no LMDB database in this folder or below; check the path"
        return [SearchResult(path, problem)]
    return [*map(SearchResult, databases), *sorted(walk.problems)]


class _Walk:
    """A walk over folders.

    Attributes:
        problems: Everything that could not be examined.
    """

    def __init__(self) -> None:
        self.problems: list[SearchResult] = []
        self._seen: set[tuple[int, int]] = set()  # identities of folders
        # By the identity of a data file: False if its name is usual for a database, and its path.
        self._files: dict[tuple[int, int], tuple[bool, str]] = {}
        self._left = MAX_ENTRIES

    def databases(self) -> list[str]:
        """List each database once, sorted by path."""
        split = (os.path.split(path) for _, path in self._files.values())
        return sorted(folder if name == DATA_FILE_NAME else os.path.join(folder, name) for folder, name in split)

    def visit(self, top: str) -> None:
        """Visit a folder and everything below it."""
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
                    SearchResult(folder, f"more than {MAX_ENTRIES} files and folders; audit its subfolders one by one")
                )
                return
            for name in entries:
                self._visit_entry(os.path.join(folder, name), pending)

    def _visit_entry(self, path: str, pending: list[str]) -> None:
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
            elif not stat.S_ISREG(status.st_mode):
                kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
                self.problems.append(SearchResult(path, f"{kind} was not examined; expected regular files"))
            elif _has_database_name(path) or _has_magic(path):
                # If several paths lead to one file, a path with a usual name is better than the target of a link.
                key = status.st_dev, status.st_ino
                rank = not _has_database_name(path), path
                self._files[key] = min(rank, self._files.get(key, rank))
        except OSError as error:
            self._problem(path, error)

    def _problem(self, path: str, error: OSError) -> None:
        reason = printable(error.strerror or str(error))
        self.problems.append(SearchResult(path, f"it cannot be examined: {reason}; a database may be in it"))


def _has_database_name(path: str) -> bool:
    name = os.path.basename(path)
    return name == DATA_FILE_NAME or (name != _LOCK and name.lower().endswith(_SUFFIXES))


def _has_magic(path: str) -> bool:
    """Whether a regular file has the magic number of at least one LMDB meta page."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        head = os.pread(descriptor, _MAGIC_OFFSETS[-1] + len(_MAGIC), 0)
    finally:
        os.close(descriptor)
    return any(head[offset : offset + len(_MAGIC)] == _MAGIC for offset in _MAGIC_OFFSETS)
