"""Checks that a caller requests (``Verification``), and their application to each value (``Verifier``).

A database cannot weaken the requested checks. A value is verified before a byte of it is decoded. Importing this module
is cheap: it does not load cryptography, which a caller who has a key has loaded already.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, TypedDict

from ben_secure.errors import printable
from ben_secure.remote.addresses import absolute
from ben_secure.signing._kinds import expect
from ben_secure.signing.footer import payload_end

if TYPE_CHECKING:
    from ben_secure.signing.keys import MacKey, MacKeySet, VerifyKey
    from ben_secure.signing.manifest import Manifest


class Keywords(TypedDict, total=False):
    """The fields of a ``Verification``, for functions that accept them as keyword arguments."""

    mac_key: MacKey | MacKeySet | None
    context: str
    verify_key: VerifyKey | Sequence[VerifyKey] | None
    threshold: int
    manifest: str | os.PathLike[str] | None
    name: str | None
    version: str | None
    subject: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The checks for every value of a database: a tag by the team's key, a publisher's signature, or both.

    At least one of ``mac_key`` and ``verify_key`` must be given. One object can serve many databases, unless it names a
    manifest. Its ``repr`` shows key ids only. A pickle of it contains the keys, secrets included.

    Attributes:
        mac_key: The team's key or keys. Every value must have a tag by one of them, for its LMDB key and ``context``.
            An untagged, changed, moved or renamed value is refused.
        context: Dataset name bound into each tag, at most 255 bytes in UTF-8.
        verify_key: The publisher's key or keys. Every value must be the one in the manifest that they signed. Kept as a
            tuple.
        threshold: Number of the publishers' keys that must have signed.
        manifest: The manifest, with its envelope beside it, or None for ``PATH.manifest`` beside the database. Kept as
            an absolute path or a URL.
        name: Required name of the dataset in the manifest, or None to accept any.
        version: Required version in the manifest, so an old signed release cannot pass for the new one, or None to
            accept any.
        subject: Required database of a release of several, by its file name in the release, or None for the file name
            of the database that is opened.

    Raises:
        TypeError: A key, a text or the manifest has another type, such as a publisher's key as ``mac_key``.
        ValueError: There is no key, a field lacks the key that it requires, ``verify_key`` is empty, ``context`` is too
            long or not Unicode, or ``threshold`` is not between 1 and the number of different keys.
    """

    mac_key: MacKey | MacKeySet | None = None
    context: str = ""
    verify_key: VerifyKey | Sequence[VerifyKey] | None = None
    threshold: int = 1
    manifest: str | os.PathLike[str] | None = None
    name: str | None = None
    version: str | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        expect(str, self.context, "context")
        for name, text in (("name", self.name), ("version", self.version), ("subject", self.subject)):
            if text is not None:
                expect(str, text, name)
        if self.mac_key is not None:
            self._check_tags()
        elif self.context:
            raise ValueError("context requires mac_key")
        if self.verify_key is not None:
            self._check_manifest()
        elif (self.threshold, self.manifest, self.name, self.version, self.subject) != (1, None, None, None, None):
            raise ValueError("manifest, name, subject, version and threshold require verify_key")
        elif self.mac_key is None:
            raise ValueError("a verification needs mac_key, verify_key, or both")

    def _check_tags(self) -> None:
        from ben_secure.signing.keys import MacKey, MacKeySet
        from ben_secure.signing.tags import context_bytes

        if not isinstance(self.mac_key, MacKey | MacKeySet):
            raise TypeError(f"mac_key must be a MacKey or a MacKeySet, not {type(self.mac_key).__name__}")
        context_bytes(self.context)

    def _check_manifest(self) -> None:
        from ben_secure.signing.keys import VerifyKey

        keys = tuple(self.verify_key) if isinstance(self.verify_key, Iterable) else (self.verify_key,)
        for key in keys:
            expect(VerifyKey, key, "verify_key, or each of several,")
        different = len(set(keys))
        if not different:
            raise ValueError("verify_key must contain at least one key")
        if type(self.threshold) is not int or not 1 <= self.threshold <= different:
            raise ValueError(
                f"threshold is {self.threshold!r}, expected 1 to {different}, the number of different keys"
            )
        object.__setattr__(self, "verify_key", keys)
        if self.manifest is not None:
            object.__setattr__(self, "manifest", absolute(self.manifest))

    @classmethod
    def of(cls, verification: Verification | None, keywords: Keywords) -> Verification | None:
        """Return the verification that a caller requests, either as an object or by keywords.

        Args:
            verification: An existing one, or None.
            keywords: Fields of a new one. Fields that have their defaults request nothing.

        Returns:
            ``verification``, or a new one, or None if nothing is requested.

        Raises:
            TypeError: ``verification`` or a field has another type, or there is no such field.
            ValueError: As for the class, or the caller uses both ways.
        """
        if verification is not None:
            expect(cls, verification, "verification")
        defaults = {field.name: field.default for field in fields(cls)}
        requested = [name for name, value in keywords.items() if name not in defaults or value != defaults[name]]
        if not requested:
            return verification
        if verification is not None:
            raise ValueError(
                f"a verification has its own keys; pass {', '.join(sorted(requested))} to the Verification"
            )
        return cls(**keywords)

    @property
    def mac_keys(self) -> MacKeySet | None:
        """The team's key or keys as a set, or None."""
        from ben_secure.signing.keys import MacKey, MacKeySet

        return MacKeySet(self.mac_key) if isinstance(self.mac_key, MacKey) else self.mac_key

    @property
    def verify_keys(self) -> tuple[VerifyKey, ...]:
        """The publishers' keys, or an empty tuple."""
        return self.verify_key if isinstance(self.verify_key, tuple) else ()

    def check_databases(self, count: int) -> None:
        """Check that this verification can be applied to ``count`` databases at once.

        Raises:
            ValueError: The verification names a manifest, and there is more than one database.
        """
        if self.manifest is not None and count > 1:
            raise ValueError(
                "manifest is for a single database; with several, each must have its own manifest beside it"
            )


