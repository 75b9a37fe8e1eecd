"""Turn a database into a release: audit, convert or copy, sign, verify as a consumer would, write what to tell them.

Stops at the first stage that fails. A release is made in a hidden place beside where it will be and renamed when all
of it is whole, verified and on disk, so nothing that could be mistaken for one is ever left behind. The source is only
read, and what was audited is what was copied: both see the same private bytes, once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from ben_secure._system.appear import Place, named, refuse_full
from ben_secure._system.causes import unwritable
from ben_secure.audit.judge.scan import scan_value
from ben_secure.errors import PatchFormatError, StoreError, printable
from ben_secure.signing.keys import SigningKey, read_verify_key, write_verify_key
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, MANIFEST_SUFFIX
from ben_secure.signing.statement import Statement
from ben_secure.store.change import convert as conversion
from ben_secure.store.change.rewrite import Progress, Refusals, rewrite
from ben_secure.store.change.sign import sign_database
from ben_secure.store.reader import PatchReader

SUMS_NAME = "SHA256SUMS"
PAGE_NAME = "RELEASE.md"
_READ_BYTES = 2**20

Stages = Callable[[str], AbstractContextManager[Progress | None]]
"""Called with the name of each stage; gives what to call with done and total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What ``publish`` did.

    Attributes:
        checked: Values that were audited.
        refusals: Those that were refused; if there are any, there is no release.
        statement: What was signed, or None.
        database: Name of the database in the release, or None.
        sums: SHA-256 of each file, in hexadecimal, by its path in the release.
    """

    checked: int
    refusals: Refusals
    statement: Statement | None = None
    database: str | None = None
    sums: tuple[tuple[str, str], ...] = ()


def publish(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    signing_key: SigningKey,
    *,
    name: str,
    version: str,
    created: datetime,
    license: str | None = None,
    convert: bool = False,
    stages: Stages = lambda stage: nullcontext(),
) -> Published:
    """Make a release.

    Args:
        source: The database; it is only read.
        target: Folder to make; must not exist or be empty.
        signing_key: The publisher's key.
        name: Name of the dataset.
        version: Version of the release.
        created: Time to be signed, UTC, in whole seconds.
        license: Licence of the dataset.
        convert: Write canonical values; otherwise values are copied as they are.
        stages: Shows progress.

    Returns:
        What was done.

    Raises:
        StoreError: The source cannot be read or is empty, ``target`` is not free, or the release cannot be written.
        UntrustedDataError: What was written does not verify; the disk or another program changed it.
        ValueError: Name, version, licence or time is not as it must be.
    """
    target = os.path.abspath(named(target))
    refuse_full(target)
    place = Place(target)
    try:
        database = f"{re.sub(r'[^A-Za-z0-9._]+', '-', name).strip('-.') or 'dataset'}.lmdb"
        copy = os.path.join(place.directory, database)
        with stages("auditing and converting" if convert else "auditing and copying") as progress:
            if convert:
                copied = conversion.convert(source, copy, progress=progress)
            else:
                copied = rewrite(source, copy, _audited, progress=progress)
        if copied.refusals.count:
            return Published(checked=copied.checked, refusals=copied.refusals)
        with stages("signing") as progress:
            signed = sign_database(
                copy, [signing_key], name=name, version=version, license=license, created=created, progress=progress
            )
        sums = _finish(place.directory, database, signing_key, signed.statement, stages)
        _refuse_foreign(place.directory, database)
        place.put_folder()
    except OSError as error:
        raise StoreError(unwritable(target, error)) from error
    except StoreError as error:  # about the release, and not about a folder that nobody knows of
        error.message = error.message.replace(printable(place.directory, 400), printable(target, 400))
        raise
    finally:
        place.discard()
    return Published(
        checked=copied.checked, refusals=copied.refusals, statement=signed.statement, database=database, sums=sums
    )


def _finish(
    directory: str, database: str, signing_key: SigningKey, statement: Statement, stages: Stages
) -> tuple[tuple[str, str], ...]:
    """Verify what was made and write about it; gives the sums."""
    public_key = _verified_as_a_consumer_would(os.path.join(directory, database), signing_key, statement, stages)
    with stages("summing"):
        sums = tuple((path, _sha256(os.path.join(directory, path))) for path in _files(database))
    _write(directory, SUMS_NAME, "".join(f"{digest}  {path}\n" for path, digest in sums))
    _write(directory, PAGE_NAME, _page(database, statement, signing_key.fingerprint, public_key))
    return sums


def _refuse_foreign(directory: str, database: str) -> None:
    """Nothing ships that is not part of the release: not what another program or a writer has left there."""
    expected = {database, *(os.path.basename(path) for path in _files(database)[1:]), SUMS_NAME, PAGE_NAME}
    foreign = sorted(set(os.listdir(directory)) - expected)
    foreign += sorted(set(os.listdir(os.path.join(directory, database))) - {"data.mdb"})
    if foreign:
        raise StoreError(
            f"{printable(foreign[0], 400)} appeared in the release while it was made; stop the program that makes it, "
            "and publish again"
        )


def _audited(lmdb_key: bytes, value: bytes) -> bytes:
    finding = scan_value(lmdb_key, value)
    if finding is not None:
        raise PatchFormatError(
            finding.message,
            rule=finding.rule,
            offset=finding.offset,
            opcode=finding.opcode,
            global_name=finding.global_name,
        )
    return value


def _verified_as_a_consumer_would(place: str, signing_key: SigningKey, statement: Statement, stages: Stages) -> str:
    """Read every patch of the new database with the public key that will be published; gives that key's file."""
    key_file = place + ".pub"
    write_verify_key(key_file, signing_key.verify_key)
    with (
        PatchReader(
            place, verify_key=read_verify_key(key_file), name=statement.name, version=statement.version
        ) as patches,
        stages("verifying") as progress,
    ):
        for done, patch_name in enumerate(patches, 1):
            patches[patch_name]
            if progress is not None:
                progress(done, statement.count)
    with open(key_file, encoding="ascii") as file:
        public_key = file.read()
    # A key that lies beside the data would be taken from there, and vouch for whatever lies there.
    os.unlink(key_file)
    return public_key


