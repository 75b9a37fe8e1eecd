"""Arrays and metadata from records: compared with the form that numpy writes, then built in one step.

A payload that names ``numpy.ndarray`` gets no object of numpy, because hostile state can break numpy's objects: a dtype
whose state hides an object field turns bytes into pointers, and ``_reconstruct`` allocates any size. An array is built
here from bytes of the value, with a dtype from a closed set. Nothing is allocated before its length is checked. Source
of the forms: ``ndarray``, ``dtype`` and ``generic.__reduce__`` of numpy 1.20 to 2.4.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ben_secure.errors import LimitExceededError, PatchFormatError, Rule, printable
from ben_secure.limits import Limits
from ben_secure.metadata import array_from_bytes, rebuild_array, rebuild_scalar
from ben_secure.pickles.names import Name, Use
from ben_secure.pickles.records import Block, Record, is_record, kind_of

ALIGNMENT = 16
"""Bytes. The largest item of pixels is a complex128."""
_AROUND = 3  # depth of the metadata: in the state or arguments of the record of a patch
_FEW_NODES = 512  # each takes at most 26 opcodes, and unless it is an array or a long text, 260 bytes
_SCALARS = frozenset({str, int, float, bool, bytes, type(None)})
_NONE = type(None)
_DTYPE_STATE_TYPES = (int, str, _NONE, _NONE, _NONE, int, int, int)
_PLAIN_DTYPE_STATES = {order: (3, order, None, None, None, -1, -1, 0) for order in "<>|"}
_OBJECT_DTYPE_STATE = (3, "|", None, None, None, -1, -1, 63)


def refuse_array(part: str, value: object) -> NoReturn:
    """Refuse an array that numpy would not write."""
    raise PatchFormatError(
        f"an array has an invalid {part}: {printable(value)}; fetch the value again or ask its publisher",
        rule=Rule.ARRAY,
    )


def dtype_text(record: Any) -> str:
    """Return the dtype of a record as text, such as ``<u2``, ``<U5`` or ``|O``.

    Raises:
        PatchFormatError: The record is not one of a numeric, bool, str or plain object dtype.
    """
    if not is_record(record, "dtype"):
        refuse_array("dtype", kind_of(record))
    code: str = record.arguments[0]
    state = record.state
    if type(state) is not tuple or tuple(map(type, state)) != _DTYPE_STATE_TYPES:
        refuse_array("dtype state", state)
    order: str = state[1]
    if state == _PLAIN_DTYPE_STATES.get(order) and code[:1] in "biufc":
        return order + code
    length = state[5] // 4
    if state == (3, order, None, None, None, 4 * length, 4, 8) and code == f"U{length}" and order in "<>":
        return order + code
    if code in ("O", "O8") and state == _OBJECT_DTYPE_STATE:
        return "|O"
    refuse_array("dtype", (code, state))


def array_parts(record: Any) -> tuple[Any, str, bool, Any]:
    """Return shape (unchecked), dtype, Fortran order and data of an array record.

    Raises:
        PatchFormatError: The record is not one of an array, or has a state of another form: protocol 4 writes the data
            as bytes or a list, protocol 5 as bytes or a bytearray.
    """
    if is_record(record, "_reconstruct"):
        if type(record.state) is not tuple or len(record.state) != 5:
            refuse_array("state", record.state)
        version, shape, dtype, fortran, data = record.state
        if type(version) is not int or version != 1 or type(fortran) is not bool:
            refuse_array("state", record.state)
        if type(data) is not list:
            check_bytes(data)
    elif is_record(record, "_frombuffer"):
        data, dtype, shape, order = record.arguments
        if type(order) is not str or order not in ("C", "F"):
            refuse_array("memory order", order)
        fortran = order == "F"
        if type(data) is not bytearray and type(data) is not Block:
            check_bytes(data)
    else:
        refuse_array("record", kind_of(record))
    return shape, dtype_text(dtype), fortran, data


def check_bytes(data: object) -> None:
    """Check that an item is a bytes object of any size, not a bytearray."""
    if type(data) is not bytes and (type(data) is not Block or data.mutable):
        refuse_array("type of its data", kind_of(data))


def take(view: memoryview, block: Block, aligned: int | None) -> bytearray | memoryview:
    """Return pixels in place if the patch may keep the buffer and they are aligned (``Loader.load``), or a copy."""
    part = view[block.start : block.stop]
    return part if aligned is not None and block.start % ALIGNMENT == aligned else bytearray(part)


def in_native_order(record: Record, array: Any) -> Any:
    """Swap bytes like numpy: ``ndarray.__setstate__`` swaps foreign bytes on reading, ``_frombuffer`` does not."""
    swaps = record.name.name == "_reconstruct"
    return array.astype(array.dtype.newbyteorder("="), copy=False) if swaps else array


class Source:
    """Makes arrays and metadata from the bytes of one value.

    Args:
        view: The bytes.
        limits: Bounds on the result.
        blank: The pixels will not be read, so any bytes of the right number may replace them, without a copy.

    An object that occurs in several places is built once and shared in the result. Depth, number of objects (a shared
    one counts each time) and bytes are bounded before anything is built.
    """

    __slots__ = ("_blank", "_built", "_bytes", "_limits", "_nodes", "view")

    def __init__(self, view: memoryview, limits: Limits, *, blank: bool = False) -> None:
        self.view = view
        self._blank = blank
        self._limits = limits
        self._nodes = self._bytes = 0
        self._built: dict[int, tuple[Any, int]] = {}  # copy and objects in it, by the identity of the original

    @property
    def costly(self) -> bool:
        """Whether the metadata so far may take more in a canonical value than it takes here (``Loader``)."""
        return self._nodes > _FEW_NODES or self._bytes > 0

    def metadata(self, item: Any, depth: int = _AROUND) -> Any:
        """Copy metadata from the machine (it has no cycles), and replace records by arrays.

        Raises:
            PatchFormatError: A record is not that of a plain array.
            LimitExceededError: The metadata is too deep, has too many objects, or its arrays have too many bytes.
        """
        if type(item) in _SCALARS:
            self._count(1)
            return item
        if id(item) in self._built:
            made, nodes = self._built[id(item)]
            self._count(nodes)
            return made
        if depth > self._limits.max_depth:
            _exceed("nesting depth", self._limits.max_depth)
        before = self._nodes
        self._count(1)
        made = self._copy(item, depth + 1)
        self._built[id(item)] = made, self._nodes - before
        return made

    def _copy(self, item: Any, depth: int) -> Any:
        kind = type(item)
        if kind is list or kind is tuple:
            if _SCALARS.issuperset(map(type, item)):  # labels: the common case
                self._count(len(item))
                return kind(item)
            return kind([self.metadata(part, depth) for part in item])
        if kind is dict:
            self._count(len(item))
            return {name: self.metadata(part, depth) for name, part in item.items()}
        if kind is set:
            self._count(len(item))
            made = set(map(self.bytes, item))
            if len(made) != len(item):
                refuse_array("set", "a member occurs twice")
            return made
        if kind is Record:
            return self._array(item)
        if kind is Name and item.use is not Use.CLASS:
            refuse_array("place for", item.name)
        return self.bytes(item)  # a class or a bytearray, which metadata cannot be, is refused by ``rebuild``

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > self._limits.max_nodes:
            _exceed("objects in the metadata, shared ones written out", self._limits.max_nodes)

    def raw(self, data: Any) -> Any:
        """Return a view of the bytes of a block, without a copy. Return any other object as it is."""
        return self.view[data.start : data.stop] if type(data) is Block else data

    def pixels(self, block: Block, aligned: int | None) -> bytearray | memoryview:
        """Return the pixels in a block, like ``take``."""
        return self.view[block.start : block.stop] if self._blank else take(self.view, block, aligned)

    def joined(self, parts: list[Any]) -> bytearray | memoryview:
        """Return the pixels in several blocks or bytes objects, concatenated."""
        length = sum(map(len, parts))
        if self._blank and length <= len(self.view):
            return self.view[:length]
        return bytearray().join(map(self.raw, parts))

    def bytes(self, data: Any) -> Any:
        """Return the bytes or bytearray of a block. Return any other object as it is.

        Raises:
            LimitExceededError: The bytes requested so far exceed those that a value may have.
        """
        if type(data) is Block or type(data) is bytes or type(data) is bytearray:
            self._bytes += len(data)
            if self._bytes > self._limits.max_value_bytes:
                _exceed("bytes of the arrays in the metadata", self._limits.max_value_bytes)
        if type(data) is Block:
            return bytearray(self.raw(data)) if data.mutable else bytes(self.raw(data))
        return data

    def _array(self, record: Record) -> Any:
        """Build the array (writable, owning its data) or numpy scalar of one record. Errors as ``metadata``."""
        try:
            if is_record(record, "rebuild_array", "rebuild_scalar", "scalar"):
                dtype, data = record.arguments[0], record.arguments[-1]
                if type(data) is not list:
                    check_bytes(data)
                if record.name.name == "rebuild_array":
                    return rebuild_array(dtype, record.arguments[1], self.bytes(data), self._limits)
                if record.name.name == "rebuild_scalar":
                    return rebuild_scalar(dtype, self.bytes(data))
                scalar = rebuild_scalar(dtype_text(dtype), self.bytes(data))
                # numpy's own function removes trailing NULs from a text.
                return np.str_(scalar.rstrip("\0")) if isinstance(scalar, np.str_) else scalar
            if not is_record(record, "_reconstruct", "_frombuffer"):
                refuse_array("place for", kind_of(record))
            shape, code, fortran, data = array_parts(record)
            if code == "|O":
                return rebuild_array(code, shape, data, self._limits)
            return in_native_order(record, array_from_bytes(code, shape, self.bytes(data), fortran, self._limits))
        except (TypeError, ValueError) as error:
            raise PatchFormatError(
                f"an array in the metadata is invalid: {error}; ask the publisher of the value", rule=Rule.ARRAY
            ) from error


def _exceed(counted: str, most: int) -> NoReturn:
    raise LimitExceededError(
        f"{counted}: at most {most} are allowed; if the value is honest, pass larger Limits", rule=Rule.LIMIT
    )
