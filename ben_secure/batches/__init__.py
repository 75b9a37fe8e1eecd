"""Patches as arrays for training, whole batches at a time; works without torch."""

from __future__ import annotations

from ben_secure.batches.arrays import PatchArrays

__all__ = ["PatchArrays"]
