"""Sign a database as its publisher: hash every value, write the manifest and its envelope beside the database.

Never changes or decodes the database. Both files appear when they are whole and on disk (``_system.files``), the
envelope last: without it, or with that of another, no manifest passes as a release.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from ben_secure import __version__
from ben_secure._system.files import Kind, new_files
from ben_secure.errors import StoreError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pages.reader import PageReader
from ben_secure.signing._record_list import MAX_KEY_BYTES, Record, write_record_list
from ben_secure.signing.envelope import sign_statement
from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import Signer
from ben_secure.signing.manifest import ENVELOPE_SUFFIX, manifest_path
from ben_secure.signing.statement import Statement
from ben_secure.store.change.digests import record_digests


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What ``sign_database`` made.

    Attributes:
        statement: What was signed.
        manifest: Absolute path of the manifest; the envelope is ``manifest + ".dsse.json"``.
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
    overwrite: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> Signed:
    """Write and sign the manifest of a database.

    Args:
        database: Directory with ``data.mdb`` inside, or the data file.
        signers: Who signs; at least one (see ``sign_statement``).
        name: Name of the dataset.
        version: Version of the release; a reader that asks for a version gets no other.
        created: Time to be signed, UTC, in whole seconds.
        license: Licence of the dataset.
        algorithm: The hash that values are listed by; with BLAKE3 every reader needs the extra ``[blake3]``.
        manifest: Where to write the manifest; None for the place where readers look, beside the database.
        overwrite: Replace a manifest and an envelope that are there.
        limits: Values longer than ``limits.max_value_bytes`` are refused: a reader would not take them.
        progress: Called after each record with how many were hashed and how many there are.

    Returns:
        What was signed, and where it is.

    Raises:
        StoreError: The database is empty, damaged, or was written to meanwhile; a manifest or an envelope is there
            already; or they cannot be written.
        LimitExceededError: A value is too long.
        MissingExtraError: The hash is BLAKE3, and that library is not installed.
        ValueError: Name, version, licence, time or a signer is not as it must be.
    """
    path = os.path.abspath(manifest) if manifest is not None else manifest_path(database)
    with PageReader(database, max_value_bytes=limits.max_value_bytes + FOOTER_BYTES) as pages:
        total = len(pages)
        if not total:
            raise StoreError("the database is empty, so there is nothing to sign", database=pages.path)
        draft = Statement(  # before hours are spent on hashing
            name=name,
            version=version,
            license=license,
            count=total,
            algorithm=algorithm,
            manifest_sha256="0" * 64,
            created=created,
            tool_version=__version__,
        )
        digests = record_digests(pages, algorithm=algorithm)  # without the library it fails here
        targets = path, path + ENVELOPE_SUFFIX
        for target in targets:
            _refuse_inside(target, pages.absolute_path)
        with new_files(targets, (Kind.OPEN, Kind.OPEN), overwrite=overwrite) as (manifest_file, envelope_file):
            written = write_record_list(_records(pages, digests, progress), manifest_file, algorithm)
            statement = replace(draft, count=written.count, manifest_sha256=written.sha256.hex())
            envelope_file.write(sign_statement(statement, signers))
    return Signed(statement=statement, manifest=path)


def _records(
    pages: PageReader, digests: Iterator[Record], progress: Callable[[int, int], None] | None
) -> Iterator[Record]:
    total = len(pages)
    for done, (lmdb_key, digest) in enumerate(digests, start=1):
        if len(lmdb_key) > MAX_KEY_BYTES:
            raise StoreError(
                f"an LMDB key has {len(lmdb_key)} bytes, expected at most {MAX_KEY_BYTES}; give this record a shorter "
                "one",
                database=pages.path,
                lmdb_key=lmdb_key,
            )
        yield lmdb_key, digest
        if progress is not None:
            progress(done, total)


def _refuse_inside(target: str, database: str) -> None:
    real_target, real_database = os.path.realpath(target), os.path.realpath(database)
    if os.path.commonpath([real_target, real_database]) == real_database:
        raise StoreError(
            f"{printable(target, 400)} is inside the database; expected a place for the manifest outside of it"
        )
