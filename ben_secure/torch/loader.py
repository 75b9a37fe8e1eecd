"""``batch_loader``: a ``DataLoader`` that reads whole batches, the next one while the loop trains."""

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

    It is an ordinary one: ``DataLoader(dataset, batch_size=..., collate_fn=collate)`` gives the same batches. Without
    workers, one thread reads the next batch while the loop trains; nothing else happens in that thread, so random
    numbers are drawn in the same order as without it (a sampler that draws from torch's global generator while an
    epoch runs, which none of torch's does, draws one batch earlier).

    Args:
        dataset: A ``PatchDataset``, or a ``Subset`` of one; other datasets are read item by item, as by any loader.
        batch_size: Patches in a batch; the last may have fewer.
        shuffle: Whether to take the patches in a new random order in each epoch.
        num_workers: Processes that read; 0 to read in this one.
        drop_last: Whether to leave a last batch with fewer patches out.
        seed: What the order depends on, with the number of the epoch and nothing else; workers' random numbers
            depend on it too.
        epoch: Number of the first epoch, from 0, for a run that goes on: needs ``shuffle`` and ``seed``.
        generator: Generator of the order, in place of a seed; None for torch's global one.
        sampler: Places of patches in the order to take them, in place of ``shuffle``.
        collate_fn: Makes a batch of a sequence of items.
        **options: As for ``DataLoader``: ``pin_memory``, ``persistent_workers``, ``prefetch_factor``,
            ``multiprocessing_context``, ``worker_init_fn``, ``timeout``, ...

    Returns:
        The loader; each batch as ``dataset.batch`` returns it. Errors keep their class, with database and LMDB key in
        the message.

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
        raise ValueError("a sampler has its own order; leave shuffle out")
    if epoch and (seed is None or not shuffle):
        raise ValueError("epoch needs shuffle=True and a seed; a sampler of yours has its own set_epoch")
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
