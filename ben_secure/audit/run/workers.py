"""Worker processes that judge ranges of keys, and the recovery when a worker is lost.

A value may kill the worker that judges it, or keep it busy for ever. Then a new worker judges this value alone. If that
worker is lost too, the value gets a finding. If memory was short or the worker was killed from outside, the value is
undecided instead. The audit continues after the value. No value is ever judged in the process of the caller.

Workers are forked by a process without threads that has imported only what they need (``_system.forks``). They share no
memory, lock or thread with the caller, and do not import the caller's main program. Their results arrive as JSON and
are returned in the order of the ranges. The number of ranges in progress is bounded.
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

from ben_secure._system.forks import ForkServer, not_started, server_for
from ben_secure.audit.findings import Finding, Tally
from ben_secure.audit.judge.formats import REFUSED
from ben_secure.audit.run._wire import tally_from_json
from ben_secure.audit.run._worker import NO_MEMORY, NOT_STARTED, READY, RECORD_NUMBER, JudgeFunction
from ben_secure.audit.run.ranges import RangeTask, judge_range
from ben_secure.errors import Rule, StoreError, printable

VALUE_TIMEOUT_S = 60.0
"""Maximum time for one value, seconds. An honest value takes 0.0001 s, but reading from a network disk may be slow."""

MAX_LOST = 100
"""Number of values that may stop workers before the audit gives up. Each costs two processes, perhaps two timeouts."""

Split = Callable[[RangeTask, int], list[RangeTask]]
"""Cuts a range around one of its records, see ``ranges.split``."""

_AHEAD = 32  # ranges per worker; bounds the number of results that wait for a slow worker
_ATTEMPTS = 3
_ANSWER_BYTES = 2**28
_POLL_S = 1.0
_START_S = 120.0
_SLACK_S = 10.0
_MEMORY_BYTES = 2**30  # more than a worker has at the start, in addition to eight times the longest value


@dataclass(slots=True, eq=False)
class _Job:
    """A range in progress.

    Attributes:
        task: The range.
        losses: How many workers were lost at it.
        assigned: Whether a worker has it.
        tally: The result, or None.
    """

    task: RangeTask
    losses: int = 0
    assigned: bool = False
    tally: Tally | None = None


class _Worker:
    """One process and the connection to it."""

    def __init__(self, forks: ForkServer, judge: JudgeFunction, seconds: float, memory_bytes: int) -> None:
        self.job: _Job | None = None
        self.ready = False
        self._code: int | None = None  # set when the process has ended
        self._seconds = seconds
        self._forks = forks
        self.connection, theirs = Pipe()
        with tempfile.TemporaryFile() as file, theirs:
            file.truncate(RECORD_NUMBER.size)
            self._number = mmap.mmap(file.fileno(), RECORD_NUMBER.size)
            self._child = forks.fork(theirs.fileno(), file.fileno())
        self._reset_number()
        self._send((judge, seconds, memory_bytes))

    @property
    def record_number(self) -> int:
        """Number of records of the range that the worker has finished, or ``NOT_STARTED``."""
        number: int = RECORD_NUMBER.unpack_from(self._number)[0]
        return number

    def assign(self, job: _Job) -> None:
        """Send a range to the worker."""
        self.job = job
        job.assigned = True
        self._reset_number()
        self._send(job.task)

    def _send(self, content: object) -> None:
        with contextlib.suppress(OSError):  # the worker is dead, which ``receive`` reports
            self.connection.send(content)

    def _reset_number(self) -> None:
        RECORD_NUMBER.pack_into(self._number, 0, NOT_STARTED)
        self._seen = NOT_STARTED
        self._since = time.monotonic()

    def end_if_stuck(self) -> None:
        """Kill the worker if one value takes far too long: a stopped or starved process cannot end itself."""
        if self.record_number != self._seen:
            self._seen, self._since = self.record_number, time.monotonic()
        patience = _START_S + 10 * self._seconds if self._seen == NOT_STARTED else _SLACK_S + 2 * self._seconds
        if time.monotonic() - self._since > patience:
            self._end()

    def _end(self) -> int:
        """Kill the worker if it still runs. Returns its exit code, or minus the signal that ended it."""
        if self._code is None:
            self._code = self._forks.end(self._child)
        return self._code

    def receive(self) -> Tally | None:
        """Receive a message of the worker.

        Returns:
            The tally of its range, or None if the message is that it is ready.

        Raises:
            _Lost: The worker is dead, or reports that it cannot continue.
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
            raise _Lost("it sent an invalid answer") from error

    def _fate(self) -> _Lost:
        code = self._end()  # the worker has closed the connection but may still be running
        if code == NO_MEMORY:
            return _Lost("there was not enough memory to judge it", undecided=True)
        # Within its memory limit, no value can cause this signal. It comes from the kernel if memory is short, also for
        # a group of processes such as a Slurm job, or from ``end_if_stuck``.
        if code == -signal.SIGKILL:
            return _Lost("its process was killed from outside, twice, perhaps because memory is short", undecided=True)
        if code == -signal.SIGALRM:
            return _Lost(f"it did not finish within {self._seconds:g} s")
        return _Lost(f"it was killed by signal {-code}" if code < 0 else f"it ended with exit code {code}")

    def close(self) -> None:
        """End the worker."""
        self._end()
        self.connection.close()
        self._number.close()


