"""Select patches by name, by a file of names, or by a metadata table. No database is read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import Any, TypeAlias

from ben_secure.errors import printable
from ben_secure.labels.tables import Rows, is_table, read_names, read_table

Path: TypeAlias = str | os.PathLike[str]

SPLIT = "split"
"""Column with the split of a patch: train, validation or test in ``metadata.parquet`` of BigEarthNet v2."""

FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
"""Columns with yes or no, by which patches can be excluded."""

_YES_AND_NO = {"True": True, "true": True, "1": True, "False": False, "false": False, "0": False}


def choose(
    known: Collection[str],
    where: str,
    split: Path | Iterable[str] | None,
    exclude: Path | Iterable[str] | None,
    rows: Rows | None,
) -> list[str]:
    """Select patches.

    Args:
        known: Names of all patches of the databases.
        where: The databases, for messages.
        split: Names, or the path of a file of names; with a table, a str is a value of its column ``split``. None for
            all.
        exclude: Names to leave out, or ``FLAGS`` of the table; or the path of a file of names.
        rows: The result of ``read_rows``, or None without a table.

    Returns:
        The names, in the order of the given names, otherwise in the order of ``known``.

    Raises:
        ValueError: A name is unknown or occurs twice, arguments contradict each other, or a file is ambiguous.
        TypeError: A name is not a str.
        TableError: A file cannot be used.
    """
    items: list[Any] = [exclude] if isinstance(exclude, str | os.PathLike) else list(exclude or ())
    flags = [item for item in FLAGS if item in items]
    by_value = rows is not None and isinstance(split, str)
    if rows is None:
        if flags:
            raise ValueError(f"exclude={flags[0]!r} is a column of a metadata table; name the table with table=")
        rows = {}
    if by_value:
        wanted = _of_split(rows, str(split))
    else:
        wanted = list(known) if split is None else _listed(split, SPLIT)
    excluded = _excluded(exclude, [item for item in items if item not in flags], known, where)
    for flag in flags:
        excluded.update(_flagged(rows, flag, wanted))
    chosen = [name for name in wanted if name not in excluded]
    _check_known(chosen, known, where, header=not by_value and isinstance(split, str | os.PathLike))
    if by_value:
        among = set(chosen)
        return [name for name in known if name in among]
    return chosen


def read_rows(table: Path | Iterable[Path], labels: bool) -> Rows:
    """Read the relevant columns of a metadata table.

    Args:
        table: Its path, or the paths of several without common patches.
        labels: Whether to read labels.

    Returns:
        The rows by patch name.

    Raises:
        ValueError: Two tables share a patch.
        TableError: A table cannot be used.
    """
    columns = [SPLIT, *FLAGS, *(["labels"] if labels else [])]
    rows: Rows = {}
    for path in [table] if isinstance(table, str | os.PathLike) else table:
        more = read_table(path, columns)
        if both := next((name for name in more if name in rows), None):
            raise ValueError(f"the patch {printable(both)} is in two of the tables; pass tables without common patches")
        rows.update(more)
    return rows


def _of_split(rows: Rows, value: str) -> list[str]:
    names = [name for name, row in rows.items() if row.get(SPLIT) == value]
    if not names:
        raise ValueError(f"the table does not have the split {printable(value)!r}; its splits are {_values(rows)}")
    return names


def _values(rows: Rows) -> str:
    values = {row.get(SPLIT): None for row in rows.values()}
    return ", ".join(printable(value) for value in list(values)[:8]) or "no rows"


def _listed(source: Path | Iterable[str], argument: str) -> list[str]:
    """The names in a list or in a file."""
    if not isinstance(source, str | os.PathLike):
        names = list(source)
        if not all(isinstance(name, str) for name in names):
            raise TypeError(f"{argument} must hold names of patches as str, or be the path of a file of names")
        return names
    if isinstance(source, str) and not os.path.exists(source) and not os.path.splitext(source)[1]:
        raise ValueError(f"{argument}={printable(source)!r} is not a file; to select by a metadata table, pass table=")
    if not is_table(source, SPLIT):
        return read_names(source)
    rows = read_table(source, [SPLIT])
    if len({row.get(SPLIT) for row in rows.values()}) > 1:
        raise ValueError(
            f"{printable(os.fspath(source), 400)} has patches of several splits ({_values(rows)}); pass it as table= "
            "and one of them as split="
        )
    return list(rows)


def _excluded(exclude: Path | Iterable[str] | None, items: list[Any], known: Collection[str], where: str) -> set[str]:
    """Names to leave out. A file may name patches that are not here. In a list of the caller, that is an error."""
    if isinstance(exclude, str | os.PathLike):
        return set(_listed(exclude, "exclude")) if items else set()
    names = _listed(items, "exclude")
    absent = next((name for name in names if name not in known), None)
    if absent is not None:
        raise ValueError(f"exclude names the patch {printable(absent)}, which is not in {where}")
    return set(names)


def _flagged(rows: Rows, flag: str, names: Iterable[str]) -> list[str]:
    """The patches that have yes in this column of the table."""
    flagged = []
    for name in names:
        cell = rows.get(name, {}).get(flag)
        if (answer := _YES_AND_NO.get(str(cell))) is None:
            problem = f"has {printable(cell)!r} in {flag}" if name in rows else "has no row"
            raise ValueError(f"the table {problem} for the patch {printable(name)}, expected yes or no")
        if answer:
            flagged.append(name)
    return flagged


def _check_known(names: list[str], known: Collection[str], where: str, header: bool) -> None:
    """Check that at least one patch is named, each once and each in a database."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the split names the patch {printable(name)} twice; name each once")
        seen.add(name)
    missing = [name for name in names if name not in known]
    if missing:
        hint = "; if this is a header, name its column patch_id" if header and missing == names[:1] else ""
        raise ValueError(
            f"{len(missing)} of the {len(names)} patches of the split are not in {where}, for example "
            f"{printable(missing[0])}{hint}; add the database that has them, or remove them from the split"
        )
    if not names:
        raise ValueError(f"split= and exclude= leave no patch of {where}; change one of them")
