"""Check every value of a database by its tag, its digest in a publisher's manifest, or both, without decoding it.

Each raw record is read once with ``pages``, in threads. Values are not kept. Of each kind of fault, the first ones are
kept. The caller derives the exit code.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from ben_secure.errors import LimitExceededError, Rule, StoreError, TagMismatchError
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import footer_of
from ben_secure.signing.keys import MacKeySet
from ben_secure.signing.manifest import Manifest, Mismatch, MismatchKind
from ben_secure.signing.policy import Verification, Verifier
from ben_secure.signing.tags import context_bytes, verified_payload
from ben_secure.store.change.digests import map_some, map_values
from ben_secure.store.change.rewrite import KEPT, Progress

TAG_KINDS = ("untagged", "changed", "unknown_key")
_KIND_OF_RULE: dict[Rule | None, str] = dict(
    zip((Rule.TAG_MISSING, Rule.TAG_INVALID, Rule.TAG_FOREIGN), TAG_KINDS, strict=True)
)
_Digest = TypeVar("_Digest", bytes, bytes | None)
MANIFEST_KINDS = tuple(str(kind) for kind in MismatchKind)


@dataclass(slots=True, kw_only=True)
class Listed:
    """The records with one kind of fault.

    Attributes:
        count: Number of records.
        first: LMDB keys of the first ones, at most ``KEPT``, each with the LMDB key to which its value belongs, if
            known.
    """

    count: int = 0
    first: list[tuple[bytes, bytes | None]] = field(default_factory=list)

    def add(self, lmdb_key: bytes, belongs_to: bytes | None = None) -> None:
        """Count one record."""
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append((lmdb_key, belongs_to))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The result for one database.

    Attributes:
        checked: Number of checked values.
        manifest: The manifest for the comparison, or None.
        tag_faults: The faulty records by kind (``TAG_KINDS``). Empty if tags were not verified.
        unknown_keys: Key ids in tags, in hexadecimal, that are not among the given keys, at most ``KEPT``.
        manifest_faults: The faulty records by kind (``MANIFEST_KINDS``). Empty without a manifest.
        sample: Whether only a sample of the records was checked.
        stopped: The error that stopped the check, if a value is longer than readers accept. The database is then
            refused.
    """

    checked: int = 0
    manifest: Manifest | None
    tag_faults: dict[str, Listed]
    manifest_faults: dict[str, Listed]
    unknown_keys: set[str] = field(default_factory=set)
    sample: bool = False
    stopped: LimitExceededError | None = None

    @property
    def refused(self) -> bool:
        """Whether there is any fault."""
        faults = [*self.tag_faults.values(), *self.manifest_faults.values()]
        return self.stopped is not None or any(listed.count for listed in faults)

    def add(self, mismatch: Mismatch) -> None:
        """Count one record that differs from the manifest."""
        self.manifest_faults[str(mismatch.kind)].add(mismatch.lmdb_key, mismatch.belongs_to)


def verify(pages: PageReader, verification: Verification, progress: Progress | None = None) -> Outcome:
    """Check every value by its tag, the signed list, or both, and that no listed record is missing.

    Args:
        pages: The database.
        verification: The checks.
        progress: Called after each record.

    Returns:
        The result. A value with a ``changed`` tag may also have been moved from another LMDB key or dataset.

    Raises:
        SignatureError: The manifest is not signed by enough of the keys.
        ManifestMismatchError: The manifest is not the signed one, or has another name or version.
        MissingExtraError: The manifest lists digests of BLAKE3, and the library is not installed.
        StoreError: The manifest is missing, or the database is damaged or was written to meanwhile.
        TypeError: ``verification`` is not a ``Verification``.
    """
    outcome, examined = _begin(pages, verification)
    records = _counted(outcome, map_values(pages, examined), len(pages), progress)
    try:
        if outcome.manifest is None:
            deque(records, maxlen=0)
        else:
            for mismatch in outcome.manifest.diff(records):
                outcome.add(mismatch)
    except LimitExceededError as error:
        outcome.stopped = error
    return outcome


