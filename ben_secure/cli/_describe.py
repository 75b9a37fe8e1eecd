"""Describe a patch and a database in plain data, for the commands that show them.

Takes patches that the loader has built and never changes them. Names and metadata come from a file: they are escaped
and cut here, and no ``repr`` of anything large is ever made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice

import numpy as np

from ben_secure.errors import printable
from ben_secure.patches import BigEarthNetPatch
from ben_secure.patches.band import Band

_SHOWN_CHARACTERS = 200
_SHOWN_ITEMS = 8
_SHOWN_DEPTH = 3


def band_facts(band: Band) -> dict[str, object]:
    """Describe a band: ``name``, ``resolution_m``, ``shape``, ``dtype``, ``min``, ``mean``, ``max``."""
    data = band.data
    wide = "c16" if data.dtype.kind == "c" else "f8"  # a float16 mean overflows
    with np.errstate(all="ignore"):
        low, mean, high = data.min(), data.mean(dtype=wide), data.max()
    return {
        "name": printable(band.name),
        "resolution_m": band.spatial_resolution,
        "shape": list(band.data_shape),
        "dtype": str(data.dtype),
        "min": _number(low.item()),
        "mean": _number(mean.item()),
        "max": _number(high.item()),
    }


def _number(value: complex) -> float | str:
    """JSON has no complex numbers, no infinity and no NaN; these become text."""
    return value if isinstance(value, int | float) and math.isfinite(value) else str(value)


def metadata_facts(patch: BigEarthNetPatch) -> list[dict[str, object]]:
    """Describe the metadata of a patch: for each its ``name``, ``type`` and ``value``, cut to some 200 characters."""
    return [
        {"name": printable(name), "type": _type(value), "value": printable(_text(value), _SHOWN_CHARACTERS)}
        for name, value in patch.to_dict()["metadata"].items()
    ]


def _type(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape}"
    return type(value).__name__


def _text(value: object, depth: int = 0) -> str:
    """Write metadata as Python does, but only the beginning of what is long, deep or many; not yet escaped."""
    if isinstance(value, np.ndarray):
        return _some(value.flat[: _SHOWN_ITEMS + 1].tolist(), value.size, "[]", depth)
    if isinstance(value, str):
        text = str(value[: _SHOWN_CHARACTERS + 1])  # cut first: it may be megabytes long
        return repr(text) if depth else text
    if isinstance(value, bytes):
        return repr(value[:_SHOWN_CHARACTERS])
    if isinstance(value, list | tuple | set | dict):
        if depth == _SHOWN_DEPTH:
            return "..."
        brackets = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        if isinstance(value, dict):
            shown = (f"{_text(name, depth + 1)}: {_text(item, depth + 1)}" for name, item in value.items())
            return _joined(shown, len(value), brackets)
        return _some(value, len(value), brackets, depth)
    return str(value)


def _some(items: Iterable[object], count: int, brackets: str, depth: int) -> str:
    return _joined((_text(item, depth + 1) for item in items), count, brackets)


def _joined(shown: Iterable[str], count: int, brackets: str) -> str:
    more = [f"... {count - _SHOWN_ITEMS:,} more"] if count > _SHOWN_ITEMS else []
    return brackets[0] + ", ".join([*islice(shown, _SHOWN_ITEMS), *more]) + brackets[1]
