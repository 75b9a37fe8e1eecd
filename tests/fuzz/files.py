"""Files that other programs or earlier runs have written: databases, and the state of an audit."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from ben_secure.audit.findings import Finding, Tally
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.run.partial_results import PartialResult, results_from_json, results_to_json
from ben_secure.audit.run.ranges import Identity, RangeTask
from ben_secure.audit.run.shards import ShardResults
from ben_secure.audit.run.state import ResultFile, StateFile
from ben_secure.errors import BenSecureError, Rule, StoreError
from ben_secure.pages.reader import PageReader
from fuzz.target import Refusal, Target, mutate_bytes, mutate_json, refusal, with_number
from support.page_files import Layout, build, open_env


@functools.cache
def _folder() -> pathlib.Path:
    made = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-files-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


# Databases: the oracle is liblmdb, in a process of its own, where every page has an owner.

_LIBLMDB = """
import hashlib, sys, lmdb
for line in sys.stdin:
    digest = hashlib.sha256()
    try:
        with lmdb.open(line.strip(), subdir=False, readonly=True, lock=False, max_readers=1) as env, env.begin() as txn:
            for key, value in txn.cursor():
                digest.update(b"%d %d " % (len(key), len(value)) + key + value)
        print(digest.hexdigest(), flush=True)
    except lmdb.Error as error:
        print("error", type(error).__name__, flush=True)
