"""The audit: a value is clean exactly if the loader returns a patch, and a database only if all of it was judged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure import BenSecureError, Limits, loads
from ben_secure.audit import Finding, Options, Run, audit_database, audit_many, findings, scan_value
from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.formats import format_of
from ben_secure.audit.judge.scan import Judge
from ben_secure.audit.rules import Level
from ben_secure.audit.structure import checks as structure
from ben_secure.errors import Rule
from ben_secure.pickles._segments import Segments
from ben_secure.signing.keys import MacKey
from ben_secure.signing.policy import Verification
from ben_secure.signing.tags import append_tag
from support import assembler, fuzz_core
from support.attacks import ATTACKS
from support.databases import HONEST, HOSTILE, NAME, SHELL, damage, make_database, values
from support.legacy_values import GENERATIONS, tree, write
from support.strategies import TwoBandPatch, make_patch


def loader_accepts(value, **options):
    """Whether the loader returns a patch."""
    try:
        loads(value, **options)
    except BenSecureError:
        return False
    return True


# One value.


@pytest.mark.threat("T1")
@given(values())
def test_a_value_is_clean_exactly_if_the_loader_returns_a_patch(value):
    """The law that ties the loader and the auditor."""
    assert (scan_value(b"name", value) is None) == loader_accepts(value)


@pytest.mark.threat("T1")
def test_every_known_attack_is_a_finding():
    """The audit refuses the whole corpus, and accepts the honest value beside each attack."""
    for attack in ATTACKS:
        assert scan_value(b"name", attack.value()) is not None, attack.name
        assert scan_value(b"name", attack.twin()) is None, attack.name


def test_honest_and_hostile_values_are_told_apart():
    """The samples of the law are on both sides of it."""
    assert [scan_value(b"name", value) for value in HONEST] == [None] * 5
    assert all(scan_value(b"name", value) for value in HOSTILE)


def test_a_finding_says_what_the_error_says():
    """Rule, byte, opcode and global reach the report."""
    finding = scan_value(b"name", SHELL)
    assert finding.rule is Rule.FORBIDDEN_GLOBAL
    assert (finding.lmdb_key, finding.offset, finding.opcode) == (b"name", SHELL.index(b"\x93"), "STACK_GLOBAL")
    assert finding.global_name == "posix.system"
    assert "posix.system" in finding.message


def test_an_error_without_a_rule_is_a_finding_too():
    """No refusal is lost for want of an id."""
    assert Finding.from_error(b"name", BenSecureError("odd")).rule is Rule.MALFORMED


def test_a_name_that_is_not_utf8_is_a_finding():
    """No reader can name such a patch; its twin one byte away is clean."""
    assert scan_value(b"S2A_\xc3\xa9", HONEST[0]) is None
    finding = scan_value(b"S2A_\xc3(", HONEST[0])
    assert finding.rule is Rule.LMDB_KEY
    assert "byte 4 of 6" in finding.message
    assert scan_value(b"S2A_\xc3(", SHELL).rule is Rule.FORBIDDEN_GLOBAL


def test_classes_and_limits_are_those_of_the_loader():
    """What the caller declares and allows is passed on."""
    value = TwoBandPatch(np.zeros((2, 3), "<u2"), np.zeros((60, 60), "<f4")).dumps()
    assert scan_value(b"name", value).rule is Rule.FORBIDDEN_GLOBAL
    assert scan_value(b"name", value, classes=[TwoBandPatch]) is None
    assert scan_value(b"name", HONEST[0], limits=Limits(max_opcodes=10)).rule is Rule.LIMIT


# One record of a database.


@given(values())
def test_an_audit_has_an_error_exactly_if_the_loader_refuses(value):
    """What is remarked on a value that loads is never an error, and of one that does not load there is just one."""
    tally = Tally()
    Judge("/nowhere", Options()).count(tally, 7, NAME, value)
    errors = [finding for finding in tally.findings if finding.level is Level.ERROR]
    assert len(errors) == tally.refused == (not loader_accepts(value))
    assert errors == tally.findings or not errors
    assert all((finding.lmdb_key, finding.position) == (NAME, 7) for finding in tally.findings)
    assert (tally.checked, tally.value_bytes) == (1, len(value))


def kin():
    """Values of many kinds, each with some that differ from it in their pixels only, and some that are damaged."""
    bases = [
        *fuzz_core.honest_values(),
        *fuzz_core.honest_tensors()[:2],
        make_patch(labels=["Pastures"]).dumps(),
        make_patch(labels=["Past\x1bures"]).dumps(),
        *(write(tree(name, generation)) for name in ("BigEarthNet_S1_Patch",) for generation in GENERATIONS),
        *HOSTILE,
    ]
    return [[value, *(fuzz_core.repainted(value, seed) for seed in range(3))] for value in bases]


KIN = kin()
MAC_KEY = MacKey.generate()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, len(KIN) - 1), st.integers(0, 5), st.booleans()), max_size=8), st.booleans())
def test_what_was_seen_before_changes_no_verdict(chosen, demanded):
    """Findings, formats and programs are those of a judge that remembers nothing, with and without tags."""
    options = Options(verification=Verification(mac_key=MAC_KEY, context="BEN") if demanded else None)
    judge, found, expected = Judge("/nowhere", options), Tally(), Tally()
    records = []
    for position, (place, twin, tagged) in enumerate(chosen):
        value = KIN[place][twin % 4] if twin < 5 else KIN[place][0][:-3]
        lmdb_key = NAME if position % 3 else b"name%d" % position
        records.append((position, lmdb_key, append_tag(MAC_KEY, b"BEN", lmdb_key, value) if tagged else value))
    Segments.forget()
    for record in records * 3:
        judge.count(found, *record)
    for record in records * 3:
        Segments.forget()
        Judge("/nowhere", options).count(expected, *record)
    Segments.forget()
    assert found == expected


def test_remarks_are_no_errors():
    """A name of another form is a note, odd metadata a warning; the twin has neither."""
    for lmdb_key, labels, rules in [
        (NAME, ["Pastures"], []),
        (b"name", ["Pastures"], [Rule.KEY_NAME]),
        (NAME, ["Past\x1bures"], [Rule.METADATA]),
    ]:
        tally = Tally()
        Judge("/nowhere", Options()).count(tally, 0, lmdb_key, make_patch(labels=labels).dumps())
        assert ([finding.rule for finding in tally.findings], tally.refused) == (rules, 0)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_formats_are_told_apart(generation):
    """Each generation of the original package is named, as inspect names it; ours too."""
    made = GENERATIONS[generation]
    expected = f"legacy: interface {made.interface}, numpy {made.numpy}, pydantic {made.pydantic}"
    for name in ("BigEarthNet_S1_Patch", "BigEarthNet_S2_Patch", "BigEarthNet_S1_S2_Patch"):
        assert format_of(write(tree(name, generation))) == expected
    assert format_of(assembler.canonical()) == "canonical"


@given(st.binary(max_size=2000) | values())
def test_a_format_is_a_statistic_and_never_fails(value):
    """Any bytes get a name."""
    assert format_of(value)


# One database.


def test_a_clean_database(tmp_path):
    """Every record is judged and counted."""
    database = make_database(tmp_path / "db", {b"%d" % n: HONEST[n % 4] for n in range(10)})
    seen = []
    report = audit_database(database, run=Run(progress=lambda *counts: seen.append(counts)))
    size = sum(len(HONEST[n % 4]) for n in range(10))
    assert (report.verdict, report.exit_code, report.undecided) == ("clean", 0, None)
    assert (report.checked, report.clean, report.refused, report.value_bytes) == (10, 10, 0, size)
    assert report.rules == {Rule.KEY_NAME: 10}
    assert seen == [(10, 10, size)]


def test_a_database_in_a_file(tmp_path):
    """An environment that is a single file is audited likewise."""
    database = make_database(tmp_path / "db.lmdb", {NAME: HONEST[0], NAME + b"1": SHELL}, subdir=False)
    assert [finding.lmdb_key for finding in audit_database(str(database)).findings] == [NAME + b"1"]


def test_findings_are_in_key_order_and_counted_by_rule(tmp_path):
    """The report names each refused record and no other, and says where it stands and what fickling thinks of it."""
    records = {
        NAME[:-2] + b"1": HONEST[0],
        NAME[:-2] + b"2": SHELL,
        NAME[:-2] + b"3": HONEST[1],
        NAME[:-2] + b"4": SHELL + b"x",
        NAME[:-2] + b"5": b"no pickle",
        b"\xff": HONEST[2],
    }
    report = audit_database(make_database(tmp_path / "db", records))
    assert [(finding.lmdb_key[-1:], finding.rule, finding.position) for finding in report.findings] == [
        (b"2", Rule.FORBIDDEN_GLOBAL, 1),
        (b"4", Rule.FORBIDDEN_GLOBAL, 3),
        (b"5", Rule.NOT_A_PICKLE, 4),
        (b"\xff", Rule.LMDB_KEY, 5),
    ]
    assert report.rules == {Rule.FORBIDDEN_GLOBAL: 2, Rule.NOT_A_PICKLE: 1, Rule.LMDB_KEY: 1}
    assert (report.verdict, report.exit_code, report.checked, report.clean) == ("refused", 1, 6, 2)
    assert report.tally.formats["refused"] == 4
    assert "system('touch canary')" in report.findings[0].opinion


def test_fickling_changes_no_verdict(tmp_path):
    """Without its opinion the findings are the same."""
    database = make_database(tmp_path / "db", {NAME: HONEST[0], b"b": SHELL})
    reports = [audit_database(database, options=Options(opinions=opinions)) for opinions in (True, False)]
    assert [(finding.rule, finding.lmdb_key) for finding in reports[0].findings] == [
        (finding.rule, finding.lmdb_key) for finding in reports[1].findings
    ]
    assert reports[0].findings[0].opinion is not None
    assert all(finding.opinion is None for finding in reports[1].findings)
    assert (reports[0].tally.opinions.total(), reports[1].tally.opinions.total()) == (2, 0)


def test_a_value_that_is_too_long_is_a_finding_and_the_audit_goes_on(tmp_path):
    """The reader refuses to read it; what stands behind it is judged all the same."""
    records = {b"a": HONEST[0], b"b": bytes(5000), b"c": bytes(6000), b"d": HONEST[1], b"e": SHELL}
    options = Options(limits=Limits(max_value_bytes=4096))
    report = audit_database(make_database(tmp_path / "db", records), options=options)
    errors = [finding for finding in report.findings if finding.level is Level.ERROR]
    assert [(finding.lmdb_key, finding.rule) for finding in errors] == [
        (b"b", Rule.LIMIT),
        (b"c", Rule.LIMIT),
        (b"e", Rule.FORBIDDEN_GLOBAL),
    ]
    assert (report.checked, report.clean, report.undecided) == (5, 2, None)


@pytest.mark.threat("T2")
def test_only_so_many_findings_are_kept_but_all_are_counted_and_told(tmp_path, monkeypatch):
    """A database that is hostile throughout does not fill the memory."""
    monkeypatch.setattr(findings, "MAX_FINDINGS", 3)
    told = []
    database = make_database(tmp_path / "db", {b"%d" % n: b"no pickle" for n in range(80)})
    report = audit_database(database, run=Run(on_finding=told.append, workers=1))
    assert [finding.lmdb_key for finding in report.findings] == [b"0", b"1", b"10"]
    assert (report.refused, report.findings_left_out, report.rules) == (80, 77, {Rule.NOT_A_PICKLE: 80})
    assert [finding.lmdb_key for finding in told] == sorted(b"%d" % n for n in range(80))


def test_an_empty_database_is_undecided(tmp_path):
    """Nothing checked is not clean."""
    report = audit_database(make_database(tmp_path / "db", {}))
    assert (report.verdict, report.exit_code, report.checked) == ("undecided", 2, 0)
    assert "empty" in report.undecided


def test_a_missing_database_is_undecided(tmp_path):
    """What cannot be opened is told in the report."""
    report = audit_database(tmp_path / "none")
    assert (report.verdict, report.exit_code) == ("undecided", 2)
    assert "does not exist" in report.undecided


@pytest.mark.parametrize(("first", "exit_code"), [(HONEST[0], 2), (SHELL, 1)])
def test_damage_is_undecided_unless_something_was_refused_before(tmp_path, monkeypatch, first, exit_code):
    """What was found before the damage is reported; a refusal outweighs what is unknown."""
    monkeypatch.setattr(structure, "structure_findings", lambda path, started: [])
    database = make_database(tmp_path / "db", {b"a": first, b"b": b"MARK" + bytes(9000), b"c": SHELL})
    damage(database, b"MARK")
    report = audit_database(database)
    assert (report.exit_code, report.checked, report.refused) == (exit_code, 1, int(exit_code == 1))
    assert "overflow page" in report.undecided


def test_ranges_behind_a_damaged_one_are_judged(tmp_path):
    """Damage in one place hides nothing elsewhere, and is itself an error; the twin that is not damaged is clean."""
    records = {b"%03d" % n: HONEST[0] for n in range(100)} | {b"010": b"MARK" + bytes(9000), b"099": SHELL}
    database = make_database(tmp_path / "db", records)
    run = Run(workers=1)
    assert audit_database(database, run=run).undecided is None
    damage(database, b"MARK")
    report = audit_database(database, run=run)
    assert [finding.lmdb_key for finding in report.findings if finding.rule is Rule.FORBIDDEN_GLOBAL] == [b"099"]
    assert report.rules[Rule.DAMAGED] == 1
    assert 10 + 68 <= report.checked < 100
    assert (report.exit_code, "overflow page" in report.undecided) == (1, True)


def test_a_database_that_changes_meanwhile_is_not_clean(tmp_path):
    """A record that is written behind the audit's back was not checked."""
    database = make_database(tmp_path / "db", {b"b": HONEST[0], b"c": HONEST[0]})
    run = Run(progress=lambda *_: make_database(database, {b"a": SHELL}))
    report = audit_database(database, run=run)
    assert (report.verdict, report.refused) == ("undecided", 0)
    assert "was changed" in report.undecided


