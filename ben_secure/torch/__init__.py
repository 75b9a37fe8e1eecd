"""``PatchDataset``, ``batch_loader``, ``Converter``: patches as tensors; the only package that imports torch."""

from __future__ import annotations

from ben_secure._system.optional import require

require("ben_secure.torch", "torch", otherwise="ben_secure.batches.PatchArrays returns numpy arrays instead")

from ben_secure.torch.convert import Converter  # noqa: E402
from ben_secure.torch.dataset import PatchDataset, collate  # noqa: E402
from ben_secure.torch.loader import batch_loader  # noqa: E402
from ben_secure.torch.sampler import EpochSampler  # noqa: E402

__all__ = ["Converter", "EpochSampler", "PatchDataset", "batch_loader", "collate"]
