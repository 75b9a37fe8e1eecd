"""Count the pages and records on walks over a database, and find the owner of each page.

It works on numbers alone, and never reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ben_secure.errors import Rule, StoreError
from ben_secure.pages._meta import Meta
from ben_secure.pages._nodes import Node


class Census:
    """Counts pages and entries. In an honest tree each page has one owner, and each entry is counted.

    So a crafted tree that reaches pages twice (T5) ends in an error, after work proportional to the size of the file.
    With the number of pages, it keeps a byte for each page, and also finds two records that share a page, which counts
    do not reveal.

    Attributes:
        branches: Branch pages.
        leaves: Leaf pages.
        overflows: Pages of values outside the tree.
        entries: Records.
    """

    def __init__(self, meta: Meta, file_bytes: int, pages: int | None) -> None:
        """Begin to count.

        Args:
            meta: Meta page of the tree.
            file_bytes: Size of the data file.
            pages: Number of pages in the database, to find the owner of each; None to skip this.
        """
        self._last_page = meta.last_page
        self._most = min(meta.last_page + 1, file_bytes // meta.page_bytes) - 2  # all but the meta pages
        self._left = self._most
        self._owned = None if pages is None else bytearray(pages)
        self.restart(meta.entries)

    def restart(self, entries: int) -> None:
        """Begin with another tree, of this number of entries. Pages keep their owners."""
        self._most_entries = entries
        self.branches = self.leaves = self.overflows = self.entries = 0

    def count(self, number: int, nodes: Sequence[Node] | None, runs: Sequence[tuple[int, int]] = ()) -> None:
        """Count a page of the tree, its records and their pages.

        Args:
            number: The page.
            nodes: Its records; None for a branch page.
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
        if self._owned is not None:
            self._own(self._owned, number, 1)
            for first, pages in runs:
                self._own(self._owned, first, pages)

    @staticmethod
    def _own(owned: bytearray, first: int, pages: int) -> None:
        shared = owned.find(1, first, first + pages)
        if shared >= 0:
            raise damaged(f"page {shared} belongs to two records or pages of its tree")
        owned[first : first + pages] = b"\1" * pages

    def own_free(self, numbers: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
        """Count free pages.

        Args:
            numbers: Different numbers of pages of the database.

        Raises:
            StoreError: A page has an owner, or is free twice.
        """
        owned = np.frombuffer(self._owned or bytearray(), "u1")
        if owned[numbers].any():
            raise damaged(f"page {numbers[owned[numbers] != 0][0]} is free, but also in use or free a second time")
        owned[numbers] = 1

    def left(self) -> int:
        """Pages without an owner."""
        return (self._owned or bytearray()).count(0) - 2


def damaged(fact: str) -> StoreError:
    """Make the error about a database whose parts contradict each other."""
    return StoreError(f"this LMDB file is damaged: {fact}; fetch this database again", rule=Rule.DAMAGED)


def miscounted(counted: str) -> StoreError:
    """Make the error about a tree that has other counts than its meta page."""
    return damaged(f"its tree has {counted} of its meta page")
