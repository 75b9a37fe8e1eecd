"""``PatchReader``: an LMDB database of patches as a mapping from patch name to patch.

Every value passes through ``pages`` (no liblmdb), ``signing.policy`` (if a key was given) and ``values.Decoder`` (no
code execution), in this order. The reader never writes, never imports lmdb, and only returns patches that the trusted
core has accepted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.errors import BenSecureError, PatchFormatError, ResourceError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.reader import DatabaseFacts, PageReader
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.pickles.arrays import ALIGNMENT
from ben_secure.signing.footer import FOOTER_BYTES, payload_end
from ben_secure.signing.policy import Keywords, Verification, Verifier
from ben_secure.store._names import lmdb_key_of, name_of
from ben_secure.values import Decoder, name_foreign
from ben_secure.view.cards import completions, gallery

if TYPE_CHECKING:
    from typing_extensions import Unpack


class PatchReader(AbstractContextManager["PatchReader"], Mapping[str, BigEarthNetPatch]):
    """The patches of one database, by name, in key order.

    Threads may share a reader, and a forked DataLoader worker may use it. A pickle (for a spawned worker) contains the
    path, and unpickling opens the file again. There may be any number of readers of one database. A reader notices
    commits of other processes to the file, but not a replacement of the file.

    Two readers are equal only if they are the same object, because a comparison must not read two databases.

    Attributes:
        path: The database as the caller named it; a URL without its credentials.
        verification: The checks for every value, or None.
        limits: Limits on the cost of one value.
        classes: Patch classes of the caller that may occur, in addition to the interface's own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        verification: Verification | None = None,
        limits: Limits = DEFAULT_LIMITS,
        classes: Iterable[type[BigEarthNetPatch]] = (),
        **keywords: Unpack[Keywords],
    ) -> None:
        """Open a database: a directory with ``data.mdb`` inside, the data file itself (``subdir=False``), or its URL.

        The requested checks hold for every value. The database cannot weaken them.

        Args:
            path: The directory or the file; or an ``https``, ``http`` or ``s3`` URL (docs/remote.md).
            verification: The checks for every value, or None to accept any patch.
            limits: Limits on the cost of one value.
            classes: Subclasses of ``BigEarthNetPatch`` that may occur; declared by the caller, never by the data.
            **keywords: The fields of a new ``Verification``: ``mac_key``, ``context``, ``verify_key``, ``threshold``,
                ``manifest``, ``name``, ``version`` and ``subject``.

        Raises:
            StoreError: There is no readable file at ``path``, it is not a plain LMDB 0.9 database, or the manifest is
                missing.
            SignatureError: The manifest is not signed by enough of the keys.
            ManifestMismatchError: The manifest was changed, does not have the requested name or version, or has another
                number of records than the database.
            TypeError: As ``Verification``, or if ``verification`` is not one.
            ValueError: As ``Verification``, or if there are a ``verification`` and fields of one.
        """
        self.limits = limits
        self.classes = tuple(classes)
        self.verification = Verification.of(verification, keywords)
        self._decoder = Decoder(self.classes, limits)
        # Whether the last value's pixels were copied. A database has one form, and new memory costs more than a copy.
        self._copied = False
        self._pages = PageReader(path, max_value_bytes=limits.max_value_bytes + FOOTER_BYTES)
        self.path = self._pages.path
        self._verifier = self._open_verification()

    def _open_verification(self) -> Verifier | None:
        if self.verification is None:
            return None
        try:
            return Verifier(self.verification, self._pages.absolute_path, entries=len(self._pages))
        except BenSecureError as error:
            self.close()
            error.located(self.path)
            raise

    @property
    def verified(self) -> str | None:
        """Description of the checks for every patch (tags, manifest, keys), or None."""
        return None if self._verifier is None else str(self._verifier)

    def __getitem__(self, name: str) -> BigEarthNetPatch:
        """Read one patch.

        Raises:
            KeyError: There is no patch of this name.
            TagMismatchError: As ``raw``.
            ManifestMismatchError: As ``raw``.
            UntrustedDataError: The value is not a patch, or uses something that no honest patch needs.
            StoreError: The database is damaged or truncated.
            TypeError: ``name`` is not a str.
        """
        copied = self._copied
        patch = self._load(name, scratch if copied else _fresh)
        # A bytearray is a copy, so the memory that was read into may be overwritten; otherwise the pixels are in it.
        self._copied = type(patch._pixels) is bytearray
        return self._load(name, _fresh) if copied and not self._copied else patch

    def _load(self, name: str, allocate: Callable[[int, int], memoryview]) -> BigEarthNetPatch:
        """Read one patch into ``allocate(length, aligned)``, which the patch then owns (see ``Loader.load``)."""
        lmdb_key = lmdb_key_of(name)
        aligned = self._decoder.pickles.pixels_at % ALIGNMENT
        value = None if lmdb_key is None else self._pages.get_into(lmdb_key, lambda size: allocate(size, aligned))
        end = self._verified_end(name, lmdb_key, value)
        try:
            return self._decoder.load(value, end, aligned)  # type: ignore[arg-type] # else there is no end
        except BenSecureError as error:
            name_foreign(error, lmdb_key)
            error.located(self.path, lmdb_key)
            raise

    def _verified_end(self, name: str, lmdb_key: bytes | None, value: bytes | memoryview | None) -> int:
        """Verify a value, and return where its payload ends. Raises like ``raw``."""
        try:
            if value is None or lmdb_key is None:
                if self._verifier is not None and lmdb_key is not None:
                    self._verifier.check_absent(lmdb_key)
                raise KeyError(f"no patch named {printable(name)} in {printable(self.path, 400)}")
            if self._verifier is None:
                return payload_end(value)
            return self._verifier.payload_end(lmdb_key, value)
        except BenSecureError as error:
            error.located(self.path, lmdb_key)
            raise

    def raw(self, name: str) -> bytes:
        """Read the stored bytes of one patch, verified but not decoded.

        Returns:
            The whole value, with the footer if it is tagged.

        Raises:
            KeyError: There is no patch of this name.
            TagMismatchError: A ``mac_key`` was given, and the value is not the tagged one.
            ManifestMismatchError: A ``verify_key`` was given, and the value is not the signed one, or the publisher's
                record of this name was removed.
            LimitExceededError: The value is longer than ``limits.max_value_bytes``.
            StoreError: The database is damaged or truncated.
            TypeError: ``name`` is not a str.
        """
        lmdb_key = lmdb_key_of(name)
        value = None if lmdb_key is None else self._pages.get(lmdb_key)
        self._verified_end(name, lmdb_key, value)
        return value  # type: ignore[return-value] # not None: it has an end

    def get_many(self, names: Iterable[str]) -> list[BigEarthNetPatch]:
        """Read several patches. From a server, many are read at a time.

        Args:
            names: Their names.

        Returns:
            The patches, in the order of ``names``.

        Raises:
            KeyError: As ``reader[name]``, which has all other errors, too.
        """
        if not self._pages.remote:
            return [self[name] for name in names]
        from concurrent.futures import ThreadPoolExecutor  # here, because local files do not need it

        pool = ThreadPoolExecutor(_REQUESTS, thread_name_prefix="ben-secure-remote")
        try:
            return list(pool.map(self.__getitem__, names))
        finally:
            pool.shutdown(cancel_futures=True)

    def __contains__(self, name: object) -> bool:
        """Whether there is a patch of this name. The value is not read.

        Raises:
            StoreError: The database is damaged or truncated.
        """
        lmdb_key = lmdb_key_of(name) if isinstance(name, str) else None
        return lmdb_key is not None and lmdb_key in self._pages

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names in key order, without reading values.

        Raises:
            PatchFormatError: A key is not UTF-8 or too long.
            StoreError: The database is damaged or truncated.
        """
        for lmdb_key in self._pages.keys():  # noqa: SIM118
            try:
                name = name_of(lmdb_key)
            except PatchFormatError as error:
                error.located(self.path)
                raise
            yield name

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def _ipython_key_completions_(self) -> list[str]:
        return completions(self)

    def _repr_html_(self) -> str:
        return gallery(repr(self), self, self.__getitem__, self.verified)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    @property
    def facts(self) -> DatabaseFacts:
        """Facts from the meta page of the database: page size, depth, entries, ...; unverified."""
        return self._pages.facts

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. A second call has no effect. No other thread may be reading."""
        self._pages.close()

    def __reduce__(self) -> tuple[Callable[..., PatchReader], tuple[object, ...]]:
        path, verification = self._pages.absolute_path, self.verification
        return partial(type(self), path, verification=verification, limits=self.limits, classes=self.classes), ()


def _fresh(size: int, aligned: int) -> memoryview:
    """Return uninitialised memory for one value, in which positions equal to ``aligned`` modulo 16 are aligned."""
    shift = -aligned % ALIGNMENT
    try:
        memory: Any = np.empty(size + shift, np.uint8)  # numpy's memory is aligned to 16 bytes
    except MemoryError as error:
        raise ResourceError.reading(size) from error
    return memoryview(memory)[shift:]


_REQUESTS = 32  # in flight
_SCRATCH_BYTES = 2**20
_scratch = threading.local()


def scratch(size: int, aligned: int) -> memoryview:
    """Like ``_fresh``, but the next call in this thread returns the same memory again.

    For callers that copy the pixels and discard the patch. At most ``_SCRATCH_BYTES`` are kept for each thread.
    """
    shift = -aligned % ALIGNMENT
    if size + shift > _SCRATCH_BYTES:
        return _fresh(size, aligned)
    kept: memoryview | None = getattr(_scratch, "memory", None)
    if kept is None or len(kept) < size + shift:
        kept = _scratch.memory = _fresh(size + shift, 0)
    return kept[shift : shift + size]
