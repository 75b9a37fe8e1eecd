"""Check every value of a database: its tag, its digest against a publisher's manifest, or both. Never decodes one.

Reads each raw record once with ``pages``, in threads. Keeps no value, and of what it finds the first of each kind;
what a finding means for an exit code is for the caller.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ben_secure.errors import LimitExceededError, Rule, TagMismatchError
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import footer_of
from ben_secure.signing.keys import MacKeySet
from ben_secure.signing.manifest import Manifest, MismatchKind
from ben_secure.signing.policy import Verification, Verifier
from ben_secure.signing.tags import context_bytes, verified_payload
from ben_secure.store.change.digests import map_values
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
        manifest: What they were compared with, or None.
        tag_faults: By kind (``TAG_KINDS``), the records that have it; nothing if tags were not verified.
        unknown_keys: Ids of keys that were not given, in hexadecimal, with which values are tagged; some of them.
        manifest_faults: By kind (``MANIFEST_KINDS``), likewise.
        stopped: Why not every value could be checked, if so: one is longer than a reader takes. It is refused then.
    """

    checked: int = 0
    manifest: Manifest | None
    tag_faults: dict[str, Listed]
    manifest_faults: dict[str, Listed]
    unknown_keys: set[str] = field(default_factory=set)
    stopped: LimitExceededError | None = None

    @property
    def refused(self) -> bool:
        """Whether anything is not as it was signed."""
        faults = [*self.tag_faults.values(), *self.manifest_faults.values()]
        return self.stopped is not None or any(listed.count for listed in faults)


def verify(pages: PageReader, verification: Verification, progress: Progress | None = None) -> Outcome:
    """Check every value: its tag, its place in the signed list, or both; and that nothing on the list is missing.

    Args:
        pages: The database.
        verification: What must hold.
        progress: Called after each record.

    Returns:
        What was found. A value with a ``changed`` tag may also have been moved here from another LMDB key or dataset.

    Raises:
        SignatureError: The manifest is not signed by enough of the keys.
        ManifestMismatchError: It is not the one that was signed, or of another name or version.
        StoreError: It is missing; or the database is damaged, or was written to meanwhile.
        TypeError: ``verification`` is something else.
    """
    manifest = Verifier(verification, pages.absolute_path).manifest
    mac_keys, context = verification.mac_keys, context_bytes(verification.context)
    outcome = Outcome(
        manifest=manifest,
        tag_faults={} if mac_keys is None else {kind: Listed() for kind in TAG_KINDS},
        manifest_faults={} if manifest is None else {kind: Listed() for kind in MANIFEST_KINDS},
    )
    total = len(pages)

    def examined(lmdb_key: bytes, value: bytes) -> tuple[str | None, bytes]:
        fault = None if mac_keys is None else _tag_fault(mac_keys, context, lmdb_key, value)
        footer = footer_of(value) if fault == "unknown_key" and len(outcome.unknown_keys) < KEPT else None
        if footer is not None:
            outcome.unknown_keys.add(footer.key_id.hex())
        return fault, b"" if manifest is None else hashlib.sha256(value).digest()

    def digests() -> Iterator[tuple[bytes, bytes]]:
        for lmdb_key, (fault, digest) in map_values(pages, examined):
            outcome.checked += 1
            if fault is not None:
                outcome.tag_faults[fault].add(lmdb_key)
            yield lmdb_key, digest
            if progress is not None:
                progress(outcome.checked, total)

    try:
        if manifest is None:
            deque(digests(), maxlen=0)
        else:
            for mismatch in manifest.diff(digests()):
                outcome.manifest_faults[str(mismatch.kind)].add(mismatch.lmdb_key, mismatch.belongs_to)
    except LimitExceededError as error:
        outcome.stopped = error
    return outcome


def _tag_fault(mac_keys: MacKeySet, context: bytes, lmdb_key: bytes, value: bytes) -> str | None:
    """Which of ``TAG_KINDS`` a value has, if any."""
    try:
        verified_payload(mac_keys, context, lmdb_key, value)
    except TagMismatchError as error:
        return _KIND_OF_RULE[error.rule]
    return None
