"""Parquet tables, which pyarrow reads in a process of its own; here its answers become rows.

pyarrow ends its process at some damaged files, so it never runs in this one (T15). The other process has bounds on
memory and time; what comes back is JSON, and a process that ends early is a refusal of the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import IO, Any, cast

from ben_secure._system.optional import require
from ben_secure.errors import TableError, printable
from ben_secure.labels._sheet import Cells, check_size, refused

# With -c the working directory is not where modules come from, unless it is for this process itself.
_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from ben_secure.labels._columnar import main; main()"
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # which takes no address space in advance
_MAX_ANSWER_BYTES = 2**32
_TEXT = 2_000


def rows_of(path: str, kept: Collection[str] | None, left_out: dict[str, str]) -> Iterator[tuple[int, object, Cells]]:
    """Read a table.

    Args:
        path: Parquet; hostile.
        kept: As for ``Selection``.
        left_out: As for ``Selection``.

    Yields:
        Number of the row, name of the patch, and the other cells.

    Raises:
        TableError: It cannot be read, or is no table.
        MissingExtraError: pyarrow is not installed.
    """
    require(f"the Parquet table {printable(path, 400)}", "pyarrow", otherwise="a CSV table needs no library")
    check_size(path)
    request = {"path": path, "kept": None if kept is None else list(kept)}
    number = 0
    for batch in _answers(path, json.dumps(request).encode()):
        left_out.update({name: printable(reason, _TEXT) for name, reason in batch["left_out"].items()})
        columns = {name: _cells(tree) for name, tree in batch["columns"].items()}
        for place, patch_name in enumerate(_cells(batch["id"])):
            number += 1
            yield number, patch_name, {name: cells[place] for name, cells in columns.items()}


def _answers(path: str, request: bytes) -> Iterator[dict[str, Any]]:
    """Start the process, and read its batches."""
    process = subprocess.Popen(
        [sys.executable, "-c", _COMMAND, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C ends this process, which ends the other
        env=os.environ | _ENVIRONMENT,
    )
    requests, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        with suppress(BrokenPipeError):
            requests.write(request)
            requests.close()
        while "end" not in (answer := _answer(answers)):
            if "error" in answer:
                raise TableError(printable(answer["error"], _TEXT))
            yield answer
    except (ValueError, RecursionError) as error:
        raise refused(path, f"pyarrow cannot read it, and {_end(process)}; write the table as CSV") from error
    finally:
        process.kill()
        for pipe in (requests, answers):
            with suppress(OSError):  # a request that was not read
                pipe.close()
        process.wait()


def _answer(answers: IO[bytes]) -> dict[str, Any]:
    size = int.from_bytes(answers.read(8), "little")
    content = answers.read(size) if size <= _MAX_ANSWER_BYTES else b""
    return cast("dict[str, Any]", json.loads(content.decode("utf-8", "surrogatepass")))


def _end(process: subprocess.Popen[bytes]) -> str:
    """How the process has ended by itself, in words."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(1)
    code = process.returncode
    return f"was ended by signal {-code}" if code is not None and code < 0 else "did not finish"


def _cells(tree: list[Any]) -> list[Any]:
    """Cells of a column, from the tree that ``_columnar`` has made of it."""
    kind, *rest = tree
    if kind == "plain":
        return cast("list[Any]", rest[0])
    if kind == "bytes":
        return [None if text is None else text.encode("latin-1") for text in rest[0]]
    if kind == "taken":
        known = _cells(rest[0])
        return [None if place is None else known[place] for place in rest[1]]
    if kind == "lists":
        return _lists(*rest)
    names, valid, trees = rest
    children = [_cells(child) for child in trees]
    return [
        {name: cells[place] for name, cells in zip(names, children, strict=True)} if there else None
        for place, there in enumerate(valid)
    ]


def _lists(lengths: list[int | None], tree: list[Any]) -> list[Any]:
    items = _cells(tree)
    lists: list[Any] = []
    start = 0
    for length in lengths:
        lists.append(None if length is None else items[start : start + length])
        start += length or 0
    return lists
