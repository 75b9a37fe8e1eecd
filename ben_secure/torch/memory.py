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
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST = 4
"""Arrays kept: a batch that is read, one that is ready, and two that the training loop may hold."""

_MIN_FLOATS = 2**18  # less than 1 MiB is not worth keeping


class Pool:
    """Some arrays of float32 that are lent to one batch at a time, to any thread of this process.

    Attributes:
        process: Id of the process; another one makes a pool of its own.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self._lock = threading.Lock()
        self._kept: list[tuple[npt.NDArray[np.float32], Callable[[], object]]] = []

    def lend(self, floats: int) -> torch.Tensor:
        """Lend memory for some floats, uninitialised, until the tensor and every view of it are gone."""
        with self._lock:
            free = (place for place, (_, lent) in enumerate(self._kept) if lent() is None)
            place = next(free, len(self._kept))
            if place < len(self._kept) and len(self._kept[place][0]) >= floats:
                array = self._kept[place][0]
            else:  # all are lent, or batches have become larger
                array = np.empty(floats, np.float32)
            lent = array[:floats]
            if place < _MOST and floats >= _MIN_FLOATS:
                self._kept[place : place + 1] = [(array, weakref.ref(lent))]
        return torch.from_numpy(lent)


def shared(floats: int) -> torch.Tensor:
    """A float32 tensor in new shared memory, as torch's own collate makes it in a worker: sending it copies nothing."""
    storage = torch.UntypedStorage._new_shared(4 * floats, device="cpu")
    return torch.empty(0, dtype=torch.float32).set_(storage, 0, (floats,))


def split(whole: torch.Tensor, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Cut a flat tensor into views of these shapes."""
    parts = torch.split(whole, [math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
