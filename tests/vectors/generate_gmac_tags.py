"""Make ``gmac_tags.json`` from fixed keys, as docs/format.md says and not as the package does: a second implementation.

Imports nothing of the package. GHASH is computed here, over integers; AES alone is that of cryptography. Run it to
write the file again; a test compares the output with the file.
"""

import base64
import hashlib
import hmac
import json
import pathlib
import runpy
import struct

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

PATH = pathlib.Path(__file__).with_name("gmac_tags.json")
FIRST = runpy.run_path(str(PATH.with_name("generate_tags.py")))  # suite 1
SECRETS, MAGIC, hkdf = FIRST["SECRETS"], FIRST["MAGIC"], FIRST["hkdf"]
ALG = "https://ben-secure.readthedocs.io/value-tag/a256gmac/v1"
N = bytes(range(16, 32))
CASES = [
    ("an empty value, the default context", 0, "", b"k", b"", N),
    (
        "N of ones, no whole number of blocks",
        0,
        "BigEarthNet-S2 v1.0",
        b"S2A_MSIL2A_20170613T101031_0_45",
        bytes(range(37)),
        b"\xff" * 16,
    ),
    ("one byte, the longest LMDB key", 0, "BigEarthNet-S2 v1.0", b"\xff" * 511, b".", N),
    ("15 bytes", 0, "c", b"k", bytes(range(15)), N),
    ("16 bytes", 0, "c", b"k", bytes(range(16)), N),
    ("17 bytes", 0, "c", b"k", bytes(range(17)), N),
    ("a context that is not ASCII", 0, "Grüße 🛰", b"S2A_MSIL2A_20170613T101031_87_48", b"\x80\x04N.", N),
    ("the longest context", 0, "c" * 255, b"S2A_MSIL2A_20170613T101031_87_48", bytes(range(256)) * 12, N),
    ("another key, of 48 bytes", 1, "BigEarthNet-S2 v1.0", "Höhe".encode(), bytes(range(256)) * 12, bytes(16)),
    ("boundaries between the parts, 1", 0, "ab", b"cd", b"ef", N),
    ("boundaries between the parts, 2", 0, "a", b"bcd", b"ef", N),
    ("boundaries between the parts, 3", 0, "ab", b"cde", b"f", N),
]


def times(x: int, y: int) -> int:
    """The product of two blocks (SP 800-38D, algorithm 1)."""
    product = 0
    for bit in range(127, -1, -1):
        product ^= y * (x >> bit & 1)
        y = y >> 1 ^ (0xE1 << 120) * (y & 1)
    return product


def gmac(key: bytes, nonce: bytes, data: bytes) -> bytes:
    """AES-256-GMAC (SP 800-38D, section 7.1, with an empty plaintext) for a nonce of 12 bytes."""
    aes = Cipher(AES(key), ECB()).encryptor()
    h = int.from_bytes(aes.update(bytes(16)), "big")
    found = 0
    for start in range(0, len(data), 16):
        found = times(found ^ int.from_bytes(data[start : start + 16].ljust(16, b"\0"), "big"), h)
    found = times(found ^ len(data) * 8 << 64, h)
    return (found ^ int.from_bytes(aes.update(nonce + b"\0\0\0\1"), "big")).to_bytes(16, "big")


def tag_key_of(secret: bytes) -> bytes:
    return hkdf(secret, b"", b"ben-secure/v1 value tag A256GMAC", 32)


def key_id_of(secret: bytes) -> bytes:
    return hkdf(secret, b"", b"ben-secure/v1 key id A256GMAC", 8)


def value_key_of(tag_key: bytes, key_id: bytes, context: bytes, lmdb_key: bytes, length: int, n: bytes) -> bytes:
    info = b"ben-secure/value/v1" + b"\x00" + b"\x02" + key_id
    info += struct.pack("<I", len(context)) + context
    info += struct.pack("<I", len(lmdb_key)) + lmdb_key
    info += struct.pack("<Q", length) + n
    return hmac.new(tag_key, info + b"\x01", hashlib.sha256).digest()


def tag_of(secret: bytes, context: bytes, lmdb_key: bytes, payload: bytes, n: bytes) -> bytes:
    value_key = value_key_of(tag_key_of(secret), key_id_of(secret), context, lmdb_key, len(payload), n)
    return n + gmac(value_key, bytes(12), payload)


def footer_of(tag: bytes, key_id: bytes, length: int, suite=2, **fields) -> bytes:
    return FIRST["footer_of"](tag, key_id, length, suite, **fields)


def jwk(secret: bytes, signs: bool) -> dict:
    return {
        "kty": "oct",
        "alg": ALG,
        "kid": key_id_of(secret).hex(),
        "key_ops": ["sign", "verify"] if signs else ["verify"],
        "k": base64.urlsafe_b64encode(secret).decode().rstrip("="),
    }


def jwk_sets() -> list[dict]:
    """One key; a set that changes from the first suite to the second."""
    old = FIRST["jwk_set"](1, 0)["keys"][1]
    return [{"keys": [jwk(SECRETS[0], True)]}, {"keys": [jwk(SECRETS[1], True), old]}]


