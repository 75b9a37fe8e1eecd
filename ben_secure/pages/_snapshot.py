"""One committed state of a database: look a key up, read a value, walk the records, all from one meta page.

It takes for granted that the pages of this state are not overwritten meanwhile; ``pages.PageReader``, its only
caller, checks that after each read and throws the answer away if they may have been. It never follows a page number
that was not checked against the database and the file, and never reads more than a bounded number of bytes at once.
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

# Bytes of pages kept of each kind. The branch pages of 600,000 patches are 2 MB; leaf pages are kept for readers
# that go in key order. A parsed branch page takes some three times its bytes.
_CACHE_BYTES = 8 * 2**20

_Page = TypeVar("_Page", Branch, Leaf)
Place: TypeAlias = Callable[[int], memoryview]
"""Gives a writable view of so many bytes."""


class Snapshot:
    """One committed state; its caches live and die with it.

    Attributes:
        meta: The meta page that describes the state.
        meta_pages: The bytes of both, from the beginning of the file to the end of the second.
        file_bytes: Size of the data file when the snapshot was taken. Its pages were all written by then.
    """

    __slots__ = ("_branches", "_file", "_leaves", "_max_pages", "_max_value_bytes", "file_bytes", "meta", "meta_pages")

    def __init__(self, file: DataFile | RangeFile, max_value_bytes: int) -> None:
        """Read both meta pages and pick the newer intact one.

        Args:
            file: The data file.
            max_value_bytes: Longer values are refused before they are read.

        Raises:
            StoreError: There is no intact meta page, or it describes a database of an unsupported kind.
        """
        self._file = file
        self._max_value_bytes = max_value_bytes
        self.meta_pages, metas = _read_metas(file)
        # As mdb_env_pick_meta: the higher transaction id, the first page if both are equal.
        self.meta = max(metas, key=lambda meta: meta.txnid)
        self.file_bytes = file.size()
        check_meta(self.meta, self.file_bytes)
        self._max_pages = _CACHE_BYTES // self.meta.page_bytes
        self._branches: dict[int, Branch] = {}
        self._leaves: dict[int, Leaf] = {}

    def is_current(self) -> bool:
        """Whether the meta pages still are, byte for byte, those that this snapshot was made from."""
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

    def get(self, lmdb_key: bytes, place: Place | None = None) -> Any:
        """Read the value of a key, or None if there is no such key; into ``place(length)`` if that is given.

        Raises:
            StoreError: A page on the way is damaged, outside the file or of an unsupported kind.
            LimitExceededError: The value is longer than ``max_value_bytes``.
        """
        found = self.find(lmdb_key)
        return None if found is None else self._value(*found, place)

    def key_batches(self, start: bytes | None, stop: bytes | None) -> Iterator[list[bytes]]:
        """Walk the keys from ``start`` (inclusive) to ``stop`` (exclusive), a leaf page at a time.

        Raises:
            StoreError: As ``find``, or keys do not ascend, or there are not as many as the meta page says.
        """
        for _, nodes in self.walk(start, stop):
            yield [node.lmdb_key for node in nodes]

    def item_batches(self, start: bytes | None, stop: bytes | None) -> Iterator[list[tuple[bytes, bytes]]]:
        """Walk the records from ``start`` (inclusive) to ``stop`` (exclusive), one at a time.

        Raises:
            StoreError: As ``key_batches``.
            LimitExceededError: A value is longer than ``max_value_bytes``.
        """
        for item in self.items_in(start, stop, None):
            yield [item]

    def items_in(self, start: bytes | None, stop: bytes | None, place: Place | None) -> Iterator[tuple[bytes, Any]]:
        """Walk the records as ``item_batches``, each value read as ``get`` reads it."""
        for leaf, nodes in self.walk(start, stop):
            self._file.expect(
                (self._offset(node.overflow_page), PAGE_HEADER + node.length) for node in nodes if node.overflow_page
            )
            for node in nodes:
                try:
                    value = self._value(leaf, node, place)
                except StoreError as error:
                    error.lmdb_key = node.lmdb_key
                    raise
                yield node.lmdb_key, value

    def walk(
        self, start: bytes | None, stop: bytes | None, census: Census | None = None
    ) -> Iterator[tuple[Leaf, list[Node]]]:
        """Walk the leaves from ``start`` (inclusive) to ``stop`` (exclusive), each with its records.

        Args:
            start: First key, or None.
            stop: Last one, or None.
            census: Counts what is met; None for a new one.

        Raises:
            StoreError: As ``key_batches``.
        """
        meta = self.meta
        if census is None:
            whole = start is None and stop is None
            census = Census(
                meta, self.file_bytes, min(meta.last_page + 1, self.file_bytes // meta.page_bytes) if whole else None
            )
        previous = b""
        # Each page with the keys that can be below it: from the first on, and less than the second.
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
                if previous:  # a walk that goes on; one for the first keys does not need them
                    self._expect_pages(branch.children[first:])
                least_keys = [least, *branch.separators[1:]]
                paths.append(iter([*zip(branch.children, least_keys, [*least_keys[1:], end], strict=True)][first:]))
                continue
            descent = b""  # the first leaf is reached; from here on every child is walked
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
        if not start and census.entries != meta.entries:
            raise miscounted(f"{census.entries} entries, not the {meta.entries}")

    def spread(self, count: int) -> list[bytes]:
        """Pick so many keys, or a few less, spread evenly over the tree; reads no leaf without one of them.

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
        """Read one page; raises as ``read_pages``."""
        return self.read_pages(number, 1)

    def read_pages(self, number: int, pages: int) -> bytes:
        """Read pages that follow each other.

        Raises:
            StoreError: They are not inside the database and the file.
        """
        return self._file.read(self._offset(number, pages), pages * self.meta.page_bytes)

    def runs(self, nodes: Sequence[Node]) -> list[tuple[int, int]]:
        """First page and number of pages of each value outside the tree; raises as ``overflow_run``."""
        return [self.overflow_run(node) for node in nodes if node.overflow_page is not None]

    def overflow_run(self, node: Node) -> tuple[int, int]:
        """First page and number of pages of a value outside the tree; for no other.

        Raises:
            StoreError: They are not inside the database and the file.
        """
        pages = self._overflow_pages(node)
        return self._offset(node.overflow_page or 0, pages) // self.meta.page_bytes, pages

    def _overflow_pages(self, node: Node) -> int:
        return (PAGE_HEADER - 1 + node.length) // self.meta.page_bytes + 1  # OVPAGES in mdb.c

    def _value(self, leaf: Leaf, node: Node, place: Place | None = None) -> Any:
        if node.length > self._max_value_bytes:
            raise LimitExceededError(
                f"the value has {node.length} bytes, expected at most {self._max_value_bytes} "
                "(Limits.max_value_bytes); inspect where this database comes from",
                rule=Rule.LIMIT,
                lmdb_key=node.lmdb_key,
            )
        if node.overflow_page is None:
            value = leaf.page[node.data : node.data + node.length]
            if place is None:
                return value
            view = place(node.length)
            view[:] = value
            return view
        pages = self._overflow_pages(node)
        offset = self._offset(node.overflow_page, pages)
        if place is not None:
            header, view = bytearray(PAGE_HEADER), place(node.length)
            self._file.read_into(offset, header, view)
            check_overflow_header(header, node.overflow_page, pages, self.meta.last_page)
            return view
        # Both are of one commit, or the caller notices.
        header_page, value = self._file.read_behind(offset, PAGE_HEADER, node.length)
        check_overflow_header(header_page, node.overflow_page, pages, self.meta.last_page)
        return value

    def _offset(self, number: int, pages: int = 1) -> int:
        """Byte offset of a run of pages, all of them checked to be inside the database and the file."""
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
                cache.clear()  # one step, so safe between threads; reading a page again costs a microsecond
            cache[number] = page
        return page


def _shares(count: int, places: int) -> list[int]:
    """Spread a count evenly over places."""
    return [count * (place + 1) // places - count * place // places for place in range(places)]


def _read_metas(file: DataFile | RangeFile) -> tuple[bytes, list[Meta]]:
    """Read both meta pages at once: their bytes, and those of them (one or two) that are intact."""
    head = file.read_up_to(0, META_BYTES)
    first = parse_meta(head, 0)
    # The first page says where the second begins. If the first is torn, the second is known by its own page size.
    for size in (first.page_bytes,) if first else PAGE_SIZES:
        pages = file.read_up_to(0, size + META_BYTES)
        metas = [parse_meta(pages[:META_BYTES], 0), parse_meta(pages[size:], 1)]
        intact = [meta for meta in metas if meta is not None and meta.page_bytes == size]
        if intact:
            return pages, intact
    raise not_lmdb(file.read_up_to(0, HEAD_BYTES))
