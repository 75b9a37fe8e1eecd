"""``ben-secure keygen``: make keys, and print their fingerprints for comparison. Secrets are never printed."""

from __future__ import annotations

import click

from ben_secure._system.files import check_free
from ben_secure.cli import _options, _passphrase, _signing, _speed
from ben_secure.cli._common import SCHEMA, console, print_json
from ben_secure.cli._usage import PATH, Group, argument, one_of
from ben_secure.errors import KeyFileError, printable
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    Suite,
    add_mac_key,
    write_key_pair,
    write_mac_keys,
)

_SUITE = one_of({suite.name: suite for suite in Suite})
_file = argument("file", metavar="FILE", type=PATH, note="Key file to write, outside any database folder.")
_force = click.option("--force", is_flag=True, help="Overwrite FILE. The old key, which may still be needed, is lost.")


@click.group("keygen", cls=Group, no_args_is_help=False)
def group() -> None:
    """Make a key file, and print its fingerprint."""


@group.command("mac")
@_file
@click.option("--add", is_flag=True, help="Add a new key to FILE for new tags; the other keys still verify old tags.")
@click.option(
    "--algorithm",
    type=_SUITE,
    help="HS256 (HMAC-SHA-256) or A256GMAC (AES-256-GMAC: fast on processors without SHA instructions). Default: "
    "HS256, or with --add the algorithm of the current key.",
)
@_force
@_options.as_json
def mac(file: str, add: bool, algorithm: Suite | None, force: bool, as_json: bool) -> int:
    """Make a secret key for tags, shared by everyone who may write values (a JWK Set, mode 0600).

    If the algorithm is slow on this machine, the command prints the speed of both algorithms.

    Exit code 0: the key was written. 2: FILE exists (without --force) or cannot be written.
    """
    if add and force:
        raise click.UsageError("--add keeps the keys in FILE, and --force overwrites them; give only one of the two")
    if add:
        mac_keys = add_mac_key(file, algorithm)
    else:
        mac_keys = MacKeySet(MacKey.generate(algorithm or Suite.HS256))
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
    advice = "Give the file over a secure channel to everyone who may tag values, and compare the fingerprint."
    console().print("\n".join(filter(None, [advice, _speed.advice(suite)])), soft_wrap=True)
    return 0


@group.command("publisher")
@_file
@_options.passphrase_file
@_options.passphrase_env
@click.option("--no-passphrase", is_flag=True, help="Leave the private key unencrypted (otherwise you are asked).")
@_force
@_options.as_json
def publisher(
    file: str,
    passphrase_file: str | None,
    passphrase_env: str | None,
    no_passphrase: bool,
    force: bool,
    as_json: bool,
) -> int:
    """Make a publisher's key pair: FILE is the private key (PEM, mode 0600), FILE.pub the public key (PEM).

    Exit code 0: the keys were written. 2: a file exists (without --force) or cannot be written, or there is no
    passphrase.
    """
    public_file = f"{file}.pub"
    for path in (public_file, file):  # checked before the prompt, in the order in which they are written
        check_free(path, overwrite=force, error=KeyFileError)
    passphrase = _passphrase.passphrase_from(passphrase_file, passphrase_env)
    if no_passphrase and passphrase is not None:
        raise click.UsageError("--no-passphrase cannot be combined with --passphrase-file or --passphrase-env")
    if passphrase is None and not no_passphrase:
        passphrase = _passphrase.prompt(f"the new private key {printable(file, 400)}", twice=True)
    signing_key = SigningKey.generate()
    write_key_pair(file, public_file, signing_key, passphrase, overwrite=force)
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
    advice = "Publish the public key and its fingerprint where users look for them, not only beside the data."
    console().print(f"Keep the private key secret. {advice}", soft_wrap=True)
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
