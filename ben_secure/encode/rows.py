"""Read metadata tables for ``encode``: all rows by patch name, with the columns that can be metadata of a patch."""

from __future__ import annotations

import os
from collections.abc import Collection

from ben_secure.errors import EncodeError, printable
from ben_secure.labels.tables import LABEL_COLUMNS, S1_NAME, Rows, read_table
from ben_secure.metadata import check_name
from ben_secure.patches import BigEarthNet_S1_S2_Patch
from ben_secure.patches.parts import names_used_by

PathLike = str | os.PathLike[str]


def read_rows(tables: list[PathLike], columns: Collection[str] | None, left_out: dict[str, str]) -> Rows | None:
    """Read all rows of the tables.

    Args:
        tables: Paths of the tables. Each patch must have a row in at most one of them.
        columns: Names of the columns that become metadata, or None for all.
        left_out: Filled with the columns that cannot be metadata, and the reasons.

    Returns:
        The rows by patch name, with labels and ``s1_name`` if the tables have them, or None without tables.

    Raises:
        EncodeError: A table cannot be used, two tables have a row for the same patch, or a requested column is missing
            or cannot be metadata.
        MissingExtraError: A table is Parquet and pyarrow is not installed.
    """
    if not tables:
        return None
    wanted = None if columns is None else {*columns, *LABEL_COLUMNS, S1_NAME}
    rows: Rows = {}
    for table in tables:
        more = read_table(table, wanted, left_out)
        if doubled := next((name for name in more if name in rows), None):
            raise EncodeError(
                f"the table {printable(os.fspath(table), 400)} has a row for patch {printable(doubled)}, and so has "
                "an earlier table; keep one of them"
            )
        rows.update(more)
    _check_names(rows, columns, left_out)
    return rows


def _check_names(rows: Rows, columns: Collection[str] | None, left_out: dict[str, str]) -> None:
    """Check that the requested columns exist, and leave out columns whose names a patch class already uses."""
    names = {name: None for row in rows.values() for name in row}
    for name in columns or ():
        if name not in names:
            raise EncodeError(f"the requested column {printable(name)} is not in the metadata tables; check its name")
    taken = names_used_by(BigEarthNet_S1_S2_Patch)
    for name in names:
        try:
            check_name(name, taken)
        except ValueError as error:
            if columns is not None and name in columns:
                raise EncodeError(f"cannot use a column of the metadata tables: {error}") from error
            left_out[name] = str(error)
            for row in rows.values():
                row.pop(name, None)
