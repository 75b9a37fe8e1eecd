"""Turn databases into a release: audit, convert or copy, sign, verify as a consumer would, write what to tell them.

Stops at the first stage that fails. A release is made in a hidden place beside where it will be and renamed when all
of it is whole, verified and on disk, so nothing that could be mistaken for one is ever left behind. The sources are
only read, and what was audited is what was copied: both see the same private bytes, once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from ben_secure._system.appear import Place, named, refuse_full
from ben_secure._system.causes import unwritable
from ben_secure._system.naming import file_sha256
from ben_secure.announce.croissant import croissant
from ben_secure.announce.page import card, page
from ben_secure.announce.release import File, Release, files_of
from ben_secure.audit.judge.scan import scan_value
from ben_secure.errors import PatchFormatError, StoreError, printable
from ben_secure.signing.keys import SigningKey, read_verify_key, write_verify_key
from ben_secure.signing.manifest import name_of
from ben_secure.signing.statement import MAX_SUBJECTS, Statement
from ben_secure.store.change import convert as conversion
from ben_secure.store.change.rewrite import KEPT, Progress, Refusals, rewrite
from ben_secure.store.change.sign import sign_release
from ben_secure.store.reader import PatchReader

SUMS_NAME = "SHA256SUMS"
PAGE_NAME = "RELEASE.md"
CARD_NAME = "README.md"
CROISSANT_NAME = "croissant.json"

Path = str | os.PathLike[str]
Stages = Callable[[str], AbstractContextManager[Progress | None]]
"""Called with the name of each stage; gives what to call with done and total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What ``publish`` did.

    Attributes:
        checked: Values that were audited.
        refusals: Those that were refused; if there are any, there is no release.
        statement: What was signed, or None.
        databases: Names of the databases in the release; nothing if there is none.
        sums: SHA-256 of each file, in hexadecimal, by its path in the release.
    """

    checked: int
    refusals: Refusals
    statement: Statement | None = None
    databases: tuple[str, ...] = ()
    sums: tuple[tuple[str, str], ...] = ()


def publish(
    sources: Path | Sequence[Path],
    target: Path,
    signing_key: SigningKey,
    *,
    name: str,
    version: str,
    created: datetime,
    license: str | None = None,
    convert: bool = False,
    stages: Stages = lambda stage: nullcontext(),
) -> Published:
    """Make a release of one database, or of several under one signature.

    Args:
        sources: The database, or several; they are only read. One is called after the dataset in the release, several
            keep their own names.
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
        StoreError: A source cannot be read or is empty, two would have one name, ``target`` is not free, or the release
            cannot be written.
        UntrustedDataError: What was written does not verify; the disk or another program changed it.
        ValueError: Name, version, licence or time is not as it must be, or two databases have the same records.
    """
    sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    databases = _names(sources, name)
    target = os.path.abspath(named(target))
    refuse_full(target)
    place = Place(target)
    try:
        checked, refusals = _copy(dict(zip(databases, sources, strict=True)), place.directory, convert, stages)
        if refusals.count:
            return Published(checked=checked, refusals=refusals)
        copies = [os.path.join(place.directory, database) for database in databases]
        with stages("signing") as progress:
            statement = sign_release(
                copies,
                [signing_key],
                name=name,
                version=version,
                license=license,
                created=created,
                progress=progress,
            )
        sums = _finish(place.directory, databases, signing_key, statement, stages)
        _refuse_foreign(place.directory, databases)
        place.put_folder()
    except OSError as error:
        raise StoreError(unwritable(target, error)) from error
    except StoreError as error:  # about the release, and not about a folder that nobody knows of
        error.message = error.message.replace(printable(place.directory, 400), printable(target, 400))
        raise
    finally:
        place.discard()
    return Published(checked=checked, refusals=refusals, statement=statement, databases=databases, sums=sums)


def _names(sources: Sequence[Path], name: str) -> tuple[str, ...]:
    """What the databases are called in the release."""
    if len(sources) == 1:
        return (f"{_plain(name) or 'dataset'}.lmdb",)
    names = tuple(f"{_plain(re.sub(r'[.](lmdb|mdb)$', '', name_of(source))) or 'dataset'}.lmdb" for source in sources)
    if not names or len(names) > MAX_SUBJECTS:
        raise StoreError(f"there are {len(names)} databases, expected 1 to {MAX_SUBJECTS} in a release")
    if len({name.casefold() for name in names}) != len(names):
        listed = ", ".join(printable(name) for name in names)
        raise StoreError(f"the databases would be called {listed} in the release; give each another name")
    return names


def _plain(text: str) -> str:
    """A text as the name of a file, on every system and in every command."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")[:90]


