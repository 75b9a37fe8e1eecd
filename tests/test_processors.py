"""How many processors there are."""

import os

from ben_secure._system.processors import processors


def test_only_those_that_may_be_used_are_counted(monkeypatch):
    """A job that is bound to some processors counts these; if the system does not report them, all are counted."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert processors() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processors() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors() == 1
