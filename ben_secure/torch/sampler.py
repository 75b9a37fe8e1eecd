"""``EpochSampler``: an order determined by a seed and the epoch, so that a run can be resumed elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import RandomSampler


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A generator whose numbers depend only on the seed and the epoch."""
    mixed = np.random.SeedSequence((seed % 2**64, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


class EpochSampler(RandomSampler):
    """Yields every patch once per epoch, in an order that depends only on the seed and the epoch.

    Attributes:
        seed: The seed.
        epoch: Number of the next epoch. An iterator adds 1 when it yields its first patch, not earlier, because
            torchdata's loader makes two iterators and uses one of them.
    """

    def __init__(self, dataset: Any, seed: int, epoch: int = 0) -> None:
        """Choose the order.

        Args:
            dataset: Any object with a length.
            seed: Any int.
            epoch: Number of the first epoch, from 0. To resume a run, pass the number of completed epochs.

        Raises:
            ValueError: The epoch is negative, or the dataset is empty.
        """
        super().__init__(dataset)
        self.seed = seed
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, like ``DistributedSampler.set_epoch``. Frameworks call this."""
        if epoch < 0:
            raise ValueError(f"epochs are counted from 0, not {epoch}")
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return _Order(self)


class _Order(Iterator[int]):
    """The order of one epoch. torchdata's ``StatefulDataLoader`` saves and restores the position in it."""

    def __init__(self, sampler: EpochSampler) -> None:
        self._sampler = sampler
        self._yielded = 0
        self._rest: Iterator[int] | None = None

    def _go_to(self, epoch: int, yielded: int) -> Iterator[int]:
        self._epoch, self._yielded = epoch, yielded
        order = torch.randperm(len(self._sampler), generator=epoch_generator(self._sampler.seed, epoch)).tolist()
        self._rest = itertools.islice(order, yielded, None)
        self._sampler.set_epoch(epoch + 1)
        return self._rest

    def __next__(self) -> int:
        index = next(self._rest or self._go_to(self._sampler.epoch, 0))
        self._yielded += 1
        return index

    def state_dict(self) -> dict[str, int]:
        """The position in the epoch."""
        epoch = self._sampler.epoch if self._rest is None else self._epoch
        return {"epoch": epoch, "yielded": self._yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a saved position."""
        self._go_to(state["epoch"], state["yielded"])
