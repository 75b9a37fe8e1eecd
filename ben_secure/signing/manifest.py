"""The signed list of all records of a release, to check single values or a whole database.

This module parses only bytes whose digest is in a statement that trusted keys have signed. It takes no key, name or
version from files beside the data (T8). ``open_manifest`` checks in this order: the envelope, name and version, the
digest of the manifest file, its content, its hash against the statement, and the number of records. The reader compares
that number with the database. Signing and checking do not change the data file. Each file is read once, so the hashed
bytes are the bytes in use.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from ben_secure.errors import BenSecureError, ManifestMismatchError, Rule, StoreError, counted, printable
from ben_secure.remote.addresses import absolute, folder_of_data_file, is_remote, redacted, split, with_suffix
from ben_secure.signing._record_list import Record, RecordList, max_file_bytes
from ben_secure.signing.envelope import MAX_ENVELOPE_BYTES, VerifiedStatement, verify_envelope
from ben_secure.signing.hashing import Hash, hash_of
from ben_secure.signing.keys import VerifyKey
from ben_secure.signing.statement import Statement

MANIFEST_SUFFIX = ".manifest"
ENVELOPE_SUFFIX = ".dsse.json"
_DATA_FILE_NAME = "data.mdb"


class MismatchKind(str, Enum):
    """The ways in which a record can differ from the signed list."""

    MISSING = "missing"
    ADDED = "added"
    CHANGED = "changed"
    MOVED = "moved"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One record that differs from the signed list.

    Attributes:
        kind: ``missing``: listed, not in the database. ``added``: in the database, not listed. ``moved``: the value
            is listed under another key. ``changed``: the value is not listed at all.
        lmdb_key: The key of the record.
        belongs_to: Key under which the value is listed (for ``moved``, and for ``added`` if the record was renamed or
            copied); otherwise None.
    """

    kind: MismatchKind
    lmdb_key: bytes
    belongs_to: bytes | None = None

    def error(self) -> ManifestMismatchError:
        """Return the error to raise."""
        origin = printable(self.belongs_to)
        copied = "" if self.belongs_to is None else f", with the value of the LMDB key {origin}"
        fault = {
            MismatchKind.MISSING: "the record is missing: the signed manifest lists it, the database does not have it",
            MismatchKind.ADDED: f"the record was added: it is not in the signed manifest{copied}",
            MismatchKind.CHANGED: "the value was changed: it is not the one in the signed manifest",
            MismatchKind.MOVED: f"the value was moved: in the signed manifest it belongs to the LMDB key {origin}",
        }[self.kind]
        return ManifestMismatchError(
            f"{fault}; fetch this database again from its publisher", lmdb_key=self.lmdb_key, rule=Rule.MANIFEST
        )


