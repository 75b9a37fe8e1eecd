"""Key files: a publisher's public and private keys, and MAC keys."""

from __future__ import annotations

import atexit
import base64
import functools
import json
import os
import pathlib
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding
from cryptography.hazmat.primitives.serialization import PrivateFormat as Private

from ben_secure.errors import KeyFileError
from ben_secure.signing.footer import Suite
from ben_secure.signing.keys import (
    MacKey,
    MacKeySet,
    SigningKey,
    VerifyKey,
    read_mac_keys,
    read_signing_key,
    read_verify_key,
    write_mac_keys,
    write_signing_key,
    write_verify_key,
)
from fuzz.target import Refusal, Target, mutate_bytes, mutate_json, odd_number, refusal
from support.key_files import KEYS, encoded, private_forms, public_forms

_PASSPHRASE = b"geheim"


@functools.cache
def _folder() -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _file(name: str, content: bytes) -> pathlib.Path:
    path = _folder() / name
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    return path


# Mutations of the encodings around a key, and of the DER inside.


def elements(data: bytes) -> list[tuple[int, int, int]]:
    """Every element of some DER: where it begins, where its content begins, and where that ends."""
    found, pending = [], [(0, len(data))]
    while pending and len(found) < 500:
        at, end = pending.pop()
        while at + 2 <= end:
            length, content = data[at + 1], at + 2
            if length & 0x80:
                content += length & 0x7F
                length = int.from_bytes(data[at + 2 : content], "big")
            if content + length > end:
                break
            found.append((at, content, content + length))
            if data[at] & 0x20 or data[at] in (3, 4):  # constructed, or bits and octets that may hold more
                pending.append((content + (data[at] == 3), content + length))
            at = content + length
    return found


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    raw = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(raw)]) + raw


