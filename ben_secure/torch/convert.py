"""``Converter``: makes of stored pixels what a model takes, on whichever device they are.

Stored pixels are a half to a fifth of the bytes that float32 at one size has, from a worker and over the bus. Nothing
is read or checked here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ben_secure.torch.dataset import PatchDataset


class Converter(torch.nn.Module):
    """Converts, normalises and resamples images of a ``PatchDataset`` with ``dtype="native"``.

    A module, so that ``.to(device)`` takes its means and deviations along; it has no parameters, and leaves none in a
    ``state_dict``.
    """

    def __init__(self, dataset: PatchDataset) -> None:
        """Take over what the dataset was asked for: ``bands``, ``size``, ``resampling``, ``normalize``, ``fill``.

        Args:
            dataset: The dataset that the images come from.

        Raises:
            ValueError: Its dtype is not "native".
        """
        super().__init__()
        pixels = dataset._pixels
        if not pixels.native:
            raise ValueError("a converter is for a dataset with dtype='native'; this one converts by itself")
        self._keys, self._size, self._filling = pixels.keys, pixels.size, pixels.filling
        self._mode, _, corners = pixels.mode.partition("-")
        self._corners = None if self._mode == "nearest" else bool(corners)
        self._normalises = pixels.scales is not None
        for key, (mean, factor) in zip(pixels.keys, pixels.scales or [], strict=False):
            self.register_buffer(f"_mean_{key}", torch.from_numpy(mean), persistent=False)
            self.register_buffer(f"_factor_{key}", torch.from_numpy(factor), persistent=False)
        together = [name for group in pixels.groups for name in group]
        order = torch.tensor([together.index(name) for name in pixels.names])
        self.register_buffer("_order", order, persistent=False)
        self._is_in_order = bool((order.diff() == 1).all())

    def forward(self, images: Mapping[int | str, torch.Tensor]) -> torch.Tensor | dict[int | str, torch.Tensor]:
        """Convert images.

        Args:
            images: As the dataset has them, on the device of this module: of one patch, or of a batch.

        Returns:
            What the dataset would have with ``dtype="float32"``: float32 (n, bands, size, size), bit for bit the same
            on a CPU with nearest resampling. With ``size=None`` the dict as it came, each in float32.
        """
        converted = {key: self._convert(key, images[key]) for key in self._keys}
        if self._size is None:
            return converted
        joined = torch.cat(list(converted.values()), dim=-3)
        return joined if self._is_in_order else joined.index_select(-3, self._order)

    def _convert(self, key: int | str, stored: torch.Tensor) -> torch.Tensor:
        image = stored.to(torch.float32)
        if self._normalises:
            image = (image - getattr(self, f"_mean_{key}")) * getattr(self, f"_factor_{key}")
        if self._filling is not None and stored.is_floating_point():
            image = torch.where(image.isfinite(), image, self._filling)
        if self._size is None or image.shape[-1] == self._size:
            return image
        flat = image.reshape(-1, *image.shape[-3:])
        resampled = F.interpolate(flat, (self._size, self._size), mode=self._mode, align_corners=self._corners)
        return resampled.reshape(*image.shape[:-2], self._size, self._size)
