"""How many processors there are to run on; the one place that asks."""

from __future__ import annotations

import os


def processors() -> int:
    """Count the processors that this process may use, where the operating system tells; otherwise all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
