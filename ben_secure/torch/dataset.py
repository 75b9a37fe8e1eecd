"""``PatchDataset``: patches as tensors, for any ``DataLoader``.

Reading is ``batches.PatchArrays``'s; here arrays only become tensors, in memory that is chosen for the process in
which they are read.
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

# What torch documents for types of one's own (``default_collate``): its collate function leaves these as they are.
default_collate_fn_map[LabelNames] = lambda batch, *, collate_fn_map=None: list(batch)

if TYPE_CHECKING:
    import numpy.typing as npt


class PatchDataset(PatchArrays, Dataset[Any]):
    """Patches of one or several databases as tensors with their labels.

    Arguments, attributes and errors as of ``PatchArrays``; where that has arrays, this has tensors. ``dataset[i]`` is
    ``(tensor, labels)``, conventional and not fast: use ``batch_loader``, or a ``DataLoader`` with
    ``collate_fn=ben_secure.torch.collate``.
    """

    _pool: Pool | None = None

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """Read a batch for a ``DataLoader``; ``collate`` takes it whole, any other collate function item by item."""
        if type(self).__getitem__ is not PatchDataset.__getitem__:  # what a class of the caller's makes of an item
            return [self[index] for index in indices]
        return self.samples(indices)

    def _allocate(
        self, shapes: list[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]
    ) -> tuple[list[Any], list[npt.NDArray[Any]]]:
        types = [_TYPES.get(dtype) or _missing(dtype) for dtype in dtypes]
        if len(shapes[0]) == 3:  # one patch
            tensors = [torch.empty(shape, dtype=dtype) for shape, dtype in zip(shapes, types, strict=True)]
        else:
            tensors = split(self._lend, shapes, types)
        return tensors, [tensor.numpy() for tensor in tensors]

    def _lend(self, nbytes: int) -> torch.Tensor:
        """Memory for a batch: what torch sends without a copy, or what is used again in this process."""
        if get_worker_info() is not None:
            return shared(nbytes)
        if self._pool is None or self._pool.process != os.getpid():
            self._pool = Pool()
        return self._pool.lend(nbytes)

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
    raise MissingExtraError(f"this version of PyTorch has no {dtype}: update it to 2.3 or later, or leave out dtype=")


def collate(items: Any) -> Any:
    """Collate function for ``DataLoader(dataset, batch_size=..., collate_fn=collate)`` over a ``PatchDataset``.

    Args:
        items: What the ``DataLoader`` has: the items of one batch.

    Returns:
        The batch as it was read, without a copy; items that were not read as one are collated as torch does it, except
        that labels that are names stay a list.
    """
    return items.whole() if isinstance(items, Samples) else stack(items, default_collate)
