"""``ben-secure verify``: check that every value of a database is as it was signed. No value is decoded."""

from __future__ import annotations

import time
from typing import Any

import click
from rich.console import Console

from ben_secure.audit.report import printable_key
from ben_secure.cli import _options, _signing, _speed
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.cli._release import changes_to_json, check_earlier, print_changes
from ben_secure.cli._usage import PATH, Command, whole
from ben_secure.errors import ManifestMismatchError, Rule, StoreError, printable, shell_command
from ben_secure.pages.reader import PageReader
from ben_secure.signing.manifest import MANIFEST_SUFFIX, Manifest, manifest_path, name_of, open_manifest
from ben_secure.signing.policy import Verification
from ben_secure.store.change.differences import changes
from ben_secure.store.change.verify import TAG_KINDS, Listed, Outcome, verify, verify_sample

_EMPTY = "the database is empty, so nothing was verified"


@click.command("verify", cls=Command)
@_options.readable
@_options.verifying
@click.option(
    "--from", "before", type=PATH, metavar="OLD", help="Show what changed since this release (database or manifest)."
)
@click.option("--sample", type=whole(least=1), help="Check only N values, spread evenly over the keys.")
@_options.as_json
def command(
    database: str, verification: Verification | None, before: str | None, sample: int | None, as_json: bool
) -> int:
    """Check every value of a database against its tag (--mac-key) or against the publisher's manifest (--verify-key).

    Exit code 0: every value, or every value of the sample, is as it was signed. 1: a value or record differs. 2: not
    everything could be checked, or there was nothing to check.
    """
    if verification is None:
        raise click.UsageError("nothing to verify with; give --mac-key FILE, --verify-key FILE, or both")
    old = None
    if before is not None:
        if not verification.verify_keys:
            raise click.UsageError("--from requires --verify-key")
        old = _before(before, verification, database)
    start = time.monotonic()
    with PageReader(database) as pages, progress_bar("verifying") as progress:
        if sample is None:
            outcome = verify(pages, verification, progress)
        else:
            outcome = verify_sample(pages, verification, sample, progress)
        entries = len(pages)
    document = _document(database, verification, outcome, entries)
    if old is not None and outcome.manifest is not None:
        document["since"] = _since(old, outcome.manifest)
    advice = None
    if verification.mac_keys is not None and time.monotonic() - start >= _speed.ADVICE_AFTER_S:
        advice = _speed.advice(verification.mac_keys.signing.suite)
    if as_json:
        print_json(document)
    else:
        _print(document, advice, console())
    exit_code: int = document["exit_code"]
    return exit_code


def _document(database: str, verification: Verification, outcome: Outcome, entries: int) -> dict[str, Any]:
    document = _signing.document("verify", database, "sampled" if outcome.sample else "verified", 0)
    document |= {"checked": outcome.checked, "entries": entries, "tags": None, "manifest": None}
    if verification.mac_keys is not None:
        keys = [key.fingerprint for key in verification.mac_keys]
        document["tags"] = {"keys": keys, "context": verification.context} | _faults(outcome.tag_faults)
        document["tags"]["unknown_keys"] = sorted(outcome.unknown_keys)
    if outcome.manifest is not None:
        document["manifest"] = _release(outcome.manifest) | _faults(outcome.manifest_faults)
    if outcome.stopped is not None:
        document["error"] = f"not every value was verified: {outcome.stopped}"
    if outcome.refused:
        document.update(verdict="refused", exit_code=1)
    elif not outcome.checked:
        document.update(verdict="undecided", exit_code=2, error=_EMPTY)
    return document


def _before(path: str, verification: Verification, database: str) -> Manifest:
    """Open the manifest of an earlier release, which must be signed by the same keys."""
    path = path if path.endswith(MANIFEST_SUFFIX) else manifest_path(path)
    manifest = open_manifest(
        path,
        verification.verify_keys,
        threshold=verification.threshold,
        name=verification.name,
    )
    check_earlier(manifest, path, verification.subject or name_of(database))
    return manifest


def _since(old: Manifest, new: Manifest) -> dict[str, Any]:
    if old.statement.name != new.statement.name:
        raise ManifestMismatchError(
            f"the earlier release is of the dataset {printable(old.statement.name)}, expected "
            f"{printable(new.statement.name)}; name a release of this dataset",
            rule=Rule.MANIFEST,
        )
    if old.statement.algorithm is not new.statement.algorithm:
        raise StoreError(
            f"the earlier release lists {old.statement.algorithm.value} digests and this one "
            f"{new.statement.algorithm.value} digests, so the two cannot be compared; leave --from out"
        )
    predecessor = new.statement.predecessor
    return {
        "version": old.statement.version,
        "is_predecessor": predecessor is not None and predecessor.manifest_sha256 == old.statement.manifest_sha256,
        "predecessor": None if predecessor is None else predecessor.version,
        **changes_to_json(changes(old, new)),
    }


