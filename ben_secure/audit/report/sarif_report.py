"""Write an audit report as SARIF 2.1.0 (OASIS standard, 27 March 2020), for code scanning and security dashboards.

The output respects GitHub's limits: one run, at most 5,000 results, 10 tags per rule, a few megabytes in all. If a
rule has too many findings, one result counts the rest. Text from a database is escaped twice: it is printable ASCII,
and it cannot form a link or a placeholder in a SARIF message.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TextIO
from urllib.parse import quote

from ben_secure import __version__
from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.report.json_report import ascii_json, facts, overall, overall_exit_code, printable_key
from ben_secure.audit.rules import RULES, Category
from ben_secure.errors import Rule, printable
from ben_secure.pages.data_file import data_file_path

_SCHEMA_URI = "https://json.schemastore.org/sarif-2.1.0.json"
_MAX_RESULTS = 5_000
"""GitHub shows this many and accepts 25,000 per run ("SARIF support for code scanning")."""
_MAX_ARTIFACTS = 1_000
_SHOWN_CHARACTERS = 600
_INDEX = {rule: index for index, rule in enumerate(RULES)}
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
"""``security-severity`` for GitHub: critical above 9.0, high from 7.0, medium from 4.0."""
_UNIT = "\x1f"


def to_sarif(reports: Sequence[AuditReport], *, exit_code: int | None = None) -> dict[str, object]:
    """Convert reports into one SARIF log.

    Args:
        reports: The reports.
        exit_code: Exit code of the command, if it differs from that of the reports.

    Returns:
        Plain data for ``json.dumps``: one run, in which each database is an artifact, each rule a reporting descriptor
        and each finding a result. The offset in the value is ``properties.valueByteOffset``, because the byte offset
        of a SARIF region would count from the start of the data file.
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
                "exitCode": overall_exit_code(report.exit_code for report in reports)
                if exit_code is None
                else exit_code,
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
    """Write reports as one SARIF log.

    Args:
        reports: The reports.
        out: Output stream.
        exit_code: Exit code of the command, if it differs from that of the reports.
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
    artifact: dict[str, object] = {
        "location": {"uri": _uri(report.database)},
        "roles": ["analysisTarget"],
        "properties": {name: value for name, value in facts(report).items() if value is not None},
    }
    if report.file is not None:
        artifact["length"] = report.file.file_bytes
        artifact |= {"hashes": {"sha-256": report.file.sha256}} if report.file.sha256 is not None else {}
    return artifact


def _results(reports: Sequence[AuditReport]) -> list[dict[str, object]]:
    """Convert the findings. If a rule of a database has too many, one more result counts the rest."""
    kept: Counter[tuple[int, Rule]] = Counter()
    counts: Counter[tuple[int, Rule]] = Counter()
    for index, report in enumerate(reports):
        for rule, count in report.tally.rules.items():
            counts[index, rule] = count
        for finding in report.findings:
            kept[index, finding.rule] += 1
    if len(counts) > _MAX_RESULTS:  # hundreds of databases with findings of every rule: count per rule only
        sums: Counter[Rule] = Counter()
        for (_, rule), count in counts.items():
            sums[rule] += count
        return [_rest(reports[0], rule, sums[rule]) for rule in RULES if sums[rule]]
    quotas = _quotas(counts, kept)
    results = []
    for index, report in enumerate(reports):
        listed: Counter[Rule] = Counter()
        for finding in report.findings:
            if listed[finding.rule] < quotas[index, finding.rule]:
                listed[finding.rule] += 1
                results.append(_result(report, finding))
        for rule in RULES:
            if listed[rule] < counts[index, rule]:
                results.append(_rest(report, rule, counts[index, rule] - listed[rule]))
    return results


def _quotas(counts: Counter[tuple[int, Rule]], kept: Counter[tuple[int, Rule]]) -> dict[tuple[int, Rule], int]:
    """Decide how many findings of each group are listed, so that all results together fit."""
    room = _MAX_RESULTS
    quotas: dict[tuple[int, Rule], int] = {}
    # The smallest groups first, so that larger groups can use the room that they leave.
    for left, group in zip(range(len(counts), 0, -1), sorted(counts, key=lambda group: counts[group]), strict=True):
        share = room // left
        fits = counts[group] == kept[group] <= share
        # If the group does not fit, one result of its share counts the rest.
        quotas[group] = counts[group] if fits else min(share - 1, kept[group])
        room -= quotas[group] + (not fits)
    return quotas


def _result(report: AuditReport, finding: Finding) -> dict[str, object]:
    texts = [finding.message] if finding.opinion is None else [finding.message, finding.opinion]
    properties = {
        "lmdbKeyHex": None if finding.lmdb_key is None else finding.lmdb_key.hex(),
        "valueByteOffset": finding.offset,
        "category": str(finding.category),
        "opcode": finding.opcode,
        "global": finding.global_name,
        "opinion": finding.opinion,
        "position": finding.position,
    }
    return _head(finding.rule, " ".join(texts)) | {
        "rank": 10 * float(_SEVERITY[finding.category]),  # may be higher than the severity of the rule
        "locations": [_location(report, finding.lmdb_key)],
        "partialFingerprints": {"benSecureFinding/v1": _fingerprint(finding)},
        "properties": {name: value for name, value in properties.items() if value is not None},
    }


def _rest(report: AuditReport, rule: Rule, count: int) -> dict[str, object]:
    """Make one result that counts the findings of a rule that are not listed."""
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
    """Make a message without links or placeholders (sections 3.11.5 and 3.11.6)."""
    text = printable(text, _SHOWN_CHARACTERS)
    for character, escaped in (("[", "\\["), ("]", "\\]"), ("{", "{{"), ("}", "}}")):
        text = text.replace(character, escaped)
    return {"text": text}


def _location(report: AuditReport, lmdb_key: bytes | None) -> dict[str, object]:
    physical = {
        "artifactLocation": {"uri": _uri(report.database)},
        "region": {"startLine": 1},  # GitHub requires a line, even for a binary file
    }
    if lmdb_key is None:
        return {"physicalLocation": physical}
    logical = {"name": printable_key(lmdb_key), "fullyQualifiedName": lmdb_key.hex(), "kind": "object"}
    return {"physicalLocation": physical, "logicalLocations": [logical]}


def _uri(database: str) -> str:
    """Write the path of the data file as a URI reference, percent-encoded. A relative path stays relative."""
    path = os.fsencode(data_file_path(database))
    return ("file://" if os.path.isabs(path) else "") + quote(path)


def _fingerprint(finding: Finding) -> str:
    """Identify a finding across runs."""
    lmdb_key = "" if finding.lmdb_key is None else finding.lmdb_key.hex()
    return hashlib.sha256(_UNIT.join([str(finding.rule), lmdb_key, finding.message]).encode()).hexdigest()[:32]
