"""The audit: a value is clean exactly if the loader returns a patch, and a database only if all of it was judged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure import BenSecureError, Limits, loads
from ben_secure.audit import Finding, Options, Run, audit_database, audit_many, findings, scan_value
from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.programs import opcodes
from ben_secure.audit.judge.scan import Judge
from ben_secure.audit.rules import Category, Level
from ben_secure.errors import ResourceError, Rule
from ben_secure.pickles import machine
from ben_secure.signing.keys import MacKey
from ben_secure.signing.policy import Verification
from ben_secure.signing.tags import append_tag
from ben_secure.tensors.writing import dumps as dumps_tensors
from support import assembler, fuzz_core
from support.attacks import ATTACKS
from support.databases import HONEST, HOSTILE, NAME, SHELL, damage, make_database, values
from support.legacy_values import GENERATIONS, MERGED, S1, S2, small_tree, tree, write
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
    """This is the law that connects the loader and the audit."""
    assert (scan_value(b"name", value) is None) == loader_accepts(value)


@pytest.mark.threat("T1")
def test_every_known_attack_is_a_finding():
    """The audit refuses the whole corpus, and accepts the honest value that belongs to each attack."""
    for attack in ATTACKS:
        assert scan_value(b"name", attack.value()) is not None, attack.name
        assert scan_value(b"name", attack.accepted()) is None, attack.name


def test_honest_and_hostile_values_are_told_apart():
    """The samples of the law are on both sides of it."""
    assert [scan_value(b"name", value) for value in HONEST] == [None] * 5
    assert all(scan_value(b"name", value) for value in HOSTILE)


def test_a_finding_says_what_the_error_says():
    """Rule, byte, opcode and global of the error are in the report."""
    finding = scan_value(b"name", SHELL)
    assert finding.rule is Rule.FORBIDDEN_GLOBAL
    assert (finding.lmdb_key, finding.offset, finding.opcode) == (b"name", SHELL.index(b"\x93"), "STACK_GLOBAL")
    assert finding.global_name == "posix.system"
    assert "posix.system" in finding.message


def test_an_error_without_a_rule_is_a_finding_too():
    """No refusal is lost for want of an id."""
    assert Finding.from_error(b"name", BenSecureError("odd")).rule is Rule.MALFORMED


def test_a_name_that_is_not_utf8_is_a_finding():
    """No reader can name such a patch; a key that differs in one byte is clean."""
    assert scan_value(b"S2A_\xc3\xa9", HONEST[0]) is None
    finding = scan_value(b"S2A_\xc3(", HONEST[0])
    assert finding.rule is Rule.LMDB_KEY
    assert "byte 4 of 6" in finding.message
    assert scan_value(b"S2A_\xc3(", SHELL).rule is Rule.FORBIDDEN_GLOBAL


def test_classes_and_limits_are_those_of_the_loader():
    """The classes and limits of the caller reach the loader."""
    value = TwoBandPatch(np.zeros((2, 3), "<u2"), np.zeros((60, 60), "<f4")).dumps()
    assert scan_value(b"name", value).rule is Rule.FORBIDDEN_GLOBAL
    assert scan_value(b"name", value, classes=[TwoBandPatch]) is None
    assert scan_value(b"name", HONEST[0], limits=Limits(max_opcodes=10)).rule is Rule.LIMIT


# One record of a database.


@given(values())
def test_an_audit_has_an_error_exactly_if_the_loader_refuses(value):
    """A value that loads never has an error, only remarks; a value that does not load has exactly one error."""
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
        *(write(tree(name, generation)) for name in (S1,) for generation in GENERATIONS),
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
    for record in records * 3:
        judge.count(found, *record)
    for record in records * 3:
        Judge("/nowhere", options).count(expected, *record)
    assert found == expected


def test_remarks_are_no_errors():
    """An unusual name is a note and odd metadata is a warning; the accepted counterpart has neither."""
    for lmdb_key, labels, rules in [
        (NAME, ["Pastures"], []),
        (b"name", ["Pastures"], [Rule.KEY_NAME]),
        (NAME, ["Past\x1bures"], [Rule.METADATA]),
    ]:
        tally = Tally()
        Judge("/nowhere", Options()).count(tally, 0, lmdb_key, make_patch(labels=labels).dumps())
        assert ([finding.rule for finding in tally.findings], tally.refused) == (rules, 0)


def judged(*values):
    """The tally of some values, by one judge."""
    judge, tally = Judge("/nowhere", Options()), Tally()
    for position, value in enumerate(values):
        judge.count(tally, position, NAME, value)
    return tally


def named(generation):
    """How the statistics name a generation of the original package."""
    made = GENERATIONS[generation]
    return f"legacy: interface {made.interface}, numpy {made.numpy}, pydantic {made.pydantic}"


@pytest.mark.parametrize("generation", GENERATIONS)
def test_formats_are_told_apart(generation):
    """Each generation of the original package is named, for every class, and so is ours."""
    legacy = [write(tree(name, generation)) for name in (S1, S2, MERGED)] + [write(small_tree(generation))]
    assert judged(*legacy).formats == {named(generation): 4}
    declared = TwoBandPatch(np.zeros((2, 3), "<u2"), np.zeros((60, 60), "<f4"))
    ours = [assembler.canonical(), make_patch(a=np.zeros(2), labels=["bigearthnet_patch_interface."]).dumps()]
    assert judged(*ours, dumps_tensors(make_patch()), declared.dumps(), b"").formats == {
        "canonical": 2,
        "safetensors": 1,
        "refused": 2,
    }
    tally = Tally()
    Judge("/nowhere", Options(classes=(TwoBandPatch,))).count(tally, 0, NAME, declared.dumps())
    assert tally.formats == {"canonical": 1}


def test_no_text_of_the_metadata_is_taken_for_a_format():
    """A label may spell what another generation names a part."""
    for generation in GENERATIONS:
        texts = ["_bands", "bands", "numpy._core.multiarray", "__pydantic_fields_set__", "ben_secure.patches"]
        assert judged(write(small_tree(generation, {"labels": texts}))).formats == {named(generation): 1}


def marked(value, block, at, mark):
    """A value with a text among the pixels of one of its blocks."""
    blocks = [
        (end - len(argument), end)
        for _, argument, _, end in opcodes(value)
        if isinstance(argument, bytes | bytearray) and len(argument) >= 512
    ]
    start, stop = blocks[block]
    place = start if at == "start" else stop - len(mark)
    return value[:place] + mark + value[place + len(mark) :]


OLDEST = write(tree(S1, "interface-0.1.0", s1="|i1"))
WINDOWS = {
    "the first bytes, canonical": (make_patch().dumps(), 0, "start", b"bigearthnet_patch_interface."),
    "the first bytes, legacy": (OLDEST, 0, "start", b"numpy._core"),
    "behind the first pixels": (OLDEST, 1, "start", b"__pydantic_fields_set__"),
    "behind the first pixels of a pair": (write(tree(MERGED, "interface-0.1.0")), 2, "start", b"\x8c\x06_bands"),
    "the last bytes": (OLDEST, 1, "end", b"\x8c\x06_bands"),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_no_pixel_is_taken_for_a_format(window):
    """Pixels at any position, in any order of values with and without them, are never read as a format."""
    value, *place = WINDOWS[window]
    other = marked(value, *place)
    assert other != value
    expected = {"canonical" if "canonical" in window else named("interface-0.1.0"): 4}
    for values_ in ([value] * 3 + [other], [other] + [value] * 3, [other] * 3 + [value], [value, value, other, value]):
        assert judged(*values_).formats == expected


ORDERED = [value for values_ in KIN[::2] for value in values_[:2]] + [marked(*window) for window in WINDOWS.values()]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(len(ORDERED))))
def test_statistics_do_not_depend_on_the_order_of_records(shuffled):
    """Formats, sizes, rules and which programs there are; in any order, among neighbours that differ in pixels only."""
    found, expected = judged(*(ORDERED[place] for place in shuffled)), judged(*ORDERED)
    for name in ("checked", "refused", "value_bytes", "formats", "sizes", "rules"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.programs.keys() == expected.programs.keys()


def test_a_lack_of_memory_is_no_finding(monkeypatch):
    """Nothing is counted, and the same judge judges the same value once there is memory."""
    judge, tally, value = Judge("/nowhere", Options()), Tally(), make_patch(labels=["Pastures"]).dumps()

    def lacking(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(machine, "run", lacking)
        with pytest.raises(ResourceError, match="were not judged"):
            judge.count(tally, 0, NAME, value)
    assert tally == Tally()
    judge.count(tally, 0, NAME, value)
    assert (tally.checked, tally.refused, tally.findings) == (1, 0, [])


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
    assert seen == [(10, 10)]


def test_a_database_in_a_file(tmp_path):
    """An environment that is a single file is audited likewise."""
    database = make_database(tmp_path / "db.lmdb", {NAME: HONEST[0], NAME + b"1": SHELL}, subdir=False)
    assert [finding.lmdb_key for finding in audit_database(str(database)).findings] == [NAME + b"1"]


def test_findings_are_in_order_and_counted_by_rule_and_category(tmp_path):
    """Findings are ordered by level and then by key; each has its location and fickling's opinion."""
    records = {
        NAME[:-2] + b"0": b"no pickle",
        NAME[:-2] + b"1": HONEST[0],
        NAME[:-2] + b"2": SHELL,
        NAME[:-2] + b"3": HONEST[1],
        NAME[:-2] + b"4": SHELL + b"x",
        NAME[:-2] + b"5": HONEST[0][:-5],
        b"\xff": HONEST[2],
    }
    report = audit_database(make_database(tmp_path / "db", records))
    assert [(finding.lmdb_key[-1:], finding.rule, finding.position) for finding in report.findings] == [
        (b"2", Rule.FORBIDDEN_GLOBAL, 2),
        (b"4", Rule.FORBIDDEN_GLOBAL, 4),
        (b"5", Rule.MALFORMED, 5),
        (b"0", Rule.NOT_A_PICKLE, 0),
        (b"\xff", Rule.LMDB_KEY, 6),
    ]
    assert report.rules == {Rule.FORBIDDEN_GLOBAL: 2, Rule.NOT_A_PICKLE: 1, Rule.MALFORMED: 1, Rule.LMDB_KEY: 1}
    assert report.errors == {Category.CODE: 2, Category.DAMAGE: 1, Category.NO_PATCH: 2}
    assert (report.verdict, report.exit_code, report.checked, report.clean) == ("refused", 1, 7, 2)
    assert report.tally.formats["refused"] == 5
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
    """The reader refuses the value; the values after it are judged."""
    records = {b"a": HONEST[0], b"b": bytes(5000), b"c": bytes(6000), b"d": HONEST[1], b"e": SHELL}
    options = Options(limits=Limits(max_value_bytes=4096))
    report = audit_database(make_database(tmp_path / "db", records), options=options)
    errors = [finding for finding in report.findings if finding.level is Level.ERROR]
    assert [(finding.lmdb_key, finding.rule) for finding in errors] == [
        (b"e", Rule.FORBIDDEN_GLOBAL),
        (b"b", Rule.LIMIT),
        (b"c", Rule.LIMIT),
    ]
    assert (report.checked, report.clean, report.undecided) == (5, 2, None)


