"""Metadata tables and lists of names: CSV by the standard library, Parquet by pyarrow; the only room that reads them.

A table is untrusted: its size, rows, columns and cells are bounded and checked, and every refusal names the file and
the row. Nothing here knows what a column means, except those that name patches, ``patch_id`` and ``s1_name`` as
in ``metadata.parquet`` of BigEarthNet v2 (Clasen et al., "reBEN", IGARSS 2025), and those that are lists of labels.
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
"""Column that names the Sentinel-1 patch of the same place as a Sentinel-2 patch."""

LABEL_COLUMNS = ("labels", "new_labels")
"""Columns that are lists of labels, also in CSV."""

PARQUET = (".parquet", ".geoparquet", ".pq")
"""Endings of the names of Parquet files."""

_CSV = (".csv", ".tsv")
_QUOTED = re.compile(r"'([^'\\]*)'")

Rows = dict[str, dict[str, object]]
"""Rows of a table by patch name, without the column of the name."""


def read_table(
    path: str | os.PathLike[str],
    columns: Collection[str] | None = None,
    left_out: dict[str, str] | None = None,
) -> Rows:
    """Read a metadata table.

    Args:
        path: CSV in UTF-8 with a header (``.csv``, ``.tsv``; commas, semicolons or tabs), whose cells become str
            without spaces around them; or Parquet (``.parquet``, ``.geoparquet``, ``.pq``). There int, float, bool,
            str and bytes, lists and structs of them stay what they are (a struct is a dict), missing cells become
            None, dates and times ISO 8601 str; a decimal becomes int, float or, with more than 15 digits, str.
            ``labels`` and ``new_labels`` may be text in either: a list in JSON, or as Python or numpy prints it.
        columns: Columns to keep, as far as there are any of these names; None for all.
        left_out: Where columns that are no plain data are named, with the reason, so that the rest is read; None if
            there may be no such column.

    Returns:
        The rows by patch name, in the order of the file; see ``ID_COLUMNS`` for the column of the name. An index of
        pandas without a name is the patch name if there is no such column, and is passed over otherwise.

    Raises:
        TableError: The file cannot be read, is no such table, is too large, has no column of names, a name that is
            missing or doubled, or a column that is no plain data and is asked for, or may not be left out.
        MissingExtraError: pyarrow is not installed, and the table is Parquet.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _CSV + PARQUET:
        raise refused(path, f"its name ends in {printable(suffix)!r}, expected .csv, .tsv or .parquet")
    odd: dict[str, str] = {}
    rows: Rows = {}
    cells = 0
    for number, name, row in (_parquet if suffix in PARQUET else _delimited).rows_of(path, columns, odd):
        if type(name) is not str or not name:
            raise refused(path, f"row {number} has no patch name, expected one in each row")
        if name in rows:
            raise refused(path, f"row {number} names the patch {printable(name)}, which an earlier row has named")
        if len(rows) >= MAX_ROWS:
            raise refused(path, f"it has more than {MAX_ROWS} rows")
        cells += len(row)
        if cells > MAX_CELLS:
            raise refused(path, f"it has more than {MAX_CELLS} cells; name the columns that you need (--columns)")
        for column in LABEL_COLUMNS:
            if type(cell := row.get(column)) is str and cell.startswith("["):
                row[column] = _list(path, number, column, cell)
        rows[name] = row
    for column, reason in odd.items():
        if left_out is None:
            raise refused(path, f"the column {printable(column)} cannot be read: {reason}")
        left_out[column] = reason
        for row in rows.values():  # of the rows before the one that showed it
            row.pop(column, None)
    return rows


def _list(path: str, number: int, column: str, cell: str) -> list[str]:
    """A list of texts from a cell: JSON, or what Python and numpy print."""
    try:
        found: object = json.loads(cell)
    except (ValueError, RecursionError):
        inside = cell.removeprefix("[").removesuffix("]")
        found = _QUOTED.findall(inside) if not _QUOTED.sub("", inside).strip(", \n") else None
    if type(found) is not list or not all(type(text) is str for text in found):
        raise refused(path, f'row {number} has no list of texts in {column}, expected one such as ["Pastures"]')
    return found


def pairs_of(rows: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """Take from a table which Sentinel-1 patch belongs to which Sentinel-2 patch.

    Args:
        rows: What ``read_table`` returned.

    Returns:
        The name in the column ``s1_name`` by patch name; rows without one are left out.

    Raises:
        TableError: No row has one, or it is not a str.
    """
    pairs = {}
    for name, row in rows.items():
        s1_name = row.get(S1_NAME)
        if s1_name is None or s1_name == "":
            continue
        if type(s1_name) is not str:
            raise TableError(
                f"the metadata table gives patch {printable(name)} an {S1_NAME} that is no text: correct the table"
            )
        pairs[name] = s1_name
    if not pairs:
        raise TableError(
            f"the metadata table pairs no patches: it needs a column {S1_NAME} with the name of each Sentinel-1 twin"
        )
    return pairs


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """Read a list of patch names, such as a split.

    Args:
        path: Text or CSV in UTF-8, one patch a line, its name in the first cell: as the splits of BigEarthNet v1
            are, or those of BigEarthNet-MM, which have the paired name in the second. If the first line has one of
            ``ID_COLUMNS``, it is a header, and names are taken from that column.

    Returns:
        The names in the order of the file; empty lines are left out.

    Raises:
        TableError: The file cannot be read, is too large or no such list, or a name is missing or doubled.
    """
    path = os.fspath(path)
    names: dict[str, None] = {}
    column = 0
    for number, cells in _delimited.cells_of(path):
        if number == 1 and (header := next((name for name in ID_COLUMNS if name in cells), None)) is not None:
            column = cells.index(header)
            continue
        name = cells[column] if column < len(cells) else ""
        if not name:
            raise refused(path, f"line {number} has no patch name, expected one in each line")
        if name in names:
            raise refused(path, f"line {number} names the patch {printable(name)} again")
        names[name] = None
    if not names:
        raise refused(path, "it names no patch")
    return list(names)


def is_table(path: str | os.PathLike[str], column: str) -> bool:
    """Tell a metadata table from a list of names: it is Parquet, or its header has a patch name and a column.

    Args:
        path: The file.
        column: Name of the column.

    Returns:
        Whether it is a table.
    """
    path = os.fspath(path)
    if os.path.splitext(path)[1].lower() in PARQUET:
        return True
    header = _delimited.header_of(path)
    return column in header and any(name in header for name in ID_COLUMNS)
