"""``ben-secure publish``: one command from a database to a release."""

from __future__ import annotations

import os

import click

from ben_secure.cli import _options, _signing
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.cli._usage import PATH, Command, argument
from ben_secure.errors import counted, printable
from ben_secure.publish import CARD_NAME, CROISSANT_NAME, PAGE_NAME, SUMS_NAME, Published, publish


@click.command("publish", cls=Command)
@argument(
    "sources",
    metavar="SRC...",
    type=PATH,
    nargs=-1,
    required=True,
    note="LMDB directories, or their data files; they are only read.",
)
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
    sources: tuple[str, ...],
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
    """Audit databases, copy or convert them, sign the copies, verify them, and write what to tell their users.

    Several databases get one signature and keep their names: train, validation and test, or shards.

    Stops at the first stage that fails, and leaves nothing behind then. Exit code 0: DEST is a release. 1: values were
    refused. 2: it could not be done.
    """
    if not name or not version:
        raise click.UsageError("a release needs --name and --version")
    key = _signing.signing_key_from(signing_key, passphrase_file, passphrase_env, sources[0])
    done = publish(
        sources,
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
        print_json(_document(sources, target, done, exit_code, key.fingerprint))
    elif exit_code:
        out = console()
        _signing.print_refusals(done.refusals, out)
        of = f"{done.refusals.count:,} of {counted(done.checked, 'value')}"
        places = ", ".join(printable(source, 400) for source in sources)
        text = f"REFUSED: {of} in {places}; no release"
        _signing.print_verdict(text, exit_code, out)
    else:
        _print(target, done, key.fingerprint)
    return exit_code


def _document(
    sources: tuple[str, ...], target: str, done: Published, exit_code: int, fingerprint: str
) -> dict[str, object]:
    statement = done.statement
    release = None
    if statement is not None:
        release = {
            "directory": target,
            "database": done.databases[0] if len(done.databases) == 1 else None,
            "databases": list(done.databases),
            "name": statement.name,
            "version": statement.version,
            "license": statement.license,
            "created": statement.created.isoformat(),
            "count": sum(one.count for one in statement.subjects) or statement.count,
            "fingerprint": fingerprint,
            "sha256": dict(done.sums),
        }
    document = _signing.document("publish", sources[0], "refused" if exit_code else "published", exit_code)
    refused = _signing.refusals_to_json(done.refusals)
    return document | {"checked": done.checked, "release": release} | refused


def _print(target: str, done: Published, fingerprint: str) -> None:
    out = console()
    rows = [
        *(("database", os.path.join(target, database)) for database in done.databases),
        ("manifest", "beside it, with its envelope"),
        ("checksums", os.path.join(target, SUMS_NAME)),
        ("for its page", os.path.join(target, PAGE_NAME)),
        ("for a hub", f"{os.path.join(target, CARD_NAME)}, {os.path.join(target, CROISSANT_NAME)}"),
        ("fingerprint", fingerprint),
    ]
    _signing.print_facts([(what, printable(value, 400)) for what, value in rows], out)
    text = f"PUBLISHED: {counted(done.checked, 'value')} audited, signed and verified in {printable(target, 400)}"
    _signing.print_verdict(text, 0, out)
