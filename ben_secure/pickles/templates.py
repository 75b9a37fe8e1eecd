"""The one memory between values: one that equals a value that was read, pixels aside, is that patch with its pixels.

What it is keyed by: every byte of a value outside its blocks. A ``Head`` has those up to a place behind the last block;
its ``tails`` are keyed by all that follow.

Why equal keys give equal results: the machine never looks into a block, and a template is made only of a patch whose
pixels are exactly the blocks of its value, each once, unchanged, in a known order, without gaps, and whose metadata is
text and numbers (never bytes). So class, layout and metadata were computed from the bytes outside the blocks alone,
under the rules of one ``Loader``; from the same bytes they come out the same. The one exception is the length of a last
frame that ends with the value: ``Head.fits`` computes what it must be. A head without a known tail saves work, too: the
machine goes on from its state, which no value can change.

How many bytes it may hold: ``MAX_BYTES``, counting programs, states and every copy of metadata. What takes more than a
few kB is not learned. When the budget is spent, everything is forgotten.
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
"""Budget of one ``Templates``. BigEarthNet has some 3,000 sets of labels, which take 2 kB each."""
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
        """The patch of a value that has this head and this tail; ``aligned`` as for ``Loader.load``."""
        if len(self._parts) == 1:
            pixels = take(view, self._parts[0], aligned)
        else:
            pixels = bytearray().join([view[part.start : part.stop] for part in self._parts])
        return self._patch_class._assemble(self._layout, pixels, _copied(self._stored))


class Head:
    """All bytes of a value up to a place behind its last block, the blocks aside; and what follows from them.

    Attributes:
        end: That place.
        state: The machine's state there.
        bands: ``band_facts`` of the finished band records in that state, by identity.
        tails: Templates by all bytes that follow.
    """

    __slots__ = ("_least", "_segments", "bands", "end", "state", "tails")

    def __init__(self, payload: bytes, state: State) -> None:
        self.state = state
        self.end = state.pos
        # A frame that begins here and ends elsewhere than the payload has to lie in every payload.
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
                except PatchFormatError:  # it is refused where it is used
                    continue

    def fits(self, data: bytes | memoryview, end: int) -> bool:
        """Whether the payload ``data[:end]`` begins so, with any content of the blocks."""
        at = self.state.frame_at
        if end < self._least or (at and int.from_bytes(data[at : at + 8], "little") != end - at - 8):
            return False
        for start, stop, segment in self._segments:  # noqa: SIM110 - a generator costs twice the time
            if bytes(data[start:stop]) != segment:
                return False
        return True

    def cost(self) -> int:
        """Bytes that the head holds without its templates; rather too many than too few."""
        return 5 * sum(len(segment) for *_, segment in self._segments) + _OPCODE_COST * self.state.ops


class Templates:
    """Heads and templates under the rules of one ``Loader``; threads may share it."""

    def __init__(self) -> None:
        self._heads: tuple[Head, ...] = ()
        self._held = 0
        self._missed = False
        self._lock = threading.Lock()

    def head(self, data: bytes | memoryview, end: int) -> Head | None:
        """The head that the payload ``data[:end]`` begins with, if it is known."""
        for head in self._heads:
            if head.fits(data, end):
                return head
        return None

    def learn(
        self, head: Head | None, payload: bytes, left: State, parts: Sequence[Block],
        patch: BigEarthNetPatch, note: object, state_at: Callable[[int], State],
    ) -> None:  # fmt: skip
        """Remember a value that was read, if that is worth it and may be (see the module's docstring).

        Args:
            head: What ``head`` returned for it.
            payload: The value without its footer.
            left: The machine's state at its end.
            parts: All blocks of the value, each once, in the order of the patch's pixels.
            patch: The patch.
            note: As in ``Template``.
            state_at: Gives the machine's state at a position of this payload.
        """
        blocks, stored = left.blocks, patch.__stored_args__
        end = max(blocks[-1].stop, left.cut)
        if patch._layout.gaps:
            return
        if head is None:
            self._missed = not self._missed  # one value alone is not worth a second run of its beginning
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
        """Count bytes that are to be held; if there are too many, forget everything instead."""
        with self._lock:
            self._held += cost
            if self._held > MAX_BYTES:
                self._heads, self._held = (), 0
                return False
            return True


def _is_flat(stored: dict[str, Any]) -> bool:
    """Whether ``_copied`` copies all metadata that can change, and no list of it is in two places."""
    lists = [value for value in stored.values() if type(value) not in _IMMUTABLE]
    plain = all(type(value) is list and _IMMUTABLE.issuperset(map(type, value)) for value in lists)
    return plain and len(set(map(id, lists))) == len(lists)


def _copied(stored: dict[str, Any]) -> dict[str, Any]:
    return {name: value.copy() if type(value) is list else value for name, value in stored.items()}


def _size(stored: dict[str, Any]) -> int:
    """Bytes of flat metadata."""
    items = [item for value in stored.values() if type(value) is list for item in value]
    return sum(map(sys.getsizeof, [stored, *stored, *stored.values(), *items]))
