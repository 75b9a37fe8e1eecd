"""The one reader of pickles: a stack machine that makes plain data and inert records, and nothing else.

It has no instruction that imports, calls or looks up an attribute. STACK_GLOBAL looks up a row of a frozen table.
REDUCE and NEWOBJ write a ``Record``. BUILD stores a state in a record, once. An unknown opcode is refused. A large
bytes object stays in the payload, as a ``Block`` whose content the machine never reads. ``templates`` relies on that.
One parser checks and executes, so the two cannot disagree.

- A list, dict, set or record can be changed only while the stack holds its one reference. Fetching it from the memo
  seals it. Therefore no object contains itself. The memo keeps its objects alive, so an identity in ``sealed`` never
  passes to another object.
- Nothing is dropped: there is no POP, and a key occurs in a dict only once. So every part of a value is checked.
- ``max_opcodes`` and the length of the payload bound the time. The payload bounds the memory. The machine never
  recurses. ``arrays.Source`` bounds the depth and the number of objects of the result.
"""

from __future__ import annotations

import pickletools  # for messages only
import struct
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ben_secure.errors import (
    LimitExceededError,
    PatchFormatError,
    Rule,
    UnsafePickleError,
    UntrustedDataError,
    printable,
)
from ben_secure.limits import Limits
from ben_secure.pickles.names import Name, Table, Use
from ben_secure.pickles.records import BLOCK_BYTES, Block, Record, kind_of

_NO_FRAME = 1 << 62
_MAX_NUMERIC_MEMBERS = 1024
"""Integers can be chosen to collide in a set (hash is modulo 2**61 - 1), which makes it quadratic; strings cannot."""
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False, 0x29: ()}  # NONE, NEWTRUE, NEWFALSE, EMPTY_TUPLE
_FRESH = {0x5D: list, 0x7D: dict, 0x8F: set}  # EMPTY_LIST, EMPTY_DICT, EMPTY_SET
_CHANGEABLE = frozenset({list, dict, set, Record})
_HASHABLE = frozenset({str, int, float, bool, type(None), bytes, Block})
_CUT_SHORT = "the pickle is damaged: cut short or out of step; fetch the value again"
_NOT_UTF8 = "the pickle is damaged: a string is not UTF-8; fetch the value again"
_read_float = struct.Struct(">d").unpack_from


@dataclass(slots=True)
class State:
    """The machine between two opcodes: everything that decides how it continues."""

    levels: list[list[Any]] = field(default_factory=lambda: [[]])  # stacks, from the outermost to the innermost mark
    memo: list[Any] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    named: dict[int, int] = field(default_factory=dict)  # memo index of containers and records, by identity
    sealed: set[int] = field(default_factory=set)  # identities of the objects that were fetched from the memo
    pos: int = 0  # of the next opcode
    ops: int = 0  # opcodes so far
    text: int = 0  # bytes of long strings so far
    numeric: int = 0  # numbers in sets so far
    frame_at: int = 0  # position of the length of a frame that ends with the payload
    frame_end: int = _NO_FRAME
    cut: int = 0  # after the last list of records, where values of one database begin to differ
    names: set[tuple[str, str]] = field(default_factory=set)  # requested by STACK_GLOBAL

    def fork(self, end: int) -> State:
        """Copy the state for one payload of ``end`` bytes. Objects that may still change are copied, others are shared.

        An object that may still change is on a stack, and nowhere else except in the memo.
        """
        levels, memo, named = [level.copy() for level in self.levels], self.memo.copy(), self.named.copy()
        for level in levels:
            for index, item in enumerate(level):
                kind = type(item)
                if kind in _CHANGEABLE and id(item) not in self.sealed and not (kind is Record and item.is_complete):
                    level[index] = copy = Record(item.name, item.arguments) if kind is Record else item.copy()
                    if id(item) in named:
                        named[id(copy)] = named[id(item)]
                        memo[named[id(item)]] = copy
        return State(
            levels, memo, self.blocks.copy(), named, self.sealed.copy(), self.pos, self.ops, self.text, self.numeric,
            self.frame_at, end if self.frame_at else self.frame_end, self.cut, self.names.copy(),
        )  # fmt: skip


def _refuse(fact: str, rule: Rule = Rule.STRUCTURE, global_name: str | None = None) -> NoReturn:
    raise UnsafePickleError(f"{fact}; do not load this value with pickle", rule=rule, global_name=global_name)


def _damaged(fact: str) -> NoReturn:
    raise PatchFormatError(f"the pickle is damaged: {fact}; fetch the value again", rule=Rule.MALFORMED)


