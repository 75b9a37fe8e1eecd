"""The page reader agrees with liblmdb on well-formed files, and answers or refuses on all others."""

import bz2
import gzip
import hashlib
import io
import itertools
import lzma
import multiprocessing
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zipfile

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ben_secure.errors import BenSecureError, LimitExceededError, Rule, StoreError
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.pages import _snapshot
from ben_secure.pages import reader as pages
from ben_secure.pages.reader import PageReader
from support.databases import HAS_LMDB_VERIFY, faults_of, make_database, needs_lmdb_3
from support.effort import effort_below
from support.page_files import NO_PAGE, Layout, build, changed, meta_page, open_env

PAGE_SIZES = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768]

in_one_directory = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# How the databases of these tests come about


def records_of(env):
    """All records, as liblmdb reads them."""
    with env.begin() as transaction:
        return list(transaction.cursor())


def names(count):
    """Some keys like those of BigEarthNet, ascending."""
    return [b"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_%05d" % number for number in range(count)]


def read_everything(path):
    """All that a reader can be asked."""
    with PageReader(path) as reader:
        items = list(reader.items())
        assert [lmdb_key for lmdb_key, _ in items] == list(reader.keys())
        assert len(reader) == len(items)
        assert all(reader.get(lmdb_key) == value for lmdb_key, value in items)
        return items


def assert_agrees(reader, env, rng):
    """The reader gives what liblmdb gives, for every question."""
    expected = records_of(env)
    keys = [lmdb_key for lmdb_key, _ in expected]
    assert list(reader.items()) == expected
    assert list(reader.keys()) == keys
    assert len(reader) == len(expected)
    with env.begin() as transaction:
        near = [k + b"\0" for k in keys[:50]] + [k[:-1] for k in keys[:50]] + [rng.randbytes(5), b"", b"\xff" * 512]
        for lmdb_key in [*keys, *near]:
            value = transaction.get(lmdb_key) if 0 < len(lmdb_key) <= 511 else None
            assert reader.get(lmdb_key) == value
            assert (lmdb_key in reader) == (value is not None)
    for _ in range(3):
        start, stop = (rng.choice([*near, *keys, None]) for _ in range(2))
        expected_keys = [k for k in keys if (start is None or k >= start) and (stop is None or k < stop)]
        assert list(reader.keys(start, stop)) == expected_keys
        assert [k for k, _ in reader.items(start, stop)] == expected_keys


def random_history(env, reader, rng, *, max_key, sizes, transactions, operations):
    """Put, overwrite and delete; after each commit the one reader must agree."""
    alphabet = rng.choice([b"ab", bytes(range(256))])
    known = []
    for _ in range(transactions):
        with env.begin(write=True) as transaction:
            for _ in range(rng.randrange(1, operations)):
                if known and rng.random() < 0.4:
                    lmdb_key = rng.choice(known)
                else:
                    length = rng.choice([1, max_key, rng.randint(1, max_key), rng.randint(1, max_key)])
                    lmdb_key = bytes(rng.choice(alphabet) for _ in range(length))
                if known and rng.random() < 0.3:
                    transaction.delete(lmdb_key)
                else:
                    size = rng.choice(sizes)
                    transaction.put(lmdb_key, rng.randbytes(min(size, 64)).ljust(size, b"."))
                    known.append(lmdb_key)
        assert_agrees(reader, env, rng)


# Agreement with liblmdb

_operation = st.tuples(
    st.sampled_from(["put", "put", "delete"]),
    st.integers(0, 12) | st.binary(min_size=1, max_size=511),
    st.sampled_from([0, 1, 7, 500, 2020, 2040, 4079, 4080, 4081, 8176, 8177, 20_000]),
)


@in_one_directory
@given(history=st.lists(st.lists(_operation, max_size=12), min_size=1, max_size=5))
def test_agrees_with_liblmdb_after_every_commit(tmp_path_factory, history):
    """Puts, overwrites (in the same transaction, too) and deletes in any order give equal results."""
    path = tmp_path_factory.mktemp("history") / "data"
    with open_env(path) as env, PageReader(path) as reader:
        for commit in history:
            with env.begin(write=True) as transaction:
                for operation, lmdb_key, size in commit:
                    lmdb_key = b"key %d" % lmdb_key if isinstance(lmdb_key, int) else lmdb_key
                    if operation == "put":
                        transaction.put(lmdb_key, bytes([size % 251]) * size)
                    else:
                        transaction.delete(lmdb_key)
            assert_agrees(reader, env, random.Random(0))


