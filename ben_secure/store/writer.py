"""``PatchWriter``: write patches as canonical values into an LMDB database that appears complete or not at all.

The writer opens only its own files with liblmdb, made in this run or in an interrupted run that is resumed (only this
user can have changed them, see ``_system.appear``). To add to an existing database, it reads the records with ``pages``
and writes them again, so liblmdb never parses pages from elsewhere (T5). It never changes a database in place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import lmdb

from ben_secure._system import causes
from ben_secure._system.appear import Workspace, checked_path
from ben_secure._system.naming import make_like
from ben_secure.errors import LimitExceededError, Rule, StoreError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.data_file import DATA_FILE_NAME, data_file_path, lock_file_path
from ben_secure.pages.reader import PageReader
from ben_secure.patches import BigEarthNetPatch
from ben_secure.signing.footer import FOOTER_BYTES, payload_end
from ben_secure.store._environment import open_environment
from ben_secure.store._names import MAX_KEY_BYTES, check_length
from ben_secure.store._released import refuse_if_released

if TYPE_CHECKING:
    from ben_secure.signing.keys import MacKey, MacKeySet

_CHUNK_BYTES = 64 * 2**20
_FIRST_MAP_BYTES = 2**30
_MAX_RESUME_BYTES = 64


class PatchWriter:
    """Writes patches by name: ``with PatchWriter(path) as writer: writer[name] = patch``.

    The database is built in a hidden directory beside ``path`` and renamed to ``path`` when the block ends. If an
    exception leaves the block, or the process crashes, ``path`` is unchanged. A writer is for one thread. With
    ``resume``, the patches that an interrupted writer has written are kept. ``name in writer`` finds them.

    Attributes:
        path: The database as the caller named it.
        limits: No payload may be longer than ``limits.max_value_bytes``, because readers would refuse it.
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
        """Store the arguments. No file is touched before the ``with`` block begins.

        Args:
            path: Directory to make (with ``data.mdb`` inside); with ``append`` an existing database, which may be
                the data file itself.
            append: Add to an existing database: copy its records unchanged and unverified, then add the new ones. This
                takes the space of both databases. No other program may write to the database meanwhile.
            limits: Limits for values, existing ones included. The tag does not count.
            mac_key: Key to tag the patches with (in a set, the key that tags), so a reader with the key accepts only
                these. Existing values are copied unchanged and not tagged.
            context: Dataset name bound into each tag, at most 255 bytes in UTF-8.
            resume: Digest of the planned content, at most 64 bytes: continue the work of an interrupted writer to
                ``path`` with an equal digest. Values are then written through to the disk at once. Not with
                ``append``.

        Raises:
            TypeError: ``mac_key`` is not a key, or ``context`` is not a str.
            ValueError: ``context`` is too long, not Unicode, or given without a key, or ``resume`` is empty, too long
                or combined with ``append``.
        """
        if resume is not None and (append or not 1 <= len(resume) <= _MAX_RESUME_BYTES):
            raise ValueError(f"resume takes 1 to {_MAX_RESUME_BYTES} bytes, and not with append")
        self.path = checked_path(path)
        self.limits = limits
        self._append = append
        self._resume = resume
        self._tag = _tagger(mac_key, context)
        self._cleanup: contextlib.ExitStack | None = None  # set while the writer is open

    def __enter__(self) -> PatchWriter:
        """Begin to write.

        Raises:
            StoreError: ``path`` exists (without ``append``), or is signed or not a readable database (with it), another
                writer is active on it, or its directory cannot be written to.
            PatchFormatError: An existing LMDB key is too long (with ``append``).
        """
        self._target = target = os.path.abspath(self.path)
        self._target_file = os.path.realpath(data_file_path(target))
        with contextlib.ExitStack() as cleanup:
            self._workspace = Workspace(self._target_file if self._append else target, self._resume)
            cleanup.callback(self._workspace.discard)
            self._refuse_existing(target)
            if self._append:
                self._refuse_released()
            self._pending: dict[bytes, bytes] = {}
            self._pending_bytes = 0
            self._map_bytes = max(_FIRST_MAP_BYTES, 2 * self._staged_bytes())
            # Written through once at the end (``Workspace``): until then the file is not needed, unless it must survive
            # a power failure. No other process uses it, so it does not need a lock.mdb.
            try:
                self._env = cleanup.enter_context(
                    open_environment(
                        self._workspace.directory,
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
        """Whether a patch of this name is written already, in this run or in the resumed one.

        Raises:
            ValueError: The call is outside the ``with`` block, or the name is not valid.
        """
        self._refuse_outside()
        return self._taken(_lmdb_key(name))

    def __setitem__(self, name: str, patch: BigEarthNetPatch) -> None:
        """Write one patch.

        Args:
            name: Name of the patch, 1 to 511 bytes in UTF-8.
            patch: The patch.

        Raises:
            ValueError: The name is empty, too long, not Unicode, or taken; or the call is outside the ``with`` block.
            TypeError: ``name`` is not a str, or ``patch`` is not a patch.
            LimitExceededError: The patch is larger than ``limits.max_value_bytes``.
            StoreError: The disk is full or fails.
        """
        self._refuse_outside()
        if not isinstance(patch, BigEarthNetPatch):
            raise TypeError(f"expected a patch, not {type(patch).__name__}")
        self.put_payload(name, patch.dumps())

    def put_payload(self, name: str, payload: bytes) -> None:
        """Write the result of ``dumps``, for callers that have made it themselves: nothing is decoded or checked.

        Args:
            name: As for a patch.
            payload: Result of ``dumps``. It is tagged if there is a key.

        Raises:
            ValueError: As for a patch.
            TypeError: ``name`` is not a str.
            LimitExceededError: The payload is larger than ``limits.max_value_bytes``.
            StoreError: The disk is full or fails.
        """
        self._refuse_outside()
        lmdb_key = _lmdb_key(name)
        self._refuse_taken(lmdb_key, name)
        self._put(lmdb_key, self._tag(lmdb_key, payload))

    def put_stored(self, lmdb_key: bytes, value: bytes) -> None:
        """Write a stored value, for callers that have made it themselves: nothing is decoded, checked or tagged.

        Args:
            lmdb_key: Raw LMDB key, 1 to 511 bytes.
            value: The stored bytes.

        Raises:
            ValueError: The key is empty, too long or taken; or the call is outside the ``with`` block.
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
        """Put the new database in place, or discard it if an exception leaves the block.

        Raises:
            StoreError: The last values cannot be written, or the database cannot be put in place. ``path`` is then
                unchanged.
        """
        cleanup, self._cleanup = self._cleanup, None
        if cleanup is not None:
            with cleanup:
                if self._resume is not None and (exc_type is None or self._env.stat()["entries"]):
                    # Written values stay in any case. Pending ones are dropped, because they may be the reason for the
                    # exception.
                    self._workspace.keep()
                if exc_type is None:
                    self._publish()
                    self._workspace.keep(False)

    def _refuse_existing(self, target: str) -> None:
        if not self._append and os.path.lexists(target):
            raise StoreError(
                f"{printable(self.path, 400)} exists; expected a path at which nothing is yet: "
                "choose another, remove it, or pass append=True to add to it",
                database=self.path,
            )

    def _refuse_released(self) -> None:
        refuse_if_released(self.path, "add to a copy of it and sign that, or move the manifest away and sign again")

    def _refuse_outside(self) -> None:
        if self._cleanup is None:
            raise ValueError("a PatchWriter writes inside its with block only: with PatchWriter(path) as writer: ...")

    def _taken(self, lmdb_key: bytes) -> bool:
        with self._env.begin(buffers=True) as transaction:
            return lmdb_key in self._pending or transaction.get(lmdb_key) is not None

    def _staged_bytes(self) -> int:
        """Return the size of the file that is resumed, or 0."""
        try:
            return os.stat(os.path.join(self._workspace.directory, DATA_FILE_NAME)).st_size
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
        """Commit the pending values. If they do not fit, try again in a map of twice the size."""
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
            make_like(os.path.join(self._workspace.directory, DATA_FILE_NAME), os.stat(self._target_file))
            for lmdb_key, value in original.items():
                check_length(lmdb_key, self.path)
                self._put(lmdb_key, value)

    def _publish(self) -> None:
        self._write_chunk()
        self._env.close()
        if not self._append:
            self._workspace.put_folder()
            return
        self._refuse_released()  # it may have been signed while patches were added
        with PageReader(self._target) as now:
            facts, status = self._original
            if now.facts != facts or not os.path.samestat(now.status, status):
                raise StoreError(
                    "the database was changed or replaced by another program while patches were added; nothing was "
                    "written: stop the other program and begin again",
                    database=self.path,
                )
        self._workspace.put_files({DATA_FILE_NAME: self._target_file}, overwrite=True)
        # The lock file of liblmdb belongs to the replaced file. Programs that have both open still agree on it, but its
        # transaction id would lead programs that open the new file to an older state.
        with contextlib.suppress(OSError):
            os.unlink(lock_file_path(self._target))

    def _failed(self, error: lmdb.Error) -> StoreError:
        cause = causes.from_text(str(error), self._workspace.directory)
        if cause is None:
            return StoreError(f"cannot write the new database: {printable(str(error))}", database=self.path)
        return StoreError(causes.unwritable(self.path, cause))


def _lmdb_key(name: object) -> bytes:
    """Return the LMDB key of a name, or raise ValueError or TypeError if the name is not valid."""
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
    """Return the function that makes the stored value from an LMDB key and a payload."""
    if mac_key is None:
        if context:
            raise ValueError("context requires mac_key")
        return lambda lmdb_key, payload: payload
    # Here, because it loads cryptography, which a writer without a key does not need.
    from ben_secure.signing.keys import MacKey, MacKeySet
    from ben_secure.signing.tags import append_tag, context_bytes

    signing = mac_key.signing if isinstance(mac_key, MacKeySet) else mac_key
    if not isinstance(signing, MacKey):
        raise TypeError(f"mac_key must be a MacKey or a MacKeySet, not {type(signing).__name__}")
    bound = context_bytes(context)
    return lambda lmdb_key, payload: append_tag(signing, bound, lmdb_key, payload)