def _copy(sources: dict[str, Path], directory: str, convert: bool, stages: Stages) -> tuple[int, Refusals]:
    """Audit and copy each database; all are audited, also if one is refused."""
    checked, refusals = 0, Refusals()
    for database, source in sources.items():
        copy = os.path.join(directory, database)
        with stages("auditing and converting" if convert else "auditing and copying") as progress:
            if convert:
                copied = conversion.convert(source, copy, progress=progress)
            else:
                copied = rewrite(source, copy, _audited, progress=progress)
        checked += copied.checked
        refusals.count += copied.refusals.count
        for error in copied.refusals.first:
            error.located(os.fspath(source))
        refusals.first += copied.refusals.first[: KEPT - len(refusals.first)]
    return checked, refusals


def _finish(
    directory: str, databases: tuple[str, ...], signing_key: SigningKey, statement: Statement, stages: Stages
) -> tuple[tuple[str, str], ...]:
    """Verify what was made and write about it; gives the sums."""
    public_key = _verified_as_a_consumer_would(directory, databases, signing_key, statement, stages)
    with stages("summing"):
        files = tuple(_file(directory, path) for database in databases for path in files_of(database))
    release = Release(
        statement=statement,
        databases=databases,
        files=files,
        fingerprint=signing_key.fingerprint,
        public_key=public_key,
    )
    _write(directory, SUMS_NAME, "".join(f"{file.sha256}  {file.path}\n" for file in files))
    _write(directory, PAGE_NAME, page(release, SUMS_NAME))
    _write(directory, CARD_NAME, card(release, SUMS_NAME))
    _write(directory, CROISSANT_NAME, croissant(release))
    return tuple((file.path, file.sha256) for file in files)


def _refuse_foreign(directory: str, databases: tuple[str, ...]) -> None:
    """Nothing ships that is not part of the release: not what another program or a writer has left there."""
    expected = {SUMS_NAME, PAGE_NAME, CARD_NAME, CROISSANT_NAME, *databases}
    expected |= {path for database in databases for path in files_of(database)[1:]}
    foreign = sorted(set(os.listdir(directory)) - expected)
    for database in databases:
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


def _verified_as_a_consumer_would(
    directory: str, databases: tuple[str, ...], signing_key: SigningKey, statement: Statement, stages: Stages
) -> str:
    """Read every patch of the new databases with the public key that will be published; gives that key's file."""
    key_file = os.path.join(directory, databases[0] + ".pub")
    write_verify_key(key_file, signing_key.verify_key)
    for database in databases:
        with (
            PatchReader(
                os.path.join(directory, database),
                verify_key=read_verify_key(key_file),
                name=statement.name,
                version=statement.version,
            ) as patches,
            stages("verifying") as progress,
        ):
            for done, patch_name in enumerate(patches, 1):
                patches[patch_name]
                if progress is not None:
                    progress(done, len(patches))
    with open(key_file, encoding="ascii") as file:
        public_key = file.read()
    # A key that lies beside the data would be taken from there, and vouch for whatever lies there.
    os.unlink(key_file)
    return public_key


def _file(directory: str, path: str) -> File:
    place = os.path.join(directory, path)
    return File(path=path, size_bytes=os.path.getsize(place), sha256=file_sha256(place))


def _write(directory: str, name: str, text: str) -> None:
    with open(os.path.join(directory, name), "x", encoding="utf-8") as file:
        file.write(text)
