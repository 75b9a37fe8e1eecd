"""First wall: decide from the bytes alone whether one pickle is admissible, and hand out the program that was read.

The walk keeps an abstract stack and memo: of every object it knows the kind, the depth and the size, and of every
string the text, so that it knows each global before anything is resolved. It never imports a name from the data,
never builds an object of the data, and never reads past the payload or its limits; whatever it is unsure of, it
refuses. What is executed later is not the payload but the opcodes that the walk has passed, in one frame, with the
pixel blocks out of band (protocol 5, PEP 574): the C unpickler cannot read another program than was checked.

What is refused, and why it would be dangerous, is in threat_model.md (T1 to T3). Called by ``unpickler`` only.
"""

from __future__ import annotations

from typing import NoReturn

from ben_secure.errors import (
    LimitExceededError,
    PatchFormatError,
    Rule,
    UnsafePickleError,
    UntrustedDataError,
    printable,
)
from ben_secure.limits import Limits
from ben_secure.pickles._segments import (
    MAX_CUTS,
    MAX_STATE,
    TO_END,
    Form,
    Program,
    Segments,
    Snapshot,
    Tail,
    frame,
)
from ben_secure.pickles._steps import (
    MARK,
    NEXT_BUFFER,
    NO_FRAME,
    PUSHED,
    STEPS,
    Item,
    decoded,
    kind_name,
    opcode_name,
)
from ben_secure.pickles.allowlist import NONE_DECLARED, Declared


def check(payload: bytes, limits: Limits, classes: Declared = NONE_DECLARED, end: int | None = None) -> Program:
    """Check that a payload is exactly one pickle that does only what an honest patch needs.

    Args:
        payload: One whole pickle, of protocol 4 or 5.
        limits: What it may cost.
        classes: (module, qualified name) of the patch subclasses that the caller declared.
        end: Where the pickle ends, if ``payload`` has more bytes: no byte from there on is looked at.

    Returns:
        What may be executed.

    Raises:
        UnsafePickleError: A global outside the allow-list, an opcode, call or structure that no patch needs.
        LimitExceededError: It is larger, deeper or longer than ``limits`` allow.
        PatchFormatError: It is not a pickle, is cut short or damaged, or data follows it.
    """
    if end is None:
        end = len(payload)
    if end > limits.max_value_bytes:
        raise LimitExceededError(
            f"the value has {end} bytes, at most {limits.max_value_bytes} are read; "
            "if it is honest, pass Limits(max_value_bytes=...)",
            rule=Rule.LIMIT,
        )
    if end < 1 or payload[0] != 0x80:
        raise PatchFormatError(
            f"not a pickle: it starts with {printable(payload[:8])}, a pickled patch with the PROTO opcode b'\\x80'",
            rule=Rule.NOT_A_PICKLE,
            offset=0,
        )
    segments = Segments.of(payload, end, limits, classes)
    try:
        return segments.recall() or Walk(payload, end, limits, classes, segments).run()
    except UntrustedDataError:
        if end < len(payload):  # the walk may have run into what follows; the reason is to be found without it
            return check(payload[:end], limits, classes)
        raise


