"""From the bytes of a file to a publisher's key: PEM, DER, OpenSSH and JWK, as tools and secret stores write them.

The bytes alone decide the kind of key, so a key of another kind is not reported as damaged. PEM may lack its line ends,
have them as ``\\n``, or be encoded in base64 as a whole, because secret stores do this. A file with several keys is
refused. No secret is ever in an error, nor in the cause of one.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)

from ben_secure.errors import printable
from ben_secure.signing.publisher.schemes import PrivateKey, PublicKey

PRIVATE, PUBLIC, MAC = "private", "public", "MAC"

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----(.*?)-----END \1-----", re.DOTALL)
# Of a label with other words nothing is shown, because in a damaged file they may be a piece of the key.
_LABEL_WORDS = {
    "BLOCK", "CERTIFICATE", "COSIGN", "DSA", "EC", "ENCRYPTED", "KEY", "OPENSSH", "PGP", "PRIVATE", "PUBLIC", "RSA",
    "SIGSTORE",
}  # fmt: skip
_LABELS = ("PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "PUBLIC KEY")
_OPENSSH_LINE = re.compile(rb"(?:ssh-|ecdsa-sha2-|sk-)[a-z0-9@.-]+ +[A-Za-z0-9+/]+=*(?: [^\n]*)?")
_OPENSSH_OPEN = b"openssh-key-v1\0\0\0\0\4none"  # PROTOCOL.key of OpenSSH: magic, then the name of the cipher
_ELSEWHERE = {
    "CERTIFICATE": "it is a certificate; take the public key out of it: openssl x509 -pubkey -noout -in FILE",
    "PuTTY": "it is a key of PuTTY; export it: puttygen FILE -O private-openssh-new -o NEW",
}
_CURVES: dict[object, tuple[ec.EllipticCurve, int]] = {"P-256": (ec.SECP256R1(), 32), "P-384": (ec.SECP384R1(), 48)}
_MAX_NAME = 12  # as "secp256k1"; a longer text may be a misplaced member, even the secret
_JWK_ALG = {"Ed25519": ("EdDSA", "Ed25519"), "P-256": ("ES256",), "P-384": ("ES384",)}  # RFC 8037, RFC 7518


@dataclass(frozen=True, slots=True)
class Encoded:
    """The content of a file.

    Attributes:
        kind: ``PRIVATE`` or ``PUBLIC``, both a publisher's, or ``MAC``.
        encrypted: Whether a passphrase is needed.
        load: Makes a key of ``cryptography``, of any algorithm, with the passphrase or None. Raises ``ValueError`` or
            ``UnsupportedAlgorithm``.
    """

    kind: str
    encrypted: bool
    load: Callable[[bytes | None], object]


def identify(content: bytes) -> Encoded:
    """Identify the content of a file.

    Args:
        content: The whole file.

    Raises:
        ValueError: The content is unknown, or holds several keys. The text explains which.
    """
    if content[:1] == b"\x30":  # SEQUENCE; "0" in ASCII, which begins none of the other forms
        return _der(content)
    text = content.strip().strip(b"\"'")
    if b"-----BEGIN " in text:
        return _pem(text)
    if text[:1] == b"{":
        return _jwk(text)
    if _OPENSSH_LINE.fullmatch(text):
        return Encoded(PUBLIC, False, lambda _: load_ssh_public_key(text))
    if text.startswith(b"PuTTY-User-Key-File"):
        raise ValueError(_ELSEWHERE["PuTTY"])
    decoded = _base64(text)
    if decoded[:1] == b"\x30":
        return _der(decoded)
    if decoded.startswith(b"-----BEGIN "):
        return _pem(decoded)
    raise ValueError("it has no key in PEM, DER, OpenSSH or JWK form; check the path" if text else "it is empty")


def _pem(text: bytes) -> Encoded:
    """Return the one key among the PEM blocks (RFC 7468). OpenSSL may write redundant curve parameters before it."""
    begun = [label.decode() for label in re.findall(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----", text)]
    labels = [label for label in begun if label != "EC PARAMETERS"]
    if len(labels) != 1 or labels[0] not in _LABELS:
        if labels[:1] == ["CERTIFICATE"]:
            raise ValueError(_ELSEWHERE["CERTIFICATE"])
        blocks = [label if _LABEL_WORDS.issuperset(label.split()) else "an unknown block" for label in labels[:4]]
        raise ValueError(f"it holds {', '.join(blocks)}; expected one PEM block: {', '.join(_LABELS)}")
    body = next((block[2] for block in _BLOCK.finditer(text) if block[1].decode() == labels[0]), None)
    if body is None:
        raise ValueError("it is cut off: the END line is missing; copy the whole file again")
    body = body.replace(b"\\r", b"").replace(b"\\n", b"\n")
    if b"Proc-Type:" in body:  # encrypted by OpenSSL before 1.0 (RFC 1421)
        return Encoded(PRIVATE, True, partial(load_pem_private_key, _block(labels[0], body.strip())))
    decoded = _base64(body)
    if labels[0].startswith("OPENSSH"):
        rewrapped = _block(labels[0], base64.encodebytes(decoded).strip())
        return Encoded(PRIVATE, not decoded.startswith(_OPENSSH_OPEN), partial(load_ssh_private_key, rewrapped))
    return _der(decoded)


def _block(label: str, body: bytes) -> bytes:
    name = label.encode()
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (name, body, name)


def _der(data: bytes) -> Encoded:
    """Distinguish PKCS#8, SEC 1 and SPKI by the first elements: an integer; an algorithm, then octets or bits."""
    first = data[_content(data, 0) :]
    if first[:1] == b"\x02":
        return Encoded(PRIVATE, False, partial(load_der_private_key, data))
    second = first[_content(first, 0) + _length(first) :][:1] if first[:1] == b"\x30" else b""
    if second == b"\x04":
        return Encoded(PRIVATE, True, partial(load_der_private_key, data))
    if second == b"\x03":
        return Encoded(PUBLIC, False, lambda _: load_der_public_key(data))
    raise ValueError("it is damaged, or not a key in DER; copy the whole file again")


