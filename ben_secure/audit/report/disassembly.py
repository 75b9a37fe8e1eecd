"""List the opcodes of an untrusted value without running it.

``pickletools`` decodes each opcode separately and executes none. The listing is escaped. Its lines, the characters per
line, the opcodes read and the bytes read after the position of interest are bounded.
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
# Writing an integer in decimal takes time quadratic in its length. Python refuses beyond 4,300 digits.
_SHOWN_BITS = 512


def disassemble(value: bytes, refused_at: int | None) -> list[str]:
    """List the first opcodes of a value and those around a position, including opcodes after a STOP.

    Args:
        value: The stored bytes (untrusted).
        refused_at: Byte at which the loader refused the value. Its opcode is marked with ``>``. None lists only the
            beginning.

    Returns:
        At most ``_HEAD + _BEFORE + _AFTER`` lines of printable ASCII, and notes on omitted opcodes.
    """
    focus, after = (0, _HEAD + _BEFORE) if refused_at is None else (refused_at, _AFTER)
    head: list[str] = []
    tail: deque[str] = deque(maxlen=_BEFORE + _AFTER)
    skipped = 0
    rest = None
    # The loader stops at max_opcodes, so this range includes the position of the refusal.
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
    """List a few opcodes around a position in a value.

    Args:
        value: The stored bytes (untrusted).
        offset: The byte of interest, marked with ``>`` if an opcode begins there.

    Returns:
        At most ``_NEAR_BEFORE + _NEAR_AFTER + 1`` lines of printable ASCII. Empty if the value is not a pickle.
    """
    if value[:1] != b"\x80" or value[4:9] == SIGN:
        return []
    lines: deque[str] = deque(maxlen=_NEAR_BEFORE + _NEAR_AFTER + 1)
    after = _NEAR_AFTER
    for position, text in islice(_lines(value[: offset + _WINDOW_BYTES]), DEFAULT_LIMITS.max_opcodes + _NEAR_AFTER):
        if position > offset:
            if after == 0:
                break
            after -= 1
        lines.append(f"{'>' if position == offset else ' '} {text}")
    return list(lines)


def _lines(value: bytes) -> Iterator[tuple[int, str]]:
    """Decode the opcodes, past each STOP, up to the first bytes that cannot be decoded.

    Yields:
        Position and line.
    """
    for name, argument, position, end in opcodes(value):
        if name:
            yield position, f"{position:>9,}  {name:<17} {_format_argument(argument)}".rstrip()
        else:
            yield end, f"{'':11}-- cannot decode the rest: {printable(argument)} --"
        if name == "STOP" and end < len(value):
            yield position, f"{'':11}-- after the STOP --"


def _format_argument(argument: object) -> str:
    if argument is None:
        return ""
    if isinstance(argument, int) and argument.bit_length() > _SHOWN_BITS:
        return f"(integer of {argument.bit_length():,} bits)"
    if isinstance(argument, bytes | bytearray):
        return f"{printable(argument, _SHOWN_CHARACTERS)} ({len(argument):,} bytes)"
    if isinstance(argument, str):
        return ascii(argument[:_SHOWN_CHARACTERS]) + ("..." if len(argument) > _SHOWN_CHARACTERS else "")
    return printable(argument)
