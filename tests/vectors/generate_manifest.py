"""Make ``manifest.json`` from fixed keys, as docs/format.md says and not as the package does: a second implementation.

Imports nothing of the package. Run it to write the file again; a test compares the output with the file.
"""

import base64
import hashlib
import json
import pathlib
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PATH = pathlib.Path(__file__).with_name("manifest.json")
SEEDS = [bytes(range(32)), bytes(range(100, 132))]
MAGIC = b"\x89BenMan\n"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
VALUES = {
    b"S2A_MSIL2A_20170613T101031_0_45": b"\x80\x04N.",
    b"S2A_MSIL2A_20170613T101031_87_48": bytes(range(256)) * 12,
    b"S2A_MSIL2A_20170613T101031_87_4": b"",
    "Höhe".encode(): b"a value",
    b"\0": b"a value",
    b"\xff" * 511: b".",
}


def private_key(place: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(SEEDS[place])


def fingerprint(place: int) -> str:
    public = private_key(place).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def records_of(values: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(lmdb_key, hashlib.sha256(values[lmdb_key]).digest()) for lmdb_key in sorted(values)]


def manifest_of(records, magic=MAGIC, version=1, digest_bytes=32, count=None, key_bytes=None, offsets=None) -> bytes:
    lmdb_keys = b"".join(lmdb_key for lmdb_key, _ in records)
    if offsets is None:
        offsets = [sum(len(lmdb_key) for lmdb_key, _ in records[:index]) for index in range(len(records) + 1)]
    header = magic + struct.pack("<II", version, digest_bytes)
    header += struct.pack("<Q", len(records) if count is None else count)
    header += struct.pack("<Q", len(lmdb_keys) if key_bytes is None else key_bytes)
    return header + struct.pack(f"<{len(offsets)}Q", *offsets) + lmdb_keys + b"".join(digest for _, digest in records)


def statement_of(manifest: bytes, count: int, name="BigEarthNet-S2", version="1.0", license="CDLA-Permissive-1.0"):
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": {
            "count": count,
            "created": "2026-01-02T03:04:05Z",
            "dataset": {"license": license, "name": name, "version": version},
            "tool": {"name": "ben-secure", "version": "0.1.0"},
        },
        "predicateType": "https://ben-secure.readthedocs.io/manifest/v1",
        "subject": [{"digest": {"sha256": hashlib.sha256(manifest).hexdigest()}, "name": name}],
    }


