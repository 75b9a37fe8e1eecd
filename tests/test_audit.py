"""The audit: a value is clean exactly if the loader returns a patch, and a database only if all of it was judged."""

import tracemalloc

import assembler
import lmdb
import numpy as np
import pytest
from attacks import ATTACKS
from hypothesis import given
from hypothesis import strategies as st
from legacy_values import GENERATIONS, small_tree, write
from strategies import TwoBandPatch, make_patch

from ben_secure import BenSecureError, Limits, loads
from ben_secure.audit import Finding, audit_database, run, scan_value
from ben_secure.errors import Rule

HONEST = [*(write(small_tree(generation)) for generation in GENERATIONS), assembler.canonical()]
SHELL = assembler.program(assembler.call(assembler.name("posix", "system"), assembler.text("touch canary")))
HOSTILE = [
    SHELL,
    HONEST[0] + SHELL,
    HONEST[0][:-1],
    b"",
    b"\x80\x04N.",
    b"\x80\x04" + b")" + b"\x85" * 1000 + b".",
    TwoBandPatch(np.zeros((2, 3), "<u2"), np.zeros((60, 60), "<f4")).dumps(),
]


def make_database(path, records, **options):
    """Write raw records with liblmdb, as somebody else would."""
    with lmdb.open(str(path), map_size=2**30, sync=False, **options) as env, env.begin(write=True) as transaction:
        for lmdb_key, value in records.items():
            transaction.put(lmdb_key, value)
    return path


def damage(path, marker):
    """Break the header of the overflow page whose value begins with ``marker``."""
    data_file = path / "data.mdb"
    content = bytearray(data_file.read_bytes())
    header = content.index(marker) - 16
    content[header : header + 8] = b"\xff" * 8
    data_file.write_bytes(content)


def loader_accepts(value, **options):
    """Whether the loader returns a patch."""
    try:
        loads(value, **options)
    except BenSecureError:
        return False
    return True


# One value.


@st.composite
def values(draw):
    """Honest values, hostile ones, and both with a few bytes changed, cut or added."""
    value = bytearray(draw(st.sampled_from(HONEST + HOSTILE)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(value)))
        value[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(value)


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


# One database.


def test_a_clean_database(tmp_path):
    """Every record is judged and counted."""
    database = make_database(tmp_path / "db", {b"%d" % n: HONEST[n % 4] for n in range(10)})
    seen = []
    report = audit_database(database, progress=lambda *counts: seen.append(counts))
    assert (report.verdict, report.exit_code, report.undecided) == ("clean", 0, None)
    assert (report.checked, report.clean, report.refused, report.findings) == (10, 10, 0, ())
    assert report.value_bytes == sum(len(HONEST[n % 4]) for n in range(10))
    assert seen == [(n, 10) for n in range(1, 11)]


def test_a_database_in_a_file(tmp_path):
    """An environment that is a single file is audited likewise."""
    database = make_database(tmp_path / "db.lmdb", {b"a": HONEST[0], b"b": SHELL}, subdir=False)
    assert [finding.lmdb_key for finding in audit_database(str(database)).findings] == [b"b"]


def test_findings_are_in_key_order_and_counted_by_rule(tmp_path):
    """The report names each refused record and no other."""
    records = {
        b"a": HONEST[0],
        b"b": SHELL,
        b"c": HONEST[1],
        b"d": SHELL + b"x",
        b"e": b"no pickle",
        b"\xff": HONEST[2],
    }
    report = audit_database(make_database(tmp_path / "db", records))
    assert [(finding.lmdb_key, finding.rule) for finding in report.findings] == [
        (b"b", Rule.FORBIDDEN_GLOBAL),
        (b"d", Rule.FORBIDDEN_GLOBAL),
        (b"e", Rule.NOT_A_PICKLE),
        (b"\xff", Rule.LMDB_KEY),
    ]
    assert report.rules == {Rule.FORBIDDEN_GLOBAL: 2, Rule.NOT_A_PICKLE: 1, Rule.LMDB_KEY: 1}
    assert (report.verdict, report.exit_code, report.checked, report.clean) == ("refused", 1, 6, 2)


def test_a_value_that_is_too_long_is_a_finding_and_the_audit_goes_on(tmp_path):
    """The reader refuses to read it; what stands behind it is judged all the same."""
    records = {b"a": HONEST[0], b"b": bytes(5000), b"c": bytes(6000), b"d": HONEST[1], b"e": SHELL}
    report = audit_database(make_database(tmp_path / "db", records), limits=Limits(max_value_bytes=4096))
    assert [(finding.lmdb_key, finding.rule) for finding in report.findings] == [
        (b"b", Rule.LIMIT),
        (b"c", Rule.LIMIT),
        (b"e", Rule.FORBIDDEN_GLOBAL),
    ]
    assert (report.checked, report.clean, report.undecided) == (5, 2, None)


@pytest.mark.threat("T2")
def test_only_so_many_findings_are_kept_but_all_are_counted(tmp_path, monkeypatch):
    """A database that is hostile throughout does not fill the memory."""
    monkeypatch.setattr(run, "MAX_FINDINGS", 3)
    report = audit_database(make_database(tmp_path / "db", {b"%d" % n: SHELL for n in range(8)}))
    assert [finding.lmdb_key for finding in report.findings] == [b"0", b"1", b"2"]
    assert (report.refused, report.findings_left_out, report.rules) == (8, 5, {Rule.FORBIDDEN_GLOBAL: 8})


@pytest.mark.threat("T2")
def test_no_value_is_kept(tmp_path):
    """Memory does not grow with the database."""
    value = make_patch(labels=["Pastures"]).dumps()
    database = make_database(tmp_path / "db", {b"%d" % n: value for n in range(40)})
    audit_database(database)
    tracemalloc.start()
    audit_database(database)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(value)


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
def test_damage_is_undecided_unless_something_was_refused_before(tmp_path, first, exit_code):
    """What was found before the damage is reported; a refusal outweighs what is unknown."""
    database = make_database(tmp_path / "db", {b"a": first, b"b": b"MARK" + bytes(9000), b"c": SHELL})
    damage(database, b"MARK")
    report = audit_database(database)
    assert (report.exit_code, report.checked, report.refused) == (exit_code, 1, int(exit_code == 1))
    assert "overflow page" in report.undecided


def test_a_database_that_changes_meanwhile_is_not_clean(tmp_path):
    """A record that is written behind the audit's back was not checked."""
    database = make_database(tmp_path / "db", {b"b": HONEST[0], b"c": HONEST[0]})
    report = audit_database(database, progress=lambda *_: make_database(database, {b"a": SHELL}))
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
    assert "4" in audit_database(database).undecided
    report = audit_database(database, limits=Limits(max_value_bytes=4096))
    assert (report.checked, report.refused) == (3, 1)
    assert "3 records were found, 4 were announced" in report.undecided