class Verifier:
    """Verifies the values of one database.

    Attributes:
        verification: The requested checks.
        manifest: The signed list, or None.
    """

    def __init__(
        self, verification: Verification, database: str, *, entries: int | None = None, listed: bool = True
    ) -> None:
        """Open the manifest, if one is needed.

        Args:
            verification: The requested checks.
            database: Path of the database. The manifest is beside it, unless ``verification`` names another.
            entries: Number of records in the database, to compare with the manifest, or None for a caller who compares
                all records.
            listed: Whether values must be in the manifest. If false, the manifest is opened, but only tags are checked.

        Raises:
            SignatureError: The manifest is not signed by enough of the keys.
            ManifestMismatchError: The manifest is not the signed one, or has another name, version or number of
                records.
            StoreError: The manifest is missing or cannot be read.
            TypeError: ``verification`` is not a ``Verification``.
        """
        expect(Verification, verification, "verification")
        from ben_secure.signing.manifest import manifest_path, name_of, open_manifest
        from ben_secure.signing.tags import context_bytes, verified_payload

        self.verification = verification
        self.manifest: Manifest | None = None
        if verification.verify_keys:
            self.manifest = open_manifest(
                verification.manifest or manifest_path(database),
                verification.verify_keys,
                threshold=verification.threshold,
                name=verification.name,
                version=verification.version,
                subject=verification.subject,
            )
            if verification.subject is None and self.manifest.statement.subjects:
                self.manifest.check_subject(name_of(database))
            if entries is not None:
                self.manifest.check_count(entries)
        self._listed = self.manifest if listed else None
        mac_keys = verification.mac_keys
        self._payload = (
            None if mac_keys is None else partial(verified_payload, mac_keys, context_bytes(verification.context))
        )

    def __str__(self) -> str:
        """Describe the checks and their keys."""
        texts = []
        if self.verification.mac_keys is not None:
            keys = ", ".join(key.fingerprint for key in self.verification.mac_keys)
            texts.append(f"tags of context '{printable(self.verification.context)}' by {keys}")
        if self._listed is not None:
            statement = self._listed.statement
            release = f"'{printable(statement.name)}' version '{printable(statement.version)}'"
            signers = ", ".join(key.fingerprint for key in self._listed.signed_by)
            texts.append(f"manifest of {release} by {signers}")
        return "; ".join(texts)

    def payload_end(self, lmdb_key: bytes, value: bytes | memoryview) -> int:
        """Verify a stored value, and find where its payload ends.

        Raises:
            TagMismatchError: A MAC key was given, and the value is not the tagged one.
            ManifestMismatchError: A verify key was given, and the value is not the signed one.
        """
        if self._listed is not None:
            self._listed.check(lmdb_key, value)
        return payload_end(value) if self._payload is None else len(self._payload(lmdb_key, value))

    def check_absent(self, lmdb_key: bytes) -> None:
        """Check that a record missing from the database was not signed.

        Raises:
            ManifestMismatchError: The record was signed, so it was removed.
        """
        if self._listed is not None:
            self._listed.check_absent(lmdb_key)
