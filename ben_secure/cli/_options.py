"""Options that several commands share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast

import click

from ben_secure._system.files import is_stream
from ben_secure.cli._usage import PATH, OptionType, argument, whole
from ben_secure.signing._keyfiles import refuse_beside_data
from ben_secure.signing.keys import read_mac_keys, read_verify_key
from ben_secure.signing.policy import Keywords, Verification
from ben_secure.signing.statement import MAX_TEXT_CHARACTERS
from ben_secure.signing.tags import context_bytes


def _context(text: str) -> str:
    context_bytes(text)
    return text


def _statement_text(text: str) -> str:
    """Check that a text is valid in a statement. Checked here, because hashing comes first and may take hours."""
    if not (text.isprintable() and 1 <= len(text) <= MAX_TEXT_CHARACTERS):
        raise ValueError
    return text


def _png(text: str) -> str:
    if not text.lower().endswith(".png") and text != "-" and not is_stream(text):
        raise ValueError
    return text


CONTEXT = OptionType("C", _context)
STATEMENT_TEXT = OptionType("TEXT", _statement_text, f"1 to {MAX_TEXT_CHARACTERS} printable characters")
KEY_FILE = OptionType("FILE", lambda text: "/dev/stdin" if text == "-" else text, choices=None)
PNG = OptionType("FILE", _png, "a name that ends in .png, or - for standard output", choices=None)

database = argument("database", metavar="DB", type=PATH, note="LMDB directory or its data file.")
readable = argument(
    "database", metavar="DB", type=PATH, note="LMDB directory, its data file, or the URL of either (https, s3)."
)
mac_key = click.option(
    "--mac-key", type=KEY_FILE, help="Secret key file, made by ben-secure keygen mac; - for standard input."
)
context = click.option("--context", type=CONTEXT, default="", help="Dataset name bound into each tag.")
name = click.option("--name", type=STATEMENT_TEXT, help="Name of the dataset.")
version = click.option("--version", type=STATEMENT_TEXT, help="Version of the release.")
license_ = click.option("--license", "license_", type=STATEMENT_TEXT, help="Licence of the dataset.")
passphrase_file = click.option(
    "--passphrase-file", type=PATH, metavar="F", help="Read the passphrase from the first line of a file (mode 0600)."
)
passphrase_env = click.option(
    "--passphrase-env", metavar="VAR", help="Read the passphrase from an environment variable."
)
SIGNING_KEY_HELP = "Publisher's private key: PEM, DER, OpenSSH or JWK; - for standard input."
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

# By the field of ``Verification`` that the option sets. The defaults are the same.
_VERIFYING = {
    "mac_key": mac_key,
    "context": context,
    "verify_key": click.option(
        "--verify-key", type=KEY_FILE, multiple=True, help="Publisher's public key; may be repeated."
    ),
    "threshold": click.option(
        "--threshold",
        type=whole(),
        default=1,
        show_default=True,
        help="Number of these keys that must have signed.",
    ),
    "manifest": click.option("--manifest", type=PATH, help="Signed manifest or its URL (default: DB.manifest)."),
    "name": name,
    "version": version,
    "subject": click.option(
        "--subject",
        type=STATEMENT_TEXT,
        help="Name of the database in a release of several (default: the name of DB).",
    ),
}


def verifying(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options for verification to a command, which gets the parameter ``verification``.

    The command must have a parameter ``database`` or ``databases``.
    """
    names = [field.name for field in fields(Verification)]

    @functools.wraps(function)
    def run(**arguments: Any) -> int:
        keywords = {name: arguments.pop(name) for name in names}
        databases = arguments.get("databases") or [arguments["database"]]
        return function(verification=_verification(databases, keywords), **arguments)

    for name in reversed(names):
        _VERIFYING[name](run)
    return run


def _verification(databases: Sequence[str], keywords: dict[str, Any]) -> Verification | None:
    """Read the key files and make the ``Verification``. Return None if no option requests one."""
    if (file := keywords["mac_key"]) is not None:
        keywords["mac_key"] = read_mac_keys(file, databases[0])  # only once, because the file may be a pipe
        for database in databases[1:]:
            refuse_beside_data(file, database)
    keywords["verify_key"] = [read_verify_key(file) for file in keywords["verify_key"]] or None
    with usage_errors():
        verification = Verification.of(None, cast(Keywords, keywords))
        if verification is not None:
            verification.check_databases(len(databases))
    return verification


@contextmanager
def usage_errors() -> Iterator[None]:
    """Convert a ``ValueError`` of the block into a usage error, with the names of arguments replaced by options."""
    names = "|".join(["since_manifest", *(field.name for field in fields(Verification))])
    try:
        yield
    except ValueError as error:
        text = re.sub(rf"\b({names})\b", lambda match: "--" + match[0].replace("_", "-"), str(error))
        raise click.UsageError(text) from error
