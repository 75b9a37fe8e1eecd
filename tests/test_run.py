"""An audit as a whole: divided, sampled, resumed or interrupted, its report is that of one walk."""

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ben_secure import ManifestMismatchError, PatchReader, StoreError, __version__
from ben_secure.audit import Finding, Options, Run, audit_database, audit_many
from ben_secure.audit.report import Format, overall_exit_code, write
from ben_secure.audit.rules import Level
from ben_secure.audit.run import runner
from ben_secure.audit.run.ranges import judge_range
from ben_secure.audit.structure import checks as structure
from ben_secure.cli import main
from ben_secure.errors import Rule, printable
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    write_mac_keys,
    write_signing_key,
    write_verify_key,
)
from ben_secure.signing.policy import Verification
from ben_secure.signing.tags import append_tag
from ben_secure.store.change.sign import sign_database
from support.databases import HONEST, NAME, SHELL, damage_key, make_database
from support.losing_patch import HUNGRY, LosingPatch
from support.strategies import make_patch

STEM = NAME[:-2]
RECORDS = {b"%s%03d" % (STEM, n): HONEST[n % 4] for n in range(100)} | {
    STEM + b"005": SHELL,
    STEM + b"050": b"no pickle",
    STEM + b"099": SHELL + b"x",
}
QUIET = Options(opinions=False)
KEYS, STRANGERS = MacKeySet(MacKey(bytes(range(32)))), MacKeySet(MacKey(bytes(32)))
PUBLISHER = SigningKey.generate()


@pytest.fixture(autouse=True)
def no_structure(monkeypatch):
    """Findings about the whole database have their own tests (test_structure), and take a process."""
    monkeypatch.setattr(structure, "structure_findings", lambda *_: [])


def errors(report):
    """The findings that are errors; the names of these records are worth a note."""
    return [finding for finding in report.findings if finding.level is Level.ERROR]


@pytest.fixture
def database(tmp_path):
    """A database with three hostile records among a hundred."""
    return make_database(tmp_path / "db", RECORDS)


# Workers, samples, several databases.


def test_the_report_does_not_depend_on_the_workers(database):
    """One and three workers give the same report."""
    reports = [audit_database(database, run=Run(workers=count)) for count in (1, 3)]
    assert reports[0] == reports[1]
    assert (reports[0].checked, reports[0].refused, reports[0].undecided) == (100, 3, None)


def forms(*reports):
    """The reports in every form."""
    written = []
    for form in Format:
        out = io.StringIO()
        write(reports, form, out)
        written.append(out.getvalue())
    return written


@pytest.mark.threat("T19")
def test_two_reports_of_one_file_are_equal_in_every_form(database, tmp_path):
    """For any number of workers, interrupted and resumed or not; a report of another file differs."""
    expected = forms(audit_database(database, run=Run(digest=True, workers=1), options=QUIET))
    assert forms(audit_database(database, run=Run(digest=True, workers=3), options=QUIET)) == expected
    state = tmp_path / "state"
    audit_database(database, options=QUIET, run=Run(workers=1, resume=state, progress=Interrupted(2)))
    resumed = audit_database(database, options=QUIET, run=Run(workers=1, resume=state, digest=True))
    assert (resumed.resumed, forms(resumed)) == (64, expected)
    data_file = database / "data.mdb"
    content = bytearray(data_file.read_bytes())
    content[content.index(b"no pickle")] ^= 1
    data_file.write_bytes(content)
    other = forms(audit_database(database, run=Run(digest=True, workers=1), options=QUIET))
    assert all(one != another for one, another in zip(expected, other, strict=True))


@pytest.mark.threat("T19")
def test_a_report_is_tied_to_the_file(database, tmp_path):
    """Size, transaction, identity and digest are those of the file, equal for a copy, and in every form."""
    report = audit_database(database, run=Run(digest=True), options=QUIET)
    content = (database / "data.mdb").read_bytes()
    assert report.file.file_bytes == len(content)
    assert report.file.sha256 == hashlib.sha256(content).hexdigest()
    with PageReader(database) as pages:
        assert report.file.transaction == pages.facts.txnid
    for text in forms(report):
        assert __version__ in text
        for fact in (report.file.identity, report.file.sha256):
            assert fact in text.replace("\n", "")
    copied = pathlib.Path(shutil.copytree(database, tmp_path / "copy"))
    again = audit_database(copied, run=Run(sample=1), options=QUIET)
    assert again.file == dataclasses.replace(report.file, sha256=None)
    make_database(copied, {STEM + b"005": b"no pickle"})
    assert audit_database(copied, run=Run(sample=1), options=QUIET).file.identity != report.file.identity


def test_without_a_file_there_are_no_facts_of_it(tmp_path):
    """And the report has all its forms."""
    report = audit_database(tmp_path / "nowhere")
    assert report.file is None
    assert json.loads(forms(report)[1])["databases"][0]["identity"] is None


