"""The class of fuzzing targets, and mutations that several targets share."""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ben_secure.errors import BenSecureError

Refusal = Exception | None
"""How a parser refused an input; None if it accepted it."""


@dataclass(frozen=True)
class Target:
    """One parser of untrusted bytes.

    Attributes:
        name: As in ``run.py --target`` and ``tests/corpus``.
        seeds: Makes inputs, of every form that the parser accepts and some that it refuses.
        mutate: Changes an input; gets the source of chance, the input, and others to take pieces of.
        examine: Parses an input and checks every property of the result (an ``AssertionError`` if one does not hold).
            The second argument is the input that the first was made of, or empty.
        seconds: Processor time that one input may take.
        memory: Bytes that an input may take whatever its length, as ``tracemalloc`` counts them.
        memory_per_byte: Bytes that it may take in addition, for each byte of its own.
        needs: Module that the parser needs and that may be missing.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Callable[[random.Random, bytes, Sequence[bytes]], bytes]
    examine: Callable[[bytes, bytes], Refusal]
    seconds: float = 1.0
    memory: int = 2**23
    memory_per_byte: int = 40
    needs: str | None = None


def refusal(
    parse: Callable[[], Any],
    accept: Callable[[Any], None] = lambda _: None,
    allowed: type[Exception] | tuple[type[Exception], ...] = BenSecureError,
) -> Refusal:
    """Parse; check the result with ``accept``, or the text of the refusal, which must be of class ``allowed``."""
    try:
        result = parse()
    except allowed as error:
        text = str(error)
        assert re.fullmatch("[ -~]*", text), f"the message is not printable ASCII: {text!r}"
        assert len(text) < 5_000, f"the message has {len(text)} characters"
        return error
    accept(result)
    return None


# Bytes.

_SIZES = "BHIQ"


def odd_number(rng: random.Random, bits: int, near: int = 0) -> int:
    """A number at which parsers go wrong: bounds, powers of two, neighbours."""
    top = 2**bits
    edge = rng.choice((0, 1, 2, near + 1, near - 1, 2 * near, near // 2, top - 1, top // 2, top // 2 - 1, top - 2))
    return (rng.choice((edge, 1 << rng.randrange(bits), near ^ 1 << rng.randrange(bits), rng.randrange(256)))) % top


def mutate_bytes(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change some bytes, independent of their meaning."""
    if not data:
        return rng.randbytes(rng.randrange(40))
    at = rng.randrange(len(data))
    kind = rng.randrange(8)
    if kind < 2:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 5))):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(changed)
    if kind == 2:
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 3:
        return with_number(rng, data, at, rng.choice("<>") + rng.choice(_SIZES))
    if kind == 4:
        return data[:at] + data[at + rng.choice((1, 1, 2, 4, 8, 40)) :]
    if kind == 5:
        size = rng.choice((1, 2, 4, 8, 40))
        return data[:at] + data[at : at + size] * rng.choice((2, 2, 3, 50)) + data[at + size :]
    if kind == 6:
        other = rng.choice(others) if others else data
        start = rng.randrange(len(other) or 1)
        return data[:at] + other[start : start + rng.randrange(200)] + data[at + rng.choice((0, 0, 8, 200)) :]
    return data[:at] if rng.random() < 0.5 else data + rng.choice((b"\0", b"\n", data, rng.randbytes(8)))


def with_number(rng: random.Random, data: bytes, at: int, form: str) -> bytes:
    """Another number in the place of one; ``form`` is that of ``struct``."""
    size = struct.calcsize(form)
    if at + size > len(data):
        return data
    (near,) = struct.unpack_from(form, data, at)
    return data[:at] + struct.pack(form, odd_number(rng, 8 * size, near)) + data[at + size :]


# JSON.

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|[][{},:]|true|false|null', re.DOTALL)
_ODD_TOKENS = (
    *(b"null", b"true", b"0", b"-1", b"1.0", b"1e400", b"NaN", b"-Infinity", b'""', b"[]", b"{}", b"%d" % 2**64),
    *(b'"\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xc3\xa9"', b'"\\u202e"', b'"\\u001b[31m"', b"9" * 4400),
    b"1" + b"0" * 400,
    b'"' + b"x" * 70_000 + b'"',
    *(b'{"a":1,"a":1}', b"[[[[[]]]]]", b"2017-06-13", b"1E5", b"-0", b'"1"', b'"\xef\xbb\xbf"', b"0.1e-7"),
)  # fmt: skip


def nested(rng: random.Random) -> bytes:
    """JSON so deep that some parser or printer gives up."""
    depth = rng.choice((50, 300, *(rng.randrange(800, 1100) for _ in range(4)), 10_000))
    opened, closed = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
    return opened * depth + (b"1" if opened != b"[" or rng.random() < 0.5 else b"") + closed * depth


def mutate_json(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a token of JSON, or a node of the document."""
    kind = rng.randrange(10)
    if kind == 0:
        return mutate_bytes(rng, data, others)
    if kind < 5 and (changed := _changed_document(rng, data, others)) is not None:
        return changed
    tokens = list(_TOKEN.finditer(data))
    if not tokens:
        return mutate_bytes(rng, data, others)
    found = rng.choice(tokens)
    word = rng.choice((rng.choice(_ODD_TOKENS), rng.choice(tokens)[0], b"", found[0] * 2))
    if rng.random() < 0.05:
        word = nested(rng)
    if kind == 9 and found[0].isdigit():
        word = b"%d" % odd_number(rng, 64, int(found[0][:18]))
    return data[: found.start()] + word + data[found.end() :]


def _changed_document(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes | None:
    """The document with one node changed, in the spelling that the package signs; None if it is no JSON."""
    try:
        document, other = (json.loads(text) for text in (data, rng.choice(others) if others else data))
        nodes = [(holder, key) for holder in _holders(document) for key in _keys(holder)]
        given = [holder[key] for holder in _holders(other) for key in _keys(holder)]
        if not nodes or not given:
            return None
        holder, key = rng.choice(nodes)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and type(holder) is list:
            holder.insert(rng.randrange(len(holder) + 1), holder[key])
        elif kind == 1:
            holder[rng.choice(("", "name", key + "x", key.upper()))] = holder[key]
        elif kind == 2:
            holder[key] = rng.choice(given)
        elif kind == 3 and type(holder[key]) is int:
            holder[key] = rng.choice((odd_number(rng, 64, holder[key]), -1, float(holder[key]), str(holder[key])))
        elif kind == 3 and type(holder[key]) is str:
            holder[key] = changed_text(rng, holder[key])
        else:
            holder[key] = rng.choice((None, True, 0, 1.5, "", [], {}, [holder[key]], {"a": holder[key]}))
        spelling = {"separators": (",", ":"), "sort_keys": True} if rng.random() < 0.8 else {"indent": 1}
        return json.dumps(document, **spelling).encode() + (b"\n" if data.endswith(b"\n") else b"")
    except (ValueError, RecursionError, OverflowError):
        return None


def changed_text(rng: random.Random, text: str) -> str:
    """The text with one character changed, added or left out."""
    at = rng.randrange(len(text) + 1)
    new = rng.choice(("", "0", "9", "-", "T", "Z", " ", "\n", "+", "é", "\ud800", "\u202e", "/", "_", "x", "=", "\0"))
    return text[:at] + new + text[at + rng.choice((0, 1)) :]


def _holders(document: Any) -> list[Any]:
    found, pending = [], [document]
    while pending:
        node = pending.pop()
        if isinstance(node, dict | list):
            found.append(node)
            pending += node.values() if isinstance(node, dict) else node
    return found


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))
