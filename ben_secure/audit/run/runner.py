"""Judge every record of one database or of many, in worker processes; put together what they find.

The keys are cut into ranges, workers judge these (``workers``, or what the caller names), and their tallies are added
up in key order, so the report is the same however many there are. Keeps no value, and a bounded number of findings. A
database that is not read to its end is never called clean. What the data makes go wrong is in the report; raised is
only what is wrong with the call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from ben_secure._system.processors import processors
from ben_secure.audit.findings import AuditReport, FileFacts, Finding, Tally
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.opinion.opinions import Fickling, Opinions
from ben_secure.audit.rules import Level
from ben_secure.audit.run.discover import databases_in
from ben_secure.audit.run.judging import Judging, Progress, Runner
from ben_secure.audit.run.ranges import CHANGED, identity_of, open_pages
from ben_secure.audit.run.shards import MergedFiles, judge_shard
from ben_secure.audit.run.state import Known, StateFile, check_shard
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S, Workers
from ben_secure.audit.structure.checks import StructureCheck
from ben_secure.audit.structure.identity import FileDigest, file_facts
from ben_secure.errors import BenSecureError, StoreError, UndecidedError, UntrustedDataError, printable
from ben_secure.pages.reader import PageReader

_INTERRUPTED = "interrupted while databases were looked for in it"


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
    (report,), finished = _reports([(os.fspath(path), None)], options, run, state)
    if state is not None and finished:
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
    reports, finished = _reports(_all_databases(paths), options, run, state, on_report)
    if state is not None and finished:
        state.remove()
    return reports


def audit_shard(
    paths: Sequence[str | os.PathLike[str]],
    shard: tuple[int, int],
    target: str | os.PathLike[str],
    *,
    options: Options | None = None,
    run: Run | None = None,
    overwrite: bool = False,
) -> int:
    """Judge one shard of databases and write what was found, for ``audit_merged``; this is no verdict.

    Args:
        paths: As for ``audit_many``; in the same order for each shard.
        shard: Its number, from 1 on, and how many there are.
        target: File for the result.
        options: How to judge; None for the defaults.
        run: How to carry it out; None for the defaults. It takes no sample and is not resumed.
        overwrite: Whether a file of this name is replaced.

    Returns:
        How many records were judged.

    Raises:
        UntrustedDataError: A manifest is not what it should be.
        StoreError: A database is missing, cannot be opened or was changed meanwhile; or the file cannot be written.
        ValueError: There is no such shard, or a sample or a file to resume from is asked for.
    """
    options, run = options or Options(), run or Run()
    check_shard(*shard)
    if run.sample is not None or run.resume is not None:
        raise ValueError("a shard takes no sample and is not resumed; cut the audit into more shards")
    with _pool(options, run) as workers:
        runner = run.runner or workers.judged
        file, records = judge_shard(paths, shard, target, options=options, runner=runner, progress=run.progress)
    file.write(overwrite=overwrite)
    return records


def audit_merged(
    files: Sequence[str | os.PathLike[str]],
    *,
    options: Options | None = None,
    run: Run | None = None,
    on_report: Callable[[AuditReport], None] | None = None,
) -> list[AuditReport]:
    """Make the reports of what shards have found: those that ``audit_many`` would have made.

    Args:
        files: What ``audit_shard`` has written, of each shard.
        options: As for each shard; None for the defaults.
        run: As for ``audit_many``; no value is judged.
        on_report: As for ``audit_many``.

    Returns:
        The reports. That a database was changed since, is gone, or judged with other options, is their ``undecided``.

    Raises:
        StoreError: A file cannot be read, or others can have changed it; a shard is missing or there twice.
    """
    merged = MergedFiles(files)
    databases = list(_all_databases(merged.asked))
    databases += merged.gone(path for path, _ in databases)
    return _reports(databases, options or Options(), run or Run(), merged, on_report)[0]


def _reports(
    databases: Iterable[tuple[str, str | None]],
    options: Options,
    run: Run,
    known: Known | None,
    on_report: Callable[[AuditReport], None] | None = None,
) -> tuple[list[AuditReport], bool]:
    """Return the report on each database, or the reason why it is missing, and whether all of them were judged."""
    reports: list[AuditReport] = []
    finished = True
    with _pool(options, run) as workers, Fickling(options.classes) as fickling:
        for database, problem in databases:
            if problem is not None:
                report = _nothing(database, run, problem, interrupted=problem == _INTERRUPTED)
            elif any(report.interrupted for report in reports):
                report = _nothing(database, run, "interrupted before it was begun", interrupted=True)
            else:
                audit = _Audit(database, options, run, known, workers, fickling)
                report = audit.report()
                finished = finished and audit.finished
            reports.append(report)
            if on_report is not None:
                on_report(report)
    return reports, finished


def _all_databases(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[str, str | None]]:
    """Each database, or what is named as one, and why there is nothing to judge."""
    for path in paths:
        try:
            found = databases_in(os.fspath(path))
        except KeyboardInterrupt:
            yield os.fspath(path), _INTERRUPTED
        else:
            yield from found


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
        self, path: str, options: Options, run: Run, known: Known | None, workers: Workers, fickling: Fickling
    ) -> None:
        self.finished = False
        self._fickling = fickling
        self._path = path
        self._options = options
        self._run = run
        self._known = known
        self._runner = run.runner or workers.judged
        self._judging: Judging | None = None
        self._tally = Tally()
        self._entries = 0
        self._file: FileFacts | None = None
        self._interrupted = False
        self._undecided: str | None = None

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
            about = error.database not in (None, self._path, os.path.abspath(self._path))  # the manifest
            where = f"{printable(error.database, 400)}: " if about else ""
            self._undecided = self._undecided or where + error.message
        except KeyboardInterrupt:
            self._interrupted = True
        if digest is not None and self._file is not None:
            self._file = replace(self._file, sha256=digest.sha256)
            self._undecided = self._undecided or (CHANGED if digest.sha256 is None else None)
        if self._interrupted:
            total = self._entries if self._judging is None else self._judging.total
            self._undecided = f"interrupted after {self._tally.processed:,} of {total:,} records"
        return AuditReport(
            database=self._path,
            entries=self._entries,
            tally=self._tally,
            file=self._file,
            sampled=self._judging is not None and self._judging.sampled,
            undecided=self._undecided or self._tally.undecided,
            interrupted=self._interrupted,
            resumed=0 if self._judging is None else self._judging.resumed,
            fail_on=self._run.fail_on,
        )

    def _audit(self, pages: PageReader) -> None:
        run = self._run
        judging = self._judging = Judging(
            pages, self._path, self._options, runner=self._runner, workers=_processors(run), sample=run.sample,
            known=self._known, progress=run.progress,
        )  # fmt: skip
        self._entries, self._tally = judging.whole.records, judging.part.tally
        if self._options.opinions:
            self._fickling.begin()  # it is imported while the first values are judged
        failure: BenSecureError | None = None
        with Opinions(self._fickling) as opinions, closing(StructureCheck(self._path, pages)) as whole:
            try:
                with closing(judging.run()) as tallies:
                    for tally in tallies:
                        opinions.begin(tally, pages.get)
            except BenSecureError as error:  # what was judged before is in the report
                failure = error
            opinions.settle(self._tally, pages.get)
            self._add_what_is_said_of_the_whole(whole)
        if failure is not None:
            raise failure
        if identity_of(pages) != judging.whole.identity or not pages.is_in_place():
            raise StoreError(CHANGED)
        self.finished = True
        if not self._entries:
            raise StoreError("the database is empty, so nothing was checked")
        if not judging.sampled and judging.part.records != self._entries:
            raise StoreError(
                f"{judging.part.records} records were found, {self._entries} were announced; fetch this database again"
            )

    def _add_what_is_said_of_the_whole(self, check: StructureCheck) -> None:
        try:
            for finding in check.findings():
                self._tally.add(finding)
        except StoreError as error:
            self._undecided = error.message


def _processors(run: Run) -> int:
    return run.workers or processors()


def _pool(options: Options, run: Run) -> Workers:
    return Workers(
        _processors(run), value_timeout_s=run.value_timeout_s, max_value_bytes=options.limits.max_value_bytes
    )
