"""Read CSV tables and lists of names, as written by pandas, Excel and others, with the standard library.

The first line with text determines the delimiter: comma, semicolon or tab. The reader accepts a byte order mark,
spaces around cells, empty cells and rows at the end, and the unnamed index of pandas.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Collection, Iterator

from ben_secure.errors import TableError, printable
from ben_secure.labels._sheet import ID_COLUMNS, Cells, Selection, check_size, refused

_MAX_LINE_BYTES = 2**20
_MAX_SHARED = 20_000
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_INDEX = ("", "Unnamed: 0")  # the unnamed index of pandas, and its name after reading and writing it again


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a text file, decoded one by one so that an error can name the line."""
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
    """Choose the delimiter that gives a column with the patch name, or else the largest number of cells."""

    def fits(delimiter: str) -> tuple[bool, int]:
        cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
        return any(name in cells for name in ID_COLUMNS), len(cells)

    return max(",;\t", key=fits)


def cells_of(path: str) -> Iterator[tuple[int, list[str]]]:
    """Read the cells of a file.

    Args:
        path: Text in UTF-8 (untrusted).

    Yields:
        Line number, and cells without surrounding spaces, of each line that is not empty.

    Raises:
        TableError: The file cannot be read, is too large, or is not CSV.
    """
    lines = _lines(path)
    skipped = 0
    while (first := next(lines, "")).isspace():
        skipped += 1
    try:
        reader = csv.reader(itertools.chain([first], lines), strict=True, delimiter=_delimiter(first))
    except csv.Error as error:
        raise refused(path, f"line {skipped + 1} is not CSV: {printable(str(error))}") from error
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield skipped + reader.line_num, stripped
    except csv.Error as error:
        raise refused(path, f"line {skipped + reader.line_num} is not CSV: {printable(str(error))}") from error


def rows_of(path: str, kept: Collection[str] | None, left_out: dict[str, str]) -> Iterator[tuple[int, object, Cells]]:
    """Read a table.

    Args:
        path: CSV with a header (untrusted).
        kept: As for ``Selection``.
        left_out: As for ``Selection``.

    Yields:
        Line number, name of the patch, and the other cells.

    Raises:
        TableError: The file cannot be read, or is not a table.
    """
    lines = cells_of(path)
    number, columns = next(lines, (0, []))
    if not columns:
        raise refused(path, "it is empty, expected a header")
    index = columns[0] if columns[0] in _INDEX else None
    selection = Selection(path, columns if index is None else columns[1:], index, kept, left_out)
    id_index = columns.index(selection.id)
    shared: dict[str, str] = {}
    nameless = [column for column, name in enumerate(columns) if not name and column]
    for number, values in lines:
        if len(values) < len(columns) or any(values[len(columns) :]):
            raise refused(path, f"line {number} has {len(values)} cells, expected {len(columns)} as in the header")
        for column in [column for column in nameless if values[column]]:
            selection.leave_out(f"column {column + 1}", "it has no name")
            nameless.remove(column)
        row = dict(zip(columns, values, strict=False))
        yield number, values[id_index], {name: _share(shared, row[name]) for name in selection.names}


def _share(shared: dict[str, str], text: str) -> str:
    """Return the same object for equal texts, because countries and splits repeat in every row."""
    return shared.setdefault(text, text) if len(shared) < _MAX_SHARED else shared.get(text, text)


def header_of(path: str) -> list[str]:
    """Return the first cells of a text file. Empty if it cannot be read."""
    try:
        return next(cells_of(path), (0, []))[1]
    except TableError:
        return []
