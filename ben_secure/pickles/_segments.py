"""Memory of the program segments that were already verified; only makes ``opcodes`` faster, never laxer.

An archive's values run the same program: all that differs is the pixels and the labels. A payload is cut into
segments at its pixel blocks. What the walk concludes from a segment depends on nothing but the state before it and
its bytes, so (state before, bytes) -> state after can be remembered: a tree, whose nodes are states and whose edges
are segments compared byte for byte. A segment enters the tree only after the walk has passed it; positions in a
state are relative, so it holds wherever the segment lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from ben_secure.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from ben_secure.pickles._steps import Item

Form: TypeAlias = Literal["B", "b"]
"""Format of the view of an opaque block: B for bytes, b for bytearray."""

CUT_BLOCK_BYTES = 512
"""A bytes object of this size or more is opaque and ends a segment."""
CUT_AFTER_OPCODES = 16
"""A list that is filled this many opcodes after the last cut ends a segment too: the list of bands, in the last part
of a value, comes before the labels, which differ from value to value."""
_MAX_EDGES = 16
_MAX_TREE_COST = 100_000
"""Abstract objects in all states of one tree. Some 20 MB; an honest archive needs a twentieth."""
MAX_STATE = 2_000
"""Abstract objects of a state that is worth remembering; an honest value has at most 400."""
_MAX_NODE_COST = 3_000
MAX_CUTS = 64
"""Segments of one value; an honest S1+S2 value has 17."""
_MAX_TREES = 8


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


class _Node:
    __slots__ = ("block", "edges", "form", "program", "snapshot")

    def __init__(self, snapshot: Snapshot, program: bytes, block: int, form: Form) -> None:
        self.snapshot = snapshot
        self.program = program  # what of the segment that leads here is executed
        self.block = block  # opaque bytes after that segment
        self.form = form  # format of their view
        self.edges: tuple[tuple[bytes, _Node], ...] = ()


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

    __slots__ = ("_cut_ops", "_node", "_start", "_tree")

    def __init__(self, tree: _Tree) -> None:
        self._tree = tree
        self._node = tree.root
        self._start = 0
        self._cut_ops = 0

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
        self._node, self._start, self._cut_ops = node, pos, node.snapshot.ops
        return node.snapshot, pos

    def opcodes_since_cut(self, ops: int) -> int:
        """Opcodes since the last cut."""
        return ops - self._cut_ops

    def remember(self, data: bytes, pos: int, block: int, form: Form, program: bytes, after: Snapshot) -> None:
        """Add the segment that ends at ``pos``, before ``block`` opaque bytes: its program and the state after."""
        segment = data[self._start : pos]
        child = _Node(after, program, block, form)
        cost = len(after.stack) + len(after.memo) + len(segment) // 32
        if cost <= _MAX_NODE_COST:
            tree = self._tree
            tree.cost += cost
            if tree.cost > _MAX_TREE_COST:
                tree.clear()
            # The newest first: a hostile archive can fill the tree but not keep an honest one out of it.
            self._node.edges = ((segment, child), *self._node.edges[: _MAX_EDGES - 1])
        self._node, self._start, self._cut_ops = child, pos + block, after.ops