@pytest.mark.threat("T19")
def test_a_digest_is_of_one_state_of_the_file(database, monkeypatch):
    """If the file changes during reading there is no digest, and the audit is undecided; otherwise there is one."""
    assert audit_database(database, run=Run(digest=True), options=QUIET).file.sha256 is not None
    read = PageReader.file_content

    def disturbed(pages, offset, size):
        os.utime(database / "data.mdb", ns=(1, time.monotonic_ns()))
        return read(pages, offset, size)

    monkeypatch.setattr(PageReader, "file_content", disturbed)
    report = audit_database(database, run=Run(digest=True), options=QUIET)
    assert report.file.sha256 is None
    assert report.exit_code in (1, 2)  # a refused value was seen before the change, or not
    assert "changed during the audit" in report.undecided


@pytest.mark.threat("T19")
def test_a_database_that_is_replaced_meanwhile_is_not_clean(tmp_path):
    """Another file is at the path now, so the report does not judge it; an unchanged database is clean."""
    for replaced in (False, True):
        database = make_database(tmp_path / f"db{replaced}", {NAME: HONEST[0]})

        def step(*_, database=database, replaced=replaced):
            if replaced:
                database.rename(tmp_path / "before")
                shutil.copytree(tmp_path / "before", database)

        report = audit_database(database, run=Run(workers=1, progress=step), options=QUIET)
        assert report.verdict == ("undecided" if replaced else "clean")


def test_a_sample_is_a_first_look(database):
    """A part is judged, and the report says so; a sample of all or more is not a sample."""
    report = audit_database(database, run=Run(sample=20), options=QUIET)
    assert (report.sampled, report.checked, report.entries, report.undecided) == (True, 20, 100, None)
    assert [finding.position for finding in errors(report)] == [5, 50]
    for count in (100, 1000):
        report = audit_database(database, run=Run(sample=count), options=QUIET)
        assert (report.sampled, report.checked) == (False, 100)


@pytest.mark.threat("T31")
def test_lack_of_memory_at_one_database_leaves_the_reports_on_the_others(tmp_path):
    """It is no verdict on that database, and no end of the audit."""
    for name in "ab":
        make_database(tmp_path / name, {NAME: HONEST[0]})

    def judged(tasks, split):
        for task in tasks:
            if task.path.endswith("a"):
                raise MemoryError
            yield task, judge_range(task)

    first, second = audit_many([tmp_path], options=QUIET, run=Run(runner=judged))
    assert (first.verdict, second.verdict) == ("undecided", "clean")
    assert first.undecided == "there is not enough memory to examine it; free some, and audit it again"


@pytest.mark.threat("T12")
@pytest.mark.parametrize(("last", "exit_code"), [(HONEST[0], 2), (SHELL, 1)])
def test_a_value_for_which_memory_lacks_is_undecided(tmp_path, monkeypatch, last, exit_code):
    """Exit code 2 and not 1, unless another value is refused; that value is named, all others are judged."""
    monkeypatch.setenv("BEN_SECURE_TEST_LOSES", "1")
    large = make_patch(map=np.zeros(10**6)).dumps()
    records = {b"%03d" % n: HONEST[0] for n in range(40)} | {HUNGRY: large, b"large": large, b"z": last}
    options = Options(classes=(LosingPatch,), opinions=False)
    for workers in (1, 2):
        report = audit_database(make_database(tmp_path / "db", records), options=options, run=Run(workers=workers))
        assert (report.exit_code, report.checked, report.refused) == (exit_code, 42, int(exit_code == 1))
        assert re.search("b'hungry' was not judged: there was not enough memory", report.undecided)
        assert Rule.LOST not in report.rules


def verdicts(path):
    """Verdict by path below a folder, in the order of the reports."""
    reports = audit_many([path], options=QUIET)
    return [(os.path.relpath(report.database, path), report.verdict) for report in reports]


def test_a_folder_stands_for_the_databases_in_it(tmp_path):
    """Below it, too, in order; lock files and other files are passed over."""
    (tmp_path / "b").mkdir()
    make_database(tmp_path / "b" / "one", {NAME: HONEST[0]})
    make_database(tmp_path / "a.lmdb", {NAME: SHELL}, subdir=False)
    (tmp_path / "text").write_bytes(b"x" * 100_000)
    assert verdicts(tmp_path) == [("a.lmdb", "refused"), ("b/one", "clean")]
    assert verdicts(tmp_path / "b") == [("one", "clean")]
    reports = audit_many([tmp_path, tmp_path / "b"], options=QUIET)
    assert overall_exit_code(report.exit_code for report in reports) == 1
    assert overall_exit_code(report.exit_code for report in reports[1:]) == 0


