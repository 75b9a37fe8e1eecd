"""Branch and leaf pages of an LMDB 0.9 B+ tree: bounds-checked access to the nodes in a private copy of a page.

This module works on bytes alone: it never reads a file or follows a page number. Every offset is checked against the
page before it is used (T5). The layout, from mdb.c: a page header of 16 bytes (page number u64, pad u16, flags u16,
lower u16, upper u16); node offsets (u16 each) up to ``lower``; nodes from ``upper`` to the end. A node is low u16,
high u16, flags u16, key size u16, the key and, in a leaf, the data: the value itself, whose length is
``low | high << 16``, or the number (u64) of the first of its overflow pages. In a branch node low, high and flags are
the 48 bits of the child's page number. LMDB orders keys by ``memcmp``, then by length: the order of Python's bytes.
"""

from __future__ import annotations

import operator
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import NamedTuple

from ben_secure.errors import Rule, StoreError

BRANCH_PAGE, LEAF_PAGE, OVERFLOW_PAGE = 0x01, 0x02, 0x04
PAGE_HEADER = 16

_PAGE = struct.Struct("<Q2xHHH")
_POINTER = struct.Struct("<H")
_NODE = struct.Struct("<HHHH")
_NODE_HEADER = 8
_PAGE_NUMBER = struct.Struct("<Q")
_BIG_DATA, _SUB_DATABASE, _DUPLICATES = 0x01, 0x02, 0x04


class Node(NamedTuple):
    """The location of a value.

    Attributes:
        lmdb_key: The key.
        length: Bytes of the value.
        overflow_page: First overflow page of the value, or None if the value is in the leaf.
        data: Offset of the value in the leaf, if it is there.
    """

    lmdb_key: bytes
    length: int
    overflow_page: int | None
    data: int


class _TreePage:
    """The common part of branch and leaf pages: a checked header and checked nodes."""

    __slots__ = ("count", "number", "page", "upper")
    _flags: int
    _kind: str

    def __init__(self, page: bytes, number: int) -> None:
        """Check the header of a page.

        Args:
            page: The whole page.
            number: The page number under which it was read.

        Raises:
            StoreError: This is another page, has another type, or has a header that contradicts itself.
        """
        own_number, flags, lower, self.upper = _PAGE.unpack_from(page)
        self.page = page
        self.number = number
        self.count = (lower - PAGE_HEADER) >> 1
        if own_number != number:
            raise self.damaged(f"its header states page {own_number}")
        if flags != self._flags:
            raise self.damaged(f"its type is {flags:#x}, expected {self._flags:#x}")
        if lower & 1 or not PAGE_HEADER < lower <= self.upper <= len(page):
            raise self.damaged(f"its bounds are {lower} and {self.upper} of {len(page)} bytes")

    _ascend: Callable[[bytes, bytes], bool] = staticmethod(operator.lt)

    def damaged(self, fault: str) -> StoreError:
        """Make the error for this damaged page."""
        return StoreError(
            f"{self._kind} page {self.number} of this LMDB file is damaged: {fault}; fetch this database again",
            rule=Rule.DAMAGED,
            offset=self.number * len(self.page),
        )

    def key_span(self, index: int) -> tuple[int, int]:
        """Return where the key of a node begins and ends in the page. ``index`` must be below ``count``."""
        page = self.page
        (node,) = _POINTER.unpack_from(page, PAGE_HEADER + 2 * index)
        start = node + _NODE_HEADER
        if node < self.upper or start > len(page):
            raise self.damaged(f"node {index} is at byte {node}")
        end = start + _NODE.unpack_from(page, node)[3]
        if end > len(page):
            raise self.damaged(f"the key of node {index} ends at byte {end}")
        return start, end


class Branch(_TreePage):
    """A branch page. It is parsed as a whole and searched with ``bisect``, because lookups use it often.

    Attributes:
        children: Page numbers, in key order.
        separators: For each of them the least key that can be below it; the first stands for "the least of all".
    """

    __slots__ = ("children", "separators")
    _flags = BRANCH_PAGE
    _kind = "branch"

    def __init__(self, page: bytes, number: int) -> None:
        """Read every node of a branch page.

        Args:
            page: The whole page.
            number: The page number under which it was read.

        Raises:
            StoreError: The page is damaged, or if separators do not ascend or nodes overlap.
        """
        super().__init__(page, number)
        self.children: list[int] = []
        self.separators: list[bytes] = []
        room = len(page) - self.upper
        for index in range(self.count):
            start, end = self.key_span(index)
            low, high, top, _ = _NODE.unpack_from(page, start - _NODE_HEADER)
            self.children.append(low | high << 16 | top << 32)
            # The first separator stands for "everything below the second"; LMDB leaves it empty and never looks.
            separator = page[start:end] if index else b""
            if index and not self._ascend(self.separators[-1], separator):
                raise self.damaged(f"separator {index} does not ascend")
            self.separators.append(separator)
            room -= _NODE_HEADER + end - start
        if room < 0:  # so the size of the page bounds the memory of the parsed page
            raise self.damaged("its nodes overlap")

    def child_index(self, lmdb_key: bytes) -> int:
        """Return the index of the child that may hold ``lmdb_key``: the last whose separator is not above it."""
        return bisect_right(self.separators, lmdb_key) - 1


