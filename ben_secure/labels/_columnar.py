"""Parquet by pyarrow: columns of any type that stands for plain data, each cell of text in memory once.

Text is read as a dictionary of its values and the places where they stand: a value of megabytes that a file of
kilobytes repeats in every row is one object here, and is never laid out row by row. A column of another type, or with
cells too large for metadata, is left out by name.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterator
from typing import Any

from ben_secure._system.optional import require
from ben_secure.errors import printable
from ben_secure.labels._sheet import MAX_CELL_BYTES, MAX_CELLS, MAX_FILE_BYTES, Cells, Selection, check_size, refused

MAX_ROWS = 4_000_000
_BATCH_ROWS = 4_096
_MAX_BATCH_BYTES = 64 * 2**20
_MAX_BATCH_VALUES = 2**22  # with those in lists; a patch may hold 65,536 in its metadata
_MAX_LIST_VALUES = 1_000  # of one row, on the average of a group of rows; labels are 43 at most
_MAX_DEPTH = 4
_PANDAS_INDEX = "__index_level_"  # the index that pandas stores beside the columns
_TEXTS = ("STRING", "NONE", "JSON", "ENUM")  # logical types of byte arrays
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EXACT_DIGITS = 15  # of a decimal that a float stands for
_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)", re.ASCII)


class _Odd(Exception):
    """A column is no plain data; the text says why."""


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
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_size(path)
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            _check_facts(path, file.metadata)
            texts = _text_columns(file.metadata.schema)
        with pq.ParquetFile(path, memory_map=False, read_dictionary=texts) as file:
            yield from _rows(path, file, kept, left_out)
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        raise refused(path, f"it is not Parquet that can be read: {printable(str(error))}") from error


def _check_facts(path: str, facts: Any) -> None:
    """Check what the file says of itself, before anything is decompressed."""
    if facts.num_rows > MAX_ROWS:
        raise refused(path, f"it has {facts.num_rows} rows, expected at most {MAX_ROWS}")
    size = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
    if size > MAX_FILE_BYTES:
        raise refused(path, f"it has {size} bytes uncompressed, expected at most {MAX_FILE_BYTES}")


def _text_columns(schema: Any) -> list[str]:
    columns = (schema.column(place) for place in range(len(schema)))
    return [
        column.path for column in columns if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in _TEXTS
    ]


def _rows(
    path: str, file: Any, kept: Collection[str] | None, left_out: dict[str, str]
) -> Iterator[tuple[int, object, Cells]]:
    schema = file.schema_arrow
    names = [name for name in schema.names if not name.startswith(_PANDAS_INDEX)]
    index = next((name for name in schema.names if name.startswith(_PANDAS_INDEX)), None)
    selection = Selection(path, names, index, kept, left_out)
    longest = _longest(file.metadata)
    for name in list(selection.names):
        try:
            _check_type(schema.field(name).type)
            found = max((count for leaf, count in longest.items() if f"{leaf}.".startswith(f"{name}.")), default=0)
            if found > _MAX_LIST_VALUES:
                raise _Odd(f"its lists have {found:,.0f} values a row, expected at most {_MAX_LIST_VALUES}")
        except _Odd as odd:
            selection.leave_out(name, str(odd))
    number = 0
    budget = _Budget()
    wanted = [selection.id, *selection.names]
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted, use_threads=False):
        budget.values = 0
        values = {}
        for name in [selection.id, *selection.names]:
            try:
                values[name] = _column(batch.column(name), budget)
            except _Odd as odd:
                if name == selection.id:
                    raise refused(path, f"the column {printable(name)} cannot be read: {odd}") from odd
                selection.leave_out(name, str(odd))
        patch_names = values.pop(selection.id)
        for place, patch_name in enumerate(patch_names):
            number += 1
            yield number, patch_name, {name: cells[place] for name, cells in values.items()}


def _longest(facts: Any) -> dict[str, float]:
    """Most values that a row of each leaf column has in a group of rows, as the file says before anything is unpacked.

    A list of one number again and again is a few bytes in the file.
    """
    longest: dict[str, float] = {}
    for group in map(facts.row_group, range(facts.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            path = column.path_in_schema
            longest[path] = max(longest.get(path, 0), column.num_values / max(group.num_rows, 1))
    return longest


def _check_type(kind: Any, depth: int = 0) -> None:
    """Check that cells of a type are plain data."""
    import pyarrow as pa
    from pyarrow import types

    if depth > _MAX_DEPTH:
        raise _Odd(f"it is nested deeper than {_MAX_DEPTH}")
    if isinstance(kind, pa.BaseExtensionType):
        _check_type(kind.storage_type, depth)
    elif types.is_dictionary(kind) or _is_list(kind):
        _check_type(kind.value_type, depth + 1)
    elif types.is_struct(kind):
        fields = [kind[place] for place in range(kind.num_fields)]
        if len({field.name for field in fields}) < len(fields):
            raise _Odd("its type has one name twice")
        for field in fields:
            _check_type(field.type, depth + 1)
    elif not (_is_text(kind) or _is_time(kind) or any(getattr(types, f"is_{test}")(kind) for test in _PLAIN)):
        raise _Odd(f"it is of type {printable(str(kind))}, which is no plain data")


_PLAIN = ("integer", "floating", "boolean", "null", "decimal")


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")


def _is_time(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind))


class _Budget:
    """What the cells of a table may still take.

    Attributes:
        values: Values of the batch so far, those in lists included.
        all_values: The same of all batches so far.
        text_bytes: Bytes of text in all batches so far, where equal texts of one batch are one object.
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
            raise _Odd("its lists are too long for metadata, or its cells too large together")