@pytest.mark.threat("T12")
@pytest.mark.parametrize(
    "place", ["x.db", "no suffix", "UPPER.LMDB", ".hidden", "sub/.dir/x", "x.tif", "x.ben-secure-writing/data.mdb"]
)
@pytest.mark.parametrize(("value", "verdict"), [(SHELL, "refused"), (HONEST[0], "clean")])
def test_a_database_is_found_whatever_it_is_called(tmp_path, place, value, verdict):
    """The content decides, not the name; a hostile database beside an honest one is always found."""
    make_database(tmp_path / "honest", {NAME: HONEST[0]})
    made = make_database(tmp_path.parent / f"{tmp_path.name}.made", {NAME: value}, subdir=False)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    os.rename(made, tmp_path / place)
    name = place.removesuffix("/data.mdb")
    assert sorted(verdicts(tmp_path)) == sorted([("honest", "clean"), (name, verdict)])


@pytest.mark.threat("T12")
@pytest.mark.parametrize(("value", "verdict"), [(SHELL, "refused"), (HONEST[0], "clean")])
def test_links_are_followed_once(tmp_path, value, verdict):
    """As in a snapshot, which has nothing but links: to files and to folders, also to one above; each file once."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    for folder in (blobs, snapshot / "db"):
        folder.mkdir(parents=True)
    made = make_database(tmp_path.parent / f"{tmp_path.name}.made", {NAME: value}, subdir=False)
    os.rename(made, blobs / "0123abcd")
    (snapshot / "db" / "data.mdb").symlink_to(blobs / "0123abcd")
    (snapshot / "again.lmdb").symlink_to(blobs / "0123abcd")
    (snapshot / "up").symlink_to(tmp_path, target_is_directory=True)
    assert verdicts(tmp_path) == [("snapshots/1/again.lmdb", verdict)]
    (snapshot / "again.lmdb").unlink()
    assert verdicts(tmp_path) == [("snapshots/1/db", verdict)]
    assert verdicts(snapshot / "db") == [(".", verdict)]


@pytest.mark.threat("T12")
def test_a_database_in_the_folder_of_another_is_audited_too(tmp_path):
    """Both of them, wherever the hostile one is."""
    make_database(tmp_path / "db", {NAME: HONEST[0]})
    make_database(tmp_path / "db" / "inner", {NAME: SHELL})
    assert verdicts(tmp_path / "db") == [(".", "clean"), ("inner", "refused")]
    assert verdicts(tmp_path) == [("db", "clean"), ("db/inner", "refused")]


@pytest.mark.threat("T12")
@pytest.mark.parametrize("kind", ["FIFO", "loop", "dangling", "unreadable"])
def test_what_could_not_be_looked_at_is_named(tmp_path, kind, monkeypatch):
    """And the exit code is not 0; the same folder without it is clean."""
    make_database(tmp_path / "db", {NAME: HONEST[0]})
    assert verdicts(tmp_path) == [("db", "clean")]
    odd = tmp_path / "odd"
    if kind == "FIFO":
        os.mkfifo(odd)
    elif kind == "unreadable":
        odd.mkdir()
        real = os.listdir

        def listdir(path):
            if os.fspath(path) == str(odd):
                raise PermissionError(13, "Permission denied", path)
            return real(path)

        monkeypatch.setattr(os, "listdir", listdir)
    else:
        odd.symlink_to(odd if kind == "loop" else tmp_path / "gone")
    reports = audit_many([tmp_path], options=QUIET)
    assert [(report.database, report.verdict) for report in reports] == [
        (str(tmp_path / "db"), "clean"), (str(odd), "undecided"),
    ]  # fmt: skip
    assert "examined" in reports[1].undecided
    assert overall_exit_code(report.exit_code for report in reports) == 2


def test_a_walk_is_bounded(tmp_path, monkeypatch):
    """A folder with more entries than anybody has is reported as not inspected."""
    for name in range(5):
        (tmp_path / f"{name}").mkdir()
    monkeypatch.setattr("ben_secure.audit.run.discover.MAX_ENTRIES", 4)
    assert verdicts(tmp_path) == [(".", "undecided")]
    make_database(tmp_path / "0", {NAME: HONEST[0]})
    monkeypatch.setattr("ben_secure.audit.run.discover.MAX_ENTRIES", 7)
    assert verdicts(tmp_path) == [("0", "clean")]


def test_a_folder_without_a_database_is_undecided(tmp_path):
    """Nothing was checked, also if it is one of several; and none at all is nothing."""
    (tmp_path / "empty").mkdir()
    make_database(tmp_path / "db", {NAME: HONEST[0]})
    reports = audit_many([tmp_path / "empty", tmp_path / "db"], options=QUIET)
    assert [report.verdict for report in reports] == ["undecided", "clean"]
    assert "no LMDB database in this folder" in reports[0].undecided
    assert overall_exit_code(report.exit_code for report in reports) == 2
    assert overall_exit_code(report.exit_code for report in []) == 2


def test_the_exit_code_follows_the_level_that_is_asked_for(tmp_path):
    """A note alone is 0, unless notes are asked for; an interruption outweighs all."""
    database = make_database(tmp_path / "db", {b"name": HONEST[0]})
    codes = [audit_database(database, run=Run(fail_on=level), options=QUIET).exit_code for level in Level]
    assert codes == [0, 0, 1]


# Tags and manifests.


def tagged(keys=KEYS, context=b"c"):
    """Honest records with tags."""
    return {STEM + b"%d" % n: append_tag(keys.signing, context, STEM + b"%d" % n, HONEST[n]) for n in range(3)}


def demanding(since_manifest=False, **parts):
    """Options that demand tags, or a manifest."""
    return Options(verification=Verification(**parts), since_manifest=since_manifest, opinions=False)


@pytest.mark.threat("T9")
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, None),
        ({STEM + b"1": HONEST[1]}, Rule.TAG_MISSING),
        ({STEM + b"1": tagged()[STEM + b"2"]}, Rule.TAG_INVALID),
        ({STEM + b"1": tagged(STRANGERS)[STEM + b"1"]}, Rule.TAG_FOREIGN),
        ({STEM + b"1": tagged(context=b"d")[STEM + b"1"]}, Rule.TAG_INVALID),
    ],
)
def test_tags_are_verified_if_a_key_is_given(tmp_path, change, rule):
    """Each fault is a rule of its own; without a key the same values are clean."""
    database = make_database(tmp_path / "db", tagged() | change)
    report = audit_database(database, options=demanding(mac_key=KEYS, context="c"))
    assert [finding.rule for finding in report.findings] == [rule] * bool(change)
    assert report.exit_code == bool(change)
    assert audit_database(database, options=QUIET).exit_code == 0


def release(tmp_path, records, name="db"):
    """A database and its signed manifest; its path."""
    database = make_database(tmp_path / name, records)
    created = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    sign_database(database, [PUBLISHER], name="Ben", version="1", created=created)
    return database


@pytest.mark.threat("T8")
def test_a_manifest_is_verified_if_a_key_is_given(tmp_path):
    """Changed, added and missing records are findings with their keys; the released database is clean."""
    database = release(tmp_path, {b"%s%03d" % (STEM, n): HONEST[n % 4] for n in range(80)})
    options = demanding(verify_key=PUBLISHER.verify_key)
    assert audit_database(database, options=options, run=Run(workers=1)).exit_code == 0
    records = {b"%s%03d" % (STEM, n): HONEST[n % 4] for n in range(80)}
    for gone in (0, 40, 79):
        del records[b"%s%03d" % (STEM, gone)]
    shutil.rmtree(database)
    make_database(database, records | {STEM + b"007": HONEST[0], STEM + b"100": HONEST[0]})
    report = audit_database(database, options=options, run=Run(workers=1))
    assert [(finding.lmdb_key[-3:], finding.rule, finding.position) for finding in errors(report)] == [
        (b"000", Rule.RECORD_MISSING, 0),
        (b"007", Rule.MANIFEST, 6),
        (b"040", Rule.RECORD_MISSING, 39),
        (b"079", Rule.RECORD_MISSING, 77),
        (b"100", Rule.MANIFEST, 77),
    ]
    assert (report.checked, report.refused, report.exit_code) == (78, 2, 1)


@pytest.mark.threat("T19")
@pytest.mark.parametrize("since_manifest", [False, True])
def test_what_is_checked_at_open_is_checked_of_a_sample_too(tmp_path, since_manifest):
    """Readers refuse to open a database with another number of records, so a sample of it is not clean."""
    records = {b"%s%03d" % (STEM, n): HONEST[n % 4] for n in range(80)}
    database = release(tmp_path, records)
    options = demanding(verify_key=PUBLISHER.verify_key, since_manifest=since_manifest)
    for run in (Run(sample=10), Run(sample=10, resume=tmp_path / "state")):
        assert audit_database(database, options=options, run=run).verdict == "clean"
    del records[STEM + b"040"]
    shutil.rmtree(database)
    make_database(database, records)
    with pytest.raises(ManifestMismatchError):
        PatchReader(database, verify_key=PUBLISHER.verify_key)
    for run in (Run(sample=10), Run(sample=10, resume=tmp_path / "state"), Run(sample=10, workers=1)):
        report = audit_database(database, options=options, run=run)
        assert [(finding.rule, finding.lmdb_key) for finding in report.findings] == [(Rule.MANIFEST, None)]
        assert (report.exit_code, report.checked) == (1, 0)
        assert "79 records, expected 80" in report.findings[0].message


@pytest.mark.threat("T8")
def test_a_manifest_that_is_not_what_it_should_be_is_a_finding(tmp_path):
    """Of the database as a whole, and nothing is judged by it."""
    database = release(tmp_path, {NAME: HONEST[0]})
    report = audit_database(database, options=demanding(verify_key=SigningKey.generate().verify_key))
    assert [(finding.rule, finding.lmdb_key) for finding in report.findings] == [(Rule.SIGNATURE, None)]
    assert (report.exit_code, report.checked) == (1, 0)
    assert "were not judged" in report.undecided
    (tmp_path / "db.manifest").unlink()
    report = audit_database(database, options=demanding(verify_key=PUBLISHER.verify_key))
    assert (report.exit_code, report.findings) == (2, ())
    assert "the file does not exist" in report.undecided


@pytest.mark.threat("T19")
def test_since_a_manifest_records_may_be_added_and_not_removed(tmp_path):
    """A smaller number is noticed at once, and each removed record; the database that has grown is clean."""
    records = {STEM + b"%d" % n: HONEST[n % 4] for n in range(6)}
    database = release(tmp_path, records)
    options = demanding(verify_key=PUBLISHER.verify_key, since_manifest=True)
    fewer = dict(list(records.items())[:5])
    added = {STEM + b"7": HONEST[1], STEM + b"8": HONEST[1]}
    for content, rules in (
        (records | added, {}),
        (fewer | added, {Rule.RECORD_MISSING: 1}),
        (fewer, {Rule.MANIFEST: 1}),
    ):
        shutil.rmtree(database)
        make_database(database, content)
        assert audit_database(database, options=options).rules == rules
        sampled = audit_database(database, run=Run(sample=2), options=options)
        assert sampled.rules.get(Rule.MANIFEST, 0) == (content is fewer)


def test_since_a_manifest_only_new_and_changed_values_are_judged(tmp_path):
    """Listed values are only hashed and skipped; a hostile value that is not listed is found."""
    records = {STEM + b"%d" % n: HONEST[n % 4] for n in range(6)}
    database = release(tmp_path, records | {STEM + b"3": SHELL})
    options = demanding(verify_key=PUBLISHER.verify_key, since_manifest=True)
    report = audit_database(database, options=options)
    assert (report.tally.skipped, report.checked, report.verdict, report.findings) == (6, 0, "clean", ())
    shutil.rmtree(database)
    make_database(database, records | {STEM + b"1": SHELL, STEM + b"7": HONEST[1], STEM + b"3": SHELL})
    report = audit_database(database, options=options)
    assert (report.tally.skipped, report.checked) == (5, 2)
    assert [(finding.lmdb_key, finding.rule) for finding in report.findings] == [(STEM + b"1", Rule.FORBIDDEN_GLOBAL)]
    assert audit_database(database, options=QUIET).refused == 2


# Interrupted and resumed.


class Interrupted:
    """Interrupts an audit after some ranges."""

    def __init__(self, after):
        self.left = after

    def __call__(self, *counts):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupted_audit_tells_what_it_knows(database):
    """The exit code is that of an interruption."""
    report = audit_database(database, run=Run(workers=1, progress=Interrupted(1)), options=QUIET)
    assert (report.checked, report.refused, report.exit_code, report.interrupted) == (32, 1, 130, True)
    assert report.undecided == "interrupted after 32 of 100 records"
    reports = audit_many([database, database], run=Run(workers=1, progress=Interrupted(1)), options=QUIET)
    assert [report.undecided for report in reports] == [
        "interrupted after 32 of 100 records",
        "interrupted before its audit started",
    ]
    assert overall_exit_code(report.exit_code for report in reports) == 130


def test_an_audit_that_is_interrupted_while_it_looks_for_databases_says_so(database, monkeypatch):
    """The folder is named, and those that come behind it are; nothing is clean."""

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "databases_in", interrupted)
    reports = audit_many(["folder", database], options=QUIET)
    assert [(report.database, report.exit_code) for report in reports] == [("folder", 130), (str(database), 130)]
    assert "interrupted during the search for databases" in reports[0].undecided


@pytest.mark.parametrize(("after", "opinions"), [(1, False), (2, True), (3, False), (4, False)])
def test_resumed_it_ends_as_if_it_had_not_been_interrupted(database, tmp_path, after, opinions):
    """The report is the same, and only the rest is judged; the file is private, and removed at the end."""
    options, state = Options(opinions=opinions), tmp_path / "state"
    expected = audit_database(database, options=options, run=Run(workers=1))
    audit_database(database, options=options, run=Run(workers=1, resume=state, progress=Interrupted(after)))
    assert state.stat().st_mode & 0o777 == 0o600
    steps = []
    how = Run(workers=1, resume=state, progress=lambda *counts: steps.append(counts))
    report = audit_database(database, options=options, run=how)
    done = min(32 * after, 100)
    assert report.resumed == done
    assert [counts[0] for counts in steps] == [n for n in (32, 64, 96, 100) if n > done]
    assert (report.tally, report.undecided) == (expected.tally, None)
    assert not state.exists()


def test_it_does_not_matter_how_long_the_check_of_the_whole_takes(database, monkeypatch):
    """Ranges are judged meanwhile: the report is the same as if the pages had been checked before."""
    of_the_whole = Finding(rule=Rule.FOREIGN_FILE, message="odd")
    judged = threading.Event()

    def slow(*_):
        assert judged.wait(60)
        return [of_the_whole]

    monkeypatch.setattr(structure, "structure_findings", lambda *_: [of_the_whole])
    expected = audit_database(database, run=Run(workers=1), options=QUIET)
    monkeypatch.setattr(structure, "structure_findings", slow)
    how = Run(workers=1, progress=lambda done, *_: done >= 64 and judged.set())
    assert audit_database(database, run=how, options=QUIET) == expected
    assert of_the_whole in expected.findings


def test_what_comes_before_damage_is_told(tmp_path, monkeypatch):
    """The walk over the keys ends early; the report has the earlier findings and those about the whole."""
    database = make_database(tmp_path / "db", {b"%0200d" % n: b"no pickle" for n in range(1000)})
    damage_key(database, b"%0200d" % 900)
    found = Finding(rule=Rule.DAMAGED, message="torn")
    monkeypatch.setattr(structure, "structure_findings", lambda *_: [found])
    report = audit_database(database, run=Run(workers=1), options=QUIET)
    assert report.refused > 100
    assert report.rules == {Rule.DAMAGED: 1, Rule.NOT_A_PICKLE: report.refused}
    assert "this LMDB file is damaged" in report.undecided
    assert report.findings[0] == found


def test_an_audit_interrupted_before_the_whole_was_looked_at_goes_on(database, monkeypatch, tmp_path):
    """Nothing waits for that check; judged values are kept, and the next run checks the whole database."""
    interrupted = threading.Event()
    found = Finding(rule=Rule.FOREIGN_FILE, message="odd")
    monkeypatch.setattr(structure, "structure_findings", lambda *_: interrupted.wait(60) and [])
    state = tmp_path / "state"

    def interrupt(*_):
        interrupted.set()
        raise KeyboardInterrupt

    report = audit_database(database, run=Run(workers=1, resume=state, progress=interrupt), options=QUIET)
    assert (report.checked, report.refused, report.interrupted) == (32, 1, True)
    monkeypatch.setattr(structure, "structure_findings", lambda *_: [found])
    report = audit_database(database, run=Run(resume=state), options=QUIET)
    assert (report.resumed, report.rules[Rule.FOREIGN_FILE]) == (32, 1)


@pytest.mark.threat("T12")
def test_the_database_as_a_whole_is_looked_at_again_by_a_resumed_audit(database, tmp_path, monkeypatch):
    """A check that is still impossible is undecided; a check that is now possible is not."""

    def busy(*_):
        raise StoreError("somebody writes all the time")

    state = tmp_path / "state"
    for check, words in ((busy, "somebody writes all the time"), (lambda *_: [], None)):
        audit_database(database, run=Run(workers=1, resume=state, progress=Interrupted(1)), options=QUIET)
        monkeypatch.setattr(structure, "structure_findings", check)
        report = audit_database(database, run=Run(resume=state), options=QUIET)
        assert (report.resumed, report.undecided) == (32, words)
        state.unlink(missing_ok=True)


@pytest.mark.threat("T12")
def test_a_file_that_was_written_behind_the_tool_is_not_gone_on_with(database, tmp_path):
    """A hostile value in the judged part with a restored file time is noticed; the untouched file is resumed."""
    state, data = tmp_path / "state", database / "data.mdb"
    for touched, words in ((False, None), (True, "the database changed after")):
        audit_database(database, run=Run(workers=1, resume=state, progress=Interrupted(1)), options=QUIET)
        before = data.stat()
        time.sleep(0.05)  # file systems count in ticks of the kernel
        if touched:
            with open(data, "r+b") as file:
                byte = file.read(1)
                file.seek(0)
                file.write(byte)
            os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
            file_now = data.stat()
            assert (file_now.st_mtime_ns, file_now.st_size) == (before.st_mtime_ns, before.st_size)
        report = audit_database(database, run=Run(resume=state), options=QUIET)
        assert (report.undecided or "").startswith(words or "")
        assert bool(report.undecided) == touched


def test_a_sample_is_resumed_too(database, tmp_path):
    """It continues after the last judged record."""
    state = tmp_path / "state"
    expected = audit_database(database, run=Run(sample=20), options=QUIET)
    audit_database(database, run=Run(sample=20, resume=state, progress=Interrupted(7)), options=QUIET)
    report = audit_database(database, run=Run(sample=20, resume=state), options=QUIET)
    assert (report.resumed, report.tally) == (7, expected.tally)


@pytest.mark.threat("T12")
def test_only_the_same_audit_of_the_same_database_is_resumed(database, tmp_path):
    """After a change of data or options earlier findings are not used; the unchanged audit continues."""
    state = tmp_path / "state"
    audit_database(database, run=Run(workers=1, resume=state, progress=Interrupted(1)), options=QUIET)
    kept = state.read_bytes()
    for options, how in [
        (Options(), Run(resume=state)),
        (demanding(mac_key=KEYS), Run(resume=state)),
        (QUIET, Run(resume=state, sample=5)),
    ]:
        report = audit_database(database, options=options, run=how)
        assert (report.exit_code, report.checked) == (2, 0)
        assert "was written with other options" in report.undecided
        assert state.read_bytes() == kept
    assert audit_database(database, run=Run(workers=2, resume=state), options=QUIET).resumed == 32
    state.write_bytes(kept)
    state.chmod(0o600)
    make_database(database, {b"x": HONEST[0]})
    report = audit_database(database, run=Run(resume=state), options=QUIET)
    assert (report.exit_code, report.checked) == (2, 0)
    assert "the database changed after" in report.undecided


@pytest.mark.threat("T12")
def test_a_state_that_others_can_have_written_is_refused(database, tmp_path):
    """Others could make values count as judged; a malformed state is refused, too, and never overwritten."""
    state = tmp_path / "state"
    audit_database(database, run=Run(workers=1, resume=state, progress=Interrupted(1)), options=QUIET)
    kept = state.read_bytes()
    for mode in (0o620, 0o602):
        state.chmod(mode)
        with pytest.raises(StoreError, match="can be changed by others"):
            audit_database(database, run=Run(resume=state), options=QUIET)
    state.chmod(0o600)
    document = json.loads(kept)
    (section,) = document["databases"].values()
    name = str(database)
    (part,) = section["judged"]["parts"]

    def lying(**change):
        judged = {"parts": [part | change], "failed": None}
        return json.dumps(document | {"databases": {name: section | {"judged": judged}}}).encode()

    for wrong in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps(document | {"schema": 1}).encode(),
        json.dumps(document | {"databases": []}).encode(),
        json.dumps(document | {"databases": {name: []}}).encode(),
        json.dumps(document | {"shard": [1, 2]}).encode(),
        json.dumps(document | {"shard": [2, 1]}).encode(),
        *(lying(records=31), lying(records=101), lying(stop=""), lying(stop=1), lying(tally={})),
    ):
        state.write_bytes(wrong)
        words = None
        try:
            words = audit_database(database, run=Run(resume=state), options=QUIET).undecided
        except StoreError as error:
            words = error.message
        assert words is not None, wrong[:80]
        assert re.search("the state of an audit|finish the audit with|is the result of a shard", words)
        assert state.read_bytes() == wrong
    state.write_bytes(kept)
    assert audit_database(database, run=Run(resume=state), options=QUIET).resumed == 32


def test_a_state_that_cannot_be_written_is_told(database, tmp_path):
    """The error comes before any work; if it occurs later, the report has it, and only resuming is lost."""
    folder = tmp_path / "folder"
    judged, shown = [], printable(str(folder), 400)
    nowhere = re.escape(f"{shown}/state: its folder must exist and be writable")
    for path, words in ((folder / "state", nowhere), (tmp_path, "is a directory; name a file")):
        with pytest.raises(StoreError, match=words):
            audit_database(
                database, run=Run(resume=path, progress=lambda *counts: judged.append(counts)), options=QUIET
            )
    assert not judged
    folder.mkdir()
    gone = Run(resume=folder / "state", progress=lambda *_: folder.rmdir() if folder.exists() else None)
    report = audit_database(database, run=gone, options=QUIET)
    assert report.tally.processed == report.entries
    assert report.undecided == (
        f"cannot write {shown}/state: No such file or directory; the directory must exist and be writable"
    )


def test_no_secret_is_in_the_state(tmp_path):
    """Keys are named by their fingerprints."""
    database = make_database(tmp_path / "db", tagged())
    state = tmp_path / "state"
    options = demanding(mac_key=KEYS, context="c")
    audit_database(database, options=options, run=Run(resume=state, progress=Interrupted(1)))
    text = state.read_text()
    assert KEYS.fingerprint in text
    assert bytes(range(32)).hex() not in text
    assert audit_database(database, options=options, run=Run(resume=state)).resumed == 3


# The command.


def audit(*arguments):
    """The exit code of the command."""
    return main(["audit", *map(str, arguments)])


@pytest.mark.slow
def test_ctrl_c_ends_the_workers_and_tells_what_is_known(tmp_path):
    """The exit code is 130, with a partial report on stdout, the state in its file, and no process left."""
    database = make_database(tmp_path / "db", {b"%s%06d" % (STEM, n): HONEST[n % 4] for n in range(40_000)})
    state, answer = tmp_path / "state", tmp_path / "answer"
    command = [sys.executable, "-m", "ben_secure", "audit", str(database), "--no-fickling", "--workers", "1"]
    with answer.open("wb") as file:  # an unread pipe would block it
        running = subprocess.Popen(
            [*command, "--resume", str(state), "--json"], stdout=file, stderr=subprocess.PIPE, text=True
        )
    workers = []
    while running.poll() is None and not any(_ticks(worker) > 120 for worker in workers):
        servers = [child for child in _children(running.pid) if b"_system.forks" in _command_line(child)]
        workers = [int(worker) for server in servers for worker in _children(server)]
        time.sleep(0.01)
    for worker in workers:  # so that it is not done before it is interrupted
        os.kill(worker, signal.SIGSTOP)
    before = -1
    while before != (before := _ticks(running.pid)):  # it sums the counts up to then
        time.sleep(1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=600)
    assert (running.returncode, err) == (130, "")
    document = json.loads(answer.read_bytes())
    assert document["exit_code"] == 130
    assert "interrupted after" in document["databases"][0]["error"]
    assert 0 < document["checked"] < 40_000  # each of them with a note on its name
    told = len(document["databases"][0]["findings"]) + document["findings_left_out"]
    assert told == document["checked"]
    assert workers
    assert not any(_command_line(child) for child in workers)
    assert state.exists()
    done = subprocess.run([*command, "--resume", str(state), "--json"], capture_output=True, text=True)
    assert (done.returncode, json.loads(done.stdout)["checked"]) == (0, 40_000)


def _ticks(process):
    """Processor time that a process has taken, in hundredths of a second mostly; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return int(pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11])
    return 0


