"""Find the owner of every page of a database: a record, one of the two trees, or the free list.

This ensures that no two records share a page, and that later writes of liblmdb cannot overwrite a record (T5). The free
list is a separate tree. Its keys are transactions (u64). Its values are their free pages: the number of pages, then the
page numbers (u64), descending (``MDB_IDL`` in midl.h). A value that was made smaller in the transaction that wrote it
keeps its pages (``mdb_cursor_put``: "don't bother to try shrinking the page"). The counts of a tree include such pages,
although nothing refers to them.

This module reads no value outside the trees. Time and memory are in proportion to the pages that it reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ben_secure.pages._census import Census, damaged
from ben_secure.pages._meta import META_BYTES, parse_meta
from ben_secure.pages._nodes import PAGE_HEADER, FreeBranch, FreeLeaf, Node, check_overflow_header
from ben_secure.pages._snapshot import Snapshot

_INTEGER_KEY = 0x08  # of the free list, in every file (mdb_env_init_meta)
_ENVIRONMENT_FLAGS = 0x4000  # NOSUBDIR, which is kept beside it (mm_flags)
_TREE = struct.Struct("<IHHQQQQQ")
_FREE_AT, _MAIN_AT = 40, 88  # in a meta page
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32
_NUMBER_BYTES = 8
_PAGES_AT_ONCE = 256
_SPARE_PAGES = 2**20


class _Tree(NamedTuple):
    """A meta page's entry for a tree (``MDB_db``)."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


def check_accounts(snapshot: Snapshot) -> None:
    """Check that the pages of a database are accounted for.

    Args:
        snapshot: Its state.

    Raises:
        StoreError: A page has two owners or none, has another number or is damaged, or a count of the meta page is
            wrong.
    """
    page_bytes = snapshot.meta.page_bytes
    metas = [snapshot.meta_pages[:META_BYTES], snapshot.meta_pages[page_bytes : page_bytes + META_BYTES]]
    for slot, content in enumerate(metas):
        meta = parse_meta(content, slot)
        if meta is None or meta.page_bytes != page_bytes or (meta.txnid and meta.txnid % 2 != slot):
            raise damaged(f"meta page {slot} cannot come from a committed transaction")
    free, main = (
        _Tree._make(_TREE.unpack_from(metas[snapshot.meta.page_number], offset)) for offset in (_FREE_AT, _MAIN_AT)
    )
    if free.flags & ~_ENVIRONMENT_FLAGS != _INTEGER_KEY or main.pad:
        raise damaged(f"its meta page has flags {free.flags:#x} and pad {main.pad}, expected {_INTEGER_KEY:#x} and 0")
    file_pages = snapshot.file_bytes // page_bytes
    pages = snapshot.meta.last_page + 1
    # Pages at the end that were freed in the transaction that allocated them are never written.
    if pages > file_pages + max(file_pages, _SPARE_PAGES):
        raise damaged(f"it has {file_pages} pages, and page {pages - 1} is in use")
    census = Census(snapshot.meta, snapshot.file_bytes, owners=True)
    for _ in snapshot.walk(None, None, census):
        pass
    spare = _check_counts("records", main, census)
    census.restart(free.entries)
    _count_free_pages(snapshot, free, census)
    spare += _check_counts("free pages", free, census)
    lost = pages - 2 - census.owned()
    if lost != spare:
        raise damaged(f"{lost} of its pages have no owner, expected {spare}")


def _check_counts(of: str, tree: _Tree, census: Census) -> int:
    """Compare the counts with the meta page. Return the surplus pages that shrunk values have kept."""
    counts = census.branches, census.leaves, census.entries
    claimed = tree.branch_pages, tree.leaf_pages, tree.entries
    if counts != claimed or census.overflows > tree.overflow_pages:
        raise damaged(
            f"its tree of {of} has {counts[0]} branch, {counts[1]} leaf and {census.overflows} overflow pages and "
            f"{counts[2]} entries, but the meta page states {claimed[0]}, {claimed[1]}, {tree.overflow_pages} and "
            f"{claimed[2]}"
        )
    return tree.overflow_pages - census.overflows


def _count_free_pages(snapshot: Snapshot, tree: _Tree, census: Census) -> None:
    """Walk the tree of free pages."""
    if (tree.root == _NO_PAGE) != (tree.depth == 0) or tree.depth > _MAX_DEPTH:
        raise damaged(f"its tree of free pages has root {tree.root:#x} and depth {tree.depth}")
    pending = [(tree.root, 1)] if tree.depth else []
    previous = b""
    while pending:
        number, level = pending.pop()
        content = snapshot.read_page(number)
        if level < tree.depth:
            branch = FreeBranch(content, number)
            census.count(number, None)
            pending += [(child, level + 1) for child in reversed(branch.children)]
            continue
        leaf = FreeLeaf(content, number)
        nodes = leaf.nodes(previous)
        census.count(number, nodes, snapshot.runs(nodes))
        previous = nodes[-1].lmdb_key
        for node in nodes:
            transaction = int.from_bytes(node.lmdb_key, "little")
            if len(node.lmdb_key) != _NUMBER_BYTES or transaction > snapshot.meta.txnid:
                raise leaf.damaged(f"it has free pages of transaction {node.lmdb_key.hex()}")
            for numbers in _free_pages(snapshot, leaf, node):
                census.add_free(numbers)


def _free_pages(snapshot: Snapshot, leaf: FreeLeaf, node: Node) -> Iterator[npt.NDArray[np.uint64]]:
    """The numbers of pages in one entry of the free list, some at a time, because the entry may lie in a hole."""
    last_page, count = snapshot.meta.last_page, node.length // _NUMBER_BYTES - 1
    if count > last_page or node.length % _NUMBER_BYTES or count < 0:
        raise leaf.damaged(f"a list of free pages has {node.length} bytes")
    previous = last_page + 1
    for index, piece in enumerate(_pieces(snapshot, leaf, node)):
        numbers = np.frombuffer(piece, "<u8")
        if not index:
            if numbers[0] != count:
                raise leaf.damaged(f"a list of {count} free pages states the length {numbers[0]}")
            numbers = numbers[1:]
        if len(numbers):
            if not 2 <= numbers[-1] <= numbers[0] <= last_page:
                raise leaf.damaged(f"a list of {count} free pages leaves the file")
            if numbers[0] >= previous or (numbers[1:] >= numbers[:-1]).any():
                raise leaf.damaged("a list of free pages does not descend")
            previous = int(numbers[-1])
            yield numbers


def _pieces(snapshot: Snapshot, leaf: FreeLeaf, node: Node) -> Iterator[bytes]:
    """The data of a node, a bounded number of bytes at a time."""
    if node.overflow_page is None:
        yield leaf.page[node.data : node.data + node.length]
        return
    first, pages = snapshot.overflow_run(node)
    left = PAGE_HEADER + node.length
    for number in range(first, first + pages, _PAGES_AT_ONCE):
        piece = snapshot.read_pages(number, min(_PAGES_AT_ONCE, first + pages - number))[:left]
        left -= len(piece)
        if number == first:
            check_overflow_header(piece[:PAGE_HEADER], first, pages, snapshot.meta.last_page)
        yield piece[PAGE_HEADER if number == first else 0 :]
