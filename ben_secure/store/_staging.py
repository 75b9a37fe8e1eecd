"""A private place beside a database in which its next version is made, and the step that puts it into service.

The place is a directory ``.NAME.ben-secure-writing`` beside what will be replaced, on the same file system, readable
by its owner only, held by a lock on the file ``lock`` in it. It never touches the database before ``publish``, whose
one ``rename`` either happens or does not: a process killed at any moment leaves the old database, or none, or the new
one complete. What a killed writer left behind is recognised (its lock is free) and removed by the next one, or taken
up by one that says the same of what it is about (a fingerprint in the file ``resume``): only this user can have put
it there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat

from ben_secure.errors import StoreError, printable

_SUFFIX = ".ben-secure-writing"
_LOCK_NAME = "lock"
_CONTENT_NAME = "new"
_RESUME_NAME = "resume"
_ATTEMPTS = 100


def left_beside(target: str) -> str | None:
    """Where a writer that can be resumed has left what it wrote for a target.

    Args:
        target: The database as its writer named it.

    Returns:
        Path of the place, or None if nothing was left.
    """
    parent, name = os.path.split(os.path.abspath(target))
    place = os.path.join(parent, f".{name}{_SUFFIX}")
    return place if os.path.exists(os.path.join(place, _RESUME_NAME)) else None


class Staging:
    """The place, from ``__init__`` (which takes it) to ``discard`` (which gives it up, after ``publish`` or without).

    Attributes:
        directory: Path of a directory to build the new version in; empty unless ``resumed``.
        resumed: Whether ``directory`` holds what an earlier writer with the same fingerprint left.
    """

    def __init__(self, target: str, fingerprint: bytes | None = None) -> None:
        """Take the place beside ``target``, removing what a killed writer left there.

        Args:
            target: Absolute path of the directory or file that ``publish`` will create or replace.
            fingerprint: What a writer that can be resumed is about, at most 64 bytes: what was left with the same
                fingerprint stays. None to begin anew in any case.

        Raises:
            StoreError: Another writer is at work on this target, or the place cannot be made.
        """
        self._target = target
        self._parent, name = os.path.split(target)
        self._place = os.path.join(self._parent, f".{name}{_SUFFIX}")
        self.directory = os.path.join(self._place, _CONTENT_NAME)
        self.resumed = False
        self._kept = False
        self._lock = -1
        try:
            for _ in range(_ATTEMPTS):
                self._lock = self._take()
                if self._lock >= 0:
                    break
            else:
                raise StoreError(f"writers come and go at {printable(target, 400)}; try again when they are done")
            self.resumed = fingerprint is not None and self._left_with(fingerprint)
            if not self.resumed:
                self._begin(fingerprint)
        except OSError as error:
            self.discard()
            raise StoreError(
                f"cannot write in {printable(self._parent, 400)}: {printable(str(error))}; "
                "the directory must exist and be writable"
            ) from error

    def _take(self) -> int:
        """Try to take the place: a locked file descriptor, or -1 if another writer gave it up just now."""
        try:
            os.mkdir(self._place, 0o700)
        except FileExistsError:
            found = os.lstat(self._place)
            # In a directory that others may write to, somebody could lay a place of his own in our way.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise StoreError(
                    f"{printable(self._place, 400)} is in the way and is not a private directory of this user; "
                    "find out who put it there, and remove it"
                ) from None
        try:
            lock = os.open(os.path.join(self._place, _LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return -1
        taken = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The writer that had the place may have removed the file after we opened it: then this lock holds nothing.
            taken = os.path.samestat(os.fstat(lock), os.stat(os.path.join(self._place, _LOCK_NAME)))
        except FileNotFoundError:
            pass
        except BlockingIOError:
            raise StoreError(
                f"another writer is at work on {printable(self._target, 400)}; wait until it is done"
            ) from None
        finally:
            if not taken:
                os.close(lock)
        return lock if taken else -1

    def _left_with(self, fingerprint: bytes) -> bool:
        """Whether something was left here with this fingerprint, and it is all of this user's making."""
        try:
            with open(os.path.join(self._place, _RESUME_NAME), "rb") as file:
                if file.read(65) != fingerprint:
                    return False
            return all(map(_is_own, [self.directory, *(entry.path for entry in os.scandir(self.directory))]))
        except OSError:
            return False

    def _begin(self, fingerprint: bytes | None) -> None:
        """Make the directory anew, and say last what it is about."""
        note = os.path.join(self._place, _RESUME_NAME)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(note)
        shutil.rmtree(self.directory, ignore_errors=True)
        os.mkdir(self.directory)
        if fingerprint is not None:
            with open(note, "xb") as file:
                file.write(fingerprint)

    def keep(self, kept: bool = True) -> None:
        """Leave for a later writer what is in the place: ``discard`` will only give it up. Or do not, after all."""
        self._kept = kept

    def publish(self, name: str | None = None) -> None:
        """Put the new version into service, durably: from here on it is the target, even if the power fails.

        Args:
            name: File in ``directory`` that replaces the target file and takes over its mode; None to make
                ``directory`` itself the target, which must not exist.

        Raises:
            StoreError: The operating system refuses; the target is as it was (or is new but perhaps not yet durable,
                if the very last step failed).
        """
        source = os.path.join(self.directory, name) if name else self.directory
        try:
            if name:
                shutil.copymode(self._target, source)
            for path in [os.path.join(self.directory, entry) for entry in os.listdir(self.directory)]:
                _sync(path)
            _sync(self.directory)
            os.rename(source, self._target)
            _sync(self._parent)
        except OSError as error:
            raise StoreError(
                f"cannot put the new database in place at {printable(self._target, 400)}: {printable(str(error))}"
            ) from error

    def discard(self) -> None:
        """Remove what is left in the place, unless it is kept, and give it up; doing it twice is harmless."""
        if self._lock < 0:
            return
        if not self._kept:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._place, _RESUME_NAME))
            shutil.rmtree(self.directory, ignore_errors=True)
            with contextlib.suppress(OSError):  # the next writer may be in it already
                os.unlink(os.path.join(self._place, _LOCK_NAME))
                os.rmdir(self._place)
        os.close(self._lock)
        self._lock = -1


def _is_own(path: str) -> bool:
    """Whether this is a directory or a file of this user under no other name."""
    found = os.lstat(path)
    regular = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return found.st_uid == os.geteuid() and (regular or stat.S_ISDIR(found.st_mode))


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
