"""``ben-secure verify``: is every value of this database the one that was signed? Decodes none of them."""

from __future__ import annotations

import time
from typing import Any

import typer
from rich.console import Console

from ben_secure.audit.report import printable_key
from ben_secure.cli import _signing, _speed
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.errors import printable
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import read_mac_keys, read_verify_key
from ben_secure.signing.manifest import Manifest, manifest_path, open_manifest
from ben_secure.store.change.verify import Outcome, verify_manifest, verify_tags

_EMPTY = "the database is empty, so nothing was verified"


def command(
    database: _signing.Database,
    mac_key: _signing.MacKeyOption = None,
    context: _signing.ContextOption = "",
    verify_keys: _signing.VerifyKeysOption = None,
    manifest: _signing.ManifestOption = None,
    name: _signing.NameOption = None,
    version: _signing.VersionOption = None,
    threshold: _signing.ThresholdOption = 1,
    as_json: _signing.JsonOption = False,
) -> int:
    """Check every value of a database against its tag (--mac-key), or against the publisher's manifest (--verify-key).

    Exit code 0: every value is as it was signed. 1: something is not. 2: it could not be decided, or there was nothing
    to check.
    """
    _check_options(mac_key, context, verify_keys, [manifest, name, version], threshold)
    document = _signing.document("verify", database, "verified", 0) | {"checked": 0, "tags": None, "manifest": None}
    outcomes = []
    advice = None
    mac_keys = read_mac_keys(mac_key, database) if mac_key is not None else None
    opened = None
    if verify_keys:
        keys = [read_verify_key(path) for path in verify_keys]
        opened = open_manifest(
            manifest or manifest_path(database), keys, threshold=threshold, name=name, version=version
        )
    with PageReader(database) as pages:
        if mac_keys is not None:
            start = time.monotonic()
            with progress_bar("verifying tags") as progress:
                outcomes.append(verify_tags(pages, mac_keys, context, progress))
            if time.monotonic() - start >= _speed.WORTH_TELLING_S:
                advice = _speed.advice(mac_keys.signing.suite)
            keys_given = [key.fingerprint for key in mac_keys]
            document["tags"] = {"keys": keys_given, "context": context} | _faults(outcomes[-1])
        if opened is not None:
            with progress_bar("verifying") as progress:
                outcomes.append(verify_manifest(pages, opened, progress))
            document["manifest"] = _release(opened) | _faults(outcomes[-1])
    _judge(document, outcomes)
    if as_json:
        print_json(document)
    else:
        _print(document, advice, console())
    exit_code: int = document["exit_code"]
    return exit_code


def _check_options(
    mac_key: str | None, context: str, verify_keys: list[str] | None, release: list[str | None], threshold: int
) -> None:
    if mac_key is None and not verify_keys:
        raise typer.BadParameter("say what to verify with: --mac-key FILE, --verify-key FILE, or both")
    if context and mac_key is None:
        raise typer.BadParameter("--context belongs to --mac-key")
    if not verify_keys and (any(option is not None for option in release) or threshold != 1):
        raise typer.BadParameter("--manifest, --name, --version and --threshold belong to --verify-key")
    if verify_keys and not 1 <= threshold <= len(verify_keys):
        raise typer.BadParameter(f"--threshold is {threshold}, expected 1 to the number of keys, {len(verify_keys)}")


def _release(manifest: Manifest) -> dict[str, object]:
    statement = manifest.statement
    return {
        "name": statement.name,
        "version": statement.version,
        "license": statement.license,
        "count": statement.count,
        "created": statement.created.isoformat(),
        "signed_by": [key.fingerprint for key in manifest.signed_by],
    }


def _faults(outcome: Outcome) -> dict[str, object]:
    return {
        kind: {
            "count": listed.count,
            "first": [
                {"lmdb_key": printable_key(lmdb_key), "lmdb_key_hex": lmdb_key.hex()}
                | ({} if belongs_to is None else {"belongs_to": printable_key(belongs_to)})
                for lmdb_key, belongs_to in listed.first
            ],
        }
        for kind, listed in outcome.faults.items()
    }


def _judge(document: dict[str, Any], outcomes: list[Outcome]) -> None:
    document["checked"] = min(outcome.checked for outcome in outcomes)
    stopped = next((outcome.stopped for outcome in outcomes if outcome.stopped is not None), None)
    if stopped is not None:
        document["error"] = f"not every value was verified: {stopped}"
    if any(outcome.refused for outcome in outcomes):
        document.update(verdict="refused", exit_code=1)
    elif not document["checked"]:
        document.update(verdict="undecided", exit_code=2, error=_EMPTY)


def _print(document: dict[str, Any], advice: str | None, out: Console) -> None:
    if document["manifest"] is not None:
        release = document["manifest"]
        rows = [
            ("release", f"{printable(release['name'])} {printable(release['version'])}"),
            ("licence", printable(release["license"] or "not stated")),
            ("signed", f"{release['created']} by {', '.join(release['signed_by'])}"),
        ]
        _signing.print_facts(rows, out)
    for part in ("tags", "manifest"):
        for kind, listed in (document[part] or {}).items():
            if isinstance(listed, dict) and listed["count"]:
                _print_kind(kind.replace("_", " "), listed, out)
    if document["tags"] is not None and document["tags"]["changed"]["count"] == document["checked"] > 0:
        out.print(f"every tag fails: is {printable(document['tags']['context'])!r} the --context they were made for?")
    if document["error"] is not None:
        out.print(printable(document["error"], 1000), soft_wrap=True)
    if advice is not None:
        out.print(advice, soft_wrap=True)
    database = printable(document["database"], 400)
    text = {
        0: f"VERIFIED: all {document['checked']:,} values in {database} are as they were signed",
        1: f"REFUSED: {database} is not as it was signed; fetch it again from its source",
        2: f"UNDECIDED: {database}: nothing was verified",
    }[document["exit_code"]]
    _signing.print_verdict(text, document["exit_code"], out)


def _print_kind(kind: str, listed: dict[str, Any], out: Console) -> None:
    out.print(f"{listed['count']:,} {kind}:")
    for entry in listed["first"]:
        origin = f" (the value of {entry['belongs_to']})" if "belongs_to" in entry else ""
        out.print(f"  {entry['lmdb_key']}{origin}", soft_wrap=True)
    _signing.print_left_out(listed["count"], len(listed["first"]), kind, out)
