"""What a reader was told to verify, applied to each value before a byte of it is decoded.

Holds keys and the signed list that the caller gave; nothing in a database can lower what was asked for. A reader
without keys never comes here, and never imports cryptography.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ben_secure.errors import printable
from ben_secure.signing.footer import payload_end
from ben_secure.signing.keys import MacKey, MacKeySet, VerifyKey
from ben_secure.signing.manifest import Manifest, Mismatch, MismatchKind, manifest_path, open_manifest
from ben_secure.signing.tags import context_bytes, verified_payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the caller of a reader asked for; travels to workers, which check it anew.

    Attributes:
        mac_key: Key or keys of the team, or None.
        context: Name of the dataset in its tags.
        verify_keys: Keys of publishers, or empty.
        threshold: How many of them must have signed.
        manifest: Path of the manifest, or None for the one beside the database.
        name: Name of the dataset that the manifest must have, or None.
        version: Version that the manifest must have, or None.
    """

    mac_key: MacKey | MacKeySet | None
    context: str
    verify_keys: tuple[VerifyKey, ...]
    threshold: int
    manifest: str | None
    name: str | None
    version: str | None

    @property
    def mac_fingerprints(self) -> list[str]:
        """Names of the MAC keys, sorted; they are no secret."""
        keys = [] if self.mac_key is None else [self.mac_key] if isinstance(self.mac_key, MacKey) else self.mac_key
        return sorted(key.fingerprint for key in keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What is verified for every patch that a reader gives out; false if nothing is.

    Attributes:
        tags: Context and fingerprints of the MAC keys, if tags are verified.
        manifest: Name, version and fingerprints of the publishers' keys, if a signed manifest is.
    """

    tags: str | None = None
    manifest: str | None = None

    def __bool__(self) -> bool:
        return self.tags is not None or self.manifest is not None

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.tags, self.manifest))) or "nothing"


def demand_of(
    mac_key: MacKey | MacKeySet | None,
    context: str,
    verify_key: VerifyKey | Sequence[VerifyKey] | None,
    threshold: int,
    manifest: str | os.PathLike[str] | None,
    name: str | None,
    version: str | None,
) -> Demand:
    """Check what a caller asks for.

    Raises:
        TypeError: A key is of another type.
        ValueError: Something is asked for that means nothing without its key.
    """
    if mac_key is not None and not isinstance(mac_key, MacKey | MacKeySet):
        raise TypeError(f"mac_key must be a MacKey or a MacKeySet, not {type(mac_key).__name__}")
    if mac_key is None and context:
        raise ValueError("a context means nothing without a mac_key; pass both or neither")
    context_bytes(context)
    keys = () if verify_key is None else (verify_key,) if isinstance(verify_key, VerifyKey) else tuple(verify_key)
    if verify_key is not None and not keys:
        raise ValueError("verify_key is empty: nobody's signature would do")
    if not all(isinstance(key, VerifyKey) for key in keys):
        raise TypeError("verify_key must be a VerifyKey or several; a MacKey or SigningKey cannot stand in for it")
    if not keys and (manifest is not None or name is not None or version is not None or threshold != 1):
        raise ValueError("manifest, name, version and threshold mean nothing without a verify_key")
    return Demand(
        mac_key=mac_key,
        context=context,
        verify_keys=keys,
        threshold=threshold,
        manifest=None if manifest is None else os.path.abspath(manifest),
        name=name,
        version=version,
    )


class Verification:
    """Verifies the values of one database.

    Attributes:
        manifest: The signed list, or None.
        verified: What this checks, to be shown.
    """

    def __init__(self, demand: Demand, database: str) -> None:
        """Open what is needed.

        Args:
            demand: From ``demand_of``.
            database: Path of the database, beside which the manifest lies unless ``demand`` names it.

        Raises:
            SignatureError: The manifest is not signed by enough of the keys.
            ManifestMismatchError: It is not the one that was signed, or of another name or version.
            StoreError: It is missing or cannot be read.
        """
        key = demand.mac_key
        self._mac_keys = MacKeySet(key) if isinstance(key, MacKey) else key
        self._context = context_bytes(demand.context)
        self.manifest: Manifest | None = None
        if demand.verify_keys:
            path = demand.manifest if demand.manifest is not None else manifest_path(database)
            self.manifest = open_manifest(
                path, demand.verify_keys, threshold=demand.threshold, name=demand.name, version=demand.version
            )
        self.verified = self._describe(demand.context)

    def _describe(self, context: str) -> Verified:
        tags = manifest = None
        if self._mac_keys is not None:
            tags = f"tags of context '{printable(context)}' by {', '.join(key.fingerprint for key in self._mac_keys)}"
        if self.manifest is not None:
            statement, keys = self.manifest.statement, self.manifest.signed_by
            signers = ", ".join(key.fingerprint for key in keys)
            manifest = (
                f"manifest of '{printable(statement.name)}' version '{printable(statement.version)}' by {signers}"
            )
        return Verified(tags=tags, manifest=manifest)

    def payload_end(self, lmdb_key: bytes, value: bytes | memoryview) -> int:
        """Verify a stored value, and find where its payload ends.

        Raises:
            TagMismatchError: A MAC key was given, and the value is not the one that was tagged with it.
            ManifestMismatchError: A verify key was given, and the value is not the one that was signed.
        """
        if self.manifest is not None:
            self.manifest.check(lmdb_key, value)
        if self._mac_keys is not None:
            return len(verified_payload(self._mac_keys, self._context, lmdb_key, value))
        return payload_end(value)

    def check_absent(self, lmdb_key: bytes) -> None:
        """Check that a record that the database does not have is not one that was signed.

        Raises:
            ManifestMismatchError: It was removed.
        """
        if self.manifest is not None and self.manifest.digest_of(lmdb_key) is not None:
            raise Mismatch(kind=MismatchKind.MISSING, lmdb_key=lmdb_key).error()
