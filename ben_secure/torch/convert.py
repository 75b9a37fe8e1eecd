"""``Converter``: converts stored pixels to a model's input, on any device.

Stored pixels have a half to a fifth of the bytes of float32 pixels at one size, so fewer bytes travel from the worker
to the device. Nothing is read or checked here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from ben_secure.torch.dataset import PatchDataset


class Converter(torch.nn.Module):
    """Converts, normalises and resamples images of a ``PatchDataset`` with ``dtype="native"``.

    It is a module, so ``.to(device)`` moves its means and standard deviations. It has no parameters and adds nothing to
    a ``state_dict``.
    """

    def __init__(self, dataset: PatchDataset) -> None:
        """Copy the settings of the dataset: ``bands``, ``size``, ``resampling``, ``normalize``, ``fill``.

        Args:
            dataset: The dataset of the images.

        Raises:
            ValueError: Its dtype is not "native".
        """
        super().__init__()
        pixels = dataset._pixels
        if not pixels.native:
            raise ValueError(
                "a Converter is for a dataset with dtype='native'; this dataset converts the pixels itself"
            )
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
            images: Images from the dataset, of one patch or of a batch, on the device of this module.

        Returns:
            The images that the dataset returns with ``dtype="float32"``: float32 (n, bands, size, size). On a CPU with
            nearest resampling they are equal bit for bit. With ``size=None``, a dict of float32 tensors.
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