def _children(process):
    """The processes that its threads have started."""
    found = []
    for file in pathlib.Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += file.read_text().split()
    return found


def _command_line(process):
    try:
        return pathlib.Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def test_the_command_passes_its_options_on(tmp_path, capsys, monkeypatch):
    """Each option changes the scope or the method of the audit."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "db", RECORDS)
    make_database(tmp_path / "tagged", tagged())
    write_mac_keys("key", KEYS)
    write_mac_keys("other", STRANGERS)
    write_signing_key("publisher", PUBLISHER)
    write_verify_key("publisher.pub", PUBLISHER.verify_key)
    release(tmp_path, {NAME: SHELL, b"name": HONEST[0]}, "released")

    def document(*arguments):
        capsys.readouterr()
        code = audit(*arguments, "--json", "--no-fickling")
        found = json.loads(capsys.readouterr().out)
        assert found["exit_code"] == code
        return found

    assert document("db", "--sample", 10)["databases"][0]["sampled"] is True
    assert document("db", "--workers", 1, "--value-timeout", 30)["refused"] == 3
    assert document("tagged", "--mac-key", "key", "--context", "c")["rules"] == {}
    assert document("tagged", "--mac-key", "other", "--context", "c")["rules"] == {"tag-foreign": 3}
    assert document("released", "--verify-key", "publisher.pub")["rules"] == {
        "forbidden-global": 1,
        "lmdb-key-name": 1,
    }
    skipped = document("released", "--verify-key", "publisher.pub", "--since-manifest", "--name", "Ben")
    assert (skipped["skipped"], skipped["exit_code"]) == (2, 0)
    assert document("released", "--verify-key", "publisher.pub", "--version", "2")["rules"] == {"manifest-mismatch": 1}
    assert len(document(".")["databases"]) == 3
    assert document("tagged", "--fail-on", "note")["exit_code"] == 0
    make_database(tmp_path / "tagged", {b"name": HONEST[0]})
    assert [document("tagged", "--fail-on", level)["exit_code"] for level in ("error", "warning", "note")] == [0, 0, 1]


def test_the_report_goes_into_a_file_whole_and_once(tmp_path, capsys):
    """An existing file is kept unless --force is given."""
    database = make_database(tmp_path / "db", {NAME: SHELL})
    for form in ("table", "json", "sarif"):
        report = tmp_path / f"report.{form}"
        report.write_text("mine")
        assert audit(database, "--format", form, "--output", report, "--no-fickling") == 2
        assert "(--force, overwrite=True)" in str(capsys.readouterr())
        assert report.read_text() == "mine"
        force = ["--force"] if form == "json" else []
        if not force:
            report.unlink()
        assert audit(database, "--format", form, "--output", report, "--no-fickling", *force) == 1
        assert capsys.readouterr().out == ""
        assert b"forbidden-global" in report.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "report.json", "report.sarif", "report.table"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--context", "c"], "--context requires --mac-key"),
        (["--name", "Ben"], "require --verify-key"),
        (["--since-manifest"], "--since-manifest requires --verify-key"),
        (["--workers", "0"], "--workers"),
        (["--sample", "0"], "--sample"),
        (["--format", "pdf"], "--format"),
        (["--fail-on", "never"], "--fail-on"),
        (["--value-timeout", "0"], "--value-timeout"),
        (["--mac-key", "missing"], "cannot read missing"),
        (["--verify-key", "missing"], "cannot read missing"),
        (["db", "--verify-key", "key.pub", "--manifest", "m"], "--manifest is for a single database"),
    ],
)
def test_options_that_mean_nothing_are_told(tmp_path, capsys, monkeypatch, arguments, words):
    """Before a database is read."""
    monkeypatch.chdir(tmp_path)
    write_verify_key("key.pub", PUBLISHER.verify_key)
    assert audit("db", *arguments) == 2
    assert words in capsys.readouterr().err
