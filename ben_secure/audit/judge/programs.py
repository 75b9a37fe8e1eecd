"""Tell pickles by their program, the pixels and labels aside, so that one analysis of it serves thousands of values.

Walks opcodes by their lengths only; never runs, builds or resolves anything, and decides nothing: a fingerprint says
which values fickling need not be asked about again (``audit.opinion.opinions``). What it cannot walk it takes as it is.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from hashlib import blake2b

from ben_secure.pickles.names import TABLE
from ben_secure.signing.footer import payload_end
from ben_secure.tensors.reading import SIGN

_BLOCK_BYTES = 512
"""A bytes object of this size or more is pixels; fickling is shown a few bytes of it."""
_SHOWN_BYTES = 16
_DIGEST_BYTES = 16
_MAX_TEMPLATES = 8
"""An archive has one or two. Each that begins like a value may cost a walk over it."""
_MAX_TAILS = 4_096
_MAX_TAIL_BYTES = 4_096

MAX_PROGRAM_BYTES = 64 * 2**10
"""Longest program that fickling is asked about, pixels aside; an honest one has at most 15 kB."""
MAX_PROGRAM_OPCODES = 5_000
"""Most opcodes of one; an honest one has some 1,000."""

_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_FIXED: list[int | None] = [None] * 256
_PREFIXED: dict[int, int] = {}
_LINES: dict[int, int] = {}
for _opcode in pickletools.opcodes:
    _code, _argument = ord(_opcode.code), _opcode.arg
    if _argument is None:
        _FIXED[_code] = 0
    elif _argument.n >= 0:
        _FIXED[_code] = _argument.n
    elif _argument.n == pickletools.UP_TO_NEWLINE:
        _LINES[_code] = 2 if _opcode.name in ("GLOBAL", "INST") else 1
    else:
        _PREFIXED[_code] = _LENGTH_BYTES[_argument.n]

_STOP = ord(".")
_FRAME = 0x95
_BYTES_CODES = frozenset(b"B\x8e\x96")  # BINBYTES, BINBYTES8, BYTEARRAY8
_BYTEARRAY8 = 0x96
_TEXT_CODES = frozenset(b"\x8cX\x8d")
_GET_CODES = frozenset(b"hj")
_MEMOIZE = 0x94
_TEXT = b"X"  # in a skeleton, one text or more
# Opcodes that differ in nothing but the size of their argument: texts, integers, bytes.
_ALIKE = [bytes([code]) for code in range(256)]
for _group in (b"\x8cX\x8d", b"KMJ\x8a\x8b", b"CB\x8e"):
    for _code in _group:
        _ALIKE[_code] = _group[:1]
# A loaded value names no other globals than these, so strings that are none of them are labels or other metadata.
_NAMES = frozenset(part.encode() for pair in TABLE for part in pair)


def _walk(data: bytes, place: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Walk opcodes by their lengths.

    Yields:
        Code, place of the opcode, place of its argument without the length, place of the next opcode. Ends at ``end``
        or before the first opcode that is unknown or cut short.
    """
    while place < end:
        code = data[place]
        argument = place + 1
        fixed = _FIXED[code]
        if fixed is not None:
            following = argument + fixed
        elif code in _PREFIXED:
            argument += _PREFIXED[code]
            following = argument + int.from_bytes(data[place + 1 : argument], "little")
        elif code in _LINES:
            following = argument
            for _ in range(_LINES[code]):
                following = data.find(b"\n", following, end) + 1 or end + 1
        else:
            return
        if following > end:
            return
        yield code, place, argument, following
        place = following


def without_pixels(value: bytes) -> bytes | None:
    """Write the program of a value with every long bytes object cut short.

    Args:
        value: The stored bytes; hostile. The footer of a tagged value is left out.

    Returns:
        A pickle with the opcodes of the value, in their order; a bytearray is written as bytes, which is the same to
        whoever runs nothing, because fickling cannot read it. Bytes behind a STOP and bytes that are no opcodes stay.
        None if it is longer than ``MAX_PROGRAM_BYTES`` or ``MAX_PROGRAM_OPCODES``.
    """
    end = payload_end(value)
    parts: list[bytes] = []
    done = size = 0
    for opcodes, (code, place, argument, following) in enumerate(_walk(value, 0, end)):
        if opcodes >= MAX_PROGRAM_OPCODES or size + place - done > MAX_PROGRAM_BYTES:
            return None
        if code == _BYTEARRAY8 or (code in _BYTES_CODES and following - argument >= _BLOCK_BYTES):
            shown = value[argument : min(following, argument + _SHOWN_BYTES)]
            parts += [value[done:place], b"B", len(shown).to_bytes(4, "little"), shown]
            size += place - done + 5 + len(shown)
            done = following
    if size + end - done > MAX_PROGRAM_BYTES:
        return None
    return b"".join([*parts, value[done:end]])


