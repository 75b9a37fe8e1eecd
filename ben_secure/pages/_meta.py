"""The two meta pages of an LMDB 0.9 file: parse them, and identify a file that does not have them.

This module works on bytes alone and never reads a file. The layout is that of liblmdb 0.9 (mdb.c) on a 64-bit
little-endian machine. A meta page holds, in this order:

- a page header of 16 bytes: page number u64, pad u16, flags u16, lower u16, upper u16;
- ``MDB_meta`` of 136 bytes: magic u32, version u32, address u64, map size u64; two records (``MDB_db``, 48 bytes each),
  of the tree of free pages and of the main database; last page u64, transaction id u64.

The first field of the first record is the page size.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ben_secure.errors import StoreError

HEAD_BYTES = 512
"""Number of bytes that identify the kind of a file; the mark of a tar file is at byte 257."""

META_BYTES = 152
"""Bytes of a meta page that are used: page header (16) and ``MDB_meta`` (136)."""

PAGE_SIZES = tuple(1 << bits for bits in range(8, 16))
"""Page sizes that LMDB 0.9 writes: powers of two up to 32768 (``MAX_PAGESIZE``; 65536 does not fit ``mp_upper``)."""

_META = struct.Struct("<Q2xH4xII8xQI44x4xHHQQQQQQQ")
_MAGIC = 0xBEEFC0DE
_VERSION = 1
_META_PAGE = 0x08
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32  # CURSOR_STACK in mdb.c
_MIN_ENTRY_BYTES = 11  # pointer (2), node header (8), a key of one byte
_DATABASE_FLAGS = {
    0x02: "REVERSEKEY",
    0x04: "DUPSORT",
    0x08: "INTEGERKEY",
    0x10: "DUPFIXED",
    0x20: "INTEGERDUP",
    0x40: "REVERSEDUP",
}


class Meta(NamedTuple):
    """One meta page: a committed state of the database."""

    page_number: int
    page_flags: int
    magic: int
    version: int
    map_bytes: int
    page_bytes: int
    database_flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int
    last_page: int
    txnid: int


def parse_meta(data: bytes, slot: int) -> Meta | None:
    """Parse the meta page of slot 0 or 1.

    Args:
        data: The first ``META_BYTES`` bytes of the page, or fewer at the end of the file.
        slot: Number of the page.

    Returns:
        The meta page, or None if these bytes are not an intact meta page of LMDB 0.9, 64-bit, little-endian.
    """
    if len(data) != META_BYTES:
        return None
    meta = Meta._make(_META.unpack(data))
    intact = (
        meta.page_number == slot
        and meta.page_flags & _META_PAGE
        and meta.magic == _MAGIC
        and meta.version == _VERSION
        and meta.page_bytes in PAGE_SIZES
        and meta.last_page >= 1
    )
    return meta if intact else None


def check_meta(meta: Meta, file_bytes: int) -> None:
    """Check that a meta page describes a possible state of a supported kind of database.

    Args:
        meta: An intact meta page.
        file_bytes: Size of the data file.

    Raises:
        StoreError: The main database has flags (DUPSORT, REVERSEKEY, ...), or its numbers contradict each other.
    """
    if meta.database_flags:
        names = [name for bit, name in _DATABASE_FLAGS.items() if meta.database_flags & bit]
        raise StoreError(
            f"unsupported kind of LMDB database: flags {meta.database_flags:#x} ({', '.join(names) or 'unknown'}), "
            "expected none; copy its records into a plain database with one value per key"
        )
    if meta.root == _NO_PAGE:
        possible = meta.depth == 0 and meta.entries == 0
    else:
        possible = 1 <= meta.depth <= _MAX_DEPTH and 0 < meta.entries <= file_bytes // _MIN_ENTRY_BYTES
    if not possible:
        raise StoreError(
            f"the meta page is damaged: root {meta.root:#x}, depth {meta.depth} and {meta.entries} entries do not "
            f"go together in a file of {file_bytes} bytes; fetch this database again",
            offset=meta.page_number * meta.page_bytes,
        )


def not_lmdb(head: bytes) -> StoreError:
    """Make the error for a file without an intact meta page, which identifies the kind of file.

    Args:
        head: The first bytes of the file, ``HEAD_BYTES`` if there are so many.

    Returns:
        The error to raise.
    """
    little, big = _MAGIC.to_bytes(4, "little"), _MAGIC.to_bytes(4, "big")
    magic_at = {offset: head[offset : offset + 4] for offset in (12, 16, 24)}
    if not head:
        reason = "the data file is empty; no LMDB database was ever written here, or it was truncated"
    elif big in magic_at.values():
        reason = "this LMDB file was written on a big-endian machine; expected little-endian; dump it there (mdb_dump)"
    elif magic_at[12] == little:
        reason = "this LMDB file was written by a 32-bit program; expected 64-bit; dump it there (mdb_dump)"
    elif magic_at[24] == little:
        reason = (
            "this LMDB file was written by LMDB 1.0 or a version on the way to it; expected LMDB 0.9 (data version 1); "
            "dump it with the mdb_dump of LMDB 1.0"
        )
    elif magic_at[16] == little and (version := int.from_bytes(head[20:24], "little")) != _VERSION:
        reason = f"this LMDB file has data version {version}, expected {_VERSION} (LMDB 0.9); dump it with mdb_dump"
    elif magic_at[16] == little:
        reason = "both meta pages of this LMDB file are damaged or cut off; fetch this database again"
    else:
        reason = _another_kind(head)
    return StoreError(reason, offset=0)


# First bytes of files that can be in the place of a database, their kind, and the remedy.
_KINDS = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "fetch it: git lfs pull"),
    (b"/annex/objects/", "a git-annex pointer, not the file itself", "fetch it: git annex get"),
    (b"\x1f\x8b", "a gzip file", "unpack it: gunzip, or tar -xzf"),
    (b"BZh", "a bzip2 file", "unpack it: bunzip2, or tar -xjf"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it: unxz, or tar -xJf"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it: unzstd, or tar --zstd -xf"),
    (b"PK\3\4", "a zip file", "unpack it: unzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip file", "unpack it: 7z x"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "check the path"),
    (b"SQLite format 3\0", "an SQLite database", "check the path"),
    (b"PAR1", "a Parquet file", "check the path"),
)
_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")


def _another_kind(head: bytes) -> str:
    """Return the reason for a file that is not an LMDB file, with its kind if it is known."""
    for begins, kind, remedy in _KINDS:
        if head.startswith(begins):
            return f"this is not an LMDB file, but {kind}; {remedy}"
    if head[257:262] == b"ustar":
        return "this is not an LMDB file, but a tar file; unpack it: tar -xf"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGE):
        return (
            "this is not an LMDB file, but a web page, such as an error or a login page saved in its place; download "
            "the database again, and check the file"
        )
    return "this is not an LMDB file: its magic number was not found; check the path"
