"""``batch_loader``: a ``DataLoader`` whose workers read whole batches, which cross to the training process once.

torch's sampler, queues, seeds, errors and pinning are used as they are. What is ours is the message: a worker names
the shared slab that it has written to, and the other side makes tensors of it where it lies.
"""

from __future__ import annotations

import math
import uuid
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset, get_worker_info

from ben_secure.torch.dataset import PatchDataset
from ben_secure.torch.memory import Mapped, Slab, split


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
    if not isinstance(_base(dataset), PatchDataset):
        raise TypeError(
            f"batch_loader reads a PatchDataset or a Subset of one, not a {type(dataset).__name__}; "
            "one PatchDataset can have several databases"
        )
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
        collate_fn=Delivery(),
        **options,
    )


def _base(dataset: Any) -> Any:
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


class Delivery:
    """Sends batches from the workers of one loader to the process that has the loader; its collate function."""

    def __init__(self, session: str | None = None) -> None:
        self.session = session or uuid.uuid4().hex
        self.mapped = Mapped()
        if session is None:
            _DELIVERIES[self.session] = self

    def __call__(self, batch: Any) -> Any:
        """Make a parcel of a batch that a worker has read; leave any other as it is."""
        worker = get_worker_info()
        if worker is None:
            return batch
        images, labels = batch if type(batch) is tuple and len(batch) == 2 else (batch, None)
        resolutions = tuple(images) if type(images) is dict else ()
        tensors = list(images.values()) if resolutions else [images]
        plain = (images is batch) == (labels is None) and type(labels) in (type(None), list, torch.Tensor)
        if not plain or not _lie_end_to_end(tensors):
            return batch  # of the caller's transform or dataset; torch sends it
        slab = _base(worker.dataset).pool().slab_at(tensors[0].data_ptr())
        if slab is None or not slab.promise():
            return batch
        return _Parcel(self.session, slab, resolutions, tensors, labels)

    def __reduce__(self) -> tuple[Callable[..., Delivery], tuple[str]]:
        return _delivery_of, (self.session,)


def _lie_end_to_end(tensors: list[Any]) -> bool:
    """Whether their shapes are enough to find them in a slab: as they were lent, and no other views of it."""
    end = None
    for tensor in tensors:
        if type(tensor) is not torch.Tensor or tensor.dtype != torch.float32 or tensor.requires_grad:
            return False
        if not tensor.is_contiguous() or tensor.data_ptr() != (end or tensor.data_ptr()):
            return False
        end = tensor.data_ptr() + 4 * tensor.numel()
    return True


def _delivery_of(session: str) -> Delivery:
    """The delivery itself where it is at home, so that copies of a loader share it; in a worker one that only sends."""
    return _DELIVERIES.get(session) or Delivery(session)


_DELIVERIES: weakref.WeakValueDictionary[str, Delivery] = weakref.WeakValueDictionary()
"""Where parcels arrive: the loaders of this process. A loader's iterator keeps it alive too."""


class _Parcel:
    """A batch on its way: the name of the slab with its pixels, and its labels in the message itself."""

    def __init__(
        self, session: str, slab: Slab, resolutions: tuple[int, ...], tensors: list[torch.Tensor], labels: Any
    ) -> None:
        self._tensors = tensors  # they keep the slab until the parcel is packed
        self._slab = slab
        plain = labels.numpy() if isinstance(labels, torch.Tensor) else labels  # a Delivery lets no others come here
        self._rest = [tuple(tensor.shape) for tensor in tensors], resolutions, plain
        self._session = session

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _unpack, (self._session, self._slab.token, self._slab.send(), *self._rest)


def _unpack(
    session: str,
    token: tuple[int, int],
    new: torch.Tensor | None,
    shapes: list[tuple[int, ...]],
    resolutions: tuple[int, ...],
    labels: Any,
) -> Any:
    floats = sum(map(math.prod, shapes))
    tensors = split(_DELIVERIES[session].mapped.open(token, new, floats), shapes)
    images = dict(zip(resolutions, tensors, strict=True)) if resolutions else tensors[0]
    if labels is None:
        return images
    return images, labels if isinstance(labels, list) else torch.from_numpy(labels)
