"""Read Parquet tables with pyarrow in a separate process, and send the cells as trees of JSON.

``_parquet`` runs ``main`` and rebuilds the rows. No other process may call pyarrow, because some damaged files abort it
(T15). Columns of text are read dictionary-encoded. So a long text that a small file repeats in every row is a single
object in both processes and is never copied for each row. A column is left out if its type is not plain data or its
cells are too large for metadata.

A tree of cells is one of ``["plain", cells]``, ``["bytes", cells as latin-1]``, ``["taken", tree of values, indices]``,
``["lists", lengths, tree of items]`` and ``["structs", names, valid, trees]``.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import os
import re
import resource
import sys
from collections.abc import Collection, Iterator
from typing import Any

from ben_secure.errors import TableError, printable
from ben_secure.labels._sheet import MAX_CELL_BYTES, MAX_CELLS, MAX_FILE_BYTES, MAX_ROWS, Selection, refused

_BATCH_ROWS = 4_096
_MAX_BATCH_BYTES = 64 * 2**20
_MAX_BATCH_VALUES = 2**22  # including values in lists; the metadata of a patch may have 65,536
_MAX_LIST_VALUES = 1_000  # average per row of a row group; a patch has at most 43 labels
_MAX_DEPTH = 4
_PANDAS_INDEX = "__index_level_"  # prefix of the index columns of pandas
_TEXTS = ("STRING", "NONE", "JSON", "ENUM")  # logical types of byte arrays
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EXACT_DIGITS = 15  # a float represents decimals with this many digits exactly
MAX_MEMORY_BYTES = 2**32
_CPU_SECONDS = 600
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII)


Tree = list[Any]
"""Cells of a column, as JSON."""


class _Unsupported(Exception):
    """A column cannot be read as plain data. The message is the reason."""


def main() -> None:
    """Read a table for the process at the other end of standard input and output.

    The request on standard input is ``{"path": ..., "kept": [...] or null}``. Each answer is a length of 8 bytes
    followed by JSON: the items of ``batches``, then ``{"end": true}`` or ``{"error": message}``.
    """
    limits = {"RLIMIT_AS": MAX_MEMORY_BYTES, "RLIMIT_CPU": _CPU_SECONDS, "RLIMIT_CORE": 0}
    for name, limit in limits.items():
        with contextlib.suppress(OSError, ValueError):  # macOS cannot limit memory
            resource.setrlimit(getattr(resource, name), (limit, limit))
    request = json.load(sys.stdin.buffer)
    try:
        for batch in batches(request["path"], request["kept"]):
            _answer(batch)
        _answer({"end": True})
    except TableError as error:
        _answer({"error": error.message})


def _answer(document: dict[str, Any]) -> None:
    content = json.dumps(document, ensure_ascii=False, check_circular=False).encode("utf-8", "surrogatepass")
    sys.stdout.buffer.write(len(content).to_bytes(8, "little") + content)
    sys.stdout.buffer.flush()


def batches(path: str, kept: Collection[str] | None) -> Iterator[dict[str, Any]]:
    """Read a table.

    Args:
        path: Parquet (untrusted).
        kept: As for ``Selection``.

    Yields:
        Batches of rows: ``id`` is the tree of the patch names, ``columns`` has the trees of the other cells by column,
        and ``left_out`` (as for ``Selection``) has all columns left out so far.

    Raises:
        TableError: The file cannot be read, is not a table, or needs too much memory.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = os.fsencode(path)  # pyarrow encodes a str as UTF-8, which not every name is
    try:
        with pa.OSFile(name) as source, pq.ParquetFile(source) as file:
            _check_facts(path, file.metadata)
            texts = _text_columns(file.metadata.schema)
        with pa.OSFile(name) as source, pq.ParquetFile(source, read_dictionary=texts) as file:
            yield from _batches(path, file, kept)
    except MemoryError as error:
        raise refused(path, f"reading it needs more than {MAX_MEMORY_BYTES} bytes of memory") from error
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        raise refused(path, f"it cannot be read as Parquet: {printable(str(error))}") from error


def _check_facts(path: str, facts: Any) -> None:
    """Check the numbers in the file's footer before anything is decompressed."""
    if facts.num_rows > MAX_ROWS:
        raise refused(path, f"it has {facts.num_rows} rows, expected at most {MAX_ROWS}")
    size = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
    if size > MAX_FILE_BYTES:
        raise refused(path, f"it has {size} bytes uncompressed, expected at most {MAX_FILE_BYTES}")


