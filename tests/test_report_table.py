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

PICKLE = "do not load it with pickle, and find out who wrote it"
NOTE = Finding(lmdb_key=b"S2A_2", rule=Rule.KEY_NAME, message="no name")


def test_the_table_shows_the_findings_and_the_verdict_last():
    """Level, key, rule, byte and message are in one line; the location occurs once."""
    lines = printed(report_of()).splitlines()
    assert re.fullmatch(r"error\s+S2A_1\s+call-shape\s+7\s+odd call", lines[2].rstrip())
    assert "5 values checked (2.5 MB): 4 clean, 1 refused" in lines
    assert "findings: 1 error (call-shape 1)" in lines
    assert lines[-1] == f"REFUSED: 1 of 5 values in some.lmdb: 1 could exhaust memory or time; {PICKLE}"


def test_levels_are_counted_and_coloured():
    """A note is not a refusal, and has another colour than an error."""
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
    """One line has the verdict, after any other lines."""
    assert printed(report_of([], **changes)).splitlines()[-1] == last


def test_attacks_are_told_from_damage_in_the_last_line():
    """Each category has its number, the most severe first, with advice for the most severe."""
    rules = {Rule.PATCH: 4, Rule.NOT_A_PICKLE: 3, Rule.STRUCTURE: 3, Rule.TAG_INVALID: 1}
    found = [Finding(lmdb_key=b"%d" % n, rule=rule, message="odd") for rule in rules for n in range(rules[rule])]
    attacked = report_of([*found, Finding(rule=Rule.DAMAGED, message="odd")], checked=20)
    attacked.tally.refused = 11
    assert printed(attacked, 300).splitlines()[-1] == (
        "REFUSED: 11 of 20 values in some.lmdb: 3 could run code, 1 is not authentic, 7 are not patches; "
        f"database structure damaged; {PICKLE}"
    )
    harmless = printed(report_of(found[:2]), 300).splitlines()[-1]
    assert ": 2 are not patches; ask its publisher, or leave out refused values: ben-secure convert" in harmless
    swapped = printed(report_of(found[-1:]), 300).splitlines()[-1]
    assert swapped.endswith(
        ": 1 is not authentic; it differs from the tagged or signed data: fetch it again from its source"
    )


def test_a_value_that_names_a_foreign_global_could_run_code_whatever_it_was_refused_for():
    """Damage must not hide an attack; the counterpart without a global is counted as not a patch."""
    named = Finding(lmdb_key=b"a", rule=Rule.NOT_A_PICKLE, message="odd", global_name="posix.system")
    assert "1 could run code" in printed(report_of([named]))
    assert "1 is not a patch" in printed(report_of([Finding(lmdb_key=b"a", rule=Rule.NOT_A_PICKLE, message="odd")]))


def test_a_clean_database_with_a_warning_says_so_in_the_last_line():
    """Readers look at one word, so the warning is beside it; a note is not."""
    exposed = Finding(rule=Rule.WRITABLE, message="can be written: by everybody")
    assert printed(report_of([exposed, NOTE])).splitlines()[-1] == (
        "CLEAN, with 1 warning (writable by others): all 5 values in some.lmdb are patches and nothing else"
    )
    out = Console(file=io.StringIO(), width=100, markup=False, emoji=False, highlight=False)
    write_table([report_of([exposed]), report_of([NOTE])], out)
    assert out.file.getvalue().splitlines()[-1] == ("CLEAN, with 1 warning (writable by others): 2 databases, 2 clean")


def test_one_value_is_written_as_one():
    """Plurals are inflected."""
    lines = printed(report_of([], checked=1, entries=1)).splitlines()
    assert lines == [
        "1 value checked (2.5 MB): 1 clean, 0 refused", "CLEAN: 1 value in some.lmdb is a patch and nothing else",
    ]  # fmt: skip


def test_a_clean_database_that_fails_says_why():
    """With ``--fail-on note`` a note makes the exit code 1, and the report says so; without the option it is silent."""
    lines = printed(report_of([NOTE], fail_on=Level.NOTE)).splitlines()
    assert lines[-2] == "exit code 1, because a finding has at least level note (--fail-on)"
    assert "exit code" not in printed(report_of([NOTE]))


def test_a_sample_says_how_many_were_not_looked_at():
    """Clean as a sample is not taken for clean."""
    assert "sampled: 5 of 90 records were judged" in printed(report_of([], sampled=True, entries=90))


def test_a_database_that_is_refused_as_a_whole_says_so():
    """No value is blamed for it."""
    lines = printed(report_of([Finding(rule=Rule.DAMAGED, message="odd pages")])).splitlines()
    assert re.match(r"error\s+\(database\)\s+database-damaged", lines[2])
    assert lines[-1] == ("REFUSED: some.lmdb itself (database structure damaged), none of its 5 values; fetch it again")


@pytest.mark.parametrize(
    ("checked", "words"),
    [(0, "its values were not judged"), (3, "none of the 3 values judged")],
)
def test_a_damaged_database_says_why_the_rest_was_not_judged(checked, words):
    """It does not look as if all values had been judged, and the reason is there."""
    damaged = [Finding(rule=Rule.DAMAGED, message="odd pages")]
    lines = printed(report_of(damaged, checked=checked, entries=9, undecided="torn page")).splitlines()
    assert lines[-2] == "not finished: torn page"
    assert lines[-1] == f"REFUSED: some.lmdb itself (database structure damaged), {words}; fetch it again"


def test_a_refused_database_that_was_not_finished_says_both():
    """The reason why it was not finished is not lost."""
    lines = printed(report_of(undecided="torn page")).splitlines()
    assert lines[-2] == "not finished: torn page"
    assert lines[-1].startswith("REFUSED: 1 of 5 values in some.lmdb: 1 could")


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
