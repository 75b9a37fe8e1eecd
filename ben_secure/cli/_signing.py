"""What commands share that sign or verify: options, keys from files, and how outcomes are told.

A secret is named by its file and never shown. LMDB keys and paths come from files: they are escaped here.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from ben_secure.audit.findings import Finding
from ben_secure.audit.report import finding_to_json, printable_key
from ben_secure.cli import _passphrase
from ben_secure.cli._common import SCHEMA, console, print_json
from ben_secure.errors import printable
from ben_secure.signing._keyfiles import read_secret
from ben_secure.signing.keys import SigningKey, read_mac_keys, read_signing_key, read_verify_key
from ben_secure.signing.policy import Keywords, Verification
from ben_secure.signing.statement import MAX_TEXT_CHARACTERS
from ben_secure.signing.tags import context_bytes
from ben_secure.store.change.rewrite import Refusals, Rewritten

Database = Annotated[str, typer.Argument(metavar="DB", help="LMDB directory, or its data file.")]
MacKeyOption = Annotated[
    str | None, typer.Option("--mac-key", metavar="FILE", help="Secret key file, from ben-secure keygen mac.")
]


def _context(given: str) -> str:
    try:
        context_bytes(given)
    except ValueError as error:
        raise typer.BadParameter(printable(str(error))) from error
    return given


ContextOption = Annotated[
    str,
    typer.Option("--context", metavar="C", help="Name of the dataset that the tags are good for.", callback=_context),
]


def _text(given: str | None) -> str | None:
    """What can stand in a statement: found here, because hashing may take hours."""
    if given is not None and not (given.isprintable() and 1 <= len(given) <= MAX_TEXT_CHARACTERS):
        raise typer.BadParameter(f"it is {printable(given)}, expected 1 to {MAX_TEXT_CHARACTERS} printable characters")
    return given


def png_name(given: str | None) -> str | None:
    """Refuse a name for a picture that says it is something else; for ``callback=``."""
    if given is not None and not given.lower().endswith(".png"):
        raise typer.BadParameter(f"it is {printable(given)}, expected a name that ends in .png")
    return given


NameOption = Annotated[str | None, typer.Option("--name", help="Name of the dataset.", callback=_text)]
VersionOption = Annotated[str | None, typer.Option("--version", help="Version of the release.", callback=_text)]
LicenseOption = Annotated[str | None, typer.Option("--license", help="Licence of the dataset.", callback=_text)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


# By the field of ``Verification`` that each option sets, whose default it has.
_VERIFYING: dict[str, Any] = {
    "mac_key": MacKeyOption,
    "context": ContextOption,
    "verify_key": Annotated[
        list[str] | None,
        typer.Option("--verify-key", metavar="FILE", help="Publisher's public key (PEM); may be given more than once."),
    ],
    "threshold": Annotated[int, typer.Option("--threshold", help="How many of the --verify-key must have signed.")],
    "manifest": Annotated[
        str | None, typer.Option("--manifest", metavar="FILE", help="Signed manifest; DB.manifest if not given.")
    ],
    "name": NameOption,
    "version": VersionOption,
}


def verifying(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command that has ``database`` or ``databases`` the options for its parameter ``verification``."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    options = [
        inspect.Parameter(field.name, kind, default=field.default, annotation=_VERIFYING[field.name])
        for field in fields(Verification)
    ]
    own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [new for old in own for new in (options if old.name == "verification" else [old])]

    @functools.wraps(command)
    def run(**arguments: Any) -> int:
        keywords = {option.name: arguments.pop(option.name) for option in options}
        databases = arguments.get("databases") or [arguments["database"]]
        return command(verification=_verification(databases, keywords), **arguments)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _verification(databases: Sequence[str], keywords: dict[str, Any]) -> Verification | None:
    """Read the keys that options name, and make what is asked for; None for nothing."""
    if (file := keywords["mac_key"]) is not None:
        for database in databases:
            keywords["mac_key"] = read_mac_keys(file, database)
    keywords["verify_key"] = [read_verify_key(file) for file in keywords["verify_key"] or ()] or None
    with usage_errors():
        verification = Verification.of(None, cast(Keywords, keywords))
        if verification is not None:
            verification.check_databases(len(databases))
    return verification


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a ``ValueError`` of the block into a usage error that names options where it names arguments."""
    names = "|".join(["since_manifest", *(field.name for field in fields(Verification))])
    try:
        yield
    except ValueError as error:
        text = re.sub(rf"\b({names})\b", lambda match: "--" + match[0].replace("_", "-"), str(error))
        raise typer.BadParameter(text) from error


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
    if passphrase is None and b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in read_secret(path, database):
        passphrase = _passphrase.prompt(f"the private key {printable(path, 400)}")
    return read_signing_key(path, passphrase, database)


def now() -> datetime:
    """The time, as it is signed."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def document(command: str, database: str, verdict: str | None, exit_code: int) -> dict[str, Any]:
    """Begin the JSON object of a command; a verdict of None says that nothing was judged."""
    return {
        "schema": SCHEMA,
        "command": command,
        "database": database,
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
        refused = f"{done.refusals.count:,} of {done.checked:,} values in {printable(source, 400)}"
        print_verdict(f"REFUSED: {refused}; {written}", exit_code, out)
        return exit_code
    if text is None:
        text = f"{done.written:,} of {done.checked:,} values are in {place}"
        text += f"; {done.joined:,} are joined to others" if done.joined else ""
    print_verdict(f"{headline}: {text}", exit_code, out)
    return exit_code
