"""Functions shared by the commands that sign or verify: reading keys and printing results.

A secret is identified by its file and never printed. LMDB keys and paths are untrusted text and are escaped here.
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
from ben_secure.remote.addresses import redacted
from ben_secure.signing.keys import DeviceKey, SigningKey, read_signing_key, read_verify_key
from ben_secure.store.change.rewrite import Refusals, Rewritten


def signing_key_from(path: str, file: str | None, variable: str | None, database: str) -> SigningKey:
    """Read a publisher's private key. Ask for the passphrase if the key is encrypted and no option gives it.

    Args:
        path: The key file.
        file: ``--passphrase-file``.
        variable: ``--passphrase-env``.
        database: The database to sign.

    Raises:
        KeyFileError: The key cannot be used, or there is no passphrase.
    """
    passphrase = _passphrase.passphrase_from(file, variable)
    if passphrase is not None:
        return read_signing_key(path, passphrase, database)
    return read_signing_key(path, lambda: _passphrase.prompt(f"the private key {printable(path, 400)}"), database)


def device_key_from(uri: str, public_key: str, file: str | None, variable: str | None) -> DeviceKey:
    """Find a publisher's key in a device. Ask for the PIN if the device needs one and no option gives it.

    Args:
        uri: ``--signer``.
        public_key: ``--public-key``.
        file: ``--passphrase-file``.
        variable: ``--passphrase-env``.

    Raises:
        KeyFileError: The device or the public key cannot be used, or there is no PIN.
        MissingExtraError: securesystemslib is not installed.
    """
    passphrase = _passphrase.passphrase_from(file, variable)

    def secret(name: str) -> str:
        pin = _passphrase.prompt(f"the signer ({printable(name)})") if passphrase is None else passphrase
        return pin.decode(errors="surrogateescape")

    verify_key = read_verify_key(public_key)
    try:
        return DeviceKey.from_uri(uri, verify_key, secret)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def now() -> datetime:
    """Return the current time (UTC) in whole seconds, as it is signed."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def document(command: str, database: str, verdict: str | None, exit_code: int) -> dict[str, Any]:
    """Make the first members of a command's JSON object. The verdict is None if nothing was judged."""
    return {
        "schema": SCHEMA,
        "command": command,
        "database": redacted(database),
        "verdict": verdict,
        "exit_code": exit_code,
        "error": None,
    }


def refusals_to_json(refusals: Refusals) -> dict[str, object]:
    """Convert refusals into plain data: ``refused``, the first ``findings``, and ``findings_left_out``."""
    findings = [Finding.from_error(error.lmdb_key or b"", error) for error in refusals.first]
    return {
        "refused": refusals.count,
        "findings": [finding_to_json(finding) for finding in findings],
        "findings_left_out": refusals.count - len(findings),
    }


def print_refusals(refusals: Refusals, out: Console) -> None:
    """Print the refused values in one line each, then each distinct remedy once."""
    remedies: dict[str, None] = {}
    for error in refusals.first:
        problem, _, remedy = error.message.partition("; ")
        out.print(f"{printable_key(error.lmdb_key or b'')}: {problem}", soft_wrap=True)
        remedies[remedy] = None
    print_left_out(refusals.count, len(refusals.first), "refused", out)
    for remedy in filter(None, remedies):
        out.print(f"what to do: {remedy}", soft_wrap=True)


def print_left_out(count: int, printed: int, description: str, out: Console) -> None:
    """Print how many items of a list were not printed."""
    if count > printed:
        out.print(f"and {count - printed:,} more {description}", soft_wrap=True)


def all_values(count: int, database: str) -> str:
    """Write the subject and verb of a sentence, such as ``all 30 values in some.lmdb are``."""
    return f"1 value in {database} is" if count == 1 else f"all {counted(count, 'value')} in {database} are"


def print_verdict(text: str, exit_code: int, out: Console) -> None:
    """Print the last line of a command."""
    out.print(text, style=("bold green", "bold red", "bold yellow")[exit_code], soft_wrap=True)


def print_facts(rows: Iterable[tuple[str, str]], out: Console) -> None:
    """Print aligned pairs of names and values."""
    rows = list(rows)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        out.print(f"{name:<{width}}  {value}", soft_wrap=True)


def print_rewritten(
    command: str,
    source: str,
    target: str | None,
    result: Rewritten,
    headline: str,
    as_json: bool,
    *,
    text: str | None = None,
    facts: Mapping[str, object] = MappingProxyType({}),
) -> int:
    """Print the result of a command that rewrites a database.

    Args:
        command: Name of the command.
        source: The database.
        target: The copy, or None if the database itself was changed.
        result: The result.
        headline: First word of the last line if no value was refused.
        as_json: Whether to print one JSON object.
        text: Text after the headline, or None for the number of values.
        facts: Further members of the JSON object.

    Returns:
        The exit code: 1 if a value was refused, otherwise 0.
    """
    exit_code = 1 if result.refusals.count else 0
    written, checked, refused = result.written, counted(result.checked, "value"), result.refusals.count
    if as_json:
        members = document(command, source, "refused" if exit_code else headline.lower(), exit_code)
        counts = {"out": target if written else None, "checked": result.checked, "written": written}
        counts |= {"joined": result.joined} if result.joined else {}
        print_json({**members, **facts, **counts, **refusals_to_json(result.refusals)})
        return exit_code
    out = console()
    print_refusals(result.refusals, out)
    path = printable(target or source, 400)
    if exit_code:
        rest = f"the other {written:,} are in {path}" if written else "nothing was written"
        source_name = printable(redacted(source), 400)
        print_verdict(f"REFUSED: {refused:,} of {checked} in {source_name}; {rest}", exit_code, out)
        return exit_code
    if text is None:
        text = f"{written:,} of {checked} {'is' if written == 1 else 'are'} in {path}"
        text += f"; {result.joined:,} are joined to others" if result.joined else ""
    print_verdict(f"{headline}: {text}", exit_code, out)
    return exit_code