def _text_columns(schema: Any) -> list[str]:
    columns = (schema.column(index) for index in range(len(schema)))
    return [
        column.path for column in columns if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in _TEXTS
    ]


def _batches(path: str, file: Any, kept: Collection[str] | None) -> Iterator[dict[str, Any]]:
    left_out: dict[str, str] = {}
    schema = file.schema_arrow
    names = [name for name in schema.names if not name.startswith(_PANDAS_INDEX)]
    index = next((name for name in schema.names if name.startswith(_PANDAS_INDEX)), None)
    selection = Selection(path, names, index, kept, left_out)
    longest = _longest(file.metadata)
    for name in list(selection.names):
        try:
            _check_type(schema.field(name).type)
            average = max((count for leaf, count in longest.items() if f"{leaf}.".startswith(f"{name}.")), default=0)
            if average > _MAX_LIST_VALUES:
                raise _Unsupported(f"its lists have {average:,.0f} values per row, expected at most {_MAX_LIST_VALUES}")
        except _Unsupported as error:
            selection.leave_out(name, str(error))
    budget = _Budget()
    wanted = [selection.id, *selection.names]
    # One row group at a time: pyarrow cannot read lists of text across two, because each has its own dictionary.
    batches_of = (file.iter_batches(_BATCH_ROWS, [group], wanted, False) for group in range(file.num_row_groups))
    for batch in itertools.chain.from_iterable(batches_of):
        budget.values = 0
        trees = {}
        for name in [selection.id, *selection.names]:
            try:
                trees[name] = _column(batch.column(name), budget)
            except _Unsupported as error:
                if name == selection.id:
                    raise refused(path, f"the column {printable(name)} cannot be read: {error}") from error
                selection.leave_out(name, str(error))
        yield {"id": trees.pop(selection.id), "columns": trees, "left_out": left_out}
    yield {"id": ["plain", []], "columns": {}, "left_out": left_out}  # a table may have no rows


def _longest(facts: Any) -> dict[str, float]:
    """Return the number of values per row of each leaf column, the largest average of all row groups.

    The numbers come from the footer, before anything is decompressed: a long list of equal numbers takes only a few
    bytes in the file.
    """
    longest: dict[str, float] = {}
    for group in map(facts.row_group, range(facts.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            path = column.path_in_schema
            longest[path] = max(longest.get(path, 0), column.num_values / max(group.num_rows, 1))
    return longest


def _check_type(kind: Any, depth: int = 0) -> None:
    """Check that a column type is plain data."""
    import pyarrow as pa
    from pyarrow import types

    if depth > _MAX_DEPTH:
        raise _Unsupported(f"it is nested deeper than {_MAX_DEPTH}")
    if isinstance(kind, pa.BaseExtensionType):
        _check_type(kind.storage_type, depth)
    elif types.is_dictionary(kind) or _is_list(kind):
        _check_type(kind.value_type, depth + 1)
    elif types.is_struct(kind):
        fields = [kind[index] for index in range(kind.num_fields)]
        if len({field.name for field in fields}) < len(fields):
            raise _Unsupported("its type has a duplicate name")
        for field in fields:
            _check_type(field.type, depth + 1)
    elif not (_is_text(kind) or _is_time(kind) or any(getattr(types, f"is_{test}")(kind) for test in _PLAIN)):
        raise _Unsupported(f"its type is {printable(str(kind))}, which is not plain data")


_PLAIN = ("integer", "floating", "boolean", "null", "decimal")


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def _is_time(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind))


class _Budget:
    """Counts the values of a table against the limits.

    Attributes:
        values: Number of values in the current batch, including values in lists.
        all_values: Number of values in all batches so far.
        text_bytes: Bytes of text in all batches so far. Equal texts of a batch count once.
    """

    def __init__(self) -> None:
        self.values = 0
        self.all_values = 0
        self.text_bytes = 0

    def take(self, values: int, text_bytes: int = 0) -> None:
        self.values += values
        self.all_values += values
        self.text_bytes += text_bytes
        excess = self.values > _MAX_BATCH_VALUES or self.all_values > MAX_CELLS
        if excess or self.text_bytes > MAX_FILE_BYTES:
            raise _Unsupported("its lists are too long for metadata, or the total size of its cells is too large")


def _column(array: Any, budget: _Budget) -> Tree:
    if array.nbytes > _MAX_BATCH_BYTES:
        raise _Unsupported(f"its cells are too large for metadata: {array.nbytes} bytes in {len(array)} rows")
    return _tree(array, budget)


def _tree(array: Any, budget: _Budget) -> Tree:
    """Convert the cells of an array into a tree."""
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    budget.take(len(array))
    if isinstance(kind, pa.BaseExtensionType):
        return _tree(array.storage, budget)
    if types.is_dictionary(kind):
        return _dictionary(array, budget)
    if _is_text(kind):
        whole = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}.get(str(kind), kind)
        return _dictionary(array.cast(whole).dictionary_encode(), budget)
    if _is_list(kind):
        import pyarrow.compute as pc

        return ["lists", pc.list_value_length(array).to_pylist(), _tree(array.flatten(), budget)]
    if types.is_struct(kind):
        names = [kind[index].name for index in range(kind.num_fields)]
        return ["structs", names, array.is_valid().to_pylist(), [_tree(child, budget) for child in array.flatten()]]
    if _is_time(kind):
        return ["plain", _times(array)]
    cells: list[Any] = array.to_pylist()
    if types.is_floating(kind):
        cells = [None if cell is None else float(cell) for cell in cells]  # half-precision cells are numpy scalars
    if types.is_decimal(kind):
        number: Any = int if kind.scale <= 0 else float if kind.precision <= _EXACT_DIGITS else str
        cells = [None if cell is None else number(cell) for cell in cells]
    return ["plain", cells]