class Manifest:
    """The records that a publisher has signed. A manifest cannot be made without a verified statement.

    Threads may share one. It keeps the bytes of the file, about 75 per record, and little more.

    Attributes:
        statement: The publisher's statement about the release.
        signed_by: The keys of the caller that have signed it.
        hash: Computes the digest of a stored value, for comparison with the list.
    """

    def __init__(self, unverified: bytes, verified: VerifiedStatement) -> None:
        """Check that these bytes are the manifest that was signed, then parse them.

        Args:
            unverified: The manifest file.
            verified: From ``verify_envelope``.

        Raises:
            ManifestMismatchError: The file was changed, or belongs to another release.
            MissingExtraError: The list has digests of BLAKE3, and that library is not installed.
        """
        self.signed_by: tuple[VerifyKey, ...] = verified.signed_by
        digest = hashlib.sha256(unverified).hexdigest()
        statement = verified.statement.about(digest)
        if statement is None:
            signed = [one.manifest_sha256 for one in verified.statement.subjects] or [
                verified.statement.manifest_sha256
            ]
            raise ManifestMismatchError(
                f"this manifest is not the one that was signed: its SHA-256 is {digest}, expected "
                f"{' or '.join(signed[:3])}; it was changed, or belongs to another release than the envelope; "
                "fetch both again from the publisher",
                rule=Rule.MANIFEST,
            )
        self.statement: Statement = statement
        self._records = RecordList(unverified)
        algorithm = self.statement.algorithm
        if self._records.algorithm is not algorithm:
            raise ManifestMismatchError(
                f"the manifest lists digests of {self._records.algorithm.value}, but the signed statement names "
                f"{algorithm.value}; ask the publisher for a correct one",
                rule=Rule.MANIFEST,
            )
        self.hash: Hash = hash_of(algorithm)
        self._check_count(len(self._records), "manifest")

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        """Iterate over the records (LMDB key, and digest of the stored value) in key order."""
        return iter(self._records)

    def __repr__(self) -> str:
        release = f"{printable(self.statement.name)} {printable(self.statement.version)}"
        return f"<{type(self).__name__} of {release}, {len(self)} records>"

    def digest_of(self, lmdb_key: bytes) -> bytes | None:
        """Find the listed digest of a key: 32 bytes, or None if the key is not in the list."""
        return self._records.digest_of(lmdb_key)

    def keys_between(self, start: bytes, stop: bytes | None) -> Iterator[bytes]:
        """Iterate over the keys from ``start`` (inclusive) to ``stop`` (exclusive; None for the end), in order."""
        return self._records.keys_between(start, stop)

    def check(self, lmdb_key: bytes, unverified_value: bytes | memoryview) -> None:
        """Check that a stored value is the one that the publisher signed for this key.

        Args:
            lmdb_key: Raw key under which the value was found.
            unverified_value: The whole stored value, with the footer if it is tagged; a private copy.

        Raises:
            ManifestMismatchError: The key is not in the list, or the value was changed or moved.
        """
        # Both digests are public, so the comparison need not take constant time.
        digest = self.hash(unverified_value)
        listed = self._records.digest_of(lmdb_key)
        if digest != listed:
            raise self._mismatch(lmdb_key, digest, listed).error()

    def compare(self, lmdb_key: bytes, digest: bytes | None) -> Mismatch | None:
        """Compare one record of a database with the list.

        Args:
            lmdb_key: Raw key.
            digest: Digest of the whole value (``hash``), or None if the database does not have the record.

        Returns:
            The difference, or None.
        """
        listed = self.digest_of(lmdb_key)
        if digest == listed:
            return None
        return (
            Mismatch(kind=MismatchKind.MISSING, lmdb_key=lmdb_key)
            if digest is None
            else self._mismatch(lmdb_key, digest, listed)
        )

    def spread(self, count: int) -> list[bytes]:
        """Pick ``count`` keys, or all if there are fewer, spread evenly over the list."""
        total = len(self)
        return [
            lmdb_key
            for index, (lmdb_key, _) in enumerate(self)
            if (index + 1) * count // total > index * count // total
        ]

    def check_absent(self, lmdb_key: bytes) -> None:
        """Check that a record missing from the database is not in the list.

        Raises:
            ManifestMismatchError: The record is in the list, so it was removed.
        """
        if self.digest_of(lmdb_key) is not None:
            raise Mismatch(kind=MismatchKind.MISSING, lmdb_key=lmdb_key).error()

    def check_count(self, entries: int) -> None:
        """Check that a database has as many records as the list. Readers do this before they read any value.

        Raises:
            ManifestMismatchError: The database has more or fewer records.
        """
        self._check_count(entries, "database")

    def check_subject(self, name: str) -> None:
        """Check that this is the manifest of the requested database, and not of another one in the release.

        Args:
            name: Its file name in the release.

        Raises:
            ManifestMismatchError: The manifest is for another database.
        """
        subject = self.statement.subject
        if subject is None or subject.name != name:
            actual = "the only database of its release" if subject is None else printable(subject.name)
            raise ManifestMismatchError(
                f"this is {actual}, expected {printable(name)}: the database was renamed, or exchanged for another of "
                "its release; if you want this database, request it by name (subject=, --subject)",
                rule=Rule.MANIFEST,
            )

    def diff(self, records: Iterable[Record]) -> Iterator[Mismatch]:
        """Compare all records of a database with the list, in bounded memory.

        Args:
            records: Key and digest (``hash``) of the whole value of every record, keys ascending.

        Yields:
            Each record that differs from the list, in key order. Nothing if the database is the signed one.
        """
        remaining = iter(self._records)
        expected = next(remaining, None)
        for lmdb_key, digest in records:
            while expected is not None and expected[0] < lmdb_key:
                yield Mismatch(kind=MismatchKind.MISSING, lmdb_key=expected[0])
                expected = next(remaining, None)
            listed = None
            if expected is not None and expected[0] == lmdb_key:
                listed = expected[1]
                expected = next(remaining, None)
            if digest != listed:
                yield self._mismatch(lmdb_key, digest, listed)
        while expected is not None:
            yield Mismatch(kind=MismatchKind.MISSING, lmdb_key=expected[0])
            expected = next(remaining, None)

    def _mismatch(self, lmdb_key: bytes, digest: bytes, listed: bytes | None) -> Mismatch:
        belongs_to = self._records.key_of(digest)
        if listed is None:
            kind = MismatchKind.ADDED
        else:
            kind = MismatchKind.CHANGED if belongs_to is None else MismatchKind.MOVED
        return Mismatch(kind=kind, lmdb_key=lmdb_key, belongs_to=belongs_to)

    def _check_count(self, count: int, source: str) -> None:
        if count != self.statement.count:
            raise ManifestMismatchError(
                f"the {source} has {counted(count, 'record')}, expected {self.statement.count:,} as signed; records "
                "were removed or added, or it is another release; fetch it again from the publisher",
                rule=Rule.MANIFEST,
            )


