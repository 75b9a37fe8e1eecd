"""Judge every record of one database or of many, in worker processes; put together what they find.

The keys are cut into ranges, workers judge these (``workers``, or what the caller names), and their tallies are added
up in key order, so the report is the same however many there are. Keeps no value, and a bounded number of findings. A
database that is not read to its end is never called clean. What the data makes go wrong is in the report; raised is
only what is wrong with the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from ben_secure._system.processors import processors
from ben_secure.audit.findings import AuditReport, FileFacts, Finding, Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.audit.opinion.opinions import Fickling, Opinions
from ben_secure.audit.rules import Level
from ben_secure.audit.run.discover import databases_in
from ben_secure.audit.run.ranges import CHANGED, Identity, RangeTask, cut, identity_of, open_pages, sample, split
from ben_secure.audit.run.state import Done, StateFile, describe
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S, Split, Workers
from ben_secure.audit.structure.checks import StructureCheck
from ben_secure.audit.structure.identity import FileDigest, file_facts
from ben_secure.errors import BenSecureError, StoreError, UndecidedError, UntrustedDataError
from ben_secure.pages.reader import PageReader

Progress = Callable[[int, int], None]
"""Called after each range with records done and records to do."""

Runner = Callable[[Iterable[RangeTask], Split], Generator[tuple[RangeTask, Tally], None, None]]
"""Has ranges judged by whoever; gives each, or the parts into which it was cut, with its tally, in key order."""

_MOST_RECORDS, _FEWEST_RECORDS = 2048, 32  # of a range; a process takes as long to start as 1,000 values to judge
_RANGES_A_WORKER = 8  # so that all are busy to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How an audit is carried out; what it finds does not depend on it, but for ``sample``.

    Attributes:
        workers: Processes; None for as many as there are processors to run on. A value is never judged in the calling
            process: it could take that along.
        value_timeout_s: How long a worker may be at one value, seconds; then it counts as lost at it.
        sample: Judge only so many values, spread evenly over the keys; None for all.
        digest: Say the SHA-256 of the data file, too.
        resume: File to go on from if it is there, and to keep the state in meanwhile; removed at the end.
        fail_on: Least level of a finding for which the exit code is 1.
        progress: Called as the audit goes on.
        runner: Has the ranges judged; None for worker processes on this machine.
    """

    workers: int | None = None
    value_timeout_s: float = VALUE_TIMEOUT_S
    sample: int | None = None
    digest: bool = False
    resume: str | os.PathLike[str] | None = None
    fail_on: Level = Level.ERROR
    progress: Progress | None = None
    runner: Runner | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "sample"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be 1 or more, not {number}")


def audit_database(
    path: str | os.PathLike[str], *, options: Options | None = None, run: Run | None = None
) -> AuditReport:
    """Judge every record of a database, and the database as a whole.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file itself.
        options: How to judge; None for the defaults.
        run: How to carry it out; None for the defaults.

    Returns:
        The report. Whatever keeps the database from being read to its end is its ``undecided``; what was found
        before that is in it. So it is if the user interrupts (Ctrl-C).

    Raises:
        StoreError: ``run.resume`` cannot be read or written, or is no state of an audit.
    """
    options, run = options or Options(), run or Run()
    state = None if run.resume is None else StateFile(run.resume)
    with _pool(options, run) as workers, Fickling(options.classes) as fickling:
        audit = _Audit(os.fspath(path), options, run, state, workers, fickling)
        report = audit.report()
    if state is not None and audit.finished:
        state.remove()
    return report


