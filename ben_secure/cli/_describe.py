"""Describe a patch as plain data, for the commands that show it.

The input is a patch from the loader, which is not changed. Names and metadata are text from a file, so they are escaped
and truncated here. The ``repr`` of a large object is never computed.
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
    wide = "c16" if data.dtype.kind == "c" else "f8"  # the mean of float16 could overflow
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
    """Convert complex numbers, infinity and NaN into text, because JSON has none of them."""
    return value if isinstance(value, int | float) and math.isfinite(value) else str(value)


def metadata_facts(patch: BigEarthNetPatch) -> list[dict[str, object]]:
    """Describe each item of the metadata: ``name``, ``type`` and ``value``, which is truncated to 200 characters."""
    return [
        {"name": printable(name), "type": _type(value), "value": printable(_text(value), _SHOWN_CHARACTERS)}
        for name, value in patch.to_dict()["metadata"].items()
    ]


def _type(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {value.shape}"
    return type(value).__name__


def _text(value: object, depth: int = 0) -> str:
    """Write metadata as Python does, but truncated if it is long or deep. The text is not yet escaped."""
    if isinstance(value, np.ndarray):
        return _items(value.flat[: _SHOWN_ITEMS + 1].tolist(), value.size, "[]", depth)
    if isinstance(value, str):
        text = str(value[: _SHOWN_CHARACTERS + 1])  # truncated first, because it may have megabytes
        return repr(text) if depth else text
    if isinstance(value, bytes):
        return repr(value[:_SHOWN_CHARACTERS])
    if isinstance(value, list | tuple | set | dict):
        if depth == _SHOWN_DEPTH:
            return "..."
        brackets = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        if isinstance(value, dict):
            pairs = (f"{_text(name, depth + 1)}: {_text(item, depth + 1)}" for name, item in value.items())
            return _joined(pairs, len(value), brackets)
        return _items(value, len(value), brackets, depth)
    return str(value)


def _items(items: Iterable[object], count: int, brackets: str, depth: int) -> str:
    return _joined((_text(item, depth + 1) for item in items), count, brackets)


def _joined(texts: Iterable[str], count: int, brackets: str) -> str:
    more = [f"... {count - _SHOWN_ITEMS:,} more"] if count > _SHOWN_ITEMS else []
    return brackets[0] + ", ".join([*islice(texts, _SHOWN_ITEMS), *more]) + brackets[1]
