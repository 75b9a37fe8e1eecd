"""Inert stand-ins for numpy's reconstruction functions, and the building of real arrays from what they recorded.

A payload that asks for ``numpy.ndarray`` gets none of numpy's objects: not one of them survives hostile state (a
dtype whose state hides an object field turns bytes into pointers; ``_reconstruct`` allocates what it is told). The
stand-ins only write down their arguments. When the whole pickle has run and nothing can change any more, ``Resolver``
checks each record against the one shape that honest pickles have and builds the array in one step from the bytes at
hand, with a dtype from a closed set. Nothing is allocated before its length has been checked.

Source of the shapes: ``ndarray.__reduce__``, ``dtype.__reduce__`` and ``generic.__reduce__`` of numpy 1.20 to 2.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn, TypeAlias

import numpy as np

from ben_secure.errors import LimitExceededError, PatchFormatError, Rule, UnsafePickleError, printable
from ben_secure.limits import Limits
from ben_secure.metadata import array_from_bytes, rebuild_array, rebuild_scalar

_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})
_PLAIN_DTYPE_STATES = {order: (3, order, None, None, None, -1, -1, 0) for order in "<>|"}
_NONE = type(None)
_DTYPE_STATE_TYPES = (int, str, _NONE, _NONE, _NONE, int, int, int)
_OBJECT_DTYPE_STATE = (3, "|", None, None, None, -1, -1, 63)


def refuse_call(function: str) -> NoReturn:
    """Refuse a call that no honest pickle makes."""
    raise UnsafePickleError(
        f"{function} is called in a way that no patch needs; do not load this value with pickle", rule=Rule.CALL_SHAPE
    )


def refuse_array(what: str, found: object) -> NoReturn:
    """Refuse an array whose state is not that of a plain array."""
    raise PatchFormatError(
        f"an array has an invalid {what}: {printable(found)}; fetch the value again or ask its publisher",
        rule=Rule.ARRAY,
    )


class SealedType(type):
    """Metaclass of the stand-ins that must be types: they cannot be written to and cannot be called."""

    def __setattr__(cls, name: str, value: object) -> None:
        refuse_call(f"setting {name} of {cls.__name__}")

    def __delattr__(cls, name: str) -> None:
        refuse_call(f"deleting {name} of {cls.__name__}")

    def __call__(cls, *arguments: object, **keywords: object) -> Any:
        """Refuse to be called: only NEWOBJ makes instances, and that does not come here."""
        refuse_call(cls.__name__)


class Inert:
    """An object without state that refuses everything; the base of all stand-ins."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        refuse_call(f"BUILD on {type(self).__name__}")

    def __reduce__(self) -> NoReturn:
        refuse_call(f"pickling {type(self).__name__}")


