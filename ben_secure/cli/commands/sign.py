"""``ben-secure sign`` and ``untag``: tag all values (a team's secret key), or sign a manifest (a publisher's key).

Values are signed as bytes and not decoded, so a signed value can be malicious. ``publish`` audits before it signs.
"""

from __future__ import annotations

import click

from ben_secure.cli import _options, _release, _signing
from ben_secure.cli._common import console, progress_bar
from ben_secure.cli._usage import PATH, Command, one_of
from ben_secure.errors import counted, printable
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import Signer, read_mac_keys, read_verify_key
from ben_secure.signing.manifest import name_of, open_manifest
from ben_secure.store.change.in_place import change_in_place
from ben_secure.store.change.rewrite import Rewritten, rewrite
from ben_secure.store.change.tag import Tagger
from ben_secure.tensors import SIGN

_HASHES = {algorithm.value: algorithm for algorithm in Algorithm}


@click.command("sign", cls=Command)
@_options.database
@_options.mac_key
@_options.context
@click.option("--out", type=PATH, metavar="NEW", help="Write a tagged copy (default: tag DB itself).")
@click.option("--retag", is_flag=True, help="Verify and replace tags made with other keys in --mac-key FILE.")
@click.option("--old-mac-key", type=_options.KEY_FILE, help="With --retag: replace tags of the keys in this file.")
@click.option("--signing-key", type=_options.KEY_FILE, help=_options.SIGNING_KEY_HELP)
@click.option("--signer", metavar="URI", help="Key in a device, as a securesystemslib URI such as hsm:2?label=TOKEN.")
@click.option("--public-key", type=_options.KEY_FILE, help="Public key that belongs to --signer.")
@_options.name
@_options.version
@_options.license_
@click.option("--hash", "algorithm", type=one_of(_HASHES), help="Hash of the values; readers need an extra for blake3.")
@click.option(
    "--since", type=PATH, metavar="OLD", help="Manifest of the previous release, to compare with and to name."
)
@click.option(
    "--since-key", type=_options.KEY_FILE, help="Public key that signed --since (default: the one of --signing-key)."
)
@click.option("--out-manifest", type=PATH, help="Manifest to write, outside DB (default: DB.manifest).")
@_options.passphrase_file
@_options.passphrase_env
@click.option("--force", is_flag=True, help="Overwrite manifest and envelope.")
@_options.as_json
def command(
    database: str,
    mac_key: str | None,
    context: str,
    out: str | None,
    retag: bool,
    old_mac_key: str | None,
    signing_key: str | None,
    signer: str | None,
    public_key: str | None,
    name: str | None,
    version: str | None,
    license_: str | None,
    algorithm: Algorithm | None,
    since: str | None,
    since_key: str | None,
    out_manifest: str | None,
    passphrase_file: str | None,
    passphrase_env: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Sign a database: --mac-key tags its values; --signing-key or --signer writes a signed manifest beside it.

    Values are signed without decoding them, so audit the database first. Without --out, tagging changes the database
    itself, in transactions. No other program may use it meanwhile. After an interruption, run the command again.

    Exit code 0: signed. 1: values were refused, and nothing was written. 2: the database could not be signed.
    """
    if [mac_key, signing_key, signer].count(None) != 2:
        raise click.UsageError("give one key to sign with: --mac-key FILE, --signing-key FILE or --signer URI")
    if (signer is None) != (public_key is None):
        raise click.UsageError("--signer requires --public-key, and --public-key requires --signer")
    if mac_key is not None:
        listing = [name, version, license_, algorithm, since, since_key, out_manifest]
        if any([*listing, passphrase_file, passphrase_env, force]):
            raise click.UsageError(
                "--name, --version, --license, --hash, --since, --since-key, --out-manifest, --passphrase-... and "
                "--force require --signing-key"
            )
        if old_mac_key is not None and not retag:
            raise click.UsageError("--old-mac-key requires --retag")
        mac_keys = read_mac_keys(mac_key, database)
        old_mac_keys = mac_keys if retag else None
        if old_mac_key is not None:
            old_mac_keys = read_mac_keys(old_mac_key, database)
        return _tag(database, Tagger(mac_keys, context, old_mac_keys=old_mac_keys), context, out, as_json)
    if context or out or retag or old_mac_key:
        raise click.UsageError("--context, --out, --retag and --old-mac-key require --mac-key")
    if since_key is not None and since is None:
        raise click.UsageError("--since-key requires --since")
    if not (name or since) or not version:
        raise click.UsageError("a release needs --name and --version, or with --since only --version")
    key: Signer
    if signer is not None:
        key = _signing.device_key_from(signer, public_key or "", passphrase_file, passphrase_env)
    else:
        key = _signing.signing_key_from(signing_key or "", passphrase_file, passphrase_env, database)
    before = None
    if since is not None:
        before = open_manifest(since, [key.verify_key if since_key is None else read_verify_key(since_key)], name=name)
        _release.check_earlier(before, since, name_of(database))
    release = _release.Release(name=name, version=version, license=license_, algorithm=algorithm, since=before)
    return _release.sign_list(database, key, release, out_manifest, force=force, as_json=as_json)


def _tag(database: str, tagger: Tagger, context: str, out: str | None, as_json: bool) -> int:
    mac_keys = tagger.mac_keys
    safetensors = 0  # other programs can read safetensors files only without a tag

    def tagged_copy(lmdb_key: bytes, value: bytes) -> bytes:
        nonlocal safetensors
        safetensors += value[4:9] == SIGN
        return tagger.tagged(lmdb_key, value)

    with progress_bar("tagging") as progress:
        if out is not None:
            result = rewrite(database, out, tagged_copy, progress=progress)
        else:
            changed = change_in_place(database, tagger.tagged_in_place, progress=progress)
            result = Rewritten(checked=changed.checked, written=changed.changed, refusals=changed.refusals)
    facts: dict[str, object] = {
        "key": mac_keys.fingerprint,
        "algorithm": mac_keys.signing.suite.name,
        "context": context,
    }
    facts |= {"safetensors": safetensors} if safetensors else {}
    if safetensors and not as_json and not result.refusals.count:
        files = counted(safetensors, "safetensors file")
        console().print(f"note: tagged {files}; only ben_secure reads safetensors files with a tag", soft_wrap=True)
    if not context and not as_json and not result.refusals.count:
        note = (
            "without --context, a value and its tag are also valid in other databases with this key; to prevent that, "
            "sign with --context NAME and give readers the same name"
        )
        console().print(f"note: {note}", soft_wrap=True)
    unchanged = result.checked - result.written
    before = f" ({unchanged:,} already before)" if out is None and unchanged else ""
    target = printable(database if out is None else out, 400)
    text = f"{_signing.all_values(result.checked, target)} tagged with the key {mac_keys.fingerprint}{before}"
    return _signing.print_rewritten("sign", database, out, result, "SIGNED", as_json, text=text, facts=facts)


@click.command("untag", cls=Command)
@_options.database
@click.option("--mac-key", type=PATH, required=True, help="Secret key file.")
@click.option("--out", type=PATH, required=True, metavar="NEW", help="Database to write; must not exist.")
@_options.context
@_options.as_json
def untag(database: str, mac_key: str, out: str, context: str, as_json: bool) -> int:
    """Write a copy of a database without tags. If the tag of any value is invalid, nothing is written.

    Exit code 0: the copy was written. 1: a tag is invalid or missing. 2: the copy could not be written.
    """
    tagger = Tagger(read_mac_keys(mac_key, database), context)
    with progress_bar("untagging") as progress:
        result = rewrite(database, out, tagger.bare, progress=progress)
    return _signing.print_rewritten("untag", database, out, result, "UNTAGGED", as_json)
