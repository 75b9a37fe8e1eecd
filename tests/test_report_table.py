"""The report for people: findings, counts, the verdict last; nothing of a file is interpreted by the terminal."""

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from ben_secure.audit.findings import Finding
from ben_secure.audit.report.table_report import write_table
from ben_secure.audit.rules import Level
from ben_secure.errors import Rule
from support.report_samples import CALL, HOSTILE_TEXTS, hostile_report, printed, report_of

NOTE = Finding(lmdb_key=b"S2A_2", rule=Rule.KEY_NAME, message="no name")


def test_the_table_shows_the_findings_and_the_verdict_last():
    """Level, key, rule, byte and what was found stand in one line; the place is not told twice."""
    lines = printed(report_of()).splitlines()
    assert re.fullmatch(r"error\s+S2A_1\s+call-shape\s+7\s+odd call", lines[2].rstrip())
    assert "5 values checked (2.5 MB): 4 clean, 1 refused" in lines
    assert "findings: 1 error (call-shape 1)" in lines
    assert lines[-1] == "REFUSED: 1 of 5 values in some.lmdb; do not load it with pickle"


def test_levels_are_counted_and_coloured():
    """A note is no refusal, and is told from an error by its colour."""
    assert "findings: 1 error, 2 notes (lmdb-key-name 2, call-shape 1)" in printed(report_of([CALL, NOTE, NOTE]))
    shown = printed(report_of([CALL, NOTE]), force_terminal=True, color_system="standard")
    assert "\x1b[1;31merror" in shown
    assert "\x1b[36mnote" in shown
    assert printed(report_of([NOTE])).splitlines()[-1].startswith("CLEAN: all 5 values")


def test_the_opinion_stands_below_what_was_found():
    """fickling's words are in the row of the finding, and their sum in the summary."""
    finding = Finding(lmdb_key=b"a", rule=Rule.PATCH, message="odd", opinion="fickling: suspicious; f(x)")
    text = printed(report_of([finding], opinions=Counter({"as honest": 2, "more": 1})))
    assert re.search(r"odd\s*\n\s+fickling: suspicious; f\(x\)\s*\n", text)
    assert "second opinion of fickling on 3 distinct programs: 2 as in honest patches, 1 more than in" in text


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({}, "CLEAN: all 5 values in some.lmdb are patches and nothing else"),
        ({"sampled": True, "entries": 90}, "CLEAN: a sample of 5 values in some.lmdb are patches and nothing else"),
        (
            {"skipped": 4},
            "CLEAN: all 9 values in some.lmdb are patches and nothing else (4 because a verified manifest lists them)",
        ),
        ({"undecided": "torn page"}, "UNDECIDED: some.lmdb: torn page"),
        ({"checked": 0}, "UNDECIDED: some.lmdb: nothing was checked"),
    ],
)
def test_the_last_line_is_the_verdict(changes, last):
    """One line says it, whatever stands before."""
    assert printed(report_of([], **changes)).splitlines()[-1] == last


def test_a_clean_database_that_fails_says_why():
    """With ``--fail-on note`` a note makes the exit code 1, and the report says so; the twin without it is silent."""
    lines = printed(report_of([NOTE], fail_on=Level.NOTE)).splitlines()
    assert lines[-2] == "exit code 1, because there are findings of level note or graver (--fail-on)"
    assert "exit code" not in printed(report_of([NOTE]))


def test_a_sample_says_how_many_were_not_looked_at():
    """Clean as a sample is not taken for clean."""
    assert "sampled: 5 of 90 records were looked at, and no others" in printed(report_of([], sampled=True, entries=90))


def test_a_database_that_is_refused_as_a_whole_says_so():
    """No value is blamed for it."""
    lines = printed(report_of([Finding(rule=Rule.DAMAGED, message="odd pages")])).splitlines()
    assert re.match(r"error\s+\(database\)\s+database-damaged", lines[2])
    assert lines[-1] == "REFUSED: some.lmdb itself, none of its 5 values; see the findings"


@pytest.mark.parametrize(
    ("checked", "words"),
    [(0, "its values were not judged"), (3, "none of the 3 values that were judged")],
)
def test_a_damaged_database_says_why_the_rest_was_not_judged(checked, words):
    """It does not look as if all values had been judged, and the reason is there."""
    damaged = [Finding(rule=Rule.DAMAGED, message="odd pages")]
    lines = printed(report_of(damaged, checked=checked, entries=9, undecided="torn page")).splitlines()
    assert lines[-2:] == ["not finished: torn page", f"REFUSED: some.lmdb itself, {words}; see the findings"]


def test_a_refused_database_that_was_not_finished_says_both():
    """The reason why it was not finished is not lost."""
    lines = printed(report_of(undecided="torn page")).splitlines()
    assert lines[-2:] == ["not finished: torn page", "REFUSED: 1 of 5 values in some.lmdb; do not load it with pickle"]


def test_many_findings_are_summed_up():
    """The table is cut and says so."""
    findings = [Finding(lmdb_key=b"%d" % n, rule=Rule.ARRAY, message="odd") for n in range(150)]
    text = printed(report_of(findings, left_out=200))
    assert "and 250 more findings; --format json lists up to 150" in text
    assert text.count("invalid-array") == 100 + 1


def test_several_databases_have_a_verdict_together():
    """The last line is the worst of them."""
    out = Console(file=io.StringIO(), width=100, markup=False, emoji=False, highlight=False)
    write_table([report_of([]), report_of(), report_of([], undecided="torn")], out)
    assert out.file.getvalue().splitlines()[-1] == "REFUSED: 3 databases, 1 clean, 1 refused, 1 undecided"


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_nothing_is_cut_off_at_any_width(width):
    """Every character of a finding is there, if folded."""
    finding = Finding(
        lmdb_key=b"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48" * 2,
        rule=Rule.FORBIDDEN_GLOBAL,
        message="",
        offset=10**6,
        global_name="Global." * 9,
    )
    text = printed(report_of([finding]), width).partition("values checked")[0]
    assert all(len(line) <= width for line in text.splitlines())
    for character in "_G":
        shown = finding.lmdb_key.decode() + finding.global_name
        assert text.count(character) >= shown.count(character)


@pytest.mark.threat("T4")
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_texts_reach_the_terminal_as_plain_text(text):
    """No escape, line break, mark or markup of a key, a global, a file or an opinion is interpreted."""
    shown = printed(hostile_report(text), 300, force_terminal=True, color_system="truecolor")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    escaped = text.encode("unicode_escape").decode().replace("\\\\", "\\")
    assert plain.count(escaped) >= 3  # key, global, database
    assert re.fullmatch(r"[ -~─\n]*", plain)
    if "\x1b" in text:
        assert text not in shown
