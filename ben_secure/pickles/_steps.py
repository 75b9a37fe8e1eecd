"""What each opcode does to the abstract stack of ``opcodes``: one function an opcode, and the table of them.

Nothing is decoded here that the walk has to know, and nothing is built: only kinds, depths and sizes move. An opcode
that is not in the table is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from ben_secure.errors import Rule, printable
from ben_secure.pickles._segments import CUT_BLOCK_BYTES, Form
from ben_secure.pickles.allowlist import KINDS, Kind

if TYPE_CHECKING:
    from ben_secure.pickles.opcodes import Walk

# An abstract object is its text if it is a string, else (kind, depth, nodes, memo index, sealed). A container can
# be filled only while it is not sealed; fetching it from the memo seals it. So there are no cycles, and what was
# counted as a part of something else never grows afterwards.
Item: TypeAlias = str | tuple[str, int, int, int, bool]

_NUMBER: Item = ("number", 0, 1, -1, True)
_NONE: Item = ("none", 0, 1, -1, True)
_BYTES: Item = ("bytes", 0, 1, -1, True)
_BYTEARRAY: Item = ("bytearray", 0, 1, -1, True)
_EMPTY_TUPLE: Item = ("tuple", 1, 1, -1, True)
MARK: Item = ("mark", 0, 0, -1, False)
PUSHED: dict[int, Item] = {
    0x4E: _NONE,
    0x88: _NUMBER,
    0x89: _NUMBER,
    0x29: _EMPTY_TUPLE,
    0x5D: ("list", 1, 1, -1, False),
    0x7D: ("dict", 1, 1, -1, False),
    0x8F: ("set", 1, 1, -1, False),
}
"""Opcodes without operands and what each pushes: NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE, EMPTY_LIST, _DICT, _SET."""
_HASHABLE = ("number", "none", "bytes")
_MAX_NUMERIC_MEMBERS = 1024
"""Integers can be chosen to collide in a set (hash is modulo 2**61 - 1), which makes it quadratic; strings cannot."""

NO_FRAME = sys.maxsize
NEXT_BUFFER = b"\x97"
_PROTOCOLS = (4, 5)


def decoded(text: bytes) -> str:
    """Text as the unpickler decodes it: UTF-8, lone surrogates allowed."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("utf-8", "surrogatepass")


def opcode_name(op: int) -> str:
    """Name of an opcode; ``pickletools`` is imported for messages only."""
    import pickletools

    return next((known.name for known in pickletools.opcodes if ord(known.code) == op), f"0x{op:02x}")


def kind_name(item: Item) -> str:
    """What an abstract object is, for a message."""
    return "string" if isinstance(item, str) else item[0]


# One function an opcode: takes the walk and the position after the opcode byte, returns the position of the next.

Step: TypeAlias = "Callable[[Walk, int], int]"


def _push(item: Item, operand_bytes: int = 0) -> Step:
    def step(walk: Walk, pos: int) -> int:
        walk.data[pos + operand_bytes]  # an operand that is cut short raises IndexError; STOP is still to come
        walk.stack.append(item)
        return pos + operand_bytes

    return step


def _proto(walk: Walk, pos: int) -> int:
    if pos != 1 or walk.data[pos] not in _PROTOCOLS:
        walk.refuse(f"protocol {walk.data[pos]}: patches are written with protocol 4 or 5, declared once, first")
    walk.leave_out(pos + 1)
    return pos + 1


def _frame(walk: Walk, pos: int) -> int:
    if walk.frame_end != NO_FRAME:
        walk.refuse("a frame begins inside a frame")
    length = _length(walk, pos, 8, after=0)
    if length == 0:
        walk.refuse("an empty frame")
    walk.frame_end = pos + 8 + length
    if walk.frame_end == walk.end:
        walk.to_end = True
        return walk.cut(pos, 8, "F")
    walk.leave_out(pos + 8)
    return pos + 8


def _length(walk: Walk, pos: int, width: int, after: int = 1) -> int:
    """A length operand, checked to lie inside the payload with what it counts and the STOP opcode after it."""
    length = int.from_bytes(walk.data[pos : pos + width], "little")
    if pos + width + length + after > walk.end:
        walk.malformed(f"{length} bytes are announced, {max(walk.end - pos - width, 0)} are left")
    return length


def _block(item: Item, width: int, form: Form = "B") -> Step:
    def step(walk: Walk, pos: int) -> int:
        length = _length(walk, pos, width)
        walk.stack.append(item)
        pos += width
        return walk.cut(pos, length, form) if length >= CUT_BLOCK_BYTES else pos + length

    return step


def _long_string(walk: Walk, pos: int) -> int:
    length = _length(walk, pos, 4)
    walk.long_text += length
    if walk.long_text > walk.limits.max_text_bytes:
        walk.exceed("bytes of text", walk.long_text, walk.limits.max_text_bytes)
    walk.stack.append(decoded(walk.data[pos + 4 : pos + 4 + length]))
    return pos + 4 + length


def _integer(walk: Walk, pos: int) -> int:
    length = _length(walk, pos, 1)
    if length > walk.limits.max_int_bytes:
        walk.exceed("bytes of an integer", length, walk.limits.max_int_bytes)
    walk.stack.append(_NUMBER)
    return pos + 1 + length


def _tuple_of(count: int) -> Step:
    def step(walk: Walk, pos: int) -> int:
        depth, nodes = walk.weigh([walk.pop() for _ in range(count)])
        walk.stack.append(("tuple", depth, nodes, -1, True))
        return pos

    return step


