"""Sign the list of all records with a publisher's key, and list the changes since the previous release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ben_secure.audit.report import printable_key
from ben_secure.cli import _options, _signing
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.errors import ManifestMismatchError, Rule, counted, printable
from ben_secure.remote.addresses import redacted
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import Signer
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, MANIFEST_SUFFIX, Manifest, manifest_path, name_of
from ben_secure.signing.statement import Statement
from ben_secure.store.change.differences import Changes
from ben_secure.store.change.sign import sign_database

_KINDS = ("added", "changed", "removed")


def changes_to_json(changes: Changes) -> dict[str, Any]:
    """Convert changes into plain data: count and first LMDB keys of each kind, and the number of unchanged records."""
    kinds = {
        kind: {
            "count": getattr(changes, kind).count,
            "first": [
                {"lmdb_key": printable_key(lmdb_key), "lmdb_key_hex": lmdb_key.hex()}
                for lmdb_key in getattr(changes, kind).first
            ],
        }
        for kind in _KINDS
    }
    return {**kinds, "unchanged": changes.unchanged}


def check_earlier(before: Manifest, path: str, database: str) -> None:
    """Check that the manifest of an earlier release of several databases is for the right database.

    Args:
        before: The manifest.
        path: Its path. The name of the file may name the database.
        database: Name of the database that is compared with it.

    Raises:
        ManifestMismatchError: The manifest is for another database.
    """
    subject = before.statement.subject
    file_name = name_of(path.removesuffix(MANIFEST_SUFFIX))
    if subject is not None and subject.name not in (file_name, database):
        raise ManifestMismatchError(
            f"the manifest of the earlier release is for the database {printable(subject.name)}, expected "
            f"{printable(file_name)}: it was exchanged or renamed; fetch it again, or rename it to "
            f"{printable(subject.name)}{MANIFEST_SUFFIX}",
            rule=Rule.MANIFEST,
            database=redacted(path),
        )


def print_changes(facts: dict[str, Any], before: str, out: Console) -> None:
    """Print the changes by kind, with the first LMDB keys of each kind.

    Args:
        facts: The changes, from ``changes_to_json``.
        before: Version of the earlier release, already escaped.
        out: Output.
    """
    counts = ", ".join(f"{facts[kind]['count']:,} {kind}" for kind in _KINDS)
    out.print(f"since {before}: {counts}, {facts['unchanged']:,} unchanged", soft_wrap=True)
    for kind in _KINDS:
        first = facts[kind]["first"]
        for entry in first:
            out.print(f"  {kind}: {entry['lmdb_key']}", soft_wrap=True)
        if facts[kind]["count"] > len(first):
            out.print(f"  and {facts[kind]['count'] - len(first):,} more {kind}", soft_wrap=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A publisher's statements about a release.

    Attributes:
        name: Name of the dataset, or None to take it from ``since``.
        version: Version of the release.
        license: Licence, or None to take it from ``since``, if it has one.
        algorithm: Hash of the values in the manifest, or None to take it from ``since``, or for SHA-256.
        since: Manifest of the previous release, or None.
    """

    name: str | None
    version: str
    license: str | None
    algorithm: Algorithm | None
    since: Manifest | None


def sign_list(
    database: str, signer: Signer, release: Release, manifest: str | None, *, force: bool, as_json: bool
) -> int:
    """Sign the list of all records, and print the result. The changes since the previous release are printed first.

    Args:
        database: The database.
        signer: The publisher's key.
        release: Statements about the release.
        manifest: Path of the new manifest, or None to write it beside the database.
        force: Whether to overwrite manifest and envelope.
        as_json: Whether to print one JSON object.

    Returns:
        The exit code.
    """
    path = manifest_path(database) if manifest is None else manifest
    before = None if release.since is None else release.since.statement
    since: dict[str, Any] = {} if before is None else {"version": before.version}

    def print_since(changes: Changes) -> None:
        since.update(changes_to_json(changes))
        if not as_json:
            print_changes(since, printable(since["version"]), console())

    with _options.usage_errors(), progress_bar("hashing") as progress:
        signed = sign_database(
            database,
            [signer],
            name=release.name or (before.name if before else ""),
            version=release.version,
            license=release.license or (before.license if before else None),
            algorithm=release.algorithm or (before.algorithm if before else Algorithm.SHA256),
            created=_signing.now(),
            manifest=path,
            since=release.since,
            on_changes=print_since,
            overwrite=force,
            progress=progress,
        ).statement
    fingerprint = signer.verify_key.fingerprint
    if as_json:
        facts = _facts(path, signed, fingerprint) | ({"since": since} if since else {})
        print_json(_signing.document("sign", database, "signed", 0) | facts)
        return 0
    out = console()
    rows = [("manifest", printable(path, 400)), ("envelope", printable(path + ENVELOPE_SUFFIX, 400))]
    _signing.print_facts([*rows, ("fingerprint", fingerprint)], out)
    out.print("Publish both files with the database. Publish the fingerprint where users look for it.")
    records = f"{counted(signed.count, 'record')} of {printable(database, 400)}"
    _signing.print_verdict(f"SIGNED: {records}, by {fingerprint}", 0, out)
    return 0


def _facts(path: str, signed: Statement, fingerprint: str) -> dict[str, object]:
    return {
        "manifest": path,
        "envelope": path + ENVELOPE_SUFFIX,
        "manifest_sha256": signed.manifest_sha256,
        "count": signed.count,
        "name": signed.name,
        "version": signed.version,
        "license": signed.license,
        "hash": signed.algorithm.value,
        "created": signed.created.isoformat(),
        "fingerprint": fingerprint,
    }
