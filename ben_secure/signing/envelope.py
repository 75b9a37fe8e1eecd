"""The file ``NAME.manifest.dsse.json``: a statement and the publisher's signatures over it, in a DSSE envelope.

This module verifies bytes, then parses those same bytes. It parses a payload only after enough trusted keys have
verified it. It takes no key, and no hint about keys, from the envelope: ``keyid`` decides nothing. The format is a
profile of DSSE 1.0 (https://github.com/secure-systems-lab/dsse, ``protocol.md`` and ``envelope.md``), so any DSSE tool
can read these envelopes. An envelope has one encoding (sorted keys, no spaces, standard base64, a line feed at the
end). A changed byte is therefore refused, except in a ``keyid``, where it changes nothing.

Signing takes any ``Signer``: a key from a file, or a key in a device (``publisher.devices``). The key ids that are
written are fingerprints.
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
"""A statement has at most 44 kB, 58 kB in base64. The rest is room for signatures, and bounds the number tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedStatement:
    """A statement that trusted keys have signed. Only ``verify_envelope`` makes one.

    Attributes:
        statement: The publisher's statement.
        signed_by: The keys of the caller whose signatures are valid, at least ``threshold``.
    """

    statement: Statement
    signed_by: tuple[VerifyKey, ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the signed bytes: DSSE 1.0, ``PAE(UTF8(PAYLOAD_TYPE), SERIALIZED_BODY)``. Lengths count bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_statement(statement: Statement, signers: Sequence[Signer]) -> bytes:
    """Sign a statement.

    Args:
        statement: The publisher's statement.
        signers: At least one. No two may have the same key.

    Returns:
        The envelope. Equal arguments give equal envelopes if all keys are of Ed25519 (RFC 8032), which is
        deterministic.

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
    """Verify an envelope, and only then parse the signed payload.

    Args:
        unverified: The envelope.
        verify_keys: Keys of publishers, each of which the caller trusts. A repeated key counts once.
        threshold: Number of these keys that must have signed.

    Returns:
        The statement, and the keys that signed it.

    Raises:
        SignatureError: These bytes are not an envelope, fewer keys than ``threshold`` have signed it, or the signed
            payload is not a statement about a manifest.
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
    """Encode an envelope. A key id of None is left out."""
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
    """Return payload and signatures of an envelope. Only its encoding is checked, which must be the one of ``_encode``.

    Raises:
        SignatureError: The envelope is encoded in another way.
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
            raise _malformed("its line ends were changed, perhaps by git, an editor or a transfer as text")
        raise _malformed("it has fields or an encoding that this version does not write")
    return payload, signatures


def _text(keyid: object) -> str | None:
    if keyid is None or isinstance(keyid, str):
        return keyid
    raise TypeError("a keyid is not a string")


def _malformed(fault: str) -> SignatureError:
    return SignatureError(
        f"this is not the envelope of a manifest: {fault}; fetch the file NAME.manifest.dsse.json again",
        rule=Rule.SIGNATURE,
    )
