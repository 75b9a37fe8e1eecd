"""Judge every record of one database.

Reads raw records through ``PageReader`` and hands each to ``scan_value``; keeps no value, and a bounded number of
findings. A database that cannot be read to its end is never called clean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ben_secure.audit.findings import AuditReport, Finding, Tally
from ben_secure.audit.scan import scan_value
from ben_secure.errors import LimitExceededError, UndecidedError
from ben_secure.footer import FOOTER_BYTES
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.store.pages import PageReader

if TYPE_CHECKING:
    from ben_secure.patches import BigEarthNetPatch

Progress = Callable[[int, int], None]
"""Called after each record with how many were checked and how many there are."""


def audit_database(
    path: str | os.PathLike[str],
    *,
    classes: Iterable[type[BigEarthNetPatch]] = (),
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> AuditReport:
    """Judge every record of a database.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file itself.
        classes: Patch subclasses that the caller declares, as for ``loads``.
        limits: What each value may cost.
        progress: Called after each record.

    Returns:
        The report. Whatever keeps the database from being read to its end is its ``undecided``; what was found
        before that is in it.
    """
    tally = Tally()
    undecided = None
    entries = 0
    try:
        with PageReader(path, max_value_bytes=limits.max_value_bytes + FOOTER_BYTES) as reader:
            entries = len(reader)
            undecided = _audit(reader, tally, tuple(classes), limits, progress)
    except UndecidedError as error:
        undecided = error.message
    return AuditReport(database=os.fsdecode(path), entries=entries, tally=tally, undecided=undecided)


def _add(tally: Tally, finding: Finding | None) -> None:
    """Count one record."""
    tally.checked += 1
    if finding is not None:
        tally.refused += 1
        tally.add(finding)


def _audit(
    reader: PageReader,
    tally: Tally,
    classes: tuple[type[BigEarthNetPatch], ...],
    limits: Limits,
    progress: Progress | None,
) -> str | None:
    """Judge what a reader gives; returns why that is not the whole database, or None."""
    before = reader.facts
    start = None
    while True:
        try:
            for lmdb_key, value in reader.items(start):
                tally.value_bytes += len(value)
                _add(tally, scan_value(lmdb_key, value, classes=classes, limits=limits))
                if progress is not None:
                    progress(tally.checked, before.entries)
            break
        except LimitExceededError as error:  # from the reader: the value is too long to be read
            if error.lmdb_key is None:
                raise
            _add(tally, Finding.from_error(error.lmdb_key, error))
            start = error.lmdb_key + b"\0"  # the least key behind it
    if reader.facts.txnid != before.txnid:
        return "the database was changed while it was checked; check it again when nobody writes"
    if tally.checked != before.entries:  # the reader counts by itself, but not across a value that it refused
        return f"{tally.checked} records were found, {before.entries} were announced; fetch this database again"
    return None if tally.checked else "the database is empty, so nothing was checked"
