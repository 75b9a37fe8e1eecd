"""List the opcodes of a value that nobody vouches for, without running it.

``pickletools`` decodes each opcode by itself and executes none. What is listed is escaped, and bounded in lines, in
characters a line, in opcodes read and in bytes read behind the place of interest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from ben_secure.audit.judge.programs import opcodes
from ben_secure.errors import printable
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.tensors.reading import SIGN

_HEAD, _BEFORE, _AFTER = 12, 40, 12
_NEAR_BEFORE, _NEAR_AFTER = 8, 4
_WINDOW_BYTES = 2**20
_SHOWN_CHARACTERS = 60
# Writing an integer in decimal takes time quadratic in its length; Python refuses to beyond 4,300 digits.
_SHOWN_BITS = 512


def disassemble(value: bytes, refused_at: int | None) -> list[str]:
    """List the opcodes around a place in a value; opcodes behind a STOP, as of a second pickle, too.

    Args:
        value: The stored bytes; hostile.
        refused_at: Byte at which the loader refused the value, marked with ``>``; None lists the beginning.

    Returns:
        At most ``_HEAD + _BEFORE + _AFTER`` lines of printable ASCII, and notes on what was left out.
    """
    focus, after = (0, _HEAD + _BEFORE) if refused_at is None else (refused_at, _AFTER)
    head: list[str] = []
    tail: deque[str] = deque(maxlen=_BEFORE + _AFTER)
    skipped = 0
    rest = None
    # The loader gives up at max_opcodes, so the place where it refused is among these.
    for position, text in islice(_lines(value[: focus + _WINDOW_BYTES]), DEFAULT_LIMITS.max_opcodes + _AFTER):
        if after == 0:
            rest = position
            break
        after -= position > focus
        line = f"{'>' if position == refused_at else ' '} {text}"
        if len(head) < _HEAD:
            head.append(line)
        else:
            skipped += len(tail) == tail.maxlen
            tail.append(line)
    gap = [f"            ... {skipped:,} opcodes left out ..."] if skipped else []
    end = [f"            ... the rest, from byte {rest:,} of {len(value):,}, left out ..."] if rest is not None else []
    return head + gap + list(tail) + end


def around(value: bytes, offset: int) -> list[str]:
    """List the few opcodes around a place in a value.

    Args:
        value: The stored bytes; hostile.
        offset: The byte of interest, marked with ``>`` if an opcode begins there.

    Returns:
        At most ``_NEAR_BEFORE + _NEAR_AFTER + 1`` lines of printable ASCII; empty if the value is no pickle.
    """
    if value[:1] != b"\x80" or value[4:9] == SIGN:
        return []
    found: deque[str] = deque(maxlen=_NEAR_BEFORE + _NEAR_AFTER + 1)
    after = _NEAR_AFTER
    for position, text in islice(_lines(value[: offset + _WINDOW_BYTES]), DEFAULT_LIMITS.max_opcodes + _NEAR_AFTER):
        if position > offset:
            if after == 0:
                break
            after -= 1
        found.append(f"{'>' if position == offset else ' '} {text}")
    return list(found)


def _lines(value: bytes) -> Iterator[tuple[int, str]]:
    """Decode opcode by opcode, beginning again behind each STOP; what cannot be decoded ends it.

    Yields:
        Position and line.
    """
    for name, argument, place, end in opcodes(value):
        if name:
            yield place, f"{place:>9,}  {name:<17} {_shown(argument)}".rstrip()
        else:
            yield end, f"{'':11}-- cannot be read on: {printable(argument)} --"
        if name == "STOP" and end < len(value):
            yield place, f"{'':11}-- behind the STOP --"


def _shown(argument: object) -> str:
    if argument is None:
        return ""
    if isinstance(argument, int) and argument.bit_length() > _SHOWN_BITS:
        return f"(integer of {argument.bit_length():,} bits)"
    if isinstance(argument, bytes | bytearray):
        return f"{printable(argument, _SHOWN_CHARACTERS)} ({len(argument):,} bytes)"
    if isinstance(argument, str):
        return ascii(argument[:_SHOWN_CHARACTERS]) + ("..." if len(argument) > _SHOWN_CHARACTERS else "")
    return printable(argument)
