"""Workers of the audit: any partition gives one tally, and a value that stops a worker is found, not obeyed."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure import Limits, StoreError
from ben_secure._system import forks
from ben_secure.audit import Options
from ben_secure.audit.findings import Finding, Tally
from ben_secure.audit.run import workers
from ben_secure.audit.run._wire import tally_from_json, tally_to_json
from ben_secure.audit.run.ranges import RangeTask, cut, judge_range, open_pages, sample, split
from ben_secure.audit.run.workers import Workers
from ben_secure.errors import ResourceError, Rule
from support.databases import HONEST, NAME, SHELL, make_database

OPTIONS = Options(limits=Limits(max_value_bytes=60_000))
RECORDS = {b"%s%02d" % (NAME[:-2], n): HONEST[n % 4] for n in range(30)} | {
    NAME[:-2] + b"03": SHELL,
    NAME[:-2] + b"11": bytes(70_000),
    NAME[:-2] + b"12": b"no pickle",
    NAME[:-2] + b"29": SHELL + b"x",
    b"other": HONEST[0],
}
HOSTILE = NAME[:-2] + b"07"


def total(tallies):
    """The sum of tallies."""
    found = Tally()
    for tally in tallies:
        found.extend(tally)
    return found


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database with honest and hostile records; its path."""
    return str(make_database(tmp_path_factory.mktemp("workers") / "db", RECORDS))


@pytest.fixture
def pages(database):
    """A reader of it."""
    with open_pages(database, OPTIONS) as reader:
        yield reader


@pytest.fixture
def whole(database, pages):
    """The tally of all of it, judged as one range."""
    (task,) = cut(pages, database, OPTIONS, 1000)
    return judge_range(task)


# Ranges.


def test_the_whole_is_what_it_is(whole):
    """The tally that the laws compare with has something of everything."""
    assert (whole.checked, whole.refused, whole.undecided) == (31, 4, None)
    assert whole.rules == {Rule.FORBIDDEN_GLOBAL: 2, Rule.LIMIT: 1, Rule.NOT_A_PICKLE: 1, Rule.KEY_NAME: 1}
    assert [finding.position for finding in whole.findings] == [3, 29, 11, 12, 30]


@pytest.mark.parametrize("records", [1, 2, 7, 30, 31, 32])
def test_any_ranges_add_up_to_the_whole(database, pages, whole, records):
    """However the keys are cut, the sum is the same; the tasks survive pickling."""
    tasks = list(cut(pages, database, OPTIONS, records))
    assert [task.records for task in tasks[:-1]] == [records] * (len(tasks) - 1)
    assert sum(task.records for task in tasks) == 31
    assert total(judge_range(pickle.loads(pickle.dumps(task))) for task in tasks) == whole


@settings(max_examples=20)
@given(st.lists(st.integers(0, 30), max_size=4))
def test_a_range_can_be_split_around_any_record(places):
    """So can the parts; the sum stays the same, and the record is alone."""
    with open_pages(_database(), OPTIONS) as pages:
        (task,) = cut(pages, _database(), OPTIONS, 1000)
        parts = [task]
        for place in places:
            index = next(n for n, part in enumerate(parts) if part.position + part.records > place)
            if not parts[index].alone:
                cut_out = split(pages, parts[index], place - parts[index].position)
                assert next(part for part in cut_out if part.position == place and part.records == 1).alone
                parts[index : index + 1] = cut_out
        assert total(map(judge_range, parts)) == judge_range(task)


@functools.cache
def _database():
    """The same database for a property test, which cannot use function fixtures."""
    return str(make_database(pathlib.Path(tempfile.mkdtemp(prefix="ben-secure-test-")) / "db", RECORDS))


