"""Write audit reports: a table for people, JSON and SARIF for machines, HTML for whoever has to be convinced.

The one door to the formats. All say the same of the same findings, and the same findings give the same bytes: no
times, no names of machines. Everything that comes from a file is escaped in each format, whoever reads the result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, TextIO, get_args

from ben_secure.audit.findings import AuditReport
from ben_secure.audit.report.json_report import (
    SCHEMA,
    JsonWriter,
    finding_to_json,
    overall,
    printable_key,
    write_json,
)

__all__ = [
    "FORMATS",
    "SCHEMA",
    "Format",
    "JsonWriter",
    "finding_to_json",
    "overall",
    "printable_key",
    "write",
    "write_json",
]

Format = Literal["table", "json", "sarif", "html"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""The names of the formats."""

_PIPE_WIDTH = 120


def write(reports: Sequence[AuditReport], style: Format, out: TextIO, *, exit_code: int | None = None) -> None:
    """Write the reports on one database or several.

    Args:
        reports: The reports.
        style: One of ``FORMATS``.
        out: Where to; UTF-8, ASCII is enough but for the lines of the table.
        exit_code: Exit code of the command, if it is not that of the verdict (``--fail-on``).
    """
    if style == "table":
        _table(reports, out)
    elif style == "json":
        write_json(reports, out, exit_code=exit_code)
    elif style == "sarif":
        from ben_secure.audit.report.sarif_report import write_sarif

        write_sarif(reports, out, exit_code=exit_code)
    else:
        from ben_secure.audit.report.html_report import write_html

        write_html(reports, out)


def _table(reports: Sequence[AuditReport], out: TextIO) -> None:
    from rich.console import Console

    from ben_secure.audit.report.table_report import write_table

    console = Console(file=out, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    write_table(reports, console)
