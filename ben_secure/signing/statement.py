"""What a publisher says of a release: an in-toto Statement v1 about the manifest file, as the bytes that are signed.

Decides from bytes alone. Nobody but ``envelope`` may parse a statement, and only after its signature was verified. A
statement has one spelling (JSON without spaces, keys sorted, ASCII only): what does not encode to the very bytes that
were read is refused, which leaves no room for keys given twice, unknown fields or numbers in disguise. Specification:
https://github.com/in-toto/attestation, ``spec/v1/statement.md``. The predicate is this project's own; a change that an
old reader would misread or refuse gets a new predicate type: version 2 names the hash of the manifest's digests, and
version 1, which is written wherever it can say everything, means SHA-256.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ben_secure.errors import ManifestMismatchError, Rule, SignatureError, printable
from ben_secure.signing._kinds import expect
from ben_secure.signing.hashing import Algorithm

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPES = tuple(f"https://ben-secure.readthedocs.io/manifest/v{version}" for version in (1, 2))
"""Never that of OpenSSF model signing, whose reference tool reserves its predicate to ECDSA keys."""

MAX_TEXT_CHARACTERS = 256
"""Longest name, version, licence: with six fields of astral characters a statement still has less than 32 kB."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_COUNT = 2**53
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a publisher says of one release of a dataset.

    Attributes:
        name: Name of the dataset, 1 to 256 printable characters, as the next two.
        version: Version of the release.
        license: Licence of the dataset, or None if the publisher says nothing.
        count: Records in the manifest.
        algorithm: The hash that made the digests in the manifest.
        manifest_sha256: SHA-256 of the manifest file, 64 lowercase hexadecimal digits, as ``sha256sum`` prints it.
        created: When it was signed, UTC, in whole seconds.
        tool_name: Program that made the manifest.
        tool_version: Its version.
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

    def __post_init__(self) -> None:
        for what in ("name", "version", "license", "tool_name", "tool_version"):
            text = getattr(self, what)
            if what == "license" and text is None:
                continue
            if type(text) is not str or not text.isprintable() or not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
                raise ValueError(
                    f"{what} is {printable(text)}, expected 1 to {MAX_TEXT_CHARACTERS} printable characters"
                )
        expect(Algorithm, self.algorithm, "algorithm")
        if type(self.count) is not int or not 0 <= self.count <= _MAX_COUNT:
            raise ValueError(f"count is {printable(self.count)}, expected an int from 0 to {_MAX_COUNT}")
        if type(self.manifest_sha256) is not str or not _SHA256.fullmatch(self.manifest_sha256):
            raise ValueError(
                f"manifest_sha256 is {printable(self.manifest_sha256)}, expected 64 lowercase hexadecimal digits"
            )
        if type(self.created) is not datetime or self.created.utcoffset() != timedelta() or self.created.microsecond:
            raise ValueError(f"created is {printable(str(self.created))}, expected a datetime in UTC, in whole seconds")

    def encode(self) -> bytes:
        """The statement as the payload of an envelope."""
        dataset = {"name": self.name, "version": self.version}
        if self.license is not None:
            dataset["license"] = self.license
        named = {} if self.algorithm is Algorithm.SHA256 else {"algorithm": self.algorithm.value}
        return canonical_json(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": self.name, "digest": {"sha256": self.manifest_sha256}}],
                "predicateType": PREDICATE_TYPES[1 if named else 0],
                "predicate": named
                | {
                    "count": self.count,
                    "created": self.created.replace(tzinfo=None).isoformat() + "Z",
                    "dataset": dataset,
                    "tool": {"name": self.tool_name, "version": self.tool_version},
                },
            }
        )

    @classmethod
    def decode(cls, payload: bytes) -> Statement:
        """Parse the payload of an envelope.

        Args:
            payload: Bytes whose signature was verified.

        Returns:
            The one statement that encodes to ``payload``.

        Raises:
            SignatureError: There is none: what was signed is a statement of another type or version, or none at all.
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
            statement = cls(
                name=dataset["name"],
                version=dataset["version"],
                license=dataset.get("license"),
                count=predicate["count"],
                algorithm=Algorithm(predicate.get("algorithm", "sha256")),
                manifest_sha256=document["subject"][0]["digest"]["sha256"],
                created=datetime.strptime(predicate["created"], _TIME_FORMAT).replace(tzinfo=timezone.utc),
                tool_name=predicate["tool"]["name"],
                tool_version=predicate["tool"]["version"],
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _another_kind(f"a field is missing or malformed ({printable(str(error))})") from error
        if statement.encode() != payload:
            raise _another_kind("it has fields or a spelling that this version does not write")
        return statement

    def require(self, name: str | None = None, version: str | None = None) -> None:
        """Check that this is the release that was asked for, and not an older one passed off as it.

        Args:
            name: Dataset that was asked for; None if any will do.
            version: Version that was asked for; None if any will do.

        Raises:
            ManifestMismatchError: The publisher signed this for another dataset or version.
        """
        for what, asked, found in (("name", name, self.name), ("version", version, self.version)):
            if asked is not None and asked != found:
                raise ManifestMismatchError(
                    f"the publisher signed another release: {what} {printable(found)}, expected {printable(asked)}; "
                    "fetch database, manifest and envelope of the release that you want",
                    rule=Rule.MANIFEST,
                )


def canonical_json(document: object) -> bytes:
    """Encode plain data the one way in which this package signs it: sorted keys, no spaces, ASCII only."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_json(data: bytes, what: str) -> object:
    """Parse JSON whose size the caller has bounded; the caller compares what it took with ``canonical_json``.

    Args:
        data: UTF-8.
        what: What this should be, for the message.

    Returns:
        Unchecked plain data.

    Raises:
        SignatureError: It is not JSON in UTF-8, or nested too deeply to be read.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: UnicodeDecodeError, JSONDecodeError, a huge integer
        raise SignatureError(
            f"{what} is not JSON ({printable(str(error))}); fetch it again from the publisher", rule=Rule.SIGNATURE
        ) from error


def _another_kind(what: str) -> SignatureError:
    return SignatureError(
        f"what is signed is not a statement about a manifest of version 1 or 2: {what}; a newer ben-secure may read "
        "it, or the publisher signed something else with this key",
        rule=Rule.SIGNATURE,
    )