def _content(data: bytes, at: int) -> int:
    """Return where the content of the element at the start of ``data`` begins (X.690, section 8.1.3)."""
    length = data[at + 1] if len(data) > at + 1 else 0
    return at + 2 + (length & 0x7F if length & 0x80 else 0)


def _length(data: bytes) -> int:
    begin = _content(data, 0)
    return int.from_bytes(data[2:begin] if begin > 2 else data[1:2], "big")


def _base64(text: bytes) -> bytes:
    """Decode base64 with any line breaks, and return empty bytes for other text."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return b""


def _jwk(text: bytes) -> Encoded:
    """Identify a JWK (RFC 7517, RFC 8037), alone or as the one member of a set."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    entries = document.get("keys") if isinstance(document, dict) else None
    if isinstance(entries, list) and entries:
        if all(isinstance(entry, dict) and entry.get("kty") == "oct" for entry in entries):
            return Encoded(MAC, False, _not_a_publisher)
        document = entries[0] if len(entries) == 1 else document
    if not isinstance(document, dict) or "kty" not in document:
        raise ValueError("it is not valid JSON, or not a single JWK; expected a member kty")
    if document["kty"] == "oct":
        return Encoded(MAC, False, _not_a_publisher)
    return Encoded(PRIVATE if "d" in document else PUBLIC, False, partial(_from_jwk, document))


def _not_a_publisher(_: bytes | None) -> object:
    raise ValueError("it is a MAC key")


def _from_jwk(jwk: dict[str, object], _: bytes | None) -> object:
    private = "d" in jwk
    crv = jwk.get("crv")
    if (jwk["kty"], crv) not in (("OKP", "Ed25519"), ("EC", "P-256"), ("EC", "P-384")):
        known = (str(name) if len(str(name)) <= _MAX_NAME else "another" for name in (jwk["kty"], crv))
        raise UnsupportedAlgorithm(printable(" ".join(known)))
    uses = jwk.get("key_ops", [])
    if (
        jwk.get("use", "sig") != "sig"
        or jwk.get("alg", _JWK_ALG[str(crv)][0]) not in _JWK_ALG[str(crv)]
        or not (isinstance(uses, list) and (not uses or ("sign" if private else "verify") in uses))
    ):
        raise ValueError("use, alg or key_ops of the JWK show that it is not for signatures")
    public, secret = _okp(jwk, private) if crv == "Ed25519" else _ec(jwk, private, *_CURVES[crv])
    if secret is None:
        return public
    if secret.public_key() != public:
        raise ValueError("the private and the public part of the JWK do not belong together")
    return secret


def _okp(jwk: dict[str, object], private: bool) -> tuple[PublicKey, PrivateKey | None]:
    public = Ed25519PublicKey.from_public_bytes(_member(jwk, "x", 32))
    return public, Ed25519PrivateKey.from_private_bytes(_member(jwk, "d", 32)) if private else None


def _ec(
    jwk: dict[str, object], private: bool, curve: ec.EllipticCurve, size: int
) -> tuple[PublicKey, PrivateKey | None]:
    x, y = (int.from_bytes(_member(jwk, name, size), "big") for name in "xy")
    public = ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
    return public, ec.derive_private_key(int.from_bytes(_member(jwk, "d", size), "big"), curve) if private else None


def _member(jwk: dict[str, object], name: str, size: int) -> bytes:
    text = jwk.get(name)
    if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]+", text):
        decoded_member = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if len(text) % 4 != 1 else b""
        if len(decoded_member) == size:
            return decoded_member
    raise ValueError(f"the member {name} of the JWK is not {size} bytes in base64url")
