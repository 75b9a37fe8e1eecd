"""Read Parquet tables through a separate process that runs pyarrow, and turn its answers into rows.

Some damaged files make pyarrow abort, so it never runs in the calling process (T15). Memory and time of the separate
process are bounded. Its answers are JSON. If it ends early, the file is refused.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import IO, Any, cast

from ben_secure._system.forks import not_started
from ben_secure._system.optional import require
from ben_secure.errors import TableError, printable
from ben_secure.labels._sheet import Cells, check_size, refused

# Sets sys.path explicitly, because -c would otherwise import modules from the working directory.
_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from ben_secure.labels._columnar import main; main()"
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # this allocator reserves no address space in advance
_MAX_ANSWER_BYTES = 2**32
_TEXT = 2_000


def rows_of(path: str, kept: Collection[str] | None, left_out: dict[str, str]) -> Iterator[tuple[int, object, Cells]]:
    """Read a table.

    Args:
        path: Parquet (untrusted).
        kept: As for ``Selection``.
        left_out: As for ``Selection``.

    Yields:
        Number of the row, name of the patch, and the other cells.

    Raises:
        TableError: The file cannot be read, or is not a table.
        StoreError: No process can be started.
        MissingExtraError: pyarrow is not installed.
    """
    require(f"the Parquet table {printable(path, 400)}", "pyarrow", otherwise="a CSV table needs no library")
    check_size(path)
    request = {"path": path, "kept": None if kept is None else list(kept)}
    number = 0
    for patch_names, columns, odd in _batches(path, json.dumps(request).encode()):
        left_out.update(odd)
        for index, patch_name in enumerate(patch_names):
            number += 1
            yield number, patch_name, {name: cells[index] for name, cells in columns.items()}


def _batches(path: str, request: bytes) -> Iterator[tuple[list[object], dict[str, list[object]], dict[str, str]]]:
    """Start the process, and read its batches: names of patches, other cells by column, columns that are left out."""
    process = _start()
    requests, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        with suppress(BrokenPipeError):
            requests.write(request)
            requests.close()
        while "end" not in (answer := _answer(answers)):
            if "error" in answer:
                raise TableError(printable(answer["error"], _TEXT))
            patch_names = _cells(answer["id"])
            columns = {name: _cells(tree) for name, tree in answer["columns"].items()}
            if any(len(cells) != len(patch_names) for cells in columns.values()):
                raise ValueError("its columns have different lengths")
            yield patch_names, columns, {name: printable(why, _TEXT) for name, why in answer["left_out"].items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:  # nonsense, or no answer
        raise refused(path, f"the process that reads it {_end(process)}; write the table as CSV") from error
    finally:
        process.kill()
        for pipe in (requests, answers):
            with suppress(OSError):  # an unread request cannot be flushed
                pipe.close()
        process.wait()


def _start() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # not reached by Ctrl-C: the caller ends it
            env=os.environ | _ENVIRONMENT,
        )
    except OSError as error:
        raise not_started(error) from error


def _answer(answers: IO[bytes]) -> dict[str, Any]:
    size = int.from_bytes(answers.read(8), "little")
    content = answers.read(size) if size <= _MAX_ANSWER_BYTES else b""
    return cast("dict[str, Any]", json.loads(content.decode("utf-8", "surrogatepass")))


def _end(process: subprocess.Popen[bytes]) -> str:
    """Describe how the process ended."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(1)
    code = process.returncode
    if code is None:
        return "does not answer"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code} without a complete answer"


def _cells(tree: list[Any]) -> list[Any]:
    """Rebuild the cells of a column from a tree of ``_columnar``."""
    kind, *rest = tree
    if kind == "plain":
        return cast("list[Any]", rest[0])
    if kind == "bytes":
        return [None if text is None else text.encode("latin-1") for text in rest[0]]
    if kind == "taken":
        values = _cells(rest[0])
        return [None if index is None else values[index] for index in rest[1]]
    if kind == "lists":
        return _lists(*rest)
    names, valid, trees = rest
    children = [_cells(child) for child in trees]
    return [
        {name: cells[index] for name, cells in zip(names, children, strict=True)} if is_valid else None
        for index, is_valid in enumerate(valid)
    ]


def _lists(lengths: list[int | None], tree: list[Any]) -> list[Any]:
    items = _cells(tree)
    lists: list[Any] = []
    start = 0
    for length in lengths:
        lists.append(None if length is None else items[start : start + length])
        start += length or 0
    return lists
