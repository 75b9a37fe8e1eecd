"""Which patches a dataset has, and in which database each lies; reads names and no values.

Half a million names are kept as one bytes object and not as half a million str: such a list is what grows in every
forked worker, page by page, as its reference counts are touched.
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


class Names(Sequence[str]):
    """Names of patches, in order; immutable.

    Attributes:
        databases: For each name the place of its database.
    """

    __slots__ = ("_ends", "_text", "databases")

    def __init__(self, names: Iterable[str], databases: Iterable[int]) -> None:
        parts = [name.encode() for name in names]
        self._text = b"".join(parts)
        self._ends = array("q", itertools.accumulate(map(len, parts), initial=0))
        self.databases = array("i", databases)

    def __len__(self) -> int:
        return len(self.databases)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        ends = self._ends
        place = range(len(ends) - 1)[index]
        return self._text[ends[place] : ends[place + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        return f"Names({len(self)})"


def path_of(reader: PatchReader | PairedReader) -> str:
    """The path that stands for a database in messages."""
    return getattr(reader, "s2_reader", reader).path  # type: ignore[union-attr]


def find_names(
    readers: Sequence[PatchReader | PairedReader],
    split: Path | Iterable[str] | None = None,
    exclude: Path | Iterable[str] | None = None,
    rows: Rows | None = None,
) -> Names:
    """List the patches of some databases.

    Args:
        readers: The databases.
        split: As for ``splits.choose``, like all that follow.
        exclude: See there.
        rows: See there.

    Returns:
        The names in the order of ``split``, or database by database in key order; without those of reference maps.

    Raises:
        ValueError: A name is in two databases; or as ``splits.choose``.
        TableError: A file cannot be used.
        PatchFormatError: An LMDB key is not UTF-8.
        StoreError: A database is damaged.
    """
    found: dict[str, int] = {}
    for place, reader in enumerate(readers):
        for name in reader:
            if name.endswith(ENDING):
                continue
            if found.setdefault(name, place) != place:
                raise ValueError(
                    f"the patch {printable(name)} is in {printable(path_of(readers[found[name]]), 400)} and in "
                    f"{printable(path_of(reader), 400)}; use one of them, or databases that share no patch"
                )
    if split is None and exclude is None:
        return Names(found, found.values())
    where = ", ".join(printable(path_of(reader), 400) for reader in readers)
    names = choose(found, where, split, exclude, rows)
    return Names(names, [found[name] for name in names])
