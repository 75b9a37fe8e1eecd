"""``ben-secure publish``: one command from a database to a release."""

from __future__ import annotations

import os

import click

from ben_secure.cli import _options, _signing
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.cli._usage import PATH, Command, argument
from ben_secure.errors import counted, printable
from ben_secure.publish import PAGE_NAME, SUMS_NAME, Published, publish


@click.command("publish", cls=Command)
@argument("source", metavar="SRC", type=PATH, note="LMDB directory, or its data file; it is only read.")
@argument("target", metavar="DEST", type=PATH, note="Folder to make; must not exist or be empty.")
@click.option("--signing-key", type=_options.KEY_FILE, required=True, help=_options.SIGNING_KEY_HELP)
@_options.name
@_options.version
@_options.license_
@click.option("--convert", is_flag=True, help="Write canonical values; otherwise they are copied as they are.")
@_options.passphrase_file
@_options.passphrase_env
@_options.as_json
def command(
    source: str,
    target: str,
    signing_key: str,
    name: str | None,
    version: str | None,
    license_: str | None,
    convert: bool,
    passphrase_file: str | None,
    passphrase_env: str | None,
    as_json: bool,
) -> int:
    """Audit a database, copy or convert it, sign the copy, verify it, and write what to tell its users.

    Stops at the first stage that fails, and leaves nothing behind then. Exit code 0: DEST is a release. 1: values were
    refused. 2: it could not be done.
    """
    if not name or not version:
        raise click.UsageError("a release needs --name and --version")
    key = _signing.signing_key_from(signing_key, passphrase_file, passphrase_env, source)
    done = publish(
        source,
        target,
        key,
        name=name,
        version=version,
        license=license_,
        created=_signing.now(),
        convert=convert,
        stages=progress_bar,
    )
    exit_code = 1 if done.refusals.count else 0
    if as_json:
        print_json(_document(source, target, done, exit_code, key.fingerprint))
    elif exit_code:
        out = console()
        _signing.print_refusals(done.refusals, out)
        of = f"{done.refusals.count:,} of {counted(done.checked, 'value')}"
        text = f"REFUSED: {of} in {printable(source, 400)}; no release"
        _signing.print_verdict(text, exit_code, out)
    else:
        _print(target, done, key.fingerprint)
    return exit_code


def _document(source: str, target: str, done: Published, exit_code: int, fingerprint: str) -> dict[str, object]:
    statement = done.statement
    release = None
    if statement is not None:
        release = {
            "directory": target,
            "database": done.database,
            "name": statement.name,
            "version": statement.version,
            "license": statement.license,
            "created": statement.created.isoformat(),
            "count": statement.count,
            "fingerprint": fingerprint,
            "sha256": dict(done.sums),
        }
    document = _signing.document("publish", source, "refused" if exit_code else "published", exit_code)
    refused = _signing.refusals_to_json(done.refusals)
    return document | {"checked": done.checked, "release": release} | refused


def _print(target: str, done: Published, fingerprint: str) -> None:
    out = console()
    rows = [
        ("database", os.path.join(target, done.database or "")),
        ("manifest", "beside it, with its envelope"),
        ("checksums", os.path.join(target, SUMS_NAME)),
        ("for its page", os.path.join(target, PAGE_NAME)),
        ("fingerprint", fingerprint),
    ]
    _signing.print_facts([(what, printable(value, 400)) for what, value in rows], out)
    text = f"PUBLISHED: {counted(done.checked, 'value')} audited, signed and verified in {printable(target, 400)}"
    _signing.print_verdict(text, 0, out)
