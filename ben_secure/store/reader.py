"""``PatchReader``: an LMDB database of patches as a mapping from patch name to patch.

Every value goes through ``pages`` (no liblmdb) and ``pickles.loads`` (no code execution). It never writes, never
imports lmdb, and never gives out a patch that the trusted core has not passed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType

from ben_secure.errors import BenSecureError, PatchFormatError, Rule, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches import BigEarthNetPatch
from ben_secure.pickles import loads
from ben_secure.store.pages import DatabaseFacts, PageReader


class PatchReader(Mapping[str, BigEarthNetPatch]):
    """The patches of one database, by name, in key order.

    Threads may share a reader, a forked DataLoader worker may go on using it, and pickled (for a spawned worker) it
    travels as its path and opens the file anew. Any number of readers of one database is fine. It notices when
    another process commits to the file; a file that was put in place of the one that it opened it does not see.

    Two readers are equal only if they are the same object: a comparison must not read two archives.

    Attributes:
        path: The database as the caller named it.
        limits: What one value may cost.
        classes: Patch classes of the caller that may occur besides the interface's own.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limits: Limits = DEFAULT_LIMITS,
        classes: Iterable[type[BigEarthNetPatch]] = (),
    ) -> None:
        """Open a database: a directory with ``data.mdb`` inside, or the data file itself (``subdir=False``).

        Args:
            path: The directory or the file.
            limits: What one value may cost.
            classes: Subclasses of ``BigEarthNetPatch`` that may occur; declared by the caller, never by the data.

        Raises:
            StoreError: There is nothing to read at ``path``, or it is not a plain LMDB 0.9 database.
        """
        self.limits = limits
        self.classes = tuple(classes)
        self._pages = PageReader(path, max_value_bytes=limits.max_value_bytes)
        self._latest = b""
        self.path = self._pages.path

    def __getitem__(self, name: str) -> BigEarthNetPatch:
        """Read one patch.

        Raises:
            KeyError: There is no patch of this name.
            UntrustedDataError: The value is not a patch, or asks for what no honest patch needs.
            StoreError: The database is damaged or truncated.
            TypeError: ``name`` is not a str.
        """
        # The latest value stays until the next is there: if both it and the patch were freed each time, malloc would
        # give the top of the heap back and take it again, a page fault every 4 kB (four times the time, measured).
        self._latest = payload = self.raw(name)
        try:
            return loads(payload, limits=self.limits, classes=self.classes)
        except BenSecureError as error:
            error.located(self.path, name.encode())
            raise

    def raw(self, name: str) -> bytes:
        """Read the stored bytes of one patch, unverified and undecoded.

        Raises:
            KeyError: There is no patch of this name.
            LimitExceededError: The value is longer than ``limits.max_value_bytes``.
            StoreError: The database is damaged or truncated.
            TypeError: ``name`` is not a str.
        """
        lmdb_key = _lmdb_key(name)
        value = None if lmdb_key is None else self._pages.get(lmdb_key)
        if value is None:
            raise KeyError(f"no patch named {printable(name)} in {printable(self.path, 400)}")
        return value

    def get_many(self, names: Iterable[str]) -> list[BigEarthNetPatch]:
        """Read several patches; the result is in the order of ``names``. Raises as ``reader[name]`` does."""
        return [self[name] for name in names]

    def __contains__(self, name: object) -> bool:
        """Whether there is a patch of this name; does not read the value. Raises as ``raw`` does, but for KeyError."""
        lmdb_key = _lmdb_key(name)
        return lmdb_key is not None and lmdb_key in self._pages

    def __len__(self) -> int:
        return len(self._pages)

    def __iter__(self) -> Iterator[str]:
        """Walk the names in key order, without reading values.

        Raises:
            PatchFormatError: A key is not UTF-8. What its name would be is not guessed.
            StoreError: The database is damaged or truncated.
        """
        for lmdb_key in self._pages.keys():  # noqa: SIM118
            try:
                name = lmdb_key.decode()
            except UnicodeDecodeError as error:
                raise PatchFormatError(
                    f"the LMDB key {printable(lmdb_key)} is not UTF-8, so it is not the name of a patch; "
                    "inspect where this database comes from",
                    database=self.path,
                    lmdb_key=lmdb_key,
                    rule=Rule.LMDB_KEY,
                ) from error
            yield name

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"

    @property
    def facts(self) -> DatabaseFacts:
        """What the database says of itself: page size, depth, entries, ...; unverified."""
        return self._pages.facts

    def close(self) -> None:
        """Close the file; doing it twice is harmless. No other thread may be reading."""
        self._pages.close()

    def __enter__(self) -> PatchReader:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., PatchReader], tuple[object, ...]]:
        return _reopen, (type(self), self._pages.absolute_path, self.limits, self.classes)


def _reopen(
    kind: type[PatchReader], path: str, limits: Limits, classes: tuple[type[BigEarthNetPatch], ...]
) -> PatchReader:
    return kind(path, limits=limits, classes=classes)


def _lmdb_key(name: object) -> bytes | None:
    """The LMDB key of a name; None for a str that cannot be one. Empty and overlong keys just are not found."""
    if not isinstance(name, str):
        raise TypeError(f"patch names are str, not {type(name).__name__}")
    try:
        return name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
