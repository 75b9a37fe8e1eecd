"""Count the pages and records on walks over a database, and find the owner of each page.

This module works on numbers alone, and never reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ben_secure.errors import Rule, StoreError
from ben_secure.pages._meta import Meta
from ben_secure.pages._nodes import Node

_FEW_RUNS = 1024


class _Owners:
    """The pages that have an owner, as runs of neighbours.

    The memory is in proportion to what was read, because neighbouring runs are joined. The file may have holes, so its
    size says little about its content. New runs are compared with the others when they are as many.
    """

    def __init__(self) -> None:
        self._runs = np.empty((0, 2), np.int64)  # first page and end of each run, ascending and apart
        self._new: list[npt.NDArray[np.int64]] = []
        self._left = _FEW_RUNS

    def add(self, runs: npt.NDArray[np.int64]) -> None:
        """Add first page and end of some runs. Raises like ``settle``, perhaps in a later call."""
        self._new.append(runs)
        self._left -= len(runs)
        if self._left < 0:
            self.settle()

    def settle(self) -> int:
        """Return the number of pages that have an owner.

        Raises:
            StoreError: A page has two owners.
        """
        runs = np.concatenate([self._runs, *self._new])
        firsts, ends = runs[np.argsort(runs[:, 0])].T
        shared = firsts[1:] < ends[:-1]
        if shared.any():
            raise damaged(f"page {firsts[1:][shared][0]} belongs to two records or pages of its trees, or is free")
        apart = firsts[1:] != ends[:-1]
        self._runs = np.stack([firsts[np.r_[True, apart][: len(runs)]], ends[np.r_[apart, True][: len(runs)]]], axis=1)
        self._new, self._left = [], max(_FEW_RUNS, len(self._runs))
        return int((ends - firsts).sum())


class Census:
    """Counts pages and entries. In an honest tree each page has one owner, and each entry is counted.

    So a crafted tree that reaches pages twice (T5) ends in an error, after work proportional to the size of the file.
    With ``owners``, it also finds two records that share a page, which counts do not reveal.

    Attributes:
        branches: Branch pages.
        leaves: Leaf pages.
        overflows: Pages of values outside the tree.
        entries: Records.
    """

    def __init__(self, meta: Meta, file_bytes: int, *, owners: bool) -> None:
        """Begin to count.

        Args:
            meta: Meta page of the tree.
            file_bytes: Size of the data file.
            owners: Whether to find the owner of each page.
        """
        self._last_page = meta.last_page
        self._most = min(meta.last_page + 1, file_bytes // meta.page_bytes) - 2  # all but the meta pages
        self._left = self._most
        self._owners = _Owners() if owners else None
        self.restart(meta.entries)

    def restart(self, entries: int) -> None:
        """Begin with another tree, of this number of entries. Pages keep their owners."""
        self._most_entries = entries
        self.branches = self.leaves = self.overflows = self.entries = 0

    def count(self, number: int, nodes: Sequence[Node] | None, runs: Sequence[tuple[int, int]] = ()) -> None:
        """Count a page of the tree, its records and their pages.

        Args:
            number: The page.
            nodes: Its records, or None for a branch page.
            runs: First page and number of pages of each of their values that is outside the tree.

        Raises:
            StoreError: There are more pages or entries than in the file or its meta page, or a page has two owners.
        """
        overflows = sum(pages for _, pages in runs)
        self.branches += nodes is None
        self.leaves += nodes is not None
        self.overflows += overflows
        self.entries += len(nodes or ())
        self._left -= 1 + overflows
        if self._left < 0 and self._most < self._last_page - 1:
            raise StoreError(
                f"the data file is truncated: it has {self._most + 2} pages, and page {self._last_page} is in use; "
                "fetch this database again",
                rule=Rule.DAMAGED,
            )
        if self._left < 0 or self.entries > self._most_entries:
            raise miscounted(f"more pages or entries than the {self._most} of the file and the {self._most_entries}")
        if self._owners is not None:
            self._owners.add(np.array([(first, first + pages) for first, pages in [(number, 1), *runs]], np.int64))

    def add_free(self, numbers: npt.NDArray[np.uint64]) -> None:
        """Count free pages.

        Args:
            numbers: Numbers of pages of the database, descending, at least one.

        Raises:
            StoreError: A page has an owner, or is free twice. Perhaps only ``owned`` notices this.
        """
        ascending = numbers[::-1].astype(np.int64)
        begins = np.diff(ascending, prepend=0) != 1  # no page is 1
        ends = np.r_[begins[1:], True]
        if self._owners is not None:
            self._owners.add(np.stack([ascending[begins], ascending[ends] + 1], axis=1))

    def owned(self) -> int:
        """Return the number of pages that have an owner, or 0 unless owners are counted.

        Raises:
            StoreError: A page has two owners.
        """
        return 0 if self._owners is None else self._owners.settle()


def damaged(fact: str) -> StoreError:
    """Make the error about a database whose parts contradict each other."""
    return StoreError(f"this LMDB file is damaged: {fact}; fetch this database again", rule=Rule.DAMAGED)


def miscounted(counted: str) -> StoreError:
    """Make the error about a tree whose counts differ from its meta page."""
    return damaged(f"its tree has {counted} of its meta page")
