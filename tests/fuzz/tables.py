"""Tables of text: CSV as people and programs write it, lists of names, and splits."""

from __future__ import annotations

import atexit
import csv
import faulthandler
import functools
import io
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Sequence
from typing import Any

from ben_secure.batches.pixels import Normalisation, read_statistics
from ben_secure.batches.splits import choose
from ben_secure.errors import TableError
from ben_secure.labels import _columnar
from ben_secure.labels.tables import Rows, read_names, read_table
from fuzz.target import Refusal, Target, mutate_bytes, mutate_json, refusal


@functools.cache
def folder() -> pathlib.Path:
    """A folder for the inputs of this process."""
    made = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-tables-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def written(name: str, content: bytes) -> str:
    """Put an input where the parser finds it."""
    path = folder() / name
    path.write_bytes(content)
    return str(path)


_TEXTS = (
    *(b"patch_id,split,s1_name\nA,train,SA\nB,test,SB\n", b"A\nB\nC\n", b"A,SA\nB,SB\n", b"s1_name,patch_id\nSA,A\n"),
    *(b",patch_id,split\n0,A,train\n1,B,test\n", b"Unnamed: 0,patch_id,split\n0,A,train\n", b",split\nA,train\nB,x\n"),
    *(b"\xef\xbb\xbfpatch_id;split\r\nA;train\r\nB;test\r\n;\r\n", b"patch_id\tsplit\nA\ttrain\nB\ttest\n"),
    *(
        b"\xef\xbb\xbfpatch_id,split,,\r\nA,train,,\r\nB,test,,\r\n,,,\r\n",
        b" patch_id , split \n A ,train  \nB\t, test\n",
    ),
    *(b'patch_id;"a,b,c"\nA;"1;2,5"\n', b'patch_id,labels,x\nA,"[""Pastures"", ""Peatbogs""]",1\nB,[],\n'),
    *(b"patch_id,labels\nA,\"['Pastures' 'Airports']\"\n", b'"patch_id"\n"A\nB"\n', b"name,patch_id\nx,A\n"),
    *(b"patch_id,contains_seasonal_snow,split\nA,True,train\nB,False,test\n", "größe,patch\nä,Ä\n".encode(), b""),
    *(b"\xff\xfep\0a\0t\0c\0h\0_\0i\0d\0\n\0", b"patch_id,a,a,\nA,1,2,3\n", b"A;SA\nB;SB\n", b"A\r\r\nB\r\n\n"),
)
_PIECES = (
    *(
        b",",
        b";",
        b"\t",
        b"\n",
        b"\r",
        b"\r\n",
        b'"',
        b'""',
        b"\0",
        b" ",
        b"[",
        b"]",
        b"'",
        b"\xff",
        b"\xc2\xa0",
        b"\x0b",
    ),
    *(b"patch_id", b"name", b"patch", b"split", b"Unnamed: 0", b"\xef\xbb\xbf", b"labels", b"True", b"\x1b[31m"),
    *(b"x" * 140_000, b"x," * 1_100, b"[" * 3_000, b'["' + b"a" * 300 + b'"]', b"\xed\xa0\x80", b"\x1c", b"\x85"),
    *(b"\xc3\xa9", b"\xe2\x80\xa8"),
)


def _mutate_text(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a cell, a line or a separator."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, data, others)
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(6)
    if kind == 0:
        lines.insert(at, rng.choice(lines))
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at] = rng.choice(rng.choice(others).split(b"\n") if others else lines)
    else:
        line = lines[at]
        place = rng.randrange(len(line) + 1)
        lines[at] = line[:place] + rng.choice(_PIECES) + line[place + rng.choice((0, 0, 1, 3)) :]
    return b"\n".join(lines)


def _examine_csv(data: bytes, _: bytes) -> Refusal:
    """Rows are str by str, written out and read again they are the same; columns left out are those of no row."""
    path = written("t.csv", data)
    left_out: dict[str, str] = {}

    def accepted(rows: Rows) -> None:
        names = list(next(iter(rows.values()), {}))
        for name, row in rows.items():
            assert name
            assert list(row) == names
            assert left_out.keys().isdisjoint(row)
            assert all(
                type(cell) is str or (column == "labels" or column == "new_labels") for column, cell in row.items()
            )
        assert all(reason.isascii() and reason.isprintable() for reason in left_out.values())
        if {"labels", "new_labels"} & set(names) or "patch_id" in names or not names:
            return
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(["patch_id", *names])
        writer.writerows([name, *row.values()] for name, row in rows.items())
        assert read_table(written("again.csv", text.getvalue().encode())) == rows

    refused = refusal(lambda: read_table(path, left_out=left_out), accepted, TableError)
    if refused is not None:
        left_out.clear()
    strict = refusal(lambda: read_table(path), allowed=TableError)
    assert (strict is None) == (refused is None and not left_out)
    return refused


def _examine_names(data: bytes, _: bytes) -> Refusal:
    """Names are different and not empty, in the order of the file; a split of them is found among themselves."""
    path = written("names.csv", data)

    def accepted(names: list[str]) -> None:
        assert all(names)
        assert len(set(names)) == len(names) > 0
        refusal(lambda: choose(names, "here", path, None, None), chosen, (TableError, ValueError))

    def chosen(names: list[str]) -> None:
        assert len(set(names)) == len(names)

    refused = refusal(lambda: read_names(path), accepted, TableError)
    refusal(lambda: choose(["A", "B"], "here", path, None, None), chosen, (TableError, ValueError))
    return refused


