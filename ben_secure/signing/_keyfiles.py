"""Key files on disk: read a secret only if it is private, and write it whole or not at all, for its owner only.

This module does not know the content of the files, and never shows a byte of it. ``_system.files`` writes them, one
program at a time. ``keys`` and, for passphrases, ``cli`` call it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

from ben_secure._system.appear import Path, checked_path
from ben_secure._system.files import Access, new_files, write_file
from ben_secure.errors import KeyFileError, printable, shell_command

_MAX_BYTES = 64 * 2**10
_DATA_FILE_NAME = "data.mdb"
_DESCRIPTOR = re.compile(r"/dev/stdin|/dev/fd/(\d{1,9})|/proc/self/fd/(\d{1,9})")


def read_secret(path: Path, database: Path | None = None, check: Callable[[bytes], None] | None = None) -> bytes:
    """Read a file that only its owner may read, or a pipe that this process was given.

    Args:
        path: The file, or ``/dev/stdin`` or ``/dev/fd/N``. For a symbolic link, its target is judged.
        database: Database that the secret is for, if known. A secret in its folder would be published with it.
        check: Called with the content before permissions are judged. Raises if the content is not a secret.

    Returns:
        The whole content, at most 64 KiB.

    Raises:
        KeyFileError: The file cannot be read, is not a regular file, belongs to a user other than this one or root, can
            be read or changed by others, or lies in the folder of a database.
    """
    path = _checked(path)
    content, status = _read(path)
    if check is not None:
        check(content)
    refuse_beside_data(path, database)
    if not stat.S_ISREG(status.st_mode):
        return content  # the caller is responsible for a pipe
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            f"{_shown(path)} belongs to user {status.st_uid}, who can read and change it; expected a secret of user "
            f"{os.geteuid()}: {_command('chown', str(os.geteuid()), '--', path)}"
        )
    if status.st_mode & 0o077:
        raise KeyFileError(
            f"{_shown(path)} can be used by others: its mode is {_mode(status)}, expected 0600: "
            f"{_command('chmod', '600', '--', path)}; if others may have read or changed it, make a new one"
        )
    return content


def read_public(path: Path) -> bytes:
    """Read a file that everybody may read but only its owner may change, or a pipe that this process was given.

    Args:
        path: The file, or ``/dev/stdin`` or ``/dev/fd/N``. For a symbolic link, its target is judged.

    Returns:
        The whole content, at most 64 KiB.

    Raises:
        KeyFileError: The file cannot be read, is not a regular file, or can be changed by others.
    """
    path = _checked(path)
    content, status = _read(path)
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o022:
        raise KeyFileError(
            f"{_shown(path)} can be changed by others: its mode is {_mode(status)}, expected 0644: "
            f"{_command('chmod', 'go-w', '--', path)}; then compare its fingerprint with the publisher's"
        )
    return content


def create(path: Path, content: bytes, *, secret: bool, overwrite: bool = False) -> None:
    """Create a file, durably.

    Args:
        path: Path of the new file. Its directory must exist.
        content: Content of the new file.
        secret: Use mode 0600 and refuse the folder of a database. Otherwise everybody may read the file, and only its
            owner may change it.
        overwrite: Replace an existing regular file.

    Raises:
        KeyFileError: The path exists, or the file cannot be written. An existing file is unchanged.
    """
    if secret:
        refuse_beside_data(path, None)
    access = Access.SECRET if secret else Access.TRUSTED
    write_file(path, content, access=access, overwrite=overwrite, error=KeyFileError)


def create_pair(private: Path, secret: bytes, public: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Create two files, both or neither. Otherwise as ``create``.

    Args:
        private: Path of the secret file.
        secret: Its content.
        public: Path of the file that everybody may read, in the same directory.
        content: Its content.
        overwrite: Replace existing regular files.

    Raises:
        KeyFileError: As ``create``.
    """
    refuse_beside_data(private, None)
    # The secret last: without it, a public file that a killed process left is useless, and is removed.
    pair, accesses = (public, private), (Access.TRUSTED, Access.SECRET)
    with new_files(pair, accesses, overwrite=overwrite, error=KeyFileError) as (public_file, private_file):
        public_file.write(content)
        private_file.write(secret)


