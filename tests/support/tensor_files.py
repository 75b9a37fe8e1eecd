"""Safetensors files built by hand, well-formed or not: the assembler of ``attack_tensors`` and ``test_tensors``."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

from ben_secure.bands import BANDS
from ben_secure.tensors.header import DTYPES
from ben_secure.tensors.note import NAME

SIZES = {name: int(code[2:]) for name, code in DTYPES.items()}
S1_NAMES = ("VH", "VV")
S2_NAMES = tuple(sorted(name for name in BANDS if name not in S1_NAMES))


def raw(header: str | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Make a file from a header as given; ``length`` is a false length."""
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def spell(members: dict[str, Any]) -> str:
    """JSON as the library spells it."""
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False)


def entry(shape: list[int], start: int = 0, dtype: str = "U8") -> dict[str, Any]:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, start + math.prod(shape) * SIZES[dtype]]}


def table(shapes: dict[str, list[int]], dtype: str = "U8") -> dict[str, Any]:
    """Tensors end to end, in the order of the dict."""
    members, start = {}, 0
    for name, shape in shapes.items():
        members[name] = entry(shape, start, dtype)
        start = members[name]["data_offsets"][1]
    return members


def pattern(count: int) -> bytes:
    """Bytes that differ from their neighbours."""
    return (np.arange(count) % 251).astype("u1").tobytes()


def file(members: dict[str, Any], data: bytes | None = None) -> bytes:
    """A file of a header in plain data, with as many bytes behind it as the last offset says."""
    ends = [
        said["data_offsets"][1]
        for name, said in members.items()
        if name != "__metadata__" and isinstance(said, dict) and "data_offsets" in said
    ]
    return raw(spell(members), pattern(max(ends, default=0)) if data is None else data)


def sentinel(names: tuple[str, ...], dtype: str = "U8", **changes: list[int]) -> dict[str, Any]:
    """The header of published bands; ``changes`` gives some of them another shape."""
    return table({name: changes.get(name, list(BANDS[name].shape)) for name in names}, dtype)


def noted(text: str | dict[str, Any], members: dict[str, Any] | None = None) -> bytes:
    """A Sentinel-1 file with a note."""
    note = text if isinstance(text, str) else spell(text)
    return file({"__metadata__": {NAME: note}, **(sentinel(S1_NAMES) if members is None else members)})


S1_FILE = file(sentinel(S1_NAMES))
"""An honest file that hardly differs from most attacks."""
MAP = table({"Data": [120, 120]})
"""A file of one tensor whose name is nobody's, as rico-hdl stores reference maps."""