class _Lost(Exception):
    """A worker was lost. The message describes how.

    Attributes:
        undecided: Whether the value may be innocent.
    """

    def __init__(self, fate: str, *, undecided: bool = False) -> None:
        super().__init__(fate)
        self.undecided = undecided


class Workers(contextlib.AbstractContextManager["Workers"]):
    """A pool of worker processes, started when there is something to do. Must be closed."""

    def __init__(
        self,
        count: int,
        *,
        value_timeout_s: float = VALUE_TIMEOUT_S,
        max_value_bytes: int = 0,
        judge: JudgeFunction = judge_range,
    ) -> None:
        """Prepare the pool.

        Args:
            count: Number of workers, 1 or more.
            value_timeout_s: Maximum time for one value, seconds.
            max_value_bytes: Length of the longest value; determines the memory limit of a worker.
            judge: Function that judges a range. Workers must be able to import it.

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

    def judge_ranges(self, tasks: Iterable[RangeTask], split: Split) -> Generator[tuple[RangeTask, Tally], None, None]:
        """Judge ranges.

        Args:
            tasks: The ranges, in key order; consumed as needed.
            split: Cuts a range around one of its records, as ``ranges.split``.

        Yields:
            Each range, or the parts into which it was cut, with its tally; in key order.

        Raises:
            StoreError: Workers cannot be started, or too many were lost. A StoreError from ``tasks`` is raised after
                the results on the earlier ranges.
        """
        jobs: list[_Job] = []
        try:
            yield from self._judge_ranges(iter(tasks), jobs, split)
        finally:
            for worker in [worker for worker in self._workers if worker.job is not None]:
                self._workers.remove(worker)  # its result is not needed any more
                worker.close()

    def _judge_ranges(
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
                self._assign_jobs(jobs)  # workers start before the next ranges are cut, which reads keys from disk
            self._assign_jobs(jobs)
            while jobs and (tally := jobs[0].tally) is not None:
                yield jobs.pop(0).task, tally
            if jobs:
                self._wait(jobs, split)
            elif not more:
                break
        if failure is not None:
            raise failure

    def _assign_jobs(self, jobs: list[_Job]) -> None:
        waiting = (job for job in jobs if not job.assigned)
        for worker in [worker for worker in self._workers if worker.job is None]:
            if (job := next(waiting, None)) is None:
                return
            worker.assign(job)
        while len(self._workers) < self._count and (job := next(waiting, None)) is not None:
            try:
                worker = _Worker(self._server(), *self._setup)
            except OSError as error:
                raise not_started(error) from error
            self._workers.append(worker)
            worker.assign(job)

    def _server(self) -> ForkServer:
        if self._forks is None:
            self._forks = server_for("ben_secure.audit.run._worker")
        return self._forks

    def _wait(self, jobs: list[_Job], split: Split) -> None:
        """Wait for messages of workers, at most ``_POLL_S``, and handle them."""
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
                index = worker.record_number
                was_ready = worker.ready
                self._workers.remove(worker)
                worker.close()
                if not was_ready:
                    raise StoreError(
                        f"a worker process could not be started: {lost}; check that {sys.executable} can import "
                        "ben_secure.audit"
                    ) from lost
                self._recover(jobs, job, index, lost, split)
        for worker in self._workers:
            if worker.job is not None:
                worker.end_if_stuck()

    def _recover(self, jobs: list[_Job], job: _Job, index: int, fate: _Lost, split: Split) -> None:
        """Replace a range at which a worker was lost by its parts, or set its result if it is a single value.

        Args:
            jobs: All ranges in progress.
            job: The range.
            index: Index of the record that the worker was judging, or ``NOT_STARTED``.
            fate: How the worker was lost.
            split: As for ``judge_ranges``.
        """
        job.losses += 1
        if job.task.alone and index == 0 and job.losses > 1:
            self._lost += 1
            if self._lost > MAX_LOST:
                raise StoreError(
                    f"more than {MAX_LOST} values have stopped a worker, so the rest was not judged; find out who "
                    "wrote this database"
                )
            job.tally = _lost_value(job.task, fate)
            return
        if job.losses > _ATTEMPTS:
            raise StoreError(
                f"worker processes end before they reach a value: {fate}; check how much memory is available to them"
            )
        job.assigned = False
        if index == NOT_STARTED or job.task.alone:
            return
        smaller = [_Job(task) for task in split(job.task, index)]
        if len(smaller) == 1:
            return
        for replacement in smaller:
            replacement.losses = int(replacement.task.alone)
        position = jobs.index(job)
        jobs[position : position + 1] = smaller

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        while self._workers:
            self._workers.pop().close()
        if self._forks is not None:
            self._forks.close()
            self._forks = None


def _lost_value(task: RangeTask, fate: _Lost) -> Tally:
    """Make the tally of a value at which two workers were lost."""
    if fate.undecided:
        reason = f"{fate}, which does not depend on the value alone; audit it on a machine with more memory"
        return Tally(undecided=f"the value at LMDB key {printable(task.start)} was not judged: {reason}")
    tally = Tally()
    tally.count(value_bytes=0, written_by=REFUSED)
    tally.refused += 1
    tally.add(
        Finding(
            lmdb_key=task.start,
            rule=Rule.LOST,
            message=f"the process that judged this value was lost, twice: {fate}; do not load the value, and report it",
            position=task.position,
        )
    )
    return tally
