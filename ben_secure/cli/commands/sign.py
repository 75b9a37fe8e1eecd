"""``ben-secure sign``: put a tag on every value (a team's secret), or sign the list of all (a publisher's key).

It says "these bytes" and decodes none of them: what is hostile stays hostile, signed. ``publish`` audits first.
"""

from __future__ import annotations

import click

from ben_secure.cli import _options, _signing
from ben_secure.cli._common import console, print_json, progress_bar
from ben_secure.cli._usage import PATH, Command, one_of
from ben_secure.errors import counted, printable
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import Signer, read_mac_keys
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, manifest_path
from ben_secure.store.change.in_place import change_in_place
from ben_secure.store.change.rewrite import Rewritten, rewrite
from ben_secure.store.change.sign import sign_database
from ben_secure.store.change.tag import Tagger
from ben_secure.tensors import SIGN

_HASHES = {algorithm.value: algorithm for algorithm in Algorithm}


@click.command("sign", cls=Command)
@_options.database
@_options.mac_key
@_options.context
@click.option("--out", type=PATH, metavar="NEW", help="Write a tagged copy; without this DB itself is tagged.")
@click.option("--retag", is_flag=True, help="Replace the tags of other keys in --mac-key FILE, after verifying them.")
@click.option("--old-mac-key", type=_options.KEY_FILE, help="Replace tags of the keys in this file, too.")
@click.option("--signing-key", type=_options.KEY_FILE, help=_options.SIGNING_KEY_HELP)
@click.option("--signer", metavar="URI", help="Key of a device, as securesystemslib names it: hsm:2?label=TOKEN.")
@click.option("--public-key", type=_options.KEY_FILE, help="Public key to the one of --signer.")
@_options.name
@_options.version
@_options.license_
@click.option("--hash", "algorithm", type=one_of(_HASHES), help="How values are listed; blake3 needs an extra to read.")
@click.option("--out-manifest", type=PATH, help="Manifest to write, outside of DB; DB.manifest otherwise.")
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
    out_manifest: str | None,
    passphrase_file: str | None,
    passphrase_env: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Sign a database: --mac-key tags its values, --signing-key or --signer writes a signed manifest beside it.

    Values are signed as they are, undecoded; audit the database first. Without --out, tagging changes the database
    itself, in transactions: nobody else may use it meanwhile, and if it is interrupted, do it again.

    Exit code 0: done. 1: values were refused, and nothing was written. 2: it could not be done.
    """
    if [mac_key, signing_key, signer].count(None) != 2:
        raise click.UsageError("say what to sign with: --mac-key FILE, --signing-key FILE or --signer URI")
    if (signer is None) != (public_key is None):
        raise click.UsageError("--signer and --public-key belong together")
    if mac_key is not None:
        if any([name, version, license_, algorithm, out_manifest, passphrase_file, passphrase_env, force]):
            raise click.UsageError(
                "--name, --version, --license, --hash, --out-manifest, --passphrase-... and --force belong to "
                "--signing-key"
            )
        if old_mac_key is not None and not retag:
            raise click.UsageError("--old-mac-key requires --retag")
        mac_keys = read_mac_keys(mac_key, database)
        old_mac_keys = mac_keys if retag else None
        if old_mac_key is not None:
            old_mac_keys = read_mac_keys(old_mac_key, database)
        return _tag(database, Tagger(mac_keys, context, old_mac_keys=old_mac_keys), context, out, as_json)
    if context or out or retag or old_mac_key:
        raise click.UsageError("--context, --out, --retag and --old-mac-key belong to --mac-key")
    if not name or not version:
        raise click.UsageError("a release needs --name and --version")
    key: Signer
    if signer is not None:
        key = _signing.device_key_from(signer, public_key or "", passphrase_file, passphrase_env)
    else:
        key = _signing.signing_key_from(signing_key or "", passphrase_file, passphrase_env, database)
    release = {"name": name, "version": version, "license": license_}
    return _list(database, key, release, algorithm or Algorithm.SHA256, out_manifest, force, as_json)


def _tag(database: str, tagger: Tagger, context: str, out: str | None, as_json: bool) -> int:
    mac_keys = tagger.mac_keys
    foreign = 0  # safetensors files, which other programs read only without a tag

    def tagged_copy(lmdb_key: bytes, value: bytes) -> bytes:
        nonlocal foreign
        foreign += value[4:9] == SIGN
        return tagger.tagged(lmdb_key, value)

    with progress_bar("tagging") as progress:
        if out is not None:
            done = rewrite(database, out, tagged_copy, progress=progress)
        else:
            changed = change_in_place(database, tagger.tagged_in_place, progress=progress)
            done = Rewritten(checked=changed.checked, written=changed.changed, refusals=changed.refusals)
    facts: dict[str, object] = {
        "key": mac_keys.fingerprint,
        "algorithm": mac_keys.signing.suite.name,
        "context": context,
    }
    facts |= {"safetensors": foreign} if foreign else {}
    if foreign and not as_json and not done.refusals.count:
        note = f"{foreign:,} of them are safetensors files: with a tag behind them, only ben_secure reads them"
        console().print(note, soft_wrap=True)
    if not context and not as_json and not done.refusals.count:
        note = (
            "without --context the tags are good for any dataset under this key; give a name, and readers the same one"
        )
        console().print(f"note: {note}", soft_wrap=True)
    had = f" ({done.checked - done.written:,} were before)" if out is None and done.checked > done.written else ""
    place = printable(database if out is None else out, 400)
    text = f"{_signing.all_values(done.checked, place)} tagged with the key {mac_keys.fingerprint}{had}"
    return _signing.tell_rewritten("sign", database, out, done, "SIGNED", as_json, text=text, facts=facts)


def _list(
    database: str,
    signer: Signer,
    release: dict[str, str | None],
    algorithm: Algorithm,
    manifest: str | None,
    force: bool,
    as_json: bool,
) -> int:
    path = manifest_path(database) if manifest is None else manifest
    fingerprint = signer.verify_key.fingerprint
    with progress_bar("hashing") as progress:
        signed = sign_database(
            database,
            [signer],
            name=release["name"] or "",
            version=release["version"] or "",
            license=release["license"],
            algorithm=algorithm,
            created=_signing.now(),
            manifest=path,
            overwrite=force,
            progress=progress,
        ).statement
    if as_json:
        facts = {
            "manifest": path,
            "envelope": path + ENVELOPE_SUFFIX,
            "manifest_sha256": signed.manifest_sha256,
            "count": signed.count,
            "name": signed.name,
            "version": signed.version,
            "license": signed.license,
            "hash": algorithm.value,
            "created": signed.created.isoformat(),
            "fingerprint": fingerprint,
        }
        print_json(_signing.document("sign", database, "signed", 0) | facts)
        return 0
    out = console()
    rows = [("manifest", printable(path, 400)), ("envelope", printable(path + ENVELOPE_SUFFIX, 400))]
    _signing.print_facts([*rows, ("fingerprint", fingerprint)], out)
    out.print("Publish both files with the database, and the fingerprint where readers look for it.")
    place = printable(database, 400)
    _signing.print_verdict(f"SIGNED: {counted(signed.count, 'record')} of {place}, by {fingerprint}", 0, out)
    return 0
