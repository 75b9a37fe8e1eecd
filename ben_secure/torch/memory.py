"""Reuse memory for batches inside one process.

The first access to each page of new memory is slow: it takes 5 to 10 times as long as the copy. A ``Pool`` therefore
keeps a few arrays, and uses one again as soon as nothing refers to its tensor. A tensor made by ``torch.from_numpy``
keeps its array alive, and so does every view of it, so a weak reference to the array shows whether it is in use. A
forked process has its own copy of the pool.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ben_secure.errors import StoreError, printable

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST = 4
"""Number of arrays kept: one being read, one ready, and two that the training loop may hold."""

_MIN_BYTES = 2**20  # smaller arrays are not worth keeping
_SPARE_FDS = 10  # for the tensors of two batches, and for the socket and the connection through which they are fetched


class Pool:
    """Arrays of bytes for batches, each used by one batch at a time. All threads of the process may use it.

    Attributes:
        process: Id of the process. Another process makes its own pool.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._lock = threading.Lock()
        self._kept: list[tuple[npt.NDArray[np.uint8], Callable[[], object]]] = []

    def take(self, nbytes: int) -> torch.Tensor:
        """Return uninitialised bytes. They are used again after the tensor and all views of it are gone."""
        with self._lock:
            free = (slot for slot, (_, in_use) in enumerate(self._kept) if in_use() is None)
            slot = next(free, len(self._kept))
            if slot < len(self._kept) and len(self._kept[slot][0]) >= nbytes:
                array = self._kept[slot][0]
            else:  # all are in use, or the batch is larger
                array = np.empty(nbytes, np.uint8)
            used = array[:nbytes]
            if slot < _MOST and nbytes >= _MIN_BYTES:
                self._kept[slot : slot + 1] = [(array, weakref.ref(used))]
        return torch.from_numpy(used)


def shared(nbytes: int) -> torch.Tensor:
    """New shared memory, as torch's own collation makes it in a worker. Sending it does not copy it.

    Raises:
        StoreError: There is not enough of it, or the worker has too few file descriptors to send a batch. A thread of
            torch sends it and only prints its errors, so that training would wait forever.
    """
    try:
        _check_descriptors()
        storage = torch.UntypedStorage._new_shared(nbytes, device="cpu")
    except (OSError, RuntimeError) as error:
        raise StoreError(
            f"a worker cannot send a batch of {nbytes:,} bytes: {printable(str(error))}; give /dev/shm more room "
            "(docker run --shm-size), raise the limit on open files (ulimit -n), or use num_workers=0"
        ) from error
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (nbytes,))


def _check_descriptors() -> None:
    spare: list[int] = []
    try:
        while len(spare) < _SPARE_FDS:
            spare += os.pipe()
    finally:
        for fd in spare:
            os.close(fd)


def split(
    allocate: Callable[[int], torch.Tensor], shapes: list[tuple[int, ...]], dtypes: list[Any]
) -> list[torch.Tensor]:
    """Divide one piece of memory into tensors.

    Args:
        allocate: Makes a flat tensor of a number of bytes.
        shapes: Shapes of the tensors.
        dtypes: Their dtypes. The size of an element must divide the number of bytes before the tensor.

    Returns:
        The tensors.
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
    pieces = zip(torch.split(allocate(sum(sizes)), sizes), shapes, dtypes, strict=True)
    return [piece.view(dtype).view(shape) for piece, shape, dtype in pieces]
