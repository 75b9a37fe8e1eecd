"""CSV by the standard library, as pandas, Excel and others write it: rows and lists of names.

Commas, semicolons or tabs, whichever the first line tells; a byte order mark, spaces around cells, cells and rows that
are empty at the end, and pandas' index without a name are taken as what they are.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Iterator

from ben_secure.errors import printable
from ben_secure.labels._sheet import ID_COLUMNS, Cells, Selection, check_size, refused

_MAX_LINE_BYTES = 2**20
_MAX_SHARED = 20_000
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_INDEX = ("", "Unnamed: 0")  # pandas' index in a file, and the same read and written again


def _lines(path: str) -> Iterator[str]:
    """Lines of a text file, decoded one by one so that a message can say which is wrong."""
    check_size(path)
    try:
        yield from _decoded(path)
    except OSError as error:
        raise refused(path, printable(error.strerror or str(error))) from error


def _decoded(path: str) -> Iterator[str]:
    with open(path, "rb") as file:
        number = 0
        while line := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > _MAX_LINE_BYTES:
                raise refused(path, f"line {number} has more than {_MAX_LINE_BYTES} bytes")
            if number == 1 and line.startswith(_UTF_16):
                raise refused(path, "it is UTF-16, expected UTF-8 (in Excel: save as 'CSV UTF-8')")
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise refused(path, f"line {number} is not UTF-8") from error


def _delimiter(line: str) -> str:
    """Comma, semicolon or tab: by which a column names the patch, then by which there are most cells."""

    def fits(delimiter: str) -> tuple[bool, int]:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        return any(name in cells for name in ID_COLUMNS), len(cells)

    return max(",;\t", key=fits)


def cells_of(path: str) -> Iterator[tuple[int, list[str]]]:
    """Read a file of cells.

    Args:
        path: Text in UTF-8; hostile.

    Yields:
        Line numbers and cells, without spaces around them, of the lines that are not empty.

    Raises:
        TableError: It cannot be read, is too large, or is not CSV.
    """
    lines = _lines(path)
    first = next(lines, "")
    try:
        reader = csv.reader(itertools.chain([first], lines), strict=True, delimiter=_delimiter(first))
    except csv.Error as error:
        raise refused(path, f"line 1 is not CSV: {printable(str(error))}") from error
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise refused(path, f"line {reader.line_num} is not CSV: {printable(str(error))}") from error


def rows_of(path: str, kept: Collection[str] | None, left_out: dict[str, str]) -> Iterator[tuple[int, object, Cells]]:
    """Read a table.

    Args:
        path: CSV with a header; hostile.
        kept: As for ``Selection``.
        left_out: As for ``Selection``.

    Yields:
        Line number, name of the patch, and the other cells.

    Raises:
        TableError: It cannot be read, or is no table.
    """
    lines = cells_of(path)
    number, columns = next(lines, (0, []))
    if not columns:
        raise refused(path, "it is empty, expected a header")
    index = columns[0] if columns[0] in _INDEX else None
    selection = Selection(path, columns if index is None else columns[1:], index, kept, left_out)
    place = columns.index(selection.id)
    shared: dict[str, str] = {}
    nameless = [column for column, name in enumerate(columns) if not name and column]
    for number, values in lines:
        if len(values) < len(columns) or any(values[len(columns) :]):
            raise refused(path, f"line {number} has {len(values)} cells, expected {len(columns)} as in the header")
        for column in [column for column in nameless if values[column]]:
            selection.leave_out(f"column {column + 1}", "it has no name")
            nameless.remove(column)
        row = dict(zip(columns, values, strict=False))
        yield number, values[place], {name: _share(shared, row[name]) for name in selection.names}


def _share(shared: dict[str, str], text: str) -> str:
    """One object for equal texts: countries and splits repeat in every row."""
    return shared.setdefault(text, text) if len(shared) < _MAX_SHARED else shared.get(text, text)


def header_of(path: str) -> list[str]:
    """Take the cells of the first line of a text file; none if it cannot be read, which whoever reads it says."""
    try:
        with open(path, "rb") as file:
            line = file.readline(_MAX_LINE_BYTES).decode("utf-8-sig", "replace")
        return [cell.strip() for cell in next(csv.reader([line], delimiter=_delimiter(line)), [])]
    except (OSError, csv.Error):
        return []
