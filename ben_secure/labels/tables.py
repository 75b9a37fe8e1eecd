"""Read metadata tables and lists of names: CSV with the standard library, Parquet with pyarrow.

A table is untrusted. Its size, rows, columns and cells are bounded and checked, and every refusal names the file and,
where possible, the row. Only a few columns have a meaning here: those with patch names, ``patch_id`` and ``s1_name`` as
in ``metadata.parquet`` of BigEarthNet v2 (Clasen et al., "reBEN", IGARSS 2025), and those with lists of labels.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping

from ben_secure.errors import TableError, printable
from ben_secure.labels import _delimited, _parquet
from ben_secure.labels._sheet import ID_COLUMNS, MAX_CELLS, MAX_ROWS, refused

S1_NAME = "s1_name"
"""Column with the name of the Sentinel-1 patch that forms a pair with the Sentinel-2 patch."""

LABEL_COLUMNS = ("labels", "new_labels")
"""Columns with lists of labels, also in CSV."""

PARQUET = (".parquet", ".geoparquet", ".pq")
"""File name extensions of Parquet files."""

_CSV = (".csv", ".tsv")
_QUOTED = re.compile(r"'([^'\\]*)'")

Rows = dict[str, dict[str, object]]
"""Rows of a table by patch name, without the column that contains the name."""


def read_table(
    path: str | os.PathLike[str],
    columns: Collection[str] | None = None,
    left_out: dict[str, str] | None = None,
) -> Rows:
    """Read a metadata table.

    Args:
        path: CSV or Parquet file. CSV (``.csv``, ``.tsv``) must be UTF-8 with a header; the delimiter is comma,
            semicolon or tab; cells become str without surrounding spaces. In Parquet (``.parquet``, ``.geoparquet``,
            ``.pq``), int, float, bool, str and bytes keep their type, also in lists and structs (which become dicts).
            Missing cells become None, dates and times ISO 8601 str, and decimals int, float, or str if they have more
            than 15 digits. In both, ``labels`` and ``new_labels`` may be text: a list in JSON, or as printed by Python
            or numpy.
        columns: Names of the columns to keep, which need not exist, or None for all.
        left_out: Filled with the columns that are not plain data, and the reasons. If None, such a column is an error.

    Returns:
        The rows by patch name, in the order of the file. ``ID_COLUMNS`` lists the possible names of the column with the
        patch name. Without such a column, an unnamed pandas index has the patch name; otherwise it is ignored.

    Raises:
        TableError: The file cannot be read, is not a table, is too large, has no column with patch names, or has a
            missing or duplicate name, or a column is not plain data but was requested or cannot be left out.
        MissingExtraError: pyarrow is not installed, and the table is Parquet.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _CSV + PARQUET:
        raise refused(path, f"its name ends in {printable(suffix)!r}, expected .csv, .tsv or .parquet")
    unsupported: dict[str, str] = {}
    rows: Rows = {}
    cells = 0
    for number, name, row in (_parquet if suffix in PARQUET else _delimited).rows_of(path, columns, unsupported):
        if name is not None and type(name) is not str:
            raise refused(path, f"row {number} has a patch name of type {type(name).__name__}, expected text")
        if not name:
            raise refused(path, f"row {number} has no patch name, expected one in each row")
        if name in rows:
            raise refused(path, f"row {number} names the patch {printable(name)}, and so does an earlier row")
        if len(rows) >= MAX_ROWS:
            raise refused(path, f"it has more than {MAX_ROWS} rows")
        cells += len(row)
        if cells > MAX_CELLS:
            raise refused(path, f"it has more than {MAX_CELLS} cells; name the columns that you need (--columns)")
        for column in LABEL_COLUMNS:
            if type(cell := row.get(column)) is str and cell.startswith("["):
                row[column] = _list(path, number, column, cell)
        rows[name] = row
    for column, reason in unsupported.items():
        if left_out is None:
            raise refused(path, f"the column {printable(column)} cannot be read: {reason}")
        left_out[column] = reason
        for row in rows.values():  # earlier rows may still have the column
            row.pop(column, None)
    return rows


def _list(path: str, number: int, column: str, cell: str) -> list[str]:
    """Parse a list of texts in a cell: JSON, or the output of Python or numpy."""
    try:
        texts: object = json.loads(cell)
    except (ValueError, RecursionError):
        inside = cell.removeprefix("[").removesuffix("]")
        texts = _QUOTED.findall(inside) if not _QUOTED.sub("", inside).strip(", \r\n") else None
    if type(texts) is not list or not all(type(text) is str for text in texts):
        raise refused(path, f'row {number} has no list of texts in {column}, expected one such as ["Pastures"]')
    return texts


def pairs_of(rows: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Get the pairs of Sentinel-1 and Sentinel-2 patches from a table.

    Args:
        rows: Rows from ``read_table``.

    Returns:
        ``s1_name`` by patch name. Rows without ``s1_name`` are left out.

    Raises:
        TableError: No row has ``s1_name``, or it is not a str.
    """
    pairs = {}
    for name, row in rows.items():
        s1_name = row.get(S1_NAME)
        if s1_name is None or s1_name == "":
            continue
        if type(s1_name) is not str:
            raise TableError(
                f"{S1_NAME} of patch {printable(name)} in the metadata table is not a text; correct the table"
            )
        pairs[name] = s1_name
    if not pairs:
        raise TableError(
            f"the metadata table has no pairs; add a column {S1_NAME} with the name of each patch's Sentinel-1 patch"
        )
    return pairs


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Read a list of patch names, such as a split.

    Args:
        path: Text or CSV in UTF-8 with one patch per line and its name in the first cell. Splits of BigEarthNet v1 have
            this format, and so have those of BigEarthNet-MM, whose second cell is the name of the paired patch. If the
            first line has one of ``ID_COLUMNS``, it is a header, and that column has the names.

    Returns:
        The names in the order of the file. Empty lines are skipped.

    Raises:
        TableError: The file cannot be read, is too large or not such a list, or a name is missing or duplicate.
    """
    path = os.fspath(path)
    names: dict[str, None] = {}
    column = 0
    for index, (number, cells) in enumerate(_delimited.cells_of(path)):
        if not index and (header := next((name for name in ID_COLUMNS if name in cells), None)) is not None:
            column = cells.index(header)
            continue
        name = cells[column] if column < len(cells) else ""
        if not name:
            raise refused(path, f"line {number} has no patch name, expected one in each line")
        if name in names:
            raise refused(path, f"line {number} names the patch {printable(name)}, and so does an earlier line")
        names[name] = None
    if not names:
        raise refused(path, "it has no patch names")
    return list(names)


def is_table(path: str | os.PathLike[str], column: str) -> bool:
    """Distinguish a metadata table from a list of names.

    Args:
        path: The file.
        column: Name of a column that the table must have.

    Returns:
        Whether the file is Parquet, or its header has this column and one with the patch name.
    """
    path = os.fspath(path)
    if os.path.splitext(path)[1].lower() in PARQUET:
        return True
    header = _delimited.header_of(path)
    return column in header and any(name in header for name in ID_COLUMNS)
