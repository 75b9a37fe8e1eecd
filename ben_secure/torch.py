"""``PatchDataset`` and ``batch_loader``: patches as tensors; the only module that imports torch.

Reading is ``batches.PatchArrays``'s: here arrays only become tensors. A loader worker reads a whole batch straight
into shared memory, which crosses to the main process once, without collating and without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.batches import PatchArrays
from ben_secure.errors import MissingExtraError

try:
    import torch
    from torch.utils.data import (
        BatchSampler,
        DataLoader,
        Dataset,
        RandomSampler,
        SequentialSampler,
        Subset,
        default_collate,
        get_worker_info,
    )
except ImportError as error:
    raise MissingExtraError(
        "ben_secure.torch needs PyTorch, which is not installed: pip install 'ben-secure[torch]'; "
        "ben_secure.batches.PatchArrays gives the same as numpy arrays without it"
    ) from error

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PatchDataset", "batch_loader", "collate"]


class PatchDataset(PatchArrays, Dataset[Any]):
    """Patches of one or several databases as float32 tensors with their labels; for any ``DataLoader``.

    Arguments, attributes and errors as of ``PatchArrays``; where that has arrays, this has tensors. ``dataset[i]`` is
    ``(tensor, labels)``, conventional and not fast: use ``batch_loader``, or a ``DataLoader`` with
    ``collate_fn=ben_secure.torch.collate``.
    """

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, torch.Tensor) and index.ndim:
            index = index.tolist()
        return super().__getitem__(index)

    def __getitems__(self, indices: Sequence[int]) -> Items:
        """Read a batch for a ``DataLoader`` that batches itself; ``collate`` takes it whole."""
        return Items(self.batch(indices), len(indices))

    def _allocate(self, shape: tuple[int, ...]) -> tuple[Any, npt.NDArray[np.float32]]:
        tensor = torch.empty(0, dtype=torch.float32)
        if get_worker_info() is None:
            tensor = tensor.resize_(shape)
        else:
            # In shared memory from the start, as torch's own collate does it: sending it copies nothing.
            storage = tensor._typed_storage()._new_shared(int(np.prod(shape)), device="cpu")
            tensor = tensor.new(storage).resize_(shape)
        return tensor, tensor.numpy()

    def _native(self, array: npt.NDArray[np.float32]) -> Any:
        return torch.from_numpy(array)

    def _stack(self, results: list[Any]) -> Any:
        return default_collate(results)


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


def batch_loader(
    dataset: Any,
    batch_size: int = 64,
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    drop_last: bool = False,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    sampler: Iterable[int] | None = None,
    **options: Any,
) -> DataLoader[Any]:
    """Make a ``DataLoader`` whose workers read whole batches.

    The order of the patches depends on the seed or generator and the epoch, never on the number of workers. (A
    ``transform`` that draws random numbers draws from its worker's generators, as everywhere in torch.)

    Args:
        dataset: A ``PatchDataset``, or a ``torch.utils.data.Subset`` of one.
        batch_size: Patches in a batch; the last may have fewer.
        shuffle: Whether to take the patches in a new random order in each epoch.
        num_workers: Processes that read; 0 to read in this one.
        drop_last: Whether to leave a last batch with fewer patches out.
        seed: Seed of the order, in place of a generator.
        generator: Generator of the order; None for torch's global one.
        sampler: Places of patches in the order to take them, in place of ``shuffle``.
        **options: As for ``DataLoader``: ``pin_memory``, ``persistent_workers``, ``prefetch_factor``,
            ``multiprocessing_context``, ``worker_init_fn``, ``timeout``, ...

    Returns:
        The loader; each batch as ``dataset.batch`` returns it. Errors keep their class, with database and LMDB key in
        the message.

    Raises:
        TypeError: The dataset is of another kind.
        ValueError: Options contradict each other.
    """
    base = dataset
    while isinstance(base, Subset):
        base = base.dataset
    if not isinstance(base, PatchDataset):
        raise TypeError(f"batch_loader reads a PatchDataset or a Subset of one, not a {type(base).__name__}")
    if seed is not None:
        if generator is not None:
            raise ValueError("pass a seed or a generator, not both")
        generator = torch.Generator().manual_seed(seed)
    if sampler is None:
        sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
    elif shuffle:
        raise ValueError("a sampler has its own order; leave shuffle out")
    for option in ("collate_fn", "batch_sampler"):
        if option in options:
            raise ValueError(f"batch_loader makes whole batches itself; leave {option} out, or use a DataLoader")
    return DataLoader(
        dataset,
        batch_size=None,  # the sampler's items are the batches: the dataset gets all the places of one at once
        sampler=BatchSampler(sampler, batch_size, drop_last),
        num_workers=num_workers,
        generator=generator,
        collate_fn=_deliver,
        **options,
    )


class _Parcel:
    """A batch on its way from a worker: its pixels in shared memory, its few labels in the message itself.

    A tensor costs a file descriptor and a connection between the processes; a label vector is not worth one.
    """

    def __init__(self, images: Any, labels: torch.Tensor) -> None:
        self._images = images
        self._labels = labels

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, (self._images, self._labels.numpy())


def _unpack(images: Any, labels: npt.NDArray[np.float32]) -> tuple[Any, Any]:
    return images, torch.from_numpy(labels)


def _deliver(batch: Any) -> Any:
    if get_worker_info() is not None and isinstance(batch, tuple) and isinstance(batch[1], torch.Tensor):
        return _Parcel(*batch)
    return batch
