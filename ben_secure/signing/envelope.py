"""The file ``NAME.manifest.dsse.json``: a statement and the publisher's signatures over it, in a DSSE envelope.

Verifies bytes, then parses those same bytes: a payload is never looked at before enough trusted keys have signed it.
Never takes a key, or a hint which key to try, from the envelope: ``keyid`` decides nothing. It is a profile of DSSE 1.0
(https://github.com/secure-systems-lab/dsse, ``protocol.md`` and ``envelope.md``): any DSSE tool reads what is written
here, and here an envelope has one spelling (sorted keys, no spaces, standard base64, a line feed at the end), so that
a changed byte anywhere but in a ``keyid`` is refused, and one in a ``keyid`` changes nothing.

Signing takes any ``Signer``: a key of a file, or one that a device keeps (``publisher.devices``). A key id in what is
written is the fingerprint of the key.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from ben_secure.errors import Rule, SignatureError, printable
from ben_secure.signing._kinds import expect
from ben_secure.signing.keys import Signer, VerifyKey
from ben_secure.signing.statement import Statement, canonical_json, parse_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES = 2**16
"""A statement has at most 44 kB, 58 kB in base64; the rest is room for signatures, and bounds how many are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedStatement:
    """A statement that trusted keys have signed; made by ``verify_envelope`` and by nobody else.

    Attributes:
        statement: What the publisher says.
        signed_by: Those of the caller's keys whose signatures were found to be good; at least the threshold.
    """

    statement: Statement
    signed_by: tuple[VerifyKey, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: DSSE 1.0, ``PAE(UTF8(PAYLOAD_TYPE), SERIALIZED_BODY)``. Lengths count bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_statement(statement: Statement, signers: Sequence[Signer]) -> bytes:
    """Sign a statement.

    Args:
        statement: What the publisher says.
        signers: At least one; each has a key of its own.

    Returns:
        The envelope; equal for equal arguments if all keys are of Ed25519 (RFC 8032), which is deterministic.

    Raises:
        ValueError: There is no signer, two have one key, or a signer returned a signature that its own public key does
            not verify.
    """
    payload = statement.encode()
    message = pae(PAYLOAD_TYPE, payload)
    signatures: dict[str | None, bytes] = {}
    for signer in signers:
        fingerprint = signer.verify_key.fingerprint
        if fingerprint in signatures:
            raise ValueError(f"two signers have the key {fingerprint}; expected different keys")
        signatures[fingerprint] = signer.sign(message)
        if not _has_signed(signer.verify_key, signatures[fingerprint], message):
            raise ValueError(
                f"the signer of the key {fingerprint} made a signature that its own public key does not verify; "
                "nothing was written"
            )
    if not signatures:
        raise ValueError("no signer was given; expected at least one")
    return _encode(payload, list(signatures.items()))


def verify_envelope(unverified: bytes, verify_keys: Sequence[VerifyKey], threshold: int = 1) -> VerifiedStatement:
    """Verify an envelope, and only then parse what was signed.

    Args:
        unverified: The envelope.
        verify_keys: Keys of publishers, each of which the caller trusts. The same key twice counts once.
        threshold: How many of them must have signed.

    Returns:
        The statement, and who signed it.

    Raises:
        SignatureError: These bytes are not an envelope, fewer keys than ``threshold`` have signed it, or what they
            have signed is not a statement about a manifest.
        TypeError: A key is not a ``VerifyKey``.
        ValueError: ``threshold`` is not between 1 and the number of distinct keys.
    """
    for verify_key in verify_keys:
        expect(VerifyKey, verify_key, "a key to verify with")
    distinct = list(dict.fromkeys(verify_keys))
    if type(threshold) is not int or not 1 <= threshold <= len(distinct):
        raise ValueError(f"threshold is {threshold!r}, expected an int from 1 to the number of keys, {len(distinct)}")
    payload, signatures = _decode(unverified)
    message = pae(PAYLOAD_TYPE, payload)
    signed_by = tuple(
        verify_key for verify_key in distinct if any(_has_signed(verify_key, sig, message) for _, sig in signatures)
    )
    if len(signed_by) < threshold:
        raise SignatureError(
            f"the envelope is signed by {len(signed_by)} of the keys that you trust, expected {threshold} of "
            f"{', '.join(key.fingerprint for key in distinct)}; it was changed, or signed by somebody else (it names "
            f"the key ids {printable([keyid for keyid, _ in signatures])}, which anybody can write); get it and the "
            "fingerprint from the publisher again",
            rule=Rule.SIGNATURE,
        )
    return VerifiedStatement(statement=Statement.decode(payload), signed_by=signed_by)


def _has_signed(verify_key: VerifyKey, signature: bytes, message: bytes) -> bool:
    try:
        verify_key.verify(signature, message)
    except SignatureError:
        return False
    return True


def _encode(payload: bytes, signatures: Sequence[tuple[str | None, bytes]]) -> bytes:
    """Spell an envelope; ``None`` for a signature without a key id."""
    document = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            ({} if keyid is None else {"keyid": keyid}) | {"sig": base64.b64encode(signature).decode("ascii")}
            for keyid, signature in signatures
        ],
    }
    return canonical_json(document) + b"\n"


def _decode(unverified: bytes) -> tuple[bytes, list[tuple[str | None, bytes]]]:
    """Take payload and signatures out of an envelope; all that is checked is that it is spelled as ``_encode`` does.

    Raises:
        SignatureError: It is not.
    """
    if len(unverified) > MAX_ENVELOPE_BYTES:
        raise _malformed(f"it has {len(unverified)} bytes, expected at most {MAX_ENVELOPE_BYTES}")
    document = parse_json(unverified, "the envelope")
    if not isinstance(document, dict) or document.get("payloadType") != PAYLOAD_TYPE:
        raise _malformed(f"its payloadType is not {PAYLOAD_TYPE}")
    try:
        payload = base64.b64decode(document["payload"], validate=True)
        signatures = [
            (_text(signature.get("keyid")), base64.b64decode(signature["sig"], validate=True))
            for signature in document["signatures"]
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _malformed(f"a field is missing or malformed ({printable(str(error))})") from error
    canonical = _encode(payload, signatures)
    if canonical != unverified:
        if unverified.replace(b"\r", b"\n").strip() == canonical.strip():
            raise _malformed("its line ends were changed, as by git, an editor or a transfer as text")
        raise _malformed("it has fields or a spelling that this version does not write")
    return payload, signatures


def _text(keyid: object) -> str | None:
    if keyid is None or isinstance(keyid, str):
        return keyid
    raise TypeError("a keyid is not a string")


def _malformed(what: str) -> SignatureError:
    return SignatureError(
        f"this is not the envelope of a manifest: {what}; fetch the file NAME.manifest.dsse.json again",
        rule=Rule.SIGNATURE,
    )
