"""Change values of an existing database where they are, in transactions that happen or do not.

The one place where liblmdb opens a file that it may not have written itself. liblmdb trusts every byte of a file and a
crafted one crashes it (T5), so it gets this one only after ``lmdb.verify``, which never hands the file to liblmdb, has
found no fault, and only if nobody but this user could have changed it since. For any other database there is
``rewrite``. Killed at any moment, what was committed is whole and what was not is as before (LMDB copies on write and
syncs each commit); doing it again does the rest.

Order of steps: take the place of the next writer (``_system.appear``: no other writer of this package), refuse if
another program has the database open, ask every value (nothing is written if one is refused), ``lmdb.verify``, then
change.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass

import lmdb
import lmdb.verify

from ben_secure._system.appear import Place
from ben_secure.errors import StoreError, UntrustedDataError, printable
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.pages.data_file import data_file_path, lock_file_path
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.signing.manifest import manifest_path
from ben_secure.store.change.digests import map_values
from ben_secure.store.change.rewrite import Progress, Refusals, Transform

_CHUNK_BYTES = 64 * 2**20
_SPARE_MAP_BYTES = 2**30
_SHOWN_FAULTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What ``change_in_place`` did.

    Attributes:
        checked: Records looked at; all that there are.
        changed: Values that were written anew.
        refusals: Values that were refused; if there are any, nothing was written.
    """

    checked: int
    changed: int
    refusals: Refusals


def change_in_place(
    path: str | os.PathLike[str],
    transform: Transform,
    *,
    progress: Progress | None = None,
) -> Changed:
    """Replace each value by what ``transform`` makes of it, if that is another one.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file itself. Nobody else may be able to write to either,
            and no program may have the database open.
        transform: Called for each record twice: once before anything is written, and when it is.
        progress: Called after each record, first of the check and then, from 0 again, of the change.

    Returns:
        What was done.

    Raises:
        StoreError: The database cannot be read or written, is empty, damaged, open in another program, others can
            write to it, or ``transform`` says so of a value. What was committed until then stays, and doing it again
            goes on from there.
    """
    path = os.fspath(path)
    with (
        PageReader(path, max_value_bytes=DEFAULT_LIMITS.max_value_bytes + FOOTER_BYTES) as reader,
        contextlib.ExitStack() as cleanup,
    ):
        data_file = os.path.realpath(data_file_path(path))
        _refuse_if_shared(path, data_file)
        cleanup.callback(Place(data_file).discard)
        _refuse_if_open(path)
        checked, to_change, refusals = _check(reader, transform, progress)
        if not to_change or refusals.count:
            return Changed(checked=checked, changed=0, refusals=refusals)
        _refuse_if_released(path)
        _verify_structure(path, data_file)
        changed = _Editor(path, data_file).run(transform, to_change, progress)
    return Changed(checked=checked, changed=changed, refusals=refusals)


def _check(reader: PageReader, transform: Transform, progress: Progress | None) -> tuple[int, int, Refusals]:
    """Ask every value: how many there are, how many would change, which are refused."""

    def changes(lmdb_key: bytes, value: bytes) -> bool | UntrustedDataError:
        try:
            return transform(lmdb_key, value) is not value
        except UntrustedDataError as error:
            return error
        except StoreError as error:
            error.located(reader.path, lmdb_key)
            raise

    refusals = Refusals()
    checked = to_change = 0
    total = len(reader)
    for lmdb_key, answer in map_values(reader, changes):
        checked += 1
        if isinstance(answer, UntrustedDataError):
            refusals.add(lmdb_key, answer)
        else:
            to_change += answer
        if progress is not None:
            progress(checked, total)
    if not checked:
        raise StoreError("the database is empty, so there is nothing to do", database=reader.path)
    return checked, to_change, refusals


def _refuse_if_shared(path: str, data_file: str) -> None:
    """Whoever could write to the file could change it between ``lmdb.verify`` and liblmdb."""
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    for place in (folder, os.path.dirname(data_file), data_file):
        found = os.stat(place)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise StoreError(
                f"others can write to {printable(place, 400)} (owner {found.st_uid}, mode "
                f"{stat.S_IMODE(found.st_mode):04o}), and could change it under liblmdb; expected a database that only "
                f"user {os.geteuid()} can write to: chmod go-w it, or write a new database (--out NEW)"
            )


