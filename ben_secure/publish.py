"""Make a release from databases: audit, convert or copy, sign, verify like a consumer, write the release notes.

Publishing stops at the first stage that fails. The release is made in a hidden folder beside its target, and is renamed
when all of it is complete, verified and on disk. So an incomplete release is never left behind. The sources are only
read. Each value is read once, and the same private bytes are audited and copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime

from ben_secure._system.appear import Workspace, checked_path, refuse_full
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
"""Called with the name of a stage. Gives its block None, or a function to call with the finished and all steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Result of ``publish``.

    Attributes:
        checked: Number of audited values.
        refusals: Refused values. If there are any, no release is made.
        statement: The signed statement, or None.
        databases: Names of the databases in the release. Empty without a release.
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
        sources: The database, or several. In the release, a single database is named after the dataset. Several keep
            their names.
        target: Folder to make. It must not exist, or it must be empty.
        signing_key: The publisher's key.
        name: Name of the dataset.
        version: Version of the release.
        created: Time of signing, UTC, in whole seconds.
        license: Licence of the dataset.
        convert: Convert all values to the canonical form; otherwise values are copied unchanged.
        stages: Shows progress.

    Returns: The counts, and the release if no value was refused.

    Raises:
        StoreError: A source cannot be read or is empty, two databases would have the same name, ``target`` is taken, or
            the release cannot be written.
        UntrustedDataError: The written release does not verify, because the disk or another program changed it.
        ValueError: Name, version, licence or time is malformed, or two databases have the same records.
    """
    sources = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    databases = _names(sources, name)
    target = os.path.abspath(checked_path(target))
    refuse_full(target)
    workspace = Workspace(target)
    try:
        checked, refusals = _copy(dict(zip(databases, sources, strict=True)), workspace.directory, convert, stages)
        if refusals.count:
            return Published(checked=checked, refusals=refusals)
        copies = [os.path.join(workspace.directory, database) for database in databases]
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
        sums = _finish(workspace.directory, databases, signing_key, statement, stages)
        _refuse_foreign(workspace.directory, databases)
        workspace.put_folder()
    except OSError as error:
        raise StoreError(unwritable(target, error)) from error
    except StoreError as error:  # name the target: the user does not know the hidden folder
        error.message = error.message.replace(printable(workspace.directory, 400), printable(target, 400))
        raise
    finally:
        workspace.discard()
    return Published(checked=checked, refusals=refusals, statement=statement, databases=databases, sums=sums)


def _names(sources: Sequence[Path], name: str) -> tuple[str, ...]:
    """The names of the databases in the release."""
    if len(sources) == 1:
        return (f"{_portable(name) or 'dataset'}.lmdb",)
    names = tuple(
        f"{_portable(re.sub(r'[.](lmdb|mdb)$', '', name_of(source))) or 'dataset'}.lmdb" for source in sources
    )
    if not names or len(names) > MAX_SUBJECTS:
        raise StoreError(f"there are {len(names)} databases, expected 1 to {MAX_SUBJECTS} in a release")
    if len({name.casefold() for name in names}) != len(names):
        listed = ", ".join(printable(name) for name in names)
        raise StoreError(f"the databases would be named {listed} in the release; give each database a different name")
    return names


def _portable(text: str) -> str:
    """Replace characters that are not portable in the name of a file."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")[:90]


def _copy(sources: dict[str, Path], directory: str, convert: bool, stages: Stages) -> tuple[int, Refusals]:
    """Audit and copy each database. All are audited, even if one is refused."""
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
    """Verify the copies, write the checksums and release notes, and return the checksums."""
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
    """Refuse files that are not part of the release, such as those of another program."""
    expected = {SUMS_NAME, PAGE_NAME, CARD_NAME, CROISSANT_NAME, *databases}
    expected |= {path for database in databases for path in files_of(database)[1:]}
    foreign = sorted(set(os.listdir(directory)) - expected)
    for database in databases:
        foreign += sorted(set(os.listdir(os.path.join(directory, database))) - {"data.mdb"})
    if foreign:
        raise StoreError(
            f"{printable(foreign[0], 400)} appeared in the release during publishing; stop the program that makes "
            "this file, and publish again"
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
    """Read every patch of the new databases with the public key to be published, and return the key in PEM."""
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
            for number, patch_name in enumerate(patches, 1):
                patches[patch_name]
                if progress is not None:
                    progress(number, len(patches))
    with open(key_file, encoding="ascii") as file:
        public_key = file.read()
    # Consumers would trust a key beside the data, and an attacker who replaces the data could replace the key, too.
    os.unlink(key_file)
    return public_key


def _file(directory: str, path: str) -> File:
    copy = os.path.join(directory, path)
    return File(path=path, size_bytes=os.path.getsize(copy), sha256=file_sha256(copy))


def _write(directory: str, name: str, text: str) -> None:
    with open(os.path.join(directory, name), "x", encoding="utf-8") as file:
        file.write(text)
