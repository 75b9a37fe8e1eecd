"""Data files of LMDB: written page by page or with liblmdb, taken apart, and changed."""

from __future__ import annotations

import struct

import lmdb

MAGIC = 0xBEEFC0DE
NO_PAGE = 2**64 - 1


def meta_page(slot, page_bytes=4096, order="<", flags=0):
    """A meta page without records, as ``mdb_env_init_meta`` writes it; ``flags`` are those of the main database."""
    no_database = struct.pack(order + "HHQQQQQ", flags, 0, 0, 0, 0, 0, NO_PAGE)
    return (
        struct.pack(order + "QHHI", slot, 0, 8, 0)
        + struct.pack(order + "IIQQ", MAGIC, 1, 0, 2**26)
        + struct.pack(order + "I", page_bytes)
        + struct.pack(order + "HHQQQQQ", 8, 0, 0, 0, 0, 0, NO_PAGE)
        + struct.pack(order + "I", 0)
        + no_database
        + struct.pack(order + "QQ", 1, 0)
    ).ljust(page_bytes, b"\0")


def open_env(path, page_bytes=4096, flags=0, **options):
    """Open a single-file environment with liblmdb; a new one gets page size and flags, which liblmdb then keeps."""
    if not path.exists():
        path.write_bytes(meta_page(0, page_bytes, flags=flags) + meta_page(1, page_bytes, flags=flags))
    options = {"map_size": 2**28, "sync": False, "lock": False} | options
    return lmdb.open(str(path), subdir=False, **options)


def build(path, records, page_bytes=4096, **options):
    """Write records in one transaction."""
    with open_env(path, page_bytes, **options) as env, env.begin(write=True) as transaction:
        for lmdb_key, value in records:
            transaction.put(lmdb_key, value)
    return path


class Layout:
    """Where things are in a well-formed file, found apart from the code under test."""

    def __init__(self, data):
        self.data = data
        (self.page_bytes,) = struct.unpack_from("<I", data, 40)
        self.meta = self.page_bytes * (self.u64(144) < self.u64(self.page_bytes + 144))
        self.root = self.u64(self.meta + 128)
        self.branches, self.leaves, self.overflows = [], [], []
        if self.root != NO_PAGE:
            self.visit(self.root)

    def u16(self, offset):
        return struct.unpack_from("<H", self.data, offset)[0]

    def u64(self, offset):
        return struct.unpack_from("<Q", self.data, offset)[0]

    def nodes(self, number):
        page = number * self.page_bytes
        return [page + self.u16(page + 16 + 2 * i) for i in range((self.u16(page + 12) - 16) // 2)]

    def visit(self, number):
        page = number * self.page_bytes
        if self.u16(page + 10) == 1:
            self.branches.append(page)
            for node in self.nodes(number):
                self.visit(self.u64(node) & (2**48 - 1))
        else:
            self.leaves.append(page)
            for node in self.nodes(number):
                if self.u16(node + 4) == 1:
                    self.overflows.append(self.u64(node + 8 + self.u16(node + 6)) * self.page_bytes)


def changed(data, offset, new):
    """The file with some bytes replaced."""
    return data[:offset] + new + data[offset + len(new) :]