def rewrite_secret(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace the content of a secret file by a function of it, atomically and durably.

    Args:
        path: The file. For a symbolic link, its target is replaced.
        change: Computes the new content from the old one.

    Raises:
        KeyFileError: As ``read_secret``, or the file cannot be written. It is then unchanged.
    """
    target = os.path.realpath(_checked(path))
    with new_files([target], [Access.SECRET], overwrite=True, error=KeyFileError) as (file,):
        file.write(change(read_secret(path)))


def _read(path: str) -> tuple[bytes, os.stat_result]:
    """Return content and status of a regular file or of a pipe of ours, both from one open descriptor."""
    try:
        fd = _opened(path)
        try:
            status = os.fstat(fd)
            with open(fd, "rb", closefd=False) as file:
                content = file.read(_MAX_BYTES + 1)
        finally:
            os.close(fd)
    except OSError as error:
        raise KeyFileError(f"cannot read {_shown(path)}: {printable(error.strerror)}; check the path") from error
    if len(content) > _MAX_BYTES:
        raise KeyFileError(f"{_shown(path)} has more than {_MAX_BYTES} bytes, so it is not a key file; check the path")
    return content, status


def _opened(path: str) -> int:
    """Open a regular file, or take the pipe or socket that a path of the form ``/dev/fd/N`` names."""
    if match := _DESCRIPTOR.fullmatch(path):
        descriptor = int(match[1] or match[2] or 0)
        if stat.S_ISFIFO(mode := os.fstat(descriptor).st_mode) or stat.S_ISSOCK(mode):
            return os.dup(descriptor)
        if os.isatty(descriptor):
            raise KeyFileError(f"{_shown(path)} is a terminal; expected a key from a pipe or a file")
    # O_NONBLOCK: opening a FIFO must not wait for a writer. On a regular file the flag means nothing.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    raise KeyFileError(f"{_shown(path)} is a {stat.filemode(mode)[0]!r} node, expected a regular file; check the path")


def refuse_beside_data(path: Path, database: Path | None) -> None:
    """Refuse a secret in the folder of its database, or directly in the folder of another database.

    Raises:
        KeyFileError: The secret lies there. The message has the command to type.
    """
    path = _checked(path)
    parent, name = os.path.split(os.path.abspath(path))
    # Neither the secret nor a link to it: everyone who may write to the folder could replace the key.
    for location in {os.path.join(os.path.realpath(parent), name), os.path.realpath(path)}:
        folders = [os.path.dirname(location)] if _is_environment(os.path.dirname(location)) else []
        if database is not None:
            folders.append(_folder(os.path.realpath(database)))
        for folder in folders:
            if os.path.commonpath([folder, location]) == folder:
                raise KeyFileError(
                    f"{_shown(path)} is in the database's folder {_shown(folder)}, and would be copied and published "
                    f"with it: {_command('mv', '--', location, os.path.join(os.path.dirname(folder), ''))}"
                )


def _folder(database: str) -> str:
    """Return the folder of a database, or the path of its data file if it has another name (``subdir=False``)."""
    return os.path.dirname(database) if os.path.basename(database) == _DATA_FILE_NAME else database


def _is_environment(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, _DATA_FILE_NAME))


def _checked(path: Path) -> str:
    return checked_path(path, KeyFileError)


def _shown(path: str) -> str:
    return printable(path, 400)


def _command(*words: str) -> str:
    return f"type {shell_command(*words)}"


def _mode(status: os.stat_result) -> str:
    return f"{stat.S_IMODE(status.st_mode):04o}"