def valid_cases():
    for name, place, context, lmdb_key, payload, n in CASES:
        secret = SECRETS[place]
        key_id = key_id_of(secret)
        value_key = value_key_of(tag_key_of(secret), key_id, context.encode(), lmdb_key, len(payload), n)
        yield {
            "case": name,
            "secret": secret.hex(),
            "key_id": key_id.hex(),
            "context": context,
            "lmdb_key": lmdb_key.hex(),
            "payload": payload.hex(),
            "n": n.hex(),
            "tag_key": tag_key_of(secret).hex(),
            "value_key": value_key.hex(),
            "footer": footer_of(tag_of(secret, context.encode(), lmdb_key, payload, n), key_id, len(payload)).hex(),
        }


def invalid_cases():
    """Values refused under the first key, the context ``BigEarthNet-S2 v1.0`` and the LMDB key ``name``."""
    secret, context, lmdb_key, payload = SECRETS[0], b"BigEarthNet-S2 v1.0", b"name", bytes(range(40))
    parts = secret, context, lmdb_key, payload
    tag, key_id, other_id = tag_of(*parts, N), key_id_of(secret), key_id_of(SECRETS[1])
    stranger = tag_of(SECRETS[1], context, lmdb_key, payload, N)
    again, mac = tag_of(*parts, N[::-1]), tag[16:]
    hmac_tag, hmac_id = FIRST["tag_of"](*parts), FIRST["key_id_of"](secret)
    good = payload + footer_of(tag, key_id, 40)
    yield "no tag", payload, "tag-missing"
    yield "a byte behind the footer", good + b"\0", "tag-missing"
    yield "suite 0", payload + footer_of(tag, key_id, 40, suite=0), "tag-invalid"
    yield "suite 1 in the footer alone", payload + footer_of(tag, key_id, 40, suite=1), "tag-invalid"
    yield "suite 3", payload + footer_of(tag, key_id, 40, suite=3), "tag-invalid"
    yield "suite 255", payload + footer_of(tag, key_id, 40, suite=255), "tag-invalid"
    yield "unknown version", payload + footer_of(tag, key_id, 40, version=2), "tag-invalid"
    yield "reserved not zero", payload + footer_of(tag, key_id, 40, reserved=b"\0\0\0\0\0\1"), "tag-invalid"
    yield "length too small", payload + footer_of(tag, key_id, 39), "tag-invalid"
    yield "length too large", payload + footer_of(tag, key_id, 41), "tag-invalid"
    yield "key that is not known", payload + footer_of(stranger, other_id, 40), "tag-foreign"
    yield "tag of another key under this key id", payload + footer_of(stranger, key_id, 40), "tag-invalid"
    yield "N and T swapped", payload + footer_of(mac + N, key_id, 40), "tag-invalid"
    yield "N of another tagging", payload + footer_of(again[:16] + mac, key_id, 40), "tag-invalid"
    yield "T of another tagging", payload + footer_of(N + again[16:], key_id, 40), "tag-invalid"
    yield "T of zeros", payload + footer_of(N + bytes(16), key_id, 40), "tag-invalid"
    yield "N and T of zeros", payload + footer_of(bytes(32), key_id, 40), "tag-invalid"
    yield "HMAC of suite 1 as suite 1", payload + footer_of(hmac_tag, key_id, 40, suite=1), "tag-invalid"
    yield "HMAC of suite 1 as suite 2", payload + footer_of(hmac_tag, key_id, 40), "tag-invalid"
    yield "a value of suite 1, same secret", payload + footer_of(hmac_tag, hmac_id, 40, suite=1), "tag-foreign"
    yield "value changed", b"\1" + good[1:], "tag-invalid"
    yield "value cut to whole blocks", payload[:32] + footer_of(tag, key_id, 32), "tag-invalid"
    yield "value cut by a byte", payload[:39] + footer_of(tag, key_id, 39), "tag-invalid"
    yield "zeros to the end of the block", payload + bytes(8) + footer_of(tag, key_id, 48), "tag-invalid"
    yield "a block of zeros more", payload + bytes(16) + footer_of(tag, key_id, 56), "tag-invalid"
    yield "value taken away", footer_of(tag, key_id, 0), "tag-invalid"
    yield "footer twice", good + footer_of(tag, key_id, 104), "tag-invalid"
    tag_key = hkdf(secret, b"", b"ben-secure/v1 value tag", 32)  # suite 1's
    for name, value_key in (
        ("key of suite 1", value_key_of(tag_key, key_id, context, lmdb_key, 40, N)),
        ("key id of suite 1", value_key_of(tag_key_of(secret), hmac_id, context, lmdb_key, 40, N)),
        ("the value-tag key itself", tag_key_of(secret)),
        ("another length", value_key_of(tag_key_of(secret), key_id, context, lmdb_key, 41, N)),
    ):
        yield f"T under {name}", payload + footer_of(N + gmac(value_key, bytes(12), payload), key_id, 40), "tag-invalid"
    for name, changed in (
        ("tag of another LMDB key", tag_of(secret, context, b"nam", payload, N)),
        ("tag of another context", tag_of(secret, b"BigEarthNet-S2 v1.1", lmdb_key, payload, N)),
        ("a byte moved from the LMDB key to the context", tag_of(secret, context + b"n", b"ame", payload, N)),
        ("tag of no context", tag_of(secret, b"", lmdb_key, payload, N)),
    ):
        yield name, payload + footer_of(changed, key_id, 40), "tag-invalid"


def document() -> str:
    """The file."""
    vectors = {
        "source": "generate_gmac_tags.py; all but names, context and rules is hexadecimal",
        "jwk_sets": jwk_sets(),
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
