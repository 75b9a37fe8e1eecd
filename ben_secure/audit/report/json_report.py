"""Write an audit report for machines as one JSON object. Each database is written as soon as its report is ready.

The output is ASCII, and it is one valid object even if the audit fails. docs/audit-json.md and ``report.schema.json``
document the format.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import TextIO

from ben_secure import __version__
from ben_secure.audit.findings import EXIT_CODES, AuditReport, FileFacts, Finding, Verdict
from ben_secure.audit.rules import Category, Level
from ben_secure.errors import Rule, printable

SCHEMA = 3
"""Number of the JSON format. It rises when a key is renamed, removed or changes its meaning."""


def printable_key(lmdb_key: bytes) -> str:
    """Escape an LMDB key for people. Ordinary names do not change.

    Args:
        lmdb_key: Raw LMDB key (untrusted).

    Returns:
        Printable ASCII. Backslashes are not doubled, so different keys can look the same. The hexadecimal form is
        exact.
    """
    return printable(lmdb_key.decode("utf-8", "backslashreplace"))


def finding_to_json(finding: Finding) -> dict[str, object]:
    """Convert one finding into plain data.

    Args:
        finding: The finding.

    Returns:
        ``lmdb_key`` (escaped, for people), ``lmdb_key_hex`` (exact), ``rule``, ``level``, ``category``, ``message``,
        ``offset``, ``opcode``, ``global``, ``opinion`` and ``position``. Unknown members are None.
    """
    lmdb_key = finding.lmdb_key
    return {
        "lmdb_key": None if lmdb_key is None else printable_key(lmdb_key),
        "lmdb_key_hex": None if lmdb_key is None else lmdb_key.hex(),
        "rule": str(finding.rule),
        "level": str(finding.level),
        "category": str(finding.category),
        "message": finding.message,
        "offset": finding.offset,
        "opcode": finding.opcode,
        "global": finding.global_name,
        "opinion": finding.opinion,
        "position": finding.position,
    }


def overall(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the verdicts on several databases into the worst of them; no verdicts give ``undecided``."""
    distinct = set(verdicts)
    return "refused" if "refused" in distinct else "undecided" if "undecided" in distinct or not distinct else "clean"


def overall_exit_code(exit_codes: Iterable[int]) -> int:
    """Combine exit codes: the first of 130, 1, 2 and 0 that occurs; no exit codes give 2."""
    distinct = set(exit_codes)
    return next((code for code in (130, 1, 2) if code in distinct), 0 if distinct else 2)


def facts(report: AuditReport) -> dict[str, object]:
    """Convert the report on one database into plain data, without its path and findings.

    Args:
        report: The report.

    Returns:
        The members that docs/audit-json.md lists.
    """
    tally = report.tally
    return {
        "findings_left_out": report.findings_left_out,
        "verdict": report.verdict,
        "exit_code": report.exit_code,
        "error": report.undecided,
        **(_NO_FILE if report.file is None else asdict(report.file)),
        "entries": report.entries,
        "checked": report.checked,
        "clean": report.clean,
        "refused": report.refused,
        "skipped": tally.skipped,
        "sampled": report.sampled,
        "interrupted": report.interrupted,
        "value_bytes": report.value_bytes,
        "levels": {str(level): report.count(level) for level in Level},
        "categories": {str(category): count for category, count in report.categories.items()},
        "rules": {str(rule): count for rule, count in sorted(report.rules.items(), key=frequent)},
        "formats": dict(sorted(tally.formats.items())),
        "sizes": {str(bits): tally.sizes[bits] for bits in sorted(tally.sizes)},
        "opinions": dict(sorted(tally.opinions.items())),
    }


_NO_FILE = dict.fromkeys(field.name for field in fields(FileFacts))


def frequent(item: tuple[object, int]) -> tuple[int, str]:
    """Sort key for counts: the most frequent first, then by name."""
    return -item[1], str(item[0])


def ascii_json(value: object, indent: int | None = None) -> str:
    """Write plain data as JSON in printable ASCII.

    Args:
        value: The data.
        indent: Spaces per level, or None for one line.
    """
    # json escapes non-ASCII and control characters, except DEL.
    return json.dumps(value, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


_SUMS = ("checked", "clean", "refused", "skipped", "value_bytes", "findings_left_out")


class JsonWriter:
    """Writes the report on one or more databases. ``end`` completes the JSON object and can be called at any time.

    Args:
        out: Output stream.

    Attributes:
        begun: Whether anything has been written.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._verdicts: list[Verdict] = []
        self._exit_codes: list[int] = []
        self._sums = dict.fromkeys(_SUMS, 0)
        self._levels: Counter[Level] = Counter()
        self._categories: Counter[Category] = Counter()
        self._rules: Counter[Rule] = Counter()
        self.begun = False

    def _begin(self) -> None:
        if not self.begun:
            self._out.write(
                f'{{\n"schema": {SCHEMA},\n"command": "audit",\n"tool_version": "{__version__}",\n"databases": ['
            )
        self.begun = True

    def database(self, report: AuditReport) -> None:
        """Write the report on one database."""
        self._begin()
        members = facts(report)
        findings = ",".join(f"\n {ascii_json(finding_to_json(finding))}" for finding in report.findings)
        self._out.write("," if self._verdicts else "")
        self._out.write(f'\n{{"database": {ascii_json(report.database)},\n"findings": [{findings}\n]')
        self._out.write("".join(f',\n"{name}": {ascii_json(value)}' for name, value in members.items()) + "}")
        for name in _SUMS:
            self._sums[name] += int(str(members[name]))
        self._levels.update({level: report.count(level) for level in Level})
        self._categories.update(report.categories)
        self._rules.update(report.rules)
        self._verdicts.append(report.verdict)
        self._exit_codes.append(report.exit_code)

    def end(self, *, exit_code: int | None = None, error: str | None = None) -> None:
        """Write the remaining members, so that the output is one valid object.

        Args:
            exit_code: Exit code of the command, if it differs from that of the reports.
            error: Why the audit ended early, or None.
        """
        self._begin()
        if error is not None:
            self._verdicts.append("undecided")
            self._exit_codes.append(EXIT_CODES["undecided"])
        document = {
            "verdict": overall(self._verdicts),
            "exit_code": overall_exit_code(self._exit_codes) if exit_code is None else exit_code,
            "error": None if error is None else printable(error, 1000),
            **self._sums,
            "levels": {str(level): self._levels[level] for level in Level},
            "categories": {
                str(category): self._categories[category] for category in Category if self._categories[category]
            },
            "rules": {str(rule): count for rule, count in sorted(self._rules.items(), key=frequent)},
        }
        self._out.write(
            "\n]" + "".join(f',\n"{name}": {ascii_json(value)}' for name, value in document.items()) + "\n}\n"
        )


def write_json(reports: Sequence[AuditReport], out: TextIO, *, exit_code: int | None = None) -> None:
    """Write finished reports, byte for byte as ``JsonWriter`` writes each one when it is ready.

    Args:
        reports: The reports.
        out: Output stream.
        exit_code: Exit code of the command, if it differs from that of the reports.
    """
    writer = JsonWriter(out)
    for report in reports:
        writer.database(report)
    writer.end(exit_code=exit_code)
