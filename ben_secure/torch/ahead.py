"""Read the next batch in a thread while the loop trains on the current one.

Only reading happens in the thread. The sampler, transforms and collation run in the iterating thread, so their random
numbers keep their order, and a seed gives the same run with and without reading ahead.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader, Dataset, Subset

from ben_secure._system.causes import reason
from ben_secure.errors import StoreError
from ben_secure.torch.dataset import PatchDataset


class AheadLoader(DataLoader[Any]):
    """A ``DataLoader`` that reads one batch ahead if it has no workers. Otherwise it behaves like any other."""

    def __iter__(self) -> Any:
        if self.num_workers or self.batch_sampler is None or not _only_reads(self.dataset):
            return self._started()
        ahead = _Ahead(self.dataset, self.batch_sampler)
        return iter(
            DataLoader(
                ahead,
                batch_sampler=ahead,
                collate_fn=self.collate_fn,
                pin_memory=self.pin_memory,
                pin_memory_device=self.pin_memory_device,
                generator=self.generator,
            )
        )

    def _started(self) -> Any:
        try:
            return super().__iter__()
        except OSError as error:
            raise StoreError(
                f"the workers of a loader cannot be started: {reason(error)}; make /dev/shm writable, or use "
                "num_workers=0"
            ) from error


def _only_reads(dataset: Any) -> bool:
    """Whether ``__getitems__`` only reads. The caller's code must not run in a thread unexpectedly."""
    while isinstance(dataset, Subset) and type(dataset).__getitems__ is Subset.__getitems__:
        dataset = dataset.dataset
    return isinstance(dataset, PatchDataset) and all(
        getattr(type(dataset), method) is getattr(PatchDataset, method) for method in ("__getitem__", "__getitems__")
    )


class _Ahead(Dataset[Any]):
    """Dataset and batch sampler of one epoch. When it reads a batch, it already knows the indices of the next batch.

    Its thread ends when nothing refers to this object any more, at the end of the epoch or after an early exit.
    """

    def __init__(self, dataset: Any, batch_sampler: Any) -> None:
        self._dataset = dataset
        self._batch_sampler = batch_sampler
        self._following: Sequence[int] | None = None
        self._read: Future[Any] | None = None
        self._thread: tuple[int, ThreadPoolExecutor] | None = None

    def __len__(self) -> int:
        return len(self._batch_sampler)

    def __iter__(self) -> Iterator[Sequence[int]]:
        return self._look_ahead(iter(self._batch_sampler))

    def _look_ahead(self, batches: Iterator[Sequence[int]]) -> Iterator[Sequence[int]]:
        indices = next(batches, None)
        while indices is not None:
            self._following = next(batches, None)
            yield indices
            indices = self._following

    def __getitems__(self, indices: Sequence[int]) -> Any:
        read, self._read = self._read, None
        items = self._dataset.__getitems__(indices) if read is None else read.result()
        if self._following is not None:
            self._read = self._start(self._following)
        return items

    def _start(self, indices: Sequence[int]) -> Future[Any]:
        if self._thread is None or self._thread[0] != os.getpid():  # a forked process has no copy of the thread
            self._thread = os.getpid(), ThreadPoolExecutor(1, "ben_secure batches")
        read = self._thread[1].submit(self._dataset.__getitems__, indices)
        _reads.add(read)
        return read


_reads: weakref.WeakSet[Future[Any]] = weakref.WeakSet()


def _wait_for_all() -> None:
    for read in list(_reads):
        read.exception()


if hasattr(os, "register_at_fork"):
    # Wait until no read is in progress, so that a forked process does not inherit a lock that is held.
    os.register_at_fork(before=_wait_for_all)