class Walk:
    """One walk over one payload. ``run`` does the frequent opcodes itself, the table below has the others."""

    __slots__ = (
        "blocks", "buffers", "classes", "copied", "data", "end", "fetched", "frame_end", "grows", "known", "limits",
        "long_text", "marks", "memo", "numeric", "ops", "own", "piece", "pos", "prefix", "program", "segments",
        "skipped", "stack", "to_end",
    )  # fmt: skip

    def __init__(self, data: bytes, end: int, limits: Limits, classes: Declared, segments: Segments) -> None:
        snapshot = segments.snapshot
        self.data = data
        self.end = end
        self.limits = limits
        self.classes = classes
        self.segments = segments
        self.pos = self.copied = segments.end
        self.stack: list[Item] = list(snapshot.stack)
        self.marks: list[int] = list(snapshot.marks)
        self.memo: list[Item] = list(snapshot.memo)
        self.frame_end = NO_FRAME if snapshot.frame_left < 0 else self.pos + snapshot.frame_left
        self.to_end = snapshot.frame_left == TO_END  # whether the frame is known to end with the payload
        if self.to_end:
            self.frame_end = end
        self.grows = segments.prefix is None  # whether all cuts until now are in the tree
        self.ops = snapshot.ops
        self.numeric = snapshot.numeric
        self.long_text = snapshot.long_text
        self.blocks = segments.blocks
        self.program, self.buffers, self.own = segments.begin()  # what was executed before the last cut
        self.known = segments.known()
        self.piece: list[bytes] = []  # since the last cut, up to ``copied``
        self.skipped = len(self.program)
        self.fetched: list[int] = []
        self.prefix = segments.prefix

    def run(self) -> Program:
        """Walk to the STOP opcode, which must be the last byte. The frequent opcodes are done here, for speed."""
        data, stack, marks, memo, pos, ops = self.data, self.stack, self.marks, self.memo, self.pos, self.ops
        frame_end, most, resumed = self.frame_end, self.limits.max_opcodes, self.prefix is not None
        try:
            while True:
                here = pos
                op = data[pos]
                if op == 0x8C:  # SHORT_BINUNICODE
                    end = pos + 2 + data[pos + 1]
                    try:
                        stack.append(data[pos + 2 : end].decode())
                    except UnicodeDecodeError:
                        stack.append(decoded(data[pos + 2 : end]))
                    pos = end
                elif op == 0x94:  # MEMOIZE
                    item = stack[-1]
                    if not isinstance(item, str) and not item[4]:
                        self.pos = pos
                        item = self.name(item)
                    memo.append(item)
                    pos += 1
                elif op == 0x68:  # BINGET
                    index = data[pos + 1]
                    item = memo[index]
                    if resumed or (not isinstance(item, str) and not item[4]):
                        self.pos = pos
                        self.fetch(index, pos + 2)
                    else:
                        stack.append(item)
                    pos += 2
                elif op in PUSHED:
                    stack.append(PUSHED[op])
                    pos += 1
                elif op == 0x28:  # MARK
                    stack.append(MARK)
                    marks.append(len(stack))
                    pos += 1
                else:
                    self.pos, self.ops = pos, ops
                    step = STEPS[op]
                    if step is None:
                        return self.stop()
                    pos = step(self, pos + 1)
                    frame_end = self.frame_end
                if pos >= frame_end:
                    self.pos = here
                    frame_end = self.leave_frame(pos)
                ops += 1
                if ops > most:
                    self.pos = here
                    self.exceed("opcodes", ops, most)
        except IndexError:
            self.pos = pos
            self.malformed("cut short or out of step")
        except UnicodeDecodeError:
            self.pos = pos
            self.malformed("a string is not UTF-8")

    # Ending with an error.

    def refuse(self, message: str, rule: Rule = Rule.STRUCTURE, global_name: str | None = None) -> NoReturn:
        """Refuse what no honest patch does."""
        name = opcode_name(self.data[self.pos])
        raise UnsafePickleError(
            f"{message} ({name} at byte {self.pos}); do not load this value with pickle",
            rule=rule, offset=self.pos, opcode=name, global_name=global_name,
        )  # fmt: skip

    def malformed(self, message: str) -> NoReturn:
        """Refuse what is not a whole pickle."""
        raise PatchFormatError(
            f"the pickle is damaged: {message} (byte {self.pos} of {self.end}); fetch the value again",
            rule=Rule.MALFORMED, offset=self.pos,
        )  # fmt: skip

    def exceed(self, what: str, found: int, most: int) -> NoReturn:
        """Refuse what costs too much."""
        raise LimitExceededError(
            f"{what}: found {found}, at most {most} are allowed (byte {self.pos}); "
            "if the value is honest, pass larger Limits",
            rule=Rule.LIMIT, offset=self.pos, opcode=opcode_name(self.data[self.pos]),
        )  # fmt: skip

    # Stack and memo.

    def pop(self) -> Item:
        """Take the top of the stack; an empty one raises IndexError, as the end of the data does."""
        item = self.stack.pop()
        if item is MARK:
            self.malformed("there is nothing above the mark")
        return item

    def pop_mark(self) -> list[Item]:
        """Take everything above the innermost mark, and the mark."""
        if not self.marks:
            self.malformed("there is no mark")
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark - 1 :]
        return items

    def name(self, item: tuple[str, int, int, int, bool]) -> Item:
        """MEMOIZE of an object that may still change: it learns its memo index, so that the two stay one."""
        if item is MARK:
            self.malformed("there is nothing above the mark")
        if item[3] >= 0:
            self.refuse("one object is stored in the memo twice")
        named: Item = (item[0], item[1], item[2], len(self.memo), False)
        self.stack[-1] = named
        return named

    def fetch(self, index: int, pos: int) -> None:
        """BINGET, LONG_BINGET ending at ``pos``: push a memo entry; a container cannot be changed from then on."""
        item = self.memo[index]
        if not isinstance(item, str) and not item[4]:
            self.memo[index] = item = (item[0], item[1], item[2], item[3], True)
        self.stack.append(item)
        prefix = self.prefix
        if prefix is not None:  # the program that goes on after it has a memo of its own
            self.leave_out(pos)
            known = len(prefix.memo)
            if index < known:
                self.piece.append(NEXT_BUFFER)
                self.fetched.append(index)
                self.buffers.append(self.own[index] if index in self.own else prefix.memo[index])
            else:
                self.piece.append(b"j" + (index - known).to_bytes(4, "little"))

    def weigh(self, parts: list[Item], depth: int = 0, nodes: int = 1) -> tuple[int, int]:
        """Depth and nodes of a container that holds these parts (and had the given depth and nodes before)."""
        depth = depth or 1
        for part in parts:
            if isinstance(part, str):
                nodes += 1
            else:
                _, below, inside, _, _ = part
                nodes += inside
                if below >= depth:
                    depth = below + 1
        if depth > self.limits.max_depth:
            self.exceed("nesting depth", depth, self.limits.max_depth)
        if nodes > self.limits.max_nodes:
            self.exceed("objects, shared ones written out", nodes, self.limits.max_nodes)
        return depth, nodes

    def grow(self, kind: str, parts: list[Item], kind_after: str | None = None) -> None:
        """Put parts into the container on top of the stack, which must be one of this payload's own making."""
        target = self.stack.pop()
        if isinstance(target, str) or target[0] != kind:
            self.refuse(f"the target is a {kind_name(target)}, not a fresh {kind}")
        index = target[3]
        if target[4] or (index >= 0 and self.memo[index][4]):
            self.refuse(f"a {kind} is changed after it was used")
        depth, nodes = self.weigh(parts, target[1], target[2])
        grown: Item = (kind_after or kind, depth, nodes, index, kind_after is not None)
        self.stack.append(grown)
        if index >= 0:
            self.memo[index] = grown

    # Frames, segments and the end.

    def leave_frame(self, pos: int) -> int:
        """Refuse an opcode that straddles the end of a frame: the C unpickler would then run another program."""
        if pos > self.frame_end:
            self.refuse("an opcode crosses the end of its frame")
        self.frame_end = NO_FRAME
        return NO_FRAME

    def leave_out(self, pos: int) -> None:
        """Leave the current opcode, which ends at ``pos``, out of the program that is executed."""
        self.piece.append(self.data[self.copied : self.pos])
        self.copied = pos

    def cut(self, pos: int, block: int = 0, form: Form = "B") -> int:
        """End a segment at ``pos``, before a block of opaque bytes, and remember it; returns the end of the block.

        The block becomes a view of the payload, whose format tells bytes ("B") and bytearray ("b") apart; but for the
        length of a frame ("F"), which is not executed.
        """
        after = pos + block
        if form == "F":
            self.leave_out(after)
        elif block:
            self.leave_out(after)
            view = memoryview(self.data)[pos:after].cast(form)
            self.piece.append(NEXT_BUFFER)
            self.buffers.append(view)
            if self.buffers is not self.blocks:
                self.blocks.append(view)
        else:
            self.piece.append(self.data[self.copied : pos])
            self.copied = pos
        program = b"".join(self.piece)
        self.program.append(program)
        self.piece.clear()
        if self.ops >= self.limits.max_opcodes:
            self.exceed("opcodes", self.ops + 1, self.limits.max_opcodes)
        # Beyond the frame, leave_frame refuses. And copies of a large state at many cuts would take quadratic time.
        # A segment begins where the one before ends, so behind a cut that is not remembered none is.
        self.grows = (
            self.grows
            and after <= self.frame_end
            and len(self.program) <= MAX_CUTS
            and len(self.memo) + len(self.stack) < MAX_STATE
        )
        if self.grows:
            frame_left = -1 if self.frame_end in (NO_FRAME, after) else self.frame_end - after
            frame_left = TO_END if self.to_end else frame_left
            self.segments.remember(
                self.data, pos, block, form, program,
                Snapshot(self.stack, self.marks, self.memo, frame_left, self.ops + 1, self.numeric, self.long_text),
            )  # fmt: skip
        return after

    def stop(self) -> Program:
        """STOP, or an opcode that no patch needs. One object must be left, and nothing follow; returns the program."""
        op = self.data[self.pos]
        if self.pos >= self.end:  # in what follows the payload, which is not part of it
            self.malformed("cut short")
        if op != 0x2E:
            self.refuse(f"the opcode {opcode_name(op)} is not needed by any patch", Rule.FORBIDDEN_OPCODE)
        if len(self.memo) > self.limits.max_memo:
            self.exceed("memo entries", len(self.memo), self.limits.max_memo)
        if len(self.stack) != 1 or self.marks:
            self.malformed(f"it ends with {len(self.stack)} objects instead of one")
        if self.frame_end not in (NO_FRAME, self.pos + 1):
            self.refuse("the last frame does not end with the pickle")
        if self.pos + 1 != self.end:
            raise PatchFormatError(
                f"{self.end - self.pos - 1} bytes follow the end of the pickle at byte {self.pos}: a second pickle, "
                "or a damaged value; fetch the value again",
                rule=Rule.TRAILING_DATA, offset=self.pos + 1,
            )  # fmt: skip
        opcodes = frame(b"".join((*self.program, *self.piece, self.data[self.copied : self.end])))
        tail = None
        if len(self.program) == self.skipped:
            tail = Tail(opcodes, tuple(self.fetched))
            self.segments.remember_tail(tail)
        return Program(opcodes, self.buffers, self.blocks, self.known, tail)
