"""Make a file or a folder appear, whole or not at all: databases, keys, manifests, reports, pictures, states.

New content is made in a private folder ``.NAME.ben-secure-writing`` beside the target, on the same file system, locked
for one writer (``locks``). When it is complete and on disk, one rename gives it its name. A process that is killed at
any moment leaves the old content or the new, and perhaps that folder. The next writer to the same name removes the
folder, or resumes from it if the fingerprint in its file ``resume`` is equal and only this user can have put it there.

Several files that belong together appear in order. The file that makes them valid is the last. A file ``placing`` lists
them beforehand. If a set is incomplete, the next writer removes the placed files, recognised by digest, and restores
the replaced ones. So an incomplete set never survives the next writer.

Hard links, locks, durable folders and permissions are used where the file system has them, but are not required. Only
secrets require permissions (``files``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Mapping

from ben_secure._system import locks
from ben_secure._system.causes import unwritable
from ben_secure._system.interrupts import deferred
from ben_secure._system.naming import NOTES, OLD, NamedSet, make_like, read_note, rename_folder, sync, take_back
from ben_secure.errors import StoreError, UndecidedError, printable

_SUFFIX = ".ben-secure-writing"
_NEW = "new"
_RESUME = "resume"
_ATTEMPTS = 100
_URL = re.compile("(?:https?|s3)://", re.IGNORECASE)
_MAX_NAME_BYTES = 200

Path = str | os.PathLike[str]


def left_beside(target: str) -> str | None:
    """Find the private folder that an interrupted, resumable writer has left for a target.

    Args:
        target: Path of the database, as its writer named it.

    Returns:
        Path of the folder, or None if there is none.
    """
    folder = _workspace_of(os.path.abspath(target))
    left = all(os.path.exists(os.path.join(folder, name)) for name in (_NEW, _RESUME))
    return folder if left else None


def collect(target: str) -> None:
    """Remove the remains of a killed writer beside an existing target, unless a writer is active or can be resumed.

    Args:
        target: Path of the file or folder, as its writer named it.
    """
    if os.path.isdir(_workspace_of(os.path.abspath(target))) and left_beside(target) is None:
        with contextlib.suppress(StoreError):
            Workspace(target).discard()


class Workspace:
    """The private folder of a writer, from ``__init__``, which locks it, to ``discard``, which releases it.

    Attributes:
        directory: Path of a directory for the new content. Empty unless ``resumed``.
        resumed: Whether ``directory`` holds the work of an earlier writer with the same fingerprint.
    """

    def __init__(
        self, target: str, fingerprint: bytes | None = None, *, error: type[UndecidedError] = StoreError
    ) -> None:
        """Lock the private folder beside a target, and remove the remains of a killed writer.

        Args:
            target: Path of the file or folder that will appear; for several files, the first.
            fingerprint: Digest that identifies the work of a resumable writer, at most 64 bytes. Work with the same
                fingerprint is kept. None to start over in any case.
            error: Class of the errors.

        Raises:
            UndecidedError: Another writer is active on this target, or the folder cannot be made.
        """
        self._target = os.path.abspath(checked_path(target, error))
        self._parent = os.path.dirname(self._target)
        self._folder = _workspace_of(self._target)
        self._error = error
        self._kept = False
        self._lock: locks.Lock | None = None
        self.directory = os.path.join(self._folder, _NEW)
        self.resumed = False
        try:
            with deferred():
                self._lock = self._taken()
            take_back(self._folder, self._parent)
            self.resumed = fingerprint is not None and self._left_with(fingerprint)
            if not self.resumed:
                self._begin(fingerprint)
        except OSError as failure:
            self.discard()
            raise error(unwritable(target, failure)) from failure
        except BaseException:
            self.discard()
            raise

    def _taken(self) -> locks.Lock:
        for _ in range(_ATTEMPTS):
            made = self._made()
            try:
                lock = locks.take(self._folder)
            except BlockingIOError as busy:
                raise self._error(
                    f"another writer is at work on {printable(self._target, 400)}; {busy.strerror}"
                ) from None
            except OSError:
                if made:  # its content does not belong to another writer
                    self._clear()
                    locks.Lock(self._folder, locks.NAME).give_up()
                raise
            if lock is not None:
                return lock
        raise self._error(
            f"other writers keep working on {printable(self._target, 400)}; try again when they have finished"
        )

    def _made(self) -> bool:
        """Make the folder. Return False if it exists already and only this user can have made it."""
        try:
            os.mkdir(self._folder, 0o700)
        except FileExistsError:
            status = os.lstat(self._folder)
            # In a directory that others may write to, somebody else could have made this folder.
            if not stat.S_ISDIR(status.st_mode) or not _looks_like_ours(status, self._folder):
                raise self._error(
                    f"{printable(self._folder, 400)} is in the way and is not a private directory of this user; find "
                    "out who made it, and remove it"
                ) from None
            return False
        return True

    def _left_with(self, fingerprint: bytes) -> bool:
        """Whether work with this fingerprint was left here, and only this user can have written to it."""
        try:
            folder = os.lstat(self._folder)
            note = read_note(os.path.join(self._folder, _RESUME))
            if note != fingerprint or folder.st_uid != os.geteuid() or folder.st_mode & 0o022:
                return False
            return all(map(_is_own, [self.directory, *(entry.path for entry in os.scandir(self.directory))]))
        except OSError:
            return False

    def _begin(self, fingerprint: bytes | None) -> None:
        """Make an empty directory, and then write the fingerprint."""
        self._clear()
        os.mkdir(self.directory)
        note = os.path.join(self._folder, _RESUME)
        if os.path.lexists(note):  # from another writer: new content must never pass for its work
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), note)
        if fingerprint is not None:
            with open(note, "xb") as file:
                file.write(fingerprint)

    def _clear(self) -> None:
        import shutil  # here, because it loads a dozen modules that few programs need

        for name in (_RESUME, *NOTES):
            if os.path.lexists(path := os.path.join(self._folder, name)):
                locks.removed(os.unlink, path)
        for name in (_NEW, OLD):
            if os.path.lexists(path := os.path.join(self._folder, name)):
                locks.removed(shutil.rmtree, path)

    def keep(self, kept: bool = True) -> None:
        """Keep the content for a later writer, so ``discard`` only releases the lock; or stop keeping it."""
        self._kept = kept

    def put_folder(self) -> None:
        """Rename ``directory`` to the target, durably. The target must not exist, or be an empty folder.

        Raises:
            UndecidedError: The operating system refuses. The target is unchanged.
        """
        try:
            with contextlib.suppress(FileNotFoundError):
                make_like(self.directory, os.stat(self._target))
            for folder, _, files in os.walk(self.directory, topdown=False):
                for name in files:
                    sync(os.path.join(folder, name))
                sync(folder)
            was_there = os.path.lexists(self._target)
            try:
                rename_folder(self.directory, self._target)
                sync(self._parent)
            except BaseException:
                if not os.path.lexists(self.directory):
                    os.rename(self._target, self.directory)
                if was_there and not os.path.lexists(self._target):
                    os.mkdir(self._target)
                raise
        except OSError as failure:
            if failure.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise name_taken(self._target, self._error, force=False) from None
            raise self._error(unwritable(self._target, failure)) from failure

    def put_files(self, targets: Mapping[str, str], *, overwrite: bool = False) -> None:
        """Give finished files their names, durably and in this order, all of them or none.

        Args:
            targets: Path of each file, in the folder of the target, by its name in ``directory``. The last one makes
                the others valid.
            overwrite: Whether regular files of these names are replaced.

        Raises:
            UndecidedError: A name is taken, or the operating system refuses. All files are unchanged, with one
                exception: if a single file was replaced and its folder could not be synchronised, the new file stays.
        """
        files = NamedSet(self._folder, targets)
        failing = self._target
        try:
            for name in targets:
                sync(os.path.join(self.directory, name))
            if len(targets) > 1 or not overwrite:
                files.announce()
            try:
                for name, target in targets.items():
                    failing = target
                    files.put(name, overwrite)
                sync(self._parent)
            except BaseException:
                take_back(self._folder, self._parent, complete=True)
                raise
        except FileExistsError:
            raise name_taken(failing, self._error) from None
        except OSError as failure:
            stays = overwrite and len(targets) == 1 and not os.listdir(self.directory)
            kept = "; the new file is in place, but may be lost if the power fails" if stays else ""
            raise self._error(unwritable(failing, failure) + kept) from failure

    def discard(self) -> None:
        """Remove the content, unless it is kept, and release the lock. A second call has no effect."""
        with deferred():
            lock, self._lock = self._lock, None
            if lock is not None:
                if not self._kept:
                    self._clear()
                lock.give_up()


def refuse_taken(target: str) -> None:
    """Refuse, before work begins, a name that a new folder cannot have.

    Args:
        target: Path of the new folder.

    Raises:
        StoreError: The path exists. Remains of a killed writer beside it are removed.
    """
    if os.path.lexists(target):
        collect(target)
        raise name_taken(target, force=False)


def refuse_full(target: str) -> None:
    """Refuse, before work begins, a name that a new folder cannot have. An empty folder may have it.

    Args:
        target: Path of the new folder.

    Raises:
        StoreError: Something else has this name, or it is an empty folder that a rename cannot replace.
    """
    escaped = printable(target, 400)
    if not os.path.lexists(target):
        return
    if os.path.islink(target) or not os.path.isdir(target) or os.listdir(target):
        collect(target)
        raise StoreError(f"{escaped} exists and is not an empty folder; nothing was overwritten; choose another name")
    fixed = "a mount point" if _is_mount_point(target) else ""
    fixed = "the folder that you are in" if not fixed and os.path.samefile(target, os.curdir) else fixed
    if fixed:
        raise StoreError(
            f"{escaped} is {fixed}, which cannot be replaced; name a new folder in it, such as "
            f"{printable(os.path.join(target, 'new'), 400)}"
        )


def _is_mount_point(path: str) -> bool:
    """Whether a path is a mount point, which cannot be renamed or replaced."""
    if os.path.ismount(path):
        return True
    # Only the list of mounts shows a folder of the same file system that is mounted there (mount --bind).
    real = os.fsencode(os.path.realpath(path))
    for character in b"\\ \t\n":
        real = real.replace(bytes([character]), b"\\%03o" % character)
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            return any(line.split(b" ")[4] == real for line in mounts)
    except OSError:
        return False


def name_taken(target: str, error: type[UndecidedError] = StoreError, *, force: bool = True) -> UndecidedError:
    """Make the error for a name that is taken. With ``force``, the remedy includes overwriting it."""
    remedy = ", or overwrite it knowingly (--force, overwrite=True)" if force else ""
    return error(f"{printable(target, 400)} exists and is not overwritten; choose another name{remedy}")


def checked_path(path: Path, error: type[UndecidedError] = StoreError) -> str:
    """Return a path as a str that the operating system accepts.

    Raises:
        UndecidedError: The path cannot be the name of a file.
    """
    try:
        name = os.fsdecode(path)
        if _URL.match(name):  # not shown: it may hold a password
            raise error(f"a URL ({name.partition(':')[0]}) was given; expected the path of a file on this machine")
        if b"\0" not in os.fsencode(name) and name:
            return name
    except UnicodeEncodeError:
        name = os.fspath(path)
    raise error(f"{printable(name, 400)} cannot be the name of a file; check the path")


def _workspace_of(target: str) -> str:
    parent, name = os.path.split(target)
    raw = os.fsencode(name)
    if len(raw) > _MAX_NAME_BYTES:  # it would be too long with the suffix
        import hashlib

        start = raw[: _MAX_NAME_BYTES - 70].decode("utf-8", "ignore")
        name = f"{start}.{hashlib.sha256(raw).hexdigest()}"
    return os.path.join(parent, f".{name}{_SUFFIX}")


def _looks_like_ours(status: os.stat_result, folder: str) -> bool:
    """Whether a folder has the owner and permissions of a new folder that this process makes beside it."""
    if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
        return True
    # On a file system without owners or permissions, all folders have the same ones.
    probe = f"{folder}-probe"
    with contextlib.suppress(OSError):
        os.rmdir(probe)
    os.mkdir(probe, 0o700)
    try:
        ours = os.lstat(probe)
    finally:
        os.rmdir(probe)
    return status.st_uid == ours.st_uid and not status.st_mode & 0o077 & ~ours.st_mode


def _is_own(path: str) -> bool:
    """Whether this is a directory of this user, or a file of this user without other hard links."""
    status = os.lstat(path)
    regular = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    return status.st_uid == os.geteuid() and (regular or stat.S_ISDIR(status.st_mode))
