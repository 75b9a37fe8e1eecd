"""Write audit reports: a table for terminals, JSON and SARIF for machines, HTML to show to others.

All formats report the same findings. The same findings give the same bytes, because reports contain neither times nor
host names. All text from a database is escaped in every format.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TextIO

from ben_secure.audit.findings import AuditReport
from ben_secure.audit.report.json_report import (
    SCHEMA,
    JsonWriter,
    finding_to_json,
    overall_exit_code,
    printable_key,
    write_json,
)

__all__ = ["SCHEMA", "Format", "JsonWriter", "finding_to_json", "overall_exit_code", "printable_key", "write"]


class Format(str, Enum):
    """Format of a report."""

    TABLE = "table"
    JSON = "json"
    SARIF = "sarif"
    HTML = "html"


def write(reports: Sequence[AuditReport], style: Format, out: TextIO, *, exit_code: int | None = None) -> None:
    """Write the reports on one database or several.

    Args:
        reports: The reports.
        style: Format.
        out: Output stream; UTF-8. Only the table contains characters outside ASCII.
        exit_code: Exit code of the command, if it differs from the exit code of the verdict (``--fail-on``).
    """
    if style == Format.TABLE:
        from ben_secure.audit.report.table_report import plain_console, write_table

        write_table(reports, plain_console(out))
    elif style == Format.JSON:
        write_json(reports, out, exit_code=exit_code)
    elif style == Format.SARIF:
        from ben_secure.audit.report.sarif_report import write_sarif

        write_sarif(reports, out, exit_code=exit_code)
    else:
        from ben_secure.audit.report.html_report import write_html

        write_html(reports, out)