def audit_many(
    paths: Iterable[str | os.PathLike[str]],
    *,
    options: Options | None = None,
    run: Run | None = None,
    on_report: Callable[[AuditReport], None] | None = None,
) -> list[AuditReport]:
    """Judge several databases, one after the other.

    Args:
        paths: Databases, and folders in which (and below which) databases are looked for.
        options: How to judge; None for the defaults.
        run: How to carry it out; None for the defaults.
        on_report: Called with each report as soon as it is there.

    Returns:
        A report for each database, and for each path at which there is none. After an interruption there is one that
        says so for each database that was not begun.

    Raises:
        StoreError: As ``audit_database``.
    """
    options, run = options or Options(), run or Run()
    state = None if run.resume is None else StateFile(run.resume)
    reports: list[AuditReport] = []
    finished = True
    with _pool(options, run) as workers, Fickling(options.classes) as fickling:
        for database, problem in _all_databases(paths):
            if problem is not None:
                report = _nothing(database, run, problem)
            elif any(report.interrupted for report in reports):
                report = _nothing(database, run, "interrupted before it was begun", interrupted=True)
            else:
                audit = _Audit(database, options, run, state, workers, fickling)
                report = audit.report()
                finished = finished and audit.finished
            reports.append(report)
            if on_report is not None:
                on_report(report)
    if state is not None and finished:
        state.remove()
    return reports


def _all_databases(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[str, str | None]]:
    """Each database, or what is named as one, and why there is nothing to judge."""
    for path in paths:
        yield from databases_in(os.fspath(path))


def _nothing(database: str, run: Run, undecided: str, *, interrupted: bool = False) -> AuditReport:
    return AuditReport(
        database=database, entries=0, tally=Tally(), undecided=undecided, interrupted=interrupted, fail_on=run.fail_on
    )