def test_an_entry_that_is_announced_but_not_there_is_not_clean(tmp_path):
    """The number of records is checked, also where a long value has interrupted the walk."""
    database = make_database(tmp_path / "db", {b"a": bytes(5000), b"b": HONEST[0], b"c": HONEST[0]})
    data_file = database / "data.mdb"
    content = bytearray(data_file.read_bytes())
    entries = 4096 + 16 + 24 + 48 + 32  # page, page header, head of MDB_meta, record of free pages, md_entries
    assert content[entries] == 3
    content[entries] = 4
    data_file.write_bytes(content)
    for limits in (Limits(), Limits(max_value_bytes=4096)):
        report = audit_database(database, options=Options(limits=limits))
        assert (report.checked, report.refused, report.rules[Rule.DAMAGED]) == (3, 1, 1)
        assert "3 entries, not the 4" in report.undecided


def test_what_is_wrong_with_the_call_is_raised(tmp_path):
    """A mistake of the caller is no finding."""
    with pytest.raises(TypeError, match="subclasses of BigEarthNetPatch"):
        Options(classes=(int,))
    with pytest.raises(TypeError, match="verification must be Verification, not MacKey"):
        Options(verification=MAC_KEY)
    with pytest.raises(ValueError, match="since_manifest belongs to verify_key"):
        Options(since_manifest=True)
    main_class = type("Mine", (TwoBandPatch,), {"__module__": "__main__"})
    with pytest.raises(ValueError, match="Mine is defined in the main program"):
        Options(classes=(main_class,))
    assert Options(classes=(TwoBandPatch,)).classes == (TwoBandPatch,)
    with pytest.raises(ValueError, match="workers must be 1 or more, not 0"):
        Run(workers=0)
    with pytest.raises(ValueError, match="sample must be 1 or more, not 0"):
        Run(sample=0)
    with pytest.raises(ValueError, match="value_timeout_s must be more than 0"):
        audit_database(tmp_path, run=Run(value_timeout_s=0))


def test_honest_archives_have_no_findings(real_data):
    """Not of any level, on any of the real databases."""
    reports = audit_many([real_data / "legacy", real_data / "rico"])
    assert len(reports) == 13
    for report in reports:
        assert (report.exit_code, report.findings, report.checked) == (0, (), report.entries), report.database