@pytest.mark.threat("T2")
def test_only_so_many_findings_are_kept_the_gravest_and_all_are_counted(tmp_path, monkeypatch):
    """A database that is hostile throughout does not fill the memory."""
    monkeypatch.setattr(findings, "MAX_FINDINGS", 3)
    database = make_database(tmp_path / "db", {b"%d" % n: SHELL if n == 77 else b"no pickle" for n in range(80)})
    report = audit_database(database, run=Run(workers=1))
    assert [finding.lmdb_key for finding in report.findings] == [b"77", b"0", b"1"]
    assert (report.refused, report.findings_left_out) == (80, 77)
    assert report.rules == {Rule.NOT_A_PICKLE: 79, Rule.FORBIDDEN_GLOBAL: 1}


def test_an_empty_database_is_undecided(tmp_path):
    """Nothing checked is not clean."""
    report = audit_database(make_database(tmp_path / "db", {}))
    assert (report.verdict, report.exit_code, report.checked) == ("undecided", 2, 0)
    assert "empty" in report.undecided


def test_a_missing_database_is_undecided(tmp_path):
    """The report says that a database cannot be opened."""
    report = audit_database(tmp_path / "none")
    assert (report.verdict, report.exit_code) == ("undecided", 2)
    assert "does not exist" in report.undecided