def _exceed(counted: str, number: int, most: int) -> NoReturn:
    fact = f"{counted}: found {number}, at most {most} are allowed"
    raise LimitExceededError(f"{fact}; if the value is honest, pass larger Limits", rule=Rule.LIMIT)


def _with_position(error: UntrustedDataError, data: bytes, pos: int) -> UntrustedDataError:
    """Add the position of the opcode to an error, before the remedy."""
    error.offset = pos if error.offset is None else error.offset
    position = f"byte {error.offset}"
    if pos < len(data) and type(error) is not PatchFormatError:
        names = (op.name for op in pickletools.opcodes if ord(op.code) == data[pos])
        error.opcode = next(names, f"0x{data[pos]:02x}")
        position = f"{error.opcode} at {position}"
    fact, separator, remedy = error.message.partition("; ")
    error.message = f"{fact} ({position}){separator}{remedy}"
    return error


def _bounded(data: bytes, start: int, width: int, end: int) -> int:
    """Return the end of an operand whose length is in ``width`` bytes at ``start``. At least STOP must follow it."""
    length = int.from_bytes(data[start : start + width], "little")
    if start + width + length >= end:
        _damaged(f"{length} bytes are announced, {max(end - start - width, 0)} are left")
    return start + width + length


def _open(stack: list[Any], kind: type, sealed: set[int]) -> Any:
    """Return the object on top of the stack. It must have this type and must not be sealed."""
    target = stack[-1] if stack else None
    if type(target) is not kind or (type(target) is Record and target.is_complete):
        _refuse(f"the target is a {kind_of(target)}, not a fresh {kind.__name__}")
    if id(target) in sealed:
        _refuse(f"a {kind_of(target)} is changed after it was referred to")
    return target


def _fill_dict(stack: list[Any], items: list[Any], sealed: set[int]) -> None:
    if len(items) % 2:
        _damaged("a dict entry has no value")
    for key in items[::2]:
        if type(key) is not str:
            _refuse(f"a dict key is a {kind_of(key)}, not a string")
    target = _open(stack, dict, sealed)
    expected = len(target) + len(items) // 2
    target.update(zip(items[::2], items[1::2], strict=True))
    if len(target) != expected:
        _refuse("a dict key occurs twice")


def _fill_set(stack: list[Any], members: list[Any], sealed: set[int], numeric: int) -> int:
    """Add members to the set on top of the stack, and return how many numbers are in sets now."""
    target = _open(stack, set, sealed)
    for member in members:
        if type(member) is not str:
            if type(member) not in _HASHABLE or (type(member) is Block and member.mutable):
                _refuse(f"a set member is a {kind_of(member)}, not a string or number")
            numeric += 1
    if numeric > _MAX_NUMERIC_MEMBERS:
        _exceed("numbers in sets", numeric, _MAX_NUMERIC_MEMBERS)
    expected = len(target) + len(members)
    target.update(members)
    if len(target) != expected:
        _refuse("a set member occurs twice")
    return numeric


def _record(function: object, arguments: object, uses: tuple[Use, ...]) -> Record:
    """Write a record, if function and arguments have the one form that honest pickles use."""
    if type(function) is not Name or function.use not in uses:
        _refuse(f"a {kind_of(function)} is called or instantiated", Rule.CALL_SHAPE)
    if type(arguments) is not tuple:
        _refuse(f"a call has a {kind_of(arguments)} for its arguments", Rule.CALL_SHAPE)
    honest = len(arguments) == function.arity
    if honest and function.name == "_reconstruct":
        cls, shape, code = arguments
        honest = type(cls) is Name and cls.name == "ndarray" and type(code) is bytes and code == b"b"
        honest = honest and shape == (0,) and type(shape[0]) is int
    elif honest and function.name == "dtype":
        honest = type(arguments[0]) is str and arguments[1] is False and arguments[2] is True
    if not honest:
        _refuse(f"{function.name} is called in a way that no patch needs", Rule.CALL_SHAPE)
    return Record(function, arguments)


def _row(table: Table, module: object, name: object, limits: Limits) -> Name:
    if type(name) is not str or type(module) is not str:
        _refuse("a global is named by something that is not a string", Rule.FORBIDDEN_GLOBAL)
    row = table.get((module, name))
    if row is None:
        global_name = printable(f"{module}.{name}", limits.max_name_characters)
        _refuse(f"the payload asks for {global_name}, which no patch needs", Rule.FORBIDDEN_GLOBAL, global_name)
    return row


