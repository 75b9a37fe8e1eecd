"""Mutations of values, and the oracles of the fuzzing targets ``value`` and ``tensors`` (``tests/fuzz``).

Honest values and attacks are mutated, with and without regard for opcodes, and each result must pass ``examine``: a
patch or one of our errors, in bounded time, the same verdict from a warm and an empty memory, and the machine must make
the same objects as both of CPython's unpicklers over inert stand-ins. A patch from a safetensors value must have the
same arrays in the safetensors library, if that is installed.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import random
import re
import struct
from typing import Any

import numpy as np

from ben_secure.errors import BenSecureError
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.patches import BigEarthNet_S1_Patch, BigEarthNetPatch
from ben_secure.pickles import machine
from ben_secure.pickles.names import TABLE, Name, Use
from ben_secure.pickles.records import Block, Record
from ben_secure.tensors.reading import SIGN
from ben_secure.values import Decoder
from support.assembler import array_blob, blob, call, canonical, dct, entry, name, number, real, text, tup
from support.effort import effort_below
from support.legacy_values import GENERATIONS, S1, S1_BANDS, Maker, pixels_of, small_tree, tree, write
from support.tensor_files import S1_FILE, S2_NAMES, file, noted, sentinel, table
from support.tensor_files import entry as entry_of

_ADMITTED_NAMES = (
    "PROTO", "FRAME", "STOP", "MARK", "MEMOIZE", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT",
    "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES",
    "BYTEARRAY8", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS",
    "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD",
)  # fmt: skip
ADMITTED = sorted(ord(known.code) for known in pickletools.opcodes if known.name in _ADMITTED_NAMES)
"""The opcodes that honest values need; a new one has to be put here by hand."""
_LENGTH = {0x8C: "<B", 0x58: "<I", 0x43: "<B", 0x42: "<I", 0x96: "<Q", 0x8A: "<B"}
_OPERANDS = {0x80: 1, 0x95: 8, 0x4B: 1, 0x4D: 2, 0x4A: 4, 0x47: 8, 0x68: 1, 0x6A: 4}


# Mutations.


def pieces(value: bytes) -> list[bytes]:
    """Split into one piece per opcode, without frames; bytes that cannot be disassembled stay in one piece."""
    found, last = [], 0
    with contextlib.suppress(ValueError, IndexError, OverflowError, MemoryError):
        starts = [position for _, _, position in pickletools.genops(value)]
        for start, end in zip(starts, [*starts[1:], len(value)], strict=True):
            if value[start] != pickle.FRAME[0]:
                found.append(value[start:end])
            last = end
    return found + ([value[last:]] if last < len(value) else [])


def random_opcode(rng: random.Random) -> bytes:
    """One admitted opcode with an operand that fits."""
    op = rng.choice(ADMITTED)
    if op in _LENGTH:
        words = ["", "x", "data", "labels", "_bands", "__dict__", "\ud800", "é", "z" * rng.choice((3, 300, 600))]
        word = rng.choice(words).encode("utf-8", "surrogatepass")
        word = word[:60] if op in (0x8A, 0x8C, 0x43) else word
        return bytes([op]) + struct.pack(_LENGTH[op], len(word)) + word
    if op == 0x95:
        return b""
    return bytes([op]) + (b"\x04" if op == 0x80 else rng.randbytes(_OPERANDS.get(op, 0)))


def random_part(rng: random.Random) -> bytes:
    """A few opcodes that belong together: a global, a small object, or a fetch of a likely memo entry."""
    module, attribute = rng.choice(list(TABLE))
    return rng.choice(
        (
            name(module, attribute),
            name(module, attribute) + b")\x81" + dct(text("x"), number(1)) + b"b",
            name(module, attribute) + tup(number(1)) + b"R",
            b"h" + bytes([rng.randrange(60)]),
            b"](" + number(rng.randrange(300)) + b"e",
            b"}(" + text("k") + b"Nu",
            b"\x8f(" + number(rng.randrange(300)) + b"\x90",
            tup(text("a"), b"N"),
            b"\x94",
            b"(",
            b"\x85",
        )
    )


def reframed(rng: random.Random, found: list[bytes]) -> bytes:
    """Pieces put together with frames at random opcode boundaries."""
    out, position = found[:1], 1
    while position < len(found):
        step = rng.randrange(1, max(2, len(found) // 2))
        group = b"".join(found[position : position + step])
        out.append(b"\x95" + struct.pack("<Q", len(group)) + group if rng.random() < 0.5 else group)
        position += step
    return b"".join(out)


def mutate(rng: random.Random, value: bytes, others: list[bytes]) -> bytes:
    """Change a value once."""
    kind = rng.randrange(12)
    if not value or kind < 3:
        data = bytearray(value or b"\x80")
        for _ in range(rng.choice((1, 1, 2, 5))):
            data[rng.randrange(min(len(data), 2000)) if rng.random() < 0.7 else rng.randrange(len(data))] = (
                rng.randrange(256)
            )
        return bytes(data)
    at = rng.randrange(len(value))
    if kind == 3:
        return value[:at]
    if kind == 4:
        return value[:at] + value[min(len(value), at + rng.randrange(1, 40)) :]
    if kind == 5:
        other = rng.choice(others)
        start = rng.randrange(len(other))
        return value[:at] + other[start : start + rng.randrange(200)] + value[at:]
    found = pieces(value)
    at = rng.randrange(len(found))
    if kind == 6:
        del found[at : at + rng.choice((1, 1, 2, 6))]
    elif kind == 7:
        found.insert(at, found[rng.randrange(len(found))])
    elif kind == 8:
        other = rng.randrange(len(found))
        found[at], found[other] = found[other], found[at]
    elif kind == 9:
        found.insert(at, random_opcode(rng))
    elif kind == 10:
        found[at] = random_part(rng) if rng.random() < 0.5 else random_opcode(rng)
    else:
        other_pieces = pieces(rng.choice(others))
        start = rng.randrange(len(other_pieces))
        found[at : at + rng.randrange(4)] = other_pieces[start : start + rng.randrange(1, 12)]
    return reframed(rng, found) if found and rng.random() < 0.5 else b"".join(found)


def random_program(rng: random.Random) -> bytes:
    """A program of admitted opcodes, most of which would fail; some do not."""
    body = [random_part(rng) if rng.random() < 0.4 else random_opcode(rng) for _ in range(rng.randrange(1, 14))]
    return b"\x80\x04" + b"".join(body) + rng.choice((b"", b"t", b"\x85", b"e")) + b"."


class _Item:
    """An object that a program has made: its kind, and whether it may be changed or stored."""

    def __init__(self, kind: str) -> None:
        self.kind, self.stored, self.sealed = kind, False, False


_CLASSES = [pair for pair, row in TABLE.items() if row.use is Use.CLASS]
_EMPTY = {b"]": "list", b"}": "dict", b"\x8f": "set", b")": "leaf"}


def grown_program(rng: random.Random, steps: int) -> bytes:
    """A program in which each step fits the stack, so the machine accepts it."""
    out, stack, memo = [b"\x80\x05("], [], []
    for step in range(steps):
        top = stack[-1] if stack else _Item("nothing")
        fresh = not top.sealed and top.kind in ("list", "dict", "set", "instance")
        choice = rng.randrange(7)
        if choice == 0:
            leaf = rng.choice((b"N", b"\x89", number(rng.randrange(-(2**70), 2**70)), number(7), text("a" * step * 7)))
            content = rng.randbytes(rng.choice((0, 3, 511, 512, 600)))
            leaf = rng.choice(
                (leaf, blob(content), array_blob(content), real(rng.random()), name(*rng.choice(_CLASSES)))
            )
            stack.append(_Item("leaf"))
            out.append(leaf)
        elif choice == 1:
            empty = rng.choice(list(_EMPTY))
            stack.append(_Item(_EMPTY[empty]))
            out.append(empty)
        elif choice == 2:
            called = call(name("ben_secure.metadata", "rebuild_scalar"), b"N", b")")
            made, kind = rng.choice(((called, "leaf"), (name(*rng.choice(_CLASSES)) + b")\x81", "instance")))
            stack.append(_Item(kind))
            out.append(made)
        elif choice == 3 and not top.stored and top.kind != "nothing":
            top.stored = True
            memo.append(top)
            out.append(b"\x94")
        elif choice == 4 and memo:
            place = rng.randrange(len(memo))
            memo[place].sealed = True
            stack.append(memo[place])
            out.append(b"h" + bytes([place]) if place < 256 and rng.random() < 0.9 else b"j" + struct.pack("<I", place))
        elif choice == 5 and fresh:
            words = [text(f"{step} {place}") for place in range(rng.randrange(4))]
            pairs = b"".join(word + b"N" for word in words)
            out += {
                "list": [b"(", *words, b"e"] if rng.random() < 0.5 else [b"Na"],
                "dict": [b"(", pairs, b"u"] if rng.random() < 0.5 else [text(f"{step}"), b"Ns"],
                "set": [b"(", *words, b"\x90"],
                "instance": [b"}(", pairs, b"ub"],
            }[top.kind]
            if top.kind == "instance":
                top.kind = "leaf"
        elif choice == 6 and len(stack) >= 2 and stack[-2].kind in ("list", "dict") and not stack[-2].sealed:
            if stack[-2].kind == "list":
                stack.pop()
                out.append(b"a")
            elif not top.sealed:
                out.append(b"\x85" * rng.randrange(1, 3))
                stack[-1] = _Item("leaf")
        elif stack:
            count = rng.randrange(1, min(len(stack), 3) + 1)
            del stack[-count:]
            stack.append(_Item("leaf"))
            out.append(bytes([0x84 + count]))
    return b"".join([*out, b"t."])


# Properties.


class _Node:
    """The result of an inert stand-in: its maker, its arguments, and its one state."""

    def __init__(self, row: Name, arguments: tuple[Any, ...]) -> None:
        self.row, self.arguments, self.state = row, arguments, None

    def __setstate__(self, state: Any) -> None:
        assert self.state is None
        self.state = state


def _stand_in(row: Name) -> Any:
    if row.use is Use.CLASS:
        return type(row.name, (_Node,), {"__new__": lambda cls: _new(cls, row)})
    return (lambda *arguments: _Node(row, arguments)) if row.use is not Use.NAME else row


def _new(cls: type[_Node], row: Name) -> _Node:
    node = object.__new__(cls)
    node.__init__(row, ())  # type: ignore[misc]
    return node


_STAND_INS = {pair: _stand_in(row) for pair, row in TABLE.items()}
_ROWS = {id(stand_in): TABLE[pair] for pair, stand_in in _STAND_INS.items()}


def tokens(root: Any, value: bytes = b"") -> list[Any]:
    """The result of a reader as a flat list that can be compared; a block is its bytes in ``value``.

    An object that occurs again is a reference to its first occurrence, so sharing counts, except for tuples of
    arguments, which stand-ins get as new objects.
    """
    found: list[Any] = []
    places: dict[int, int] = {}
    pending = [root]
    while pending:
        item = pending.pop()
        if type(item) is Block:
            item = (bytearray if item.mutable else bytes)(value[item.start : item.stop])
        kind = type(item)
        if kind is Name or id(item) in _ROWS:
            found.append(("name", id(item if kind is Name else _ROWS[id(item)])))
        elif kind in (str, int, float, bool, type(None), bytes, bytearray):
            found.append((kind.__name__, bytes(item) if kind in (bytes, bytearray) else repr(item)))
        elif id(item) in places and item != ():
            found.append(("again", places[id(item)]))
        else:
            places[id(item)] = len(found)
            if kind is set:
                # The machine has bytes twice if two blocks are equal; that is refused when they are read.
                found.append(("set", sorted({repr(tokens(member, value)) for member in item})))
            elif kind is dict:
                found.append(("dict", len(item)))
                pending += [part for pair in item.items() for part in pair][::-1]
            elif kind is list or kind is tuple:
                found.append((kind.__name__, len(item)))
                pending += item[::-1]
            else:
                assert kind is Record or isinstance(item, _Node)
                found.append(("record", id(item.name if kind is Record else item.row), len(item.arguments)))
                pending += [item.state, *item.arguments[::-1]]
    return found


class _CompiledUnpickler(pickle.Unpickler):
    def find_class(self, module: str, attribute: str, /) -> Any:
        return _STAND_INS[module, attribute]


class _PythonUnpickler(pickle._Unpickler):  # type: ignore[name-defined, misc]
    def find_class(self, module: str, attribute: str, /) -> Any:
        return _STAND_INS[module, attribute]


def agrees_with_cpython(value: bytes) -> bool:
    """Check that the machine makes the same as both unpicklers; False if it refuses the payload."""
    try:
        left = machine.run(value, len(value), TABLE, DEFAULT_LIMITS)
    except BenSecureError:
        return False
    made = tokens(left.levels[0][0], value)
    assert tokens(_CompiledUnpickler(io.BytesIO(value)).load()) == made
    assert tokens(_PythonUnpickler(io.BytesIO(value)).load()) == made
    return True


def note(decoder: Decoder, value: bytes) -> object:
    """A new object if something is built from a value; the earlier one for a value that differs only in pixels."""
    return decoder.note(value, len(value), lambda *_: object())


def verdict(value: bytes, footer: bytes = b"", decoder: Decoder | None = None, aligned: int | None = None) -> Any:
    """The patch, or the refusal with its text last but one; other bytes may follow the value.

    With ``aligned`` the value is in memory that the patch may keep, as from a reader: a position equal to ``aligned``
    modulo 16 has an address that is a multiple of 16.
    """
    stored: bytes | memoryview = value + footer
    if aligned is not None:
        memory = np.zeros(len(stored) + 32, np.uint8)
        start = -(memory.ctypes.data + aligned) % 16
        view = memoryview(memory)[start : start + len(stored)]  # type: ignore[arg-type]
        view[:] = stored
        stored = view
    try:
        return (decoder or Decoder()).load(stored, len(value), aligned)
    except BenSecureError as error:
        shown = str(error).isascii() and str(error).isprintable()
        return type(error), error.rule, error.offset, error.opcode, error.global_name, str(error), shown


def same(found: Any, expected: Any) -> bool:
    """Whether two verdicts are the same to the caller: refusals word for word, patches with class, order and bytes."""
    if not isinstance(expected, BigEarthNetPatch):
        return bool(found == expected)
    return type(found) is type(expected) and found == expected and list(vars(found)) == list(vars(expected))


def agree(value: bytes, found: Any) -> None:
    """Every accepted patch has the same arrays in the safetensors library, and every refusal there is one here."""
    try:
        import safetensors.numpy
    except ImportError:
        return
    try:
        arrays = safetensors.numpy.load(value)
    except Exception:  # its own error, KeyError for a dtype, ValueError of numpy
        assert not isinstance(found, BigEarthNetPatch)
        return
    if isinstance(found, BigEarthNetPatch):
        assert {band.name: (band.data.dtype, band.data.tobytes()) for band in found.bands} == {
            name: (array.dtype, array.tobytes()) for name, array in arrays.items()
        }


def examine(value: bytes, family: bytes = b"") -> bool:
    """Check every property for one value; returns whether it is a patch.

    Args:
        value: The value.
        family: An honest value that may begin like it; the memory learns it first.
    """
    memory = Decoder()
    for _ in range(5 if family else 0):
        verdict(family, decoder=memory)
    with effort_below(60):
        warm = verdict(value, decoder=memory)
    cold = verdict(value)
    assert same(warm, cold)
    assert isinstance(cold, BigEarthNetPatch) or cold[-1]
    for turn in range(4 if isinstance(cold, BigEarthNetPatch) else 1):
        assert same(verdict(value, decoder=memory, aligned=turn), cold)
    if isinstance(cold, BigEarthNetPatch):
        examine_repainted(value)
    if value[4:9] == SIGN:
        agree(value, cold)
        return isinstance(cold, BigEarthNetPatch)
    admitted = agrees_with_cpython(value)
    assert admitted or not isinstance(cold, BigEarthNetPatch)
    return isinstance(cold, BigEarthNetPatch)


def examine_repainted(value: bytes) -> None:
    """Values that differ only in pixels from a loaded value get the right verdict from the memory."""
    others = [other for seed in (1, 2) if (other := repainted(value, seed)) != value]
    expected = [verdict(other) for other in others]
    memory = Decoder()
    for _ in range(5):
        verdict(value, decoder=memory)
    for other, alone in zip(others, expected, strict=True):
        for aligned in (None, 0, 7):
            assert same(verdict(other, decoder=memory, aligned=aligned), alone)
            assert same(verdict(other, b"x" * 9, decoder=memory, aligned=aligned), alone)
        if isinstance(alone, BigEarthNetPatch):
            again = verdict(other, decoder=memory)
            # The place of a NaN in a set depends on its address.
            assert again.dumps() == alone.dumps() or _has_nan_in_a_set(alone.to_dict()["metadata"])
            spoil(verdict(other, decoder=memory))
            assert same(verdict(other, decoder=memory), alone)


def _has_nan_in_a_set(node: Any) -> bool:
    if type(node) is set:
        return any(member != member for member in node)  # NaN alone differs from itself
    items = node.values() if type(node) is dict else node if type(node) in (list, tuple) else ()
    return any(map(_has_nan_in_a_set, items))


def spoil(patch: BigEarthNetPatch) -> None:
    """Change everything of a patch that can be changed."""
    for band in patch.bands:
        band.data[...] = 77
    for part in list(patch.__stored_args__.values()):
        if isinstance(part, list | dict | set):
            part.clear()
    patch.__stored_args__.clear()


def repainted(value: bytes, seed: int) -> bytes:
    """The same pickle with other bytes in each long bytes object; each is found by its opcode and length."""
    rng, out, done = random.Random(seed), [], 0
    with contextlib.suppress(ValueError):
        for opcode, argument, position in pickletools.genops(value):
            if opcode.name in ("BINBYTES", "BYTEARRAY8") and len(argument) >= 512:
                start = position + (5 if opcode.name == "BINBYTES" else 9)
                out += [value[done:start], rng.randbytes(len(argument))]
                done = start + len(argument)
    return b"".join([*out, value[done:]])


def mutate_tensors(rng: random.Random, value: bytes) -> bytes:
    """Change the header of a safetensors value once, and mostly keep its length right."""
    size = int.from_bytes(value[:8], "little")
    header, data = value[8 : 8 + size], value[8 + size :]
    kind = rng.randrange(6)
    if kind == 0 or not (re.search(rb"[0-9]", header) and re.search(rb'"[^"]*"', header)):
        return mutate(rng, value, [value])
    if kind == 1:  # a number
        found = rng.choice(list(re.finditer(rb"[0-9]+", header)))
        number_ = rng.choice((0, 1, int(found[0][:15]) + 1, 2 * int(found[0][:15]), 2**32, 2**64 - 1, -1))
        header = header[: found.start()] + b"%d" % number_ + header[found.end() :]
    elif kind == 2:  # a piece of JSON, left out or doubled
        found = rng.choice(list(re.finditer(rb'"[^"]*"|[][{},:]|[0-9]+', header)))
        header = header[: found.start()] + found[0] * rng.choice((0, 2)) + header[found.end() :]
    elif kind == 3:  # a text
        texts = list(re.finditer(rb'"[^"]*"', header))
        found, other = rng.choice(texts), rng.choice(texts)
        word = rng.choice(
            (
                other[0],
                b'"F32"',
                b'"BOOL"',
                b'"B02"',
                b'"__metadata__"',
                b'"\\u0041"',
                b'"\\ud800"',
                b'"%s"' % (b"7" * 5000),
            )
        )
        header = header[: found.start()] + word + header[found.end() :]
    elif kind == 4:
        at = rng.randrange(len(header) + 1)
        header = (
            header[:at] + rng.choice((b" ", b"\n", b"\0", b"0", b"-", b".0", b"e1", b"{", b"]", b",")) + header[at:]
        )
    else:
        data = rng.choice((data[:-1], data + b"\0", data[1:], b""))
    return len(header).to_bytes(8, "little") + header + data


def honest_tensors() -> list[bytes]:
    """Safetensors values of every kind."""
    two = {"Data": [120, 120], "B02": [120, 120]}
    note = {"kind": "BigEarthNetPatch", "stored": {"x": [1, None, {"y": 0.5}]}, "bands": [[None, "Band", "h", 3]]}
    return [
        S1_FILE,
        file(table(two)),
        file({"__metadata__": {"a": "b"}, **sentinel(("VV", "VH"), "F32")}),
        file(sentinel(S2_NAMES, "U16")),
        noted({"kind": "BigEarthNet_S1_Patch", "stored": {"labels": ["Pastures"]}}),
        noted(note, {"h": entry_of([2, 2])}),
    ]


def honest_values() -> list[bytes]:
    """Values of every kind and generation, small ones mostly."""
    pixels = pixels_of(s1="|i1")
    arrays = {"band" + band: pixels[band] for band, _ in S1_BANDS}
    metadata = {"labels": ["Pastures", "Moors"], "snow": True, "cloud": 0.25, "set": {"a", 1}, "raw": bytes(700)}
    patch = BigEarthNet_S1_Patch(**arrays, **metadata, x=pixels["B01"], y=pixels["B01"][0, 0])
    generic = canonical(layout=tup(entry(), entry(band=text("h"), attribute=text("h"))), pixels=b"C\4abcd")
    small = [write(small_tree(generation)) for generation in GENERATIONS]
    return [
        canonical(),
        generic,
        patch.dumps(),
        *small,
        write(small_tree(metadata=metadata)),
        write(tree(S1, s1="|i1")),
        write(both_pixels_and_metadata()),
    ]


def both_pixels_and_metadata() -> Any:
    """A patch whose metadata has the pixels of a band, as bytes, in a list and as an array: one block for all."""
    graph = Maker().standard(S1, pixels_of(s1="|i1"), {"labels": ["Pastures"]})
    array = graph.state["bandVH"].state["__dict__"]["data"]
    for word, part in (("raw", array.state[4]), ("listed", [array.state[4]])):
        graph.state["__stored_args__"][word] = graph.state[word] = part
    return graph
