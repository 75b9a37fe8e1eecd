"""Bounds on processor time that hold on slow and busy machines."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
from collections.abc import Iterator


@contextlib.contextmanager
def effort_below(most: float) -> Iterator[None]:
    """Fail if the block takes more than ``most`` times the processor time of counting to a million (about 0.015 s).

    The garbage collector does not visit what other tests have left.
    """
    gc.freeze()
    try:
        start = time.process_time()
        yield
        taken = time.process_time() - start
    finally:
        gc.unfreeze()
    if taken > most * _counting():
        _counting.cache_clear()  # the machine may have become slower
        assert taken <= most * _counting(), f"{taken:.2f} s; counting to a million takes {_counting():.3f} s"


@functools.cache
def _counting() -> float:
    start = time.process_time()
    for _ in range(1_000_000):
        pass
    return time.process_time() - start
