"""Write files, one or several that belong together: whole or not at all, and never over what is there unasked.

For manifests, keys, reports, pictures and states; ``appear`` puts them in place. A link is never followed or replaced,
a folder or a device never replaced. Devices, FIFOs and terminals are written to as they are (``write_file``).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import BinaryIO

from ben_secure._system.appear import Path, Place, collect, exists, named
from ben_secure._system.causes import unwritable
from ben_secure._system.naming import make_like
from ben_secure.errors import StoreError, UndecidedError, printable


class Kind(Enum):
    """Who may use a file; the value has its permissions. The umask takes bits from the first two."""

    OPEN = "0666"
    """The user's other files are the same."""
    TRUSTED = "0644"
    """Everybody may read it, nobody else may change it."""
    PRIVATE = "0600"
    """It is the user's own, where the file system has permissions."""
    SECRET = "0600, always"
    """It is the user's own; on a file system without permissions it is refused."""

    @property
    def mode(self) -> int:
        """Its permissions as a number."""
        return int(self.value[:4], 8)


_NODES = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def write_file(
    path: Path,
    content: bytes,
    *,
    overwrite: bool = False,
    kind: Kind = Kind.OPEN,
    error: type[UndecidedError] = StoreError,
) -> None:
    """Write a file: a reader sees the old one or the new one. Write into a character device or a FIFO.

    Args:
        path: The file; its directory must exist.
        content: All of it.
        overwrite: Whether a regular file of this name is replaced.
        kind: Who may use it. An open file keeps owner and permissions of the one that it replaces.
        error: Class of the errors.

    Raises:
        UndecidedError: As for ``new_files``.
    """
    target = named(path, error)
    if kind is Kind.OPEN and is_stream(target):
        try:
            with open(os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY), "wb") as stream:
                stream.write(content)
        except OSError as failure:
            raise error(unwritable(target, failure)) from failure
        return
    with new_files([target], [kind], overwrite=overwrite, error=error) as (file,):
        file.write(content)


@contextlib.contextmanager
def new_files(
    paths: Sequence[Path],
    kinds: Sequence[Kind],
    *,
    overwrite: bool = False,
    error: type[UndecidedError] = StoreError,
) -> Iterator[list[BinaryIO]]:
    """Give files to write to while the block runs; they get their names, all or none, when it ends.

    Args:
        paths: The files, in one directory, which must exist. The last one makes the others valid.
        kinds: Who may use each of them.
        overwrite: Whether regular files of these names are replaced.
        error: Class of the errors.

    Yields:
        A file for each path.

    Raises:
        UndecidedError: There is something of one of the names and ``overwrite`` was not asked for, or it is not a
            regular file; another writer is at work on it; a secret cannot be kept as one; or the operating system
            refuses. All names are as they were.
    """
    targets = [named(path, error) for path in paths]
    place = Place(targets[0], error=error)
    failing = targets[0]
    try:
        for target in targets:
            check_free(target, overwrite=overwrite, error=error)
        with contextlib.ExitStack() as opened:
            files = []
            for number, (target, kind) in enumerate(zip(targets, kinds, strict=True)):
                failing = target
                files.append(opened.enter_context(_opened(os.path.join(place.directory, f"{number}"), kind.mode)))
                _set_permissions(files[-1].fileno(), target, kind, error)
            yield files
        place.put_files({f"{number}": target for number, target in enumerate(targets)}, overwrite=overwrite)
    except OSError as failure:
        raise error(unwritable(failing, failure)) from failure
    finally:
        place.discard()


def check_free(
    target: str, *, overwrite: bool = False, streams: bool = False, error: type[UndecidedError] = StoreError
) -> None:
    """Check that a file can get a name.

    Args:
        target: The path.
        overwrite: Whether a regular file is replaced.
        streams: Whether a character device or a FIFO will do, which is written to.
        error: Class of the errors.

    Raises:
        UndecidedError: Something else is there, or nobody can look.
    """
    try:
        found = os.lstat(target)
    except FileNotFoundError:
        return
    except OSError as failure:
        raise error(unwritable(target, failure)) from failure
    shown = printable(target, 400)
    if streams and is_stream(target):
        return
    if stat.S_ISDIR(found.st_mode):
        raise error(f"{shown} is a directory; name a file")
    if stat.S_ISLNK(found.st_mode):
        leads = printable(os.path.realpath(target), 400)
        raise error(
            f"{shown} is a symbolic link, which is neither followed nor replaced; name {leads}, or another file"
        )
    if not stat.S_ISREG(found.st_mode):
        kind = _NODES.get(stat.S_IFMT(found.st_mode), "a special file")
        raise error(f"{shown} is {kind}, which is not replaced; name another file")
    if not overwrite:
        collect(target)  # it may be half of what a killed writer has left
        if os.path.lexists(target):
            raise exists(target, error)


def is_stream(path: str) -> bool:
    """Whether a path leads to a character device or a FIFO: what is written there is not kept as a file."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _opened(path: str, mode: int) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode), "wb")


def _set_permissions(fd: int, target: str, kind: Kind, error: type[UndecidedError]) -> None:
    """Give an empty file the permissions that it shall have, before there is anything to read in it."""
    if kind is Kind.OPEN:
        with contextlib.suppress(FileNotFoundError):
            make_like(fd, os.lstat(target))
    elif kind is not Kind.TRUSTED and stat.S_IMODE(os.fstat(fd).st_mode) != kind.mode:  # the umask took some
        with contextlib.suppress(OSError):
            os.fchmod(fd, kind.mode)
    found = stat.S_IMODE(os.fstat(fd).st_mode)
    if kind is Kind.SECRET and found & 0o077:
        raise error(
            f"{printable(target, 400)} would be a secret that others can use (mode {found:04o}): this file system "
            "keeps no permissions; keep secrets on another one"
        )