def _files(database: str) -> tuple[str, ...]:
    return f"{database}/data.mdb", database + MANIFEST_SUFFIX, database + MANIFEST_SUFFIX + ENVELOPE_SUFFIX


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _write(directory: str, name: str, text: str) -> None:
    with open(os.path.join(directory, name), "x", encoding="utf-8") as file:
        file.write(text)


def _page(database: str, statement: Statement, fingerprint: str, public_key: str) -> str:
    """The section for the dataset's page."""
    name, version = statement.name, statement.version
    arguments = ["--verify-key", "publisher.pub", "--name", name, "--version", version]
    command = shlex.join(["ben-secure", "verify", database, *arguments])
    licence = "" if statement.license is None else f"- Licence: {statement.license}\n"
    return f"""## {name} {version}

- Records: {statement.count:,}
{licence}- Signed: {statement.created:%Y-%m-%d %H:%M:%S} UTC
- Fingerprint of the publisher's key (SHA-256): `{fingerprint}`
- SHA-256 of `{database}{MANIFEST_SUFFIX}`: `{statement.manifest_sha256}`

### Verify it

Download `{database}`, `{database}{MANIFEST_SUFFIX}` and `{database}{MANIFEST_SUFFIX}{ENVELOPE_SUFFIX}` into one
folder. Save this key as `publisher.pub`, and compare its fingerprint with one that you have from elsewhere (a paper, a
person): `openssl pkey -pubin -in publisher.pub -outform DER | sha256sum`

```
{public_key.strip()}
```

With ben_secure installed, check everything at once:

```console
$ {command}
```

or each patch when it is read, which takes no time beforehand:

```python
from ben_secure import PatchReader
from ben_secure.signing.keys import read_verify_key

key = read_verify_key("publisher.pub")
with PatchReader({database!r}, verify_key=key, name={name!r}, version={version!r}) as patches:
    ...
```

`sha256sum -c {SUMS_NAME}` finds errors of a download; only the commands above tell who made the data.
"""
