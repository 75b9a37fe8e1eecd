"""Metadata tables and lists of names: CSV by the standard library, Parquet by pyarrow; the only module that reads them.

A table is untrusted: its size, rows, columns and cells are bounded and checked, and every refusal names the file and
the row. Nothing here knows what a column means, except the two that name patches: ``patch_id`` and ``s1_name``, as
in ``metadata.parquet`` of BigEarthNet v2 (Clasen et al., "reBEN", IGARSS 2025).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ben_secure._system.optional import require
from ben_secure.errors import EncodeError, printable

ID_COLUMNS = ("patch_id", "name", "patch")
"""Columns that can name the patch; the first of them that a table has does, and the others are columns like any."""

S1_NAME = "s1_name"
"""Column that names the Sentinel-1 twin of a Sentinel-2 patch."""

_MAX_FILE_BYTES = 2**30  # BigEarthNet v2 has 480,038 rows; as CSV some 150 MB
_MAX_ROWS = 4_000_000
_MAX_COLUMNS = 1_000
_MAX_LINE_BYTES = 2**20
_BATCH_ROWS = 4_096
_MAX_BATCH_BYTES = 64 * 2**20
_MAX_SHARED = 20_000
_PANDAS_INDEX = "__index_level_"  # row numbers that pandas stores beside the columns

Rows = dict[str, dict[str, object]]
"""Rows of a table by patch name, without the column of the name."""


def read_table(path: str | os.PathLike[str], columns: Collection[str] | None = None) -> Rows:
    """Read a metadata table.

    Args:
        path: A ``.csv`` file in UTF-8 with a header, whose cells all become str; or a ``.parquet`` file, whose int,
            float, bool, str, bytes and lists of them stay what they are, missing cells become None, and dates and
            times become ISO 8601 str.
        columns: Columns to keep, as far as there are any of these names; None for all.

    Returns:
        The rows by patch name, in the order of the file; see ``ID_COLUMNS`` for the column of the name.

    Raises:
        EncodeError: The file cannot be read, is no such table, is too large, has no column of names, a name that is
            missing or doubled, a column name that is doubled, or a cell that is no plain data.
        MissingExtraError: pyarrow is not installed, and the table is Parquet.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in (".csv", ".parquet"):
        raise _refused(path, f"its name ends in {printable(suffix)!r}, expected .csv or .parquet")
    rows: Rows = {}
    for number, name, row in (_csv_rows if suffix == ".csv" else _parquet_rows)(path, columns):
        if type(name) is not str or not name:
            raise _refused(path, f"row {number} has no patch name, expected one in each row")
        if name in rows:
            raise _refused(path, f"row {number} names the patch {printable(name)}, which an earlier row has named")
        if len(rows) >= _MAX_ROWS:
            raise _refused(path, f"it has more than {_MAX_ROWS} rows")
        rows[name] = row
    return rows


