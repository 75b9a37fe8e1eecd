"""Read the header of one safetensors file in memory: the position of each tensor. The bytes after it are not read.

A file is a u64 (little-endian), a JSON object of that many bytes, and the tensors end to end. All of it is hostile.
Nothing is allocated before its length is compared with the bytes at hand. JSON is bounded in bytes, depth and digits
before it is parsed. Every number is checked against the others before it is used.

Source: the format's description and the library's own rules (safetensors 0.3 to 0.8). A file that the library refuses
is refused here. Files that two readers could read differently are refused, too, although the library accepts them:
duplicate names (it keeps the last), unknown members (it skips them), whitespace before the object.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from types import MappingProxyType
from typing import NamedTuple, NoReturn, TypeVar

from ben_secure.errors import LimitExceededError, PatchFormatError, Rule, printable
from ben_secure.limits import Limits

LENGTH_BYTES = 8
"""Bytes of the header's length, in front of the header."""
METADATA = "__metadata__"
"""The member of the header that is not a tensor: an object of str to str."""

DTYPES: Mapping[str, str] = MappingProxyType(
    {
        "U8": "|u1", "I8": "|i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4", "F32": "<f4",
        "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8",
    }
)  # fmt: skip
"""``numpy.dtype.str`` of the dtypes that pixels may have, in the library's own order of dtypes."""

