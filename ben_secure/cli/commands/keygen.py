"""``ben-secure keygen``: make keys, and show the fingerprints by which people compare them. Never shows a secret."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ben_secure.cli import _passphrase, _signing, _speed
from ben_secure.cli._common import SCHEMA, console, print_json
from ben_secure.errors import KeyFileError, printable
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    Suite,
    add_mac_key,
    write_mac_keys,
    write_signing_key,
    write_verify_key,
)

app = typer.Typer(name="keygen", rich_markup_mode=None, help="Make a key file; prints its fingerprint.")

File = Annotated[str, typer.Argument(metavar="FILE", help="File to make, outside of any database's folder.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite FILE; what only the old key can check is lost.")]


@app.command("mac")
def mac(
    file: File,
    add: Annotated[
        bool, typer.Option("--add", help="Add a new key to FILE that tags from now on; the others go on checking.")
    ] = False,
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm",
            metavar="NAME",
            help="HS256 (HMAC-SHA-256; the default) or A256GMAC (AES-256-GMAC: fast on processors without SHA "
            "instructions); with --add that of the key that tags now if not given.",
        ),
    ] = None,
    force: Force = False,
    as_json: _signing.JsonOption = False,
) -> int:
    """Make a secret key for tagging values, to be shared by all who may write them (a JWK Set, mode 0600).

    Says how fast both algorithms are on this machine if the chosen one is slow here.

    Exit code 0: done. 2: FILE exists (without --force) or cannot be written.
    """
    if add and force:
        raise typer.BadParameter("--add keeps the keys in FILE, --force overwrites them; give one of the two")
    suite = None if algorithm is None else _suite(algorithm)
    if add:
        mac_keys = add_mac_key(file, suite)
    else:
        mac_keys = MacKeySet(MacKey.generate(suite or Suite.HS256))
        write_mac_keys(file, mac_keys, overwrite=force)
    suite = mac_keys.signing.suite
    checking = [mac_key for mac_key in mac_keys if mac_key is not mac_keys.signing]
    if as_json:
        fingerprints = [mac_key.fingerprint for mac_key in checking]
        facts = {"file": file, "algorithm": suite.name, "checking_only": fingerprints}
        print_json(_document("mac", mac_keys.fingerprint) | facts)
        return 0
    rows = [("secret key", printable(file, 400)), ("fingerprint", mac_keys.fingerprint), ("algorithm", suite.name)]
    rows += [("still valid", f"{mac_key.fingerprint} ({mac_key.suite.name})") for mac_key in checking]
    _signing.print_facts(rows, console())
    advice = "Give the file, over a channel that you trust, to those who may tag values; compare the fingerprint."
    console().print("\n".join(filter(None, [advice, _speed.advice(suite)])), soft_wrap=True)
    return 0


def _suite(name: str) -> Suite:
    try:
        return Suite[name.upper()]
    except KeyError:
        names = " or ".join(suite.name for suite in Suite)
        raise typer.BadParameter(f"--algorithm is {printable(name)}; expected {names}") from None


@app.command("publisher")
def publisher(
    file: File,
    passphrase_file: _passphrase.FileOption = None,
    passphrase_env: _passphrase.VariableOption = None,
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Leave the private key unencrypted; without this you are asked.")
    ] = False,
    force: Force = False,
    as_json: _signing.JsonOption = False,
) -> int:
    """Make a publisher's pair of keys: FILE, private (PEM, mode 0600), and FILE.pub, public (PEM).

    Exit code 0: done. 2: a file exists (without --force) or cannot be written, or there is no passphrase.
    """
    public_file = f"{file}.pub"
    if not force:
        for path in (file, public_file):
            if os.path.lexists(path):  # before anything is asked; writing does not overwrite either
                raise KeyFileError(f"{printable(path, 400)} exists and is not overwritten; choose another name")
    passphrase = _passphrase.passphrase_from(passphrase_file, passphrase_env)
    if no_passphrase and passphrase is not None:
        raise typer.BadParameter("--no-passphrase goes with no other passphrase option")
    if passphrase is None and not no_passphrase:
        passphrase = _passphrase.prompt(f"the new private key {printable(file, 400)}", twice=True)
    signing_key = SigningKey.generate()
    write_signing_key(file, signing_key, passphrase, overwrite=force)
    write_verify_key(public_file, signing_key.verify_key, overwrite=force)
    if as_json:
        files = {"file": file, "public_file": public_file, "encrypted": passphrase is not None}
        print_json(_document("publisher", signing_key.fingerprint) | files)
        return 0
    rows = [
        ("private key", f"{printable(file, 400)} ({'encrypted' if passphrase else 'not encrypted'})"),
        ("public key", printable(public_file, 400)),
        ("fingerprint", signing_key.fingerprint),
    ]
    _signing.print_facts(rows, console())
    advice = "Publish the public key and its fingerprint where readers look for them, not only beside the data."
    console().print(f"Keep the private key to yourself. {advice}", soft_wrap=True)
    return 0


def _document(kind: str, fingerprint: str) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "command": "keygen",
        "verdict": None,  # nothing was judged
        "exit_code": 0,
        "error": None,
        "kind": kind,
        "fingerprint": fingerprint,
    }
