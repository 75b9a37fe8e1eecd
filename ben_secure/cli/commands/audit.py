"""``ben-secure audit``: is anything in these databases hostile?"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ben_secure._system.files import write_file
from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.report import JsonWriter, write
from ben_secure.audit.rules import Level
from ben_secure.audit.run.runner import Progress, Run, Runner, audit_many, exit_code_of
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S
from ben_secure.cli import _signing
from ben_secure.cli._common import explain
from ben_secure.errors import printable
from ben_secure.signing.policy import Verification


class Format(str, Enum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"
    SARIF = "sarif"
    HTML = "html"


@_signing.verifying
def command(
    databases: Annotated[
        list[str],
        typer.Argument(metavar="DB...", help="LMDB directories, data files, or folders in which to look for them."),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    form: Annotated[Format, typer.Option("--format", help="How to write the report.")] = Format.TABLE,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="FILE", help="Write the report into this file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --output.")] = False,
    fail_on: Annotated[
        Level, typer.Option("--fail-on", help="Least level of a finding for which the exit code is 1.")
    ] = Level.ERROR,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that judge; as many as processors if not given.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", metavar="N", min=1, help="Judge N values only, spread evenly.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="STATE", help="Keep the state in this file; go on from it if it is there."),
    ] = None,
    verification: Verification | None = None,
    since_manifest: Annotated[
        bool,
        typer.Option(
            "--since-manifest", help="Pass over values that the manifest lists; whoever signed it audited them."
        ),
    ] = False,
    no_fickling: Annotated[
        bool, typer.Option("--no-fickling", help="Do not ask fickling for a second opinion; the verdict is the same.")
    ] = False,
    value_timeout: Annotated[
        float, typer.Option("--value-timeout", metavar="S", min=0.01, help="Seconds that one value may take.")
    ] = VALUE_TIMEOUT_S,
    dask: Annotated[
        str | None,
        typer.Option("--dask", metavar="ADDRESS", help="Judge on this Dask cluster (tcp://SCHEDULER:8786, tls://...)."),
    ] = None,
) -> int:
    """Check every value of databases, and the databases as a whole; nothing in them is run.

    Exit code 0: every value is a patch and nothing else. 1: something was refused, or is of the level --fail-on. 2: not
    everything could be checked, or there was nothing to check. 130: interrupted; what was found is told.
    """
    with _signing.usage_errors():
        options = Options(verification=verification, since_manifest=since_manifest, opinions=not no_fickling)
    _check_output(output, force)
    form = Format.JSON if as_json else form
    document = io.StringIO() if output is not None else None
    stream = _Stream(document or sys.stdout) if form is Format.JSON else None
    try:
        with _judges(dask, workers, options, value_timeout) as runner, _progress_bar() as progress:
            run = Run(
                workers=workers,
                value_timeout_s=value_timeout,
                sample=sample,
                resume=resume,
                fail_on=fail_on,
                progress=progress,
                on_finding=None if stream is None else stream.finding,
                runner=runner,
            )
            reports = audit_many(
                databases,
                options=options,
                run=run,
                on_begin=None if stream is None else stream.begin,
                on_report=None if stream is None else stream.end_database,
            )
    except (Exception, KeyboardInterrupt) as error:
        if stream is None or not stream.begun or output is not None or isinstance(error, BrokenPipeError):
            raise
        return stream.fail(error)
    exit_code = exit_code_of(reports)
    if stream is not None:
        stream.end(exit_code)
    else:
        write(reports, form.value, document or sys.stdout, exit_code=exit_code)
    if output is not None and document is not None:
        write_file(output, document.getvalue().encode(), overwrite=force)
    return exit_code


def _check_output(output: str | None, force: bool) -> None:
    """Find now what would keep the report from being written, and not after an hour of judging."""
    if output is None:
        return
    if not force and os.path.lexists(output):
        raise typer.BadParameter(f"{printable(output, 400)} exists; choose another name, or say --force")
    folder = os.path.dirname(output) or "."
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise typer.BadParameter(f"the directory of --output {printable(output, 400)} must exist and be writable")


@contextmanager
def _judges(dask: str | None, workers: int | None, options: Options, value_timeout: float) -> Iterator[Runner | None]:
    """A connection to the cluster that is to judge, if one is, while the block runs."""
    if dask is None:
        yield None
        return
    if workers is not None:
        raise typer.BadParameter("--workers are those of this machine; a cluster (--dask) has its own")
    from ben_secure.audit.run.cluster import cluster

    with cluster(dask, options, value_timeout_s=value_timeout) as runner:
        yield runner


class _Stream:
    """Writes the JSON of the findings as they come."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._writer: JsonWriter | None = None

    @property
    def begun(self) -> bool:
        """Whether anything was written."""
        return self._writer is not None

    def _begun(self) -> JsonWriter:
        self._writer = self._writer or JsonWriter(self._out)
        return self._writer

    def begin(self, database: str) -> None:
        """A database is begun."""
        self._begun().begin_database(database)

    def finding(self, finding: Finding) -> None:
        """A finding of it."""
        self._begun().finding(finding)

    def end_database(self, report: AuditReport) -> None:
        """It is done."""
        self._begun().end_database(report)

    def end(self, exit_code: int) -> None:
        """All are done."""
        self._begun().end(exit_code=exit_code)

    def fail(self, error: BaseException) -> int:
        """End early; gives the exit code."""
        exit_code, message = explain(error)
        self._begun().end(exit_code=exit_code, error=message)
        return exit_code


@contextmanager
def _progress_bar() -> Iterator[Progress | None]:
    """Show progress, rate and time left on stderr while the block runs, if stderr is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    err = Console(stderr=True, markup=False, emoji=False, highlight=False)
    columns = (
        TextColumn("checking", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=err, transient=True) as bar:
        task = bar.add_task("checking", total=None, rate="")

        def show(done: int, total: int, value_bytes: int) -> None:
            seconds = bar.tasks[0].elapsed or 0
            rate = f"{done / seconds:,.0f}/s, {value_bytes / seconds / 1e6:,.0f} MB/s" if seconds > 1 else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield show
