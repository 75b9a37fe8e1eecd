"""``PatchDataset``, ``batch_loader`` and ``EpochSampler``: patches as tensors; the only package that imports torch."""

from __future__ import annotations

from ben_secure.errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise MissingExtraError(
        "ben_secure.torch needs PyTorch, which is not installed: pip install 'ben-secure[torch]'; "
        "ben_secure.batches.PatchArrays gives the same as numpy arrays without it"
    ) from error

from ben_secure.torch.dataset import PatchDataset, collate
from ben_secure.torch.loader import batch_loader
from ben_secure.torch.sampler import EpochSampler

__all__ = ["EpochSampler", "PatchDataset", "batch_loader", "collate"]
