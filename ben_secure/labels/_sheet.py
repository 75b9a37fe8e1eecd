"""What CSV and Parquet tables have in common: bounds, the column that names the patch, and columns left out."""

from __future__ import annotations

import os
from collections.abc import Collection

from ben_secure.errors import TableError, printable

ID_COLUMNS = ("patch_id", "name", "patch")
"""Columns that can name the patch; the first of them that a table has does, and the others are columns like any."""

MAX_FILE_BYTES = 2**30  # BigEarthNet v2 has 480,038 rows; as CSV some 150 MB
MAX_ROWS = 4_000_000
MAX_COLUMNS = 1_000
MAX_CELL_BYTES = 2**17  # as Python's csv has it
MAX_CELLS = (
    2**26
)  # of a table, with the values of its lists; each takes some 36 bytes here, and may take none in a file

Cells = dict[str, object]


def refused(path: str, what: str) -> TableError:
    """Make the error about a table."""
    return TableError(f"cannot use the table {printable(path, 400)}: {what}; correct the file or name another")


def check_size(path: str) -> None:
    """Check that there is a file, and that it is not too large.

    Raises:
        TableError: There is none, or it is.
    """
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise refused(path, printable(error.strerror or str(error))) from error
    if size > MAX_FILE_BYTES:
        raise refused(path, f"it has {size} bytes, expected at most {MAX_FILE_BYTES}")


class Selection:
    """Which columns of a table are read: the one that names patches, and those that are kept."""

    def __init__(
        self, path: str, names: list[str], index: str | None, kept: Collection[str] | None, left_out: dict[str, str]
    ) -> None:
        """Choose columns.

        Args:
            path: The table, for messages.
            names: Names of its columns; hostile.
            index: The column of names that pandas keeps beside the columns, which names patches if no other does.
            kept: Columns to keep, as far as there are any of these names; None for all.
            left_out: Where columns that cannot be kept are named, with the reason.

        Raises:
            TableError: There are too many columns, none names patches, or two do.
        """
        if len(names) > MAX_COLUMNS:
            raise refused(path, f"it has {len(names)} columns, expected at most {MAX_COLUMNS}")
        self.path, self._kept, self._left_out = path, kept, left_out
        found = next((name for name in ID_COLUMNS if name in names), index)
        if found is None:
            shown = ", ".join(map(printable, names[:8]))
            raise refused(
                path, f"its columns are {shown}, expected one named {' or '.join(ID_COLUMNS)} for the patch name"
            )
        self.id = found
        doubled = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        if self.id in doubled:
            raise refused(path, f"two columns are named {self.id}, expected one for the patch name")
        self.names = [name for name in names if name and name != self.id and (kept is None or name in kept)]
        for name in doubled & set(self.names):
            self.leave_out(name, "two columns have this name")

    def leave_out(self, name: str, reason: str) -> None:
        """Leave a column out, and name it.

        Raises:
            TableError: The caller has asked for this column.
        """
        if self._kept is not None:
            if name not in self._kept:
                return
            raise refused(self.path, f"the column {printable(name)} cannot be read: {reason}")
        self._left_out[name] = reason
        self.names = [other for other in self.names if other != name]
