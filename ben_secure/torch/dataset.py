"""``PatchDataset``: patches as tensors, for any ``DataLoader``.

``batches.PatchArrays`` reads. This module only makes tensors, in memory that suits the process that reads them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from ben_secure.batches import PatchArrays
from ben_secure.batches.labels import LabelNames
from ben_secure.batches.samples import Samples, stack
from ben_secure.errors import MissingExtraError
from ben_secure.torch.memory import Pool, shared, split

# The documented extension of ``default_collate``: it leaves label names as they are.
default_collate_fn_map[LabelNames] = lambda batch, *, collate_fn_map=None: list(batch)

if TYPE_CHECKING:
    import numpy.typing as npt


class PatchDataset(PatchArrays, Dataset[Any]):
    """Patches of one or several databases as tensors with their labels.

    Arguments, attributes and errors are those of ``PatchArrays``, with tensors in place of arrays. ``dataset[i]`` is
    ``(tensor, labels)``. Reading single items is slow: use ``batch_loader``, or a ``DataLoader`` with
    ``collate_fn=ben_secure.torch.collate``.
    """

    _pool: Pool | None = None

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """Read a batch for a ``DataLoader``, whole for ``collate``, and item by item for other collate functions."""
        if type(self).__getitem__ is not PatchDataset.__getitem__:  # a subclass changes items
            return [self[index] for index in indices]
        return self.samples(indices)

    def _allocate(
        self, shapes: list[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]
    ) -> tuple[list[Any], list[npt.NDArray[Any]]]:
        types = [_TYPES.get(dtype) or _missing(dtype) for dtype in dtypes]
        if len(shapes[0]) == 3:  # one patch
            tensors = [torch.empty(shape, dtype=dtype) for shape, dtype in zip(shapes, types, strict=True)]
        else:
            tensors = split(self._allocate_bytes, shapes, types)
        return tensors, [tensor.numpy() for tensor in tensors]

    def _allocate_bytes(self, nbytes: int) -> torch.Tensor:
        """Memory for a batch: in a worker, shared memory, which torch sends without a copy; otherwise from the pool."""
        if get_worker_info() is not None:
            return shared(nbytes)
        if self._pool is None or self._pool.process != os.getpid():
            self._pool = Pool()
        return self._pool.take(nbytes)

    def _native(self, array: npt.NDArray[Any]) -> Any:
        return torch.from_numpy(array)

    def _memory(self, array: Any) -> Any:
        return (array.data_ptr(), array.shape, array.stride()) if isinstance(array, torch.Tensor) else None

    def _join(self, arrays: list[Any]) -> Any:
        return default_collate(arrays)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}


_TYPES = {np.dtype(name): getattr(torch, name) for name in ("float32", "uint16") if hasattr(torch, name)}


def _missing(dtype: np.dtype[Any]) -> NoReturn:
    raise MissingExtraError(
        f"this version of PyTorch does not have {dtype}: update it to 2.3 or later, or leave out dtype="
    )


def collate(items: Any) -> Any:
    """Collate function for ``DataLoader(dataset, batch_size=..., collate_fn=collate)`` over a ``PatchDataset``.

    Args:
        items: The items of one batch, from the ``DataLoader``.

    Returns:
        The batch as it was read, without a copy. Items that were read one by one are collated like in torch, except
        that label names stay a list.
    """
    return items.whole() if isinstance(items, Samples) else stack(items, default_collate)
