"""Memory of the program segments that were already verified; only makes ``opcodes`` faster, never laxer.

An archive's values run the same program: all that differs is the pixels and the labels. A payload is cut into
segments at its pixel blocks and after its list of bands. What the walk concludes from a segment depends on nothing
but the state before it and its bytes, so (state before, bytes) -> state after can be remembered: a tree, whose nodes
are states and whose edges are segments compared byte for byte. A segment enters the tree only after the walk has
passed it; positions in a state are relative, so it holds wherever the segment lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from ben_secure.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from ben_secure.pickles._prefix import Prefix
    from ben_secure.pickles._steps import Item

Form: TypeAlias = Literal["B", "b"]
"""Format of the view of an opaque block: B for bytes, b for bytearray."""

CUT_BLOCK_BYTES = 512
"""A bytes object of this size or more is opaque and ends a segment."""
_MAX_EDGES = 16
_MAX_TREE_COST = 300_000
"""Abstract objects in all states of one tree. Some 20 MB; an honest archive needs a twentieth."""
MAX_STATE = 2_000
"""Abstract objects of a state that is worth remembering; an honest value has at most 400."""
_MAX_NODE_COST = 3_000
MAX_CUTS = 64
"""Segments of one value; an honest S1+S2 value has 17."""
_MAX_TREES = 8
_MAX_TAIL_BYTES = 2_048
_MAX_TAILS = 1_024
_VISITS = 3
_PREFIX_OPCODES = 100
"""Shorter beginnings are executed as fast as they are skipped."""


class Snapshot:
    """State of the walk between two segments; immutable."""

    __slots__ = ("frame_left", "long_text", "marks", "memo", "numeric", "ops", "stack")

    def __init__(
        self,
        stack: list[Item],
        marks: list[int],
        memo: list[Item],
        frame_left: int,
        ops: int,
        numeric: int,
        long_text: int,
    ) -> None:
        self.stack = tuple(stack)
        self.marks = tuple(marks)
        self.memo = tuple(memo)
        self.frame_left = frame_left
        self.ops = ops
        self.numeric = numeric
        self.long_text = long_text


class Tail(NamedTuple):
    """The last part of a value, when it has no opaque block: what of it is executed after the known segments.

    Attributes:
        program: Its opcodes.
        fetched: Memo entries of the captured prefix that its NEXT_BUFFER opcodes push, in order.
    """

    program: bytes
    fetched: tuple[int, ...]


class _Node:
    __slots__ = ("block", "edges", "form", "prefix", "program", "snapshot", "tails", "visits")

    def __init__(self, snapshot: Snapshot, program: bytes, block: int, form: Form) -> None:
        self.snapshot = snapshot
        self.program = program  # what of the segment that leads here is executed
        self.block = block  # opaque bytes after that segment
        self.form = form  # format of their view
        self.edges: tuple[tuple[bytes, _Node], ...] = ()
        self.tails: dict[bytes, Tail] = {}
        self.visits = 0  # values whose known segments ended here
        self.prefix: Prefix | None = None


class _Tree:
    __slots__ = ("cost", "root")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.root = _Node(Snapshot([], [], [], -1, 0, 0, 0), b"", 0, "B")
        self.cost = 0


_DEFAULT_TREE = _Tree()
_TREES: dict[tuple[Limits, frozenset[tuple[str, str]]], _Tree] = {}


class Segments:
    """A walk's place in the tree: first along known edges, then growing a new branch."""

    __slots__ = ("_node", "_start", "_tree")

    def __init__(self, tree: _Tree) -> None:
        self._tree = tree
        self._node = tree.root
        self._start = 0

    @classmethod
    def of(cls, limits: Limits, classes: frozenset[tuple[str, str]]) -> Segments:
        """The tree for these rules; a verdict under other limits or classes says nothing."""
        if limits is DEFAULT_LIMITS and not classes:  # saves the hash of the limits
            return cls(_DEFAULT_TREE)
        tree = _TREES.get((limits, classes))
        if tree is None:
            if len(_TREES) >= _MAX_TREES:
                _TREES.clear()
            tree = _TREES[limits, classes] = _Tree()
        return cls(tree)

    @staticmethod
    def forget() -> None:
        """Forget everything that was verified."""
        _TREES.clear()
        _DEFAULT_TREE.clear()

    def skip_known(self, data: bytes, program: list[bytes], blocks: list[memoryview]) -> tuple[Snapshot, int]:
        """Follow the segments that are known, collecting the program and the opaque blocks.

        Returns:
            The state after them and the position.
        """
        node, pos, end = self._node, 0, len(data)
        view = memoryview(data)
        found = True
        while found:
            found = False
            for segment, child in node.edges:
                if data.startswith(segment, pos):
                    start = pos + len(segment)
                    after = start + child.block
                    if after >= end or after + child.snapshot.frame_left > end:
                        continue  # cut short; the walk says where
                    pos = after
                    if child.block:
                        block = view[start:pos]
                        blocks.append(block if child.form == "B" else block.cast(child.form))
                    program.append(child.program)
                    node, found = child, True
                    break
        self._node, self._start = node, pos
        node.visits += 1
        return node.snapshot, pos

    def tail(self, data: bytes, pos: int) -> Tail | None:
        """What is known of everything that is left after the known segments: labels recur, too."""
        if len(data) - pos > _MAX_TAIL_BYTES:
            return None
        return self._node.tails.get(data[pos:])

    def remember_tail(self, data: bytes, pos: int, tail: Tail) -> None:
        """Keep the verdict on the last part of an admitted value."""
        if len(data) - pos <= _MAX_TAIL_BYTES:
            tails = self._node.tails
            if len(tails) >= _MAX_TAILS:
                tails.clear()
            tails[data[pos:]] = tail
            self._pay(2 * (len(data) - pos) // 32)

    def _pay(self, cost: int) -> None:
        self._tree.cost += cost
        if self._tree.cost > _MAX_TREE_COST:
            self._tree.clear()

    @property
    def prefix(self) -> Prefix | None:
        """The unpickler's state where the known segments end, if it was captured."""
        return self._node.prefix

    def wants_prefix(self) -> bool:
        """Whether enough values went this way for the state to be worth capturing."""
        node = self._node
        return node.prefix is None and node.visits >= _VISITS and node.snapshot.ops >= _PREFIX_OPCODES

    def here(self) -> Segments:
        """This place, to come back to."""
        place = Segments(self._tree)
        place._node = self._node
        return place

    def keep_prefix(self, prefix: Prefix) -> None:
        """Keep the captured state. The tails are written for the program that has none."""
        self._node.tails = {}
        self._node.prefix = prefix

    def remember(self, data: bytes, pos: int, block: int, form: Form, program: bytes, after: Snapshot) -> None:
        """Add the segment that ends at ``pos``, before ``block`` opaque bytes: its program and the state after."""
        segment = data[self._start : pos]
        child = _Node(after, program, block, form)
        cost = len(after.stack) + len(after.memo) + len(segment) // 32
        if cost <= _MAX_NODE_COST:
            self._pay(3 * cost)  # with the captured state
            # The newest first: a hostile archive can fill the tree but not keep an honest one out of it.
            self._node.edges = ((segment, child), *self._node.edges[: _MAX_EDGES - 1])
        self._node, self._start = child, pos + block
