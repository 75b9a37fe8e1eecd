"""The names of the patches of a dataset, and the database of each. Values are not read.

Half a million names are kept in one bytes object. With a list of str, every forked worker would gradually copy the
list, page by page, because each access changes a reference count.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, overload

from ben_secure.batches.masks import ENDING
from ben_secure.batches.splits import Path, choose
from ben_secure.errors import printable

if TYPE_CHECKING:
    from ben_secure.labels.tables import Rows
    from ben_secure.store.pairs import PairedReader
    from ben_secure.store.reader import PatchReader


class PatchNames(Sequence[str]):
    """An immutable sequence of patch names.

    Attributes:
        databases: For each name, the index of its database.
    """

    __slots__ = ("_ends", "_text", "databases")

    def __init__(self, names: Iterable[str], databases: Iterable[int]) -> None:
        encoded = [name.encode() for name in names]
        self._text = b"".join(encoded)
        self._ends = array("q", itertools.accumulate(map(len, encoded), initial=0))
        self.databases = array("i", databases)

    def __len__(self) -> int:
        return len(self.databases)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        ends = self._ends
        position = range(len(ends) - 1)[index]
        return self._text[ends[position] : ends[position + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        return f"PatchNames({len(self)})"


def path_of(reader: PatchReader | PairedReader) -> str:
    """The path of a database, for messages."""
    return getattr(reader, "s2_reader", reader).path  # type: ignore[union-attr]


def find_names(
    readers: Sequence[PatchReader | PairedReader],
    split: Path | Iterable[str] | None = None,
    exclude: Path | Iterable[str] | None = None,
    rows: Rows | None = None,
) -> PatchNames:
    """List the patches of some databases.

    Args:
        readers: The databases.
        split: As for ``splits.choose``.
        exclude: As for ``splits.choose``.
        rows: As for ``splits.choose``.

    Returns:
        The names in the order of ``split``, or database by database in key order. Reference maps are left out.

    Raises:
        ValueError: A name is in two databases, or as ``splits.choose``.
        TableError: A file cannot be used.
        PatchFormatError: An LMDB key is not UTF-8.
        StoreError: A database is damaged.
    """
    database_of: dict[str, int] = {}
    for number, reader in enumerate(readers):
        for name in reader:
            if name.endswith(ENDING):
                continue
            if database_of.setdefault(name, number) != number:
                raise ValueError(
                    f"the patch {printable(name)} is in {printable(path_of(readers[database_of[name]]), 400)} and in "
                    f"{printable(path_of(reader), 400)}; use one of them, or databases that share no patch"
                )
    if split is None and exclude is None:
        return PatchNames(database_of, database_of.values())
    where = ", ".join(printable(path_of(reader), 400) for reader in readers)
    names = choose(database_of, where, split, exclude, rows)
    return PatchNames(names, [database_of[name] for name in names])
