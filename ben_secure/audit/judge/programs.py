"""Tell pickles by their program, pixels and labels aside, so that one opinion on it serves thousands of values.

A fingerprint says which values fickling need not be asked about again (``audit.opinion.opinions``). It decides nothing,
and follows from the value alone. Opcodes are decoded by ``pickletools``, which executes none; nothing is resolved.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from hashlib import blake2b
from typing import TYPE_CHECKING

from ben_secure.pickles.records import BLOCK_BYTES
from ben_secure.signing.footer import payload_end
from ben_secure.tensors.reading import SIGN

if TYPE_CHECKING:
    from ben_secure.pickles.machine import State

MAX_PROGRAM_BYTES = 64 * 2**10
"""Longest program that fickling is asked about, pixels aside; an honest one has at most 15 kB."""
MAX_PROGRAM_OPCODES = 5_000
"""Most opcodes of one; an honest one has some 1,000."""
_SHOWN_BYTES = 16


class _Stream(io.BytesIO):
    """Has no line that is longer than a program: ``int()`` of a long decimal takes time quadratic in its length."""

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(MAX_PROGRAM_BYTES)


def opcodes(data: bytes) -> Iterator[tuple[str, object, int, int]]:
    """Decode opcode by opcode, also behind each STOP, until the end or until something cannot be decoded.

    Takes time and memory linear in the bytes that are taken from it; whoever takes bounds the number of opcodes.

    Args:
        data: The bytes; hostile.

    Yields:
        Name, argument, position, and position of the next one. If something cannot be decoded, the last name is empty,
        the argument says why, and the next position is how far it was read.
    """
    stream = _Stream(data)
    start = 0
    while start < len(data):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                yield opcode.name, argument, start, stream.tell()
                start = stream.tell()
        except Exception as error:  # whatever pickletools raises about hostile bytes; ValueError, mostly
            yield "", str(error), start, stream.tell()
            return


def without_pixels(value: bytes) -> bytes | None:
    """Write the program of a value with every long bytes object cut short.

    Args:
        value: The stored bytes; hostile. The footer of a tagged value is left out.

    Returns:
        A pickle with the opcodes of the value, in their order; a bytearray is written as bytes, which is the same to
        whoever runs nothing, because fickling cannot read it. So are opcodes behind a STOP, and a few bytes of what
        cannot be decoded. None if it is longer than ``MAX_PROGRAM_BYTES`` or ``MAX_PROGRAM_OPCODES``.
    """
    data = value[: payload_end(value)]
    parts: list[bytes] = []
    size = 0
    for number, (name, argument, start, end) in enumerate(opcodes(data)):
        if isinstance(argument, bytearray) or (isinstance(argument, bytes) and len(argument) >= BLOCK_BYTES):
            shown = bytes(argument[:_SHOWN_BYTES])
            parts.append(b"B" + len(shown).to_bytes(4, "little") + shown)
        else:
            parts.append(data[start:end] if name else data[start : start + _SHOWN_BYTES])
        size += len(parts[-1])
        if number >= MAX_PROGRAM_OPCODES or size > MAX_PROGRAM_BYTES:
            return None
    return b"".join(parts)


def accepted(state: State) -> bytes:
    """Fingerprint of a pickle that the loader accepts.

    Law: values that differ in nothing but pixels, numbers, texts and how many of these there are have one fingerprint;
    values that name other globals have others. A program that loads can do nothing but what the table admits for the
    globals that it names, so fickling has nothing else to judge. Programs that are too long for fickling have that of
    such programs: what it does not say of one it may well say of a shorter one.

    Args:
        state: Where the machine ended.

    Returns:
        16 bytes.
    """
    size = state.pos + 1 + sum(_SHOWN_BYTES - len(block) for block in state.blocks)
    if state.ops > MAX_PROGRAM_OPCODES or size > MAX_PROGRAM_BYTES:
        return _fingerprint(None)
    return _fingerprint(ascii(sorted(state.names)).encode())


def shown(value: bytes) -> bytes | None:
    """Fingerprint of all that fickling is shown of a value, since what is called with what matters if it is refused.

    Args:
        value: The stored bytes; hostile.

    Returns:
        16 bytes, the same ones for all programs that are too long for fickling; None if it is a safetensors file.
    """
    return None if value[4:9] == SIGN else _fingerprint(without_pixels(value))


def _fingerprint(program: bytes | None) -> bytes:
    return blake2b(b"\2" if program is None else b"\1" + program, digest_size=16).digest()
