"""Judge every record of one or more databases in worker processes, and make the reports.

The keys are cut into ranges, workers judge the ranges (``workers``, or the runner of the caller), and the tallies are
added up in key order. So the report does not depend on the number of workers. No value is kept, and the number of
findings is bounded. A database that was not read to its end is never clean. Problems with the data are in the report;
only errors of the caller raise exceptions.
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
from ben_secure.audit.run.shards import ShardResults, judge_shard
from ben_secure.audit.run.state import PriorResults, StateFile, check_shard
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S, Workers
from ben_secure.audit.structure.checks import StructureCheck
from ben_secure.audit.structure.identity import FileDigest, file_facts
from ben_secure.errors import BenSecureError, StoreError, UndecidedError, UntrustedDataError, printable
from ben_secure.pages.reader import PageReader

_INTERRUPTED = "interrupted during the search for databases in it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How to carry out an audit. Only ``sample`` affects the findings.

    Attributes:
        workers: Number of worker processes, or None for one per available processor. No value is judged in the calling
            process, because a value might kill it.
        value_timeout_s: Maximum time for one value, seconds. After that, the worker is ended.
        sample: Number of values to judge, spread evenly over the keys, or None for all.
        digest: Whether to report the SHA-256 of the data file.
        resume: State file. If it exists, the audit continues from it. It is updated during the audit and removed at
            the end.
        fail_on: The exit code is 1 if a finding has at least this level.
        progress: Called after each range with the number of processed records and the total number.
        runner: Judges the ranges, or None for worker processes on this machine.
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
        options: How to judge, or None for the defaults.
        run: How to carry it out, or None for the defaults.

    Returns:
        The report. If the database cannot be read to its end, or if the user interrupts (Ctrl-C), ``undecided`` is the
        reason, and the report contains the findings so far.

    Raises:
        StoreError: ``run.resume`` cannot be read or written, or is not a state file of an audit.
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
        paths: Databases, and folders that are searched for databases recursively.
        options: How to judge, or None for the defaults.
        run: How to carry it out, or None for the defaults.
        on_report: Called with each report as soon as it is ready.

    Returns:
        A report on each database, and on each path without a database. After an interruption, the reports on the
        remaining databases are undecided.

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
    """Judge one shard of databases and write the results to a file for ``audit_merged``. This gives no verdict.

    Args:
        paths: As for ``audit_many``; in the same order for each shard.
        shard: Number of the shard, starting at 1, and number of shards.
        target: File for the results.
        options: How to judge, or None for the defaults.
        run: How to carry it out, or None for the defaults. ``sample`` and ``resume`` must be None.
        overwrite: Whether to replace an existing file.

    Returns:
        Number of records judged.

    Raises:
        UntrustedDataError: A manifest is refused.
        StoreError: A database is missing, cannot be opened or has changed during the audit, or the file cannot be
            written.
        ValueError: The shard does not exist, or ``sample`` or ``resume`` is set.
    """
    options, run = options or Options(), run or Run()
    check_shard(*shard)
    if run.sample is not None or run.resume is not None:
        raise ValueError("a shard cannot be sampled or resumed; cut the audit into more shards")
    with _pool(options, run) as workers:
        runner = run.runner or workers.judge_ranges
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
    """Merge the results of all shards into the reports that ``audit_many`` would have made.

    Args:
        files: The files of ``audit_shard``, one for each shard.
        options: The options of the shards, or None for the defaults.
        run: As for ``audit_many``. No value is judged.
        on_report: As for ``audit_many``.

    Returns:
        The reports. If a database has changed, is gone, or was judged with other options, ``undecided`` is the reason.

    Raises:
        StoreError: A file cannot be read or could have been changed by others, or a shard is missing or duplicate.
    """
    merged = ShardResults(files)
    databases = list(_all_databases(merged.requested))
    databases += merged.gone(path for path, _ in databases)
    return _reports(databases, options or Options(), run or Run(), merged, on_report)[0]


def _reports(
    databases: Iterable[tuple[str, str | None]],
    options: Options,
    run: Run,
    prior: PriorResults | None,
    on_report: Callable[[AuditReport], None] | None = None,
) -> tuple[list[AuditReport], bool]:
    """Return a report on each database, and whether all records were judged.

    Args:
        databases: Paths. If the second item of a pair is not None, it is the reason why there is nothing to judge.
        options: How to judge.
        run: How to carry it out.
        prior: Results of earlier audits, or None.
        on_report: Called with each report as soon as it is ready.
    """
    reports: list[AuditReport] = []
    finished = True
    with _pool(options, run) as workers, Fickling(options.classes) as fickling:
        for database, problem in databases:
            if problem is not None:
                report = _nothing(database, run, problem, interrupted=problem == _INTERRUPTED)
            elif any(report.interrupted for report in reports):
                report = _nothing(database, run, "interrupted before its audit started", interrupted=True)
            else:
                audit = _Audit(database, options, run, prior, workers, fickling)
                report = audit.report()
                finished = finished and audit.finished
            reports.append(report)
            if on_report is not None:
                on_report(report)
    return reports, finished


def _all_databases(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[str, str | None]]:
    """List each database, and each path without a database with the reason."""
    for path in paths:
        try:
            results = databases_in(os.fspath(path))
        except KeyboardInterrupt:
            yield os.fspath(path), _INTERRUPTED
        else:
            yield from results


def _nothing(database: str, run: Run, undecided: str, *, interrupted: bool = False) -> AuditReport:
    return AuditReport(
        database=database, entries=0, tally=Tally(), undecided=undecided, interrupted=interrupted, fail_on=run.fail_on
    )


class _Audit:
    """The audit of one database.

    Attributes:
        finished: Whether all records were judged.
    """

    def __init__(
        self, path: str, options: Options, run: Run, prior: PriorResults | None, workers: Workers, fickling: Fickling
    ) -> None:
        self.finished = False
        self._fickling = fickling
        self._path = path
        self._options = options
        self._run = run
        self._prior = prior
        self._runner = run.runner or workers.judge_ranges
        self._judging: Judging | None = None
        self._tally = Tally()
        self._entries = 0
        self._file: FileFacts | None = None
        self._interrupted = False
        self._undecided: str | None = None

    def report(self) -> AuditReport:
        """Carry out the audit."""
        digest: FileDigest | None = None
        try:
            with open_pages(self._path, self._options) as pages, ExitStack() as cleanup:
                self._entries = len(pages)
                self._file = file_facts(pages)
                digest = cleanup.enter_context(FileDigest(pages)) if self._run.digest else None
                self._audit(pages)
        except UntrustedDataError as error:  # about the manifest; errors of values are findings already
            self._tally.add(Finding.from_error(None, error))
            self._undecided = "the values were not judged, because the manifest was refused"
        except UndecidedError as error:
            is_other_file = error.database not in (None, self._path, os.path.abspath(self._path))  # the manifest
            where = f"{printable(error.database, 400)}: " if is_other_file else ""
            self._undecided = self._undecided or where + error.message
        except MemoryError:  # the audit of the next database may have enough
            self._undecided = "there is not enough memory to examine it; free some, and audit it again"
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
            prior=self._prior, progress=run.progress,
        )  # fmt: skip
        self._entries, self._tally = judging.whole.records, judging.result.tally
        if self._options.opinions:
            self._fickling.begin()  # fickling is imported while the first values are judged
        failure: BenSecureError | None = None
        with Opinions(self._fickling) as opinions, closing(StructureCheck(self._path, pages)) as whole:
            try:
                with closing(judging.run()) as tallies:
                    for tally in tallies:
                        opinions.begin(tally, pages.get)
            except BenSecureError as error:  # raised below; the report contains the earlier results
                failure = error
            opinions.settle(self._tally, pages.get)
            self._add_structure_findings(whole)
        if failure is not None:
            raise failure
        if identity_of(pages) != judging.whole.identity or not pages.is_in_place():
            raise StoreError(CHANGED)
        self.finished = True
        if not self._entries:
            raise StoreError("the database is empty, so nothing was checked")
        if not judging.sampled and judging.result.records != self._entries:
            raise StoreError(
                f"found {judging.result.records} records, but the meta page counts {self._entries}; fetch this "
                "database again"
            )

    def _add_structure_findings(self, check: StructureCheck) -> None:
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
