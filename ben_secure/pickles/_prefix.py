"""The unpickler's state after a beginning that many values share, so that only the rest has to be executed.

Values of one archive begin with the same verified segments; what these leave on the stack and in the memo are inert
records, the same every time but for the opaque blocks. A ``Prefix`` is that state, captured once by executing the
segments between marks, with a ``Block`` in the place of each opaque block. A value is then read by a program that
pushes the captured objects (NEXT_BUFFER) and goes on with the rest.

What is shared between values is never changed: an object that the rest may still change (``opcodes`` knows which:
the unsealed ones) is made anew for each value, and nothing mutable leaves ``arrays.Resolver`` without a copy.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ben_secure.pickles._segments import frame
from ben_secure.pickles._steps import MARK, NEXT_BUFFER
from ben_secure.pickles.arrays import Block, Unbuilt

if TYPE_CHECKING:
    from ben_secure.pickles._segments import Snapshot


class Prefix:
    """What to push before the rest of a program, and what the rest may fetch from the memo."""

    __slots__ = ("_changeable", "_items", "memo", "preamble")

    def __init__(self, snapshot: Snapshot, stack: list[Any], memo: dict[int, Any]) -> None:
        self.memo = memo
        self.preamble = b"".join(b"(" if item is MARK else NEXT_BUFFER for item in snapshot.stack)
        self._items = [found for item, found in zip(snapshot.stack, stack, strict=True) if item is not MARK]
        self._changeable: list[tuple[int, int]] = []  # place among the items, index in the memo or -1
        for place, item in enumerate(item for item in snapshot.stack if item is not MARK):
            if not isinstance(item, str) and not item[4] and not _sealed(snapshot, item[3]):
                self._changeable.append((place, item[3]))

    def begin(self) -> tuple[list[Any], dict[int, Any]]:
        """What one value pushes, and the memo entries that are this value's own."""
        items, own = self._items.copy(), {}
        for place, index in self._changeable:
            items[place] = own[index] = _anew(items[place])
        return items, own


def _sealed(snapshot: Snapshot, index: int) -> bool:
    """Whether an object was fetched from the memo since: then it has a second place, and cannot be changed any more."""
    item = snapshot.memo[index] if index >= 0 else None
    return isinstance(item, tuple) and item[4]


def _anew(captured: Any) -> Any:
    """A copy of an object that is not finished: a container, or a stand-in without its state."""
    if not isinstance(captured, Unbuilt):
        return captured.copy()
    copy = object.__new__(type(captured))
    if hasattr(captured, "arguments"):
        copy.arguments = captured.arguments
    return copy


def capture(unpickler: type[pickle.Unpickler], program: Sequence[bytes], snapshot: Snapshot, blocks: int) -> Prefix:
    """Execute verified segments alone and keep what they leave behind.

    Args:
        unpickler: Resolves globals to stand-ins.
        program: The segments, as ``opcodes`` wrote them.
        snapshot: The state that ``opcodes`` found after them.
        blocks: How many opaque blocks they have.

    Returns:
        The state.
    """
    # A mark below all, and a TUPLE for each mark: the stack comes out as tuples, each the last item of the one before.
    opcodes = frame(b"".join((b"(", *program, b"t" * (len(snapshot.marks) + 1), b".")))
    reader = unpickler(io.BytesIO(opcodes), buffers=[Block(place) for place in range(blocks)])
    level = reader.load()
    stack: list[Any] = []
    for _ in snapshot.marks:
        *found, level = level
        stack += [*found, None]  # in the place of the mark
    return Prefix(snapshot, [*stack, *level], reader.memo.copy())
