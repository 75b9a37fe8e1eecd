"""Give finished files and folders their names: durably, on request only if the name is free, several or none.

Only ``appear`` calls this, for files in its private folder. The first method that the file system supports is used: a
rename that does not replace (``renameat2``), a hard link, or an empty file that holds the name until the rename.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass

OLD = "old"
_PLACING = "placing"  # the list of files to place
_HOLDING = "holding"  # the name that an empty file of ours holds
NOTES = _PLACING, _HOLDING
_LACKING = {errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_NOT_DURABLE = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EBADF}
_RENAME_NOREPLACE = 1  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h
_READ_BYTES = 2**20
_MAX_NOTE_BYTES = 2**24


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """One file of a set: its names in the private folder and outside, its digest, and whether it replaces another."""

    source: str
    target: str
    size: int
    sha256: str
    replaces: bool

    def __post_init__(self) -> None:
        """Refuse paths that lead out of the folder, although only this user should have written the note."""
        if os.path.basename(self.source) != self.source or os.path.basename(self.target) != self.target:
            raise ValueError("names of files were expected, not paths")
        if "\0" in self.source + self.target:
            raise ValueError("no file has such a name")

    def is_at(self, path: str) -> bool:
        """Whether the file at a path has this content."""
        try:
            status = os.lstat(path)
            return stat.S_ISREG(status.st_mode) and status.st_size == self.size and file_sha256(path) == self.sha256
        except OSError:
            return False


class NamedSet:
    """Files that appear together, in order. A note in the private folder lists them, so a partial set can be undone."""

    def __init__(self, folder: str, targets: Mapping[str, str]) -> None:
        """Name the files.

        Args:
            folder: The private folder. The files are in its directory ``new``.
            targets: Path of each file by its name there.
        """
        self._folder = folder
        self._targets = targets

    def announce(self) -> None:
        """Note durably which files will be placed."""
        noted = []
        for source, target in self._targets.items():
            path = os.path.join(self._folder, "new", source)
            size, digest, there = os.path.getsize(path), file_sha256(path), os.path.lexists(target)
            placed = _Placed(source=source, target=os.path.basename(target), size=size, sha256=digest, replaces=there)
            noted.append(asdict(placed))
        with open(os.path.join(self._folder, _PLACING), "x", encoding="ascii") as file:
            json.dump(noted, file)
            file.flush()
            os.fsync(file.fileno())

    def put(self, source: str, overwrite: bool) -> None:
        """Give one of the files its name.

        Raises:
            FileExistsError: The name is taken, and ``overwrite`` is false.
            OSError: The operating system refuses.
        """
        path, target = os.path.join(self._folder, "new", source), self._targets[source]
        if not overwrite or not os.path.lexists(target):
            _put_exclusively(path, target, os.path.join(self._folder, _HOLDING))
            return
        if len(self._targets) > 1:
            _copy(target, os.path.join(self._folder, OLD), source)
        os.replace(path, target)


def take_back(folder: str, parent: str, *, complete: bool = False) -> None:
    """Undo an incomplete set: remove the new files, and restore the replaced ones.

    Args:
        folder: The private folder.
        parent: Directory of the set.
        complete: Undo a complete set, too.

    Raises:
        OSError: The operating system refuses.
    """
    try:
        noted = [_Placed(**placed) for placed in json.loads(read_note(os.path.join(folder, _PLACING)))]
    except FileNotFoundError:
        return
    except (ValueError, TypeError, RecursionError):  # the list is incomplete, so nothing was placed yet
        return
    if not complete and all(placed.is_at(os.path.join(parent, placed.target)) for placed in noted):
        return
    for placed in noted:
        target = os.path.join(parent, placed.target)
        with contextlib.suppress(FileNotFoundError):
            if placed.replaces:
                os.replace(os.path.join(folder, OLD, placed.source), target)
            elif placed.is_at(target) or _is_held(folder, target):
                os.unlink(target)


def read_note(path: str) -> bytes:
    """Read a note in the private folder, or only the beginning of a note that is too long.

    Raises:
        OSError: The file is missing, is not a regular file, or cannot be read.
    """
    # O_NONBLOCK: a FIFO, in a folder that somebody sent, must not hold the writer.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return file.read(_MAX_NOTE_BYTES)


def _is_held(folder: str, target: str) -> bool:
    """Whether an empty file of ours holds a name."""
    with contextlib.suppress(OSError):
        held = read_note(os.path.join(folder, _HOLDING))
        status = os.lstat(target)
        name = os.fsencode(os.path.basename(target))
        return stat.S_ISREG(status.st_mode) and status.st_size == 0 and held == name
    return False


def _put_exclusively(source: str, target: str, holding: str) -> None:
    for give_name in (_rename_to_nothing, os.link):
        try:
            give_name(source, target)
        except OSError as error:
            if error.errno not in _LACKING:
                raise
        else:
            return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    with open(holding, "wb") as file:
        file.write(os.fsencode(os.path.basename(target)))
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.replace(source, target)


def _rename_to_nothing(source: str, target: str) -> None:
    """Rename in one step, only if the name is free (renameat2(2))."""
    try:
        import ctypes  # here, because few programs need it

        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (ImportError, OSError, AttributeError):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def rename_folder(source: str, target: str) -> None:
    """Rename a folder to a name that is free or that an empty folder has.

    Raises:
        OSError: Something else has the name, or the operating system refuses.
    """
    try:
        os.rename(source, target)  # replaces only an empty folder (rename(2))
    except FileExistsError:
        os.rmdir(target)  # some network file systems do not replace even that
        os.rename(source, target)


def _copy(path: str, folder: str, name: str) -> None:
    """Keep a file under another name, whole or not at all."""
    import shutil

    os.makedirs(folder, exist_ok=True)
    kept = os.path.join(folder, name)
    try:
        os.link(path, kept)
    except OSError as error:
        if error.errno not in _LACKING:
            raise
        shutil.copyfile(path, kept + ".part")
        make_like(kept + ".part", os.stat(path))
        os.rename(kept + ".part", kept)


def file_sha256(path: str) -> str:
    """Hash a file, and return 64 hexadecimal digits."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sync(path: str) -> None:
    """Wait until a file or folder is on disk; a folder only if the file system supports it.

    Raises:
        OSError: The disk failed.
    """
    folder = os.path.isdir(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        if folder:  # it may be writable but not readable
            return
        raise
    try:
        os.fsync(fd)
    except OSError as failure:
        if not folder or failure.errno not in _NOT_DURABLE:
            raise
    finally:
        os.close(fd)


def make_like(path: str | int, status: os.stat_result) -> None:
    """Copy owner and permissions to a file or folder, as far as this user and the file system can.

    Permissions that would reach another owner or group than the original one are left out.
    """
    ours = os.stat(path)
    if (ours.st_uid, ours.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.chown(path, status.st_uid, status.st_gid)
        except OSError:
            with contextlib.suppress(OSError):
                os.chown(path, -1, status.st_gid)
    ours, mode = os.stat(path), stat.S_IMODE(status.st_mode)
    if ours.st_gid != status.st_gid:
        mode &= 0o5707 | (mode & 0o007) << 3  # nothing that others may not
    if ours.st_uid != status.st_uid:
        mode &= 0o755
    if stat.S_IMODE(ours.st_mode) != mode:
        with contextlib.suppress(OSError):
            os.chmod(path, mode)