def _release(manifest: Manifest) -> dict[str, object]:
    statement = manifest.statement
    return {
        "name": statement.name,
        "version": statement.version,
        "license": statement.license,
        "count": statement.count,
        "created": statement.created.isoformat(),
        "hash": statement.algorithm.value,
        "signed_by": [key.fingerprint for key in manifest.signed_by],
    }


def _faults(faults: dict[str, Listed]) -> dict[str, object]:
    return {
        kind: {
            "count": listed.count,
            "first": [
                {"lmdb_key": printable_key(lmdb_key), "lmdb_key_hex": lmdb_key.hex()}
                | ({} if belongs_to is None else {"belongs_to": printable_key(belongs_to)})
                for lmdb_key, belongs_to in listed.first
            ],
        }
        for kind, listed in faults.items()
    }


def _print(document: dict[str, Any], advice: str | None, out: Console) -> None:
    if document["manifest"] is not None:
        release = document["manifest"]
        rows = [
            ("release", f"{printable(release['name'])} {printable(release['version'])}"),
            ("licence", printable(release["license"] or "not stated")),
            ("signed", f"{release['created']} by {', '.join(release['signed_by'])}"),
        ]
        _signing.print_facts(rows, out)
    if "since" in document:
        since = document["since"]
        note = ""
        if not since["is_predecessor"]:
            named = printable(since["predecessor"]) if since["predecessor"] else "no release"
            note = f" (the publisher names {named} as the predecessor)"
        print_changes(since, printable(since["version"]) + note, out)
    for check in ("tags", "manifest"):
        for kind, listed in (document[check] or {}).items():
            if isinstance(listed, dict) and listed["count"]:
                words = (
                    f"tagged with key {', '.join(document['tags']['unknown_keys'])}" if kind == "unknown_key" else kind
                )
                _print_kind(words, listed, out)
    if document["error"] is not None:
        out.print(printable(document["error"], 1000), soft_wrap=True)
    if advice is not None:
        out.print(advice, soft_wrap=True)
    database = printable(document["database"], 400)
    as_signed = "as it was signed" if document["checked"] == 1 else "as they were signed"
    text = {
        0: f"VERIFIED: {_signing.all_values(document['checked'], database)} {as_signed}",
        1: f"REFUSED: {database} {_fault(document, database)}",
        2: f"UNDECIDED: {database}: nothing was verified",
    }[document["exit_code"]]
    if document["verdict"] == "sampled":
        counts = f"{document['checked']:,} of {document['entries']:,} values"
        text = f"SAMPLED: {counts} in {database} are as they were signed; the others were not checked"
    _signing.print_verdict(text, document["exit_code"], out)


def _fault(document: dict[str, Any], database: str) -> str:
    """Write the problem and what to do. If all values fail for one reason, the key or context is probably wrong."""
    tags = document["tags"] or {}
    whole = [kind for kind in TAG_KINDS if kind in tags and tags[kind]["count"] == document["checked"] > 0]
    if whole == ["untagged"]:
        command = shell_command("ben-secure", "sign", document["database"], "--mac-key", "FILE")
        return f"was never tagged: {command} tags it, if you trust it as it is"
    if whole == ["unknown_key"]:
        unknown, keys = ", ".join(tags["unknown_keys"]), ", ".join(tags["keys"])
        return f"is tagged with the key {unknown}, but you gave {keys}; ask its owners for the key"
    if whole == ["changed"] and tags["context"]:
        return f"has no valid tag; check that the tags were made for --context {printable(tags['context'])!r}"
    if whole == ["changed"]:
        return "has no valid tag, and no --context was given; check whether the tags were made for a context"
    return "is not as it was signed; fetch it again from its source"


def _print_kind(kind: str, listed: dict[str, Any], out: Console) -> None:
    out.print(f"{listed['count']:,} {kind}:")
    for entry in listed["first"]:
        origin = f" (the value of {entry['belongs_to']})" if "belongs_to" in entry else ""
        out.print(f"  {entry['lmdb_key']}{origin}", soft_wrap=True)
    _signing.print_left_out(listed["count"], len(listed["first"]), kind, out)
