"""Where a command takes a passphrase from: a prompt, a file or an environment variable; never an argument.

Arguments are seen by every user of the machine (``ps``). A passphrase is never shown, logged or put in a message.
"""

from __future__ import annotations

import getpass
import os
import sys

import click

from ben_secure.errors import KeyFileError, printable
from ben_secure.signing._keyfiles import read_secret


def passphrase_from(file: str | None, variable: str | None) -> bytes | None:
    """Read a passphrase from where the options say.

    Args:
        file: Path of a file of mode 0600 of which it is the first line, without the line's end.
        variable: Name of an environment variable.

    Returns:
        The passphrase, or None if neither is given.

    Raises:
        KeyFileError: There is none, or the file is not kept as a secret.
    """
    if file is not None and variable is not None:
        raise click.UsageError("give --passphrase-file or --passphrase-env, not both")
    if file is not None:
        found, place = read_secret(file).partition(b"\n")[0].removesuffix(b"\r"), printable(file, 400)
    elif variable is not None:
        found = os.environb.get(os.fsencode(variable), b"")
        place = f"the environment variable {printable(variable)}"
    else:
        return None
    if not found:
        raise KeyFileError(f"no passphrase in {place}; put one there, on the first line")
    return found


def prompt(what: str, *, twice: bool = False) -> bytes:
    """Ask for a passphrase on the terminal, without showing it.

    Args:
        what: What it is for.
        twice: Ask again and compare, for a new one.

    Raises:
        KeyFileError: There is no terminal, or nothing was typed, or two different things.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise KeyFileError(
            f"a passphrase is needed for {what}, and there is no terminal to ask on; use --passphrase-file or "
            "--passphrase-env"
        )
    try:
        typed = getpass.getpass(f"Passphrase for {what}: ")
        if twice and typed and getpass.getpass("The same again: ") != typed:
            raise KeyFileError("the two passphrases differ; begin again")
    except EOFError:
        typed = ""
    if not typed:
        raise KeyFileError("no passphrase was typed; begin again")
    return typed.encode(errors="surrogateescape")
