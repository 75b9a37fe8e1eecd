"""Resolve an index of one or several patches by the rules of numpy and torch.

In Python a bool is an int. A mask of bools must not be read as the indices 0 and 1, because training would then see
only two patches.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from typing import Any


def index_of(index: Any, length: int) -> int:
    """Resolve the index of one patch.

    Args:
        index: Anything that Python accepts as an index, such as an int of numpy or torch. Negative values count from
            the end.
        length: Number of patches.

    Returns:
        The index, from 0.

    Raises:
        IndexError: The index is out of range.
        TypeError: The index is a bool or not an int.
    """
    if isinstance(_to_builtin(index), bool):
        raise TypeError(f"a bool is not the index of a patch; a mask needs {length} bools, one for each patch")
    position = operator.index(index)
    if not -length <= position < length:
        raise IndexError(f"patch {position} does not exist; the dataset has {length} patches")
    return position % length


def indices_of(indices: Iterable[Any], length: int) -> list[int]:
    """Resolve the indices of several patches. Raises like ``index_of``."""
    return [index_of(index, length) for index in indices]


def selected_indices(index: Any, length: int) -> list[int] | None:
    """Resolve an index of several patches.

    Args:
        index: A slice, a range, or a one-dimensional list, tuple, array or tensor of indices, or of bools, one for each
            patch.
        length: Number of patches.

    Returns:
        The indices, or None if the index is for a single patch or has another type.

    Raises:
        IndexError: An index is out of range, or a mask has another length.
        TypeError: The index holds something else.
    """
    if isinstance(index, slice):
        return list(range(*index.indices(length)))
    index = _to_builtin(index)
    if not isinstance(index, list | tuple | range):
        return None
    if index and all(isinstance(_to_builtin(item), bool) for item in index):
        if len(index) != length:
            raise IndexError(f"a mask has {len(index)} bools, expected {length}, one for each patch")
        return list(itertools.compress(range(length), index))
    return indices_of(index, length)


def _to_builtin(index: Any) -> Any:
    """Arrays and tensors as lists; numpy and torch scalars as Python numbers."""
    return index.tolist() if hasattr(index, "tolist") else index
