"""Check every value of a database: its tag, or its digest against a publisher's manifest. Never decodes one.

Reads raw records with ``pages``, in threads. Keeps no value, and of what it finds the first of each kind; what a
finding means for an exit code is for the caller.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ben_secure.errors import LimitExceededError, Rule, TagMismatchError
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import MacKeySet
from ben_secure.signing.manifest import Manifest, MismatchKind
from ben_secure.signing.tags import context_bytes, verified_payload
from ben_secure.store.change.digests import map_values, record_digests
from ben_secure.store.change.rewrite import KEPT, Progress

TAG_KINDS = ("untagged", "changed", "unknown_key")
_KIND_OF_RULE: dict[Rule | None, str] = dict(
    zip((Rule.TAG_MISSING, Rule.TAG_INVALID, Rule.TAG_FOREIGN), TAG_KINDS, strict=True)
)
MANIFEST_KINDS = tuple(str(kind) for kind in MismatchKind)


@dataclass(slots=True, kw_only=True)
class Listed:
    """Records with one kind of fault.

    Attributes:
        count: All of them.
        first: LMDB keys of the first ones, at most ``KEPT``, each with the LMDB key to which its value belongs, if
            that is known.
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
    """What was found in one database.

    Attributes:
        checked: Values that were checked.
        faults: By kind (``TAG_KINDS`` or ``MANIFEST_KINDS``), the records that have it.
        stopped: Why not every value could be checked, if so: one is longer than a reader takes. It is refused then.
    """

    checked: int = 0
    faults: dict[str, Listed]
    stopped: LimitExceededError | None = None

    @property
    def refused(self) -> bool:
        """Whether anything is not as it was signed."""
        return self.stopped is not None or any(listed.count for listed in self.faults.values())


def verify_tags(pages: PageReader, mac_keys: MacKeySet, context: str = "", progress: Progress | None = None) -> Outcome:
    """Check the tag of every value.

    Args:
        pages: The database.
        mac_keys: Keys of which any may have tagged a value.
        context: Name of the dataset.
        progress: Called after each record.

    Returns:
        What was found. ``changed`` is also what was moved here from another LMDB key or dataset.

    Raises:
        StoreError: The database is damaged, or was written to meanwhile.
        ValueError: The context is too long or not Unicode.
    """
    bound = context_bytes(context)

    def fault(lmdb_key: bytes, value: bytes) -> str | None:
        try:
            verified_payload(mac_keys, bound, lmdb_key, value)
        except TagMismatchError as error:
            return _KIND_OF_RULE[error.rule]
        return None

    outcome = Outcome(faults={kind: Listed() for kind in TAG_KINDS})
    total = len(pages)
    try:
        for lmdb_key, kind in map_values(pages, fault):
            outcome.checked += 1
            if kind is not None:
                outcome.faults[kind].add(lmdb_key)
            if progress is not None:
                progress(outcome.checked, total)
    except LimitExceededError as error:
        outcome.stopped = error
    return outcome


def verify_manifest(pages: PageReader, manifest: Manifest, progress: Progress | None = None) -> Outcome:
    """Compare every record with the signed list.

    Args:
        pages: The database.
        manifest: The list.
        progress: Called after each record.

    Returns:
        What was found.

    Raises:
        StoreError: The database is damaged, or was written to meanwhile.
    """
    outcome = Outcome(faults={kind: Listed() for kind in MANIFEST_KINDS})
    total = len(pages)

    def digests() -> Iterator[tuple[bytes, bytes]]:
        for record in record_digests(pages):
            outcome.checked += 1
            yield record
            if progress is not None:
                progress(outcome.checked, total)

    try:
        for mismatch in manifest.diff(digests()):
            outcome.faults[str(mismatch.kind)].add(mismatch.lmdb_key, mismatch.belongs_to)
    except LimitExceededError as error:
        outcome.stopped = error
    return outcome