class Block(Inert):
    """Stands for the n-th opaque block of a value in what many values share (``_prefix``)."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place


Blocks: TypeAlias = Sequence[memoryview]
"""All opaque blocks of one value."""


class Record(Inert):
    """What an object was given as its state; complete. ``checked`` is for who reads it, to keep a verdict."""

    __slots__ = ("arguments", "checked", "state")
    arguments: Any
    checked: Any
    state: Any


class Unbuilt(Record):
    """What NEWOBJ or a call made: accepts one state, once, and thereby becomes a record that accepts none."""

    __slots__ = ()
    built: ClassVar[type[Record]]

    def __setstate__(self, state: object) -> None:
        self.state = state
        self.checked = None
        self.__class__ = self.built  # type: ignore[assignment] # same slots, so that Python allows it


class ArrayRecord(Record):
    """``_reconstruct(ndarray, (0,), b'b')`` with the state ``(1, shape, dtype, fortran, data)``."""

    __slots__ = ()


class UnbuiltArray(Unbuilt):
    """The same before it has its state."""

    __slots__ = ()
    built = ArrayRecord


class DtypeRecord(Record):
    """``dtype(code, False, True)`` with the state ``(3, order, None, None, None, -1, -1, 0)``."""

    __slots__ = ()


class UnbuiltDtype(Unbuilt):
    """The same before it has its state."""

    __slots__ = ()
    built = DtypeRecord


class CallRecord(Inert):
    """A complete call: which function, with what arguments."""

    __slots__ = ("arguments", "function")

    def __init__(self, function: str, arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments


class NdarrayName(Inert):
    """Stands for the class ``numpy.ndarray``, which is only ever named."""

    __slots__ = ()


class Reconstruct(Inert):
    """Stands for ``numpy.core.multiarray._reconstruct``."""

    __slots__ = ()

    def __call__(self, cls: object, shape: object, code: object) -> UnbuiltArray:
        """Begin an array, if the arguments are the ones that every pickle has."""
        if type(cls) is not NdarrayName or type(code) is not bytes or code != b"b" or shape != (0,):
            refuse_call("numpy's _reconstruct")
        return UnbuiltArray()


class Dtype(Inert):
    """Stands for ``numpy.dtype``."""

    __slots__ = ()

    def __call__(self, code: object, align: object, copy: object) -> UnbuiltDtype:
        """Begin a dtype, if the arguments are those of a plain one."""
        if type(code) is not str or align is not False or copy is not True:
            refuse_call("numpy.dtype")
        record = UnbuiltDtype()
        record.arguments = code
        return record


class Recorder(Inert):
    """Stands for any other function: writes its arguments down if there are as many as it takes."""

    __slots__ = ()
    function = ""
    arity = 0

    def __call__(self, *arguments: Any) -> CallRecord:
        """Write the arguments down."""
        if len(arguments) != self.arity:
            refuse_call(self.function)
        return CallRecord(self.function, arguments)


class Scalar(Recorder):
    """Stands for ``numpy.core.multiarray.scalar(dtype, data)``."""

    __slots__ = ()
    function, arity = "scalar", 2


class FromBuffer(Recorder):
    """Stands for ``numpy.core.numeric._frombuffer(data, dtype, shape, order)``, which protocol 5 writes."""

    __slots__ = ()
    function, arity = "_frombuffer", 4


class RebuildArray(Recorder):
    """Stands for ``ben_secure.metadata.rebuild_array(dtype, shape, data)``."""

    __slots__ = ()
    function, arity = "rebuild_array", 3


class RebuildScalar(Recorder):
    """Stands for ``ben_secure.metadata.rebuild_scalar(dtype, data)``."""

    __slots__ = ()
    function, arity = "rebuild_scalar", 2


def dtype_text(record: object) -> str:
    """The dtype that a record stands for, as text such as ``<u2``, ``<U5`` or ``|O``.

    Raises:
        PatchFormatError: It is not a record of a numeric, bool, str or plain object dtype.
    """
    if type(record) is not DtypeRecord:
        refuse_array("dtype", type(record).__name__)
    code: str = record.arguments
    state = record.state
    if type(state) is not tuple or tuple(map(type, state)) != _DTYPE_STATE_TYPES:
        refuse_array("dtype state", state)
    order: str = state[1]
    if state == _PLAIN_DTYPE_STATES.get(order) and code[:1] in "biufc":
        return order + code
    if state == (3, order, None, None, None, state[5], 4, 8) and code == f"U{state[5] // 4}" and order in "<>":
        return order + code
    if code in ("O", "O8") and state == _OBJECT_DTYPE_STATE:
        return "|O"
    refuse_array("dtype", (code, state))


def array_state(record: object) -> tuple[Any, Any, bool, Any]:
    """Shape, dtype record, Fortran order and data of an array record, the last three as yet unchecked.

    Raises:
        PatchFormatError: It is not the record of an array, or has a state of another form.
    """
    if type(record) is ArrayRecord:
        state = record.state
        if type(state) is tuple and len(state) == 5 and state[0] == 1 and type(state[3]) is bool:
            return state[1:]
        refuse_array("state", state)
    if type(record) is CallRecord and record.function == "_frombuffer":
        data, dtype, shape, order = record.arguments
        if type(order) is str and order in ("C", "F"):
            return shape, dtype, order == "F", data
        refuse_array("memory order", order)
    refuse_array("record", type(record).__name__)


class Resolver:
    """Copies the metadata of one patch, with arrays in the place of array records.

    What was one object in several places is one object in the copy too: nothing is built twice. And no more bytes are
    made than a value may have: many records can stand on one block.

    Args:
        blocks: The opaque blocks of the value.
        limits: For the depth and the bytes, so that this holds alone too.
    """

    __slots__ = ("_blocks", "_depth", "_done", "_left")

    def __init__(self, blocks: Blocks, limits: Limits) -> None:
        self._blocks = blocks
        self._depth = limits.max_depth
        self._left = limits.max_value_bytes
        self._done: dict[int, Any] = {}  # copies by the id of what was copied, all of which stays alive

    def copy(self, value: Any) -> Any:
        """Copy a piece of metadata, so that nothing that other values share gets out.

        Args:
            value: As the unpickler left it: plain containers, free of cycles (``opcodes`` saw to that).

        Raises:
            PatchFormatError: A record is not that of a plain array.
            LimitExceededError: The arrays have more bytes than a value may have.
        """
        return self._copy(value, self._depth)

    def _copy(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in _SCALARS:
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if depth < 0:
            refuse_array("place in the metadata", "too deep")
        found: Any
        if kind is list or kind is tuple:
            if _SCALARS.issuperset(map(type, value)):
                found = value.copy() if kind is list else value
            else:
                found = kind([self._copy(part, depth - 1) for part in value])
        elif kind is dict:
            found = {name: self._copy(part, depth - 1) for name, part in value.items()}
        elif kind is set:
            found = {self._bytes(part) for part in value}
        elif kind is Block or kind is memoryview:
            found = self._bytes(value)
        else:
            found = self._build(value) if isinstance(value, Inert) else value
        self._done[id(value)] = found
        return found

    def _bytes(self, data: Any) -> Any:
        """A bytes object or bytearray that came out of band, as itself; anything else as it is."""
        if type(data) is Block:
            data = self._blocks[data.place]
        if type(data) in (memoryview, bytes, bytearray):
            self._left -= len(data)
            if self._left < 0:
                raise LimitExceededError(
                    "the arrays in the metadata take more bytes than a value may have; "
                    "if the value is honest, pass larger Limits",
                    rule=Rule.LIMIT,
                )
        if type(data) is memoryview:
            return bytes(data) if data.format == "B" else bytearray(data)
        return data

    def _build(self, record: object) -> Any:
        """Build the array (writable, owning its pixels) or numpy scalar of one record; errors as ``copy``."""
        try:
            if type(record) is CallRecord and record.function != "_frombuffer":
                arguments = [self._bytes(part) for part in record.arguments]
                if record.function == "rebuild_array":
                    return rebuild_array(*arguments[:3])
                if record.function == "rebuild_scalar":
                    return rebuild_scalar(*arguments[:2])
                if record.function == "scalar":
                    scalar = rebuild_scalar(dtype_text(arguments[0]), arguments[1])
                    # numpy's own function ends a text at its trailing NULs.
                    return np.str_(scalar.rstrip("\0")) if isinstance(scalar, np.str_) else scalar
            if type(record) is ArrayRecord or type(record) is CallRecord:
                shape, dtype, fortran, data = array_state(record)
                code = dtype_text(dtype)
                if code == "|O":
                    return rebuild_array(code, shape, data)
                array = array_from_bytes(code, shape, self._bytes(data), fortran)
                # numpy's own __setstate__ swaps foreign bytes as it reads; _frombuffer does not.
                return array.astype(array.dtype.newbyteorder("="), copy=False) if type(record) is ArrayRecord else array
        except (TypeError, ValueError) as error:
            raise PatchFormatError(
                f"an array in the metadata is invalid: {error}; ask the publisher of the value", rule=Rule.ARRAY
            ) from error
        refuse_array("place for", type(record).__name__)


def rearranged(
    record: object, code: str, shape: tuple[int, ...], fortran: bool, data: bytes | bytearray | memoryview
) -> tuple[str, bytes]:
    """Bytes of an image row by row, and their dtype.

    ``ndarray.__setstate__`` swaps foreign bytes as it reads, ``_frombuffer`` does not; both are followed, so that
    the dtype is what the original package returns.
    """
    array: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(data, code).reshape(shape, order="F" if fortran else "C")
    if type(record) is ArrayRecord:
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array.dtype.str, array.tobytes("C")