def _is_left_out(code: int, size: int) -> bool:
    """Whether an argument is no part of the program: pixels, and the length of a frame, which is that of its texts."""
    return code == _FRAME or (code in _BYTES_CODES and size >= _BLOCK_BYTES)


class _Template:
    """The segments before, between and behind what is left out that values share, and the tails that were seen."""

    __slots__ = ("hash", "memoized", "segments", "tails")

    def __init__(self, segments: tuple[tuple[bytes, int], ...], memoized: int) -> None:
        self.segments = segments
        self.memoized = memoized  # entries that they put into the memo
        self.hash = blake2b(b"".join(segment for segment, _ in segments), digest_size=_DIGEST_BYTES)
        self.tails: dict[bytes, bytes] = {}

    def fingerprint(self, value: bytes, end: int) -> bytes | None:
        """Fingerprint of a value that has these segments and no others; None if it is not one."""
        place = 0
        for segment, block in self.segments:
            if not value.startswith(segment, place):
                return None
            place += len(segment) + block
        tail = value[place:end]
        found = self.tails.get(tail)
        if found is None:
            skeleton = _skeleton(tail, self.memoized)
            if skeleton is None:
                return None
            digest = self.hash.copy()
            digest.update(b"\0" + skeleton)
            found = digest.digest()
            if len(tail) <= _MAX_TAIL_BYTES:
                if len(self.tails) >= _MAX_TAILS:
                    self.tails.clear()
                self.tails[tail] = found
        return found


class Programs:
    """Fingerprints of the programs of one database, or of a part of it.

    Laws: a fingerprint follows from the value alone, whatever was seen before; values that load and whose programs
    differ in nothing but pixels, numbers, texts and how many texts stand in a row have one fingerprint.
    """

    def __init__(self) -> None:
        self._templates: list[_Template] = []

    def accepted(self, value: bytes) -> bytes:
        """Fingerprint of a pickle that the loader accepts; some microseconds if its like was seen.

        Args:
            value: The stored bytes, a pickle, with or without a footer.

        Returns:
            16 bytes.
        """
        end = payload_end(value)
        for place, template in enumerate(self._templates):
            fingerprint = template.fingerprint(value, end)
            if fingerprint is not None:
                if place:
                    self._templates.insert(0, self._templates.pop(place))
                return fingerprint
        return self._learn(value, end)

    def refused(self, value: bytes) -> bytes | None:
        """Fingerprint of a value that was refused: all of it but the pixels, since what is called with what matters.

        Args:
            value: The stored bytes; hostile.

        Returns:
            16 bytes, the same ones for all programs that are too long for fickling; None if it is a safetensors file.
        """
        if value[4:9] == SIGN:
            return None
        program = without_pixels(value)
        return blake2b(b"\2" if program is None else b"\1" + program, digest_size=_DIGEST_BYTES).digest()

    def _learn(self, value: bytes, end: int) -> bytes:
        segments: list[tuple[bytes, int]] = []
        done = memoized = entries = 0
        for code, _, argument, following in _walk(value, 0, end):
            entries += code == _MEMOIZE
            if _is_left_out(code, following - argument):
                segments.append((value[done:argument], following - argument))
                done, memoized = following, entries
        template = _Template(tuple(segments), memoized)
        self._templates = [template, *self._templates[: _MAX_TEMPLATES - 1]]
        return template.fingerprint(value, end) or template.hash.digest()


def _skeleton(tail: bytes, memoized: int) -> bytes | None:
    """The opcodes of a tail without numbers, texts and bytes, but with memo indices and what may name a global.

    Texts in a row count as one, and so do those that come from the memo, since there are more labels or fewer.

    Args:
        tail: The end of a program.
        memoized: Entries that the memo has before it.

    Returns:
        Bytes that are equal for tails that are alike; None if there is a pixel block or a frame in it, and so more
        than a tail.
    """
    parts = [b""]
    memo: list[bytes] = []  # what the tail adds: texts, and the number of what is none
    others = following = 0
    for code, _, argument, following in _walk(tail, 0, len(tail)):
        part = _ALIKE[code]
        if code == _MEMOIZE:
            if parts[-1] == _TEXT:
                memo.append(_TEXT)
                continue
            memo.append(b"m%d\0" % others)
            others += 1
        elif code in _GET_CODES:
            index = int.from_bytes(tail[argument:following], "little")
            own = index - memoized
            part = memo[own] if 0 <= own < len(memo) else b"h%d\0" % index
        elif code in _TEXT_CODES:
            name = tail[argument:following]
            part = part + name + b"\0" if name in _NAMES else _TEXT
        elif _is_left_out(code, following - argument):
            return None
        if part != _TEXT or parts[-1] != _TEXT:
            parts.append(part)
        if code == _STOP:
            break
    return b"".join([*parts, tail[following:]])
