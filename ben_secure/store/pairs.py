"""``PairedReader``: Sentinel-2 records joined with the Sentinel-1 patches of the same location, by a table of pairs.

Some databases keep the two apart, for example databases of rico-hdl. A ``PatchReader`` reads and verifies each record.
Similar names are never a reason to join records. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType

from ben_secure.equality import equal
from ben_secure.errors import BenSecureError, PatchFormatError, Rule, StoreError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches import (
    BigEarthNet_S1_Patch,
    BigEarthNet_S1_S2_Patch,
    BigEarthNet_S2_Patch,
    BigEarthNetPatch,
    kind_of,
    rebuild,
)
from ben_secure.patches.layout import Layout
from ben_secure.store.reader import PatchReader
from ben_secure.view.cards import completions, gallery

_S1_PREFIX = "s1_"


def join(s2: BigEarthNetPatch, s1: BigEarthNetPatch, limits: Limits = DEFAULT_LIMITS) -> BigEarthNet_S1_S2_Patch:
    """Join two patches. Pixels are copied once.

    Args:
        s2: A Sentinel-2 patch.
        s1: The Sentinel-1 patch of the same location.
        limits: Bounds on the metadata of both patches together.

    Returns:
        The merged patch, with the metadata of both. If a name has two values, Sentinel-2 keeps the name, and the value
        of Sentinel-1 is called ``s1_NAME``.

    Raises:
        PatchFormatError: A patch has another class, or the metadata cannot be joined.
    """
    for patch, cls in ((s2, BigEarthNet_S2_Patch), (s1, BigEarthNet_S1_Patch)):
        if kind_of(type(patch)) != cls.__name__:
            raise PatchFormatError(
                f"the record is a {printable(type(patch).__name__)}, expected a {cls.__name__} to be joined",
                rule=Rule.PATCH,
            )
    metadata: dict[str, object] = dict(s2.to_dict()["metadata"])
    for name, value in s1.to_dict()["metadata"].items():
        if name in metadata and equal(metadata[name], value):
            continue
        joined = name if name not in metadata else f"{_S1_PREFIX}{name}"
        if joined in metadata:
            raise PatchFormatError(
                f"both patches have metadata {printable(name)!r}, and there is {printable(joined)!r} already; "
                "rename one of them",
                rule=Rule.PATCH,
            )
        metadata[joined] = value
    kind = BigEarthNet_S1_S2_Patch.__name__
    # The buffer of a merged patch is the Sentinel-2 buffer, followed by the Sentinel-1 buffer (bands.STORAGE_ORDER).
    layout = Layout.canonical_dtypes(kind, [slot.dtype.str for slot in (*s2._layout.slots, *s1._layout.slots)])
    try:
        return rebuild(
            BigEarthNet_S1_S2_Patch, layout, bytearray().join((s2._pixels, s1._pixels)), metadata, None, limits
        )
    except (TypeError, ValueError) as error:
        raise PatchFormatError(f"the two patches cannot be joined: {error}", rule=Rule.PATCH) from error


class PairedReader(AbstractContextManager["PairedReader"], Mapping[str, BigEarthNet_S1_S2_Patch]):
    """Merged patches by the name of the Sentinel-2 record, in key order.

    It has those Sentinel-2 records of the database that the table pairs with a Sentinel-1 record. It can be pickled,
    and used in threads and forked processes, like its readers.

    Attributes:
        s2_reader: The reader of the Sentinel-2 records.
        s1_reader: The reader of the Sentinel-1 records. It may be ``s2_reader``.
        pairs: Name of the Sentinel-1 record by name of the Sentinel-2 record. Read-only.
    """

    def __init__(self, s2_reader: PatchReader, pairs: Mapping[str, str], s1_reader: PatchReader | None = None) -> None:
        """Join two databases, or the two kinds of records in one.

        Args:
            s2_reader: The reader of the Sentinel-2 records.
            pairs: Sentinel-1 name by Sentinel-2 name, for example from ``tables.pairs_of``.
            s1_reader: The reader of the Sentinel-1 records, or None if they are in the same database.

        Raises:
            TypeError: A reader is not a ``PatchReader``, or a name is not a str.
            ValueError: There are no pairs.
        """
        s1_reader = s2_reader if s1_reader is None else s1_reader
        for reader in (s2_reader, s1_reader):
            if not isinstance(reader, PatchReader):
                raise TypeError(f"records are read by a PatchReader, not by a {type(reader).__name__}")
        pairs = dict(pairs)
        for s2_name, s1_name in pairs.items():
            if not isinstance(s2_name, str) or not isinstance(s1_name, str):  # type: ignore[redundant-expr]
                raise TypeError(
                    f"pairs must give a str for each str, not {printable(s1_name)} for {printable(s2_name)}"
                )
        if not pairs:
            raise ValueError("there are no pairs, so nothing can be joined")
        self.s2_reader = s2_reader
        self.s1_reader = s1_reader
        self.pairs: Mapping[str, str] = MappingProxyType(pairs)
        self._names: tuple[int, tuple[str, ...]] = (-1, ())

    @property
    def verified(self) -> str | None:
        """Description of the checks for every patch, or None if one of its two records is not verified."""
        s2, s1 = self.s2_reader.verified, self.s1_reader.verified
        if self.s1_reader is self.s2_reader or s2 is None or s1 is None:
            return s2 and s1
        return f"Sentinel-2: {s2}; Sentinel-1: {s1}"

    def __getitem__(self, name: str) -> BigEarthNet_S1_S2_Patch:
        """Read one pair.

        Raises:
            KeyError: There is no Sentinel-2 record of this name, or the table does not pair it.
            StoreError: The Sentinel-1 record does not exist, or a database is damaged.
            UntrustedDataError: As ``PatchReader`` for either record, or if they do not have the two classes.
            TypeError: ``name`` is not a str.
        """
        s2 = self.s2_reader[name]
        s1_name = self.pairs.get(name)
        if s1_name is None:
            raise KeyError(f"the table does not pair {printable(name)} with a Sentinel-1 record")
        try:
            try:
                s1 = self.s1_reader[s1_name]
            except KeyError:
                raise StoreError("there is no such record", lmdb_key=_lmdb_key(s1_name)) from None
        except BenSecureError as error:
            error.message = f"the Sentinel-1 record paired with {printable(name)}: {error.message}"
            error.located(self.s1_reader.path, _lmdb_key(s1_name))
            raise
        try:
            return join(s2, s1, self.s2_reader.limits)
        except BenSecureError as error:
            error.message = f"{error.message} (Sentinel-1 record {printable(s1_name)})"
            error.located(self.s2_reader.path, _lmdb_key(name))
            raise

    def get_many(self, names: Iterable[str]) -> list[BigEarthNet_S1_S2_Patch]:
        """Read several pairs, in the order of ``names``. Errors are those of ``reader[name]``."""
        return [self[name] for name in names]

    def __contains__(self, name: object) -> bool:
        """Whether there is a Sentinel-2 record of this name that the table pairs. Neither record is read."""
        return name in self.s2_reader and name in self.pairs

    def _found(self) -> tuple[str, ...]:
        """Return the names. They are read again after the database has changed."""
        transaction = self.s2_reader.facts.txnid
        if self._names[0] != transaction:
            self._names = transaction, tuple(name for name in self.s2_reader if name in self.pairs)
        return self._names[1]

    def __len__(self) -> int:
        return len(self._found())

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def _ipython_key_completions_(self) -> list[str]:
        return completions(self)

    def _repr_html_(self) -> str:
        return gallery(repr(self), self, self.__getitem__, self.verified)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.s2_reader!r}, <{len(self.pairs)} pairs>, {self.s1_reader!r})"

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both readers. A second call has no effect."""
        self.s2_reader.close()
        self.s1_reader.close()

    def __reduce__(self) -> tuple[Callable[..., PairedReader], tuple[object, ...]]:
        s1_reader = None if self.s1_reader is self.s2_reader else self.s1_reader
        return type(self), (self.s2_reader, dict(self.pairs), s1_reader)


def _lmdb_key(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
