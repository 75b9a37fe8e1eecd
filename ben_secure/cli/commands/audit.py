"""``ben-secure audit``: check databases for malicious or damaged content."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import click

from ben_secure._system.files import write_file
from ben_secure._system.interrupts import deferred
from ben_secure.audit.findings import AuditReport
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.report import Format, JsonWriter, overall_exit_code, write
from ben_secure.audit.rules import Level
from ben_secure.audit.run.judging import Runner
from ben_secure.audit.run.remote import audit_paths
from ben_secure.audit.run.runner import Run, audit_merged, audit_shard
from ben_secure.audit.run.state import check_shard
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S
from ben_secure.cli import _options
from ben_secure.cli._common import STDOUT, check_output, explain, progress_bar
from ben_secure.cli._usage import PATH, Command, OptionType, argument, number, one_of, whole
from ben_secure.errors import counted
from ben_secure.signing.policy import Verification


def _shard(text: str) -> tuple[int, int]:
    number, count = map(int, text.split("/"))
    check_shard(number, count)
    return number, count


SHARD = OptionType("K/N", _shard, "the number of a shard and the number of shards, such as 3/64")


@click.command("audit", cls=Command)
@argument(
    "databases",
    metavar="DB...",
    type=PATH,
    nargs=-1,
    required=True,
    note="LMDB directories, data files, folders to search for them, or URLs (with --sample). With --merge: the files "
    "that the shards have written.",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option(
    "--format",
    "style",
    type=one_of({style.value: style for style in Format}),
    default=Format.TABLE.value,
    show_default=True,
    help="Format of the report.",
)
@click.option("--output", type=PATH, help="Write the report to this file; - for standard output.")
@click.option("--force", is_flag=True, help="Overwrite the file of --output.")
@click.option(
    "--fail-on",
    type=one_of({level.value: level for level in Level}),
    default=Level.ERROR.value,
    show_default=True,
    help="Exit with 1 if a finding has at least this level.",
)
@click.option("--workers", type=whole(least=1), help="Worker processes (default: one per processor).")
@click.option("--sample", type=whole(least=1), help="Judge only N values, spread evenly over the keys.")
@click.option("--digest", is_flag=True, help="Also report the SHA-256 of each data file.")
@click.option("--resume", type=PATH, metavar="STATE", help="Save progress in this file, and resume from it.")
@click.option("--shard", type=SHARD, help="Judge only shard K of N, and write its results to --output; no verdict.")
@click.option("--merge", is_flag=True, help="Merge the files of all shards (DB...) into one report.")
@_options.verifying
@click.option(
    "--since-manifest",
    is_flag=True,
    help="Skip values listed in the signed manifest.",
)
@click.option("--no-fickling", is_flag=True, help="Do not ask fickling for a second opinion. The verdict is the same.")
@click.option(
    "--value-timeout",
    type=number("S", least=0.01),
    default=VALUE_TIMEOUT_S,
    show_default=True,
    help="Time limit for one value, in seconds.",
)
@click.option("--dask", metavar="ADDRESS", help="Judge on this Dask cluster (tcp://SCHEDULER:8786, tls://...).")
def command(
    databases: tuple[str, ...],
    as_json: bool,
    style: Format,
    output: str | None,
    force: bool,
    fail_on: Level,
    workers: int | None,
    sample: int | None,
    digest: bool,
    resume: str | None,
    shard: tuple[int, int] | None,
    merge: bool,
    verification: Verification | None,
    since_manifest: bool,
    no_fickling: bool,
    value_timeout: float,
    dask: str | None,
) -> int:
    """Check every value of databases, and the databases as a whole. No code from them is run.

    Exit code 0: every value is a patch and nothing else. 1: something was refused, or a finding has at least the level
    --fail-on. 2: not everything could be checked, or there was nothing to check. 130: interrupted. Findings so far are
    reported.
    """
    with _options.usage_errors():
        options = Options(verification=verification, since_manifest=since_manifest, opinions=not no_fickling)
    check_output("--output", output, force)
    if merge and (shard, workers, sample, resume, dask) != (None,) * 5:
        raise click.UsageError(
            "--merge judges no values; it cannot be combined with --shard, --workers, --sample, --resume or --dask"
        )
    if shard is not None and (output in (None, STDOUT) or as_json or style is not Format.TABLE or sample or resume):
        raise click.UsageError(
            "--shard requires --output FILE and cannot be combined with --format, --sample or --resume"
        )
    with _dask_runner(dask, workers, options, value_timeout) as runner, progress_bar("checking") as progress:
        run = Run(
            workers=workers,
            value_timeout_s=value_timeout,
            sample=sample,
            digest=digest,
            resume=resume,
            fail_on=fail_on,
            progress=progress,
            runner=runner,
        )
        if shard is not None and output is not None:
            records = audit_shard(databases, shard, output, options=options, run=run, overwrite=force)
            judged = counted(records, "record")
            print(f"shard {shard[0]}/{shard[1]}: {judged} judged; merge all shards for a verdict (--merge)")
            return 0
        audit = partial(audit_merged if merge else audit_paths, databases, options=options, run=run)
        style = Format.JSON if as_json else style
        return _report(audit, style, None if output == STDOUT else output, force)


def _report(audit: Callable[..., list[AuditReport]], style: Format, output: str | None, force: bool) -> int:
    """Audit, write the report, and return the exit code."""
    out = sys.stdout if output is None else io.StringIO()
    stream = JsonWriter(out) if style is Format.JSON else None
    try:
        reports = audit(on_report=None if stream is None else partial(_write_report, stream))
    except (Exception, KeyboardInterrupt) as error:
        if stream is None or not stream.begun or output is not None or isinstance(error, BrokenPipeError):
            raise
        exit_code, message = explain(error)
        stream.end(exit_code=exit_code, error=message)
        return exit_code
    exit_code = overall_exit_code(report.exit_code for report in reports)
    if stream is not None:
        stream.end(exit_code=exit_code)
    else:
        write(reports, style, out, exit_code=exit_code)
    if output is not None and isinstance(out, io.StringIO):
        write_file(output, out.getvalue().encode(), overwrite=force)
    return exit_code


def _write_report(stream: JsonWriter, report: AuditReport) -> None:
    with deferred():  # half a report would be invalid JSON
        stream.database(report)


@contextmanager
def _dask_runner(
    dask: str | None, workers: int | None, options: Options, value_timeout: float
) -> Iterator[Runner | None]:
    """Connect to the cluster for the duration of the block, if one is given."""
    if dask is None:
        yield None
        return
    if workers is not None:
        raise click.UsageError("--workers cannot be combined with --dask")
    from ben_secure.audit.run.cluster import cluster

    with cluster(dask, options, value_timeout_s=value_timeout) as runner:
        yield runner