@pytest.mark.parametrize("first", [HONEST[0], SHELL])
def test_a_value_whose_pages_are_damaged_is_refused(tmp_path, first):
    """The value is named, and the next values are judged; the same database with intact pages is not refused."""
    database = make_database(tmp_path / "db", {b"a": first, b"b": b"MARK" + bytes(9000), b"c": SHELL})
    assert audit_database(database).rules[Rule.NOT_A_PICKLE] == 1
    damage(database, b"MARK")
    report = audit_database(database)
    assert (report.exit_code, report.checked, report.refused) == (1, 3, 2 + (first is SHELL))
    (found,) = [finding for finding in report.findings if finding.rule is Rule.DAMAGED]
    assert (found.lmdb_key, found.position) == (b"b", 1)
    assert "overflow page" in found.message


def test_values_behind_a_damaged_one_are_judged(tmp_path):
    """Damage is an error and hides nothing elsewhere; the undamaged database is clean."""
    records = {b"%03d" % n: HONEST[0] for n in range(100)} | {b"010": b"MARK" + bytes(9000), b"099": SHELL}
    database = make_database(tmp_path / "db", records)
    run = Run(workers=1)
    assert audit_database(database, run=run).undecided is None
    damage(database, b"MARK")
    report = audit_database(database, run=run)
    assert [finding.lmdb_key for finding in report.findings if finding.rule is Rule.FORBIDDEN_GLOBAL] == [b"099"]
    assert report.rules[Rule.DAMAGED] == 1
    assert (report.checked, report.refused, report.undecided) == (100, 2, None)


def test_a_database_that_changes_meanwhile_is_not_clean(tmp_path):
    """A record that is written behind the audit's back was not checked."""
    database = make_database(tmp_path / "db", {b"b": HONEST[0], b"c": HONEST[0]})
    run = Run(progress=lambda *_: make_database(database, {b"a": SHELL}))
    report = audit_database(database, run=run)
    assert (report.verdict, report.refused) == ("undecided", 0)
    assert "changed during" in report.undecided


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
    """A mistake of the caller is an exception, not a finding."""
    with pytest.raises(TypeError, match="subclasses of BigEarthNetPatch"):
        Options(classes=(int,))
    with pytest.raises(TypeError, match="verification must be Verification, not MacKey"):
        Options(verification=MAC_KEY)
    with pytest.raises(ValueError, match="since_manifest requires"):
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
    """None of the real databases has a finding of any level."""
    reports = audit_many([real_data / "legacy", real_data / "rico"])
    assert len(reports) == 13
    for report in reports:
        assert (report.exit_code, report.findings, report.checked) == (0, (), report.entries), report.database
