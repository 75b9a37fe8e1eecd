"""The forms of the report agree, and are the same bytes for the same findings."""

import io
import json
import pathlib
import re

import pytest

from ben_secure.audit.findings import Finding
from ben_secure.audit.report import Format, write
from ben_secure.audit.report.table_report import plural
from ben_secure.audit.rules import RULES, Level
from ben_secure.errors import Rule
from support.html_pages import Page
from support.report_samples import every_rule, report_of

DOCS = pathlib.Path(__file__).parent.parent / "docs" / "audit.md"


def written(style, *reports, **options):
    """A report in one form, on a wide page."""
    out = io.StringIO()
    write(reports, style, out, **options)
    return out.getvalue()


def of_json(text):
    """Counts by rule and by level, and (key, rule, offset) of each finding, from the JSON form."""
    document = json.loads(text)
    findings = [found for database in document["databases"] for found in database["findings"]]
    return (
        document["rules"],
        document["levels"],
        {(found["lmdb_key"], found["rule"], found["offset"]) for found in findings},
    )


def of_sarif(text):
    """The same from SARIF."""
    rules, levels, findings = {}, dict.fromkeys(map(str, Level), 0), set()
    for result in json.loads(text)["runs"][0]["results"]:
        count = result.get("occurrenceCount", 1)
        rules[result["ruleId"]] = rules.get(result["ruleId"], 0) + count
        levels[result["level"]] += count
        logical = result["locations"][0].get("logicalLocations")
        if "occurrenceCount" not in result:
            place = logical[0]["name"] if logical else None
            findings.add((place, result["ruleId"], result["properties"].get("valueByteOffset")))
    return rules, levels, findings


def of_html(text):
    """The same from HTML."""
    Page(text)
    rules, findings = {}, set()
    for rule, count, body in re.findall(
        r'<details[^>]* data-rule="([\w-]+)" data-count="(\d+)">(.*?)</details>', text, re.DOTALL
    ):
        rules[rule] = rules.get(rule, 0) + int(count)
        for key, offset in re.findall(r'<tr><td><span class="key">([^<]*)</span></td><td>([\d,]*)', body):
            findings.add((None if key == "(database)" else key, rule, int(offset.replace(",", "")) if offset else None))
    tiles = dict(re.findall(r'<div class="tile[^"]*"><b>([\d,]+)</b><span>(\w+)</span></div>', text)[::-1])
    shown = {
        name: int(number.replace(",", "")) for number, name in re.findall(r"<b>([\d,]+)</b><span>(\w+)</span>", text)
    }
    assert tiles
    return rules, {str(level): shown.get(str(level), shown.get(f"{level}s")) for level in Level}, findings


def of_table(text):
    """The same from the table."""
    rules, levels, findings = {}, dict.fromkeys(map(str, Level), 0), set()
    for line in re.findall(r"^findings: (.*)$", text, re.MULTILINE):
        listed = re.search(r"\((.*)\)", line)[1]
        for rule, count in re.findall(r"([\w-]+) ([\d,]+)", listed):
            rules[rule] = rules.get(rule, 0) + int(count.replace(",", ""))
        for count, level in re.findall(r"([\d,]+) (error|warning|note)s?\b", line.partition("(")[0]):
            levels[level] += int(count.replace(",", ""))
    for _, key, rule, offset in re.findall(
        r"^(error|warning|note) +(\S+) +([a-z-]+) +([\d,]*) ", text.replace("  ", " "), re.MULTILINE
    ):
        findings.add((None if key == "(database)" else key, rule, int(offset.replace(",", "")) if offset else None))
    return rules, levels, findings


@pytest.mark.parametrize(
    "reports",
    [
        [every_rule()],
        [report_of(left_out=1_234)],
        [report_of([])],
        [every_rule(), report_of([], database="clean.lmdb"), report_of(database="other.lmdb")],
    ],
)
def test_all_forms_agree(reports, monkeypatch):
    """Counts by rule and level, keys and bytes are the same in JSON, SARIF, HTML and the table."""
    monkeypatch.setenv("COLUMNS", "200")
    expected = of_json(written("json", *reports))
    assert sum(expected[0].values()) == sum(sum(report.rules.values()) for report in reports)
    assert of_sarif(written("sarif", *reports)) == expected
    assert of_html(written("html", *reports)) == expected
    assert of_table(written("table", *reports)) == expected


@pytest.mark.parametrize("style", Format)
def test_the_same_findings_give_the_same_bytes(style):
    """For any order of counting; the report has no time and no machine."""
    first, second = every_rule(), every_rule()
    for counter in (second.tally.rules, second.tally.categories, second.tally.formats, second.tally.sizes):
        items = list(counter.items())[::-1]
        counter.clear()
        counter.update(dict(items))
    assert written(style, first) == written(style, second)


@pytest.mark.parametrize("style", Format)
def test_the_exit_code_of_the_command_is_told(style):
    """Where a form has a place for it."""
    text = written(style, report_of([Finding(lmdb_key=b"a", rule=Rule.KEY_NAME, message="odd")]), exit_code=1)
    if style == "json":
        assert (json.loads(text)["exit_code"], json.loads(text)["verdict"]) == (1, "clean")
    if style == "sarif":
        assert json.loads(text)["runs"][0]["invocations"][0]["exitCode"] == 1


def test_counts_are_written_in_words():
    """One is not many."""
    assert [plural(Level.ERROR, 1), plural(Level.WARNING, 2), plural(Level.NOTE, 3_000)] == [
        "1 error", "2 warnings", "3,000 notes",
    ]  # fmt: skip


def test_the_documentation_lists_the_rules():
    """docs/audit.md has each rule with its level and texts, in order, and no other."""
    rows = re.findall(
        r"^\| `([\w-]+)` \| (error|warning|note) \| ([\w-]+) \| (.*) \| (.*) \|$", DOCS.read_text("utf-8"), re.MULTILINE
    )
    assert rows == [
        (str(rule), str(text.level), str(text.category), text.title, text.help) for rule, text in RULES.items()
    ]
    for style in Format:
        assert f"- `{style.value}`:" in DOCS.read_text("utf-8")
