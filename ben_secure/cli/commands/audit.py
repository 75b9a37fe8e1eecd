"""``ben-secure audit``: is anything in these databases hostile?"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from ben_secure._system.files import write_file
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.report import Format, JsonWriter, together, write
from ben_secure.audit.rules import Level
from ben_secure.audit.run.runner import Run, Runner, audit_many
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S
from ben_secure.cli import _signing
from ben_secure.cli._common import check_output, explain, progress_bar
from ben_secure.signing.policy import Verification


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
    check_output("--output", output, force)
    out = sys.stdout if output is None else io.StringIO()
    stream = JsonWriter(out) if as_json or form is Format.JSON else None
    try:
        with _judges(dask, workers, options, value_timeout) as runner, progress_bar("checking") as progress:
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
                on_begin=None if stream is None else stream.begin_database,
                on_report=None if stream is None else stream.end_database,
            )
    except (Exception, KeyboardInterrupt) as error:
        if stream is None or not stream.begun or output is not None or isinstance(error, BrokenPipeError):
            raise
        exit_code, message = explain(error)
        stream.end(exit_code=exit_code, error=message)
        return exit_code
    exit_code = together(report.exit_code for report in reports)
    if stream is not None:
        stream.end(exit_code=exit_code)
    else:
        write(reports, form, out, exit_code=exit_code)
    if output is not None and isinstance(out, io.StringIO):
        write_file(output, out.getvalue().encode(), overwrite=force)
    return exit_code


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
