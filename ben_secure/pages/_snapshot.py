"""One committed state of a database: look up a key, read a value, iterate over the records, all from one meta page.

This module assumes that the pages of this state are not overwritten meanwhile. ``pages.PageReader``, its only caller,
checks this after each read, and discards the answer if they may have been overwritten. It checks every page number
against the database and the file before it follows it, and reads a bounded number of bytes at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ben_secure.errors import LimitExceededError, Rule, StoreError
from ben_secure.pages._census import Census, miscounted
from ben_secure.pages._meta import HEAD_BYTES, META_BYTES, PAGE_SIZES, Meta, check_meta, not_lmdb, parse_meta
from ben_secure.pages._nodes import PAGE_HEADER, Branch, Leaf, Node, check_overflow_header
from ben_secure.pages.data_file import DataFile

if TYPE_CHECKING:
    from ben_secure.remote.range_file import RangeFile

# Bytes of cached pages of each kind. The branch pages of 600,000 patches take 2 MB. Leaf pages are cached for readers
# that read in key order. A parsed branch page takes about three times its bytes.
_CACHE_BYTES = 8 * 2**20

_Page = TypeVar("_Page", Branch, Leaf)
Allocate: TypeAlias = Callable[[int], memoryview]
"""Returns a writable view of the given number of bytes."""


class Snapshot:
    """One committed state, with its caches.

    Attributes:
        meta: The meta page that describes the state.
        meta_pages: The bytes from the beginning of the file to the end of the second meta page.
        file_bytes: Size of the data file when the snapshot was taken. All of its pages had been written.
    """

    __slots__ = ("_branches", "_file", "_leaves", "_max_pages", "_max_value_bytes", "file_bytes", "meta", "meta_pages")

    def __init__(self, file: DataFile | RangeFile, max_value_bytes: int) -> None:
        """Read both meta pages and pick the newer intact one.

        Args:
            file: The data file.
            max_value_bytes: Maximum length of a value. Longer ones are refused before they are read.

        Raises:
            StoreError: There is no intact meta page, or it describes a database of an unsupported kind.
        """
        self._file = file
        self._max_value_bytes = max_value_bytes
        self.meta_pages, metas = _read_metas(file)
        # As mdb_env_pick_meta: the higher transaction id, or the first page if both are equal.
        self.meta = max(metas, key=lambda meta: meta.txnid)
        self.file_bytes = file.size()
        check_meta(self.meta, self.file_bytes)
        self._max_pages = _CACHE_BYTES // self.meta.page_bytes
        self._branches: dict[int, Branch] = {}
        self._leaves: dict[int, Leaf] = {}

    def is_current(self) -> bool:
        """Whether the meta pages are still, byte for byte, those of this snapshot."""
        return self._file.read_up_to(0, len(self.meta_pages)) == self.meta_pages

    def find(self, lmdb_key: bytes) -> tuple[Leaf, Node] | None:
        """Descend from the root to a key.

        Returns:
            The leaf page and the node in it, or None if there is no such key.

        Raises:
            StoreError: A page on the way is damaged, outside the file or of an unsupported kind.
        """
        if not self.meta.depth:
            return None
        number = self.meta.root
        for _ in range(self.meta.depth - 1):
            branch = self._page(Branch, self._branches, number)
            number = branch.children[branch.child_index(lmdb_key)]
        leaf = self._page(Leaf, self._leaves, number)
        node = leaf.find(lmdb_key)
        return None if node is None else (leaf, node)

    def get(self, lmdb_key: bytes, allocate: Allocate | None = None) -> Any:
        """Read the value of a key, into ``allocate(length)`` if given. Return None if there is no such key.

        Raises:
            StoreError: A page on the way is damaged, outside the file or of an unsupported kind.
            LimitExceededError: The value is longer than ``max_value_bytes``.
        """
        position = self.find(lmdb_key)
        return None if position is None else self._value(*position, allocate)

    def key_batches(self, start: bytes | None, stop: bytes | None) -> Iterator[list[bytes]]:
        """Iterate over the keys from ``start`` (inclusive) to ``stop`` (exclusive), a leaf page at a time.

        Raises:
            StoreError: As ``find``, or keys do not ascend, or their number differs from the meta page.
        """
        for _, nodes in self.walk(start, stop):
            yield [node.lmdb_key for node in nodes]

    def item_batches(self, start: bytes | None, stop: bytes | None) -> Iterator[list[tuple[bytes, bytes]]]:
        """Iterate over the records from ``start`` (inclusive) to ``stop`` (exclusive), one at a time.

        Raises:
            StoreError: As ``key_batches``.
            LimitExceededError: A value is longer than ``max_value_bytes``.
        """
        for item in self.items_in(start, stop, None):
            yield [item]

    def items_in(
        self, start: bytes | None, stop: bytes | None, allocate: Allocate | None
    ) -> Iterator[tuple[bytes, Any]]:
        """Iterate over the records like ``item_batches``, and read each value like ``get``."""
        for leaf, nodes in self.walk(start, stop):
            self._file.expect(
                (self._offset(node.overflow_page), PAGE_HEADER + node.length) for node in nodes if node.overflow_page
            )
            for node in nodes:
                try:
                    value = self._value(leaf, node, allocate)
                except StoreError as error:
                    error.lmdb_key = node.lmdb_key
                    raise
                yield node.lmdb_key, value

    def walk(
        self, start: bytes | None, stop: bytes | None, census: Census | None = None
    ) -> Iterator[tuple[Leaf, list[Node]]]:
        """Iterate over the leaves from ``start`` (inclusive) to ``stop`` (exclusive), each with its records.

        Args:
            start: First key, or None.
            stop: Key to end before, or None.
            census: Counts pages and records, or None for a new one.

        Raises:
            StoreError: As ``key_batches``.
        """
        meta = self.meta
        if census is None:
            census = Census(meta, self.file_bytes, owners=start is None and stop is None)
        previous = b""
        # Each page with the range of keys below it: from the first (inclusive) to the second (exclusive).
        paths: list[Iterator[tuple[int, bytes, bytes | None]]] = [iter([(meta.root, b"", None)] if meta.depth else [])]
        descent = start or b""
        while paths:
            number, least, end = next(paths[-1], (None, b"", None))
            if number is None:
                paths.pop()
                continue
            if len(paths) < meta.depth:
                branch = self._page(Branch, self._branches, number)
                census.count(number, None)
                first = branch.child_index(descent)
                if previous:  # not for the first keys, which do not need the other pages
                    self._expect_pages(branch.children[first:])
                least_keys = [least, *branch.separators[1:]]
                paths.append(iter([*zip(branch.children, least_keys, [*least_keys[1:], end], strict=True)][first:]))
                continue
            descent = b""  # the first leaf is reached; from here on every child is visited
            leaf = self._page(Leaf, self._leaves, number)
            nodes = leaf.nodes(previous)
            census.count(number, nodes, self.runs(nodes))
            previous = nodes[-1].lmdb_key
            if nodes[0].lmdb_key < least or (end is not None and previous >= end):
                raise leaf.damaged("it has keys that its branch page does not lead to")
            if start and nodes[0].lmdb_key < start:
                nodes = [node for node in nodes if node.lmdb_key >= start]
            if stop is not None and previous >= stop:
                yield leaf, [node for node in nodes if node.lmdb_key < stop]
                return
            yield leaf, nodes
        census.owned()
        if not start and census.entries != meta.entries:
            raise miscounted(f"{census.entries} entries, not the {meta.entries}")

    def spread(self, count: int) -> list[bytes]:
        """Pick ``count`` keys or a few less, spread evenly over the tree, and read only the leaves that have them.

        Raises:
            StoreError: As ``find``.
        """
        level = [(self.meta.root, count)] if self.meta.depth else []
        for _ in range(self.meta.depth - 1):
            self._expect_pages(number for number, _ in level)
            branches = [(self._page(Branch, self._branches, number), wanted) for number, wanted in level]
            level = [
                (child, share)
                for branch, wanted in branches
                for child, share in zip(branch.children, _shares(wanted, branch.count), strict=True)
                if share
            ]
        self._expect_pages(number for number, _ in level)
        picked = []
        for number, wanted in level:
            nodes = self._page(Leaf, self._leaves, number).nodes(b"")
            picked += [node.lmdb_key for node, share in zip(nodes, _shares(wanted, len(nodes)), strict=True) if share]
        return picked

    def _expect_pages(self, numbers: Iterable[int]) -> None:
        size = self.meta.page_bytes
        self._file.expect((number * size, size) for number in numbers if number not in self._branches)

    def read_page(self, number: int) -> bytes:
        """Read one page. Errors are those of ``read_pages``."""
        return self.read_pages(number, 1)

    def read_pages(self, number: int, pages: int) -> bytes:
        """Read consecutive pages.

        Raises:
            StoreError: The pages are not inside the database and the file.
        """
        return self._file.read(self._offset(number, pages), pages * self.meta.page_bytes)

    def runs(self, nodes: Sequence[Node]) -> list[tuple[int, int]]:
        """Return first page and number of pages of each value outside the tree. Raises like ``overflow_run``."""
        return [self.overflow_run(node) for node in nodes if node.overflow_page is not None]

    def overflow_run(self, node: Node) -> tuple[int, int]:
        """Return first page and number of pages of a value. The value must be outside the tree.

        Raises:
            StoreError: The pages are not inside the database and the file.
        """
        pages = self._overflow_pages(node)
        return self._offset(node.overflow_page or 0, pages) // self.meta.page_bytes, pages

    def _overflow_pages(self, node: Node) -> int:
        return (PAGE_HEADER - 1 + node.length) // self.meta.page_bytes + 1  # OVPAGES in mdb.c

    def _value(self, leaf: Leaf, node: Node, allocate: Allocate | None = None) -> Any:
        if node.length > self._max_value_bytes:
            raise LimitExceededError(
                f"the value has {node.length} bytes, expected at most {self._max_value_bytes} "
                "(Limits.max_value_bytes); inspect where this database comes from",
                rule=Rule.LIMIT,
                lmdb_key=node.lmdb_key,
            )
        if node.overflow_page is None:
            value = leaf.page[node.data : node.data + node.length]
            if allocate is None:
                return value
            view = allocate(node.length)
            view[:] = value
            return view
        pages = self._overflow_pages(node)
        offset = self._offset(node.overflow_page, pages)
        if allocate is not None:
            header, view = bytearray(PAGE_HEADER), allocate(node.length)
            self._file.read_into(offset, header, view)
            check_overflow_header(header, node.overflow_page, pages, self.meta.last_page)
            return view
        # If they are not of one commit, the caller notices.
        header_page, value = self._file.read_behind(offset, PAGE_HEADER, node.length)
        check_overflow_header(header_page, node.overflow_page, pages, self.meta.last_page)
        return value

    def _offset(self, number: int, pages: int = 1) -> int:
        """Return the byte offset of a run of pages, after checking that all are inside the database and the file."""
        size, last_page = self.meta.page_bytes, self.meta.last_page
        if not 2 <= number <= last_page - pages + 1:
            raise StoreError(
                f"this LMDB file is damaged: it refers to pages {number} to {number + pages - 1}, expected 2 to "
                f"{last_page}; fetch this database again",
                rule=Rule.DAMAGED,
            )
        if (number + pages) * size > self.file_bytes:
            raise StoreError(
                f"the data file is truncated: page {number + pages - 1} ends at byte {(number + pages) * size}, the "
                f"file at {self.file_bytes}; fetch this database again",
                rule=Rule.DAMAGED,
                offset=number * size,
            )
        return number * size

    def _page(self, kind: Callable[[bytes, int], _Page], cache: dict[int, _Page], number: int) -> _Page:
        page = cache.get(number)
        if page is None:
            page = kind(self.read_page(number), number)
            if len(cache) >= self._max_pages:
                cache.clear()  # one step, so thread-safe; reading a page again takes a microsecond
            cache[number] = page
        return page


def _shares(count: int, parts: int) -> list[int]:
    """Divide a count into parts that differ by at most one."""
    return [count * (part + 1) // parts - count * part // parts for part in range(parts)]


def _read_metas(file: DataFile | RangeFile) -> tuple[bytes, list[Meta]]:
    """Read both meta pages at once. Return their bytes, and the intact pages (one or two)."""
    head = file.read_up_to(0, META_BYTES)
    first = parse_meta(head, 0)
    # The first page has the position of the second. If the first is torn, the second is found by its own page size.
    for size in (first.page_bytes,) if first else PAGE_SIZES:
        pages = file.read_up_to(0, size + META_BYTES)
        metas = [parse_meta(pages[:META_BYTES], 0), parse_meta(pages[size:], 1)]
        intact = [meta for meta in metas if meta is not None and meta.page_bytes == size]
        if intact:
            return pages, intact
    raise not_lmdb(file.read_up_to(0, HEAD_BYTES))
