"""The report for machines: the documented form, a database at a time, and one valid object at every moment."""

import io
import json
import pathlib
import re

import jsonschema
import pytest

import ben_secure.audit.report.json_report
from ben_secure.audit.findings import Finding
from ben_secure.audit.report.json_report import (
    SCHEMA,
    JsonWriter,
    finding_to_json,
    overall,
    overall_exit_code,
    write_json,
)
from ben_secure.audit.rules import RULES, Category, Level
from ben_secure.errors import Rule
from support.report_samples import CALL, HOSTILE_TEXTS, every_rule, hostile_report, report_of

FORM = json.loads(
    pathlib.Path(ben_secure.audit.report.json_report.__file__).with_name("report.schema.json").read_text()
)
DOCS = pathlib.Path(__file__).parent.parent / "docs" / "audit-json.md"


def written(*reports, **options):
    """The written report: text and document, which follows the published schema."""
    out = io.StringIO()
    write_json(reports, out, **options)
    document = json.loads(out.getvalue())
    jsonschema.validate(document, FORM)
    return out.getvalue(), document


def test_the_published_form_is_a_schema():
    """It is valid itself, and says the same number and rules as the package."""
    jsonschema.Draft202012Validator.check_schema(FORM)
    assert FORM["properties"]["schema"]["const"] == SCHEMA == 3
    assert FORM["$defs"]["rule"]["enum"] == [str(rule) for rule in Rule]
    assert FORM["$defs"]["category"]["enum"] == [str(category) for category in Category]
    assert FORM["$defs"]["finding"]["properties"]["level"]["enum"] == [str(level) for level in Level]


def test_every_key_is_documented():
    """docs/audit-json.md lists what there is, and nothing else."""
    _, document = written(every_rule())
    text = DOCS.read_text()
    for heading, found in (
        ("The object", document),
        ("A database", document["databases"][0]),
        ("A finding", document["databases"][0]["findings"][0]),
    ):
        section = re.search(rf"\*\*{heading}\*\*\n(.*?)\n\n(?!\|)", text, re.DOTALL)[1]
        assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == list(found)


def test_a_finding_in_plain_data():
    """All keys of a finding are checked."""
    assert finding_to_json(CALL) == {
        "lmdb_key": "S2A_1", "lmdb_key_hex": b"S2A_1".hex(), "rule": "call-shape", "level": "error",
        "category": "could-exhaust", "opcode": "REDUCE", "offset": 7,
        "message": "odd call (REDUCE at byte 7); ask", "global": None, "opinion": None, "position": 3,
    }  # fmt: skip
    whole = finding_to_json(Finding(rule=Rule.DAMAGED, message="odd"))
    assert (whole["lmdb_key"], whole["lmdb_key_hex"]) == (None, None)


def test_a_report_has_the_form_that_is_published():
    """Counts by level and rule, and every finding in order."""
    report = every_rule()
    _, document = written(report, report_of([], database="other.lmdb", sampled=True))
    first, second = document["databases"]
    assert document["levels"] == first["levels"] == {str(level): report.count(level) for level in Level}
    assert document["rules"] == dict.fromkeys(sorted(map(str, RULES)), 1)
    assert [found["rule"] for found in first["findings"]] == [str(finding.rule) for finding in report.findings]
    assert (document["verdict"], document["exit_code"], document["checked"]) == ("refused", 1, 45)
    assert (second["verdict"], second["sampled"], second["entries"]) == ("clean", True, 5)


def test_what_is_streamed_is_what_is_written_at_the_end():
    """Each database is written when its report is there, with the same bytes."""
    out = io.StringIO()
    writer = JsonWriter(out)
    reports = [every_rule(), report_of([], database="other.lmdb")]
    for report in reports:
        before = len(out.getvalue())
        writer.database(report)
        assert f'"{report.database}"' in out.getvalue()[before:]
    writer.end()
    assert out.getvalue() == written(*reports)[0]


@pytest.mark.parametrize("moment", range(3))
def test_at_every_moment_the_end_makes_one_valid_object(moment):
    """An audit that fails or is interrupted leaves JSON with a verdict that is not clean."""
    out = io.StringIO()
    writer = JsonWriter(out)
    reports = [report_of([], database="first.lmdb"), report_of(database="second.lmdb")]
    for report in reports[:moment]:
        writer.database(report)
    writer.end(error="the disk \x1b[31m is full", exit_code=2)
    document = json.loads(out.getvalue())
    jsonschema.validate(document, FORM)
    assert document["verdict"] == ("refused" if moment == 2 else "undecided")
    assert document["error"] == "the disk \\x1b[31m is full"
    assert document["exit_code"] == 2
    assert [found["database"] for found in document["databases"]] == ["first.lmdb", "second.lmdb"][:moment]
    assert document["rules"].get("call-shape", 0) == document["categories"].get("could-exhaust", 0) == (moment == 2)


def test_findings_beyond_those_kept_are_counted():
    """Findings that a writer left out are counted, for every writer."""
    _, document = written(report_of(left_out=7))
    assert (document["findings_left_out"], document["rules"]) == (7, {"call-shape": 8})


def test_verdicts_and_exit_codes_together():
    """Refused outweighs undecided outweighs clean, an interruption all, and nothing is undecided."""
    assert [overall(found) for found in (["clean", "refused", "undecided"], ["clean", "undecided"], ["clean"], [])] == [
        "refused",
        "undecided",
        "clean",
        "undecided",
    ]
    assert [overall_exit_code(codes) for codes in ([0, 1, 2], [0, 2], [0], [], [130, 1])] == [1, 2, 0, 2, 130]


@pytest.mark.threat("T4")
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_json_is_printable_ascii_and_exact(text):
    """Nothing in it reaches a terminal that shows it, and the key can be had back."""
    written_text, document = written(hostile_report(text))
    assert re.fullmatch(r"[ -~\n]*", written_text)
    found = document["databases"][0]
    assert found["database"] == f"{text}.lmdb"
    assert bytes.fromhex(found["findings"][0]["lmdb_key_hex"]) == text.encode()
