"""Which patches an index means, as numpy and torch would have it; knows no patch.

A bool is an int to Python and 0 or 1 to ``operator.index``: a mask that is taken for places trains on two patches.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from typing import Any


def place_of(index: Any, length: int) -> int:
    """Resolve the index of one patch.

    Args:
        index: Anything that Python takes for an index, such as an int of numpy or torch; negative from the end.
        length: How many patches there are.

    Returns:
        The place, from 0.

    Raises:
        IndexError: There is no such place.
        TypeError: The index is a bool or no int.
    """
    if isinstance(_plain(index), bool):
        raise TypeError(f"a bool is not the place of a patch; a mask selects if it has {length} bools, one a patch")
    place = operator.index(index)
    if not -length <= place < length:
        raise IndexError(f"there is no patch {place}, there are {length}")
    return place % length


def places_of(indices: Iterable[Any], length: int) -> list[int]:
    """Resolve the indices of several patches; raises as ``place_of``."""
    return [place_of(index, length) for index in indices]


def selected(index: Any, length: int) -> list[int] | None:
    """Resolve an index that means several patches.

    Args:
        index: A slice, a range, or a list, tuple, array or tensor of one axis: of places, or of one bool a patch.
        length: How many patches there are.

    Returns:
        The places; None if the index means a single patch, if anything.

    Raises:
        IndexError: There is no such place, or a mask is of another length.
        TypeError: The index holds something else.
    """
    if isinstance(index, slice):
        return list(range(*index.indices(length)))
    index = _plain(index)
    if not isinstance(index, list | tuple | range):
        return None
    if index and all(isinstance(_plain(item), bool) for item in index):
        if len(index) != length:
            raise IndexError(f"a mask has {len(index)} bools, expected {length}, one a patch")
        return list(itertools.compress(range(length), index))
    return places_of(index, length)


def _plain(index: Any) -> Any:
    """Arrays and tensors as lists, numbers of numpy and torch as numbers."""
    return index.tolist() if hasattr(index, "tolist") else index
