"""A publisher's statement about a release: an in-toto Statement v1 about the manifest file, as the signed bytes.

Only ``envelope`` may parse a statement, and only after it has verified the signature. A statement has one encoding
(JSON without spaces, sorted keys, ASCII only). A statement that does not encode to exactly the bytes that were read is
refused, which excludes duplicate keys, unknown fields and unusual numbers. Specification:
https://github.com/in-toto/attestation, ``spec/v1/statement.md``. The predicate is this project's own. A change that an
old reader would misread or refuse gets a new predicate type. Version 2 is written only where version 1 does not
suffice: for a hash other than SHA-256, a release of several databases, or one that names its predecessor.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone

from ben_secure.errors import ManifestMismatchError, Rule, SignatureError, printable
from ben_secure.signing._kinds import expect
from ben_secure.signing.hashing import Algorithm

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPES = tuple(f"https://ben-secure.readthedocs.io/manifest/v{version}" for version in (1, 2))
"""Never the predicate of OpenSSF model signing, whose reference tool reserves it for ECDSA keys."""

MAX_TEXT_CHARACTERS = 256
"""Maximum length of name, version and licence. It bounds the size of a statement, together with the limits below."""

MAX_SUBJECTS = 64
"""Maximum number of databases in one release. It keeps an envelope below 64 kB, with all other fields."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SUBJECT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
_VERSION_2 = {"algorithm", "counts", "predecessor"}
_MAX_COUNT = 2**53
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One database of a release of several.

    Attributes:
        name: Its file name in the release, such as ``train.lmdb``: 1 to 100 ASCII letters, digits, dots, hyphens and
            underscores, the first a letter or digit.
        count: Records in its manifest.
        manifest_sha256: SHA-256 of its manifest, 64 lowercase hexadecimal digits.
    """

    name: str
    count: int
    manifest_sha256: str

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _SUBJECT_NAME.fullmatch(self.name):
            raise ValueError(
                f"a database of a release is named {printable(self.name)}, expected 1 to 100 ASCII letters, digits, "
                "'.', '-' and '_'"
            )
        _check_count(self.count)
        _check_sha256("manifest_sha256", self.manifest_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predecessor:
    """The previous release.

    Attributes:
        version: Its version.
        manifest_sha256: SHA-256 of its manifest, 64 lowercase hexadecimal digits.
    """

    version: str
    manifest_sha256: str

    def __post_init__(self) -> None:
        _check_text("version of the predecessor", self.version)
        _check_sha256("manifest_sha256 of the predecessor", self.manifest_sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A publisher's statement about one release of a dataset, with one of its manifests selected.

    Attributes:
        name: Name of the dataset, 1 to 256 printable characters, like the next two.
        version: Version of the release.
        license: Licence of the dataset, or None if the publisher does not state it.
        count: Records in the manifest.
        algorithm: The hash that made the digests in the manifest.
        manifest_sha256: SHA-256 of the manifest file, 64 lowercase hexadecimal digits, as ``sha256sum`` prints it.
        created: When it was signed, UTC, in whole seconds.
        tool_name: Program that made the manifest.
        tool_version: Its version.
        subjects: All databases of a release of several, by name, no manifest twice. ``count`` and ``manifest_sha256``
            are those of the selected manifest. Empty for a release of one database.
        predecessor: The previous release, or None if the publisher does not name one.
    """

    name: str
    version: str
    license: str | None = None
    count: int
    algorithm: Algorithm = Algorithm.SHA256
    manifest_sha256: str
    created: datetime
    tool_name: str = "ben-secure"
    tool_version: str
    subjects: tuple[Subject, ...] = ()
    predecessor: Predecessor | None = None

    def __post_init__(self) -> None:
        for field in ("name", "version", "license", "tool_name", "tool_version"):
            text = getattr(self, field)
            if field == "license" and text is None:
                continue
            _check_text(field, text)
        expect(Algorithm, self.algorithm, "algorithm")
        _check_count(self.count)
        _check_sha256("manifest_sha256", self.manifest_sha256)
        self._check_subjects()
        if type(self.created) is not datetime or self.created.utcoffset() != timedelta() or self.created.microsecond:
            raise ValueError(f"created is {printable(str(self.created))}, expected a datetime in UTC, in whole seconds")

    def _check_subjects(self) -> None:
        names = [subject.name for subject in self.subjects]
        digests = {subject.manifest_sha256 for subject in self.subjects}
        if names != sorted(set(names)) or len(digests) != len(names) or len(names) == 1 or len(names) > MAX_SUBJECTS:
            raise ValueError(
                f"the databases of a release must be 2 to {MAX_SUBJECTS}, with different names, sorted, and "
                "different content"
            )
        if names and not any((one.count, one.manifest_sha256) == self._about for one in self.subjects):
            raise ValueError("the selected manifest is not one of the manifests of the release")

    @property
    def _about(self) -> tuple[int, str]:
        return self.count, self.manifest_sha256

    @property
    def subject(self) -> Subject | None:
        """The database of the selected manifest, or None for a release of one database."""
        return next((one for one in self.subjects if (one.count, one.manifest_sha256) == self._about), None)

    def about(self, manifest_sha256: str) -> Statement | None:
        """Return the same statement for another manifest of the release, or None if the release does not have it."""
        if manifest_sha256 == self.manifest_sha256:
            return self
        for one in self.subjects:
            if one.manifest_sha256 == manifest_sha256:
                return replace(self, count=one.count, manifest_sha256=manifest_sha256)
        return None

    @property
    def max_count(self) -> int:
        """Maximum number of records in a manifest of the release."""
        return max(self.count, *(one.count for one in self.subjects)) if self.subjects else self.count

    def encode(self) -> bytes:
        """Encode the statement as the payload of an envelope. The selection of a manifest does not change it."""
        dataset = {"name": self.name, "version": self.version}
        if self.license is not None:
            dataset["license"] = self.license
        predicate: dict[str, object] = {
            "created": self.created.replace(tzinfo=None).isoformat() + "Z",
            "dataset": dataset,
            "tool": {"name": self.tool_name, "version": self.tool_version},
        }
        digests = {one.name: one.manifest_sha256 for one in self.subjects} or {self.name: self.manifest_sha256}
        if self.algorithm is not Algorithm.SHA256:
            predicate["algorithm"] = self.algorithm.value
        if self.subjects:
            predicate["counts"] = {one.name: one.count for one in self.subjects}
        else:
            predicate["count"] = self.count
        if self.predecessor is not None:
            predicate["predecessor"] = {
                "manifest_sha256": self.predecessor.manifest_sha256,
                "version": self.predecessor.version,
            }
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()],
                "predicateType": PREDICATE_TYPES[1 if predicate.keys() & _VERSION_2 else 0],
                "predicate": predicate,
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> Statement:
        """Parse the payload of an envelope.

        Args:
            payload: Bytes with a verified signature.

        Returns:
            The one statement that encodes to ``payload``.

        Raises:
            SignatureError: The payload is a statement of another type or version, or not a statement.
        """
        document = parse_json(payload, "the signed statement")
        if not isinstance(document, dict):
            raise _another_kind("it is not a JSON object")
        for field, expected in (("_type", (STATEMENT_TYPE,)), ("predicateType", PREDICATE_TYPES)):
            if document.get(field) not in expected:
                wanted = " or ".join(expected)
                raise _another_kind(f"its {field} is {printable(document.get(field))}, expected {wanted}")
        try:
            predicate = document["predicate"]
            dataset = predicate["dataset"]
            digests = {one["name"]: one["digest"]["sha256"] for one in document["subject"]}
            counts = predicate.get("counts", {})
            subjects = tuple(
                Subject(name=name, count=counts[name], manifest_sha256=digests[name]) for name in sorted(counts)
            )
            before = predicate.get("predecessor")
            statement = cls(
                name=dataset["name"],
                version=dataset["version"],
                license=dataset.get("license"),
                count=subjects[0].count if subjects else predicate["count"],
                algorithm=Algorithm(predicate.get("algorithm", "sha256")),
                manifest_sha256=document["subject"][0]["digest"]["sha256"],
                created=datetime.strptime(predicate["created"], _TIME_FORMAT).replace(tzinfo=timezone.utc),
                tool_name=predicate["tool"]["name"],
                tool_version=predicate["tool"]["version"],
                subjects=subjects,
                predecessor=None if before is None else Predecessor(**before),
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _another_kind(f"a field is missing or malformed ({printable(str(error))})") from error
        if statement.encode() != payload:
            raise _another_kind("it has fields or an encoding that this version does not write")
        return statement

    def require(self, name: str | None = None, version: str | None = None) -> None:
        """Check that this is the requested release, and not an older one that passes for it.

        Args:
            name: Required name of the dataset, or None to accept any.
            version: Required version, or None to accept any.

        Raises:
            ManifestMismatchError: The publisher signed this for another dataset or version.
        """
        for field, required, signed in (("name", name, self.name), ("version", version, self.version)):
            if required is not None and required != signed:
                raise ManifestMismatchError(
                    f"the publisher signed another release: {field} {printable(signed)}, expected "
                    f"{printable(required)}; fetch database, manifest and envelope of the release that you want",
                    rule=Rule.MANIFEST,
                )


def _check_text(field: str, text: object) -> None:
    if type(text) is not str or not text.isprintable() or not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
        raise ValueError(f"{field} is {printable(text)}, expected 1 to {MAX_TEXT_CHARACTERS} printable characters")


def _check_count(count: object) -> None:
    if type(count) is not int or not 0 <= count <= _MAX_COUNT:
        raise ValueError(f"count is {printable(count)}, expected an int from 0 to {_MAX_COUNT}")


def _check_sha256(field: str, digest: object) -> None:
    if type(digest) is not str or not _SHA256.fullmatch(digest):
        raise ValueError(f"{field} is {printable(digest)}, expected 64 lowercase hexadecimal digits")


def canonical_json(document: object) -> bytes:
    """Encode plain data in the one way that this package signs: sorted keys, no spaces, ASCII only."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(data: bytes, kind: str) -> object:
    """Parse JSON. The caller has bounded its size, and compares the result with ``canonical_json``.

    Args:
        data: UTF-8.
        kind: Expected kind of document, for the message.

    Returns:
        Unchecked plain data.

    Raises:
        SignatureError: The data is not JSON in UTF-8, or nested too deeply to be read.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: UnicodeDecodeError, JSONDecodeError, a huge integer
        raise SignatureError(
            f"{kind} is not JSON ({printable(str(error))}); fetch it again from the publisher", rule=Rule.SIGNATURE
        ) from error


def _another_kind(fault: str) -> SignatureError:
    return SignatureError(
        f"the signed payload is not a statement about a manifest of version 1 or 2: {fault}; a newer ben-secure may "
        "read it, or the publisher signed something else with this key",
        rule=Rule.SIGNATURE,
    )
