"""Change values of an existing database in place, in atomic transactions.

Only this module lets liblmdb open a file that this package may not have written. liblmdb trusts every byte of a file,
and a crafted one crashes it (T5). So liblmdb opens the file only after ``lmdb.verify``, which works without liblmdb,
has found no fault, and only if no other user could have changed it since. ``rewrite`` is for all other databases. After
a kill at any moment, committed values are complete and the others are unchanged (LMDB copies on write and syncs each
commit). The same call again does the rest.

The order of steps: lock out other writers of this package (``_system.appear``), refuse if another program has the
database open, check every value (nothing is written if one is refused), run ``lmdb.verify``, then change.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass

import lmdb

from ben_secure._system import causes
from ben_secure._system.appear import Workspace
from ben_secure._system.exposure import steps_to
from ben_secure._system.optional import has_lmdb_verify
from ben_secure.errors import MissingExtraError, StoreError, UntrustedDataError, printable
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.pages.data_file import DATA_FILE_NAME, data_file_path, lock_file_path
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.store._environment import open_environment
from ben_secure.store._released import refuse_if_released
from ben_secure.store.change.digests import map_values
from ben_secure.store.change.rewrite import Progress, Refusals, Transform

_CHUNK_BYTES = 64 * 2**20
_SPARE_MAP_BYTES = 2**30
_SHOWN_FAULTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Result of ``change_in_place``.

    Attributes:
        checked: Number of records, all of which were checked.
        changed: Number of changed values.
        refusals: Refused values. If there are any, nothing was written.
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
    """Replace each value by the result of ``transform``, if that is another object.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file itself. No other user may be able to write to either,
            and no program may have the database open.
        transform: Called twice for each record: first to check all of them, then to write.
        progress: Called after each record, first for the check and then, from 0 again, for the change.

    Returns:
        The result.

    Raises:
        MissingExtraError: The package lmdb is older than release 3.
        StoreError: The database cannot be read or written, is empty, damaged, open in another program, others can
            write to it, or ``transform`` raises this error. Committed changes stay, and the same call again continues
            from there.
    """
    path = os.fspath(path)
    with (
        PageReader(path, max_value_bytes=DEFAULT_LIMITS.max_value_bytes + FOOTER_BYTES) as reader,
        contextlib.ExitStack() as cleanup,
    ):
        opened = _Opened(path, reader, cleanup)
        writing = Workspace(opened.data_file)
        cleanup.callback(writing.discard)
        _refuse_if_open(opened)
        _refuse_if_unverifiable()
        checked, to_change, refusals = _check(reader, transform, progress)
        if not to_change or refusals.count:
            return Changed(checked=checked, changed=0, refusals=refusals)
        refuse_if_released(path, "write a new database (--out NEW), or move the manifest away")
        _verify_structure(opened)
        changed = _Editor(opened, writing.directory).run(transform, to_change, progress)
    return Changed(checked=checked, changed=changed, refusals=refusals)


class _Opened:
    """The data file that is verified and changed, and its folder, both held open.

    Attributes:
        path: The database as the caller named it.
        data_file: Path of the data file, with links resolved.
        descriptor: Descriptor of the data file, for ``lmdb.verify``.
        environment: Path for liblmdb: a name in the checked folder itself, even if the path of that folder leads
            elsewhere by then.
        directory: Whether the database is a directory.
    """

    def __init__(self, path: str, reader: PageReader, cleanup: contextlib.ExitStack) -> None:
        self.path = path
        self.directory = os.path.isdir(path)
        self.data_file = os.path.realpath(data_file_path(path))
        folder = os.path.realpath(path) if self.directory else os.path.dirname(self.data_file)
        if self.directory and self.data_file != os.path.join(folder, DATA_FILE_NAME):
            raise StoreError(
                f"{DATA_FILE_NAME} is a link to {printable(self.data_file, 400)}, which others may use, too; write a "
                "new database (--out NEW)",
                database=path,
            )
        self._refuse_if_shared()
        try:
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            cleanup.callback(os.close, held)
            name = os.path.basename(self.data_file)
            self.descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=held)
            cleanup.callback(os.close, self.descriptor)
        except OSError as error:
            raise StoreError(f"cannot open the database: {printable(str(error))}", database=path) from error
        pinned = f"/proc/self/fd/{held}"  # without /proc, the path is used: no untrusted user can replace the folder
        folder = pinned if os.path.isdir(pinned) else folder
        self.environment = folder if self.directory else os.path.join(folder, name)
        if not os.path.samestat(os.fstat(self.descriptor), reader.status):
            raise _exchanged(path)

    def _refuse_if_shared(self) -> None:
        """Refuse a file that others could change between ``lmdb.verify`` and liblmdb."""
        trusted = {0, os.geteuid()}
        try:
            shared = [
                step
                for name in (data_file_path(self.path), self.data_file)
                for step in steps_to(name)
                if step.writable or step.foreign(trusted)
            ]
        except OSError as error:
            raise StoreError(f"cannot look at the database: {printable(str(error))}", database=self.path) from error
        if shared:
            raise StoreError(
                f"others can write to {printable(str(shared[0]), 400)}, and could change or exchange the database "
                f"under liblmdb; expected one that only user {os.geteuid()} can write to: chmod go-w it, or write a "
                "new database (--out NEW)",
                database=self.path,
            )

    def check_same(self, data_file: str) -> None:
        """Check that a path leads to the verified file."""
        try:
            same = os.path.samestat(os.stat(data_file), os.fstat(self.descriptor))
        except OSError:
            same = False
        if not same:
            raise _exchanged(self.path)


def _exchanged(path: str) -> StoreError:
    return StoreError(
        "the database was replaced by another file during the check; nothing was written: find out who did it, and "
        "begin again",
        database=path,
    )


def _check(reader: PageReader, transform: Transform, progress: Progress | None) -> tuple[int, int, Refusals]:
    """Check every value. Return the number of values, the number that would change, and the refusals."""

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


def _refuse_if_open(opened: _Opened) -> None:
    """Refuse if another program has the database open: liblmdb then holds a lock on byte 0 of the lock file."""
    lock_file = lock_file_path(os.path.dirname(opened.data_file) if opened.directory else opened.data_file)
    try:
        fd = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:  # liblmdb would write to it
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
            database=opened.path,
        ) from None
    except OSError as error:
        raise StoreError(f"cannot use the lock file {printable(lock_file, 400)}: {printable(str(error))}") from error


def _refuse_if_unverifiable() -> None:
    if not has_lmdb_verify():
        raise MissingExtraError(
            "a database is changed in place only after lmdb.verify, which lmdb 3 has, found no fault in it; write a "
            "new one (--out NEW), or: pip install 'lmdb>=3'"
        )


def _verify_structure(opened: _Opened) -> None:
    import lmdb.verify  # of lmdb 3

    try:
        faults: list[str] = lmdb.verify.verify(f"/dev/fd/{opened.descriptor}", subdir=False)  # type: ignore[no-untyped-call]
    except (lmdb.verify.VerifyError, OSError) as error:
        faults = [str(error)]
    if faults:
        first = "; ".join(printable(fault, 200) for fault in faults[:_SHOWN_FAULTS])
        raise StoreError(
            f"lmdb.verify finds {len(faults)} fault{'s' if len(faults) > 1 else ''} in the data file, so it is not "
            f"opened with liblmdb: {first} (lmdb.verify also reports a value that the transaction that wrote it made "
            "smaller); write a new database instead (--out NEW)",
            database=opened.path,
        )


class _Editor:
    """Changes the values of one verified data file through liblmdb, a bounded number of bytes per transaction."""

    def __init__(self, opened: _Opened, folder: str) -> None:
        self._opened = opened
        self._folder = folder  # on the same disk, owned by this user
        self._map_bytes = os.fstat(opened.descriptor).st_size + _SPARE_MAP_BYTES

    def run(self, transform: Transform, to_change: int, progress: Progress | None) -> int:
        """Change all values, and return the number of changed ones."""
        changed = 0
        start = b""
        try:
            with open_environment(
                self._opened.environment,
                subdir=self._opened.directory,
                map_size=self._map_bytes,
                create=False,
            ) as env:
                self._opened.check_same(data_file_path(self._opened.environment))
                while True:
                    try:
                        with env.begin(write=True) as transaction:
                            changed_now, next_key = _change_some(transaction, start, transform)
                    except lmdb.MapFullError:
                        self._map_bytes *= 2
                        env.set_mapsize(self._map_bytes)
                        continue
                    changed += changed_now
                    if progress is not None:
                        progress(changed, to_change)
                    if next_key is None:
                        return changed
                    start = next_key
        except lmdb.Error as error:
            cause = causes.from_text(str(error), self._folder)
            cause_text = f"cannot write to the database: {printable(str(error))}; run the command again to continue"
            if cause is not None:
                cause_text = causes.unwritable(self._opened.path, cause)
            raise StoreError(f"{cause_text}; committed values are complete", database=self._opened.path) from error


def _change_some(transaction: lmdb.Transaction, start: bytes, transform: Transform) -> tuple[int, bytes | None]:
    """Change values from a key on until enough bytes were written.

    Returns:
        The number of changed values, and the key to continue with, or None at the end.
    """
    changed = written = 0
    cursor = transaction.cursor()
    positioned = cursor.set_range(start) if start else cursor.first()
    while positioned:
        lmdb_key, value = map(bytes, cursor.item())  # they are bytes already: no copy
        if written >= _CHUNK_BYTES:
            return changed, lmdb_key
        new_value = transform(lmdb_key, value)
        if new_value is not value:
            cursor.put(lmdb_key, new_value)
            changed += 1
            written += len(new_value)
        positioned = cursor.next()
    return changed, None