@settings(in_one_directory, max_examples=6)
@given(seed=st.integers(0, 2**32))
def test_agrees_with_liblmdb_on_deep_trees(tmp_path_factory, seed):
    """Hundreds of keys of up to 511 bytes make trees of four and more levels."""
    path = tmp_path_factory.mktemp("deep") / "data"
    rng = random.Random(seed)
    with open_env(path) as env:
        with env.begin(write=True) as transaction:
            for number in range(700):
                transaction.put(rng.randbytes(rng.choice([480, 511])), rng.randbytes(number % 40))
        with PageReader(path) as reader:
            assert reader.facts.depth >= 4
            sizes = [0, 30, 2000, 4081, 9000]
            random_history(env, reader, rng, max_key=511, sizes=sizes, transactions=3, operations=80)


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_agrees_with_liblmdb_for_every_page_size(tmp_path, page_bytes):
    """liblmdb keeps the page size that it finds; only the two empty meta pages are made by this test."""
    rng = random.Random(page_bytes)
    sizes = [0, 20, page_bytes // 2, page_bytes - 16, page_bytes - 15, 3 * page_bytes]
    max_key = min(511, page_bytes // 8)
    path = tmp_path / "data"
    with open_env(path, page_bytes) as env:
        with env.begin(write=True) as transaction:
            for name in names(1000 if page_bytes > 256 else 0):
                transaction.put(name, name[:9])
        with PageReader(path) as reader:
            random_history(env, reader, rng, max_key=max_key, sizes=sizes, transactions=4, operations=60)
            assert reader.facts.page_bytes == page_bytes


def test_agrees_on_values_of_several_megabytes(tmp_path):
    """Values are read whole, byte for byte."""
    values = [(b"%d" % size, random.Random(size).randbytes(size)) for size in (2**20, 3 * 2**20 + 1, 7 * 2**20 - 16)]
    path = build(tmp_path / "data", values)
    assert read_everything(path) == values


def test_a_value_made_smaller_in_its_transaction_is_read(tmp_path):
    """LMDB then leaves it on more overflow pages than it needs, even if it would fit into the leaf."""
    records = [(b"a", b"x" * 100_000), (b"a", b"y" * 50_000), (b"b", b"z" * 9_000), (b"b", b"")]
    path = build(tmp_path / "data", records)
    assert read_everything(path) == [(b"a", b"y" * 50_000), (b"b", b"")]


def test_caches_are_bounded(tmp_path, monkeypatch):
    """With room for two pages of each kind all is still found."""
    monkeypatch.setattr(_snapshot, "_CACHE_BYTES", 2 * 4096)
    path = build(tmp_path / "data", [(name, name) for name in names(5000)])
    assert read_everything(path) == [(name, name) for name in names(5000)]
    with PageReader(path) as reader:
        for name in names(5000):
            reader.get(name)
            assert max(len(reader._snapshot._branches), len(reader._snapshot._leaves)) <= 2


def test_empty_databases(tmp_path):
    """New and emptied databases are read."""
    for records in ([], [(b"a", b"1")]):
        path = build(tmp_path / f"data{len(records)}", records)
        with open_env(path) as env, env.begin(write=True) as transaction:
            transaction.delete(b"a")
        assert read_everything(path) == []
        with PageReader(path) as reader:
            assert reader.get(b"a") is None
            assert reader.facts.depth == 0


def test_directory_and_file_environments(tmp_path):
    """Both forms are read, and nothing is created or locked beside them."""
    directory = tmp_path / "db.lmdb"
    directory.mkdir()
    build(directory / "data.mdb", [(b"a", b"1")])
    assert read_everything(directory) == read_everything(directory / "data.mdb") == [(b"a", b"1")]
    assert read_everything(str(directory)) == [(b"a", b"1")]
    assert os.listdir(directory) == ["data.mdb"]
    assert os.listdir(tmp_path) == ["db.lmdb"]


def test_facts_are_those_of_liblmdb(tmp_path):
    """``inspect`` shows what ``mdb_stat`` would."""
    path = build(tmp_path / "data", [(name, b"." * 9000) for name in names(300)])
    with open_env(path, map_size=2**29) as env, PageReader(path) as reader:
        facts, stat, info = reader.facts, env.stat(), env.info()
    assert facts.page_bytes == stat["psize"]
    for name in ("depth", "branch_pages", "leaf_pages", "overflow_pages", "entries"):
        assert getattr(facts, name) == stat[name]
    assert (facts.txnid, facts.last_page) == (info["last_txnid"], info["last_pgno"])
    assert facts.map_bytes == 2**28
    assert facts.file_bytes == path.stat().st_size


def test_keys_do_not_read_values(tmp_path):
    """Values outside the tree may be missing altogether."""
    path = build(tmp_path / "data", [(name, b"." * 9000) for name in names(20)])
    layout = Layout(path.read_bytes())
    for page in layout.overflows:
        path.write_bytes(changed(path.read_bytes(), page, bytes(16)))
    with PageReader(path) as reader:
        assert list(reader.keys()) == names(20)
        assert names(20)[3] in reader
        with pytest.raises(StoreError, match=r"overflow page .* is damaged"):
            reader.get(names(20)[3])


# Refusals, each with an accepted counterpart


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A file with three levels, inline and overflow values, after several commits."""
    path = tmp_path_factory.mktemp("sound") / "data"
    for part in range(3):
        build(
            path, [(name, b"%5d" % i if i % 4 else b"." * 9000) for i, name in enumerate(names(3000)) if i % 3 == part]
        )
    data = path.read_bytes()
    layout = Layout(data)
    assert len(layout.branches) > 2
    assert len(layout.overflows) == 750
    return path, data, layout


def first_node(layout, page):
    """Offset of the first node of the page at an offset."""
    return layout.nodes(page // layout.page_bytes)[0]


def node_with_overflow(layout):
    """Offset of a node in the middle of the tree whose value is outside it."""
    nodes = [n for page in layout.leaves[9:] for n in layout.nodes(page // layout.page_bytes)]
    return next(node for node in nodes if layout.u16(node + 4) == 1)


def short_pointer(layout, page):
    """Change: the first node of a page is at its end, where 4 bytes are left for the number of an overflow page."""
    between = layout.data[page + 18 : page + layout.page_bytes - 14]
    return page + 16, u16(layout.page_bytes - 14) + between + struct.pack("<HHHH", 5000, 0, 1, 2) + b"kk" + bytes(4)


def u16(number):
    """Bytes of a 16-bit field."""
    return struct.pack("<H", number)


def u64(number):
    """Bytes of a 64-bit field."""
    return struct.pack("<Q", number)


DAMAGE = {
    "root beyond the last page": (lambda x: (x.meta + 128, u64(10**6)), "refers to pages 1000000 to 1000000"),
    "root on a meta page": (lambda x: (x.meta + 128, u64(1)), "refers to pages 1 to 1"),
    "no root": (lambda x: (x.meta + 128, u64(NO_PAGE)), "meta page is damaged"),
    "root is a leaf": (lambda x: (x.meta + 128, u64(x.leaves[0] // 4096)), "its type is 0x2, expected 0x1"),
    "depth 0": (lambda x: (x.meta + 94, u16(0)), "meta page is damaged: root .* depth 0"),
    "depth one less": (lambda x: (x.meta + 94, u16(x.u16(x.meta + 94) - 1)), "its type is 0x1, expected 0x2"),
    "depth one more": (lambda x: (x.meta + 94, u16(x.u16(x.meta + 94) + 1)), "its type is 0x2, expected 0x1"),
    "depth 33": (lambda x: (x.meta + 94, u16(33)), "meta page is damaged: root .* depth 33"),
    "no entries": (lambda x: (x.meta + 120, u64(0)), "meta page is damaged: .* 0 entries"),
    "endless entries": (lambda x: (x.meta + 120, u64(2**63)), "meta page is damaged: .* 9223372036854775808 entries"),
    "one entry less": (lambda x: (x.meta + 120, u64(2999)), "more pages or entries than"),
    "one entry more": (lambda x: (x.meta + 120, u64(3001)), "3000 entries, not the 3001"),
    "last page cut": (lambda x: (x.meta + 136, u64(4)), "it refers to pages"),
    "last page in a value": (
        lambda x: (x.meta + 136, u64(max(x.overflows) // 4096 + 1)),
        r"it refers to pages (\d+) to (?!\1)",
    ),
    "flags REVERSEKEY": (lambda x: (x.meta + 92, u16(2)), r"flags 0x2 \(REVERSEKEY\)"),
    "flags unknown": (lambda x: (x.meta + 92, u16(0x100)), r"flags 0x100 \(unknown\)"),
    "page number": (lambda x: (x.leaves[3], u64(9)), "its header states page 9"),
    "page type": (lambda x: (x.leaves[3] + 10, u16(0x12)), "its type is 0x12, expected 0x2"),
    "DUPFIXED leaf": (lambda x: (x.leaves[3] + 10, u16(0x22)), "its type is 0x22"),
    "lower bound odd": (lambda x: (x.leaves[3] + 12, u16(33)), "its bounds are 33"),
    "no nodes": (lambda x: (x.leaves[3] + 12, u16(16)), "its bounds are 16"),
    "lower above upper": (lambda x: (x.leaves[3] + 12, u16(4094)), "its bounds are 4094"),
    "upper beyond the page": (lambda x: (x.leaves[3] + 14, u16(4098)), "its bounds are .* 4098 of 4096"),
    "node pointer into the header": (lambda x: (x.leaves[3] + 16, u16(4)), "node 0 is at byte 4"),
    "node pointer at the end": (lambda x: (x.leaves[3] + 16, u16(4090)), "node 0 is at byte 4090"),
    "key beyond the page": (lambda x: (first_node(x, x.leaves[3]) + 6, u16(4096)), "the key of node 0 ends at byte"),
    "empty key": (lambda x: (first_node(x, x.leaves[0]) + 6, u16(0)), "the key of node 0 does not ascend"),
    "keys equal": (lambda x: (x.leaves[3] + 18, x.data[x.leaves[3] + 16 :][:2]), "the key of node 1 does not ascend"),
    "value beyond the page": (lambda x: (first_node(x, x.leaves[3]), b"\xff\x7f\0\0\0\0"), "leaves the page"),
    "overflow pointer beyond the page": (lambda x: short_pointer(x, x.leaves[3]), "leaves the page"),
    "nodes overlap": (lambda x: (x.nodes(x.leaves[3] // 4096)[1], b"\x60\0\0\0\0\0"), "its nodes overlap"),
    "node flags": (lambda x: (first_node(x, x.leaves[3]) + 4, u16(8)), "the flags of a node are 0x8"),
    "named database": (lambda x: (first_node(x, x.leaves[3]) + 4, u16(2)), "named databases or duplicate values"),
    "duplicates": (lambda x: (first_node(x, x.leaves[3]) + 4, u16(4)), "named databases or duplicate values"),
    "child beyond the file": (lambda x: (first_node(x, x.branches[-1]), b"\xff\xff\xff\0\0\0"), "it refers to pages"),
    "child is its parent": (
        lambda x: (first_node(x, x.branches[-1]), struct.pack("<Q", x.branches[-1] // 4096)[:6]),
        "its type is 0x1, expected 0x2",
    ),
    "same child twice": (
        lambda x: (x.nodes(x.branches[-1] // 4096)[2], x.data[x.nodes(x.branches[-1] // 4096)[1] :][:6]),
        "the key of node 0 does not ascend",
    ),
    "separators equal": (
        lambda x: (x.branches[-1] + 22, x.data[x.branches[-1] + 20 :][:2]),
        "separator 3 does not ascend",
    ),
    "separators overlap": (
        lambda x: (x.nodes(x.branches[-1] // 4096)[20] + 6, u16(300)),
        "branch .* its nodes overlap",
    ),
    "branch node pointer": (lambda x: (x.branches[-1] + 16, u16(4095)), "node 0 is at byte 4095"),
    "overflow page beyond": (
        lambda x: (node_with_overflow(x) + 8 + x.u16(node_with_overflow(x) + 6), u64(10**9)),
        "it refers to pages 1000000000",
    ),
    "overflow page number": (lambda x: (x.overflows[5], u64(7)), "found page 7"),
    "overflow page type": (lambda x: (x.overflows[5] + 10, u16(2)), "type 0x2"),
    "too few overflow pages": (lambda x: (x.overflows[5] + 12, struct.pack("<I", 2)), "2 pages; .* at least 3"),
    "too many overflow pages": (lambda x: (x.overflows[5] + 12, struct.pack("<I", 10**9)), "1000000000 pages"),
    "value too long for its pages": (lambda x: (node_with_overflow(x), u16(13_000)), "3 pages; .* at least 4"),
}


@pytest.mark.threat("T5")
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused(kind, sound, tmp_path):
    """One field of a sound file is changed; the message has the found value, and the error its location."""
    path, data, layout = sound
    change, message = DAMAGE[kind]
    (tmp_path / "data").write_bytes(changed(data, *change(layout)))
    assert len(read_everything(path)) == 3000
    with pytest.raises(StoreError, match=message) as caught:
        read_everything(tmp_path / "data")
    assert caught.value.database == str(tmp_path / "data")
    assert pickle.loads(pickle.dumps(caught.value)).database == caught.value.database


@pytest.mark.threat("T5")
def test_pages_that_many_keys_share_are_refused(tmp_path):
    """Otherwise a small file could contain an endless database, for any claimed last page."""
    path = build(tmp_path / "data", [(b"%02d" % i, b"." * 40_000) for i in range(20)])
    assert len(read_everything(path)) == 20
    data, layout = path.read_bytes(), Layout(path.read_bytes())
    for node in layout.nodes(layout.root)[1:]:
        data = changed(data, node + 10, u64(layout.overflows[0] // 4096))
    for last_page, message in (
        (12, "more pages or entries than the 11 of the file"),
        (1 << 40, "belongs to two records or pages"),
    ):
        path.write_bytes(changed(data, layout.meta + 136, u64(last_page)))
        with pytest.raises(StoreError, match=message):
            list(PageReader(path).keys())


@pytest.mark.threat("T5")
def test_two_records_that_share_a_page_are_refused(tmp_path):
    """Also where there are pages enough for all records: each page has one owner."""
    path = build(tmp_path / "data", [(b"%02d" % i, b"." * 40_000) for i in range(20)])
    data, layout = path.read_bytes(), Layout(path.read_bytes())
    first, second = layout.nodes(layout.root)[:2]
    page, other = (int.from_bytes(data[node + 10 : node + 18], "little") for node in (second, first))
    path.write_bytes(changed(data, second + 10, u64(other)))
    with PageReader(path) as reader, pytest.raises(StoreError, match="belongs to two records or pages"):
        list(reader.keys())
    path.write_bytes(changed(data, second + 10, u64(page)))
    assert len(list(PageReader(path).keys())) == 20


@pytest.mark.threat("T7")
def test_a_value_that_is_cut_off_is_not_read_into_memory_of_the_caller(tmp_path):
    """What the memory held before would stand for the end of the value; one byte more, and it is whole."""
    value = bytes(range(200)) * 100
    path = build(tmp_path / "data", [(b"a", b"1"), (b"b", value)])
    start = Layout(path.read_bytes()).overflows[0] + 16
    with PageReader(path) as reader:
        os.truncate(path, start + len(value))
        assert reader.get_into(b"b", lambda size: memoryview(bytearray(size))) == value
        os.truncate(path, start + len(value) - 1)
        with pytest.raises(StoreError, match=f"is truncated: {16 + len(value)} bytes expected .* found"):
            reader.get_into(b"b", lambda size: memoryview(bytearray(size)))


def test_the_longest_value_is_read_and_a_longer_one_is_not(tmp_path):
    """The limit is inclusive, for values in a leaf and outside."""
    for size in (100, 100_000):
        path = build(tmp_path / f"data{size}", [(b"a", b"1"), (b"b", b"." * size)])
        with PageReader(path, max_value_bytes=size) as reader:
            assert len(reader.get(b"b")) == size
        with PageReader(path, max_value_bytes=size - 1) as reader:
            for read in (lambda: reader.get(b"b"), lambda: list(reader.items())):
                with pytest.raises(
                    LimitExceededError, match=f"has {size} bytes, expected at most {size - 1}"
                ) as caught:
                    read()
                assert (caught.value.lmdb_key, caught.value.rule) == (b"b", Rule.LIMIT)
            assert reader.get(b"a") == b"1"


@pytest.mark.threat("T5")
def test_a_claimed_length_is_not_allocated(sound, tmp_path):
    """A value that claims 4 GB is refused before it is read, and so is one that would end behind the file."""
    _, data, layout = sound
    node = node_with_overflow(layout)
    lmdb_key = data[node + 8 :][: layout.u16(node + 6)]
    path = tmp_path / "data"
    for length, error in ((2**32 - 1, LimitExceededError), (DEFAULT_LIMITS.max_value_bytes, StoreError)):
        path.write_bytes(changed(data, node, struct.pack("<HH", length & 0xFFFF, length >> 16)))
        with PageReader(path) as reader, pytest.raises(error) as caught:
            reader.get(lmdb_key)
        assert caught.value.lmdb_key == lmdb_key


def big_endian():
    """An empty database from a big-endian machine."""
    return meta_page(0, order=">") + meta_page(1, order=">")


def of_32_bit():
    """An empty database from a 32-bit program: its page header has 12 bytes."""
    return b"".join((struct.pack("<IHHI", i, 0, 8, 0) + meta_page(0)[16:]).ljust(4096, b"\0") for i in range(2))


def packed():
    """A zip file of a meta page."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.mdb", meta_page(0))
    return file.getvalue()


def packed_tar():
    """A tar file of a meta page."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("data.mdb"))
    return file.getvalue()


FOREIGN = {
    "empty file": (b"", "the data file is empty"),
    "text": (b"name,label\n" * 1000, "not an LMDB file"),
    "zeros": (bytes(8192), "not an LMDB file: its magic number was not found; check the path"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer.*: git lfs pull"),
    "annex": (
        b"/annex/objects/SHA256E-s9--0.mdb\n",
        "a git-annex pointer, not the file itself; fetch it: git annex get",
    ),
    "HTML": (b"\n<!DOCTYPE html>\n<html>", "a web page, such as an error or a login page saved in its place; download"),
    "error page": (b'\xef\xbb\xbf<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "a web page"),
    "gzip": (gzip.compress(bytes(9000)), "a gzip file; unpack it: gunzip, or tar -xzf"),
    "bzip2": (bz2.compress(bytes(9000)), "a bzip2 file; unpack it: bunzip2"),
    "xz": (lzma.compress(bytes(9000)), "an xz file; unpack it: unxz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(99), "a Zstandard file; unpack it: unzstd"),
    "zip": (packed(), "a zip file; unpack it: unzip"),
    "tar": (packed_tar(), "a tar file; unpack it: tar -xf"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(2000), "an HDF5 file; check the path"),
    "big-endian": (big_endian(), "written on a big-endian machine; expected little-endian"),
    "32-bit": (of_32_bit(), "written by a 32-bit program; expected 64-bit"),
    "other version": (changed(meta_page(0), 20, b"\3") + meta_page(0), "data version 3, expected 1"),
    "page size 65536": (meta_page(0, 65536) + meta_page(1, 65536), "both meta pages"),
    "page size 128": (meta_page(0, 128)[:128] + meta_page(1, 128), "both meta pages"),
    "cut in the first meta page": (meta_page(0)[:100], "both meta pages"),
    "not meta pages": (changed(meta_page(0), 10, b"\2") + changed(meta_page(1), 10, b"\2"), "both meta pages"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_named(kind, tmp_path):
    """A file that is not LMDB 0.9 of a 64-bit little-endian machine is refused, and its kind is named."""
    data, message = FOREIGN[kind]
    path = tmp_path / "data"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=message):
        PageReader(path)
    path.write_bytes(meta_page(0) + meta_page(1))
    assert read_everything(path) == []


@needs_lmdb_3
def test_lmdb_1_is_named(tmp_path):
    """The message names the format for a real file of LMDB 1.0."""
    for version in (0, 1):
        env = lmdb.open(str(tmp_path / f"{version}"), lib_version=version, lock=False)
        with env, env.begin(write=True) as transaction:
            transaction.put(b"a", b"1")
    assert read_everything(tmp_path / "0") == [(b"a", b"1")]
    with pytest.raises(StoreError, match=r"written by LMDB 1\.0 .* expected LMDB 0\.9"):
        PageReader(tmp_path / "1")


@pytest.mark.parametrize(
    ("flags", "message"),
    [(0x02, "REVERSEKEY"), (0x04, "DUPSORT"), (0x08, "INTEGERKEY"), (0x14, "DUPSORT, DUPFIXED")],
)
def test_other_kinds_of_main_database_are_refused(tmp_path, flags, message):
    """Databases whose keys are ordered in another way or have several values, filled by liblmdb."""
    records = [(b"8 bytes.", b"1"), (b"8 bytes.", b"2")]
    assert read_everything(build(tmp_path / "plain", records)) == records[1:]
    build(tmp_path / "other", records, flags=flags)
    with open_env(tmp_path / "other") as env:
        assert records_of(env) == (records if flags & 4 else records[1:])
    with pytest.raises(StoreError, match=message):
        PageReader(tmp_path / "other")


def test_named_databases_are_refused(tmp_path):
    """When the file is opened, and also if the named database comes after ordinary records."""
    for before in ([], [(b"a", b"1")]):
        path = build(tmp_path / f"data{len(before)}", before)
        assert read_everything(path) == before
        with open_env(path, max_dbs=2) as env:
            database = env.open_db(b"named")
            with env.begin(write=True) as transaction:
                transaction.put(b"b", b"2", db=database)
        with pytest.raises(StoreError, match="named databases") as caught:
            PageReader(path) if before == [] else read_everything(path)
        assert caught.value.lmdb_key == b"named"


def test_what_is_not_a_file_is_refused_at_once(tmp_path):
    """A missing file, a FIFO (which would wait for a writer), a device, and wrong directories are refused at once."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested" / "data.mdb").mkdir(parents=True)
    build(tmp_path / "sound", [(b"a", b"1")])
    (tmp_path / "link").symlink_to("sound")
    assert read_everything(tmp_path / "link") == [(b"a", b"1")]
    for name, message in (
        ("missing", "does not exist"),
        ("empty", "data.mdb does not exist"),
        ("fifo", "expected a regular file"),
        ("nested", "expected a regular file"),
        ("/dev/zero", "expected a regular file"),
        ("nul\0", "cannot open"),
        ("sound/data", "cannot open"),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            PageReader(tmp_path / name)
        assert caught.value.database == str(tmp_path / name)


def test_the_newer_intact_meta_page_counts(tmp_path):
    """After a crash the intact one is used, even if it is the second, whose position the first one contains."""
    path = tmp_path / "data"
    for number in range(3):
        build(path, [(b"%d" % number, b"1")], page_bytes=1024)
    data = path.read_bytes()
    newer, older = Layout(data).meta, 1024 - Layout(data).meta
    assert newer == 1024
    all_three = [(b"0", b"1"), (b"1", b"1"), (b"2", b"1")]
    for offset, expected in ((newer, all_three[:2]), (older, all_three)):
        for field, torn in ((16, b"\0"), (40, b"\7"), (0, b"\7"), (10, b"\0"), (136, bytes(8))):
            path.write_bytes(changed(data, offset + field, torn))
            assert read_everything(path) == expected
    path.write_bytes(changed(data, newer + 40, struct.pack("<I", 4096)))
    assert read_everything(path) == all_three[:2]
    path.write_bytes(data)
    assert read_everything(path) == all_three


@pytest.mark.threat("T7")
def test_truncated_files_are_refused(sound, tmp_path):
    """A file that ends before the page that is needed, when it is opened or under an open reader."""
    path, data, layout = sound
    last = max(layout.overflows)
    cut = tmp_path / "data"
    for size in (last + 3 * 4096 - 1, last + 4096, layout.leaves[7] + 100, 8192, 4096 + 151, 200):
        cut.write_bytes(data[:size])
        with pytest.raises(StoreError, match=r"truncated|its meta page|meta pages"):
            read_everything(cut)
    cut.write_bytes(data)
    with PageReader(cut) as reader:
        assert list(reader.items()) == read_everything(path)
        os.truncate(cut, 8192)
        with pytest.raises(StoreError, match=r"truncated: 9000 bytes expected .* found 0"):
            list(reader.items())
        os.truncate(cut, 0)
        with pytest.raises(StoreError, match="the data file is empty"):
            reader.get(b"a")


# Hostile bytes

_bases = {}


def mutation_base(directory):
    """A small file with every kind of page, and its records."""
    if not _bases:
        path = directory / "base"
        values = [b"%d" % i if i % 5 else b"." * 6000 for i in range(400)]
        build(path, list(zip(names(400), values, strict=True)))
        build(path, [(b"another commit", b"1")])
        assert len(Layout(path.read_bytes()).branches) == 1
        assert faults_of(path) == []
        _bases["data"] = path.read_bytes()
    return _bases["data"]


@st.composite
def mutations(draw):
    """Bytes to change, most of them where structure is; or a page to copy over another."""
    page = st.integers(0, 20) | st.integers(0, 190)
    where = st.sampled_from([0, 1, 8, 10, 12, 13, 14, 15]) | st.integers(16, 160) | st.integers(0, 4095)
    value = st.integers(0, 255).map(lambda n: bytes([n])) | st.integers(0, 200).map(u16) | st.just(b"\xff" * 8)
    flips = draw(st.lists(st.tuples(page, where, value), max_size=4))
    copies = draw(st.lists(st.tuples(page, page, st.booleans()), max_size=2))
    return flips, copies


def outcome(read):
    """The result of a read, or one of our errors."""
    try:
        return read()
    except BenSecureError as error:
        return error


@pytest.mark.threat("T5")
@settings(in_one_directory, max_examples=150)
@given(mutation=mutations())
def test_hostile_files_give_answers_or_our_errors(tmp_path_factory, mutation):
    """For any bytes, in bounded time; a file without faults in ``lmdb.verify`` is read without error."""
    flips, copies = mutation
    data = bytearray(mutation_base(tmp_path_factory.getbasetemp()))
    for source, target, renumber in copies:
        data[target * 4096 : target * 4096 + 4096] = data[source * 4096 : source * 4096 + 4096]
        if renumber:
            data[target * 4096 : target * 4096 + 8] = u64(target)
    for page, offset, new in flips:
        data[page * 4096 + offset : page * 4096 + offset + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(data)
    with effort_below(100):
        result = reader = outcome(lambda: PageReader(path))
        if isinstance(reader, PageReader):
            for name in names(400):
                outcome(lambda: reader.get(name))  # noqa: B023
            result = outcome(lambda: list(reader.items()))
            if isinstance(result, list):
                assert [lmdb_key for lmdb_key, _ in result] == sorted({lmdb_key for lmdb_key, _ in result})
                assert len(result) == len(reader)
            reader.close()
    # Flags without a meaning and nodes that overlap it lets pass.
    laxer = re.search("unsupported kind|nodes overlap", result.message) if isinstance(result, BenSecureError) else None
    if HAS_LMDB_VERIFY and isinstance(result, BenSecureError) and not laxer:
        assert faults_of(path) != []


@pytest.mark.threat("T5")
def test_a_tree_that_branches_without_end_ends(tmp_path):
    """Every child of a branch is one and the same page, 31 times over: 2 ** 31 ways, refused on the second."""
    path = build(tmp_path / "data", [(name, b"") for name in names(5000)])
    assert len(read_everything(path)) == 5000
    data = bytearray(path.read_bytes())
    layout = Layout(bytes(data))
    root = layout.root * 4096
    nodes = [node - root for node in layout.nodes(layout.root)]
    chain = [root, *layout.leaves[1:31], layout.leaves[0]]
    for page, child in itertools.pairwise(chain):
        data[page : page + 4096] = layout.data[root : root + 4096]
        data[page : page + 8] = u64(page // 4096)
        for node in nodes:
            data[page + node : page + node + 6] = u64(child // 4096)[:6]
    data[layout.meta + 94 : layout.meta + 96] = u16(len(chain))
    path.write_bytes(data)
    with effort_below(100), pytest.raises(StoreError, match="the key of node 0 does not ascend"):
        read_everything(path)


# Writers


@pytest.mark.threat("T6")
def test_pages_of_a_state_last_until_the_second_commit_after_it(tmp_path):
    """The reader relies on this: liblmdb first overwrites a page of T in T + 3."""
    path = build(tmp_path / "data", [(name, b"." * 3000) for name in names(40)])
    overwritten_after = []
    with open_env(path) as env:
        for _ in range(6):
            before = path.read_bytes()
            layout = Layout(before)
            pages_of_t = [(p, 4096) for p in layout.branches + layout.leaves] + [(p, 3016) for p in layout.overflows]
            for commit in itertools.count(1):
                with env.begin(write=True) as transaction:
                    for name in names(40):
                        transaction.put(name, b"%04d" % commit * 750)
                now = path.read_bytes()
                if any(now[p : p + size] != before[p : p + size] for p, size in pages_of_t):
                    overwritten_after.append(commit)
                    break
    assert min(overwritten_after) == 3


@pytest.mark.threat("T6")
def test_an_open_reader_follows_a_writer(tmp_path):
    """Known pages are overwritten; stale content is never returned or reported."""
    path = build(tmp_path / "data", [(name, b"0" * 3000) for name in names(200)])
    old = b"0" * 3000
    with open_env(path) as env, PageReader(path) as reader:
        for generation in range(1, 12):
            walk = reader.items()
            seen = [next(walk) for _ in range(10)]
            known, before = reader._snapshot, path.read_bytes()
            for size in (3000, 700, 9000, 20, 3000 + generation):  # so that pages come to hold something else
                new = b"%d" % (generation % 10) * size
                with env.begin(write=True) as transaction:
                    for name in names(200):
                        transaction.put(name, new)
            layout, now = Layout(before), path.read_bytes()
            assert any(now[p + 8 : p + 16] != before[p + 8 : p + 16] for p in layout.leaves + layout.overflows)
            known._leaves.clear()
            known._branches.clear()
            rest = list(walk)
            assert reader.get(names(200)[generation]) == new
            assert [name for name, _ in seen + rest] == names(200)
            assert {value for _, value in seen} == {old}
            assert {value for _, value in rest} == {new}
            old = new


def stamped(number, generation, size):
    """A value that says which it is, with its digest."""
    body = struct.pack("<QQ", number, generation) + bytes([generation & 255]) * size
    return hashlib.sha256(body).digest() + body


def write_until(path, stop):
    """Commit again and again, as a process of its own."""
    with open_env(path, lock=True) as env:
        rng = random.Random(1)
        for generation in itertools.count(1):
            with env.begin(write=True) as transaction:
                for _ in range(10):
                    number = rng.randrange(500)
                    size = rng.choice([10, 500, 3000, 20_000, 150_000])
                    transaction.put(b"%05d" % number, stamped(number, generation, size))
            if stop.is_set():
                return


@pytest.mark.threat("T6")
def test_values_are_whole_while_another_process_writes(tmp_path):
    """Every value read during some hundred commits is one that was written, under its own key, and never goes back."""
    path = build(tmp_path / "data", [(b"%05d" % i, stamped(i, 0, 3000)) for i in range(500)])
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    writer = context.Process(target=write_until, args=(path, stop))
    with PageReader(path) as reader:
        writer.start()
        try:
            first, latest = reader.facts.txnid, {}
            end = time.monotonic() + 600
            while reader.facts.txnid < first + 300 and time.monotonic() < end:
                picks = [(key, reader.get(key)) for key in (b"%05d" % random.randrange(500) for _ in range(50))]
                for lmdb_key, value in [*picks, *itertools.islice(reader.items(picks[0][0]), 50)]:
                    number, generation = struct.unpack_from("<QQ", value, 32)
                    assert value[:32] == hashlib.sha256(value[32:]).digest()
                    assert number == int(lmdb_key)
                    assert generation >= latest.get(lmdb_key, 0)
                    latest[lmdb_key] = generation
            assert reader.facts.txnid >= first + 300
        finally:
            stop.set()
            writer.join()
    assert writer.exitcode == 0
    assert read_everything(path)


@pytest.mark.threat("T6")
@pytest.mark.parametrize("is_current", [True, False])
def test_an_error_in_a_snapshot_that_has_passed_is_no_verdict(tmp_path, is_current):
    """Pages that a commit has replaced may be written over at any time, current ones may not."""
    path = build(tmp_path / "data", [(name, b"1" * 5000) for name in names(20)])
    with PageReader(path) as reader:
        spoilt = Layout(path.read_bytes()).overflows
        if not is_current:
            with open_env(path) as env, env.begin(write=True) as transaction:
                for name in names(20):
                    transaction.put(name, b"2" * 5000)
            assert not set(spoilt) & set(Layout(path.read_bytes()).overflows)
        with open(path, "r+b") as file:
            for page in spoilt:
                file.seek(page)
                file.write(b"\xff" * 4096)
        for name in names(20):
            if is_current:
                with pytest.raises(StoreError, match="damaged"):
                    reader.get(name)
            else:
                assert reader.get(name) == b"2" * 5000


def test_a_writer_that_never_rests_is_reported(tmp_path, monkeypatch):
    """Attempts are bounded, for a lookup and for a walk."""
    path = build(tmp_path / "data", [(b"a", b"1")])
    with PageReader(path) as reader:
        monkeypatch.setattr(pages, "_ATTEMPTS", 5)
        monkeypatch.setattr(_snapshot.Snapshot, "is_current", lambda self: False)
        for read in (lambda: reader.get(b"a"), lambda: next(reader.items())):
            with pytest.raises(StoreError, match="a writer committed during each of 5 attempts"):
                read()
        monkeypatch.undo()
        assert reader.get(b"a") == b"1"


# Processes and threads


def test_readers_are_pickled_by_path(tmp_path, monkeypatch):
    """To a process with another working directory too; many readers of one path are fine."""
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "data", [(b"a", b"1"), (b"b", b"22")])
    with PageReader("data", max_value_bytes=1) as reader:
        pickled = pickle.dumps(reader)
        assert (reader.path, reader.absolute_path) == ("data", str(tmp_path / "data"))
        code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).get(b'a'))"
        child = subprocess.run([sys.executable, "-c", code], input=pickled, cwd="/", capture_output=True, check=True)
        assert child.stdout == b"b'1'\n"
        with pickle.loads(pickled) as twin, pytest.raises(LimitExceededError):
            twin.get(b"b")
        assert reader.get(b"a") == b"1"


def test_forked_children_share_a_reader(tmp_path):
    """Both go on reading through the one descriptor at the same time, and the child's close is its own."""
    expected = [(name, name * 50) for name in names(300)]
    path = build(tmp_path / "data", expected)
    with PageReader(path) as reader:
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                agreed = all(list(reader.items()) == expected for _ in range(3))
                reader.close()
                os._exit(0 if agreed else 1)
            children.append(child)
        assert all(list(reader.items()) == expected for _ in range(3))
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
        assert list(reader.items()) == expected


def test_threads_share_a_reader(tmp_path, monkeypatch):
    """With caches so small that they are emptied all the time, and a writer that makes snapshots pass."""
    monkeypatch.setattr(_snapshot, "_CACHE_BYTES", 2 * 4096)
    expected = {name: name * 100 for name in names(2000)}
    path = build(tmp_path / "data", expected.items())
    wrong = []

    def read(seed, reader):
        rng = random.Random(seed)
        for _ in range(300):
            name = rng.choice(names(2000)[::100])
            if reader.get(name) != expected[name]:
                wrong.append(name)
        if list(reader.keys()) != names(2000):
            wrong.append(b"keys")

    with PageReader(path) as reader, open_env(path) as env:
        threads = [threading.Thread(target=read, args=(seed, reader)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for name in names(30):
            with env.begin(write=True) as transaction:
                transaction.put(name, expected[name])
        for thread in threads:
            thread.join()
    assert wrong == []


def test_closed_readers_say_so(tmp_path):
    """A caller's mistake is a ValueError; a second close, or one after a failed opening, has no effect."""
    path = build(tmp_path / "data", [(b"a", b"1")])
    before = set(os.listdir("/dev/fd"))
    reader = PageReader(path)
    assert not os.get_inheritable(reader._file._fd)
    reader.close()
    reader.close()
    for read in (lambda: reader.get(b"a"), lambda: len(reader), lambda: list(reader.keys())):
        with pytest.raises(ValueError, match="closed"):
            read()
    path.write_bytes(b"")
    for refused in (path, "/dev/zero"):
        with pytest.raises(StoreError) as caught:
            PageReader(refused)
        assert set(os.listdir("/dev/fd")) == before, caught


@pytest.mark.parametrize("records", [1, 7, 200, 5000])
def test_keys_that_are_spread_are_keys_in_order(tmp_path, records):
    """As many as asked for, or all, each once, of every part of the tree; the same each time."""
    make_database(tmp_path / "db", {b"%060d" % n: b"x" for n in range(records)})
    with PageReader(tmp_path / "db") as reader:
        every = list(reader.keys())
        for count in {1, 2, 5, records // 3, records - 1, records, records + 5} - {0}:
            found = reader.spread(count)
            assert found == sorted(set(found)) == reader.spread(count)
            assert min(count, records) * 2 // 3 <= len(found) <= min(count, records)
            assert set(found) <= set(every)
            if count >= 5:
                halves = [
                    sum(key < every[records // 2] for key in found),
                    sum(key >= every[records // 2] for key in found),
                ]
                assert min(halves) >= len(found) // 3