def _column(array: Any, budget: _Budget) -> list[Any]:
    if array.nbytes > _MAX_BATCH_BYTES:
        raise _Odd(f"its cells are too large for metadata: {array.nbytes} bytes of {len(array)} rows")
    return _plain(array, budget)


def _plain(array: Any, budget: _Budget) -> list[Any]:
    """Cells of an array as plain Python values."""
    import pyarrow as pa
    from pyarrow import types

    kind = array.type
    budget.take(len(array))
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(array.storage, budget)
    if types.is_dictionary(kind):
        return _dictionary(array, budget)
    if _is_text(kind):
        whole = {"string_view": pa.large_string(), "binary_view": pa.large_binary()}.get(str(kind), kind)
        return _dictionary(array.cast(whole).dictionary_encode(), budget)
    if _is_list(kind):
        return _lists(array, budget)
    if types.is_struct(kind):
        names = [kind[place].name for place in range(kind.num_fields)]
        children = [_plain(child, budget) for child in array.flatten()]
        valid = array.is_valid().to_pylist()
        return [
            {name: cells[place] for name, cells in zip(names, children, strict=True)} if there else None
            for place, there in enumerate(valid)
        ]
    if _is_time(kind):
        return _times(array)
    cells: list[Any] = array.to_pylist()
    if types.is_floating(kind):
        return [None if cell is None else float(cell) for cell in cells]  # of half precision they are numpy's
    if types.is_decimal(kind):
        number: Any = int if kind.scale <= 0 else float if kind.precision <= _EXACT_DIGITS else str
        return [None if cell is None else number(cell) for cell in cells]
    return cells


def _dictionary(array: Any, budget: _Budget) -> list[Any]:
    """Cells of a dictionary array: one object for each value that occurs, which all its cells share."""
    import pyarrow.compute as pc

    places = pc.unique(array.indices).drop_null()
    values = array.dictionary.take(places)
    if _is_text(values.type) and len(values):
        lengths = pc.binary_length(values)
        if (longest := pc.max(lengths).as_py() or 0) > MAX_CELL_BYTES:
            raise _Odd(f"a cell has {longest} bytes, expected at most {MAX_CELL_BYTES}")
        budget.take(0, pc.sum(lengths).as_py() or 0)
        plain = values.to_pylist()
    else:
        plain = _plain(values, budget)
    known: dict[int | None, Any] = {None: None, **dict(zip(places.to_pylist(), plain, strict=True))}
    return [known[place] for place in array.indices.to_pylist()]


def _lists(array: Any, budget: _Budget) -> list[Any]:
    import pyarrow.compute as pc

    lengths = pc.list_value_length(array).to_pylist()
    items = _plain(array.flatten(), budget)
    lists: list[Any] = []
    start = 0
    for length in lengths:
        lists.append(None if length is None else items[start : start + length])
        start += length or 0
    return lists


def _times(array: Any) -> list[str | None]:
    """Dates and times in ISO 8601, with nine digits behind the point where six are not enough."""
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
        raise _Odd("it has a time beyond the years 1 to 9999") from error
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
        raise _Odd(f"its time zone {printable(name)} is not known here") from error
