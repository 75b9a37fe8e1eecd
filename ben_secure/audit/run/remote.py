"""Audit a sample of a database on a server.

The sample is copied into a private database on this machine, which is judged like any other. In the worst case a value
takes over a worker, so workers have neither a connection nor credentials. Only the sample and, if requested, the
manifest are read from the server.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

from ben_secure.audit.findings import AuditReport, Finding, Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.audit.run.ranges import open_pages
from ben_secure.audit.run.runner import Run, audit_database, audit_many
from ben_secure.errors import LimitExceededError, StoreError, UndecidedError, UntrustedDataError
from ben_secure.remote.addresses import is_remote, redacted, with_suffix
from ben_secure.remote.range_file import read_small
from ben_secure.signing._record_list import MAX_KEY_BYTES, max_file_bytes
from ben_secure.signing.envelope import MAX_ENVELOPE_BYTES, verify_envelope
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, manifest_path, name_of, open_manifest
from ben_secure.signing.policy import Verification
from ben_secure.store.change.digests import map_some
from ben_secure.store.writer import PatchWriter


def audit_remote(url: str, *, options: Options | None = None, run: Run | None = None) -> AuditReport:
    """Judge a sample of the records of a database on a server. Its files and pages as a whole are not examined.

    Args:
        url: The database.
        options: How to judge, or None for the defaults.
        run: How to carry it out. ``sample`` must be set. ``resume`` and ``runner`` must be None.

    Returns:
        The report on the sample. If the sample cannot be read, ``undecided`` is the reason.
    """
    options, run = options or Options(), run or Run()
    nothing = AuditReport(database=redacted(url), entries=0, tally=Tally(), fail_on=run.fail_on)
    if run.sample is None or run.resume is not None or run.runner is not None:
        problem = (
            "a database on a server is audited only as a sample (--sample), on this machine and without --resume; "
            "download it to audit all of it"
        )
        return replace(nothing, undecided=problem)
    try:
        with _fetched(url, options, run.sample) as (path, options, entries, unread):
            report = audit_database(path, options=options, run=replace(run, sample=None))
            for error in unread:
                Judge(path, options).refuse_unread(report.tally, entries, error)
            return replace(report, database=nothing.database, file=None, entries=entries, sampled=True)
    except UntrustedDataError as error:  # about the manifest
        nothing.tally.add(Finding.from_error(None, error))
        return replace(nothing, undecided="the values were not judged, because the manifest was refused")
    except UndecidedError as error:
        return replace(nothing, undecided=error.message)
    except KeyboardInterrupt:
        return replace(nothing, undecided="interrupted before values were judged", interrupted=True)


def audit_paths(
    paths: Sequence[str | os.PathLike[str]],
    *,
    options: Options | None = None,
    run: Run | None = None,
    on_report: Callable[[AuditReport], None] | None = None,
) -> list[AuditReport]:
    """Judge databases on this machine (``audit_many``) and on servers (``audit_remote``), one after the other.

    Args:
        paths: Databases, folders above databases, and URLs.
        options: How to judge, or None for the defaults.
        run: How to carry it out, or None for the defaults.
        on_report: Called with each report as soon as it is ready.

    Returns:
        The reports, in the order of ``paths``. After an interruption, the remaining URLs and paths have no report.

    Raises:
        StoreError: As ``audit_many``.
    """
    reports: list[AuditReport] = []
    for remote, group in groupby((os.fspath(path) for path in paths), is_remote):
        if remote:
            for url in group:
                reports.append(audit_remote(url, options=options, run=run))
                if on_report is not None:
                    on_report(reports[-1])
                if reports[-1].interrupted:
                    return reports
        else:
            reports += audit_many(group, options=options, run=run, on_report=on_report)
            if reports[-1].interrupted:
                return reports
    return reports


@contextmanager
def _fetched(url: str, options: Options, count: int) -> Iterator[tuple[str, Options, int, list[LimitExceededError]]]:
    """Fetch a sample, with many requests in parallel.

    Yields:
        Path of the private database, how to judge it, number of records in the database on the server, and the errors
        of values that are too long to be read.
    """
    unread = []
    with open_pages(url, options) as pages, tempfile.TemporaryDirectory(prefix="ben-secure-sample-") as folder:
        path, entries = os.path.join(folder, "sample.lmdb"), len(pages)
        if options.verification is not None and options.verification.verify_keys:
            verification = _with_manifest_in(folder, options.verification, pages.absolute_path, entries)
            options = replace(options, verification=verification, partial=True)
        with PatchWriter(path, limits=options.limits) as writer:
            for lmdb_key, value in map_some(pages, lambda _, value: value, dict.fromkeys(pages.spread(count))):
                try:
                    if isinstance(value, LimitExceededError):
                        raise value
                    if value is None or len(lmdb_key) > MAX_KEY_BYTES:
                        raise StoreError(
                            "this LMDB file is damaged: a search by key does not find a record of its tree; fetch it "
                            "again"
                        )
                    writer.put_stored(lmdb_key, value)
                except LimitExceededError as error:
                    error.lmdb_key = lmdb_key
                    unread.append(error)
        yield path, options, entries, unread


def _with_manifest_in(folder: str, verification: Verification, url: str, entries: int) -> Verification:
    """Fetch manifest and envelope, unless they are local, and check that they list the same number of records."""
    manifest = os.fspath(verification.manifest or manifest_path(url))
    if is_remote(manifest):
        local = os.path.join(folder, "sample.manifest")
        envelope = read_small(with_suffix(manifest, ENVELOPE_SUFFIX), MAX_ENVELOPE_BYTES)
        # The signed statement bounds the bytes that are read. ``entries`` comes from the server and is untrusted.
        signed = verify_envelope(envelope, verification.verify_keys, verification.threshold).statement
        contents = {
            ENVELOPE_SUFFIX: envelope,
            "": read_small(with_suffix(manifest, ""), max_file_bytes(signed.max_count)),
        }
        for suffix, content in contents.items():
            with open(local + suffix, "xb") as file:
                file.write(content)
        manifest = local
    opened = open_manifest(
        manifest,
        verification.verify_keys,
        threshold=verification.threshold,
        name=verification.name,
        version=verification.version,
        subject=verification.subject,
    )
    opened.check_count(entries)
    subject = verification.subject
    if subject is None and opened.statement.subjects:  # the private database has another name
        opened.check_subject(subject := name_of(url))
    return replace(verification, manifest=manifest, subject=subject)
