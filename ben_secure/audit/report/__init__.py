"""Write audit reports: a table for people, JSON and SARIF for machines, HTML for whoever has to be convinced.

The one door to the formats. All say the same of the same findings, and the same findings give the same bytes: no
times, no names of machines. Everything that comes from a file is escaped in each format, whoever reads the result.
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
    printable_key,
    together,
    write_json,
)

__all__ = ["SCHEMA", "Format", "JsonWriter", "finding_to_json", "printable_key", "together", "write"]


class Format(str, Enum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"
    SARIF = "sarif"
    HTML = "html"


def write(reports: Sequence[AuditReport], style: Format, out: TextIO, *, exit_code: int | None = None) -> None:
    """Write the reports on one database or several.

    Args:
        reports: The reports.
        style: How.
        out: Where to; UTF-8, ASCII is enough but for the lines of the table.
        exit_code: Exit code of the command, if it is not that of the verdict (``--fail-on``).
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
