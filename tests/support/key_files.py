"""A publisher's keys in every form in which people have them."""

import base64
import json

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption
from cryptography.hazmat.primitives.serialization import PrivateFormat as Private
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

SECRET = bytes(range(100, 132))
KEYS = {
    "Ed25519": Ed25519PrivateKey.from_private_bytes(SECRET),
    "P-256": ec.derive_private_key(int.from_bytes(SECRET, "big"), ec.SECP256R1()),
    "P-384": ec.derive_private_key(int.from_bytes(SECRET, "big"), ec.SECP384R1()),
}


def encoded(key, encoding=Encoding.PEM, form=Private.PKCS8, encryption=None):
    return key.private_bytes(encoding, form, encryption or NoEncryption())


def encoded_public(key, encoding=Encoding.PEM, form=Public.SubjectPublicKeyInfo):
    return key.public_key().public_bytes(encoding, form)


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwk(kind, **members):
    """The private key as a JWK, by hand; members that are None are left out."""
    key = KEYS[kind]
    if kind == "Ed25519":
        found = {"kty": "OKP", "crv": kind, "x": base64url(encoded_public(key, Encoding.Raw, Public.Raw))}
        found["d"] = base64url(encoded(key, Encoding.Raw, Private.Raw))
    else:
        size, numbers = key.curve.key_size // 8, key.private_numbers()
        point = {"x": numbers.public_numbers.x, "y": numbers.public_numbers.y, "d": numbers.private_value}
        found = {"kty": "EC", "crv": kind} | {name: base64url(n.to_bytes(size, "big")) for name, n in point.items()}
    return {name: member for name, member in (found | members).items() if member is not None}


def one_line(pem):
    """As a secret store keeps a file: the ends of lines spelled out."""
    return pem.strip().replace(b"\n", b"\\n")


def private_forms(kind):
    key = KEYS[kind]
    pem, der = encoded(key), encoded(key, Encoding.DER)
    forms = {
        "PEM": pem,
        "PEM, CRLF": pem.replace(b"\n", b"\r\n"),
        "PEM, text around it": b"Bag Attributes\n    friendlyName: me\n" + pem + b"\n",
        "one line": one_line(pem),
        "one line of CRLF": pem.strip().replace(b"\n", b"\\r\\n"),
        "one line in quotes": b'"' + one_line(pem) + b'"\n',
        "ends of lines lost": pem.replace(b"\n", b" "),
        "ends of lines cut out": pem.replace(b"\n", b""),
        "DER": der,
        "DER in base64": base64.b64encode(der) + b"\n",
        "PEM in base64": base64.encodebytes(pem),
        "OpenSSH": encoded(key, form=Private.OpenSSH),
        "OpenSSH in one line": one_line(encoded(key, form=Private.OpenSSH)),
        "JWK": json.dumps(jwk(kind)).encode(),
        "JWK, for signatures": json.dumps(jwk(kind, use="sig", kid="me", key_ops=["sign"])).encode(),
        "JWK Set of one": json.dumps({"keys": [jwk(kind)]}, indent=1).encode(),
    }
    if kind != "Ed25519":
        sec1 = encoded(key, form=Private.TraditionalOpenSSL)
        parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        forms |= {"SEC 1": sec1, "SEC 1 after parameters": parameters + sec1}
        forms["SEC 1 in DER"] = encoded(key, Encoding.DER, Private.TraditionalOpenSSL)
    return forms


def public_forms(kind):
    pem, der = encoded_public(KEYS[kind]), encoded_public(KEYS[kind], Encoding.DER)
    line = encoded_public(KEYS[kind], Encoding.OpenSSH, Public.OpenSSH)
    return {
        "PEM": pem,
        "one line": one_line(pem),
        "DER": der,
        "DER in base64": base64.b64encode(der),
        "OpenSSH": line + b" me@here, of the team\n",
        "OpenSSH without a comment": line,
        "JWK": json.dumps(jwk(kind, d=None)).encode(),
        "JWK, to verify": json.dumps(jwk(kind, d=None, use="sig", key_ops=["verify"])).encode(),
    }