def pairs_of(rows: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Take from a table which Sentinel-1 patch belongs to which Sentinel-2 patch.

    Args:
        rows: What ``read_table`` returned.

    Returns:
        The name in the column ``s1_name`` by patch name; rows without one are left out.

    Raises:
        EncodeError: No row has one, or it is not a str.
    """
    pairs = {}
    for name, row in rows.items():
        s1_name = row.get(S1_NAME)
        if s1_name is None or s1_name == "":
            continue
        if type(s1_name) is not str:
            raise EncodeError(
                f"the metadata table gives patch {printable(name)} an {S1_NAME} that is no text: correct the table"
            )
        pairs[name] = s1_name
    if not pairs:
        raise EncodeError(
            f"the metadata table pairs no patches: it needs a column {S1_NAME} with the name of each Sentinel-1 twin"
        )
    return pairs


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Read a list of patch names, such as a split.

    Args:
        path: Text or CSV in UTF-8, one patch a line, its name in the first cell: as the splits of BigEarthNet v1
            are, or those of BigEarthNet-MM, which have the twin in the second. If the first line has one of
            ``ID_COLUMNS``, it is a header, and names are taken from that column.

    Returns:
        The names in the order of the file; empty lines are left out.

    Raises:
        EncodeError: The file cannot be read, is too large or no such list, or a name is missing or doubled.
    """
    path = os.fspath(path)
    names: dict[str, None] = {}
    column = 0
    for number, cells in _csv_cells(path):
        if number == 1 and (header := next((name for name in ID_COLUMNS if name in cells), None)) is not None:
            column = cells.index(header)
            continue
        name = cells[column].strip() if column < len(cells) else ""
        if not name:
            raise _refused(path, f"line {number} has no patch name, expected one in each line")
        if name in names:
            raise _refused(path, f"line {number} names the patch {printable(name)} again")
        names[name] = None
    if not names:
        raise _refused(path, "it names no patch")
    return list(names)


def _refused(path: str, what: str) -> EncodeError:
    return EncodeError(f"cannot use the table {printable(path, 400)}: {what}; correct the file or name another")


def _check_size(path: str) -> None:
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise _refused(path, printable(error.strerror or str(error))) from error
    if size > _MAX_FILE_BYTES:
        raise _refused(path, f"it has {size} bytes, expected at most {_MAX_FILE_BYTES}")


def _lines(path: str) -> Iterator[str]:
    """Lines of a text file, decoded one by one so that a message can say which is wrong."""
    _check_size(path)
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise _refused(path, f"line {number} has more than {_MAX_LINE_BYTES} bytes")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _refused(path, f"line {number} is not UTF-8") from error


def _csv_cells(path: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells of the lines that are not empty."""
    reader = csv.reader(_lines(path), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise _refused(path, f"line {reader.line_num} is not CSV: {printable(str(error))}") from error
    except OSError as error:
        raise _refused(path, printable(error.strerror or str(error))) from error


def _id_column(path: str, columns: list[str]) -> str:
    """Check the names of columns; returns the one that names patches."""
    if len(columns) > _MAX_COLUMNS:
        raise _refused(path, f"it has {len(columns)} columns, expected at most {_MAX_COLUMNS}")
    seen: set[str] = set()
    for column in columns:
        if not column or column in seen:
            raise _refused(path, f"a column is named {printable(column)!r}, expected different names, none empty")
        seen.add(column)
    for name in ID_COLUMNS:
        if name in seen:
            return name
    shown = ", ".join(map(printable, columns[:8]))
    raise _refused(path, f"its columns are {shown}, expected one named {' or '.join(ID_COLUMNS)} for the patch name")


def _csv_rows(path: str, kept: Collection[str] | None) -> Iterator[tuple[int, str, dict[str, object]]]:
    cells = _csv_cells(path)
    first = next(cells, None)
    if first is None:
        raise _refused(path, "it is empty, expected a header")
    columns = first[1]
    place = columns.index(_id_column(path, columns))
    shared: dict[str, str] = {}
    for number, values in cells:
        if len(values) != len(columns):
            raise _refused(path, f"line {number} has {len(values)} cells, expected {len(columns)} as in the header")
        row: dict[str, object] = {}
        for column, value in zip(columns, values, strict=True):
            if column != columns[place] and (kept is None or column in kept):
                row[column] = _share(shared, value)
        yield number, values[place], row


def _share(shared: dict[str, str], text: str) -> str:
    """One object for equal texts: countries and splits repeat in every row."""
    return shared.setdefault(text, text) if len(shared) < _MAX_SHARED else shared.get(text, text)


def _parquet_rows(path: str, kept: Collection[str] | None) -> Iterator[tuple[int, object, dict[str, object]]]:
    require(f"the Parquet table {printable(path, 400)}", "pyarrow", otherwise="a CSV table needs no library")
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_size(path)
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            _check_parquet(path, file.metadata)
            columns = [name for name in file.schema_arrow.names if not name.startswith(_PANDAS_INDEX)]
            place = _id_column(path, columns)
            columns = [name for name in columns if kept is None or name == place or name in kept]
            number = 0
            shared: dict[str, str] = {}
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns, use_threads=False):
                if batch.nbytes > _MAX_BATCH_BYTES:
                    raise _refused(path, f"the rows after row {number} have cells too large for metadata")
                values = {name: _plain_column(path, name, batch.column(name), shared) for name in columns}
                for row in zip(*values.values(), strict=True):
                    number += 1
                    cells = dict(zip(columns, row, strict=True))
                    yield number, cells.pop(place), cells
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        raise _refused(path, f"it is not Parquet that can be read: {printable(str(error))}") from error


def _check_parquet(path: str, facts: Any) -> None:
    """Check what the file says of itself, before anything is decompressed."""
    if facts.num_rows > _MAX_ROWS:
        raise _refused(path, f"it has {facts.num_rows} rows, expected at most {_MAX_ROWS}")
    size = sum(facts.row_group(group).total_byte_size for group in range(facts.num_row_groups))
    if size > _MAX_FILE_BYTES:
        raise _refused(path, f"it has {size} bytes uncompressed, expected at most {_MAX_FILE_BYTES}")


def _plain_column(path: str, name: str, column: Any, shared: dict[str, str]) -> list[Any]:
    """Cells of a column as plain Python values."""
    from pyarrow import types

    kind = column.type
    if types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind):
        return [None if value is None else value.isoformat() for value in _moments(column).to_pylist()]
    item = kind
    while types.is_list(item) or types.is_large_list(item) or types.is_fixed_size_list(item):
        item = item.value_type
    tests = ("integer", "floating", "boolean", "string", "large_string", "binary", "large_binary", "null")
    if not any(getattr(types, f"is_{test}")(item) for test in tests):
        raise _refused(path, f"the column {printable(name)} is of type {printable(str(kind))}, which is no plain data")
    cells: list[Any] = column.to_pylist()
    if types.is_string(kind) or types.is_large_string(kind):
        return [None if value is None else _share(shared, value) for value in cells]
    if item is not kind and (types.is_string(item) or types.is_large_string(item)):
        return [None if value is None else [_shared_item(shared, part) for part in value] for value in cells]
    return cells


def _shared_item(shared: dict[str, str], part: object) -> object:
    return _share(shared, part) if isinstance(part, str) else part


def _moments(column: Any) -> Any:
    """Times in microseconds, which is what Python's have; arrow refuses to drop what is finer."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return column.cast(pa.timestamp("us", tz=kind.tz))
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return column.cast(pa.time64("us"))
    return column