def test_a_sample_is_spread_evenly(database, pages, whole):
    """It is the same each time, and the finding for a record does not depend on the others."""
    tasks = list(sample(pages, database, OPTIONS, 10))
    assert [task.position for task in tasks] == [n * 31 // 10 for n in range(10)]
    assert all(task.alone for task in tasks)
    found = total(map(judge_range, tasks))
    assert found.checked == 10
    assert [finding.position for finding in found.findings] == [3, 12]
    assert all(finding in whole.findings for finding in found.findings)


def test_another_state_of_the_database_is_not_judged(database, pages):
    """A range of a file that has changed since has no findings."""
    (task,) = cut(pages, database, OPTIONS, 1000)
    for change in ({"txnid": 99}, {"mtime_ns": 1}, {"ctime_ns": 1}, {"inode": 1}):
        other = dataclasses.replace(task, identity=dataclasses.replace(task.identity, **change))
        tally = judge_range(other)
        assert (tally.checked, tally.findings) == (0, [])
        assert "changed during" in tally.undecided
    assert judge_range(task).undecided is None


# What workers hand back.


def test_a_tally_survives_the_way_through_json(whole):
    """Nothing is lost or changed."""
    assert tally_from_json(json.loads(json.dumps(tally_to_json(whole)))) == whole


def test_only_tallies_are_taken_for_tallies(whole):
    """Each member is checked; a text that could take over a terminal is escaped."""
    document = tally_to_json(whole)
    for name in document:
        for wrong in (-1, "x", [[]], {"x": "y"}):
            with pytest.raises((ValueError, TypeError)):
                tally_from_json(document | {name: wrong} if name != "undecided" or wrong != "x" else {})
    with pytest.raises(ValueError, match="members"):
        tally_from_json(document | {"more": 1})
    document["findings"][0]["message"] = "\x1b[31m"
    assert tally_from_json(document).findings[0].message == "\\x1b[31m"


# Processes.


@pytest.mark.parametrize(("count", "records"), [(1, 31), (2, 3)])
def test_workers_find_what_one_process_finds(database, pages, whole, count, records):
    """The findings are in key order."""
    with Workers(count, max_value_bytes=60_000) as pool:
        done = list(pool.judge_ranges(cut(pages, database, OPTIONS, records), functools.partial(split, pages)))
    assert [task.position for task, _ in done] == list(range(0, 31, records))
    assert total(tally for _, tally in done) == whole


def dying(task: RangeTask, announce) -> Tally:
    """A judge that is killed at one value."""
    return _judge(task, announce, lambda: os.kill(os.getpid(), signal.SIGSEGV))


def hanging(task: RangeTask, announce) -> Tally:
    """A judge that never comes back from one value."""
    return _judge(task, announce, lambda: time.sleep(60))


def stopping(task: RangeTask, announce) -> Tally:
    """A judge that is stopped at one value, and with it its alarm clock."""
    return _judge(task, announce, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def failing(task: RangeTask, announce) -> Tally:
    """A judge with an error of its own at one value."""
    return _judge(task, announce, lambda: 1 / 0)


def eating(task: RangeTask, announce) -> Tally:
    """A judge that takes all memory at one value."""
    return _judge(task, announce, lambda: [bytearray(2**28) for _ in range(64)])


def lacking(task: RangeTask, announce) -> Tally:
    """A judge that says that there is not enough memory at one value."""

    def stop():
        raise ResourceError("no memory")

    return _judge(task, announce, stop)


def lacking_once(task: RangeTask, announce) -> Tally:
    """A judge that lacks memory for everything, the first time."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(os.path.dirname(task.path), "was-full"))
        announce(3)
        raise MemoryError
    return judge_range(task, announce)


def _judge(task, announce, stop):
    with open_pages(task.path, OPTIONS) as pages:
        for number, lmdb_key in enumerate(pages.keys(task.start, task.stop)):
            announce(number)
            if lmdb_key == HOSTILE:
                stop()
    return judge_range(task, announce)


@pytest.mark.threat("T12")
@pytest.mark.parametrize(
    ("judge", "seconds", "fate"),
    [
        (dying, 60, "killed by signal 11"),
        (hanging, 0.5, r"did not finish within 0\.5 s"),
        pytest.param(failing, 60, "it ended with ZeroDivisionError: division by zero", marks=pytest.mark.slow),
    ],
)
def test_a_value_that_stops_a_worker_is_a_finding_and_the_audit_goes_on(database, pages, whole, judge, seconds, fate):
    """Exactly that value; everything else is found as it was."""
    with Workers(2, judge=judge, value_timeout_s=seconds) as pool:
        found = total(
            tally for _, tally in pool.judge_ranges(cut(pages, database, OPTIONS, 20), functools.partial(split, pages))
        )
    (lost,) = [finding for finding in found.findings if finding.rule is Rule.LOST]
    assert (lost.lmdb_key, lost.position) == (HOSTILE, 7)
    assert re.search(f"was lost, twice: .*{fate}", lost.message)
    assert [finding for finding in found.findings if finding.rule is not Rule.LOST] == whole.findings
    assert (found.checked, found.refused) == (31, 5)


def killed(task: RangeTask, announce) -> Tally:
    """A judge whose process the kernel ends at one value, as it does where memory is short."""
    return _judge(task, announce, lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.threat("T12")
@pytest.mark.parametrize(
    ("judge", "why"),
    [
        pytest.param(eating, "there was not enough memory", marks=pytest.mark.slow),
        (lacking, "there was not enough memory"),
        (killed, "its process was killed from outside, twice"),
    ],
)
def test_a_value_for_which_memory_lacks_is_undecided(database, pages, whole, judge, why):
    """It is not a finding and does not count as refused; the other findings are unchanged."""
    with Workers(2, judge=judge) as pool:
        found = total(
            tally for _, tally in pool.judge_ranges(cut(pages, database, OPTIONS, 20), functools.partial(split, pages))
        )
    assert re.search(f"the value at LMDB key .*{HOSTILE[-9:].decode()}.* was not judged: {why}", found.undecided)
    assert found.findings == whole.findings
    assert (found.checked, found.refused, found.rules) == (30, 4, whole.rules)


def test_memory_that_lacks_once_decides_nothing(database, pages, whole):
    """The value is judged alone, by a new process that has its memory for itself."""
    with Workers(1, judge=lacking_once) as pool:
        found = total(
            tally for _, tally in pool.judge_ranges(cut(pages, database, OPTIONS, 40), functools.partial(split, pages))
        )
    assert found == whole


@pytest.mark.slow
@pytest.mark.threat("T12")
def test_a_worker_that_is_stopped_is_given_up(database, pages, monkeypatch):
    """It cannot end itself any more, which is not the fault of the value."""
    monkeypatch.setattr(workers, "_SLACK_S", 0.0)
    monkeypatch.setattr(workers, "_POLL_S", 0.1)
    with Workers(1, judge=stopping, value_timeout_s=0.2) as pool:
        found = total(
            tally for _, tally in pool.judge_ranges(cut(pages, database, OPTIONS, 20), functools.partial(split, pages))
        )
    assert Rule.LOST not in found.rules
    assert (found.checked, "was not judged: its process was killed from outside" in found.undecided) == (30, True)


def killed_once(task: RangeTask, announce) -> Tally:
    """A judge that is killed from outside, the first time."""
    try:
        os.mkdir(os.path.join(os.path.dirname(task.path), "was-here"))
    except FileExistsError:
        return judge_range(task, announce)
    announce(3)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_value_is_not_to_blame_for_what_happens_once(database, pages, whole):
    """A worker that was killed for another reason leaves no finding."""
    with Workers(1, judge=killed_once) as pool:
        found = total(
            tally for _, tally in pool.judge_ranges(cut(pages, database, OPTIONS, 40), functools.partial(split, pages))
        )
    assert found == whole


def never_begins(task: RangeTask, announce) -> Tally:
    """A judge that dies before it comes to a value."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_no_value_is_to_blame_if_workers_never_come_to_one(database, pages):
    """Then the audit could not judge: undecided."""
    with (
        Workers(1, judge=never_begins) as pool,
        pytest.raises(StoreError, match="end before they reach a value: its process was killed from outside"),
    ):
        list(pool.judge_ranges(cut(pages, database, OPTIONS, 40), functools.partial(split, pages)))


@pytest.mark.threat("T12")
def test_too_many_lost_values_end_the_audit(database, pages, monkeypatch):
    """A database of values that kill the judge cannot keep it busy for days."""
    monkeypatch.setattr(workers, "MAX_LOST", 0)
    with Workers(1, judge=dying) as pool, pytest.raises(StoreError, match="more than 0 values have stopped a worker"):
        list(pool.judge_ranges(cut(pages, database, OPTIONS, 40), functools.partial(split, pages)))


@pytest.mark.parametrize("late", [0, 0.5])
@pytest.mark.parametrize(
    ("program", "fate"), [("false", "it ended with exit code 1"), ("missing", "No such file or directory")]
)
def test_a_worker_that_cannot_start_is_told(database, pages, monkeypatch, tmp_path, program, fate, late):
    """It is nothing that a value did, be it gone before it is spoken to or behind that."""

    class Started(subprocess.Popen):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            time.sleep(late)

    monkeypatch.setattr(forks.subprocess, "Popen", Started)
    monkeypatch.setattr(forks.sys, "executable", shutil.which(program) or str(tmp_path / program))
    with Workers(1) as pool, pytest.raises(StoreError, match=f"could not be started: .*{fate}"):
        list(pool.judge_ranges(cut(pages, database, OPTIONS, 40), functools.partial(split, pages)))


def test_ranges_before_a_failure_are_given_out(database, pages):
    """Complete ranges are judged, then the damage is raised."""

    def damaged():
        yield next(cut(pages, database, OPTIONS, 5))
        raise StoreError("torn")

    with Workers(1) as pool:
        judged = pool.judge_ranges(damaged(), functools.partial(split, pages))
        assert next(judged)[0].records == 5
        with pytest.raises(StoreError, match="torn"):
            next(judged)


def test_the_first_range_is_at_work_while_others_are_cut(database, pages):
    """The keys of a large database on a cold disk take a while."""
    at_work = []

    def slowly():
        for task in cut(pages, database, OPTIONS, 20):
            at_work.append([worker.job.task.position for worker in pool._workers if worker.job is not None])
            yield task

    with Workers(2) as pool:
        assert len(list(pool.judge_ranges(slowly(), functools.partial(split, pages)))) == 2
    assert at_work == [[], [0]]


def test_a_finding_of_the_whole_database_travels_too():
    """It has no LMDB key."""
    tally = Tally()
    tally.add(Finding(rule=Rule.DAMAGED, message="torn"))
    assert tally_from_json(tally_to_json(tally)) == tally
