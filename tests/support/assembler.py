"""An assembler for pickles, and the class of a case in the corpus ``attacks``.

The functions return bytes of a pickle. Operands have the shortest form that CPython writes; tests write other forms
themselves. ``attack`` adds a case to ``ATTACKS``.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ben_secure.errors import BenSecureError, LimitExceededError, PatchFormatError, Rule, UnsafePickleError
from support.legacy_values import GENERIC, Call, Writer, name_of, small_tree, write

MEMO, STOP = pickle.MEMOIZE, pickle.STOP
NONE, TRUE, FALSE = pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE


def text(string: str | bytes) -> bytes:
    """SHORT_BINUNICODE or BINUNICODE; bytes are taken as the UTF-8 they may or may not be."""
    data = string if isinstance(string, bytes) else string.encode("utf-8", "surrogatepass")
    return (b"\x8c" + bytes([len(data)]) if len(data) < 256 else b"X" + struct.pack("<I", len(data))) + data


def number(value: int) -> bytes:
    """BININT1, BININT or LONG1."""
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def real(value: float) -> bytes:
    """BINFLOAT."""
    return b"G" + struct.pack(">d", value)


def blob(data: bytes) -> bytes:
    """SHORT_BINBYTES or BINBYTES."""
    return (b"C" + bytes([len(data)]) if len(data) < 256 else b"B" + struct.pack("<I", len(data))) + data


def array_blob(data: bytes) -> bytes:
    """BYTEARRAY8."""
    return b"\x96" + struct.pack("<Q", len(data)) + data


def get(index: int) -> bytes:
    """BINGET or LONG_BINGET."""
    return b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)


def name(module: str, attribute: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(attribute) + b"\x93"


def tup(*parts: bytes) -> bytes:
    """MARK ... TUPLE."""
    return b"(" + b"".join(parts) + b"t"


def lst(*parts: bytes) -> bytes:
    """EMPTY_LIST MARK ... APPENDS."""
    return b"](" + b"".join(parts) + b"e"


def dct(*parts: bytes) -> bytes:
    """EMPTY_DICT MARK ... SETITEMS; key, value, key, value."""
    return b"}(" + b"".join(parts) + b"u"


def members(*parts: bytes) -> bytes:
    """EMPTY_SET MARK ... ADDITEMS."""
    return b"\x8f(" + b"".join(parts) + b"\x90"


def call(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + tup(*arguments) + b"R"


def new(cls: bytes, arguments: bytes = b")") -> bytes:
    """NEWOBJ."""
    return cls + arguments + b"\x81"


def build(instance: bytes, state: bytes) -> bytes:
    """BUILD."""
    return instance + state + b"b"


def program(*parts: bytes, protocol: int = 4) -> bytes:
    """PROTO ... STOP."""
    return b"\x80" + bytes([protocol]) + b"".join(parts) + STOP


def frame(*parts: bytes, length: int | None = None) -> bytes:
    """Make a FRAME and its content; ``length`` is a false length."""
    content = b"".join(parts)
    return b"\x95" + struct.pack("<Q", len(content) if length is None else length) + content


def part(graph: Any) -> bytes:
    """The opcodes of a graph of ``legacy_values``, the one part of a program that uses the memo."""
    stream = io.BytesIO()
    writer = Writer(stream, 5)
    writer.framer.start_framing = lambda: None
    writer.dump(graph)
    return stream.getvalue()[2:-1]


def nested(count: int, opener: bytes, closer: bytes, core: bytes = NONE) -> bytes:
    """Something inside of itself ``count`` times."""
    return opener * count + core + closer * count


REBUILD_PATCH = name("ben_secure.patches", "rebuild_patch")
REBUILD_ARRAY = name("ben_secure.metadata", "rebuild_array")
REBUILD_SCALAR = name("ben_secure.metadata", "rebuild_scalar")
HONEST = call(REBUILD_SCALAR, text("<u2"), blob(b"\1\0"))
"""A call that honest values make."""


def entry(
    attribute: bytes = NONE,
    cls: bytes = text("Band"),
    band: bytes = text("g"),
    metres: bytes = number(10),
    rows: bytes = number(1),
    columns: bytes = number(2),
    dtype: bytes = text("|u1"),
) -> bytes:
    """One band in the layout of a generic canonical value."""
    return tup(attribute, cls, band, metres, rows, columns, dtype)


def canonical_parts(
    version: bytes = number(1),
    kind: bytes = text(GENERIC),
    layout: bytes | None = None,
    pixels: bytes = array_blob(b"\7\x08"),
    stored: bytes = b"}",
    extras: bytes = NONE,
) -> bytes:
    """The opcodes of a canonical value between PROTO and STOP: by default one band of two pixels."""
    return call(REBUILD_PATCH, version, kind, tup(entry()) if layout is None else layout, pixels, stored, extras)


def canonical(**parts: bytes) -> bytes:
    """A canonical value; every argument of its one call can be replaced."""
    return program(canonical_parts(**parts))


def with_metadata(x: bytes) -> bytes:
    """A canonical value whose metadata is ``{"x": x}``."""
    return canonical(stored=dct(text("x"), x))


U2_STATE = (3, "<", None, None, None, -1, -1, 0)


def dtype_graph(code: Any = "u2", dtype_state: Any = U2_STATE) -> Call:
    """``dtype(code, False, True)`` with any state."""
    return Call(name_of("numpy", "dtype"), (code, False, True), dtype_state)


def array_graph(
    code: Any = "u2",
    dtype_state: Any = U2_STATE,
    version: Any = 1,
    shape: Any = (2,),
    fortran: Any = False,
    data: Any = b"\1\0\2\0",
    **more: Any,
) -> Call:
    """An array as numpy pickles it, every detail of which can be replaced; ``dtype`` and ``state`` replace it all."""
    dtype = more.get("dtype", dtype_graph(code, dtype_state))
    function = name_of("numpy.core.multiarray", "_reconstruct")
    state = more.get("state", (version, shape, dtype, fortran, data))
    return Call(function, (name_of("numpy", "ndarray"), (0,), b"b"), state)


# Arguments of ``array_graph`` for an honest object array, str array and bool array.
OBJECT = {"code": "O8", "dtype_state": (3, "|", None, None, None, -1, -1, 63), "data": ["a", "b"]}
TEXT = {"code": "U1", "dtype_state": (3, "<", None, None, None, 4, 4, 8), "data": b"a\0\0\0b\0\0\0"}
BOOL = {"code": "b1", "dtype_state": (3, "|", None, None, None, -1, -1, 0), "data": b"\0\1"}


def changed(base: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A dict with some entries replaced."""
    return {**base, **more}


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One hostile value.

    Attributes:
        name: A unique name.
        threat: Row of threat_model.md.
        why: The harm that it would do.
        value: Makes the hostile value.
        accepted: Makes the accepted value that differs by as little as possible.
        error: Class of the refusal.
        rules: Rule of the refusal, or two if the order of checks decides.
        words: Regular expression for the message, if one rule has several refusals.
        runs: Whether ``pickle.loads`` runs its code, so that the canary appears.
        extension: Extension to register with copyreg before: (module, name, code).
    """

    name: str
    threat: str
    why: str
    value: Callable[[], bytes]
    accepted: Callable[[], bytes]
    error: type[BenSecureError]
    rules: tuple[Rule, ...]
    words: str
    runs: bool = False
    extension: tuple[str, str, int] | None = None


EITHER = (Rule.PATCH, Rule.ARRAY)  # a part that is neither metadata nor an array

ATTACKS: list[Attack] = []

_REFUSALS: dict[Rule, type[BenSecureError]] = {
    Rule.FORBIDDEN_GLOBAL: UnsafePickleError,
    Rule.FORBIDDEN_OPCODE: UnsafePickleError,
    Rule.STRUCTURE: UnsafePickleError,
    Rule.CALL_SHAPE: UnsafePickleError,
    Rule.LIMIT: LimitExceededError,
    Rule.MALFORMED: PatchFormatError,
    Rule.TRAILING_DATA: PatchFormatError,
    Rule.NOT_A_PICKLE: PatchFormatError,
    Rule.ARRAY: PatchFormatError,
    Rule.PATCH: PatchFormatError,
    Rule.TENSORS: PatchFormatError,
}


def attack(
    threat: str,
    label: str,
    why: str,
    value: bytes | Callable[[], bytes],
    rule: Rule | tuple[Rule, ...],
    accepted: bytes | Callable[[], bytes] | None = None,
    words: str = "",
    **more: Any,
) -> None:
    """Add a case; the default accepted value is of the same kind, with an honest call."""
    accepted = with_metadata(HONEST) if accepted is None else accepted
    rules = rule if isinstance(rule, tuple) else (rule,)
    ATTACKS.append(
        Attack(
            name=label,
            threat=threat,
            why=why,
            rules=rules,
            error=_REFUSALS[rules[0]],
            words=words,
            value=(lambda: value) if isinstance(value, bytes) else value,
            accepted=(lambda: accepted) if isinstance(accepted, bytes) else accepted,
            **more,
        )
    )


def changed_band(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The small legacy patch after a change of the fields of its band ``green``."""
    graph = small_tree()
    change(graph.state["green"].state["__dict__"])
    return write(graph)
