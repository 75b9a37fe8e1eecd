"""Sign one or several databases as their publisher: hash every value, write the manifests and the envelope.

This module never changes or decodes a database. Either all files appear, complete and on disk, or none. The envelope is
the last, because a manifest without its own envelope does not pass as a release. Each database of a release of several
has the same envelope beside its manifest: one statement, signed once, with a subject for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter

from ben_secure import __version__
from ben_secure._system.appear import checked_path
from ben_secure._system.files import Access, new_files
from ben_secure.errors import StoreError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.reader import PageReader
from ben_secure.remote.addresses import is_remote
from ben_secure.signing._record_list import Record, Written, write_record_list
from ben_secure.signing.envelope import sign_statement
from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.signing.hashing import Algorithm, hash_of
from ben_secure.signing.keys import Signer
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, MANIFEST_SUFFIX, Manifest, manifest_path, name_of
from ben_secure.signing.statement import Predecessor, Statement, Subject
from ben_secure.store import _names
from ben_secure.store.change.differences import Changes, compared
from ben_secure.store.change.digests import check_unchanged, record_digests

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """Result of ``sign_database``.

    Attributes:
        statement: The signed statement.
        manifest: Absolute path of the manifest. The envelope is ``manifest + ".dsse.json"``.
    """

    statement: Statement
    manifest: str


def sign_database(
    database: str | os.PathLike[str],
    signers: Sequence[Signer],
    *,
    name: str,
    version: str,
    created: datetime,
    license: str | None = None,
    algorithm: Algorithm = Algorithm.SHA256,
    manifest: str | os.PathLike[str] | None = None,
    since: Manifest | None = None,
    on_changes: Callable[[Changes], None] = lambda changes: None,
    overwrite: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> Signed:
    """Write and sign the manifest of a database.

    Args:
        database: Directory with ``data.mdb`` inside, or the data file.
        signers: The signers, at least one (see ``sign_statement``).
        name: Name of the dataset.
        version: Version of the release. Readers can require it.
        created: Time in the statement, UTC, in whole seconds.
        license: Licence of the dataset.
        algorithm: The hash of the manifest; with BLAKE3 every reader needs the extra ``[blake3]``.
        manifest: Path of the manifest, or None for the default beside the database.
        since: The verified manifest of the previous release, which the statement will name. Every value is hashed
            nevertheless.
        on_changes: Called with the changes since then, before anything is signed. An exception stops the signing.
        overwrite: Replace an existing manifest and envelope.
        limits: Values longer than ``limits.max_value_bytes`` are refused, because readers would refuse them.
        progress: Called after each record with the number of hashed records, and the number of all records.

    Returns:
        The signed statement and its path.

    Raises:
        StoreError: The database is empty, damaged, or was written to meanwhile; a manifest or an envelope exists
            already; or they cannot be written.
        PatchFormatError: An LMDB key is not UTF-8 or too long, so that no reader can name the patch.
        LimitExceededError: A value is too long.
        MissingExtraError: The hash is BLAKE3, and its library is not installed.
        ValueError: Name, version, licence, time or a signer is not valid; or the previous release has another name or
            the same version.
    """
    if is_remote(os.fspath(database)):
        raise StoreError("a database on a server cannot be signed; download it, and sign the local copy")
    path = os.path.abspath(checked_path(manifest)) if manifest is not None else manifest_path(database)
    draft = Statement(  # before hours are spent on hashing
        name=name,
        version=version,
        license=license,
        count=0,
        algorithm=algorithm,
        manifest_sha256="0" * 64,
        created=created,
        tool_version=__version__,
        predecessor=None if since is None else _predecessor(since.statement, name, version, algorithm),
    )

    statement = _sign(
        {path: database},
        signers,
        draft,
        limits=limits,
        since=since,
        on_changes=on_changes,
        overwrite=overwrite,
        progress=progress,
    )
    return Signed(statement=statement, manifest=path)


def sign_release(
    databases: Sequence[str | os.PathLike[str]],
    signers: Sequence[Signer],
    *,
    name: str,
    version: str,
    created: datetime,
    license: str | None = None,
    progress: Progress | None = None,
) -> Statement:
    """Sign one or several databases in one folder with one statement. Each has its manifest and envelope beside it.

    Args:
        databases: One, or several with different file names and different records.
        signers: As for ``sign_database``.
        name: Name of the dataset.
        version: Version of the release.
        created: Time in the statement.
        license: Licence of the dataset.
        progress: Called after each record, counted over all databases.

    Returns:
        The signed statement.

    Raises:
        StoreError: As ``sign_database``.
        ValueError: As ``sign_database``, or if two databases have the same name or the same records.
    """
    draft = Statement(
        name=name,
        version=version,
        license=license,
        count=0,
        manifest_sha256="0" * 64,
        created=created,
        tool_version=__version__,
    )
    targets = {manifest_path(database): database for database in databases}
    return _sign(targets, signers, draft, progress=progress)


def _predecessor(before: Statement, name: str, version: str, algorithm: Algorithm) -> Predecessor:
    if before.algorithm is not algorithm:
        raise ValueError(
            f"the previous release lists digests of {before.algorithm.value}, this one would list {algorithm.value}, "
            "so the two cannot be compared; use the same hash"
        )
    if before.name != name or before.version == version:
        raise ValueError(
            f"the previous release is {printable(before.name)} {printable(before.version)}, this one is "
            f"{printable(name)} {printable(version)}; expected the same name and another version"
        )
    return Predecessor(version=before.version, manifest_sha256=before.manifest_sha256)


def _sign(
    databases: Mapping[str, str | os.PathLike[str]],
    signers: Sequence[Signer],
    draft: Statement,
    *,
    limits: Limits = DEFAULT_LIMITS,
    since: Manifest | None = None,
    on_changes: Callable[[Changes], None] = lambda changes: None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Statement:
    """List each database, by the path of its manifest, and sign once. All files appear, or none."""
    with ExitStack() as stack:
        readers = [
            stack.enter_context(PageReader(database, max_value_bytes=limits.max_value_bytes + FOOTER_BYTES))
            for database in databases.values()
        ]
        targets = [*databases, *(path + ENVELOPE_SUFFIX for path in databases)]
        for pages in readers:
            if not len(pages):
                raise StoreError("the database is empty, so there is nothing to sign", database=pages.path)
            for target in targets:
                _refuse_inside(target, os.fspath(pages.absolute_path))
        facts = [pages.facts for pages in readers]
        hashed = _Hashed(sum(map(len, readers)), draft.algorithm, progress)
        with new_files(targets, [Access.OPEN] * len(targets), overwrite=overwrite) as files:
            written, differences = [], Changes()
            for pages, file in zip(readers, files, strict=False):
                records = hashed.records(pages)
                records = records if since is None else compared(since, records, differences)
                written.append(write_record_list(records, file, draft.algorithm))
            if since is not None:
                on_changes(differences)
            statement = _filled(draft, list(databases), written)
            envelope = sign_statement(statement, signers)
            for pages, before in zip(readers, facts, strict=True):
                check_unchanged(pages, before)  # a device or a person may have taken long to sign
            for file in files[len(readers) :]:
                file.write(envelope)
    return statement


def _filled(draft: Statement, targets: Sequence[str], written: Sequence[Written]) -> Statement:
    """Return the statement about the written lists."""
    if len({one.sha256 for one in written}) != len(written):
        raise StoreError("two of the databases have the same records; leave one of them out")
    several = sorted(zip(targets, written, strict=True), key=itemgetter(0)) if len(written) > 1 else ()
    subjects = tuple(
        Subject(name=name_of(path.removesuffix(MANIFEST_SUFFIX)), count=one.count, manifest_sha256=one.sha256.hex())
        for path, one in several
    )
    return replace(draft, count=written[0].count, manifest_sha256=written[0].sha256.hex(), subjects=subjects)


class _Hashed:
    """The records of several databases, counted together."""

    def __init__(self, total: int, algorithm: Algorithm, progress: Progress | None) -> None:
        hash_of(algorithm)  # fails here if the library is missing
        self._algorithm = algorithm
        self._done = 0
        self._total = total
        self._progress = progress

    def records(self, pages: PageReader) -> Iterator[Record]:
        """Hash the records of one database."""
        for lmdb_key, digest in record_digests(pages, algorithm=self._algorithm):
            _names.name_of(lmdb_key, pages.path)
            yield lmdb_key, digest
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._total)


def _refuse_inside(target: str, database: str) -> None:
    real_target, real_database = os.path.realpath(target), os.path.realpath(database)
    if os.path.commonpath([real_target, real_database]) == real_database:
        raise StoreError(
            f"{printable(target, 400)} is inside the database; expected a place for the manifest outside of it"
        )