def verify_sample(
    pages: PageReader, verification: Verification, count: int, progress: Progress | None = None
) -> Outcome:
    """Check some records like ``verify``, and compare the number of records with the signed list.

    Args:
        pages: The database.
        verification: The checks.
        count: Number of records, spread evenly over the signed list, or over the database if there is none. If there
            are not more records, all are checked, as with ``verify``.
        progress: Called after each record.

    Returns:
        The result. The same records are checked each time.

    Raises:
        ManifestMismatchError: As ``verify``, or if the number of records is not the signed one.
        SignatureError: As ``verify``.
    """
    if count >= len(pages):
        return verify(pages, verification, progress)
    outcome, examined = _begin(pages, verification)
    outcome.sample = True
    manifest = outcome.manifest
    if manifest is not None:
        manifest.check_count(len(pages))
    lmdb_keys = pages.spread(count) if manifest is None else manifest.spread(count)

    def read(lmdb_key: bytes, value: bytes | None) -> tuple[str | None, bytes | None]:
        if value is not None:
            return examined(lmdb_key, value)
        if manifest is None:  # a crafted tree leads a search past a record that it has
            raise StoreError(
                "this LMDB file is damaged: a record of its tree is not found by its key; fetch this database again",
                database=pages.path,
                lmdb_key=lmdb_key,
            )
        return None, None

    try:
        for lmdb_key, digest in _counted(outcome, map_some(pages, read, lmdb_keys), len(lmdb_keys), progress):
            mismatch = None if manifest is None else manifest.compare(lmdb_key, digest)
            if mismatch is not None:
                outcome.add(mismatch)
    except LimitExceededError as error:
        outcome.stopped = error
    return outcome


def _begin(
    pages: PageReader, verification: Verification
) -> tuple[Outcome, Callable[[bytes, bytes], tuple[str | None, bytes]]]:
    """Return an outcome without faults, and the function that examines one value."""
    manifest = Verifier(verification, pages.absolute_path).manifest
    mac_keys, context = verification.mac_keys, context_bytes(verification.context)
    outcome = Outcome(
        manifest=manifest,
        tag_faults={} if mac_keys is None else {kind: Listed() for kind in TAG_KINDS},
        manifest_faults={} if manifest is None else {kind: Listed() for kind in MANIFEST_KINDS},
    )

    def examined(lmdb_key: bytes, value: bytes) -> tuple[str | None, bytes]:
        fault = None if mac_keys is None else _tag_fault(mac_keys, context, lmdb_key, value)
        footer = footer_of(value) if fault == "unknown_key" and len(outcome.unknown_keys) < KEPT else None
        if footer is not None:
            outcome.unknown_keys.add(footer.key_id.hex())
        return fault, b"" if manifest is None else manifest.hash(value)

    return outcome, examined


def _counted(
    outcome: Outcome,
    records: Iterable[tuple[bytes, tuple[str | None, _Digest] | LimitExceededError]],
    total: int,
    progress: Progress | None,
) -> Iterator[tuple[bytes, _Digest]]:
    for lmdb_key, examined_value in records:
        if isinstance(examined_value, LimitExceededError):
            raise examined_value
        fault, digest = examined_value
        outcome.checked += 1
        if fault is not None:
            outcome.tag_faults[fault].add(lmdb_key)
        yield lmdb_key, digest
        if progress is not None:
            progress(outcome.checked, total)


def _tag_fault(mac_keys: MacKeySet, context: bytes, lmdb_key: bytes, value: bytes) -> str | None:
    """Return the fault of a value's tag (one of ``TAG_KINDS``), or None."""
    try:
        verified_payload(mac_keys, context, lmdb_key, value)
    except TagMismatchError as error:
        return _KIND_OF_RULE[error.rule]
    return None