def _refuse_if_open(path: str) -> None:
    """Refuse if another program has the database open: liblmdb holds a lock on byte 0 of the lock file for as long."""
    lock_file = lock_file_path(path)
    try:
        fd = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:  # liblmdb would write to whatever it is
                raise OSError("it is not a regular file of its own; find out who put it there")
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
        finally:
            os.close(fd)
    except FileNotFoundError:
        return
    except (BlockingIOError, PermissionError):
        raise StoreError(
            "another program has the database open; expected exclusive use: stop it, or write a new database "
            "(--out NEW)",
            database=path,
        ) from None
    except OSError as error:
        raise StoreError(f"cannot use the lock file {printable(lock_file, 400)}: {printable(str(error))}") from error


def _refuse_if_released(path: str) -> None:
    """A signed manifest lists the stored values as they are: none of those that change would pass any more."""
    manifest = manifest_path(path)
    if os.path.lexists(manifest):
        raise StoreError(
            f"the manifest {printable(manifest, 400)} lists the values as they are; changed in place they would not "
            "be those that were signed: write a new database (--out NEW), or move the manifest away",
            database=path,
        )


def _verify_structure(path: str, data_file: str) -> None:
    try:
        faults: list[str] = lmdb.verify.verify(data_file, subdir=False)  # type: ignore[no-untyped-call]
    except (lmdb.verify.VerifyError, OSError) as error:
        faults = [str(error)]
    if faults:
        shown = "; ".join(printable(fault, 200) for fault in faults[:_SHOWN_FAULTS])
        raise StoreError(
            f"lmdb.verify finds {len(faults)} fault(s) in the data file, so liblmdb does not get it: {shown}"
            " (it is known to call a value damaged that was made smaller by the transaction that wrote it); "
            "write a new database instead (--out NEW)",
            database=path,
        )


class _Editor:
    """Changes the values of one verified data file through liblmdb, a bounded number of bytes to a transaction."""

    def __init__(self, path: str, data_file: str) -> None:
        self._path = path
        self._directory = os.path.isdir(path)
        self._map_bytes = os.path.getsize(data_file) + _SPARE_MAP_BYTES

    def run(self, transform: Transform, to_change: int, progress: Progress | None) -> int:
        """Change all values; returns how many were."""
        changed = 0
        start = b""
        try:
            with lmdb.open(
                self._path,
                subdir=self._directory,
                map_size=self._map_bytes,
                create=False,
                lib_version=0,  # the file format of LMDB 0.9, as PageReader has found it
            ) as env:
                while True:
                    try:
                        with env.begin(write=True) as transaction:
                            done, next_key = _change_some(transaction, start, transform)
                    except lmdb.MapFullError:
                        self._map_bytes *= 2
                        env.set_mapsize(self._map_bytes)
                        continue
                    changed += done
                    if progress is not None:
                        progress(changed, to_change)
                    if next_key is None:
                        return changed
                    start = next_key
        except lmdb.Error as error:
            raise StoreError(
                f"cannot write to the database: {printable(str(error))}; what was committed is whole, do it again to "
                "go on",
                database=self._path,
            ) from error


def _change_some(transaction: lmdb.Transaction, start: bytes, transform: Transform) -> tuple[int, bytes | None]:
    """Change values from a key on until enough bytes were written.

    Returns:
        How many were changed, and the key to go on with, or None at the end.
    """
    changed = written = 0
    cursor = transaction.cursor()
    found = cursor.set_range(start) if start else cursor.first()
    while found:
        lmdb_key, value = map(bytes, cursor.item())  # they are bytes already: no copy
        if written >= _CHUNK_BYTES:
            return changed, lmdb_key
        new_value = transform(lmdb_key, value)
        if new_value is not value:
            cursor.put(lmdb_key, new_value)
            changed += 1
            written += len(new_value)
        found = cursor.next()
    return changed, None
