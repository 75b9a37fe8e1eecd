"""Find the databases below a folder. Looks at names only; opens nothing and follows no symbolic link."""

from __future__ import annotations

import os
import stat

from ben_secure.errors import StoreError, printable
from ben_secure.pages.data_file import DATA_FILE_NAME

_SUFFIXES = (".lmdb", ".mdb")
_LOCK = "lock.mdb"
_STAGING = ".ben-secure-writing"


def databases_in(path: str) -> list[str]:
    """List the databases that a path stands for.

    Args:
        path: A database (a directory with ``data.mdb`` inside, or a data file), or a folder above databases.

    Returns:
        The path itself if it is no folder or holds ``data.mdb``. Else every folder below with a file ``data.mdb`` and
        every file ``*.lmdb`` or ``*.mdb``, sorted; symbolic links and what a writer is at work on are left out.

    Raises:
        StoreError: There is none, or a folder cannot be read, so that one may have been overlooked.
    """
    try:
        if not os.path.isdir(path) or os.path.lexists(os.path.join(path, DATA_FILE_NAME)):
            return [path]
    except ValueError:  # a NUL: what opens it says so
        return [path]
    found: list[str] = []
    for folder, folders, names in os.walk(path, onerror=_unreadable, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.endswith(_STAGING))
        if DATA_FILE_NAME in names and _is_file(os.path.join(folder, DATA_FILE_NAME)):
            found.append(folder)
        found += [
            place
            for name in names
            if name.endswith(_SUFFIXES) and name not in (DATA_FILE_NAME, _LOCK)
            if _is_file(place := os.path.join(folder, name))
        ]
    if not found:
        raise StoreError(
            f"there is no LMDB database in this folder or below: neither {DATA_FILE_NAME} nor a file *.lmdb or *.mdb; "
            "check the path"
        )
    return sorted(found)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError as error:
        _unreadable(error)
        return False


def _unreadable(error: OSError) -> None:
    raise StoreError(
        f"cannot read {printable(error.filename, 400)}: {printable(error.strerror)}; a database may be in it"
    ) from error
