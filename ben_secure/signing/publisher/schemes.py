"""The three signature schemes of a publisher: Ed25519, and ECDSA on P-256 with SHA-256 and on P-384 with SHA-384.

The key alone decides the scheme: its curve decides the hash, and verified data cannot choose another. Every signature
has one encoding. Ed25519 ensures this itself (RFC 8032: S is below the order). ECDSA (FIPS 186-5) does not: if (r, s)
is valid, so is (r, n - s), and lax readers accept several encodings of either. Here a signature is strict DER (SEC 1,
appendix C.8) and s is at most n / 2. Many signers return either s. ``one_encoding`` normalises it. The names are those
of securesystemslib and TUF.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

PublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey

ED25519 = "ed25519"
KINDS = "Ed25519, ECDSA P-256 or ECDSA P-384"
"""For messages."""

# By name of the curve: name of the scheme, hash, order of the curve (NIST SP 800-186, section 3.2.1).
_ECDSA = {
    "secp256r1": (
        "ecdsa-sha2-nistp256",
        ec.ECDSA(SHA256()),
        0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    ),
    "secp384r1": (
        "ecdsa-sha2-nistp384",
        ec.ECDSA(SHA384()),
        0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    ),
}


def scheme_of(key: object) -> str | None:
    """Name the scheme of a key of ``cryptography``, public or private. Return None for any other object."""
    if isinstance(key, PublicKey | PrivateKey):
        if isinstance(key, Ed25519PublicKey | Ed25519PrivateKey):
            return ED25519
        if key.curve.name in _ECDSA:
            return _ECDSA[key.curve.name][0]
    return None


def is_consistent(private_key: PrivateKey) -> bool:
    """Whether the public half of a private key belongs to it. Not every OpenSSL compares the halves in a file."""
    if isinstance(private_key, Ed25519PrivateKey):  # its public half is always computed
        return True
    computed = ec.derive_private_key(private_key.private_numbers().private_value, private_key.curve)
    return computed.public_key() == private_key.public_key()


def sign(private_key: PrivateKey, message: bytes) -> bytes:
    """Sign a message. Signatures of ECDSA differ each time."""
    if isinstance(private_key, Ed25519PrivateKey):
        return private_key.sign(message)
    algorithm = _ECDSA[private_key.curve.name][1]
    return one_encoding(private_key.public_key(), private_key.sign(message, algorithm))


def one_encoding(public_key: PublicKey, signature: bytes) -> bytes:
    """Return a signature of ECDSA in the one accepted encoding. A signature of Ed25519 has no other.

    Raises:
        ValueError: The signature is not DER, or not a signature of any key.
    """
    if isinstance(public_key, Ed25519PublicKey):
        return signature
    order = _ECDSA[public_key.curve.name][2]
    r, s = decode_dss_signature(signature)
    if not (0 < r < order and 0 < s < order):
        raise ValueError("a number of the signature is out of range")
    return encode_dss_signature(r, min(s, order - s))


def verify(public_key: PublicKey, signature: bytes, message: bytes) -> None:
    """Check a signature.

    Raises:
        InvalidSignature: It is not a signature of this key over this message in the accepted encoding.
    """
    if isinstance(public_key, Ed25519PublicKey):
        return public_key.verify(signature, message)
    try:
        canonical = one_encoding(public_key, signature)
    except ValueError as error:
        raise InvalidSignature from error
    if canonical != signature:
        raise InvalidSignature
    return public_key.verify(signature, message, _ECDSA[public_key.curve.name][1])
