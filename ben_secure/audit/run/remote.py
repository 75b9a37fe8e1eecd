"""Audit a sample of a database on a server: fetched into a private database on this machine, and judged as any other.

The workers, which a value may take over in the worst case, have no connection and no credentials. Of the server's
database nothing is read but the sample, and the manifest if one is asked for.
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
from ben_secure.remote.addresses import extended, is_remote, shown
from ben_secure.remote.range_file import read_small
from ben_secure.signing._record_list import MAX_KEY_BYTES, max_file_bytes
from ben_secure.signing.envelope import MAX_ENVELOPE_BYTES, verify_envelope
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, manifest_path, name_of, open_manifest
from ben_secure.signing.policy import Verification
from ben_secure.store.change.digests import map_some
from ben_secure.store.writer import PatchWriter


def audit_remote(url: str, *, options: Options | None = None, run: Run | None = None) -> AuditReport:
    """Judge some records of a database on a server; its files and pages as a whole are not looked at.

    Args:
        url: The database.
        options: How to judge; None for the defaults.
        run: How to carry it out: ``sample`` says how many records, spread evenly over the keys; it must be there, and
            neither ``resume`` nor ``runner``.

    Returns:
        The report, always that of a sample. Whatever keeps the sample from being read is its ``undecided``.
    """
    options, run = options or Options(), run or Run()
    nothing = AuditReport(database=shown(url), entries=0, tally=Tally(), fail_on=run.fail_on)
    if run.sample is None or run.resume is not None or run.runner is not None:
        problem = "a database on a server is audited on this machine, in one go, as a sample; download it to audit all"
        return replace(nothing, undecided=problem)
    try:
        with _fetched(url, options, run.sample) as (path, options, entries, unread):
            report = audit_database(path, options=options, run=replace(run, sample=None))
            for error in unread:
                Judge(path, options).refuse_unread(report.tally, entries, error)
            return replace(report, database=nothing.database, file=None, entries=entries, sampled=True)
    except UntrustedDataError as error:  # of the manifest
        nothing.tally.add(Finding.from_error(None, error))
        return replace(nothing, undecided="the values were not judged, because the manifest is not what it should be")
    except UndecidedError as error:
        return replace(nothing, undecided=error.message)
    except KeyboardInterrupt:
        return replace(nothing, undecided="interrupted before values were judged", interrupted=True)


def audit_places(
    places: Sequence[str | os.PathLike[str]],
    *,
    options: Options | None = None,
    run: Run | None = None,
    on_report: Callable[[AuditReport], None] | None = None,
) -> list[AuditReport]:
    """Judge databases here and on servers, one after the other: each as ``audit_remote``, the others as ``audit_many``.

    Args:
        places: Databases, folders above databases, and URLs.
        options: How to judge; None for the defaults.
        run: How to carry it out; None for the defaults.
        on_report: Called with each report as soon as it is there.

    Returns:
        The reports, in the order of ``places``; after an interruption none for places that were not begun.

    Raises:
        StoreError: As ``audit_many``.
    """
    reports: list[AuditReport] = []
    for remote, group in groupby((os.fspath(place) for place in places), is_remote):
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
    """Fetch a sample, many requests at a time.

    Yields:
        The private database, how to judge it, how many records the server's has, and the errors for values that are
        too long to be read.
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
                        raise StoreError("this LMDB file is damaged: a record of its tree is not found by its key")
                    writer.put_stored(lmdb_key, value)
                except LimitExceededError as error:
                    error.lmdb_key = lmdb_key
                    unread.append(error)
        yield path, options, entries, unread


def _with_manifest_in(folder: str, verification: Verification, url: str, entries: int) -> Verification:
    """Fetch manifest and envelope, unless they are here, and check that they are of as many records."""
    manifest = verification.manifest or manifest_path(url)
    place = os.fspath(manifest)
    if is_remote(place):
        local = os.path.join(folder, "sample.manifest")
        envelope = read_small(extended(place, ENVELOPE_SUFFIX), MAX_ENVELOPE_BYTES)
        # Only the publisher's word bounds the bytes that are read: ``entries`` is that of the server.
        signed = verify_envelope(envelope, verification.verify_keys, verification.threshold).statement
        contents = {ENVELOPE_SUFFIX: envelope, "": read_small(extended(place, ""), max_file_bytes(signed.max_count))}
        for suffix, content in contents.items():
            with open(local + suffix, "xb") as file:
                file.write(content)
        place = local
    opened = open_manifest(
        place,
        verification.verify_keys,
        threshold=verification.threshold,
        name=verification.name,
        version=verification.version,
        subject=verification.subject,
    )
    opened.check_count(entries)
    subject = verification.subject
    if subject is None and opened.statement.subjects:  # the copy has another name
        opened.check_subject(subject := name_of(url))
    return replace(verification, manifest=place, subject=subject)
