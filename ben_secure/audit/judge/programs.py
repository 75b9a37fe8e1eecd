"""Fingerprint the program of a pickle without its pixels and labels.

Thousands of values share one program, so fickling is asked once for each fingerprint (``audit.opinion.opinions``). A
fingerprint is computed from the value alone and decides nothing. Opcodes are decoded by ``pickletools``, which executes
none of them. No name is resolved.
"""

from __future__ import annotations

import codecs
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
"""Maximum size of a program that is passed to fickling, without pixels; an honest one has at most 15 kB."""
MAX_PROGRAM_OPCODES = 5_000
"""Maximum number of its opcodes; an honest program has about 1,000."""
_KEPT_BYTES = 16  # of each long bytes object
codecs.lookup("raw-unicode-escape")  # pickletools uses it: nothing is imported while a value is read


class _Stream(io.BytesIO):
    """Limits the length of a line, because ``int()`` of a long decimal takes time quadratic in its length."""

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(MAX_PROGRAM_BYTES)


def opcodes(data: bytes) -> Iterator[tuple[str, object, int, int]]:
    """Decode opcodes one by one, past each STOP, up to the end or the first bytes that cannot be decoded.

    Time and memory are linear in the bytes consumed. The caller must bound the number of opcodes.

    Args:
        data: The bytes (untrusted).

    Yields:
        Name, argument, position, and position of the next opcode. If decoding fails, the last item has an empty name,
        the error as its argument, and as next position the end of the bytes that were read.
    """
    stream = _Stream(data)
    start = 0
    while start < len(data):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                yield opcode.name, argument, start, stream.tell()
                start = stream.tell()
        except Exception as error:  # on untrusted bytes pickletools raises ValueError and several other classes
            yield "", str(error), start, stream.tell()
            return


def without_pixels(value: bytes) -> bytes | None:
    """Write the program of a value with every long bytes object truncated.

    Args:
        value: The stored bytes (untrusted). The footer of a tagged value is left out.

    Returns:
        A pickle with the opcodes of the value in their order, including those after a STOP, and the first few bytes
        that cannot be decoded. A bytearray is written as bytes, because fickling cannot read a bytearray and the
        difference matters only when the program runs. None if the program exceeds ``MAX_PROGRAM_BYTES`` or
        ``MAX_PROGRAM_OPCODES``.
    """
    data = value[: payload_end(value)]
    program: list[bytes] = []
    size = 0
    for number, (name, argument, start, end) in enumerate(opcodes(data)):
        if isinstance(argument, bytearray) or (isinstance(argument, bytes) and len(argument) >= BLOCK_BYTES):
            kept = bytes(argument[:_KEPT_BYTES])
            program.append(b"B" + len(kept).to_bytes(4, "little") + kept)
        else:
            program.append(data[start:end] if name else data[start : start + _KEPT_BYTES])
        size += len(program[-1])
        if number >= MAX_PROGRAM_OPCODES or size > MAX_PROGRAM_BYTES:
            return None
    return b"".join(program)


def accepted_fingerprint(state: State) -> bytes:
    """Fingerprint the program of a pickle that the loader accepts.

    Law: values that differ only in pixels, numbers and texts, or in the count of these, have the same fingerprint.
    Values that name different globals have different fingerprints. The globals are enough, because a program that
    loads does only what the table admits for the globals that it names. All programs that are too long for fickling
    share one fingerprint of their own, since fickling may have an opinion on shorter programs with the same globals.

    Args:
        state: Final state of the machine.

    Returns:
        16 bytes.
    """
    size = state.pos + 1 + sum(_KEPT_BYTES - len(block) for block in state.blocks)
    if state.ops > MAX_PROGRAM_OPCODES or size > MAX_PROGRAM_BYTES:
        return _fingerprint(None)
    return _fingerprint(ascii(sorted(state.names)).encode())


def refused_fingerprint(value: bytes) -> bytes | None:
    """Fingerprint the program of a refused value.

    It covers all bytes that fickling sees, because calls and their arguments matter in a refused value.

    Args:
        value: The stored bytes (untrusted).

    Returns:
        16 bytes. All programs that are too long for fickling have one fingerprint. None if the value is a safetensors
        file.
    """
    return None if value[4:9] == SIGN else _fingerprint(without_pixels(value))


def _fingerprint(program: bytes | None) -> bytes:
    return blake2b(b"\2" if program is None else b"\1" + program, digest_size=16).digest()
