"""Code shared by the readers of CSV and Parquet tables: limits, and the selection of columns."""

from __future__ import annotations

import os
from collections.abc import Collection

from ben_secure.errors import TableError, printable

ID_COLUMNS = ("patch_id", "name", "patch")
"""Names of the column with the patch name. The first of these that a table has is used; the others are metadata."""

MAX_FILE_BYTES = 2**30  # BigEarthNet v2 has 480,038 rows, about 150 MB as CSV
MAX_ROWS = 4_000_000
MAX_COLUMNS = 1_000
MAX_CELL_BYTES = 2**17  # the limit of Python's csv
# Values in lists count. A value takes about 36 bytes of memory, but may take none in a file.
MAX_CELLS = 2**26

Cells = dict[str, object]


def refused(path: str, problem: str) -> TableError:
    """Make the error about a table."""
    return TableError(f"cannot use the table {printable(path, 400)}: {problem}; correct the file or name another")


def check_size(path: str) -> None:
    """Check that a file exists and is not too large.

    Raises:
        TableError: The file does not exist or is too large.
    """
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise refused(path, printable(error.strerror or str(error))) from error
    if size > MAX_FILE_BYTES:
        raise refused(path, f"it has {size} bytes, expected at most {MAX_FILE_BYTES}")


class Selection:
    """The columns to read from a table.

    Attributes:
        path: The table, for messages.
        id: Name of the column with the patch name.
        names: Names of the other columns to read.
    """

    def __init__(
        self, path: str, names: list[str], index: str | None, kept: Collection[str] | None, left_out: dict[str, str]
    ) -> None:
        """Select the columns.

        Args:
            path: The table, for messages.
            names: Names of its columns (untrusted).
            index: Name of the unnamed pandas index. It is used for the patch name if no column has it.
            kept: Names of the columns to keep, which need not exist, or None for all.
            left_out: Filled with the columns that cannot be kept, and the reasons.

        Raises:
            TableError: There are too many columns, or not exactly one column with the patch name.
        """
        if len(names) > MAX_COLUMNS:
            raise refused(path, f"it has {len(names)} columns, expected at most {MAX_COLUMNS}")
        self.path, self._kept, self._left_out = path, kept, left_out
        id_column = next((name for name in ID_COLUMNS if name in names), index)
        if id_column is None:
            first = ", ".join(map(printable, names[:8]))
            raise refused(
                path, f"its columns are {first}, expected one named {' or '.join(ID_COLUMNS)} for the patch name"
            )
        self.id = id_column
        doubled = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if self.id in doubled:
            raise refused(path, f"two columns are named {self.id}, expected one for the patch name")
        self.names = [name for name in names if name and name != self.id and (kept is None or name in kept)]
        for name in doubled & set(self.names):
            self.leave_out(name, "two columns have this name")

    def leave_out(self, name: str, reason: str) -> None:
        """Leave out a column, and record the reason.

        Raises:
            TableError: The caller requested this column, so it cannot be left out.
        """
        if self._kept is not None:
            if name not in self._kept:
                return
            raise refused(self.path, f"the column {printable(name)} cannot be read: {reason}")
        self._left_out[name] = reason
        self.names = [other for other in self.names if other != name]
