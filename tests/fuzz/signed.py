"""The signed parts of a release: the manifest, its envelope, and the statement in it."""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import importlib.util
import io
import json
import random
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ben_secure.errors import ManifestMismatchError, SignatureError
from ben_secure.signing._record_list import RecordList, write_record_list
from ben_secure.signing.envelope import PAYLOAD_TYPE, VerifiedStatement, pae, sign_statement, verify_envelope
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import SigningKey
from ben_secure.signing.manifest import Manifest
from ben_secure.signing.statement import Predecessor, Statement, Subject
from fuzz.target import Refusal, Target, mutate_bytes, mutate_json, refusal, with_number

_STATEMENT = Statement(
    name="BigEarthNet-S2",
    version="1.0",
    license="CDLA-Permissive-1.0",
    count=3,
    manifest_sha256="0" * 64,
    created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    tool_version="0.1.0",
)


@functools.cache
def _signers() -> tuple[SigningKey, ...]:
    curves = (ec.SECP256R1(), ec.SECP384R1())
    return (
        SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))),
        *(SigningKey(ec.derive_private_key(12345 + place, curve)) for place, curve in enumerate(curves)),
    )


# Manifests.


def _manifest_seeds() -> list[bytes]:
    seeds = []
    digests = [hashlib.sha256(bytes([n])).digest() for n in range(8)]
    names = [b"a", b"ab", b"b", b"\xff", b"\xff" * 511, b"S2A_MSIL2A_20170613T101031_0_45", b"zz"]
    for algorithm in Algorithm:
        for count in (0, 1, 3, len(names)):
            file = io.BytesIO()
            records = [(name, digests[place % 5]) for place, name in enumerate(sorted(names)[:count])]
            write_record_list(records, file, algorithm)
            seeds.append(file.getvalue())
    return seeds


