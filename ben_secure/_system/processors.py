"""The number of available processors."""

from __future__ import annotations

import os


def processors() -> int:
    """Count the processors that this process may use, if the operating system reports them; otherwise all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
