"""Worker processes that judge ranges of keys, and what to do when one is lost at a value.

A value may kill the process that judges it, or keep it for ever; then that value is judged once more, alone, by a new
process. If that is lost too, the value gets a finding, or is undecided if memory lacked or somebody killed the process;
the audit goes on behind it. So no value is ever judged in the process that the caller cares about. Workers are forked
by a process that has no threads and has imported nothing but what they need (``_system.forks``): they share no memory,
lock or thread with the caller, and do not import the caller's main program. Their results come back as JSON, in the
order of the ranges, and a bounded number of ranges is under way at a time.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait

from ben_secure._system.forks import ForkServer, server_for
from ben_secure.audit.findings import Finding, Tally
from ben_secure.audit.judge.formats import REFUSED
from ben_secure.audit.run._wire import tally_from_json
from ben_secure.audit.run._worker import NO_MEMORY, NOWHERE, PLACE, READY, JudgeFunction
from ben_secure.audit.run.ranges import RangeTask, judge_range
from ben_secure.errors import Rule, StoreError, printable

VALUE_TIMEOUT_S = 60.0
"""How long a worker may be at one value, seconds; an honest one takes 0.0001. A cold network disk may take its time."""

MAX_LOST = 100
"""Values that may cost workers before the audit gives up: each takes two processes, and perhaps two timeouts."""

Split = Callable[[RangeTask, int], list[RangeTask]]
"""Cuts a range around one of its records, see ``ranges.split``."""

_AHEAD = 32  # ranges for each worker; bounds what waits for a slow one
_ATTEMPTS = 3
_ANSWER_BYTES = 2**28
_POLL_S = 1.0
_START_S = 120.0
_SLACK_S = 10.0
_MEMORY_BYTES = 2**30  # beyond what a worker has at the start, and eight times the longest value


@dataclass(slots=True, eq=False)
class _Job:
    """A range on its way: how often a worker was lost at it, who has it, what was found."""

    task: RangeTask
    losses: int = 0
    given: bool = False
    tally: Tally | None = None


class _Worker:
    """One process and the connection to it."""

    def __init__(self, forks: ForkServer, judge: JudgeFunction, seconds: float, memory_bytes: int) -> None:
        self.job: _Job | None = None
        self.ready = False
        self._code: int | None = None  # once it was ended
        self._seconds = seconds
        self._forks = forks
        self.connection, theirs = Pipe()
        with tempfile.TemporaryFile() as file, theirs:
            file.truncate(PLACE.size)
            self._place = mmap.mmap(file.fileno(), PLACE.size)
            self._child = forks.fork(theirs.fileno(), file.fileno())
        self._announce_nothing()
        self._send((judge, seconds, memory_bytes))

    @property
    def place(self) -> int:
        """Records of its range that it is done with, or ``NOWHERE``."""
        number: int = PLACE.unpack_from(self._place)[0]
        return number

    def give(self, job: _Job) -> None:
        """Hand over a range."""
        self.job = job
        job.given = True
        self._announce_nothing()
        self._send(job.task)

    def _send(self, content: object) -> None:
        with contextlib.suppress(OSError):  # it is dead, which shows when it is waited for
            self.connection.send(content)

    def _announce_nothing(self) -> None:
        PLACE.pack_into(self._place, 0, NOWHERE)
        self._seen = NOWHERE
        self._since = time.monotonic()

    def end_if_stuck(self) -> None:
        """Kill it if it is much longer at one value than it may: it could not end itself, being stopped or starved."""
        if self.place != self._seen:
            self._seen, self._since = self.place, time.monotonic()
        patience = _START_S + 10 * self._seconds if self._seen == NOWHERE else _SLACK_S + 2 * self._seconds
        if time.monotonic() - self._since > patience:
            self._end()

    def _end(self) -> int:
        """Kill it if it still runs; returns its exit code, or minus the signal that ended it."""
        if self._code is None:
            self._code = self._forks.end(self._child)
        return self._code

    def receive(self) -> Tally | None:
        """Take what it sends.

        Returns:
            The tally of its range, or None if it says that it is ready.

        Raises:
            _Lost: It is dead, or says that it cannot go on.
        """
        try:
            answer = self.connection.recv_bytes(_ANSWER_BYTES)
            if not self.ready and answer == READY:
                self.ready = True
                return None
            document = json.loads(answer)
            if "tally" in document:
                return tally_from_json(document["tally"])
            raise _Lost(f"it ended with {printable(document['failed'], 400)}")
        except (EOFError, OSError) as error:
            raise self._fate() from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _Lost("it gave an answer that makes no sense") from error

    def _fate(self) -> _Lost:
        code = self._end()  # it has closed the connection; it may still be dying of something else
        if code == NO_MEMORY:
            return _Lost("there was not enough memory to judge it", undecided=True)
        # No value can do that to a process without more memory than it may have; the kernel does where memory is
        # short, also for a group of processes (a job of Slurm), and ``end_if_stuck`` to one that was stopped.
        if code == -signal.SIGKILL:
            return _Lost("its process was killed from outside, twice, as where memory is short", undecided=True)
        if code == -signal.SIGALRM:
            return _Lost(f"it was not done with it within {self._seconds:g} s")
        return _Lost(f"it was killed by signal {-code}" if code < 0 else f"it ended with exit code {code}")

    def close(self) -> None:
        """End it, whatever it is at."""
        self._end()
        self.connection.close()
        self._place.close()


class _Lost(Exception):
    """A worker is of no use any more; says what became of it, and whether that says nothing about the value."""

    def __init__(self, fate: str, *, undecided: bool = False) -> None:
        super().__init__(fate)
        self.undecided = undecided


class Workers(contextlib.AbstractContextManager["Workers"]):
    """A number of worker processes; to be closed.

    Starts them when there is something to do.
    """

    def __init__(
        self,
        count: int,
        *,
        value_timeout_s: float = VALUE_TIMEOUT_S,
        max_value_bytes: int = 0,
        judge: JudgeFunction = judge_range,
    ) -> None:
        """Prepare.

        Args:
            count: How many, 1 or more.
            value_timeout_s: How long a worker may be at one value, seconds.
            max_value_bytes: Longest value; gives how much memory a worker may take.
            judge: What a worker does with a range; a function that it can import.

        Raises:
            ValueError: ``count`` or ``value_timeout_s`` is not positive.
        """
        if count < 1:
            raise ValueError(f"workers must be 1 or more, not {count}")
        if not 0 < value_timeout_s < 10**6:
            raise ValueError(f"value_timeout_s must be more than 0 and less than a million, not {value_timeout_s}")
        self._count = count
        self._setup = judge, value_timeout_s, _MEMORY_BYTES + 8 * max_value_bytes
        self._forks: ForkServer | None = None
        self._workers: list[_Worker] = []
        self._lost = 0

    def judged(self, tasks: Iterable[RangeTask], split: Split) -> Generator[tuple[RangeTask, Tally], None, None]:
        """Judge ranges.

        Args:
            tasks: The ranges, in key order; taken as they are needed.
            split: Cuts a range around one of its records, as ``ranges.split``.

        Yields:
            Each range, or the parts into which it was cut, with its tally; in key order.

        Raises:
            StoreError: Workers cannot be started, or too many were lost. What ``tasks`` raises comes after the ranges
                before it.
        """
        jobs: list[_Job] = []
        try:
            yield from self._judged(iter(tasks), jobs, split)
        finally:
            for worker in [worker for worker in self._workers if worker.job is not None]:
                self._workers.remove(worker)  # nobody waits for it any more
                worker.close()

    def _judged(
        self, todo: Iterator[RangeTask], jobs: list[_Job], split: Split
    ) -> Generator[tuple[RangeTask, Tally], None, None]:
        failure: Exception | None = None
        more = True
        while True:
            while more and len(jobs) < self._count * _AHEAD:
                try:
                    jobs.append(_Job(next(todo)))
                except StopIteration:
                    more = False
                except StoreError as error:
                    failure, more = error, False
                self._give_out(jobs)  # while the next ones are cut, for which keys have to be read
            self._give_out(jobs)
            while jobs and (tally := jobs[0].tally) is not None:
                yield jobs.pop(0).task, tally
            if jobs:
                self._wait(jobs, split)
            elif not more:
                break
        if failure is not None:
            raise failure

    def _give_out(self, jobs: list[_Job]) -> None:
        waiting = (job for job in jobs if not job.given)
        for worker in [worker for worker in self._workers if worker.job is None]:
            if (job := next(waiting, None)) is None:
                return
            worker.give(job)
        while len(self._workers) < self._count and (job := next(waiting, None)) is not None:
            worker = _Worker(self._server(), *self._setup)
            self._workers.append(worker)
            worker.give(job)

    def _server(self) -> ForkServer:
        if self._forks is None:
            self._forks = server_for("ben_secure.audit.run._worker")
        return self._forks

    def _wait(self, jobs: list[_Job], split: Split) -> None:
        """Wait until a worker has something to say, and hear it; nothing to hear for a while is no harm."""
        busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
        for connection in wait(list(busy), _POLL_S):
            worker = busy[connection]  # type: ignore[index]
            job = worker.job
            if job is None:
                continue
            try:
                tally = worker.receive()
                if tally is not None:
                    job.tally, worker.job = tally, None
            except _Lost as lost:
                place = worker.place
                was_ready = worker.ready
                self._workers.remove(worker)
                worker.close()
                if not was_ready:
                    raise StoreError(
                        f"a worker process could not be started: {lost}; see whether {sys.executable} can import "
                        "ben_secure.audit"
                    ) from lost
                self._recover(jobs, job, place, lost, split)
        for worker in self._workers:
            if worker.job is not None:
                worker.end_if_stuck()

    def _recover(self, jobs: list[_Job], job: _Job, place: int, fate: _Lost, split: Split) -> None:
        """Put parts of a range, or a finding, in the place of a range at which a worker was lost."""
        job.losses += 1
        if job.task.alone and place == 0 and job.losses > 1:
            self._lost += 1
            if self._lost > MAX_LOST:
                raise StoreError(f"more than {MAX_LOST} values have stopped a worker; the rest was not judged")
            job.tally = _lost_value(job.task, fate)
            return
        if job.losses > _ATTEMPTS:
            raise StoreError(f"worker processes end before they come to a value: {fate}; see to the memory they have")
        job.given = False
        if place == NOWHERE or job.task.alone:
            return
        parts = [_Job(task) for task in split(job.task, place)]
        if len(parts) == 1:
            return
        for part in parts:
            part.losses = int(part.task.alone)
        index = jobs.index(job)
        jobs[index : index + 1] = parts

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, whatever they are at."""
        while self._workers:
            self._workers.pop().close()
        if self._forks is not None:
            self._forks.close()
            self._forks = None


def _lost_value(task: RangeTask, fate: _Lost) -> Tally:
    """What is found of a value at which workers are lost."""
    if fate.undecided:
        why = f"{fate}, which says nothing about the value; audit it where there is more memory"
        return Tally(undecided=f"the value at LMDB key {printable(task.start)} was not judged: {why}")
    tally = Tally()
    tally.count(value_bytes=0, written_by=REFUSED)
    tally.refused += 1
    tally.add(
        Finding(
            lmdb_key=task.start,
            rule=Rule.LOST,
            message=f"the process that judged this value was lost, twice: {fate}; do not load it, and report it",
            position=task.position,
        )
    )
    return tally