def _check_end(pos: int, end: int, state: State, limits: Limits) -> None:
    """Check STOP at ``pos``: one object must be left, and nothing may follow."""
    if len(state.memo) > limits.max_memo:
        _exceed("memo entries", len(state.memo), limits.max_memo)
    if len(state.levels) != 1 or len(state.levels[0]) != 1:
        _damaged(
            f"it ends with {sum(map(len, state.levels))} objects and {len(state.levels) - 1} marks, not one object"
        )
    if state.frame_end not in (_NO_FRAME, pos + 1):
        _refuse("the last frame does not end with the pickle")
    if pos + 1 != end:
        fact = f"{end - pos - 1} bytes follow the end of the pickle: a second pickle, or damage"
        message = f"{fact}; do not load this value with pickle"
        raise PatchFormatError(message, rule=Rule.TRAILING_DATA, offset=pos + 1)


def run(data: bytes, end: int, table: Table, limits: Limits, state: State | None = None) -> State:
    """Read the one pickle in ``data[:end]``, which is hostile. No byte from ``end`` on changes the result.

    Args:
        data: The stored bytes.
        end: Where the payload ends.
        table: The admitted names.
        limits: Limits on the cost of the payload.
        state: The state after a known beginning. It is not changed.

    Returns:
        The state at STOP: ``levels[0][0]`` is the object that the pickle leaves (plain data, ``Record``, ``Block``).

    Raises:
        UnsafePickleError: A global outside the table, or an opcode, call or structure that no patch needs.
        LimitExceededError: The pickle is larger or longer than ``limits`` allow.
        PatchFormatError: The payload is not a pickle, is cut short or damaged, or data follows it.
    """
    if end > limits.max_value_bytes:
        raise LimitExceededError(
            f"the value has {end} bytes, expected at most {limits.max_value_bytes}; if it is honest, pass "
            "Limits(max_value_bytes=...)",
            rule=Rule.LIMIT,
        )
    if end < 1 or data[0] != 0x80:
        raise PatchFormatError(
            f"not a pickle: it starts with {printable(data[: min(end, 8)])}, expected PROTO, b'\\x80'",
            rule=Rule.NOT_A_PICKLE,
            offset=0,
        )
    try:
        return _run(data, end, table, limits, State() if state is None else state.fork(end), _NO_FRAME)
    except UntrustedDataError:
        if end < len(data):  # it may have read the bytes that follow; find the reason without them
            return run(data[:end], end, table, limits, state)
        raise


def state_at(data: bytes, end: int, table: Table, limits: Limits, until: int) -> State:
    """Return the state at position ``until`` of a payload that ``run`` has accepted with the same arguments."""
    return _run(data, end, table, limits, State(), until)


