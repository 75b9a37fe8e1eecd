"""``PatchDataset``: patches as tensors, for any ``DataLoader``.

Reading is ``batches.PatchArrays``'s; here arrays only become tensors, in memory that is chosen for the process in
which they are read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate, get_worker_info

from ben_secure.batches import PatchArrays
from ben_secure.torch.memory import Pool, shared_tensor, split

if TYPE_CHECKING:
    import numpy.typing as npt

# A worker has batches in the queue (torch's prefetch_factor is 2), one that is read and those the training loop holds.
_SHARED_SLABS = 8
_OWN_SLABS = 2


class PatchDataset(PatchArrays, Dataset[Any]):
    """Patches of one or several databases as float32 tensors with their labels.

    Arguments, attributes and errors as of ``PatchArrays``; where that has arrays, this has tensors. ``dataset[i]`` is
    ``(tensor, labels)``, conventional and not fast: use ``batch_loader``, or a ``DataLoader`` with
    ``collate_fn=ben_secure.torch.collate``.
    """

    _pool: Pool | None = None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, torch.Tensor) and index.ndim:
            index = index.tolist()
        return super().__getitem__(index)

    def __getitems__(self, indices: Sequence[int]) -> Items:
        """Read a batch for a ``DataLoader`` that batches itself; ``collate`` takes it whole."""
        return Items(self.batch(indices), len(indices))

    def pool(self) -> Pool:
        """The memory for batches of this process."""
        if self._pool is None or self._pool.process != os.getpid():  # a forked worker has a copy of another's
            worker = get_worker_info() is not None
            self._pool = Pool(shared=worker, most=_SHARED_SLABS if worker else _OWN_SLABS)
        return self._pool

    def _allocate(self, shapes: list[tuple[int, ...]]) -> tuple[list[Any], list[npt.NDArray[np.float32]]]:
        if len(shapes[0]) == 3:  # one patch
            tensors = [torch.empty(shape, dtype=torch.float32) for shape in shapes]
            return tensors, [tensor.numpy() for tensor in tensors]
        floats = sum(map(math.prod, shapes))
        if (array := self.pool().lend(floats)) is not None:
            whole = torch.from_numpy(array)
        elif get_worker_info() is not None:
            whole = shared_tensor(floats)
        else:
            whole = torch.from_numpy(np.empty(floats, np.float32))
        return split(whole, shapes), split(whole.numpy(), shapes)

    def _native(self, array: npt.NDArray[np.float32]) -> Any:
        return torch.from_numpy(array)

    def _memory(self, array: Any) -> Any:
        return array.data_ptr(), array.shape, array.stride()

    def _stack(self, results: list[Any]) -> Any:
        return default_collate(results)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}


class Items(Sequence[Any]):
    """The items of a batch that was read as one; for ``collate``, or for any other collate function item by item."""

    def __init__(self, whole: Any, length: int) -> None:
        self.whole = whole
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._length))]
        return _part(self.whole, range(self._length)[index])


def _part(whole: Any, place: int) -> Any:
    """One item of a batch: a view of its tensors."""
    if isinstance(whole, tuple):
        images, labels = whole
        return _part(images, place), labels[place]
    if isinstance(whole, dict):
        return {name: tensor[place] for name, tensor in whole.items()}
    return whole[place]


def collate(items: Any) -> Any:
    """Collate function for ``DataLoader(dataset, batch_size=..., collate_fn=collate)`` over a ``PatchDataset``.

    Args:
        items: What the ``DataLoader`` has: the items of one batch.

    Returns:
        The batch as it was read, without a copy; items that were not read as one are collated as torch does it.
    """
    return items.whole if isinstance(items, Items) else default_collate(items)
