"""Write an audit report for people (a table) and for machines (JSON).

Everything that comes from a file is escaped here, whoever reads the result: LMDB keys and database paths can hold
terminal escapes, line breaks, right-to-left marks and markup of the table library.
"""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.errors import printable

SCHEMA = 1
"""Number of the JSON form; raised when a key is renamed, removed or changes its meaning."""

_ROWS = 100
_HEADINGS = ("LMDB key", "rule", "byte", "asks for / found")
_STYLES = {"clean": "bold green", "refused": "bold red", "undecided": "bold yellow"}


def to_json(report: AuditReport) -> dict[str, object]:
    """Write a report as plain data for ``json.dumps``.

    Args:
        report: The report.

    Returns:
        ``schema``, ``command`` ("audit"), ``database``, ``verdict`` ("clean", "refused" or "undecided"), ``exit_code``,
        ``error`` (why not every record was judged, or None), ``checked``, ``clean``, ``refused``, ``value_bytes``,
        ``rules`` (refused records by rule), ``findings`` and ``findings_left_out`` (refused records beyond those).
        A finding has ``lmdb_key`` (escaped, to be read), ``lmdb_key_hex`` (exact), ``rule``, ``message``, ``offset``,
        ``opcode`` and ``global``.
    """
    return {
        "schema": SCHEMA,
        "command": "audit",
        "database": report.database,
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "error": report.undecided,
        "checked": report.checked,
        "clean": report.clean,
        "refused": report.refused,
        "value_bytes": report.value_bytes,
        "rules": {str(rule): count for rule, count in report.rules.items()},
        "findings": [finding_to_json(finding) for finding in report.findings],
        "findings_left_out": report.findings_left_out,
    }


def finding_to_json(finding: Finding) -> dict[str, object]:
    """Write one finding as plain data; the keys are listed in ``to_json``."""
    return {
        "lmdb_key": printable_key(finding.lmdb_key),
        "lmdb_key_hex": finding.lmdb_key.hex(),
        "rule": str(finding.rule),
        "message": finding.message,
        "offset": finding.offset,
        "opcode": finding.opcode,
        "global": finding.global_name,
    }


def printable_key(lmdb_key: bytes) -> str:
    """Escape an LMDB key for people; a plain name stays as it is.

    Args:
        lmdb_key: Raw key; hostile.

    Returns:
        Printable ASCII. Different keys can look the same (a backslash is not doubled); the hexadecimal form is exact.
    """
    return printable(lmdb_key.decode("utf-8", "backslashreplace"))


def to_table(report: AuditReport, console: Console) -> None:
    """Print a report: the findings, the counts, the verdict in the last line.

    Args:
        report: The report.
        console: Where to; must not interpret markup (``Console(markup=False, emoji=False, highlight=False)``).
    """
    if report.findings:
        console.print(_table(report.findings[:_ROWS], console.width))
        console.print()
    more = report.refused - len(report.findings[:_ROWS])
    if more:
        console.print(f"and {more:,} more refused; --json lists up to {len(report.findings):,}", soft_wrap=True)
    if report.checked:
        counts = f"{report.checked:,} values checked ({report.value_bytes / 1e6:,.1f} MB)"
        console.print(f"{counts}: {report.clean:,} clean, {report.refused:,} refused", soft_wrap=True)
    if report.refused:
        rules = ", ".join(f"{rule} {count:,}" for rule, count in report.rules.items())
        console.print(f"refused by rule: {rules}", soft_wrap=True)
    if report.refused and report.undecided is not None:
        console.print(f"not finished: {report.undecided}", soft_wrap=True)
    console.print(_verdict(report), style=_STYLES[report.verdict], soft_wrap=True)


def _table(findings: tuple[Finding, ...], width: int) -> Table:
    """One row a finding: LMDB key, rule, byte, and the global it asks for or else the message."""
    rows = [
        (
            printable_key(finding.lmdb_key),
            str(finding.rule),
            "" if finding.offset is None else f"{finding.offset:,}",
            finding.global_name or _brief(finding),
        )
        for finding in findings
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    key, rule, byte = (max(len(row[column]) for row in [_HEADINGS, *rows]) for column in range(3))
    # A name that is whole can be copied into the next command.
    key = min(key, width * 2 // 5)
    rest = width - key - rule - byte - 7  # two between columns, and one that older rich puts at the end
    # If there is no room at all, rich may decide.
    widths = (key, rule, byte, rest) if rest >= 14 else (None, None, None, None)
    for heading, column_width in zip(_HEADINGS, widths, strict=True):
        right = heading == "byte"
        table.add_column(heading, overflow="fold", width=column_width, justify="right" if right else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _brief(finding: Finding) -> str:
    """The message without the place, which has columns of its own, and without what to do, which inspect shows."""
    return finding.message.partition(";")[0].removesuffix(f" ({finding.opcode} at byte {finding.offset})")


def _verdict(report: AuditReport) -> str:
    database = printable(report.database, 400)
    if report.verdict == "clean":
        return f"CLEAN: all {report.checked:,} values in {database} are patches and nothing else"
    if report.verdict == "refused":
        return f"REFUSED: {report.refused:,} of {report.checked:,} values in {database}; do not load it with pickle"
    return f"UNDECIDED: {database}: {report.undecided or 'nothing was checked'}"