def spelled(document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def pae(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b" ".join([b"DSSEv1", str(len(kind)).encode(), kind, str(len(payload)).encode(), payload])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def signature_of(payload: bytes, place: int, payload_type=PAYLOAD_TYPE) -> dict:
    return {"keyid": fingerprint(place), "sig": b64(private_key(place).sign(pae(payload_type, payload)))}


def envelope_of(payload: bytes, *places: int, payload_type=PAYLOAD_TYPE) -> bytes:
    signatures = [signature_of(payload, place, payload_type) for place in places]
    return spelled({"payload": b64(payload), "payloadType": payload_type, "signatures": signatures}) + b"\n"


def valid_cases():
    for case, values, release, places in (
        ("six records, one key", VALUES, {}, [0]),
        ("no records", {}, {"version": "0"}, [0]),
        ("one record, two keys", {b"k": b"v"}, {}, [0, 1]),
        ("a name that is not ASCII, no licence", {b"k": b"v"}, {"name": "Grüße 🛰", "license": None}, [1]),
    ):
        records = records_of(values)
        manifest = manifest_of(records)
        statement = statement_of(manifest, len(records), **release)
        if statement["predicate"]["dataset"]["license"] is None:
            del statement["predicate"]["dataset"]["license"]
        yield {
            "case": case,
            "values": {lmdb_key.hex(): value.hex() for lmdb_key, value in values.items()},
            "manifest": manifest.hex(),
            "statement": statement,
            "signed_by": places,
            "envelope": envelope_of(spelled(statement), *places).decode(),
        }


def invalid_manifests():
    """Files that are no list of records, though their digest may be signed."""
    records = records_of(dict.fromkeys((b"k", b"k\x00", b"k1", b"k11"), b"v"))
    good = manifest_of(records)
    ends = [sum(len(lmdb_key) for lmdb_key, _ in records[:index]) for index in range(len(records) + 1)]
    long = [(b"k" * 512, bytes(32))]
    yield "empty", b""
    yield "header cut off", good[:31]
    yield "last byte cut off", good[:-1]
    yield "a byte more", good + b"\0"
    yield "unknown magic", manifest_of(records, magic=b"\x89BenMan\r")
    yield "unknown version", manifest_of(records, version=2)
    yield "version 0", manifest_of(records, version=0)
    yield "digests of 64 bytes", manifest_of(records, digest_bytes=64)
    yield "one record more than there are", manifest_of(records, count=len(records) + 1)
    yield "2**64 - 1 records", manifest_of(records, count=2**64 - 1)
    yield "sizes that go together modulo 2**64", manifest_of([], count=2**61, key_bytes=0)
    yield "more bytes of keys than there are", manifest_of(records, key_bytes=ends[-1] + 1)
    yield "first offset not 0", manifest_of(records, offsets=[1, *ends[1:]])
    whole = records_of(dict.fromkeys((b"kk", b"kl"), b"v"))
    yield "first offset not 0, no key empty", manifest_of(whole, offsets=[1, 2, 4])
    yield "last offset not the end of the keys", manifest_of(records, offsets=[*ends[:-1], ends[-1] - 1])
    yield "an offset that descends", manifest_of(records, offsets=[*ends[:2], ends[3], ends[2], *ends[4:]])
    yield "an offset beyond the keys", manifest_of(records, offsets=[*ends[:-2], 2**64 - 1, ends[-1]])
    yield "an empty key", manifest_of([(b"", bytes(32)), *records])
    yield "a key of 512 bytes", manifest_of(long)
    yield "two keys swapped", manifest_of([records[1], records[0], *records[2:]])
    yield "a key twice", manifest_of([*records[:2], records[1], *records[2:]])


def invalid_payloads():
    """Other content that a publisher may sign with the same key, and that is not a statement about a manifest."""
    good = statement_of(manifest_of(records_of(VALUES)), len(VALUES))
    text = spelled(good)
    predicate, dataset = good["predicate"], good["predicate"]["dataset"]
    yield "empty", b""
    yield "not UTF-8", b"\xff"
    yield "not an object", b"[]"
    yield "another _type", spelled(good | {"_type": "https://in-toto.io/Statement/v0.1"})
    yield "another predicateType", spelled(good | {"predicateType": "https://model_signing/signature/v1.0"})
    yield "predicate of another version", spelled(good | {"predicateType": good["predicateType"][:-1] + "2"})
    yield "no predicateType", spelled({field: good[field] for field in good if field != "predicateType"})
    yield "an unknown field", spelled(good | {"extra": 1})
    yield "an unknown field in the predicate", spelled(good | {"predicate": predicate | {"extra": 1}})
    yield "no subject", spelled(good | {"subject": []})
    yield "two subjects", spelled(good | {"subject": good["subject"] * 2})
    yield "subject of another name", spelled(good | {"subject": [good["subject"][0] | {"name": "other"}]})
    yield (
        "another digest beside",
        spelled(
            good | {"subject": [good["subject"][0] | {"digest": good["subject"][0]["digest"] | {"sha1": "00" * 20}}]}
        ),
    )
    yield (
        "digest in capitals",
        text.replace(
            good["subject"][0]["digest"]["sha256"].encode(), good["subject"][0]["digest"]["sha256"].upper().encode()
        ),
    )
    for case, count in (("a float", 6.0), ("a bool", True), ("text", "6"), ("negative", -1), ("huge", 2**53 + 1)):
        yield f"count is {case}", spelled(good | {"predicate": predicate | {"count": count}})
    yield "count is NaN", spelled(good | {"predicate": predicate | {"count": float("nan")}})
    for case, created in (
        ("no zone", "2026-01-02T03:04:05"),
        ("another zone", "2026-01-02T03:04:05+01:00"),
        ("fractions", "2026-01-02T03:04:05.5Z"),
        ("digits missing", "2026-1-2T03:04:05Z"),
        ("no such day", "2026-02-30T03:04:05Z"),
        ("a number", 0),
    ):
        yield f"created: {case}", spelled(good | {"predicate": predicate | {"created": created}})
    for case, name in (
        ("empty", ""),
        ("long", "n" * 257),
        ("a line break", "a\nb"),
        ("an escape", "\x1b[31m"),
        ("null", None),
    ):
        changed = good | {"predicate": predicate | {"dataset": dataset | {"name": name}}}
        yield f"name: {case}", spelled(changed | {"subject": [good["subject"][0] | {"name": name}]})
    yield "name: half a surrogate pair", text.replace(b'"BigEarthNet-S2"', b'"\\ud800"')
    yield "licence: null", spelled(good | {"predicate": predicate | {"dataset": dataset | {"license": None}}})
    yield "a key twice", text.replace(b'"count":6', b'"count":5,"count":6')
    yield "a space", text.replace(b",", b", ", 1)
    yield "a line feed", text + b"\n"
    yield "keys in another order", json.dumps(dict(reversed(good.items())), separators=(",", ":")).encode()
    yield "a byte order mark", b"\xef\xbb\xbf" + text
    yield "an escape that is not needed", text.replace(b"ben-secure", b"\\u0062en-secure", 1)


def invalid_envelopes():
    """Envelopes of a good statement that the first key does not vouch for, or that are spelled in another way."""
    payload = spelled(statement_of(manifest_of(records_of(VALUES)), len(VALUES)))
    good = envelope_of(payload, 0)
    document = json.loads(good)
    signature = document["signatures"][0]
    sig = base64.b64decode(signature["sig"])
    order = 2**252 + 27742317777372353535851937790883648493

    def with_signature(**fields):
        return spelled(document | {"signatures": [signature | fields]}) + b"\n"

    yield "empty", b""
    yield "not JSON", b"{"
    yield "not UTF-8", good.replace(b"ben", b"b\xe9n") + b"\xff"
    yield "not an object", b"[]\n"
    yield "null", b"null\n"
    yield "line feed cut off", good[:-1]
    yield "a space more", good + b" "
    yield "spaces inside", json.dumps(document).encode() + b"\n"
    yield "an unknown field", spelled(document | {"extra": 1}) + b"\n"
    yield "an unknown field of a signature", with_signature(extra=1)
    yield "a field twice", good.replace(b'{"payload":', b'{"payload":"","payload":', 1)
    yield "no payload", spelled({field: document[field] for field in ("payloadType", "signatures")}) + b"\n"
    yield "payload is a number", spelled(document | {"payload": 1}) + b"\n"
    yield "signature without padding", with_signature(sig=b64(sig).rstrip("="))
    yield (
        "signature in URL-safe base64",
        spelled(document | {"signatures": [signature | {"sig": base64.urlsafe_b64encode(sig).decode()}]}) + b"\n",
    )
    yield "signatures is an object", spelled(document | {"signatures": signature}) + b"\n"
    yield "signatures is null", spelled(document | {"signatures": None}) + b"\n"
    yield "no signature", spelled(document | {"signatures": []}) + b"\n"
    yield "keyid is null", with_signature(keyid=None)
    yield "keyid is a number", with_signature(keyid=1)
    yield "signature is null", with_signature(sig=None)
    yield "signature is empty", with_signature(sig="")
    yield "signature cut off", with_signature(sig=b64(sig[:-1]))
    yield "signature with a byte more", with_signature(sig=b64(sig + b"\0"))
    yield "signature of zeros", with_signature(sig=b64(bytes(64)))
    larger = int.from_bytes(sig[32:], "little") + order
    yield "signature with S + L (RFC 8032, 5.1.7)", with_signature(sig=b64(sig[:32] + larger.to_bytes(32, "little")))
    yield "signed by another key", envelope_of(payload, 1)
    yield "signed by another key under this key id", with_signature(sig=signature_of(payload, 1)["sig"])
    yield "signature of the bare payload", with_signature(sig=b64(private_key(0).sign(payload)))
    yield "signature of another payload type", with_signature(sig=signature_of(payload, 0, "application/json")["sig"])
    yield "another payload type, signed", envelope_of(payload, 0, payload_type="application/json")
    yield "payload type in capitals, signed", envelope_of(payload, 0, payload_type=PAYLOAD_TYPE.upper())
    yield "payload of another release", spelled(document | {"payload": b64(payload.replace(b"1.0", b"1.1"))}) + b"\n"


def document() -> str:
    """The file."""
    vectors = {
        "source": "generate_manifest.py; keys are Ed25519 seeds; LMDB keys, values and manifests are hexadecimal",
        "keys": [{"seed": seed.hex(), "fingerprint": fingerprint(place)} for place, seed in enumerate(SEEDS)],
        "valid": list(valid_cases()),
        "invalid_manifests": [{"case": case, "manifest": data.hex()} for case, data in invalid_manifests()],
        "invalid_payloads": [
            {"case": case, "envelope": envelope_of(payload, 0).decode()} for case, payload in invalid_payloads()
        ],
        "invalid_envelopes": [{"case": case, "envelope": data.hex()} for case, data in invalid_envelopes()],
    }
    return json.dumps(vectors, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
