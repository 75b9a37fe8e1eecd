"""Write one or several files, whole or not at all, and replace existing files only on request.

For manifests, keys, reports, pictures and states; ``appear`` puts them in place. A link is never followed or replaced.
A folder or a device is never replaced. ``write_file`` can write into devices, FIFOs and terminals.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import BinaryIO

from ben_secure._system.appear import Path, Workspace, checked_path, collect, name_taken
from ben_secure._system.causes import unwritable
from ben_secure._system.naming import make_like
from ben_secure.errors import StoreError, UndecidedError, printable


class Access(Enum):
    """The permitted users of a file. The value has the permissions. The umask applies to the first two."""

    OPEN = "0666"
    """Like other files of the user."""
    TRUSTED = "0644"
    """Everybody may read it. Only its owner may change it."""
    PRIVATE = "0600"
    """Only its owner may use it, if the file system has permissions."""
    SECRET = "0600, always"
    """Only its owner may use it. A file system without permissions is refused."""

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
    access: Access = Access.OPEN,
    error: type[UndecidedError] = StoreError,
) -> None:
    """Write a file. A reader sees the old content or the new. A character device or a FIFO is written into.

    Args:
        path: The file. Its directory must exist.
        content: The whole content.
        overwrite: Whether to replace an existing regular file.
        access: Its permitted users. A file that is ``OPEN`` keeps owner and permissions of the file that it replaces.
        error: Class of the errors.

    Raises:
        UndecidedError: As for ``new_files``.
    """
    target = checked_path(path, error)
    if access is Access.OPEN and is_stream(target):
        try:
            with open(os.open(target, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY), "wb") as stream:
                if not _keeps_nothing(os.fstat(stream.fileno()).st_mode):  # a link to a file was put in its place
                    raise error(f"{printable(target, 400)} was exchanged while it was opened; name another file")
                stream.write(content)
        except OSError as failure:
            raise error(unwritable(target, failure)) from failure
        return
    with new_files([target], [access], overwrite=overwrite, error=error) as (file,):
        file.write(content)


@contextlib.contextmanager
def new_files(
    paths: Sequence[Path],
    accesses: Sequence[Access],
    *,
    overwrite: bool = False,
    error: type[UndecidedError] = StoreError,
) -> Iterator[list[BinaryIO]]:
    """Yield files to write to. When the block ends, all of them get their names, or none.

    Args:
        paths: The files, in one existing directory. The last one makes the others valid.
        accesses: The permitted users of each file.
        overwrite: Whether to replace existing regular files.
        error: Class of the errors.

    Yields:
        A file for each path.

    Raises:
        UndecidedError: A path exists without ``overwrite``, or is not a regular file; another writer is active on it;
            a secret cannot be kept private; or the operating system refuses. All files are unchanged.
    """
    targets = [checked_path(path, error) for path in paths]
    workspace = Workspace(targets[0], error=error)
    failing = targets[0]
    try:
        for target in targets:
            check_free(target, overwrite=overwrite, error=error)
        with contextlib.ExitStack() as opened:
            files = []
            for number, (target, access) in enumerate(zip(targets, accesses, strict=True)):
                failing = target
                files.append(opened.enter_context(_opened(os.path.join(workspace.directory, f"{number}"), access.mode)))
                _set_permissions(files[-1].fileno(), target, access, error)
            yield files
        workspace.put_files({f"{number}": target for number, target in enumerate(targets)}, overwrite=overwrite)
    except OSError as failure:
        raise error(unwritable(failing, failure)) from failure
    finally:
        workspace.discard()


def check_free(
    target: str, *, overwrite: bool = False, streams: bool = False, error: type[UndecidedError] = StoreError
) -> None:
    """Check that a new file can have a name.

    Args:
        target: The path.
        overwrite: Whether an existing regular file will be replaced.
        streams: Whether a character device or a FIFO is accepted.
        error: Class of the errors.

    Raises:
        UndecidedError: Something else has this name, or the path cannot be accessed.
    """
    try:
        status = os.lstat(target)
    except FileNotFoundError:
        return
    except OSError as failure:
        raise error(unwritable(target, failure)) from failure
    path_text = printable(target, 400)
    if streams and is_stream(target):
        return
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{path_text} is a directory; name a file")
    if stat.S_ISLNK(status.st_mode):
        leads = printable(os.path.realpath(target), 400)
        raise error(
            f"{path_text} is a symbolic link, which is neither followed nor replaced; name {leads}, or another file"
        )
    if not stat.S_ISREG(status.st_mode):
        kind = _NODES.get(stat.S_IFMT(status.st_mode), "a special file")
        raise error(f"{path_text} is {kind}, which is not replaced; name another file")
    if not overwrite:
        collect(target)  # it may be half of a set that a killed writer left
        if os.path.lexists(target):
            raise name_taken(target, error)


def is_stream(path: str) -> bool:
    """Whether a path leads to a character device or a FIFO, which do not keep their content."""
    try:
        return _keeps_nothing(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _keeps_nothing(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def _opened(path: str, mode: int) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode), "wb")


def _set_permissions(fd: int, target: str, access: Access, error: type[UndecidedError]) -> None:
    """Set the permissions of an empty file, before it has any content."""
    if access is Access.OPEN:
        with contextlib.suppress(FileNotFoundError):
            make_like(fd, os.lstat(target))
    elif access is not Access.TRUSTED and stat.S_IMODE(os.fstat(fd).st_mode) != access.mode:  # because of the umask
        with contextlib.suppress(OSError):
            os.fchmod(fd, access.mode)
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if access is Access.SECRET and mode & 0o077:
        raise error(
            f"{printable(target, 400)} would be a secret that others can use (mode {mode:04o}): this file system "
            "keeps no permissions; keep secrets on another one"
        )