def _dictionary(array: Any, budget: _Budget) -> Tree:
    """Convert a dictionary-encoded array into the values that occur and an index for each cell."""
    import pyarrow.compute as pc

    occurring = pc.unique(array.indices).drop_null()
    values = array.dictionary.take(occurring)
    indices = pc.index_in(array.indices, occurring).to_pylist()
    if not _is_text(values.type):
        return ["taken", _tree(values, budget), indices]
    lengths = pc.binary_length(values)
    if (longest := pc.max(lengths).as_py() or 0) > MAX_CELL_BYTES:
        raise _Unsupported(f"a cell has {longest} bytes, expected at most {MAX_CELL_BYTES}")
    budget.take(0, pc.sum(lengths).as_py() or 0)
    if "binary" not in str(values.type):
        return ["taken", ["plain", values.to_pylist()], indices]
    plain = [None if value is None else value.decode("latin-1") for value in values.to_pylist()]
    return ["taken", ["bytes", plain], indices]


def _times(array: Any) -> list[str | None]:
    """Convert dates and times into ISO 8601 texts, with nine decimals if six are not enough."""
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    if types.is_date(kind):
        days = array.cast(pa.date32()).cast(pa.int32()).to_pylist()
        return [None if day is None else _moment(day * 86_400, 0, None)[:10] for day in days]
    clock = types.is_time(kind)
    zone = None if clock else _zone(kind.tz)
    unit = _UNITS[kind.unit]
    texts: list[str | None] = []
    for value in array.cast(pa.int32() if types.is_time32(kind) else pa.int64()).to_pylist():
        if value is None:
            texts.append(None)
            continue
        seconds, rest = divmod(value, unit)
        text = _moment(seconds, rest * (10**9 // unit), zone)
        texts.append(text[11:] if clock else text)
    return texts


def _moment(seconds: int, nanoseconds: int, zone: datetime.tzinfo | None) -> str:
    try:
        moment = datetime.datetime(1970, 1, 1, tzinfo=None if zone is None else datetime.timezone.utc)
        moment += datetime.timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
        moment = moment if zone is None else moment.astimezone(zone)
    except OverflowError as error:
        raise _Unsupported("it has a time outside the years 1 to 9999") from error
    if not nanoseconds % 1000:
        return moment.isoformat()
    text = moment.replace(microsecond=0).isoformat()
    return f"{text[:19]}.{nanoseconds:09}{text[19:]}"


def _zone(name: str | None) -> datetime.tzinfo | None:
    if not name:
        return None
    if name.upper() in ("UTC", "Z"):
        return datetime.timezone.utc
    if match := _OFFSET.fullmatch(name):
        minutes = 60 * int(match[2]) + int(match[3])
        return datetime.timezone(datetime.timedelta(minutes=-minutes if match[1] == "-" else minutes))
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise _Unsupported(f"its time zone {printable(name)} is unknown on this machine") from error
