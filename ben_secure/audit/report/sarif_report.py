"""Write an audit report as SARIF 2.1.0 (OASIS standard, 27 March 2020), for code scanning and security dashboards.

Stays within what GitHub takes: one run, at most 5,000 results (what is left over of a rule is one result that counts
the rest), 10 tags a rule, some megabytes in all. Text from a file is escaped twice: it is printable ASCII, and cannot
make a link or a placeholder of SARIF's messages.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TextIO
from urllib.parse import quote

from ben_secure import __version__
from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.report.json_report import ascii_json, facts, overall, printable_key, together
from ben_secure.audit.rules import RULES, Category
from ben_secure.errors import Rule, printable
from ben_secure.pages.data_file import data_file_path

_SCHEMA_URI = "https://json.schemastore.org/sarif-2.1.0.json"
_MAX_RESULTS = 5_000
"""As many are shown by GitHub ("SARIF support for code scanning"); it takes 25,000 a run and a file of 10 MB zipped."""
_MAX_ARTIFACTS = 1_000
_SHOWN_CHARACTERS = 600
_INDEX = {rule: place for place, rule in enumerate(RULES)}
_SEVERITY: Mapping[Category, str] = MappingProxyType(
    {
        Category.CODE: "9.5",
        Category.EXHAUST: "8.0",
        Category.AUTHENTICITY: "8.5",
        Category.DAMAGE: "5.0",
        Category.NO_PATCH: "4.0",
        Category.EXPOSED: "6.0",
        Category.ODD: "2.0",
    }
)
"""For GitHub: critical above 9.0, high from 7.0, medium from 4.0."""
_UNIT = "\x1f"


def to_sarif(reports: Sequence[AuditReport], *, exit_code: int | None = None) -> dict[str, object]:
    """Write reports as one SARIF log.

    Args:
        reports: The reports.
        exit_code: Exit code of the command, if it is not what follows from those of the reports.

    Returns:
        Plain data for ``json.dumps``: one run, in which each database is an artifact, each rule a reporting descriptor,
        each finding a result. The offset within the value is ``properties.valueByteOffset`` (a byte region of SARIF
        would count from the beginning of the data file).
    """
    verdict = overall(report.verdict for report in reports)
    run: dict[str, object] = {
        "tool": {
            "driver": {
                "name": "ben-secure",
                "semanticVersion": __version__,
                "rules": [_descriptor(rule) for rule in RULES],
            }
        },
        "invocations": [
            {
                "executionSuccessful": verdict != "undecided" and all(report.undecided is None for report in reports),
                "exitCode": together(report.exit_code for report in reports) if exit_code is None else exit_code,
                "toolExecutionNotifications": [
                    {"level": "error", "message": _message(report.undecided), "locations": [_location(report, None)]}
                    for report in reports
                    if report.undecided is not None
                ],
            }
        ],
        "artifacts": [_artifact(report) for report in reports[:_MAX_ARTIFACTS]],
        "results": _results(reports),
        "properties": {"verdict": verdict},
    }
    return {"$schema": _SCHEMA_URI, "version": "2.1.0", "runs": [run]}


def write_sarif(reports: Sequence[AuditReport], out: TextIO, *, exit_code: int | None = None) -> None:
    """Write reports as one SARIF log; as ``to_sarif``.

    Args:
        reports: The reports.
        out: Where to.
        exit_code: Exit code of the command, if it is not what follows from those of the reports.
    """
    out.write(ascii_json(to_sarif(reports, exit_code=exit_code), 1) + "\n")


def _descriptor(rule: Rule) -> dict[str, object]:
    text = RULES[rule]
    return {
        "id": str(rule),
        "name": str(rule).title().replace("-", ""),
        "shortDescription": {"text": text.title},
        "fullDescription": {"text": text.help},
        "help": {"text": text.help},
        "defaultConfiguration": {"level": str(text.level)},
        "properties": {
            "tags": ["security", "pickle", str(text.category)],
            "security-severity": _SEVERITY[text.category],
        },
    }


def _artifact(report: AuditReport) -> dict[str, object]:
    found = {name: value for name, value in facts(report).items() if value is not None}
    artifact: dict[str, object] = {
        "location": {"uri": _uri(report.database)},
        "roles": ["analysisTarget"],
        "properties": found,
    }
    if report.file is not None:
        artifact["length"] = report.file.file_bytes
        artifact |= {"hashes": {"sha-256": report.file.sha256}} if report.file.sha256 is not None else {}
    return artifact


def _results(reports: Sequence[AuditReport]) -> list[dict[str, object]]:
    """All findings, or as many of each rule and database as fit, and one result that counts the rest of them."""
    groups: dict[tuple[int, Rule], list[Finding]] = defaultdict(list)
    counts: Counter[tuple[int, Rule]] = Counter()
    for place, report in enumerate(reports):
        for rule, count in report.tally.rules.items():
            counts[place, rule] = count
        for finding in report.findings:
            groups[place, finding.rule].append(finding)
    if len(counts) > _MAX_RESULTS:  # hundreds of databases with every rule: the rules alone
        sums: Counter[Rule] = Counter()
        for (_, rule), count in counts.items():
            sums[rule] += count
        return [_rest(reports[0], rule, sums[rule]) for rule in RULES if sums[rule]]
    shown = _share(counts, {group: len(findings) for group, findings in groups.items()})
    results = []
    for place, report in enumerate(reports):
        taken: Counter[Rule] = Counter()
        for finding in report.findings:
            if taken[finding.rule] < shown[place, finding.rule]:
                taken[finding.rule] += 1
                results.append(_result(report, finding))
        for rule in RULES:
            if taken[rule] < counts[place, rule]:
                results.append(_rest(report, rule, counts[place, rule] - taken[rule]))
    return results


def _share(counts: Counter[tuple[int, Rule]], kept: dict[tuple[int, Rule], int]) -> dict[tuple[int, Rule], int]:
    """How many findings of each group are listed, so that these and the results that count the rest fit."""
    room = _MAX_RESULTS
    shown: dict[tuple[int, Rule], int] = {}
    # The smallest groups first: what they leave over is for the others.
    for left, group in zip(range(len(counts), 0, -1), sorted(counts, key=lambda group: counts[group]), strict=True):
        fair = room // left
        whole = counts[group] == kept.get(group, 0) <= fair
        # All of them, or one place less than fair, which the rest takes.
        shown[group] = counts[group] if whole else min(fair - 1, kept.get(group, 0))
        room -= shown[group] + (not whole)
    return shown


def _result(report: AuditReport, finding: Finding) -> dict[str, object]:
    spoken = [finding.message] if finding.opinion is None else [finding.message, finding.opinion]
    properties = {
        "lmdbKeyHex": None if finding.lmdb_key is None else finding.lmdb_key.hex(),
        "valueByteOffset": finding.offset,
        "category": str(finding.category),
        "opcode": finding.opcode,
        "global": finding.global_name,
        "opinion": finding.opinion,
        "position": finding.position,
    }
    return _head(finding.rule, " ".join(spoken)) | {
        "rank": 10 * float(_SEVERITY[finding.category]),  # that of the rule may be lower
        "locations": [_location(report, finding.lmdb_key)],
        "partialFingerprints": {"benSecureFinding/v1": _fingerprint(finding)},
        "properties": {name: value for name, value in properties.items() if value is not None},
    }


def _rest(report: AuditReport, rule: Rule, count: int) -> dict[str, object]:
    """The findings of a rule that are counted and not listed."""
    return _head(rule, f"{count:,} more: {RULES[rule].title}; the JSON report lists more of them") | {
        "occurrenceCount": count,
        "locations": [_location(report, None)],
        "partialFingerprints": {"benSecureFinding/v1": hashlib.sha256(f"rest{_UNIT}{rule}".encode()).hexdigest()[:32]},
    }


def _head(rule: Rule, text: str) -> dict[str, object]:
    return {
        "ruleId": str(rule),
        "ruleIndex": _INDEX[rule],
        "level": str(RULES[rule].level),
        "message": _message(text),
    }


def _message(text: str) -> dict[str, str]:
    """A message in which nothing is a link or a placeholder (sections 3.11.5 and 3.11.6)."""
    shown = printable(text, _SHOWN_CHARACTERS)
    for character, escaped in (("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        shown = shown.replace(character, escaped)
    return {"text": shown}


def _location(report: AuditReport, lmdb_key: bytes | None) -> dict[str, object]:
    physical = {
        "artifactLocation": {"uri": _uri(report.database)},
        "region": {"startLine": 1},  # GitHub asks for a line, even of a file that has none
    }
    if lmdb_key is None:
        return {"physicalLocation": physical}
    logical = {"name": printable_key(lmdb_key), "fullyQualifiedName": lmdb_key.hex(), "kind": "object"}
    return {"physicalLocation": physical, "logicalLocations": [logical]}


def _uri(database: str) -> str:
    """The data file as a URI reference: relative as the caller's path is, percent-encoded byte by byte."""
    path = os.fsencode(data_file_path(database))
    return ("file://" if os.path.isabs(path) else "") + quote(path)


def _fingerprint(finding: Finding) -> str:
    """What tells a finding from others, in this run and in the next."""
    lmdb_key = "" if finding.lmdb_key is None else finding.lmdb_key.hex()
    return hashlib.sha256(_UNIT.join([str(finding.rule), lmdb_key, finding.message]).encode()).hexdigest()[:32]
