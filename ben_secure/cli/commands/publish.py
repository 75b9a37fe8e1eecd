"""``ben-secure publish``: make a release from one or more databases."""

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
    note="LMDB directories or their data files; they are not changed.",
)
@argument("target", metavar="DEST", type=PATH, note="Folder for the release; must be new or empty.")
@click.option("--signing-key", type=_options.KEY_FILE, required=True, help=_options.SIGNING_KEY_HELP)
@_options.name
@_options.version
@_options.license_
@click.option("--convert", is_flag=True, help="Convert values to the canonical format (default: copy them).")
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
    """Audit databases, copy or convert them, sign and verify the copies, and write instructions for their users.

    Several databases, such as train, validation and test, get one signature and keep their names.

    If a stage fails, the command stops and leaves nothing behind. Exit code 0: DEST is a release. 1: values were
    refused. 2: the release could not be made.
    """
    if not name or not version:
        raise click.UsageError("a release needs --name and --version")
    key = _signing.signing_key_from(signing_key, passphrase_file, passphrase_env, sources[0])
    result = publish(
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
    exit_code = 1 if result.refusals.count else 0
    if as_json:
        print_json(_document(sources, target, result, exit_code, key.fingerprint))
    elif exit_code:
        out = console()
        _signing.print_refusals(result.refusals, out)
        refused = f"{result.refusals.count:,} of {counted(result.checked, 'value')}"
        names = ", ".join(printable(source, 400) for source in sources)
        _signing.print_verdict(f"REFUSED: {refused} in {names}; no release was made", exit_code, out)
    else:
        _print(target, result, key.fingerprint)
    return exit_code


def _document(
    sources: tuple[str, ...], target: str, result: Published, exit_code: int, fingerprint: str
) -> dict[str, object]:
    statement = result.statement
    release = None
    if statement is not None:
        release = {
            "directory": target,
            "database": result.databases[0] if len(result.databases) == 1 else None,
            "databases": list(result.databases),
            "name": statement.name,
            "version": statement.version,
            "license": statement.license,
            "created": statement.created.isoformat(),
            "count": sum(subject.count for subject in statement.subjects) or statement.count,
            "fingerprint": fingerprint,
            "sha256": dict(result.sums),
        }
    document = _signing.document("publish", sources[0], "refused" if exit_code else "published", exit_code)
    refused = _signing.refusals_to_json(result.refusals)
    return document | {"checked": result.checked, "release": release} | refused


def _print(target: str, result: Published, fingerprint: str) -> None:
    out = console()
    rows = [
        *(("database", os.path.join(target, database)) for database in result.databases),
        ("manifest", "beside the database, with its envelope"),
        ("checksums", os.path.join(target, SUMS_NAME)),
        ("for its page", os.path.join(target, PAGE_NAME)),
        ("for a hub", f"{os.path.join(target, CARD_NAME)}, {os.path.join(target, CROISSANT_NAME)}"),
        ("fingerprint", fingerprint),
    ]
    _signing.print_facts([(name, printable(value, 400)) for name, value in rows], out)
    text = f"PUBLISHED: {counted(result.checked, 'value')} audited, signed and verified in {printable(target, 400)}"
    _signing.print_verdict(text, 0, out)
