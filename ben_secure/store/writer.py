"""``PatchWriter``: write patches as canonical values into an LMDB database that appears complete or not at all.

It opens with liblmdb nothing but files that it has made itself, in this run or in one that was interrupted and is
resumed (which only this user can have changed, see ``_system.appear``): to add to an existing database, its records are
read with ``pages`` and written anew, so that liblmdb never parses pages from elsewhere (T5). It never changes a
database in place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import lmdb

from ben_secure._system import causes
from ben_secure._system.appear import Place, named
from ben_secure._system.naming import make_like
from ben_secure.errors import LimitExceededError, Rule, StoreError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.data_file import DATA_FILE_NAME, data_file_path, lock_file_path
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNetPatch
from ben_secure.signing.footer import FOOTER_BYTES, payload_end
from ben_secure.store._environment import open_environment
from ben_secure.store._names import MAX_KEY_BYTES
from ben_secure.store._released import refuse_if_released

if TYPE_CHECKING:
    from ben_secure.signing.keys import MacKey, MacKeySet

_CHUNK_BYTES = 64 * 2**20
_FIRST_MAP_BYTES = 2**30
_MAX_RESUME_BYTES = 64


class PatchWriter:
    """Writes patches by name: ``with PatchWriter(path) as writer: writer[name] = patch``.

    The database is built in a hidden directory beside ``path`` and renamed to ``path`` when the block ends. An
    exception that leaves the block, or a crash, leaves what was at ``path`` as it was. A writer is for one thread.
    With ``resume``, what was written before such an end is kept, and found again with ``name in writer``.

    Attributes:
        path: The database as the caller named it.
        limits: No payload may be longer than ``limits.max_value_bytes``, or readers would refuse it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        append: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        mac_key: MacKey | MacKeySet | None = None,
        context: str = "",
        resume: bytes | None = None,
    ) -> None:
        """Name the database; nothing is touched before the ``with`` block begins.

        Args:
            path: Directory to make (with ``data.mdb`` inside); with ``append`` an existing database, which may be
                the data file itself.
            append: Add to an existing database: copy its records as they are, unverified, then add the new ones. It
                takes the space of both. No other program may write to the database meanwhile.
            limits: Limits for values, the existing ones included; a tag does not count.
            mac_key: Key to tag the patches with (the one of a set that tags), so that a reader with the key takes
                nothing but them. What is there already is copied as it is and not tagged.
            context: Name of the dataset that the tags are good for, at most 255 bytes in UTF-8.
            resume: What will be written, as at most 64 bytes of a digest: go on where an earlier writer to ``path``
                with the same ones was interrupted. Values are then written through to the disk as they come. Not
                with ``append``.

        Raises:
            TypeError: ``mac_key`` is something else, or ``context`` is not a str.
            ValueError: ``context`` is too long or not Unicode, or there is one without a key; ``resume`` is empty,
                too long or comes with ``append``.
        """
        if resume is not None and (append or not 1 <= len(resume) <= _MAX_RESUME_BYTES):
            raise ValueError(f"resume takes 1 to {_MAX_RESUME_BYTES} bytes, and not with append")
        self.path = named(path)
        self.limits = limits
        self._append = append
        self._resume = resume
        self._tag = _tagger(mac_key, context)
        self._cleanup: contextlib.ExitStack | None = None  # set while the writer is open

    def __enter__(self) -> PatchWriter:
        """Begin to write.

        Raises:
            StoreError: ``path`` exists (without ``append``), or is not a readable database or is signed (with it),
                another writer is at work on it, or its directory cannot be written to.
        """
        self._target = target = os.path.abspath(self.path)
        self._target_file = os.path.realpath(data_file_path(target))
        with contextlib.ExitStack() as cleanup:
            self._place = Place(self._target_file if self._append else target, self._resume)
            cleanup.callback(self._place.discard)
            self._refuse_existing(target)
            if self._append:
                refuse_if_released(
                    self.path, "add to a copy of it and sign that, or move the manifest away and sign again"
                )
            self._pending: dict[bytes, bytes] = {}
            self._pending_bytes = 0
            self._map_bytes = max(_FIRST_MAP_BYTES, 2 * self._staged_bytes())
            # Written through in one go at the end (``Place``): until then nobody needs this file, unless it
            # shall outlive a power failure. No other process knows of it, so it needs no lock.mdb.
            try:
                self._env = cleanup.enter_context(
                    open_environment(
                        self._place.directory,
                        map_size=self._map_bytes,
                        sync=self._resume is not None,
                        lock=False,
                        mode=0o666,
                    )
                )
            except lmdb.Error as error:
                raise self._failed(error) from error
            if self._append:
                self._copy_original()
            self._cleanup = cleanup.pop_all()
        return self

    def __contains__(self, name: str) -> bool:
        """Whether a patch of this name is written already, in this run or in the one that is resumed.

        Raises:
            ValueError: This is outside the ``with`` block, or the name cannot be one.
        """
        self._refuse_outside()
        return self._taken(_lmdb_key(name))

    def __setitem__(self, name: str, patch: BigEarthNetPatch) -> None:
        """Write one patch.

        Args:
            name: Name of the patch, 1 to 511 bytes in UTF-8.
            patch: The patch.

        Raises:
            ValueError: The name is empty, too long, not Unicode, or taken; or this is outside the ``with`` block.
            TypeError: ``name`` is not a str, or ``patch`` is not a patch.
            LimitExceededError: The patch is larger than ``limits.max_value_bytes``.
            StoreError: The disk is full or fails.
        """
        self._refuse_outside()
        if not isinstance(patch, BigEarthNetPatch):
            raise TypeError(f"expected a patch, not {type(patch).__name__}")
        self.put_payload(name, patch.dumps())

    def put_payload(self, name: str, payload: bytes) -> None:
        """Write a patch that is ``dumps`` already, for who has made it so: nothing is decoded or checked.

        Args:
            name: As for a patch.
            payload: What its ``dumps`` returned; tagged if there is a key.

        Raises:
            ValueError: As for a patch, and so the others.
            TypeError: ``name`` is not a str.
            LimitExceededError: The payload is larger than ``limits.max_value_bytes``.
            StoreError: The disk is full or fails.
        """
        self._refuse_outside()
        lmdb_key = _lmdb_key(name)
        self._refuse_taken(lmdb_key, name)
        self._put(lmdb_key, self._tag(lmdb_key, payload))

    def put_stored(self, lmdb_key: bytes, value: bytes) -> None:
        """Write a value as it will be stored, for who has made it: nothing is decoded, checked or tagged.

        Args:
            lmdb_key: Raw LMDB key, 1 to 511 bytes.
            value: The stored bytes.

        Raises:
            ValueError: The key is empty, too long or taken; or this is outside the ``with`` block.
            LimitExceededError: The value is larger than ``limits.max_value_bytes``.
            StoreError: The disk is full or fails.
        """
        self._refuse_outside()
        _check_length(lmdb_key, lmdb_key)
        self._refuse_taken(lmdb_key, lmdb_key)
        self._put(lmdb_key, value)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the database into service, or throw the new one away if an exception leaves the block.

        Raises:
            StoreError: The last values cannot be written or the database cannot be put in place; what was at ``path``
                is as it was.
        """
        cleanup, self._cleanup = self._cleanup, None
        if cleanup is not None:
            with cleanup:
                if self._resume is not None and (exc_type is None or self._env.stat()["entries"]):
                    # Whatever happens now, what is written stays. What is pending goes: it may be why the block was
                    # left.
                    self._place.keep()
                if exc_type is None:
                    self._publish()
                    self._place.keep(False)

    def _refuse_existing(self, target: str) -> None:
        if not self._append and os.path.lexists(target):
            raise StoreError(
                f"{printable(self.path, 400)} exists; expected a path at which nothing is yet: "
                "choose another, remove it, or pass append=True to add to it",
                database=self.path,
            )

    def _refuse_outside(self) -> None:
        if self._cleanup is None:
            raise ValueError("a PatchWriter writes inside its with block only: with PatchWriter(path) as writer: ...")

    def _taken(self, lmdb_key: bytes) -> bool:
        with self._env.begin(buffers=True) as transaction:
            return lmdb_key in self._pending or transaction.get(lmdb_key) is not None

    def _staged_bytes(self) -> int:
        """Size of the file that is resumed, if there is one."""
        try:
            return os.stat(os.path.join(self._place.directory, DATA_FILE_NAME)).st_size
        except FileNotFoundError:
            return 0

    def _refuse_taken(self, lmdb_key: bytes, name: str | bytes) -> None:
        if self._taken(lmdb_key):
            raise ValueError(
                f"there is a patch named {printable(name)} in {printable(self.path, 400)} already; nothing is replaced"
            )

    def _put(self, lmdb_key: bytes, value: bytes) -> None:
        if (length := payload_end(value)) > self.limits.max_value_bytes:
            raise LimitExceededError(
                f"the value has {length} bytes, expected at most {self.limits.max_value_bytes} "
                "(Limits.max_value_bytes); a reader would refuse it",
                rule=Rule.LIMIT,
                database=self.path,
                lmdb_key=lmdb_key,
            )
        self._pending[lmdb_key] = value
        self._pending_bytes += len(value)
        if self._pending_bytes >= _CHUNK_BYTES:
            self._write_chunk()

    def _write_chunk(self) -> None:
        """Commit the pending values; a chunk that does not fit is done again in a map of twice the size."""
        try:
            while True:
                try:
                    with self._env.begin(write=True) as transaction:
                        for lmdb_key, value in sorted(self._pending.items()):
                            transaction.put(lmdb_key, value)
                    break
                except lmdb.MapFullError:
                    self._map_bytes *= 2
                    self._env.set_mapsize(self._map_bytes)
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._pending.clear()
        self._pending_bytes = 0

    def _copy_original(self) -> None:
        with PageReader(self.path, max_value_bytes=self.limits.max_value_bytes + FOOTER_BYTES) as original:
            self._original = original.facts, original.status
            make_like(os.path.join(self._place.directory, DATA_FILE_NAME), os.stat(self._target_file))
            for lmdb_key, value in original.items():
                self._put(lmdb_key, value)

    def _publish(self) -> None:
        self._write_chunk()
        self._env.close()
        if not self._append:
            self._place.put_folder()
            return
        with PageReader(self._target) as now:
            facts, status = self._original
            if now.facts != facts or not os.path.samestat(now.status, status):
                raise StoreError(
                    "the database was changed or replaced by another program while patches were added; nothing was "
                    "written: stop the other program and begin again",
                    database=self.path,
                )
        self._place.put_files({DATA_FILE_NAME: self._target_file}, overwrite=True)
        # liblmdb's lock file goes with the file that was replaced: programs that still have both open agree on it, but
        # its transaction id would send those that open the new file to an older state of that.
        with contextlib.suppress(OSError):
            os.unlink(lock_file_path(self._target))

    def _failed(self, error: lmdb.Error) -> StoreError:
        cause = causes.from_text(str(error), self._place.directory)
        if cause is None:
            return StoreError(f"cannot write the new database: {printable(str(error))}", database=self.path)
        return StoreError(causes.unwritable(self.path, cause))


def _lmdb_key(name: object) -> bytes:
    """The LMDB key of a name, or ValueError or TypeError if it cannot be one."""
    if not isinstance(name, str):
        raise TypeError(f"patch names are str, not {type(name).__name__}")
    lmdb_key = name.encode()
    _check_length(lmdb_key, name)
    return lmdb_key


def _check_length(lmdb_key: bytes, name: str | bytes) -> None:
    if not 1 <= len(lmdb_key) <= MAX_KEY_BYTES:
        raise ValueError(
            f"the name {printable(name)} has {len(lmdb_key)} bytes, expected 1 to {MAX_KEY_BYTES}; choose another"
        )


def _tagger(mac_key: MacKey | MacKeySet | None, context: str) -> Callable[[bytes, bytes], bytes]:
    """What makes the value to be stored of an LMDB key and a payload."""
    if mac_key is None:
        if context:
            raise ValueError("context requires mac_key")
        return lambda lmdb_key, payload: payload
    # Here, because it loads cryptography, which who writes without a key does not need.
    from ben_secure.signing.keys import MacKey, MacKeySet
    from ben_secure.signing.tags import append_tag, context_bytes

    signing = mac_key.signing if isinstance(mac_key, MacKeySet) else mac_key
    if not isinstance(signing, MacKey):
        raise TypeError(f"mac_key must be a MacKey or a MacKeySet, not {type(signing).__name__}")
    bound = context_bytes(context)
    return lambda lmdb_key, payload: append_tag(signing, bound, lmdb_key, payload)