def _tuple(walk: Walk, pos: int) -> int:
    depth, nodes = walk.weigh(walk.pop_mark())
    walk.stack.append(("tuple", depth, nodes, -1, True))
    return pos


def _append(walk: Walk, pos: int) -> int:
    walk.grow("list", [walk.pop()])
    return pos


def _appends(walk: Walk, pos: int) -> int:
    items = walk.pop_mark()
    walk.grow("list", items)
    # A list of bands is the end of what all values share; its first item is an object.
    bands = bool(items) and not isinstance(items[0], str) and items[0][0] == "object"
    return walk.cut(pos) if bands else pos


def _set_items(walk: Walk, items: list[Item]) -> None:
    if len(items) % 2:
        walk.malformed("a dict entry has no value")
    for key in items[::2]:
        if not isinstance(key, str):
            walk.refuse(f"a dict key is a {kind_name(key)}, not a string")
    walk.grow("dict", items)


def _setitem(walk: Walk, pos: int) -> int:
    value = walk.pop()
    _set_items(walk, [walk.pop(), value])
    return pos


def _setitems(walk: Walk, pos: int) -> int:
    _set_items(walk, walk.pop_mark())
    return pos


def _additems(walk: Walk, pos: int) -> int:
    members = walk.pop_mark()
    for member in members:
        if not isinstance(member, str):
            if member[0] not in _HASHABLE:
                walk.refuse(f"a set member is a {kind_name(member)}, not a string or number")
            walk.numeric += 1
    if walk.numeric > _MAX_NUMERIC_MEMBERS:
        walk.exceed("numbers in sets", walk.numeric, _MAX_NUMERIC_MEMBERS)
    walk.grow("set", members)
    return pos


def _long_binget(walk: Walk, pos: int) -> int:
    walk.data[pos + 4]
    walk.fetch(int.from_bytes(walk.data[pos : pos + 4], "little"), pos + 4)
    return pos + 4


def _stack_global(walk: Walk, pos: int) -> int:
    name, module = walk.pop(), walk.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        walk.refuse("a global is named by something that is not a string", Rule.FORBIDDEN_GLOBAL)
    kind = Kind.CLASS if (module, name) in walk.classes else KINDS.get((module, name))
    if kind is None:
        asked = printable(f"{module}.{name}", walk.limits.max_name_characters)
        walk.refuse(f"the payload asks for {asked}, which no patch needs", Rule.FORBIDDEN_GLOBAL, asked)
    walk.stack.append((kind.name, 0, 1, -1, True))
    return pos


def _reduce(walk: Walk, pos: int) -> int:
    arguments, function = walk.pop(), walk.pop()
    if isinstance(arguments, str) or arguments[0] != "tuple":
        walk.refuse(f"a call has a {kind_name(arguments)} for its arguments", Rule.CALL_SHAPE)
    if isinstance(function, str) or function[0] not in ("BUILDER", "CALL"):
        walk.refuse(f"a {kind_name(function)} is called", Rule.CALL_SHAPE)
    depth, nodes = walk.weigh([arguments])
    built = function[0] == "CALL"
    walk.stack.append(("object" if built else "unbuilt object", depth, nodes, -1, built))
    return pos


def _newobj(walk: Walk, pos: int) -> int:
    arguments, cls = walk.pop(), walk.pop()
    if isinstance(cls, str) or cls[0] != "CLASS" or arguments != _EMPTY_TUPLE:
        walk.refuse(f"a {kind_name(cls)} is instantiated with arguments or is not a patch class", Rule.CALL_SHAPE)
    walk.stack.append(("unbuilt object", 1, 1, -1, False))
    return pos


def _build(walk: Walk, pos: int) -> int:
    state = walk.pop()
    if isinstance(state, str) or state[0] not in ("dict", "tuple"):
        walk.refuse(f"an object is given a {kind_name(state)} for its state")
    walk.grow("unbuilt object", [state], kind_after="object")
    return pos


_KNOWN: dict[int, Step] = {
    0x80: _proto, 0x95: _frame,
    0x4B: _push(_NUMBER, 1), 0x4D: _push(_NUMBER, 2), 0x4A: _push(_NUMBER, 4), 0x47: _push(_NUMBER, 8),
    0x8A: _integer,
    0x58: _long_string,
    0x43: _block(_BYTES, 1), 0x42: _block(_BYTES, 4), 0x96: _block(_BYTEARRAY, 8, "b"),
    0x85: _tuple_of(1), 0x86: _tuple_of(2), 0x87: _tuple_of(3), 0x74: _tuple,
    0x61: _append, 0x65: _appends,
    0x73: _setitem, 0x75: _setitems,
    0x90: _additems,
    0x6A: _long_binget,
    0x93: _stack_global, 0x52: _reduce, 0x81: _newobj, 0x62: _build,
}  # fmt: skip
"""The opcodes of protocol 4 and 5 that honest patches use, besides those in ``Walk.run`` (``pickletools`` has the
list). Not here: PERSID, BINPERSID, EXT*, INST, OBJ, POP*, DUP, GLOBAL, PUT*, NEWOBJ_EX, the buffer opcodes, and all
that only protocols 0 to 3 write."""

STEPS: tuple[Step | None, ...] = tuple(_KNOWN.get(op) for op in range(256))
