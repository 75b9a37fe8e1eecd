"""Equality of metadata by type and by value, bit for bit.

It compares metadata that ``metadata`` has accepted, so its depth is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def equal(a: object, b: object) -> bool:
    """Compare two metadata values by type and by value, recursively.

    1, 1.0 and True differ, and so do 0.0 and -0.0. NaN equals NaN. Equal arrays agree in dtype, byte order, shape and
    all bits.

    Args:
        a: Accepted metadata.
        b: Accepted metadata.

    Returns:
        Whether they are equal.
    """
    return _equal(a, b)


def _equal(a: Any, b: Any) -> bool:
    kind = type(a)
    if isinstance(a, np.generic) and isinstance(b, np.generic) and kind is not np.str_:
        return a.dtype.str == b.dtype.str and a.tobytes() == b.tobytes()
    if kind is not type(b):
        return False
    if kind is list or kind is tuple:
        return len(a) == len(b) and all(map(_equal, a, b))
    if kind is dict:
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if kind is set:
        return len(a) == len(b) and {_leaf_key(member) for member in a} == {_leaf_key(member) for member in b}
    if kind is np.ndarray:
        return _same_array(a, b)
    return bool(_leaf_key(a) == _leaf_key(b))


def _leaf_key(leaf: object) -> tuple[type, object]:
    """Encode a value so that == distinguishes types, zeros and NaN like ``equal``."""
    return type(leaf), leaf.hex() if type(leaf) is float else leaf


def _same_array(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    if a.shape != b.shape or a.dtype.str != b.dtype.str:
        return False
    return a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes()
