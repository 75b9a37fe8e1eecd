"""Memory for batches that is used again inside one process.

Memory that is new is touched page by page for the first time, which costs more than reading a patch (measured: 5 to
10 times the copy). So a ``Pool`` keeps a few arrays, and lends one again as soon as nothing refers to what was lent: a
tensor made by ``torch.from_numpy`` keeps the very array that it was made from alive, and so does every view of it, so
a weak reference to that array tells. A forked process has its own copy of all of it. Nothing here knows of patches.
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

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST = 4
"""Arrays kept: a batch that is read, one that is ready, and two that the training loop may hold."""

_MIN_BYTES = 2**20  # less is not worth keeping


class Pool:
    """Some arrays of bytes that are lent to one batch at a time, to any thread of this process.

    Attributes:
        process: Id of the process; another one makes a pool of its own.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._lock = threading.Lock()
        self._kept: list[tuple[npt.NDArray[np.uint8], Callable[[], object]]] = []

    def lend(self, nbytes: int) -> torch.Tensor:
        """Lend some bytes of memory, uninitialised, until the tensor and every view of it are gone."""
        with self._lock:
            free = (place for place, (_, lent) in enumerate(self._kept) if lent() is None)
            place = next(free, len(self._kept))
            if place < len(self._kept) and len(self._kept[place][0]) >= nbytes:
                array = self._kept[place][0]
            else:  # all are lent, or batches have become larger
                array = np.empty(nbytes, np.uint8)
            lent = array[:nbytes]
            if place < _MOST and nbytes >= _MIN_BYTES:
                self._kept[place : place + 1] = [(array, weakref.ref(lent))]
        return torch.from_numpy(lent)


def shared(nbytes: int) -> torch.Tensor:
    """Bytes of new shared memory, as torch's own collate makes them in a worker: sending them copies nothing."""
    storage = torch.UntypedStorage._new_shared(nbytes, device="cpu")
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (nbytes,))


def split(lend: Callable[[int], torch.Tensor], shapes: list[tuple[int, ...]], dtypes: list[Any]) -> list[torch.Tensor]:
    """Cut one piece of memory into tensors.

    Args:
        lend: Makes a flat tensor of some bytes.
        shapes: Of the tensors.
        dtypes: Theirs; an element of each divides the bytes before it.

    Returns:
        The tensors.
    """
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
    parts = zip(torch.split(lend(sum(sizes)), sizes), shapes, dtypes, strict=True)
    return [part.view(dtype).view(shape) for part, shape, dtype in parts]
