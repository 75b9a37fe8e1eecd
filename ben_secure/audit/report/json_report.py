"""Write an audit report for machines: one JSON object, each database written as soon as its report is there.

Never writes anything but ASCII, and ends as one valid object whatever happens in between. The form is documented in
docs/audit-json.md and in ``report.schema.json``.
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
"""Number of the JSON form; raised when a key is renamed, removed or changes its meaning."""


def printable_key(lmdb_key: bytes) -> str:
    """Escape an LMDB key for people; a plain name stays as it is.

    Args:
        lmdb_key: Raw key; hostile.

    Returns:
        Printable ASCII. Different keys can look the same (a backslash is not doubled); the hexadecimal form is exact.
    """
    return printable(lmdb_key.decode("utf-8", "backslashreplace"))


def finding_to_json(finding: Finding) -> dict[str, object]:
    """Write one finding as plain data.

    Args:
        finding: The finding.

    Returns:
        ``lmdb_key`` (escaped, to be read), ``lmdb_key_hex`` (exact), ``rule``, ``level``, ``category``, ``message``,
        ``offset``, ``opcode``, ``global``, ``opinion`` and ``position``; None for what is not known.
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
    """Put the verdicts on several databases together: the worst of them, and nothing is undecided."""
    found = set(verdicts)
    return "refused" if "refused" in found else "undecided" if "undecided" in found or not found else "clean"


def together(exit_codes: Iterable[int]) -> int:
    """Put exit codes together: 130 if an audit was interrupted, else 1, 2 or 0; none at all is 2."""
    found = set(exit_codes)
    return next((code for code in (130, 1, 2) if code in found), 0 if found else 2)


def facts(report: AuditReport) -> dict[str, object]:
    """Write everything about one database but its findings as plain data.

    Args:
        report: The report.

    Returns:
        As docs/audit-json.md lists.
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
    """Sort what is counted by this: the most frequent first, then by name."""
    return -item[1], str(item[0])


def ascii_json(value: object, indent: int | None = None) -> str:
    """Write plain data as JSON of printable ASCII.

    Args:
        value: The data.
        indent: Spaces a level; None for one line.
    """
    # json escapes all but ASCII; DEL is the one ASCII control character that it lets through.
    return json.dumps(value, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


_SUMS = ("checked", "clean", "refused", "skipped", "value_bytes", "findings_left_out")


class JsonWriter:
    """Writes one report on one database or several; ``end`` makes it whole, at any time.

    Args:
        out: Where to.

    Attributes:
        begun: Whether anything was written.
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
        found = facts(report)
        findings = ",".join(f"\n {ascii_json(finding_to_json(finding))}" for finding in report.findings)
        self._out.write("," if self._verdicts else "")
        self._out.write(f'\n{{"database": {ascii_json(report.database)},\n"findings": [{findings}\n]')
        self._out.write("".join(f',\n"{name}": {ascii_json(value)}' for name, value in found.items()) + "}")
        for name in _SUMS:
            self._sums[name] += int(str(found[name]))
        self._levels.update({level: report.count(level) for level in Level})
        self._categories.update(report.categories)
        self._rules.update(report.rules)
        self._verdicts.append(report.verdict)
        self._exit_codes.append(report.exit_code)

    def end(self, *, exit_code: int | None = None, error: str | None = None) -> None:
        """Write what is left, so that the whole is one valid object.

        Args:
            exit_code: Exit code of the command, if it is not what follows from those of the reports.
            error: Why the audit ended early, or None.
        """
        self._begin()
        if error is not None:
            self._verdicts.append("undecided")
            self._exit_codes.append(EXIT_CODES["undecided"])
        document = {
            "verdict": overall(self._verdicts),
            "exit_code": together(self._exit_codes) if exit_code is None else exit_code,
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
    """Write finished reports, with the same bytes as ``JsonWriter`` would while they are made.

    Args:
        reports: The reports.
        out: Where to.
        exit_code: Exit code of the command, if it is not what follows from those of the reports.
    """
    writer = JsonWriter(out)
    for report in reports:
        writer.database(report)
    writer.end(exit_code=exit_code)