# Statistics.


def _statistics_seeds() -> list[bytes]:
    some = {"B02": {"mean": 430.5, "std": 572.25, "count": 3}, "VV": {"mean": None, "std": None}}
    documents = ({"database": "x", "bands": some, "ddof": 0}, {"bands": {"B8A": {"mean": 0, "std": 1}}}, {"bands": {}})
    return [json.dumps(document).encode() for document in documents]


def _examine_statistics(data: bytes, _: bytes) -> Refusal:
    """Means and standard deviations are floats, and the same again."""
    path = written("statistics.json", data)

    def accepted(found: Normalisation) -> None:
        assert all(type(number) is float for numbers in found.values() for number in numbers)
        assert repr(read_statistics(path)) == repr(found)

    return refusal(lambda: read_statistics(path), accepted, TableError)


# Parquet, in processes of their own that are forked from one with pyarrow; one in some is read as users read it.

_COLUMNS: dict[str, Any] = {
    "patch_id": ["A", "B", "C"],
    "labels": [["Pastures", "Airports"], None, []],
    "flag": [True, None, False],
    "count": [1, None, 2**40],
    "cover": [0.5, None, float("nan")],
    "split": ["train", "train", "test"],
    "raw": [b"\0\xff", None, b""],
    "box": [{"a": 1, "b": ["x"]}, None, {"a": None, "b": []}],
}
_MOST_RSS = 2**28


def _parquet_seeds() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    moments = pa.array([1, None, 2**40], pa.timestamp("us", tz="Europe/Berlin"))
    tables = [
        pa.table(_COLUMNS),
        pa.table({"patch_id": ["A", "B", "C"], "when": moments, "day": pa.array([1, 2, None], pa.date32())}),
    ]
    tables.append(pa.table({"patch_id": ["A"] * 2, "x": pa.array(["u", "v"]).dictionary_encode()}))
    tables.append(pa.table({"patch_id": pa.array([], pa.string()), "x": pa.array([], pa.int8())}))
    seeds = []
    for table in tables:
        for options in (
            {},
            {"compression": "zstd", "store_schema": False},
            {"compression": "none", "data_page_version": "2.0", "use_dictionary": False},
        ):
            sink = io.BytesIO()
            pq.write_table(table, sink, **options)
            seeds.append(sink.getvalue())
    return seeds


def _mutate_parquet(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change the footer mostly, whose length stands before the last four bytes, and mostly keep that right."""
    size = int.from_bytes(data[-8:-4], "little")
    if rng.random() < 0.2 or not 0 < size < len(data) - 8:
        return mutate_bytes(rng, data, others)
    start = len(data) - 8 - size
    if rng.random() < 0.3:
        return mutate_bytes(rng, data[:start], others) + data[start:]
    footer = mutate_bytes(rng, data[start:-8], others)
    return data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _read_in_child(path: str) -> tuple[int, int, Any]:
    """How a forked child that reads a table ends, the memory that it has taken, and what it answers."""
    answer = folder() / "answer"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which the child does not use
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 60)
            faulthandler.disable()
            resource.setrlimit(resource.RLIMIT_AS, (_columnar.MAX_MEMORY_BYTES,) * 2)
            resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                found: Any = list(_columnar.batches(path, None))
            except TableError as error:
                found = {"error": str(error)}
            answer.write_text(json.dumps(found), "utf-8", "surrogatepass")
        except BaseException:
            answer.write_text(json.dumps({"trace": traceback.format_exc()}))
        finally:
            os._exit(0)
    _, status, usage = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, usage.ru_maxrss * 1024, json.loads(answer.read_text("utf-8", "surrogatepass")) if code == 0 else None


def _examine_parquet(data: bytes, _: bytes) -> Refusal:
    """Trees become cells of plain data, the same as users get; if the process dies, they get an error."""
    import pyarrow.parquet  # noqa: F401  # before the fork

    path = written("t.parquet", data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    code, peak, found = _read_in_child(path)
    assert peak < before + _MOST_RSS + 64 * len(data), f"it took {peak - before} bytes"
    assert code not in (-signal.SIGXCPU, -signal.SIGALRM), "it hangs"
    refused: Refusal = TableError(f"ended with {code}") if code else None
    if isinstance(found, dict):
        assert "trace" not in found, found["trace"]
        refused = refusal(lambda: _raise(TableError(found["error"])))
    if zlib.crc32(data) % 200 == 0 or (code and code not in _DEATHS):
        _DEATHS.add(code)
        left_out: dict[str, str] = {}
        real = refusal(lambda: read_table(path, left_out=left_out), allowed=TableError)
        assert real is not None or refused is None
        assert "row" in str(real) or (real is None) == (refused is None), real
    return refused


_DEATHS: set[int] = set()


def _raise(error: Exception) -> None:
    raise error


TARGETS = (
    Target("parquet", _parquet_seeds, _mutate_parquet, _examine_parquet, memory=2**25, seconds=30, needs="pyarrow"),
    Target("csv", lambda: list(_TEXTS), _mutate_text, _examine_csv, memory_per_byte=200),
    Target("statistics", _statistics_seeds, mutate_json, _examine_statistics, memory=2**25),
    Target("splits", lambda: list(_TEXTS), _mutate_text, _examine_names, memory_per_byte=200),
)
