"""Get a passphrase from a prompt, a file or an environment variable, but never from an argument.

Every user of the machine can see arguments (``ps``). A passphrase is never printed, logged or put in a message.
"""

from __future__ import annotations

import getpass
import os
import sys

import click

from ben_secure.errors import KeyFileError, printable
from ben_secure.signing._keyfiles import read_secret


def passphrase_from(file: str | None, variable: str | None) -> bytes | None:
    """Read a passphrase from a file or an environment variable.

    Args:
        file: Path of a file of mode 0600. The passphrase is its first line without the line ending.
        variable: Name of an environment variable.

    Returns:
        The passphrase, or None if both arguments are None.

    Raises:
        KeyFileError: The passphrase is empty, or other users can read the file.
    """
    if file is not None and variable is not None:
        raise click.UsageError("give --passphrase-file or --passphrase-env, not both")
    if file is not None:
        passphrase, source = read_secret(file).partition(b"\n")[0].removesuffix(b"\r"), printable(file, 400)
    elif variable is not None:
        passphrase = os.environb.get(os.fsencode(variable), b"")
        source = f"the environment variable {printable(variable)}"
    else:
        return None
    if not passphrase:
        raise KeyFileError(f"no passphrase in {source}; put one there, in a file on the first line")
    return passphrase


def prompt(purpose: str, *, twice: bool = False) -> bytes:
    """Ask for a passphrase on the terminal, without echoing it.

    Args:
        purpose: The key or device that needs the passphrase.
        twice: Whether to ask a second time and compare; for a new passphrase.

    Raises:
        KeyFileError: There is no terminal, nothing was entered, or the two entries differ.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise KeyFileError(
            f"a passphrase is needed for {purpose}, but there is no terminal to ask on; use --passphrase-file or "
            "--passphrase-env"
        )
    try:
        typed = getpass.getpass(f"Passphrase for {purpose}: ")
        if twice and typed and getpass.getpass("Repeat the passphrase: ") != typed:
            raise KeyFileError("the two passphrases differ; run the command again")
    except EOFError:
        typed = ""
    if not typed:
        raise KeyFileError("no passphrase was entered; run the command again")
    return typed.encode(errors="surrogateescape")