"""


class _Liblmdb:
    """liblmdb in a process that may die."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def digest(self, path: pathlib.Path) -> str:
        """SHA-256 of all records; another word if there is none."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _LIBLMDB], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        process = self._process
        with contextlib.suppress(OSError):
            process.stdin.write(f"{path}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        answer = process.stdout.readline().strip()  # type: ignore[union-attr]
        if not answer:
            self.close()
            return f"died with {process.returncode}"
        return answer

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


_liblmdb = functools.cache(_Liblmdb)


def _page_seeds() -> list[bytes]:
    """Small databases of two page sizes: empty, flat, high, with values of several pages, grown and shrunk."""
    seeds = []
    few = [(b"%d" % n, bytes([n]) * (40 * n)) for n in range(8)]
    long = [(b"%0180d" % n, b"v" * (n % 5)) for n in range(60)]
    large = [(b"a", b"x" * 5000), (b"b", b"y" * 9000), (b"c", b"")]
    with tempfile.TemporaryDirectory() as name:
        for size in (512, 4096):
            for number, records in enumerate(([], few, long, large)):
                path = build(pathlib.Path(name, f"{size}-{number}"), records, size)
                seeds.append(path.read_bytes())
                with open_env(path, size) as env, env.begin(write=True) as txn:
                    for lmdb_key, _ in records[::2]:
                        txn.delete(lmdb_key)
                    txn.put(b"bb", b"z" * 3000)
                seeds.append(path.read_bytes())
    return seeds


_META = (8, 10, 16, 20, 24, 32, 40, 44, 48, 56, 64, 72, 80, 88, 92, 94, 96, 104, 112, 120, 128, 136, 144)


def _mutate_pages(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a number of a meta page, a page header, a pointer or a node; or swap pages."""
    if len(data) < 1024 or rng.random() < 0.1:
        return mutate_bytes(rng, data, others)
    page_bytes = int.from_bytes(data[40:44], "little")
    if page_bytes not in (256, 512, 1024, 2048, 4096):
        page_bytes = 4096
    pages = max(len(data) // page_bytes, 1)
    kind = rng.randrange(8)
    if kind < 2:
        at = rng.choice((0, page_bytes)) + rng.choice(_META)
        near = rng.choice(("<Q", "<H", "<I"))
        if rng.random() < 0.5:
            return data[:at] + struct.pack("<Q", rng.randrange(pages + 1)) + data[at + 8 :]
        return with_number(rng, data, at, near)
    page = rng.randrange(pages) * page_bytes
    if kind == 2:
        at, form = rng.choice(((0, "<Q"), (8, "<H"), (10, "<H"), (12, "<H"), (14, "<H"), (12, "<I")))
        return with_number(rng, data, page + at, form)
    if kind == 3:
        other = rng.randrange(pages) * page_bytes
        return data[:page] + data[other : other + page_bytes] + data[page + page_bytes :]
    with contextlib.suppress(struct.error, IndexError, RecursionError, OverflowError):
        layout = Layout(data)
        page = rng.choice(layout.branches + layout.leaves)
        lower = layout.u16(page + 12)
        pointer = page + 16 + 2 * rng.randrange(max((lower - 16) // 2, 1))
        if kind == 4:
            return with_number(rng, data, pointer, "<H")
        node = page + layout.u16(pointer)
        if kind == 5:
            return with_number(rng, data, node + rng.choice((0, 2, 4, 6)), "<H")
        if kind == 6:  # the run of an overflow, or the child of a branch
            at = node + (8 + layout.u16(node + 6) if page in layout.leaves else 0)
            return data[:at] + struct.pack("<I", rng.randrange(pages + 1)) + data[at + 4 :]
        at = node + 8 + rng.randrange(4)
        return data[:at] + rng.randbytes(1) + data[at + 1 :]
    return mutate_bytes(rng, data, others)


def _examine_pages(data: bytes, _: bytes) -> Refusal:
    """Records and faults are the same each time; without a fault they are those of liblmdb."""
    path = _folder() / "data.mdb"
    path.write_bytes(data)

    def records() -> tuple[list[tuple[bytes, bytes]], str | None]:
        with PageReader(path) as reader:
            return list(reader.items()), reader.page_fault()

    def accepted(found: tuple[list[tuple[bytes, bytes]], str | None]) -> None:
        items, fault = found
        assert [key for key, _ in items] == sorted({key for key, _ in items})
        assert records() == found
        with PageReader(path) as reader:
            assert len(reader) == len(items)
            assert list(reader.keys()) == [key for key, _ in items]
            assert all(reader.get(key) == value and key in reader for key, value in items)
            assert reader.get(b"no such key") is None
            half = items[len(items) // 2][0] if items else b""
            assert list(reader.items(half, None)) == [item for item in items if item[0] >= half]
            assert set(reader.spread(3)) <= {key for key, _ in items}
        if fault is None:
            digest = hashlib.sha256()
            for key, value in items:
                digest.update(b"%d %d " % (len(key), len(value)) + key + value)
            theirs = _liblmdb().digest(path)
            assert theirs == digest.hexdigest(), f"liblmdb says {theirs}"
        else:
            assert fault.isascii()

    refused = refusal(records, accepted, BenSecureError)
    if refused is not None and not isinstance(refused, StoreError):
        assert refused.lmdb_key is not None  # type: ignore[attr-defined]
    return refused


# The state of an audit.

_WHOLE = RangeTask(
    path="/db",
    identity=Identity(inode=5, file_bytes=4096, mtime_ns=7, ctime_ns=8, txnid=9, entries=100),
    start=b"",
    stop=None,
    position=0,
    records=100,
    options=Options(opinions=False),
)
_OPTIONS: dict[str, object] = {"verification": None, "limits": {"max_depth": 3}}


def _tally(records: int) -> Tally:
    tally = Tally()
    for number in range(records):
        tally.count(value_bytes=100 * number, written_by="canonical")
    tally.add(Finding(rule=Rule.MALFORMED, message="m", lmdb_key=b"\xff", position=3, program=b"\1" * 32))
    tally.add(Finding(rule=Rule.FOREIGN_FILE, message="n", offset=4, opcode="NONE", global_name="a.b", opinion="o"))
    tally.keep_clean(b"key")
    tally.see(b"\2" * 32, b"key", 1)
    return tally


def _state_seeds() -> list[bytes]:
    seeds = []
    whole = PartialResult(stop=None, records=100, tally=_tally(100))
    begun = PartialResult(stop=b"m", records=40, tally=_tally(40))
    rest = PartialResult(stop=None, records=60, tally=_tally(60))
    failed = PartialResult(stop=b"m", records=40, tally=dataclasses.replace(_tally(10), undecided="a disk"))
    for shard, parts, reason in (
        ((1, 1), [whole], None), ((1, 1), [begun], None), ((1, 1), [begun, rest], None),
        ((1, 1), [failed], "the rest cannot be judged"), ((1, 2), [begun], None),
    ):  # fmt: skip
        path = _folder() / "seed.json"
        file = ResultFile(path, shard, ["/db"])
        file.put(_WHOLE, _OPTIONS, results_to_json(parts, reason))
        file.write(overwrite=True)
        seeds.append(path.read_bytes())
    return seeds


def _examine_state(data: bytes, _: bytes) -> Refusal:
    """An accepted answer fits exactly its question, and survives being written and read again."""
    path = _folder() / "state.json"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)

    def accepted(found: list[tuple[RangeTask, Tally]]) -> None:
        position, start = 0, b""
        parts = []
        for task, tally in found:
            assert (task.position, task.start, task.path) == (position, start, "/db")
            assert tally.processed == task.records or tally.undecided is not None
            position, start = position + task.records, task.stop or b""
            parts.append(PartialResult(stop=task.stop, records=task.records, tally=tally))
        assert position <= _WHOLE.records
        written: Any = json.loads(json.dumps(results_to_json(parts)))
        assert list(results_from_json([_WHOLE], written, complete=False)) == found

    def merged() -> list[tuple[RangeTask, Tally]]:
        return list(ShardResults([path]).results_for(_WHOLE, _OPTIONS))

    refused = refusal(lambda: list(StateFile(path).results_for(_WHOLE, _OPTIONS)), accepted, StoreError)
    if refusal(merged, accepted, StoreError) is None:
        assert refused is None
    return refused


TARGETS = (
    Target("pages", _page_seeds, _mutate_pages, _examine_pages, memory=2**24, memory_per_byte=60, seconds=2),
    Target("state", _state_seeds, mutate_json, _examine_state, memory_per_byte=200, seconds=2),
)
