"""Make ``tags.json`` from fixed keys, as docs/format.md says and not as the package does: a second implementation.

Imports nothing of the package. Run it to write the file again; a test compares the output with the file.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import struct

PATH = pathlib.Path(__file__).with_name("tags.json")
SECRETS = [bytes(range(32)), bytes(range(100, 148))]
MAGIC = b"\x89BenTag\n"
CASES = [
    ("an empty value, the default context", 0, "", b"k", b""),
    ("one byte, the longest LMDB key", 0, "BigEarthNet-S2 v1.0", b"\xff" * 511, b"."),
    ("a context that is not ASCII", 0, "Grüße 🛰", b"S2A_MSIL2A_20170613T101031_87_48", b"\x80\x04N."),
    ("the longest context", 0, "c" * 255, b"S2A_MSIL2A_20170613T101031_87_48", bytes(range(256)) * 12),
    ("another key, of 48 bytes", 1, "BigEarthNet-S2 v1.0", "Höhe".encode(), bytes(range(256)) * 12),
    ("boundaries between the parts, 1", 0, "ab", b"cd", b"ef"),
    ("boundaries between the parts, 2", 0, "a", b"bcd", b"ef"),
    ("boundaries between the parts, 3", 0, "ab", b"cde", b"f"),
]


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869, section 2)."""
    extracted = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    output = block = b""
    counter = 0
    while len(output) < length:
        counter += 1
        block = hmac.new(extracted, block + info + bytes([counter]), hashlib.sha256).digest()
        output += block
    return output[:length]


def key_id_of(secret: bytes) -> bytes:
    return hkdf(secret, b"", b"ben-secure/v1 key id", 8)


def tag_of(secret: bytes, context: bytes, lmdb_key: bytes, payload: bytes) -> bytes:
    message = b"ben-secure/value/v1" + b"\x00" + b"\x01" + key_id_of(secret)
    message += struct.pack("<I", len(context)) + context
    message += struct.pack("<I", len(lmdb_key)) + lmdb_key
    message += struct.pack("<Q", len(payload)) + payload
    return hmac.new(hkdf(secret, b"", b"ben-secure/v1 value tag", 32), message, hashlib.sha256).digest()


def footer_of(tag: bytes, key_id: bytes, length: int, suite=1, version=1, reserved=bytes(6), magic=MAGIC) -> bytes:
    return tag + key_id + struct.pack("<Q", length) + bytes([suite, version]) + reserved + magic


def jwk_set(signing: int, *others: int) -> dict:
    keys = [
        {
            "kty": "oct",
            "alg": "HS256",
            "kid": key_id_of(SECRETS[place]).hex(),
            "key_ops": ["sign", "verify"] if place == signing else ["verify"],
            "k": base64.urlsafe_b64encode(SECRETS[place]).decode().rstrip("="),
        }
        for place in (signing, *others)
    ]
    return {"keys": keys}


def valid_cases():
    for name, place, context, lmdb_key, payload in CASES:
        secret = SECRETS[place]
        tag = tag_of(secret, context.encode(), lmdb_key, payload)
        yield {
            "case": name,
            "secret": secret.hex(),
            "key_id": key_id_of(secret).hex(),
            "context": context,
            "lmdb_key": lmdb_key.hex(),
            "payload": payload.hex(),
            "footer": footer_of(tag, key_id_of(secret), len(payload)).hex(),
        }


def invalid_cases():
    """Values refused under the first key, the context ``BigEarthNet-S2 v1.0`` and the LMDB key ``name``."""
    secret, context, lmdb_key, payload = SECRETS[0], b"BigEarthNet-S2 v1.0", b"name", b"\x80\x04N."
    tag, key_id, other_id = tag_of(secret, context, lmdb_key, payload), key_id_of(secret), key_id_of(SECRETS[1])
    stranger = tag_of(SECRETS[1], context, lmdb_key, payload)
    good = payload + footer_of(tag, key_id, 4)
    yield "empty", b"", "tag-missing"
    yield "no tag", payload, "tag-missing"
    yield "shorter than a footer", good[-63:], "tag-missing"
    yield "unknown magic", payload + footer_of(tag, key_id, 4, magic=b"\x89BenTag\r"), "tag-missing"
    yield "a byte behind the footer", good + b"\0", "tag-missing"
    yield "unknown suite", payload + footer_of(tag, key_id, 4, suite=2), "tag-invalid"
    yield "suite 0", payload + footer_of(tag, key_id, 4, suite=0), "tag-invalid"
    yield "unknown version", payload + footer_of(tag, key_id, 4, version=2), "tag-invalid"
    yield "version 0", payload + footer_of(tag, key_id, 4, version=0), "tag-invalid"
    yield "reserved not zero", payload + footer_of(tag, key_id, 4, reserved=b"\0\0\0\0\0\1"), "tag-invalid"
    yield "length too small", payload + footer_of(tag, key_id, 3), "tag-invalid"
    yield "length too large", payload + footer_of(tag, key_id, 5), "tag-invalid"
    yield "length beyond 63 bits", payload + footer_of(tag, key_id, 2**64 - 1), "tag-invalid"
    yield "key that is not known", payload + footer_of(stranger, other_id, 4), "tag-foreign"
    yield "tag of another key under this key id", payload + footer_of(stranger, key_id, 4), "tag-invalid"
    yield "tag of zeros", payload + footer_of(bytes(32), key_id, 4), "tag-invalid"
    yield "value changed", b"\x80\x05N." + footer_of(tag, key_id, 4), "tag-invalid"
    yield "value shortened", b"\x80\x04." + footer_of(tag, key_id, 3), "tag-invalid"
    yield "value taken away", footer_of(tag, key_id, 0), "tag-invalid"
    yield "footer twice", good + footer_of(tag, key_id, 68), "tag-invalid"
    for name, changed in (
        ("tag of another LMDB key", tag_of(secret, context, b"nam", payload)),
        ("tag of another context", tag_of(secret, b"BigEarthNet-S2 v1.1", lmdb_key, payload)),
        ("tag of no context", tag_of(secret, b"", lmdb_key, payload)),
        ("plain HMAC of the value", hmac.new(secret, payload, hashlib.sha256).digest()),
    ):
        yield name, payload + footer_of(changed, key_id, 4), "tag-invalid"


def document() -> str:
    """The file."""
    vectors = {
        "source": "generate_tags.py; all but names, context and rules is hexadecimal",
        "magic": MAGIC.hex(),
        "jwk_sets": [jwk_set(0), jwk_set(1, 0)],
        "valid": list(valid_cases()),
        "invalid": {
            "secret": SECRETS[0].hex(),
            "context": "BigEarthNet-S2 v1.0",
            "lmdb_key": b"name".hex(),
            "cases": [{"case": name, "value": value.hex(), "rule": rule} for name, value, rule in invalid_cases()],
        },
    }
    return json.dumps(vectors, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