_OTHER_DTYPES = frozenset(
    {"BOOL", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4"}
)
_MEMBERS = {"dtype", "shape", "data_offsets"}
# The object, a tensor's object, its shape; or the object, the metadata.
_DEPTH = 3
# 2**64 has 20 digits.
_MAX_DIGITS = 20
_BRACKET = re.compile(r"[\[\]{}]")


class Tensor(NamedTuple):
    """One tensor: its name, ``dtype.str``, shape, and its bytes, ``start`` to ``stop`` after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Header(NamedTuple):
    """A parsed header: the tensors in the order of their bytes, the total of these bytes, and the metadata or None."""

    tensors: tuple[Tensor, ...]
    nbytes: int
    metadata: Mapping[str, str] | None


def refuse(fault: str, offset: int | None = LENGTH_BYTES) -> NoReturn:
    """Refuse a value that is not a well-formed safetensors file."""
    raise PatchFormatError(
        f"the safetensors value is invalid: {fault}; fetch it again or ask its publisher",
        rule=Rule.TENSORS,
        offset=offset,
    )


def header_bytes(value: bytes | memoryview, end: int, limits: Limits) -> bytes:
    """Return the header of ``value[:end]``.

    Args:
        value: The stored bytes (hostile).
        end: Where the payload ends.
        limits: Bounds on the value and its header.

    Returns:
        The header. Its length is exactly the announced one.

    Raises:
        LimitExceededError: Value or header is longer than ``limits`` allow.
        PatchFormatError: The value is cut short, or its header does not begin with an object.
    """
    if end > limits.max_value_bytes:
        raise LimitExceededError(
            f"the value has {end} bytes, at most {limits.max_value_bytes} are read; "
            "if it is honest, pass Limits(max_value_bytes=...)",
            rule=Rule.LIMIT,
        )
    if end < LENGTH_BYTES:
        refuse(f"it has {end} bytes, fewer than the {LENGTH_BYTES} bytes of the header's length", 0)
    length = int.from_bytes(value[:LENGTH_BYTES], "little")
    if length > limits.max_header_bytes:
        raise LimitExceededError(
            f"the header of the safetensors value has {length} bytes, at most {limits.max_header_bytes} are read (a "
            "patch has about 1,000); if it is honest, pass Limits(max_header_bytes=...)",
            rule=Rule.LIMIT,
            offset=0,
        )
    stop = LENGTH_BYTES + length
    if stop > end:
        refuse(f"its header should have {length} bytes, but {end - LENGTH_BYTES} follow", 0)
    header = bytes(value[LENGTH_BYTES:stop])
    if header[:1] != b"{":
        refuse(f"its header begins with {printable(header[:8])}, expected '{{'")
    return header


MAX_REMEMBERED_BYTES = 4096
"""Longer headers are not remembered. The header of a patch without labels has 824 bytes."""
_Result = TypeVar("_Result")


def remembered(function: Callable[[bytes, Limits], _Result]) -> Callable[[bytes, Limits], _Result]:
    """Remember the results for the 32 latest short headers, because headers repeat in a database.

    A header of ``MAX_REMEMBERED_BYTES`` and its result take less than 40 kB, so this holds at most 1.3 MB.
    """
    latest = lru_cache(maxsize=32)(function)

    @wraps(function)
    def recall(header: bytes, limits: Limits) -> _Result:
        return (latest if len(header) <= MAX_REMEMBERED_BYTES else function)(header, limits)

    return recall


@remembered
def read_header(header: bytes, limits: Limits) -> Header:
    """Read a header. Headers repeat in a database, so short ones are remembered.

    Args:
        header: From ``header_bytes`` (hostile).
        limits: Bound on the number of tensors.

    Returns:
        The parsed header. Its tensors lie end to end from 0 to ``nbytes``, in this order, and each has as many bytes as
        its shape and dtype need.

    Raises:
        LimitExceededError: There are more tensors than a patch may have bands.
        PatchFormatError: The header breaks any other rule.
    """
    entries = parse_json(header, _DEPTH, _DECODER)
    metadata = _metadata(entries.pop(METADATA)) if METADATA in entries else None
    for name in entries:
        _check_unicode(name)
    if not entries:
        refuse("it has no tensor")
    if len(entries) > limits.max_bands:
        raise LimitExceededError(
            f"the safetensors value has {len(entries)} tensors, at most {limits.max_bands} bands are read; "
            "if it is honest, pass Limits(max_bands=...)",
            rule=Rule.LIMIT,
            offset=LENGTH_BYTES,
        )
    tensors = sorted((_tensor(name, entry) for name, entry in entries.items()), key=lambda tensor: tensor[3:])
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            fault = "overlaps" if tensor.start < end else "leaves a gap after"
            refuse(
                f"tensor {printable(tensor.name)} begins at byte {tensor.start} and {fault} the one that ends at {end}"
            )
        end = tensor.stop
    return Header(tuple(tensors), end, metadata)


def _metadata(entry: object) -> Mapping[str, str]:
    if type(entry) is not dict:
        refuse(f"{METADATA} must be an object")
    for name, text in entry.items():
        if type(text) is not str:
            refuse(f"{METADATA} must contain only strings, but {printable(name)} is not a string")
        _check_unicode(name)
        _check_unicode(text)
    return MappingProxyType(entry)


def _check_unicode(text: str) -> None:
    """Refuse half of a surrogate pair, which JSON can write but UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        refuse(f"{printable(text)} in its header is not Unicode")


def _tensor(name: str, entry: object) -> Tensor:
    """Check the entry of one tensor in a header."""
    name_text = printable(name)
    if type(entry) is not dict or entry.keys() != _MEMBERS:
        refuse(f"tensor {name_text} must be an object with exactly the members dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in DTYPES:
        is_known = type(dtype) is str and dtype in _OTHER_DTYPES
        why = "which pixels cannot have" if is_known else "which is unknown"
        refuse(f"tensor {name_text} has the dtype {printable(dtype)}, {why}; pixels have one of {' '.join(DTYPES)}")
    if type(shape) is not list or any(type(length) is not int for length in shape):
        refuse(f"the shape of tensor {name_text} must be an array of integers, not {printable(shape)}")
    if type(offsets) is not list or [type(offset) for offset in offsets] != [int, int]:
        refuse(f"the data_offsets of tensor {name_text} must be two integers, not {printable(offsets)}")
    if len(shape) != 2 or not all(shape):
        refuse(
            f"tensor {name_text} has the shape {printable(shape)}; a band has rows and columns, at least one of each"
        )
    code = DTYPES[dtype]
    # Python's integers do not overflow, and each has at most 20 digits.
    expected = math.prod(shape) * int(code[2:])
    start, stop = offsets
    if stop - start != expected:
        refuse(
            f"tensor {name_text} of shape {printable(shape)} and dtype {dtype} takes {expected} bytes, but its offsets "
            f"{start} to {stop} are {stop - start} bytes"
        )
    return Tensor(name, code, tuple(shape), start, stop)


def strict_decoder(parse_float: Callable[[str], float], parse_int: Callable[[str], int]) -> json.JSONDecoder:
    """Make a decoder that refuses duplicate names, NaN and Infinity.

    Args:
        parse_float: Makes a float of its text, or refuses it.
        parse_int: Makes an int of its text, or refuses it.
    """
    return json.JSONDecoder(
        object_pairs_hook=_once, parse_constant=_no_constant, parse_float=parse_float, parse_int=parse_int
    )


def parse_json(data: bytes, max_depth: int, decoder: json.JSONDecoder) -> dict[str, object]:
    """Parse a JSON object strictly.

    Args:
        data: UTF-8; hostile, and of bounded length.
        max_depth: Nesting of arrays and objects.
        decoder: From ``strict_decoder``.

    Returns:
        The object.

    Raises:
        PatchFormatError: The text is not a JSON object in UTF-8, is nested too deeply, or the decoder refuses it.
    """
    try:
        text = data.decode()
        if text.count("{") + text.count("[") > max_depth:  # before parsing, so the verdict does not depend on the stack
            depth = _depth(text)
            if depth > max_depth:
                refuse(f"its JSON is nested {depth} deep, expected at most {max_depth}")
        document = decoder.decode(text)
    except UnicodeDecodeError as error:
        refuse(f"its JSON is not UTF-8 (byte {error.start} of it)")
    except json.JSONDecodeError as error:
        refuse(f"its header is not JSON: {printable(error.msg)} (character {error.pos} of it)")
    if type(document) is not dict:
        refuse("its JSON must be an object")
    return document


def _depth(text: str) -> int:
    """Return how deep the brackets of JSON are nested, in linear time; for malformed JSON, up to the first error."""
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    depth = deepest = 0
    for bracket in _BRACKET.findall(outside):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, item in pairs:
        if name in members:
            refuse(f"{printable(name)} occurs twice")
        members[name] = item
    return members


def _no_constant(text: str) -> NoReturn:
    refuse(f"{printable(text)} is not JSON")


def _natural(text: str) -> int:
    if len(text) > _MAX_DIGITS or text.startswith("-"):
        refuse(f"{printable(text)} must be a natural number of at most {_MAX_DIGITS} digits")
    return int(text)


_DECODER = strict_decoder(float, _natural)
