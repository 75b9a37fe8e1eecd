"""Metadata tables for ``encode``: all rows by patch name, with the columns that can be metadata of a patch."""

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
        tables: Their paths; no two may share a patch.
        columns: Names of the columns that become metadata; None for all.
        left_out: Where columns that cannot be metadata are named, with the reason.

    Returns:
        The rows by patch name, with labels and ``s1_name`` if there are any; None if there are no tables.

    Raises:
        EncodeError: A table cannot be used, two have a row for one patch, or a column that is named is not there or
            cannot be metadata.
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
                "one before it; keep one of them"
            )
        rows.update(more)
    _check_names(rows, columns, left_out)
    return rows


def _check_names(rows: Rows, columns: Collection[str] | None, left_out: dict[str, str]) -> None:
    """Check that the columns that are asked for are there; leave out those whose names a patch uses itself."""
    names = {name: None for row in rows.values() for name in row}
    for name in columns or ():
        if name not in names:
            raise EncodeError(
                f"the metadata tables have no column {printable(name)}, which is asked for; check its name"
            )
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