def _run(data: bytes, end: int, table: Table, limits: Limits, state: State, until: int) -> State:
    """Run opcodes to STOP, which must be the last byte, or to ``until``. ``state`` is changed."""
    outer, memo, blocks, named, sealed = state.levels, state.memo, state.blocks, state.named, state.sealed
    stack = outer.pop()  # above the innermost mark; ``outer`` holds the stacks below
    pos, text, numeric = state.pos, state.text, state.numeric
    frame_at, frame_end = state.frame_at, state.frame_end
    try:
        for ops in range(state.ops, limits.max_opcodes + 1):  # noqa: B007
            op = data[pos]
            after = pos + 1
            if op == 0x94:  # MEMOIZE
                item = stack[-1]
                if type(item) in _CHANGEABLE:
                    if id(item) in named:
                        _refuse("one object is stored in the memo twice")
                    named[id(item)] = len(memo)
                memo.append(item)
            elif op == 0x68 or op == 0x6A:  # BINGET, LONG_BINGET
                after = pos + (2 if op == 0x68 else 5)
                item = memo[data[pos + 1] if op == 0x68 else int.from_bytes(data[pos + 1 : after], "little")]
                if type(item) in _CHANGEABLE:
                    sealed.add(id(item))
                stack.append(item)
            elif op == 0x8C:  # SHORT_BINUNICODE
                after = pos + 2 + data[pos + 1]
                stack.append(str(data[pos + 2 : after], "utf-8", "surrogatepass"))
            elif op == 0x4B:  # BININT1
                stack.append(data[pos + 1])
                after = pos + 2
            elif op == 0x28:  # MARK
                outer.append(stack)
                stack = []
            elif op in _CONSTANTS:
                stack.append(_CONSTANTS[op])
            elif op in _FRESH:
                stack.append(_FRESH[op]())
            elif op == 0x75 or op == 0x65 or op == 0x90:  # SETITEMS, APPENDS, ADDITEMS
                items, stack = stack, outer.pop()
                if op == 0x75:
                    _fill_dict(stack, items, sealed)
                elif op == 0x65:
                    _open(stack, list, sealed).extend(items)
                    if items and type(items[0]) is Record:
                        state.cut = after
                else:
                    numeric = _fill_set(stack, items, sealed, numeric)
            elif 0x85 <= op <= 0x87:  # TUPLE1, TUPLE2, TUPLE3
                items = [stack.pop() for _ in range(op - 0x84)]
                stack.append(tuple(items[::-1]))
            elif op == 0x62:  # BUILD
                item = stack.pop()
                if type(item) is not dict and type(item) is not tuple:
                    _refuse(f"the state of an object is a {kind_of(item)}")
                _open(stack, Record, sealed).state = item
            elif op == 0x52 or op == 0x81:  # REDUCE, NEWOBJ
                item, function = stack.pop(), stack.pop()
                stack.append(_record(function, item, (Use.BUILDER, Use.CALL) if op == 0x52 else (Use.CLASS,)))
            elif op == 0x74:  # TUPLE
                items, stack = stack, outer.pop()
                stack.append(tuple(items))
            elif op == 0x42 or op == 0x43 or op == 0x96:  # BINBYTES, SHORT_BINBYTES, BYTEARRAY8
                start = pos + (5 if op == 0x42 else 2 if op == 0x43 else 9)
                after = _bounded(data, pos + 1, start - pos - 1, end)
                if after - start >= BLOCK_BYTES:
                    blocks.append(Block(start, after, op == 0x96))
                    stack.append(blocks[-1])
                else:
                    stack.append(bytearray(data[start:after]) if op == 0x96 else data[start:after])
            elif op == 0x93:  # STACK_GLOBAL
                name, module = stack.pop(), stack.pop()
                stack.append(_row(table, module, name, limits))
                state.names.add((module, name))
            elif op == 0x61:  # APPEND
                item = stack.pop()
                _open(stack, list, sealed).append(item)
            elif op == 0x73:  # SETITEM
                item, key = stack.pop(), stack.pop()
                _fill_dict(stack, [key, item], sealed)
            elif op == 0x4D or op == 0x4A:  # BININT2, BININT
                after = pos + (3 if op == 0x4D else 5)
                stack.append(int.from_bytes(data[pos + 1 : after], "little", signed=op == 0x4A))
            elif op == 0x47:  # BINFLOAT
                stack.append(_read_float(data, pos + 1)[0])
                after = pos + 9
            elif op == 0x8A:  # LONG1
                after = _bounded(data, pos + 1, 1, end)
                if after - pos - 2 > limits.max_int_bytes:
                    _exceed("bytes of an integer", after - pos - 2, limits.max_int_bytes)
                stack.append(int.from_bytes(data[pos + 2 : after], "little", signed=True))
            elif op == 0x58:  # BINUNICODE
                after = _bounded(data, pos + 1, 4, end)
                text += after - pos - 5
                if text > limits.max_text_bytes:
                    _exceed("bytes of text", text, limits.max_text_bytes)
                stack.append(str(data[pos + 5 : after], "utf-8", "surrogatepass"))
            elif op == 0x95:  # FRAME
                after = pos + 9
                if frame_end != _NO_FRAME:
                    _refuse("a frame begins inside a frame")
                frame_end = _bounded(data, pos + 1, 8, end + 1)
                if frame_end == after:
                    _refuse("an empty frame")
                frame_at = pos + 1 if frame_end == end else 0
            elif op == 0x80:  # PROTO
                after = pos + 2
                if pos or data[1] not in (4, 5):
                    _refuse(f"protocol {data[pos + 1]}: patches declare 4 or 5, once, at the start")
            elif op == 0x2E and pos < end:  # STOP
                break
            else:
                _refuse(f"the opcode 0x{op:02x} is not needed by any patch", Rule.FORBIDDEN_OPCODE)
            if after >= frame_end:
                if after > frame_end:
                    _refuse("an opcode crosses the end of its frame")
                frame_end = _NO_FRAME
            pos = after
            if pos == until:
                break
        else:
            _exceed("opcodes", limits.max_opcodes + 1, limits.max_opcodes)
        outer.append(stack)
        state.pos, state.ops, state.text, state.numeric = pos, ops + 1, text, numeric
        state.frame_at, state.frame_end = frame_at, frame_end
        if until == _NO_FRAME:
            _check_end(pos, end, state, limits)
    except (IndexError, struct.error):
        raise _with_position(PatchFormatError(_CUT_SHORT, rule=Rule.MALFORMED), data, pos) from None
    except UnicodeDecodeError as error:
        raise _with_position(PatchFormatError(_NOT_UTF8, rule=Rule.MALFORMED), data, pos) from error
    except UntrustedDataError as error:
        raise _with_position(error, data, pos) from None
    return state