class _Audit:
    """The audit of one database.

    Attributes:
        finished: Whether there is nothing left that could be judged.
    """

    def __init__(
        self, path: str, options: Options, run: Run, state: StateFile | None, workers: Workers, fickling: Fickling
    ) -> None:
        self.finished = False
        self._fickling = fickling
        self._path = path
        self._absolute = os.path.abspath(path)
        self._options = options
        self._run = run
        self._state = state
        self._runner = run.runner or workers.judged
        self._tally = Tally()
        self._entries = 0
        self._resumed = 0
        self._sampled = False
        self._file: FileFacts | None = None
        self._interrupted = False
        self._whole_known = False  # whether what is to be said of the database as a whole is in the tally
        self._undecided: str | None = None
        self._start: bytes | None = b""  # where to go on; None at the end
        self._position = 0  # records before it

    def report(self) -> AuditReport:
        """Do it."""
        digest: FileDigest | None = None
        try:
            with open_pages(self._path, self._options) as pages, ExitStack() as cleanup:
                self._entries = len(pages)
                self._file = file_facts(pages)
                digest = cleanup.enter_context(FileDigest(pages)) if self._run.digest else None
                self._audit(pages)
        except UntrustedDataError as error:  # of the manifest; those of values are findings already
            self._tally.add(Finding.from_error(None, error))
            self._undecided = "the values were not judged, because the manifest is not what it should be"
        except UndecidedError as error:
            self._undecided = self._undecided or error.message
        except KeyboardInterrupt:
            self._interrupted = True
        if digest is not None and self._file is not None:
            self._file = replace(self._file, sha256=digest.sha256)
            self._undecided = self._undecided or (CHANGED if digest.sha256 is None else None)
        if self._interrupted:
            self._undecided = f"interrupted after {self._tally.done:,} of {self._total():,} records"
        return AuditReport(
            database=self._path,
            entries=self._entries,
            tally=self._tally,
            file=self._file,
            sampled=self._sampled,
            undecided=self._undecided or self._tally.undecided,
            interrupted=self._interrupted,
            resumed=self._resumed,
            fail_on=self._run.fail_on,
        )

    def _total(self) -> int:
        wanted = self._run.sample
        return self._entries if wanted is None else min(wanted, self._entries)

    def _audit(self, pages: PageReader) -> None:
        identity = identity_of(pages)
        self._entries = identity.entries
        wanted = self._run.sample
        self._sampled = wanted is not None and wanted < identity.entries
        judge = Judge(self._absolute, self._options)
        judge.check_count(identity.entries, partly=self._sampled)
        described = describe(self._options, judge, wanted if self._sampled else None)
        done = None if self._state is None else self._state.done(self._absolute, identity, described)

        def keep(now: bool) -> None:
            if self._state is not None and self._whole_known and self._tally.done:
                done = Done(tally=self._tally, start=self._start, position=self._position)
                self._state.keep(self._absolute, identity, described, done, now=now)

        if self._options.opinions:
            self._fickling.begin()  # it is imported while the first values are judged
        with Opinions(self._fickling) as opinions, ExitStack() as cleanup:
            whole = None
            if done is None:
                whole = StructureCheck(self._path)
                cleanup.callback(whole.close)
            else:
                self._take_up(done, opinions, pages)
            try:
                if self._start is not None:
                    self._judge(pages, self._start, opinions, keep, whole)
            except BenSecureError:
                self._look_at_the_whole(whole)
                raise
            else:
                self._look_at_the_whole(whole)
            finally:
                keep(now=True)
        self._conclude(pages, identity)

    def _conclude(self, pages: PageReader, identity: Identity) -> None:
        """Say why not all was judged, if so."""
        if self._undecided is None and (identity_of(pages) != identity or not pages.is_in_place()):
            self._undecided = CHANGED
        self.finished = self._undecided != CHANGED
        if self._undecided is None and not self._entries:
            self._undecided = "the database is empty, so nothing was checked"
        elif self._undecided is None and not self._sampled and self._position != self._entries:
            self._undecided = (
                f"{self._position} records were found, {self._entries} were announced; fetch this database again"
            )

    def _look_at_the_whole(self, check: StructureCheck | None) -> None:
        """Wait for what is to be said of the database as a whole, once."""
        if check is None or self._whole_known:
            return
        try:
            for finding in check.findings():
                self._tally.add(finding)
        except StoreError as error:
            self._tally.undecided = error.message  # in the tally, so that a resumed audit knows it too
        self._whole_known = True

    def _take_up(self, done: Done, opinions: Opinions, pages: PageReader) -> None:
        """Go on where an earlier audit was interrupted."""
        self._whole_known = True
        self._start, self._position = done.start, done.position
        self._resumed = done.tally.done
        # So that fickling's opinions are known again that were told already.
        told = Tally(programs=dict(done.tally.programs), findings=list(done.tally.findings))
        opinions.settle(told, pages.get)
        self._tally.extend(done.tally)

    def _judge(
        self,
        pages: PageReader,
        start: bytes,
        opinions: Opinions,
        keep: Callable[[bool], None],
        whole: StructureCheck | None,
    ) -> None:
        run, options = self._run, self._options
        if self._sampled and run.sample is not None:
            picked = sample(pages, self._absolute, options, run.sample)
            tasks: Iterator[RangeTask] = (task for task in picked if task.start >= start)
        else:
            records = max(_FEWEST_RECORDS, 1 + self._entries // (_processors(run) * _RANGES_A_WORKER))
            tasks = cut(pages, self._absolute, options, min(_MOST_RECORDS, records), start, self._position)
        with closing(self._runner(tasks, lambda task, place: split(pages, task, place))) as judged:
            for task, part in self._settled(self._watched(judged), opinions, pages):
                if part.undecided == CHANGED:
                    self._undecided = CHANGED
                    return
                self._tally.extend(part)
                self._start, self._position = task.stop, task.position + task.records
                if whole is not None and whole.done():
                    self._look_at_the_whole(whole)
                keep(False)
        self._start = None

    def _watched(self, judged: Iterable[tuple[RangeTask, Tally]]) -> Iterator[tuple[RangeTask, Tally]]:
        """Tell of the progress, after each range is taken care of."""
        done = self._tally.done
        for task, part in judged:
            yield task, part
            done += part.done
            if self._run.progress is not None:
                self._run.progress(done, self._total())

    def _settled(
        self, judged: Iterable[tuple[RangeTask, Tally]], opinions: Opinions, pages: PageReader
    ) -> Iterator[tuple[RangeTask, Tally]]:
        """Add fickling's opinions to each range as soon as it is judged, while the workers are at others."""
        for task, part in judged:
            if part.undecided != CHANGED:
                opinions.settle(part, pages.get)
            yield task, part


def _processors(run: Run) -> int:
    return run.workers or processors()


def _pool(options: Options, run: Run) -> Workers:
    return Workers(
        _processors(run), value_timeout_s=run.value_timeout_s, max_value_bytes=options.limits.max_value_bytes
    )
