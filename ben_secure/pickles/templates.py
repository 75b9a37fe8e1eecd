"""The one memory between values: equal bytes outside the pixels give an equal patch, except for the pixels.

Key: every byte of a value outside its blocks. A ``Head`` holds these bytes up to a position after the last block. Its
``tails`` are keyed by all bytes after that position.

Why equal keys give equal results: the machine never reads the content of a block. A template is made only of a patch
whose pixels are exactly the blocks of its value, each once, unchanged, in a known order, without gaps, and whose
metadata is text and numbers, never bytes. So class, layout and metadata were computed only from the bytes outside the
blocks, under the rules of one ``Loader``. Equal bytes give equal results. There is one exception: the length of a last
frame that ends with the value. ``Head.fits`` computes the length that it must have. A head without a known tail saves
work, too: the machine continues from its state, which no value can change.

Budget: ``MAX_BYTES``, which counts programs, states and every copy of metadata. A template of more than a few kB is not
learned. When the budget is spent, everything is forgotten.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ben_secure.errors import PatchFormatError
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.pickles.arrays import take
from ben_secure.pickles.legacy import BandFacts, band_facts
from ben_secure.pickles.machine import State
from ben_secure.pickles.names import BAND_CLASSES
from ben_secure.pickles.records import Block, is_record

MAX_BYTES = 6 * 2**20
"""Budget of one ``Templates``. BigEarthNet has about 3,000 sets of labels, which take 2 kB each."""
_MAX_HEAD_BYTES = 16 * 2**10  # an honest S1+S2 value has 8 kB outside its pixels
_MAX_TAIL_COST = 5 * 2**10
_MAX_HEADS = 8
_OPCODE_COST = 250  # an empty set, the largest thing that one opcode makes, has 216 bytes
_TEMPLATE_COST = 800  # measured: bytes of a template without its metadata
_IMMUTABLE = frozenset({str, int, float, bool, type(None)})


class Template:
    """A patch without its pixels.

    Attributes:
        note: A small object for ``Loader.note``, or None.
    """

    __slots__ = ("_layout", "_parts", "_patch_class", "_stored", "note")

    def __init__(self, patch: BigEarthNetPatch, parts: Sequence[Block], note: object) -> None:
        self._patch_class = type(patch)
        self._layout = patch._layout
        self._stored = _copied(patch.__stored_args__)
        self._parts = parts
        self.note = note

    def patch(self, view: memoryview, aligned: int | None) -> BigEarthNetPatch:
        """Return the patch of a value that has this head and this tail. ``aligned`` is that of ``Loader.load``."""
        if len(self._parts) == 1:
            pixels = take(view, self._parts[0], aligned)
        else:
            pixels = bytearray().join([view[part.start : part.stop] for part in self._parts])
        return self._patch_class._assemble(self._layout, pixels, _copied(self._stored))


class Head:
    """The bytes of a value outside its blocks, up to a position after the last block, and the results from them.

    Attributes:
        end: That position.
        state: The machine's state there.
        bands: ``band_facts`` of the finished band records in that state, by identity.
        tails: Templates by all bytes after that position.
    """

    __slots__ = ("_least", "_segments", "bands", "end", "state", "tails")

    def __init__(self, payload: bytes, state: State) -> None:
        self.state = state
        self.end = state.pos
        # A frame that begins here, and does not end with the payload, must lie in every payload.
        self._least = max(self.end + 1, 0 if state.frame_at or state.frame_end > len(payload) else state.frame_end)
        self.tails: dict[bytes, Template] = {}
        self.bands: dict[int, BandFacts] = {}
        self._segments: list[tuple[int, int, bytes]] = []
        at, start = state.frame_at, 0
        for block in [*state.blocks, Block(self.end, self.end, False)]:
            split = at and start <= at < block.start  # the length of the last frame is left out
            for begin, end in [(start, at), (at + 8, block.start)] if split else [(start, block.start)]:
                self._segments.append((begin, end, payload[begin:end]))
            start = block.stop
        for item in state.memo:
            if is_record(item, *BAND_CLASSES) and item.is_complete:
                try:
                    self.bands[id(item)] = band_facts(item)
                except PatchFormatError:  # refused when it is used
                    continue

    def fits(self, data: bytes | memoryview, end: int) -> bool:
        """Whether the payload ``data[:end]`` begins with these bytes, with any content of the blocks."""
        at = self.state.frame_at
        if end < self._least or (at and int.from_bytes(data[at : at + 8], "little") != end - at - 8):
            return False
        for start, stop, segment in self._segments:  # noqa: SIM110 - a generator costs twice the time
            if bytes(data[start:stop]) != segment:
                return False
        return True

    def cost(self) -> int:
        """Upper bound on the bytes that the head holds, without its templates."""
        return 5 * sum(len(segment) for *_, segment in self._segments) + _OPCODE_COST * self.state.ops


class Templates:
    """Heads and templates under the rules of one ``Loader``. Threads may share it."""

    def __init__(self) -> None:
        self._heads: tuple[Head, ...] = ()
        self._held = 0
        self._missed = False
        self._lock = threading.Lock()

    def head(self, data: bytes | memoryview, end: int) -> Head | None:
        """Return the known head with which the payload ``data[:end]`` begins, or None."""
        for head in self._heads:
            if head.fits(data, end):
                return head
        return None

    def learn(
        self, head: Head | None, payload: bytes, left: State, parts: Sequence[Block],
        patch: BigEarthNetPatch, note: object, state_at: Callable[[int], State],
    ) -> None:  # fmt: skip
        """Remember a value that was read, if the module's docstring admits it and it saves work.

        Args:
            head: The result of ``head`` for it.
            payload: The value without its footer.
            left: The machine's state at its end.
            parts: All blocks of the value, each once, in the order of the patch's pixels.
            patch: The patch.
            note: The note of ``Template``.
            state_at: Returns the machine's state at a position of this payload.
        """
        blocks, stored = left.blocks, patch.__stored_args__
        end = max(blocks[-1].stop, left.cut)
        if patch._layout.gaps:
            return
        if head is None:
            self._missed = not self._missed  # a single value does not justify a second run of its beginning
            if self._missed or end - sum(map(len, blocks)) > _MAX_HEAD_BYTES:
                return
            head = Head(payload, state_at(end))
            if not self._add(head.cost()):
                return
            self._heads = (head, *self._heads[: _MAX_HEADS - 1])
        if head.end == end and _is_flat(stored):
            cost = _TEMPLATE_COST + len(payload) - end + _size(stored)
            if cost <= _MAX_TAIL_COST and self._add(cost):
                head.tails[payload[end:]] = Template(patch, parts, note)

    def _add(self, cost: int) -> bool:
        """Count bytes to be held. If the budget does not allow them, forget everything."""
        with self._lock:
            self._held += cost
            if self._held > MAX_BYTES:
                self._heads, self._held = (), 0
                return False
            return True


def _is_flat(stored: dict[str, Any]) -> bool:
    """Whether ``_copied`` copies all metadata that can change, and no list occurs twice."""
    lists = [value for value in stored.values() if type(value) not in _IMMUTABLE]
    all_flat = all(type(value) is list and _IMMUTABLE.issuperset(map(type, value)) for value in lists)
    return all_flat and len(set(map(id, lists))) == len(lists)


def _copied(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if type(value) is list else value for name, value in stored.items()}


def _size(stored: dict[str, Any]) -> int:
    """Bytes of flat metadata."""
    items = [item for value in stored.values() if type(value) is list for item in value]
    return sum(map(sys.getsizeof, [stored, *stored, *stored.values(), *items]))
