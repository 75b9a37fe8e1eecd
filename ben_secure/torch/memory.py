"""Memory for batches that is used again, in one process or between a loader worker and the process that trains.

Memory that is new is touched page by page for the first time, which costs more than reading a patch (measured: 5 to
10 times the copy). So a ``Pool`` keeps a few slabs, and lends one again as soon as nothing refers to what was lent: a
tensor made by ``torch.from_numpy`` keeps the very array that it was made from alive, and so does every view of it, so
a weak reference to that array tells. Between processes, one byte in front of a shared slab says that the other side
still has it. A process that is forked from that side shares the memory and cannot say when it lets go: what it may see
is never lent again. Nothing here knows of patches.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32: TypeAlias = npt.NDArray[np.float32]

Token: TypeAlias = tuple[int, int]
"""What a slab is called on both sides: the process that made it, and its number there."""

_HEADER = 16  # floats, one cache line; the first byte says who has the slab
_HERE, _AWAY, _RETIRED = 0, 1, 2  # the worker; the other process; a process that was forked from it, for good
_MIN_FLOATS = 2**18  # less than 1 MiB is not worth keeping
_numbers = itertools.count()
_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    # Twice, for what arrives between the first and the fork itself.
    os.register_at_fork(before=_count_fork, after_in_parent=_count_fork)


def shared_tensor(floats: int) -> torch.Tensor:
    """A float32 tensor in new shared memory, as torch's own collate makes it: sending it copies nothing."""
    storage = torch.UntypedStorage._new_shared(4 * floats, device="cpu")
    return torch.empty(0, dtype=torch.float32).set_(storage, 0, (floats,))


class Slab:
    """A piece of memory that is lent to one batch at a time.

    Attributes:
        tensor: All of it, in shared memory; None if it is this process's own.
        token: What it is called.
        sent: Whether the other process has mapped it.
    """

    def __init__(self, floats: int, shared: bool) -> None:
        self.tensor = shared_tensor(_HEADER + floats) if shared else None
        self.token: Token = (os.getpid(), next(_numbers))
        self.sent = False
        self._array: Float32 = (
            self.tensor.numpy() if self.tensor is not None else np.empty(_HEADER + floats, np.float32)
        )
        self._state = self._array[:1].view(np.uint8)
        self._state[0] = _HERE
        self._lent: Callable[[], Float32 | None] = lambda: None
        self._promised = False

    @property
    def floats(self) -> int:
        """How many floats it can hold."""
        return len(self._array) - _HEADER

    def is_free(self) -> bool:
        """Whether nothing refers to what was lent, here or in the other process."""
        return self._lent() is None and self._state[0] == _HERE

    def is_retired(self) -> bool:
        """Whether a process that the other one forked may still refer to it."""
        return bool(self._state[0] == _RETIRED)

    def lend(self, floats: int) -> Float32:
        """Lend it; the array, or a tensor made of exactly this array, is what keeps it."""
        array = self._array[_HEADER : _HEADER + floats]
        self._lent = weakref.ref(array)
        self._promised = False
        return array

    def promise(self) -> bool:
        """Whether what is lent may be sent: once, because the first who lets go on the other side gives it back."""
        first, self._promised = not self._promised, True
        return first

    def holds(self, address: int) -> bool:
        """Whether what is lent starts at an address."""
        return self._lent() is not None and address == self._array[_HEADER:].ctypes.data

    def send(self) -> torch.Tensor | None:
        """Mark it as being in the other process; returns what that has to map, None if it has already."""
        self._state[0] = _AWAY
        if self.sent:
            return None
        self.sent = True
        return self.tensor


class Pool:
    """Some slabs.

    Args:
        shared: Whether they are in shared memory.
        most: How many are kept; what is wanted beyond is not the pool's to give.
    """

    def __init__(self, shared: bool, most: int) -> None:
        self._shared = shared
        self._most = most
        self._slabs: list[Slab] = []
        self._lock = threading.Lock()
        self.process = os.getpid()

    def lend(self, floats: int) -> Float32 | None:
        """Lend memory for some floats, uninitialised; None if it is not worth keeping or all slabs are lent."""
        if floats < _MIN_FLOATS:
            return None
        with self._lock:
            self._slabs = [slab for slab in self._slabs if not slab.is_retired()]
            for slab in [slab for slab in self._slabs if slab.is_free()]:
                if slab.floats >= floats:
                    return slab.lend(floats)
                self._slabs.remove(slab)  # batches have become larger
            if len(self._slabs) >= self._most:
                return None
            slab = Slab(floats, self._shared)
            self._slabs.append(slab)
            return slab.lend(floats)

    def slab_at(self, address: int) -> Slab | None:
        """The slab of which what is lent starts at an address."""
        return next((slab for slab in self._slabs if slab.holds(address)), None)


class Mapped:
    """The slabs of workers, in the process that gets the batches."""

    def __init__(self) -> None:
        self._tensors: dict[Token, torch.Tensor] = {}

    def open(self, token: Token, new: torch.Tensor | None, floats: int) -> torch.Tensor:
        """Take what is in a slab; when the tensor and its views are gone, the worker may use the slab again.

        Args:
            token: Name of the slab.
            new: The slab, if it comes for the first time.
            floats: How many floats of it are the batch.

        Returns:
            float32 (floats,), where the worker wrote it.
        """
        if new is not None:
            self._forget_dead()
            self._tensors[token] = new
        whole: Float32 = self._tensors[token].numpy()
        array = whole[_HEADER : _HEADER + floats]
        state = whole[:1].view(np.uint8)
        weakref.finalize(array, self._release, token, state, os.getpid(), _forks).atexit = False
        return torch.from_numpy(array)

    def _release(self, token: Token, state: npt.NDArray[np.uint8], process: int, forks: int) -> None:
        if process != os.getpid():  # a process that was forked meanwhile has no say
            return
        if forks == _forks:
            state[0] = _HERE
        else:  # and no way to say that it has done with what it got
            state[0] = _RETIRED
            self._tensors.pop(token, None)
        self._forget_dead()

    def _forget_dead(self) -> None:
        """Unmap the slabs of workers that have ended; what is still in use stays until it is not."""
        for token in [token for token in list(self._tensors) if not _is_alive(token[0])]:
            self._tensors.pop(token, None)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def split(whole: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
    """Cut a flat array or tensor into views of these shapes."""
    parts, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        parts.append(whole[start:stop].reshape(shape))
        start = stop
    return parts