def mutate_der(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change one element: its tag, length or content, mostly with the lengths around it made right."""
    found = elements(data)
    if not found or rng.random() < 0.2:
        return mutate_bytes(rng, data, others)
    start, content, end = rng.choice(found)
    inside = data[content:end]
    kind = rng.randrange(6)
    if kind == 0:
        return data[:start] + bytes([rng.choice((2, 3, 4, 5, 6, 0x30, 0x31, 0xA0, 0xA1, 0x1F))]) + data[start + 1 :]
    if kind == 1:
        size = _length(odd_number(rng, rng.choice((7, 16, 32, 64)), len(inside)))
        return data[: start + 1] + size + data[content:]
    if kind == 2:
        inside = rng.choice((b"", inside + b"\0", b"\0" + inside, inside[:-1], inside[1:], inside * 2))
    elif kind == 3:
        inside = odd_number(rng, 8 * len(inside) or 8, 1).to_bytes(len(inside) or 1, "big")
    elif kind == 4:
        other = rng.choice(found)
        inside = data[other[0] : other[2]] if rng.random() < 0.5 else data[other[1] : other[2]]
    else:
        inside = mutate_bytes(rng, inside, others)
    new = data[start : start + 1] + _length(len(inside)) + inside
    # The elements around it, from the inside out.
    around = sorted((one for one in found if one[1] <= start and end <= one[2] and one[0] < start), reverse=True)
    for outer, begins, stops in around:
        body = data[begins:start] + new + data[end:stops]
        new, start, end = data[outer : outer + 1] + _length(len(body)) + body, outer, stops
    return data[:start] + new + data[end:]


def _mutate(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    if rng.random() < 0.15:
        return mutate_bytes(rng, content, others)
    if content[:1] == b"{":
        return mutate_json(rng, content, [other for other in others if other[:1] == b"{"])
    if content[:1] == b"0":
        return mutate_der(rng, content, others)
    if content.startswith((b"ssh-", b"ecdsa-")):
        words = content.split(b" ")
        return b" ".join([*words[:1], _inside(rng, words[1] if len(words) > 1 else b"", others), *words[2:]])
    parts = content.split(b"-----")
    if len(parts) == 5:
        parts[2] = b"\n" + _inside(rng, parts[2], others) + b"\n"
        if rng.random() < 0.1:
            parts[rng.choice((1, 3))] = rng.choice((b"BEGIN PUBLIC KEY", b"END PRIVATE KEY", b"BEGIN EC PRIVATE KEY"))
        return b"-----".join(parts)
    return _inside(rng, content, others)


def _inside(rng: random.Random, text: bytes, others: Sequence[bytes]) -> bytes:
    """Change the decoded bytes of a base64 form; numbers of OpenSSH's form are changed as bytes."""
    try:
        decoded = base64.b64decode(b"".join(text.replace(b"\\n", b"").replace(b"\\r", b"").split()))
    except ValueError:
        return mutate_bytes(rng, text, others)
    change = mutate_der if decoded[:1] == b"0" else mutate_bytes
    return base64.b64encode(change(rng, decoded, others))


# Oracles.


def _silent(encoded_in_file: list[bytes], refused: Refusal) -> None:
    """No piece of what the file holds in base64 is in the message."""
    for run in encoded_in_file if refused is not None else ():
        for start in range(0, len(run) - 12, 6):
            assert run[start : start + 12].decode() not in str(refused), "the message shows the key"


def _examine_public(content: bytes, _: bytes) -> Refusal:
    path = _file("public", content)

    def accepted(key: VerifyKey) -> None:
        written = _folder() / "again"
        write_verify_key(written, key, overwrite=True)
        assert read_verify_key(written) == key

    return refusal(lambda: read_verify_key(path), accepted, KeyFileError)


def _examine_private(content: bytes, _: bytes) -> Refusal:
    path = _file("private", content)

    def accepted(key: SigningKey) -> None:
        key.verify_key.verify(key.sign(b"message"), b"message")
        written = _folder() / "again"
        write_signing_key(written, key, overwrite=True)
        assert read_signing_key(written).fingerprint == key.fingerprint

    def read() -> SigningKey:
        return read_signing_key(path, None if _is_slow(content) else lambda: _PASSPHRASE)

    refused = refusal(read, accepted, KeyFileError)
    _silent(re.findall(rb"[A-Za-z0-9_+/=-]{24,}", content.replace(b"-----", b" ")), refused)
    # One file is never both a private and a public key.
    other = refusal(lambda: read_verify_key(path), allowed=KeyFileError)
    assert refused is not None or other is not None
    return refused


def _is_slow(content: bytes) -> bool:
    """Whether some number may be that of rounds of PBKDF2, which take as long as the file says (T10)."""
    text = content.partition(b"-----\n")[2].partition(b"-----")[0] or content
    try:
        der = content if content[:1] == b"0" else base64.b64decode(b"".join(text.split()))
    except ValueError:
        return b"ENCRYPTED" in content
    numbers = [der[begin:end] for start, begin, end in elements(der) if der[start] == 2 and end - begin < 9]
    return any(int.from_bytes(number, "big") > 10_000 for number in numbers)


def _examine_mac(content: bytes, _: bytes) -> Refusal:
    path = _file("mac", content)

    def accepted(keys: MacKeySet) -> None:
        written = _folder() / "again"
        write_mac_keys(written, keys, overwrite=True)
        assert read_mac_keys(written) == keys
        assert {entry["k"] for entry in json.loads(content)["keys"]} == {str(key.to_jwk(True)["k"]) for key in keys}

    refused = refusal(lambda: read_mac_keys(path), accepted, KeyFileError)
    _silent(re.findall(rb'"k" ?: ?"([A-Za-z0-9_-]{24,})"', content), refused)
    return refused


# Seeds.


def _of_all(forms: Callable[[str], dict[str, bytes]]) -> list[bytes]:
    return [content for kind in KEYS for content in forms(kind).values()]


def _private_seeds() -> list[bytes]:
    secret = BestAvailableEncryption(_PASSPHRASE)
    encrypted = [encoded(KEYS["P-256"], encryption=secret), encoded(KEYS["Ed25519"], Encoding.DER, encryption=secret)]
    encrypted.append(encoded(KEYS["P-384"], form=Private.TraditionalOpenSSL, encryption=secret))
    return _of_all(private_forms) + encrypted


def _mac_seeds() -> list[bytes]:
    keys = [MacKey(bytes(range(n, n + 32 + n)), suite) for n, suite in enumerate((*Suite, Suite.HS256))]
    sets: list[Any] = [MacKeySet(keys[0]), MacKeySet(keys[1], keys[0]), MacKeySet(*keys)]
    found = []
    for mac_keys in sets:
        entries = [key.to_jwk(key is mac_keys.signing) for key in mac_keys]
        found.append(json.dumps({"keys": entries}, indent=2).encode())
    least = {"kty": "oct", "k": entries[0]["k"]}
    return [*found, json.dumps({"keys": [least]}).encode(), json.dumps(least).encode()]


TARGETS = (
    Target("public-key", lambda: _of_all(public_forms), _mutate, _examine_public),
    Target("private-key", _private_seeds, _mutate, _examine_private),
    Target("mac-keys", _mac_seeds, mutate_json, _examine_mac),
)