class Leaf(_TreePage):
    """A leaf page. The first lookup (usually the only one) searches the page, later ones a list of its keys."""

    __slots__ = ("_keys", "_searched")
    _flags = LEAF_PAGE
    _kind = "leaf"

    def __init__(self, page: bytes, number: int) -> None:
        """Check the header of a leaf page. Arguments and errors are those of every page of the tree."""
        super().__init__(page, number)
        self._keys: list[bytes] = []
        self._searched = False

    def find(self, lmdb_key: bytes) -> Node | None:
        """Find the node of a key.

        Returns:
            The node, or None if this leaf does not have the key.

        Raises:
            StoreError: A node that the search touches is damaged or of an unsupported kind.
        """
        if self._keys:
            index = bisect_left(self._keys, lmdb_key)
        elif self._searched:
            self._keys = [self._key(index) for index in range(self.count)]
            index = bisect_left(self._keys, lmdb_key)
        else:
            self._searched = True
            index = bisect_left(range(self.count), lmdb_key, key=self._key)
        if index == self.count:
            return None
        start, end = self.key_span(index)
        return self._node(start, end) if self.page[start:end] == lmdb_key else None

    def _key(self, index: int) -> bytes:
        start, end = self.key_span(index)
        return self.page[start:end]

    def nodes(self, previous: bytes) -> list[Node]:
        """Read every node.

        Args:
            previous: Last key of the previous leaf, or empty. The keys here must be greater.

        Returns:
            The nodes in key order, at least one.

        Raises:
            StoreError: The page is damaged, keys do not ascend, nodes overlap, or one is of an unsupported kind.
        """
        result = []
        room = len(self.page) - self.upper
        for index in range(self.count):
            start, end = self.key_span(index)
            node = self._node(start, end)
            if not self._ascend(previous, node.lmdb_key):
                raise self.damaged(f"the key of node {index} does not ascend")
            previous = node.lmdb_key
            room -= _NODE_HEADER + end - start + (node.length if node.overflow_page is None else _PAGE_NUMBER.size)
            result.append(node)
        if room < 0:  # otherwise many nodes could share one value, so a small file would hold a huge database
            raise self.damaged("its nodes overlap")
        return result

    def _node(self, start: int, end: int) -> Node:
        low, high, flags, _ = _NODE.unpack_from(self.page, start - _NODE_HEADER)
        lmdb_key = self.page[start:end]
        length = low | high << 16
        if flags & (_SUB_DATABASE | _DUPLICATES):
            raise StoreError(
                "this LMDB file has named databases or duplicate values inside; expected one plain database; copy "
                "the records that you need into a separate LMDB",
                lmdb_key=lmdb_key,
                offset=self.number * len(self.page) + start - _NODE_HEADER,
            )
        if flags & ~_BIG_DATA:
            raise self.damaged(f"the flags of a node are {flags:#x}")
        if end + (_PAGE_NUMBER.size if flags else length) > len(self.page):
            raise self.damaged(f"the data of a node begins at byte {end} and leaves the page")
        overflow_page = _PAGE_NUMBER.unpack_from(self.page, end)[0] if flags else None
        return Node(lmdb_key, length, overflow_page, end)


def _number_ascends(before: bytes, after: bytes) -> bool:
    return not before or int.from_bytes(before, "little") < int.from_bytes(after, "little")


class FreeBranch(Branch):
    """A branch page of the tree of free pages, whose keys are numbers."""

    __slots__ = ()
    _ascend = staticmethod(_number_ascends)


class FreeLeaf(Leaf):
    """A leaf page of the tree of free pages."""

    __slots__ = ()
    _ascend = staticmethod(_number_ascends)


def check_overflow_header(header: bytes | bytearray, number: int, pages_needed: int, last_page: int) -> None:
    """Check the header of the first overflow page of a value.

    Args:
        header: The first ``PAGE_HEADER`` bytes of the page.
        number: The page number under which it was read.
        pages_needed: Number of pages that header and value take.
        last_page: Number of the last page of the database.

    Raises:
        StoreError: This is another page, has another type, or cannot hold the value.
    """
    own_number, flags, low, high = _PAGE.unpack(header)
    pages = low | high << 16
    # An honest file can have more pages: LMDB keeps them if the same transaction makes a value smaller.
    if own_number != number or flags != OVERFLOW_PAGE or pages < pages_needed or number + pages - 1 > last_page:
        raise StoreError(
            f"overflow page {number} of this LMDB file is damaged: found page {own_number}, type {flags:#x}, {pages} "
            f"pages; expected page {number}, type {OVERFLOW_PAGE:#x}, at least {pages_needed} pages and none above "
            f"{last_page}; fetch this database again",
            rule=Rule.DAMAGED,
        )
