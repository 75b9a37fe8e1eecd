"""Memory of the program segments that were already verified; only makes ``opcodes`` faster, never laxer.

An archive's values run the same program: all that differs is the pixels and the labels. A payload is cut into
segments at its pixel blocks, at its last frame and after its list of bands. What the walk concludes from a segment
depends on nothing but the state before it and its bytes, so (state before, bytes) -> state after can be remembered: a
tree, whose nodes are states and whose edges are segments compared byte for byte. A segment enters the tree only after
the walk has passed it; positions in a state are relative, so it holds wherever the segment lies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pickles.allowlist import Declared

if TYPE_CHECKING:
    from ben_secure.pickles._prefix import Prefix
    from ben_secure.pickles._steps import Item

Form: TypeAlias = Literal["B", "b", "F"]
"""What the bytes behind a segment are: B an opaque block of bytes, b of a bytearray, which are formats of its view; F
the length of a frame that ends with the payload."""

TO_END = -2
"""In place of what is left of a frame: it ends with the payload, however long that is. Labels stand in the last
frame, so its length differs between values whose program is the same."""

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
_MAX_TAILS = 4_096
"""BigEarthNet has some 3,000 sets of labels; ``_MAX_TREE_COST`` bounds what they take."""
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


class Tail:
    """The last part of a value, when it has no opaque block, after the known segments.

    Attributes:
        opcodes: The whole program of a value that ends so.
        fetched: Memo entries of the captured prefix that its NEXT_BUFFER opcodes push, in order.
        built: What the unpickler made of such a value, but for its blocks, which it neither looked into nor has to: it
            depends on nothing else, since every value that ends so is the same, byte for byte, up to its blocks.
    """

    __slots__ = ("built", "fetched", "opcodes")

    def __init__(self, opcodes: bytes, fetched: tuple[int, ...]) -> None:
        self.opcodes = opcodes
        self.fetched = fetched
        self.built: Any = None


class _Node:
    __slots__ = ("after", "block", "edges", "form", "program", "snapshot", "visits")

    def __init__(self, snapshot: Snapshot, program: bytes, block: int, form: Form) -> None:
        self.snapshot = snapshot
        self.program = program  # what of the segment that leads here is executed
        self.block = block  # opaque bytes after that segment
        self.form = form  # format of their view
        self.edges: tuple[tuple[bytes, _Node], ...] = ()
        self.visits = 0  # values whose known segments ended here
        # The captured state, and tails that are written for it (or for none): one object, so that threads that read
        # it never mix the two.
        self.after: tuple[Prefix | None, dict[bytes, Tail]] = (None, {})

    def keep(self, prefix: Prefix) -> None:
        """Keep the captured state."""
        self.after = (prefix, {})


class _Path:
    """The way from the root to one node: since blocks have a fixed size, every segment has its place."""

    __slots__ = ("_blocks", "_frames", "_least", "_segments", "edges", "end", "node", "program")

    def __init__(self, edges: list[tuple[bytes, _Node]]) -> None:
        self.edges = edges
        self.node = edges[-1][1]
        self.end = self._least = 0
        self.program = [node.program for _, node in edges]
        self._segments: list[tuple[bytes, int]] = []
        self._frames: list[tuple[int, int]] = []
        self._blocks: list[tuple[int, int, Form]] = []
        for segment, node in edges:
            self._segments.append((segment, self.end))
            start = self.end + len(segment)
            self.end = start + node.block
            self._least = max(self._least, self.end + 1, self.end + node.snapshot.frame_left)
            if node.form == "F":
                self._frames.append((start, self.end))
            elif node.block:
                self._blocks.append((start, self.end, node.form))

    def leads_to(self, data: bytes, end: int) -> bool:
        """Whether ``data[:end]`` goes this way; the same comparisons as edge by edge."""
        if end < self._least:
            return False
        for segment, place in self._segments:
            if not data.startswith(segment, place):
                return False
        return all(int.from_bytes(data[start:after], "little") == end - after for start, after in self._frames)

    def blocks(self, data: bytes) -> list[memoryview]:
        """The opaque blocks on the way."""
        view = memoryview(data)
        return [_block(view[start:after], form) for start, after, form in self._blocks]


def _block(block: memoryview, form: Form) -> memoryview:
    return block.cast("b") if form == "b" else block


class _Tree:
    __slots__ = ("cost", "path", "root")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.root = _Node(Snapshot([], [], [], -1, 0, 0, 0), b"", 0, "B")
        self.path: _Path | None = None  # to the node where most values end
        self.cost = 0


_DEFAULT_TREE = _Tree()
_TREES: dict[tuple[Limits, Declared], _Tree] = {}


def frame(opcodes: bytes) -> bytes:
    """A pickle of protocol 5 whose only frame holds these opcodes."""
    return b"".join((b"\x80\x05\x95", len(opcodes).to_bytes(8, "little"), opcodes))


class Program(NamedTuple):
    """A checked pickle, ready to be executed.

    Attributes:
        opcodes: The program in protocol 5, one frame; each block is out of band.
        buffers: What its NEXT_BUFFER opcodes push, in order: blocks, and objects of a captured prefix.
        blocks: All blocks in the order of the payload: views of it, format B for bytes and b for bytearray.
        known: The segments that were known, if the state after them is to be captured.
        tail: The last part, if all before it was known.
    """

    opcodes: bytes
    buffers: list[Any]
    blocks: list[memoryview]
    known: Known | None
    tail: Tail | None = None


class Known(NamedTuple):
    """The known beginning of a payload, for ``_prefix.capture``; ``keep`` takes the result."""

    program: list[bytes]
    snapshot: Snapshot
    blocks: int
    keep: Callable[[Prefix], None]


def _edge(node: _Node, data: bytes, pos: int, end: int) -> tuple[bytes, _Node] | None:
    """The known segment that ``data[pos:end]`` begins with, if the block behind it is whole."""
    for segment, child in node.edges:
        if data.startswith(segment, pos, end):
            start = pos + len(segment)
            after = start + child.block
            if after >= end or after + child.snapshot.frame_left > end:
                continue  # cut short; the walk says where
            if child.form == "F" and int.from_bytes(data[start:after], "little") != end - after:
                continue  # a frame that ends elsewhere
            return segment, child
    return None


class Segments:
    """A payload's way through the tree: first along known edges, then growing a new branch.

    Attributes:
        end: Where the known segments end.
        snapshot: The state there.
        prefix: The unpickler's state there, if it was captured.
        blocks: The opaque blocks before.
    """

    __slots__ = (
        "_data",
        "_node",
        "_payload_end",
        "_program",
        "_start",
        "_tails",
        "_tree",
        "blocks",
        "end",
        "prefix",
        "snapshot",
        "visits",
    )

    def __init__(self, tree: _Tree, data: bytes, end: int) -> None:
        self._tree = tree
        self._data = data
        self._payload_end = end
        self.blocks: list[memoryview] = []
        self._program: list[bytes] = []
        self._node = self._follow()
        self._start = self.end
        self.snapshot = self._node.snapshot
        self.prefix, self._tails = self._node.after
        self.visits = self._node.visits

    @classmethod
    def of(cls, data: bytes, end: int, limits: Limits, classes: Declared) -> Segments:
        """What is known of the payload ``data[:end]`` under these rules; a verdict under others says nothing."""
        if limits is DEFAULT_LIMITS and not classes:  # saves the hash of the limits
            return cls(_DEFAULT_TREE, data, end)
        tree = _TREES.get((limits, classes))
        if tree is None:
            if len(_TREES) >= _MAX_TREES:
                _TREES.clear()
            tree = _TREES[limits, classes] = _Tree()
        return cls(tree, data, end)

    @staticmethod
    def forget() -> None:
        """Forget everything that was verified."""
        _TREES.clear()
        _DEFAULT_TREE.clear()

    def _follow(self) -> _Node:
        """Follow the segments that are known, collecting the program and the opaque blocks."""
        data, end, tree = self._data, self._payload_end, self._tree
        path, node, pos = tree.path, tree.root, 0
        if path is not None and path.leads_to(data, end):
            node, pos = path.node, path.end
            self._program, self.blocks = path.program, path.blocks(data)
        else:
            path = None
        edges: list[tuple[bytes, _Node]] = []
        view = memoryview(data)
        while (edge := _edge(node, data, pos, end)) is not None:
            segment, node = edge
            start = pos + len(segment)
            pos = start + node.block
            if node.block and node.form != "F":
                self.blocks.append(_block(view[start:pos], node.form))
            edges.append(edge)
        if edges:
            self._program = [*self._program, *(child.program for _, child in edges)]
            # Not to and fro between two programs in one archive.
            if tree.path is None or node.visits > 2 * tree.path.node.visits:
                tree.path = _Path([*(path.edges if path else ()), *edges])
        self.end = pos
        node.visits += 1
        return node

    def begin(self) -> tuple[list[bytes], list[Any], dict[int, Any]]:
        """The program up to ``end``, what it pushes, and the memo entries that are this value's own."""
        if self.prefix is None:
            return self._program.copy(), self.blocks, {}
        items, own = self.prefix.begin()
        return [self.prefix.preamble], items, own

    def known(self) -> Known | None:
        """The known segments, if enough values went this way for the state after them to be worth capturing."""
        if self.prefix is not None or self.visits < _VISITS or self.snapshot.ops < _PREFIX_OPCODES:
            return None
        return Known(self._program, self.snapshot, len(self.blocks), self._node.keep)

    def recall(self) -> Program | None:
        """The whole program, if everything after the known segments is known as well: labels recur, too."""
        if self._payload_end - self.end > _MAX_TAIL_BYTES:
            return None
        tail = self._tails.get(self._data[self.end : self._payload_end])
        if tail is None or self.known() is not None:
            return None
        if self.prefix is None or tail.built is not None:  # built: nothing will be executed
            return Program(tail.opcodes, self.blocks, self.blocks, None, tail)
        buffers, own = self.prefix.begin()
        memo = self.prefix.memo
        buffers += [own[index] if index in own else memo[index] for index in tail.fetched]
        return Program(tail.opcodes, buffers, self.blocks, None, tail)

    def remember_tail(self, tail: Tail) -> None:
        """Keep the verdict on everything after the known segments of a payload that the walk has passed."""
        size = self._payload_end - self.end
        if size <= _MAX_TAIL_BYTES:
            if len(self._tails) >= _MAX_TAILS:
                self._tails.clear()
            self._tails[self._data[self.end : self._payload_end]] = tail
            self._pay((size + len(tail.opcodes)) // 32)

    def _pay(self, cost: int) -> None:
        self._tree.cost += cost
        if self._tree.cost > _MAX_TREE_COST:
            self._tree.clear()

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
