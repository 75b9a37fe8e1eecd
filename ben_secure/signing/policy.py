"""What a caller asks to be verified (``Verification``), and its application to each value of a database (``Verifier``).

Nothing in a database can lower what was asked for: a value is verified before a byte of it is decoded. Importing this
costs nothing: keys bring cryptography, and a caller who has a key has imported that already.
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
    """The fields of a ``Verification``, for functions that take them as keyword arguments in its place."""

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
    """What must hold for every value of a database: a tag by the team's key, a publisher's signature, or both.

    At least one of ``mac_key`` and ``verify_key`` must be given. One object is good for many databases, unless it names
    a manifest. Its ``repr`` names keys by their ids; pickled, it carries the keys, secrets included.

    Attributes:
        mac_key: The team's key, or keys: every value must bear a tag of one of them, for its LMDB key and ``context``;
            an untagged, changed, moved or renamed one is refused.
        context: Name of the dataset in its tags, at most 255 bytes in UTF-8.
        verify_key: The publisher's key, or keys: every value must be the one in the manifest that they signed. Kept as
            a tuple.
        threshold: How many of the publishers' keys must have signed.
        manifest: The manifest, with its envelope beside it; None for the one beside the database, ``PATH.manifest``.
            Kept as an absolute path or a URL.
        name: Name of the dataset that the manifest must have; None for any.
        version: Version that the manifest must have, so that an old signed release cannot pass for the new one; None
            for any.
        subject: Which database it must be, of a release of several that were signed together, by its file name there;
            None for the one that has the file name of the database that is opened.

    Raises:
        TypeError: A key, a text or the manifest is of another type: a publisher's key is no MAC key.
        ValueError: There is no key, a field means nothing without the key that it belongs to, ``verify_key`` is empty,
            ``context`` is too long or not Unicode, or ``threshold`` is not between 1 and the number of different keys.
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
            raise ValueError("say what to verify with: mac_key, verify_key, or both")

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
            raise ValueError(f"threshold is {self.threshold!r}, expected 1 to {different}: there are no more keys")
        object.__setattr__(self, "verify_key", keys)
        if self.manifest is not None:
            object.__setattr__(self, "manifest", absolute(self.manifest))

    @classmethod
    def of(cls, verification: Verification | None, keywords: Keywords) -> Verification | None:
        """Find what the caller of a function asks for, in one of two ways.

        Args:
            verification: One that exists, or None.
            keywords: Fields to make one of; those that have their defaults ask for nothing.

        Returns:
            ``verification``, or a new one; None if nothing is asked for.

        Raises:
            TypeError: ``verification`` or a field is of another type, or there is no such field.
            ValueError: As for the class, or the caller asks in both ways.
        """
        if verification is not None:
            expect(cls, verification, "verification")
        defaults = {field.name: field.default for field in fields(cls)}
        asked = [name for name, value in keywords.items() if name not in defaults or value != defaults[name]]
        if not asked:
            return verification
        if verification is not None:
            raise ValueError(f"a verification has its own keys; pass {', '.join(sorted(asked))} when you make it")
        return cls(**keywords)

    @property
    def mac_keys(self) -> MacKeySet | None:
        """The team's key or keys as a set, or None."""
        from ben_secure.signing.keys import MacKey, MacKeySet

        return MacKeySet(self.mac_key) if isinstance(self.mac_key, MacKey) else self.mac_key

    @property
    def verify_keys(self) -> tuple[VerifyKey, ...]:
        """The publishers' keys, or nothing."""
        return self.verify_key if isinstance(self.verify_key, tuple) else ()

    def check_databases(self, count: int) -> None:
        """Check that this can be asked of so many databases at once.

        Raises:
            ValueError: It names a manifest, and there is more than one database.
        """
        if self.manifest is not None and count > 1:
            raise ValueError("manifest is that of one database; of several each has its own beside it")


class Verifier:
    """Verifies the values of one database.

    Attributes:
        verification: What was asked for.
        manifest: The signed list, or None.
    """

    def __init__(
        self, verification: Verification, database: str, *, entries: int | None = None, listed: bool = True
    ) -> None:
        """Open what is needed.

        Args:
            verification: What is asked for.
            database: Path of the database, beside which the manifest lies unless ``verification`` names it.
            entries: Records that the database has, as many as the manifest must list; None for a caller who compares
                all records with it.
            listed: Whether values must be those of the manifest; otherwise it is opened, and only tags are verified.

        Raises:
            SignatureError: The manifest is not signed by enough of the keys.
            ManifestMismatchError: It is not the one that was signed, or of another name, version or number of records.
            StoreError: It is missing or cannot be read.
            TypeError: ``verification`` is something else.
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
        """What is verified, and by whose keys."""
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
            TagMismatchError: A MAC key was given, and the value is not the one that was tagged with it.
            ManifestMismatchError: A verify key was given, and the value is not the one that was signed.
        """
        if self._listed is not None:
            self._listed.check(lmdb_key, value)
        return payload_end(value) if self._payload is None else len(self._payload(lmdb_key, value))

    def check_absent(self, lmdb_key: bytes) -> None:
        """Check that a record that the database does not have is not one that was signed.

        Raises:
            ManifestMismatchError: It was removed.
        """
        if self._listed is not None:
            self._listed.check_absent(lmdb_key)