def open_manifest(
    path: str | os.PathLike[str],
    verify_keys: Sequence[VerifyKey],
    *,
    threshold: int = 1,
    name: str | None = None,
    version: str | None = None,
    subject: str | None = None,
) -> Manifest:
    """Open a manifest. Its envelope must be beside it (``PATH.dsse.json``).

    Args:
        path: The manifest file, or its URL.
        verify_keys: Keys of publishers, each of which the caller trusts.
        threshold: Number of these keys that must have signed.
        name: Required name of the dataset, or None to accept any name that they have signed.
        version: Required version, or None to accept any version, also an old one.
        subject: Required database of a release of several, by its name in the statement, or None to accept any.

    Raises:
        SignatureError: The envelope is not signed by ``threshold`` of these keys, or does not describe a manifest.
        ManifestMismatchError: The manifest is for another name or version, or is not the one that was signed.
        MissingExtraError: The list has digests of BLAKE3, and that library is not installed.
        StoreError: One of the two files is missing or cannot be read.
        TypeError: A key is not a ``VerifyKey``.
        ValueError: ``threshold`` is not between 1 and the number of distinct keys.
    """
    path = os.fspath(path)
    reading = with_suffix(path, ENVELOPE_SUFFIX)
    try:
        verified = verify_envelope(_read(reading, MAX_ENVELOPE_BYTES), verify_keys, threshold)
        verified.statement.require(name, version)
        reading = path
        # The statement has the number of records, which bounds the bytes that are read here.
        manifest = Manifest(_read(path, max_file_bytes(verified.statement.max_count)), verified)
        if subject is not None:
            manifest.check_subject(subject)
        return manifest
    except BenSecureError as error:
        error.located(redacted(reading))
        raise


def manifest_path(database: str | os.PathLike[str]) -> str:
    """Return the path of a database's manifest: beside the database, under its name, never inside it.

    Args:
        database: Directory with ``data.mdb`` inside, or a data file, or the URL of one of them.

    Returns:
        ``DATABASE.manifest``; for a file ``data.mdb``, the path for its directory.
    """
    path = absolute(database)
    if is_remote(path):
        return with_suffix(folder_of_data_file(path), MANIFEST_SUFFIX)
    if os.path.basename(path) == _DATA_FILE_NAME:
        path = os.path.dirname(path)
    return path + MANIFEST_SUFFIX


def name_of(database: str | os.PathLike[str]) -> str:
    """Return the file name of a database: the name of its manifest without ``.manifest``."""
    path = manifest_path(database)
    return (split(path).path if is_remote(path) else path).rpartition("/")[2].removesuffix(MANIFEST_SUFFIX)


def _read(path: str, max_bytes: int) -> bytes:
    """Read a whole file. Of a longer file than allowed, read one byte too many, so that no check accepts it."""
    if is_remote(path):
        from ben_secure.remote.range_file import read_small  # here, because local files do not need it

        return read_small(path, max_bytes)
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer. On a regular file the flag means nothing.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode):
                return file.read(min(status.st_size, max_bytes + 1))
    except FileNotFoundError as error:
        raise StoreError(
            "the file does not exist, so the signed content is unknown; fetch the manifest and its envelope "
            f"({MANIFEST_SUFFIX}, {MANIFEST_SUFFIX}{ENVELOPE_SUFFIX}) together with the database"
        ) from error
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a NUL in the path
        raise StoreError(f"cannot read the file: {printable(str(error))}") from error
    raise StoreError("this is not a regular file; expected a manifest or its envelope")
