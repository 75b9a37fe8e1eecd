"""A publisher's signature over the list of all records, and what changed since the release before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from ben_secure.audit.report import printable_key
from ben_secure.cli import _options, _signing
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.errors import ManifestMismatchError, Rule, counted, printable
from ben_secure.remote.addresses import shown
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import Signer
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, MANIFEST_SUFFIX, Manifest, manifest_path, name_of
from ben_secure.signing.statement import Statement
from ben_secure.store.change.differences import Changes
from ben_secure.store.change.sign import sign_database

_KINDS = ("added", "changed", "removed")


def changes_to_json(changes: Changes) -> dict[str, Any]:
    """Write changes as plain data: a count and the first LMDB keys of each kind, and how many are unchanged."""
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
    """Check that a manifest of an earlier release of several is not that of another database than it is called after.

    Args:
        before: The manifest.
        path: Where it was.
        database: Name of the database that is compared with it, which it may be called after, too.

    Raises:
        ManifestMismatchError: It is that of another database.
    """
    subject = before.statement.subject
    if subject is not None and subject.name not in (called := name_of(path.removesuffix(MANIFEST_SUFFIX)), database):
        raise ManifestMismatchError(
            f"the manifest of the earlier release is that of {printable(subject.name)}, expected "
            f"{printable(called)}: it was exchanged or renamed; fetch it again, or call it "
            f"{printable(subject.name)}{MANIFEST_SUFFIX}",
            rule=Rule.MANIFEST,
            database=shown(path),
        )


def print_changes(facts: dict[str, Any], before: str, out: Console) -> None:
    """Print what ``changes_to_json`` made, by kind, with the first LMDB keys of each.

    Args:
        facts: The changes.
        before: The release since which they are, safe to show.
        out: Where to.
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
    """What a publisher says of a release, and the one before.

    Attributes:
        name: Name of the dataset; None for that of ``since``.
        version: Version of the release.
        license: Licence; None for that of ``since``, if there is one.
        algorithm: The hash that values are listed by; None for that of ``since``, or SHA-256.
        since: The release before, or None.
    """

    name: str | None
    version: str
    license: str | None
    algorithm: Algorithm | None
    since: Manifest | None


def sign_list(
    database: str, signer: Signer, release: Release, manifest: str | None, *, force: bool, as_json: bool
) -> int:
    """Sign the list of all records, and tell; before it is signed, what changed since the release before.

    Args:
        database: The database.
        signer: The publisher's key.
        release: What is said of it.
        manifest: Where the manifest goes, or None for beside the database.
        force: Whether manifest and envelope are overwritten.
        as_json: Whether to print one JSON object.

    Returns:
        The exit code.
    """
    path = manifest_path(database) if manifest is None else manifest
    before = None if release.since is None else release.since.statement
    since: dict[str, Any] = {} if before is None else {"version": before.version}

    def tell(found: Changes) -> None:
        since.update(changes_to_json(found))
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
            on_changes=tell,
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
    out.print("Publish both files with the database, and the fingerprint where readers look for it.")
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