def _mutate_manifest(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    kind = rng.randrange(6)
    if kind < 2 or len(data) < 40:
        return mutate_bytes(rng, data, others)
    if kind == 2:
        return with_number(rng, data, rng.choice((8, 12, 16, 24)), rng.choice(("<I", "<Q")))
    count = int.from_bytes(data[16:24], "little") % 100
    if kind < 5:  # an offset
        return with_number(rng, data, 32 + 8 * rng.randrange(count + 1), "<Q")
    keys_at = 40 + 8 * count
    end = keys_at + int.from_bytes(data[24:32], "little") % 10_000
    at = rng.randrange(keys_at, max(end, keys_at + 1))
    return data[:at] + rng.choice((b"\0", b"\xff", b"a", data[at : at + 8])) + data[at + 1 :]


def _examine_manifest(data: bytes, _: bytes) -> Refusal:
    """A list that is read is the one that is written of its records, and finds each of them."""
    statement = dataclasses.replace(_STATEMENT, manifest_sha256=hashlib.sha256(data).hexdigest())

    def accepted(found: RecordList) -> None:
        records = list(found)
        file = io.BytesIO()
        write_record_list(records, file, found.algorithm)
        assert file.getvalue() == data
        assert len(found) == len(records)
        assert all(found.digest_of(name) == digest for name, digest in records)
        assert all(dict(records)[found.key_of(digest)] == digest for _, digest in records)  # type: ignore[index]
        assert list(found.keys_between(b"", None)) == [name for name, _ in records]
        assert found.digest_of(b"no such") is None
        if found.algorithm is Algorithm.BLAKE3 and importlib.util.find_spec("blake3") is None:
            return
        signed = dataclasses.replace(statement, count=len(found), algorithm=found.algorithm)
        manifest = Manifest(data, VerifiedStatement(statement=signed, signed_by=()))
        assert list(manifest.diff(records)) == []

    verified = VerifiedStatement(statement=statement, signed_by=())
    refused = refusal(lambda: RecordList(data), accepted, ManifestMismatchError)
    refused_too = refusal(lambda: Manifest(data, verified))
    assert refused is None or refused_too is not None
    return refused


# Statements: signed bytes are parsed, so these are hostile only if a publisher is.


def _statement_seeds() -> list[bytes]:
    subjects = (
        Subject(name="a.lmdb", count=3, manifest_sha256="0" * 64),
        Subject(name="b", count=9, manifest_sha256="1" * 64),
    )
    forms: list[dict[str, Any]] = [
        {},
        {"license": None, "count": 0},
        {"name": "x" * 256, "version": "\U0001f30d \u00df", "algorithm": Algorithm.BLAKE3},
        {"subjects": subjects},
        {"predecessor": Predecessor(version="0.9", manifest_sha256="2" * 64), "subjects": subjects},
    ]
    return [dataclasses.replace(_STATEMENT, **form).encode() for form in forms]


def _examine_statement(payload: bytes, _: bytes) -> Refusal:
    """A statement that is read encodes to the very bytes, and JSON says the same in each of its members."""

    def accepted(found: Statement) -> None:
        assert found.encode() == payload
        document = json.loads(payload)
        digests = {one["name"]: one["digest"]["sha256"] for one in document["subject"]}
        assert found.manifest_sha256 in digests.values()
        assert len(digests) == len(document["subject"])
        assert 0 <= found.count <= found.max_count <= 2**53
        assert all(found.about(digest) is not None for digest in digests.values())
        assert found.name.isprintable()
        assert found.version.isprintable()

    return refusal(lambda: Statement.decode(payload), accepted, SignatureError)


# Envelopes.


@functools.cache
def _envelopes() -> tuple[bytes, ...]:
    first, *_ = _signers()
    statements = [Statement.decode(payload) for payload in _statement_seeds()]
    return (
        *(sign_statement(statement, [first]) for statement in statements),
        *(sign_statement(statements[0], [signer]) for signer in _signers()),
        sign_statement(statements[1], _signers()),
    )


@functools.cache
def _payloads() -> frozenset[bytes]:
    return frozenset(base64.b64decode(json.loads(envelope)["payload"]) for envelope in _envelopes())


def _mutate_envelope(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change the JSON around payload and signatures, or one of these inside its base64."""
    if rng.random() < 0.6:
        return mutate_json(rng, data, others)
    try:
        document = json.loads(data)
        holder = rng.choice([document, *document["signatures"]])
        name = "payload" if holder is document else "sig"
        raw = base64.b64decode(holder[name])
        changed = mutate_json(rng, raw, _statement_seeds()) if name == "payload" else mutate_bytes(rng, raw, others)
        holder[name] = base64.b64encode(changed).decode()
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return mutate_bytes(rng, data, others)


def _examine_envelope(data: bytes, _: bytes) -> Refusal:
    """An envelope that verifies holds a payload that was signed, by every key that it is said to be signed by."""

    def accepted(found: VerifiedStatement) -> None:
        payload = found.statement.encode()
        assert payload in _payloads(), "an envelope verifies that nobody has signed"
        document = json.loads(data)
        assert base64.b64decode(document["payload"]) == payload
        signatures = [base64.b64decode(one["sig"]) for one in document["signatures"]]
        for key in found.signed_by:
            assert any(_verifies(key, signature, pae(PAYLOAD_TYPE, payload)) for signature in signatures)

    keys = [signer.verify_key for signer in _signers()]
    refused = refusal(lambda: verify_envelope(data, keys), accepted, SignatureError)
    if refused is not None:
        assert refusal(lambda: verify_envelope(data, keys, 2), allowed=SignatureError) is not None
    return refused


def _verifies(key: Any, signature: bytes, message: bytes) -> bool:
    return refusal(lambda: key.verify(signature, message), allowed=SignatureError) is None


TARGETS = (
    Target("manifest", _manifest_seeds, _mutate_manifest, _examine_manifest),
    Target("statement", _statement_seeds, mutate_json, _examine_statement),
    Target("envelope", lambda: list(_envelopes()), _mutate_envelope, _examine_envelope),
)
