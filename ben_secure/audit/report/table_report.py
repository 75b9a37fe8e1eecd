"""Write an audit report for people at a terminal: the findings, the counts, and the verdict in the last line.

All text from a database is escaped and the console interprets no markup, because LMDB keys and database paths can
contain terminal escapes, line breaks, right-to-left marks and markup of the table library.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ben_secure import __version__
from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.report.json_report import frequent, overall, printable_key
from ben_secure.audit.rules import DATABASE_RULES, RULES, Category, Level
from ben_secure.errors import Rule, counted, printable

_ROWS = 100
_MIN_TABLE_WIDTH = 80  # a narrower terminal gets a list
_PIPE_WIDTH = 120
_HEADINGS = ("level", "LMDB key", "rule", "byte", "asks for / found")
_STYLES = {"clean": "bold green", "refused": "bold red", "undecided": "bold yellow"}
LEVEL_STYLES = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.NOTE: "cyan"}
_PLURALS = {Level.ERROR: "errors", Level.WARNING: "warnings", Level.NOTE: "notes"}
_DATABASE = "(database)"


def plain_console(out: TextIO) -> Console:
    """Make a console that interprets no markup, emoji codes or links.

    Args:
        out: Output stream. If it is not a terminal and ``COLUMNS`` is not set, lines have 120 characters.
    """
    console = Console(file=out, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _PIPE_WIDTH
    return console


def to_table(report: AuditReport, console: Console) -> None:
    """Print the report on one database.

    Args:
        report: The report.
        console: Output. It must not interpret markup (``plain_console``).
    """
    if report.findings and console.width < _MIN_TABLE_WIDTH:
        for finding in report.findings[:_ROWS]:
            _print_lines(finding, console)
    elif report.findings:
        console.print(_table(report.findings[:_ROWS], console.width))
        console.print()
    more = sum(report.rules.values()) - len(report.findings[:_ROWS])
    if more:
        listed = f"--format json lists up to {len(report.findings):,}"
        console.print(f"and {more:,} more finding{'s' if more > 1 else ''}; {listed}", soft_wrap=True)
    for line in _counts(report):
        console.print(line, soft_wrap=True)
    if report.verdict == "refused" and report.undecided is not None:  # the line of an undecided verdict has the reason
        console.print(f"not finished: {printable(report.undecided, 1000)}", soft_wrap=True)
    if report.verdict == "clean" and report.exit_code:
        console.print(f"exit code 1, because a finding has at least level {report.fail_on} (--fail-on)")
    console.print(_verdict(report), style=_STYLES[report.verdict], soft_wrap=True)


def write_table(reports: Sequence[AuditReport], console: Console) -> None:
    """Print the reports on several databases, and the verdict on all if there is more than one.

    Args:
        reports: The reports.
        console: As for ``to_table``.
    """
    for index, report in enumerate(reports):
        if index:
            console.print()
        to_table(report, console)
    if len(reports) > 1:
        verdict = overall(report.verdict for report in reports)
        counts = [(name, sum(report.verdict == name for report in reports)) for name in _STYLES]
        listed = ", ".join(f"{count:,} {name}" for name, count in counts if count)
        console.print()
        console.print(f"{headline(reports)}: {counted(len(reports), 'database')}, {listed}", style=_STYLES[verdict])


def headline(reports: Sequence[AuditReport]) -> str:
    """Write the verdict in one word, followed by the warnings if it is ``CLEAN``."""
    verdict = overall(report.verdict for report in reports)
    warnings: Counter[Rule] = Counter()
    for report in reports:
        warnings.update({rule: count for rule, count in report.rules.items() if RULES[rule].level is Level.WARNING})
    if verdict != "clean" or not warnings:
        return verdict.upper()
    titles = ", ".join(text.title for rule, text in RULES.items() if rule in warnings)
    return f"CLEAN, with {plural(Level.WARNING, warnings.total())} ({titles})"


def plural(level: Level, count: int) -> str:
    """Format a number of findings of a level, such as ``2 warnings``."""
    return f"{count:,} {level if count == 1 else _PLURALS[level]}"


def counts_of(report: AuditReport) -> str:
    """Write in one line how many values were judged, clean, refused and skipped."""
    counts = f"{counted(report.checked, 'value')} checked ({report.value_bytes / 1e6:,.1f} MB)"
    skipped = f", {report.tally.skipped:,} skipped (a verified manifest lists them)" if report.tally.skipped else ""
    return f"{counts}: {report.clean:,} clean, {report.refused:,} refused{skipped}"


def opinions_of(report: AuditReport) -> str:
    """Write in one line how many programs got which opinion. Empty if fickling was not asked."""
    opinions = report.tally.opinions
    if not opinions:
        return ""
    words = (("as honest", "as in honest patches"), ("more", "more than in honest patches"), ("none", "no opinion"))
    listed = ", ".join(f"{opinions[name]:,} {text}" for name, text in words if opinions[name])
    programs = opinions.total()
    return f"second opinion of fickling on {programs:,} distinct program{'s' if programs > 1 else ''}: {listed}"


def file_of(report: AuditReport) -> str:
    """Write in one line which file was judged by which version. Empty if the file could not be opened."""
    file = report.file
    if file is None:
        return ""
    text = f"data file: {file.file_bytes:,} bytes, {counted(report.entries, 'record')}, "
    text += f"transaction {file.transaction:,}, identity {file.identity}"
    digest = "" if file.sha256 is None else f", SHA-256 {file.sha256}"
    return f"{text}{digest}; ben-secure {__version__}"


def _counts(report: AuditReport) -> list[str]:
    lines = [counts_of(report)] if report.checked or report.tally.skipped else []
    if report.sampled:
        lines.append(f"sampled: {report.checked:,} of {report.entries:,} records were judged")
    if report.rules:
        levels = ", ".join(plural(level, report.count(level)) for level in Level if report.count(level))
        rules = ", ".join(f"{rule} {count:,}" for rule, count in sorted(report.rules.items(), key=frequent))
        lines.append(f"findings: {levels} ({rules})")
    return [*lines, *filter(None, (opinions_of(report), file_of(report)))]


def _print_lines(finding: Finding, console: Console) -> None:
    """Print one finding as a few lines of text, for terminals that are too narrow for a table."""
    byte = "" if finding.offset is None else f" at byte {finding.offset:,}"
    console.print(Text(f"{finding.level} {finding.rule}{byte}", LEVEL_STYLES[finding.level]))
    console.print(Text(_DATABASE if finding.lmdb_key is None else printable_key(finding.lmdb_key)), overflow="fold")
    for text in filter(None, (finding.global_name or _brief(finding), finding.opinion)):
        console.print(Text(text), overflow="fold")
    console.print()


def _table(findings: tuple[Finding, ...], width: int) -> Table:
    """Make a table with one row per finding. The last column has the global if there is one, otherwise the message."""
    rows = [
        (
            str(finding.level),
            _DATABASE if finding.lmdb_key is None else printable_key(finding.lmdb_key),
            str(finding.rule),
            "" if finding.offset is None else f"{finding.offset:,}",
            "\n".join([finding.global_name or _brief(finding), *([finding.opinion] if finding.opinion else [])]),
        )
        for finding in findings
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    level, key, rule, byte = (max(len(row[column]) for row in [_HEADINGS, *rows]) for column in range(4))
    # Wide enough for most names, because a name that is not wrapped can be copied into the next command.
    key = min(key, width * 2 // 5)
    rest = width - level - key - rule - byte - 9  # two spaces between columns, and one that older rich adds at the end
    widths = (level, key, rule, byte, max(rest, 14))
    for heading, column_width in zip(_HEADINGS, widths, strict=True):
        right = heading == "byte"
        table.add_column(heading, overflow="fold", width=column_width, justify="right" if right else "left")
    for finding, row in zip(findings, rows, strict=True):
        table.add_row(Text(row[0], LEVEL_STYLES[finding.level]), *row[1:])
    return table


def _brief(finding: Finding) -> str:
    """Shorten the message: the position has its own columns, and ``inspect`` shows what to do."""
    return finding.message.partition(";")[0].removesuffix(f" ({finding.opcode} at byte {finding.offset})")


def refusal_of(report: AuditReport) -> str:
    """Write how many values of a database are refused, their categories, and what to do."""
    whole = [rule for rule in RULES if rule in DATABASE_RULES and rule in report.rules]
    values = Counter(report.errors)
    for rule in whole:
        values[RULES[rule].category] -= report.rules[rule]
    titles = [f"{RULES[rule].title}{f' ({report.rules[rule]:,})' * (report.rules[rule] > 1)}" for rule in whole]
    database = printable(report.database, 400)
    if report.refused:
        listed = ", ".join(category.counted(values[category]) for category in Category if values[category] > 0)
        values_refused = f"{report.refused:,} of {counted(report.checked, 'value')} in {database}: {listed}"
        refused = "; ".join([values_refused, *titles])
    else:
        listed = f" ({', '.join(titles)})" if titles else ""
        refused = f"{database} itself{listed}, {_none_refused(report)}"
    return f"{refused}; {next(iter(report.errors)).advice}"


def _none_refused(report: AuditReport) -> str:
    """Write how many values were judged if none was refused."""
    if report.undecided is None:
        return f"none of its {counted(report.checked, 'value')}"
    return f"none of the {counted(report.checked, 'value')} judged" if report.checked else "its values were not judged"


def _verdict(report: AuditReport) -> str:
    if report.verdict == "refused":
        return f"REFUSED: {refusal_of(report)}"
    database = printable(report.database, 400)
    if report.verdict == "clean":
        skipped = report.tally.skipped
        count = report.checked + skipped
        values = f"{'a sample of ' if report.sampled else 'all ' if count > 1 else ''}{counted(count, 'value')}"
        trusted = f" ({skipped:,} because a verified manifest lists them)" if skipped else ""
        kind = "are patches" if count > 1 else "is a patch"
        return f"{headline([report])}: {values} in {database} {kind} and nothing else{trusted}"
    return f"UNDECIDED: {database}: {printable(report.undecided or 'nothing was checked', 1000)}"
