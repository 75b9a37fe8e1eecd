"""``batch_loader``: a ``DataLoader`` that reads whole batches, and the next one while the loop trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader

from ben_secure.torch.ahead import AheadLoader
from ben_secure.torch.dataset import collate
from ben_secure.torch.sampler import EpochSampler, epoch_generator


def batch_loader(
    dataset: Any,
    batch_size: int = 64,
    *,
    shuffle: bool = False,
    num_workers: int = 0,
    drop_last: bool = False,
    seed: int | None = None,
    epoch: int = 0,
    generator: torch.Generator | None = None,
    sampler: Iterable[int] | None = None,
    collate_fn: Callable[[Any], Any] = collate,
    **options: Any,
) -> DataLoader[Any]:
    """Make a ``DataLoader`` that reads whole batches.

    Its batches are those of ``DataLoader(dataset, batch_size=..., collate_fn=collate)``. Without workers, one thread
    reads the next batch while the loop trains. The thread only reads, so random numbers are drawn in the same order as
    without it. The one exception is a sampler that draws from torch's global generator during an epoch: it draws one
    batch earlier. No sampler of torch does this.

    Args:
        dataset: A ``PatchDataset``, or a ``Subset`` of one. Other datasets are read item by item, like with any loader.
        batch_size: Patches per batch. The last batch may have fewer.
        shuffle: Whether each epoch has a new random order.
        num_workers: Number of processes that read; 0 to read in this process.
        drop_last: Whether to leave out a last batch with fewer patches.
        seed: Makes the order depend only on this seed and the number of the epoch. The random numbers of workers depend
            on it, too.
        epoch: Number of the first epoch, from 0, to resume a run. Requires ``shuffle`` and ``seed``.
        generator: Generator of the order, instead of a seed, or None for torch's global generator.
        sampler: Indices of the patches in the order of reading, instead of ``shuffle``.
        collate_fn: Makes a batch from a sequence of items.
        **options: As for ``DataLoader``: ``pin_memory``, ``persistent_workers``, ``prefetch_factor``,
            ``multiprocessing_context``, ``worker_init_fn``, ``timeout``, ...

    Returns:
        The loader. Each batch is as from ``dataset.batch``. Errors from workers keep their class, and their messages
        contain the database and the LMDB key.

    Raises:
        ValueError: Options contradict each other.
    """
    if "batch_sampler" in options:
        raise ValueError(
            "a batch sampler has its own batch size and order; use DataLoader(dataset, batch_sampler=..., "
            "collate_fn=ben_secure.torch.collate)"
        )
    if seed is not None and generator is not None:
        raise ValueError("pass a seed or a generator, not both")
    if sampler is not None and shuffle:
        raise ValueError("a sampler has its own order; leave out shuffle")
    if epoch and (seed is None or not shuffle):
        raise ValueError("epoch requires shuffle=True and a seed; with your own sampler, call its set_epoch")
    if seed is not None:
        if shuffle:
            sampler, shuffle = EpochSampler(dataset, seed, epoch), False
        generator = epoch_generator(seed, epoch)
    return AheadLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=drop_last,
        generator=generator,
        collate_fn=collate_fn,
        **options,
    )
