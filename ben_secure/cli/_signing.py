"""What commands share that sign or verify: keys from files, and how outcomes are told.

A secret is named by its file and never shown. LMDB keys and paths come from files: they are escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Any

import click
from rich.console import Console

from ben_secure.audit.findings import Finding
from ben_secure.audit.report import finding_to_json, printable_key
from ben_secure.cli import _passphrase
from ben_secure.cli._common import SCHEMA, console, print_json
from ben_secure.errors import counted, printable
from ben_secure.remote.addresses import shown as shown_path
from ben_secure.signing.keys import DeviceKey, SigningKey, read_signing_key, read_verify_key
from ben_secure.store.change.rewrite import Refusals, Rewritten


def signing_key_from(path: str, file: str | None, variable: str | None, database: str) -> SigningKey:
    """Read a publisher's private key; ask for a passphrase if it is encrypted and no option says where to find it.

    Args:
        path: The key file.
        file: ``--passphrase-file``.
        variable: ``--passphrase-env``.
        database: What will be signed.

    Raises:
        KeyFileError: The key cannot be used, or there is no passphrase.
    """
    passphrase = _passphrase.passphrase_from(file, variable)
    if passphrase is not None:
        return read_signing_key(path, passphrase, database)
    return read_signing_key(path, lambda: _passphrase.prompt(f"the private key {printable(path, 400)}"), database)


def device_key_from(uri: str, public_key: str, file: str | None, variable: str | None) -> DeviceKey:
    """Find a publisher's key in a device; ask for its PIN if one is needed and no option says where to find it.

    Args:
        uri: ``--signer``.
        public_key: ``--public-key``.
        file: ``--passphrase-file``.
        variable: ``--passphrase-env``.

    Raises:
        KeyFileError: The device or the public key cannot be used, or there is no PIN.
        MissingExtraError: securesystemslib is not installed.
    """
    given = _passphrase.passphrase_from(file, variable)

    def secret(name: str) -> str:
        return (_passphrase.prompt(f"the signer ({printable(name)})") if given is None else given).decode(
            errors="surrogateescape"
        )

    verify_key = read_verify_key(public_key)
    try:
        return DeviceKey.from_uri(uri, verify_key, secret)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def now() -> datetime:
    """The time, as it is signed."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def document(command: str, database: str, verdict: str | None, exit_code: int) -> dict[str, Any]:
    """Begin the JSON object of a command; a verdict of None says that nothing was judged."""
    return {
        "schema": SCHEMA,
        "command": command,
        "database": shown_path(database),
        "verdict": verdict,
        "exit_code": exit_code,
        "error": None,
    }


def refusals_to_json(refusals: Refusals) -> dict[str, object]:
    """Write refused values as plain data: ``refused``, the first ``findings``, and ``findings_left_out``."""
    findings = [Finding.from_error(error.lmdb_key or b"", error) for error in refusals.first]
    return {
        "refused": refusals.count,
        "findings": [finding_to_json(finding) for finding in findings],
        "findings_left_out": refusals.count - len(findings),
    }


def print_refusals(refusals: Refusals, out: Console) -> None:
    """Print refused values, a line each, and then once what to do about them."""
    advice: dict[str, None] = {}
    for error in refusals.first:
        what, _, remedy = error.message.partition("; ")
        out.print(f"{printable_key(error.lmdb_key or b'')}: {what}", soft_wrap=True)
        advice[remedy] = None
    print_left_out(refusals.count, len(refusals.first), "refused", out)
    for remedy in filter(None, advice):
        out.print(f"what to do: {remedy}", soft_wrap=True)


def print_left_out(count: int, shown: int, what: str, out: Console) -> None:
    """Say how many of a list were not shown."""
    if count > shown:
        out.print(f"and {count - shown:,} more {what}", soft_wrap=True)


def all_values(count: int, place: str) -> str:
    """Begin a sentence on all values of a database, as in ``all 30 values in some.lmdb are``."""
    return f"1 value in {place} is" if count == 1 else f"all {counted(count, 'value')} in {place} are"


def print_verdict(text: str, exit_code: int, out: Console) -> None:
    """Print the last line of a command."""
    out.print(text, style=("bold green", "bold red", "bold yellow")[exit_code], soft_wrap=True)


def print_facts(rows: Iterable[tuple[str, str]], out: Console) -> None:
    """Print names and values, aligned."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        out.print(f"{name:<{width}}  {value}", soft_wrap=True)


def tell_rewritten(
    command: str,
    source: str,
    target: str | None,
    done: Rewritten,
    headline: str,
    as_json: bool,
    *,
    text: str | None = None,
    facts: Mapping[str, object] = MappingProxyType({}),
) -> int:
    """Tell what became of a database whose values were made anew: ``target``, or ``source`` itself if that is None.

    Says ``text`` behind the headline, or how many values there are; the JSON object has ``facts``, too.

    Returns:
        The exit code: 1 if a value was refused, otherwise 0.
    """
    exit_code = 1 if done.refusals.count else 0
    if as_json:
        found = document(command, source, "refused" if exit_code else headline.lower(), exit_code)
        counts = {"out": target if done.written else None, "checked": done.checked, "written": done.written}
        counts |= {"joined": done.joined} if done.joined else {}
        print_json({**found, **facts, **counts, **refusals_to_json(done.refusals)})
        return exit_code
    out = console()
    print_refusals(done.refusals, out)
    place = printable(target or source, 400)
    if exit_code:
        written = f"the other {done.written:,} are in {place}" if done.written else "nothing was written"
        refused = f"{done.refusals.count:,} of {counted(done.checked, 'value')} in {printable(shown_path(source), 400)}"
        print_verdict(f"REFUSED: {refused}; {written}", exit_code, out)
        return exit_code
    if text is None:
        text = f"{done.written:,} of {counted(done.checked, 'value')} {'is' if done.written == 1 else 'are'} in {place}"
        text += f"; {done.joined:,} are joined to others" if done.joined else ""
    print_verdict(f"{headline}: {text}", exit_code, out)
    return exit_code
