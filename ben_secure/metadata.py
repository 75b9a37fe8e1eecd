"""The types that metadata of a patch may have, and the form of its numpy objects in a value.

Metadata is str, int, float, bool, None, bytes, list, tuple, dict with str keys, set, numpy arrays and scalars of
numeric, bool or str dtype, and one-dimensional object arrays of plain str. Only exact types are allowed. So metadata
can be checked completely, compared, and rebuilt without running code. The checks never call methods of a subclass and
never recurse. Limits stop them at cycles and at too many shared references. The rebuilding functions take hostile
arguments, and allocate nothing before length, shape and dtype agree.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ben_secure.bands import PIXEL_DTYPES
from ben_secure.equality import equal as equal
from ben_secure.errors import printable
from ben_secure.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    import numpy.typing as npt

    AnyArray: TypeAlias = npt.NDArray[Any]

REMEDY = (
    "use str, int, float, bool, None, bytes, list, tuple, dict with str keys, set, or numpy arrays and scalars of "
    "numeric, bool or str dtype (dates as ISO 8601 strings, paths as str)"
)

_LEAVES = frozenset({str, float, bool, type(None), bytes})
_SET_MEMBERS = _LEAVES | {int}
_TEXT_ONLY = {str}
_CONTAINERS = frozenset({list, tuple, dict})
# repr and dumps write a shared object each time that it occurs, so its bytes count. This many bytes count as one
# object.
_TEXT_WEIGHT = 64
_ARRAY_WEIGHT = 256
# Levels of nesting around the metadata and inside a packed array in a pickle. ``Limits.max_depth`` counts them.
_ENVELOPE_DEPTH = 8
_FIXED_DTYPES = PIXEL_DTYPES | {"|b1"}
_STR_DTYPE = re.compile(r"[<>]U(0|[1-9][0-9]{0,4})", re.ASCII)
# The only bound on the dimensions of an array without elements. Larger ones overflow numpy's own arithmetic.
_MAX_DIMENSION = 2**31
_MAX_CODE_POINT = 0x10FFFF


def check_name(name: object, taken: Container[str], limits: Limits = DEFAULT_LIMITS) -> None:
    """Check a metadata name.

    Args:
        name: The name (hostile).
        taken: Names of the patch itself: methods, bands, band attributes.
        limits: Bound on its length.

    Raises:
        TypeError: The name is not exactly a str.
        ValueError: The name is empty, too long, taken, or begins and ends with two underscores.
    """
    if type(name) is not str:
        raise TypeError(f"a metadata name must be a str, not {printable(type(name).__name__)}")
    if not 0 < len(name) <= limits.max_name_characters:
        raise ValueError(f"a metadata name must have 1 to {limits.max_name_characters} characters, not {len(name)}")
    if name in taken or (name.startswith("__") and name.endswith("__")):
        raise ValueError(f"metadata {printable(name)!r} would shadow an attribute of the patch itself; rename it")


def check_value(name: str, value: object, limits: Limits = DEFAULT_LIMITS, spent: int = 0) -> int:
    """Check a metadata value completely.

    Args:
        name: Its name in a message.
        value: The value; hostile, but not changing meanwhile.
        limits: Bounds on the number of objects (a shared one counts each time), depth and integers.
        spent: Objects already counted in other values of the same patch.

    Returns:
        Number of objects counted so far, including this value.

    Raises:
        TypeError: The value contains an object of another type. The message has its path, its type and the remedy.
        ValueError: The value is too large, too deep (or has a cycle), or an integer is too long.
    """
    nodes = spent + 1 + _weight(value)
    if type(value) is list and len(value) <= limits.max_nodes and set(map(type, value)) == _TEXT_ONLY:  # labels, mostly
        nodes += len(value) + sum(map(len, value)) // _TEXT_WEIGHT
        if nodes <= limits.max_nodes:
            return nodes
    # Plain leaves are never queued, so no tuple is made for them.
    pending: list[tuple[tuple[object, ...], Any]] = [] if type(value) in _LEAVES else [((name,), value)]
    while pending:
        path, node = pending.pop()
        kind = type(node)
        children: Iterable[tuple[object, object]] = ()
        if kind in _CONTAINERS:
            nodes += len(node)
            if nodes > limits.max_nodes:
                break
            if kind is dict:
                children = _dict_items(path, node)
                nodes += sum(map(_weight, node))
            else:
                children = enumerate(node)
            if len(path) > limits.max_depth - _ENVELOPE_DEPTH:
                deepest = limits.max_depth - _ENVELOPE_DEPTH
                raise ValueError(f"metadata {_shown(path)}: nested deeper than {deepest} levels, or contains itself")
        else:
            nodes += _check_leaf(path, node, limits)
        for key, child in children if nodes <= limits.max_nodes else ():
            if type(child) not in _LEAVES:
                pending.append(((*path, key), child))
            elif child:
                nodes += _weight(child)
        if nodes > limits.max_nodes:
            break
    if nodes > limits.max_nodes:
        raise ValueError(
            f"metadata {printable(name)!r}: a patch may have at most {limits.max_nodes} objects in its metadata; each "
            f"text in an array, {_TEXT_WEIGHT} characters of text and {_ARRAY_WEIGHT} bytes of an array count as one, "
            "and a shared object counts each time that it occurs"
        )
    return nodes


def _weight(leaf: object) -> int:
    """Return the number of additional objects that a long text counts for."""
    return len(leaf) // _TEXT_WEIGHT if isinstance(leaf, str | bytes) else 0


def _shown(path: tuple[object, ...]) -> str:
    """Write a path as in Python: ``'acquired'['x'][2]``."""
    return printable(path[0]).join("''") + "".join(
        f"['{printable(step, 40)}']" if type(step) is str else f"[{step}]" for step in path[1:]
    )


def _dict_items(path: tuple[object, ...], node: dict[object, object]) -> Iterable[tuple[object, object]]:
    for key in node:
        if type(key) is not str:
            raise TypeError(
                f"metadata {_shown(path)} has a key of type {printable(type(key).__name__)}; dict keys must be str"
            )
    return node.items()


def _check_leaf(path: tuple[object, ...], node: object, limits: Limits) -> int:
    """Check an int, a set or a numpy object, and return its number of objects. Refuse anything else.

    An array or set that is too large is not examined.
    """
    if type(node) is int:
        # A pickle spends one more bit on the sign.
        if node.bit_length() >= 8 * limits.max_int_bytes:
            raise ValueError(f"metadata {_shown(path)}: an integer takes more than {limits.max_int_bytes} bytes")
        return 0
    if type(node) is set:
        if len(node) > limits.max_nodes:
            return len(node)
        for member in node:
            if type(member) not in _SET_MEMBERS:
                raise TypeError(
                    f"metadata {_shown(path)} has a set member of type {printable(type(member).__name__)}; members "
                    "must be str, int, float, bool, None or bytes"
                )
            if type(member) is int:
                _check_leaf(path, member, limits)
        return len(node) + sum(map(_weight, node))
    if type(node) is np.ndarray:
        return _check_array(path, node, limits)
    # The type must be exactly the one of the dtype, so a subclass of a numpy scalar is refused.
    if isinstance(node, np.generic) and type(node) is node.dtype.type and _admitted(node.dtype):
        return _weight(node)
    node_type = type(node)
    if node_type.__module__ != "builtins":
        raise TypeError(
            f"metadata {_shown(path)} is a {printable(f'{node_type.__module__}.{node_type.__qualname__}')}; {REMEDY}"
        )
    raise TypeError(f"metadata {_shown(path)} is a {node_type.__qualname__}; {REMEDY}")


def _admitted(dtype: np.dtype[Any]) -> bool:
    return dtype.str in _FIXED_DTYPES or dtype.kind == "U"


def _check_array(path: tuple[object, ...], array: AnyArray, limits: Limits) -> int:
    if array.ndim > limits.max_array_dims:
        raise ValueError(
            f"metadata {_shown(path)}: an array may have at most {limits.max_array_dims} dimensions, not {array.ndim}"
        )
    if _admitted(array.dtype):
        texts = array.size if array.dtype.kind == "U" else 0
        return texts + array.nbytes // _ARRAY_WEIGHT
    if array.dtype.kind != "O" or array.ndim != 1:
        raise TypeError(f"metadata {_shown(path)} is an array of shape {array.shape} and dtype {array.dtype}; {REMEDY}")
    if array.size > limits.max_nodes:
        return array.size
    for index, item in enumerate(array):
        if type(item) is not str:
            raise TypeError(
                f"metadata {_shown(path)} is an object array whose item {index} is a "
                f"{printable(type(item).__name__)}; object arrays must be one-dimensional and contain only str"
            )
    return array.size + sum(map(_weight, array))


class PackedArray:
    """Replaces a numpy array before pickling, so that the value names ``rebuild_array`` and no function of numpy."""

    __slots__ = ("array",)

    def __init__(self, array: AnyArray) -> None:
        self.array = array

    def __reduce__(self) -> tuple[object, tuple[str, tuple[int, ...], bytes | list[str]]]:
        array = self.array
        data = array.tolist() if array.dtype.kind == "O" else array.tobytes("C")
        return rebuild_array, (array.dtype.str, array.shape, data)


class PackedScalar:
    """Replaces a numpy scalar before pickling, so that the value names ``rebuild_scalar``."""

    __slots__ = ("scalar",)

    def __init__(self, scalar: np.generic) -> None:
        self.scalar = scalar

    def __reduce__(self) -> tuple[object, tuple[str, bytes]]:
        scalar = self.scalar
        if isinstance(scalar, np.str_):
            # Not tobytes(), which writes four bytes for an empty text.
            return rebuild_scalar, (f"<U{len(scalar)}", np.array([*map(ord, scalar)], "<u4").tobytes())
        return rebuild_scalar, (scalar.dtype.str, scalar.tobytes())


def pack(value: object) -> object:
    """Replace every numpy object by its packed form, and every set by one whose order depends on its members alone.

    An object without either is returned as it is.

    Args:
        value: Metadata accepted by ``check_value``, which bounds its depth.

    Returns:
        The object to pickle.
    """
    return _pack(value)


def _pack(value: Any) -> object:
    kind = type(value)
    if kind in _SET_MEMBERS:
        return value
    if kind is set:
        return set(sorted(value, key=_member_key))  # noqa: C414 - the order of insertion decides where members lie
    if kind is list or kind is tuple:
        packed = [_pack(item) for item in value]
        return value if all(map(_identical, packed, value)) else kind(packed)
    if kind is dict:
        packed = [_pack(item) for item in value.values()]
        return value if all(map(_identical, packed, value.values())) else dict(zip(value, packed, strict=True))
    return PackedArray(value) if kind is np.ndarray else PackedScalar(value)


def _member_key(member: object) -> tuple[str, Any]:
    """Return a sort key for members of one set: no two of them are equal, so values of one type can be compared."""
    return type(member).__name__, member.hex() if type(member) is float else member


def _identical(a: object, b: object) -> bool:
    return a is b


def array_from_bytes(
    dtype: np.dtype[Any] | str, shape: object, data: object, fortran: bool = False, limits: Limits = DEFAULT_LIMITS
) -> AnyArray:
    """Build an array from its bytes in one step. Nothing is allocated before all arguments agree.

    Args:
        dtype: Numeric, bool or str dtype, or its ``dtype.str`` (hostile).
        shape: Tuple of lengths (hostile).
        data: Exactly the array's bytes (hostile).
        fortran: Whether the bytes are in Fortran order.
        limits: Bounds on dimensions and, in an array of text, elements.

    Returns:
        A new writable array that owns a copy of the data.

    Raises:
        TypeError: An argument is not exactly of its type.
        ValueError: The dtype is not allowed, the shape is out of bounds or does not fit the data, a bool is neither 0
            nor 1, or a character is beyond U+10FFFF.
    """
    checked = _checked_dtype(dtype)
    if type(data) is not bytes and type(data) is not bytearray:
        raise TypeError(f"the data of an array must be bytes, not {printable(type(data).__name__)}")
    dimensions = _checked_shape(shape, limits)
    count = math.prod(dimensions)
    if checked.kind == "U" and count > limits.max_nodes:  # empty texts have no bytes
        raise ValueError(f"an array may have at most {limits.max_nodes} texts, not {count}")
    expected = count * checked.itemsize
    if len(data) != expected:
        raise ValueError(
            f"an array of shape {dimensions} and dtype {checked.str} has {expected} bytes, not {len(data)}"
        )
    _check_bits(checked, data)
    return np.ndarray(dimensions, checked, bytearray(data), order="F" if fortran else "C")


def _checked_dtype(dtype: object) -> np.dtype[Any]:
    code = dtype.str if isinstance(dtype, np.dtype) else dtype
    if type(code) is not str:
        raise TypeError(f"a dtype must be given as str, not {printable(type(dtype).__name__)}")
    if code not in _FIXED_DTYPES and not _STR_DTYPE.fullmatch(code):
        raise ValueError(f"dtype {printable(code)} is not allowed; use a numeric, bool or str dtype")
    return np.dtype(code)


def _checked_shape(shape: object, limits: Limits) -> tuple[int, ...]:
    if type(shape) is not tuple or any(type(length) is not int for length in shape):
        raise TypeError(f"the shape of an array must be a tuple of int, not {printable(type(shape).__name__)}")
    if len(shape) > limits.max_array_dims:
        raise ValueError(f"an array may have at most {limits.max_array_dims} dimensions, not {len(shape)}")
    if any(length < 0 for length in shape) or math.prod(length or 1 for length in shape) >= _MAX_DIMENSION:
        raise ValueError("the shape of an array is negative or too large")
    return shape


def _check_bits(dtype: np.dtype[Any], data: bytes | bytearray) -> None:
    """Refuse bytes that are not values of the dtype. numpy would accept them and misbehave later."""
    if dtype.kind == "b" and data.translate(None, b"\0\1"):
        raise ValueError("a bool in an array must be 0 or 1")
    if dtype.kind == "U" and data and int(np.frombuffer(data, dtype.str[0] + "u4").max()) > _MAX_CODE_POINT:
        raise ValueError("a character in an array is beyond U+10FFFF")


def rebuild_array(dtype: object, shape: object, data: object, limits: Limits = DEFAULT_LIMITS) -> AnyArray:
    """Build an array from its description in a canonical value. All arguments are hostile.

    Args:
        dtype: ``dtype.str``; ``|O`` for a one-dimensional object array of str.
        shape: Tuple of lengths.
        data: Its bytes in C order, or the list of str for ``|O``.
        limits: As for ``array_from_bytes``.

    Returns:
        A new writable array.

    Raises:
        TypeError: An argument is not exactly of its type.
        ValueError: The arguments do not agree, or are not allowed (see ``array_from_bytes``).
    """
    if type(dtype) is not str:
        raise TypeError(f"a dtype must be given as str, not {printable(type(dtype).__name__)}")
    if dtype != "|O":
        return array_from_bytes(dtype, shape, data, False, limits)
    if type(data) is not list or any(type(item) is not str for item in data):
        raise TypeError(f"the data of an object array must be a list of str, not {printable(type(data).__name__)}")
    if _checked_shape(shape, limits) != (len(data),):
        raise ValueError(f"an object array of {len(data)} strings must have the shape ({len(data)},)")
    array: AnyArray = np.empty(len(data), dtype=object)
    array[:] = data
    return array


def rebuild_scalar(dtype: object, data: object) -> np.generic:
    """Build a numpy scalar from its description in a canonical value. All arguments are hostile.

    Args:
        dtype: ``dtype.str`` of a numeric, bool or str dtype.
        data: Exactly its bytes.

    Returns:
        The scalar, in this machine's byte order, like every numpy scalar.

    Raises:
        TypeError: An argument is not exactly of its type.
        ValueError: The arguments do not agree, or are not allowed (see ``array_from_bytes``).
    """
    if type(dtype) is not str:
        raise TypeError(f"a dtype must be given as str, not {printable(type(dtype).__name__)}")
    array = array_from_bytes(dtype, (), data)
    if array.dtype.kind == "U":
        # numpy would drop trailing NUL characters, which a str may have. A codec would be imported from a file.
        return np.str_("".join(map(chr, np.frombuffer(array.tobytes(), f"{dtype[0]}u4"))))
    scalar: np.generic = array.reshape(1)[0]
    return scalar
