"""Write the requested bands of a patch into an array: converted, normalised and resampled, or as stored.

The caller has already verified and checked the patch. The positions of the bands are computed once for each layout, so
that a patch takes only a few copies.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ben_secure.bands import BANDS
from ben_secure.batches.presets import GROUPS, ORDERS, STATISTICS
from ben_secure.batches.resampling import MODES, resample
from ben_secure.errors import PatchFormatError, Rule, TableError, printable
from ben_secure.patches.layout import BandSlot, Layout, run_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32: TypeAlias = npt.NDArray[np.float32]

Normalisation: TypeAlias = Mapping[str, Sequence[float]]
"""(mean, standard deviation) by band name, in the unit of the band."""

DTYPES = ("float32", "native")
"""Types of pixels: all float32, or as BigEarthNet publishes them."""

_STORED: Mapping[str, np.dtype[Any]] = {"S2": np.dtype(np.uint16), "S1": np.dtype(np.float32)}
"""Types of the published bands by sensor (Sumbul et al. 2019, 2021)."""

_MAX_LAYOUTS = 8
_MAX_STATISTICS_BYTES = 16 * 2**20  # a file with the histograms of 14 bands has 1 % of this


def band_names(bands: str | Sequence[str], order: str | None = None) -> tuple[str, ...]:
    """Resolve a group of bands, or check a list of them.

    Args:
        bands: A key of ``presets.GROUPS``, or names of bands.
        order: A key of ``presets.ORDERS``, for the order of a group. A list of names keeps its own order.

    Returns:
        The names, in order.

    Raises:
        ValueError: The group, a band or the order is unknown, a band is named twice, or no band is named.
    """
    if order is not None and order not in ORDERS:
        raise ValueError(f"order must be None or one of {', '.join(ORDERS)}, not {printable(order)!r}")
    if isinstance(bands, str):
        groups = GROUPS if order is None else ORDERS[order].groups
        if bands in groups:
            return groups[bands]
        if bands not in BANDS:
            raise ValueError(f"bands must be names of bands or one of {', '.join(groups)}, not {printable(bands)!r}")
        return (bands,)
    names = tuple(bands)
    unknown = [name for name in names if name not in BANDS]
    if unknown:
        raise ValueError(f"the band {printable(unknown[0])} is unknown; the bands are {', '.join(BANDS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"bands must name each band once, and at least one, not {printable(names)}")
    return names


def read_statistics(path: str | os.PathLike[str]) -> Normalisation:
    """Read means and standard deviations written by ``ben-secure stats --json``, or look up published ones.

    Args:
        path: A key of ``presets.STATISTICS``; or the JSON file: ``{"bands": {"B02": {"mean": ..., "std": ...}, ...}}``.
            Other fields are ignored.

    Returns:
        (mean, standard deviation) by band name; NaN for a band without finite pixels.

    Raises:
        TableError: The file cannot be read, or is not such JSON.
    """
    if isinstance(path, str) and path in STATISTICS:
        return STATISTICS[path]
    file_name = printable(os.fspath(path), 400)
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_STATISTICS_BYTES + 1)
        if len(text) > _MAX_STATISTICS_BYTES:
            raise ValueError(f"the file has more than {_MAX_STATISTICS_BYTES} bytes")
        bands = json.loads(text)["bands"]
        return {name: (_number(band["mean"]), _number(band["std"])) for name, band in bands.items()}
    except KeyError as error:
        reason = f"the field {printable(str(error))} is missing"
    except RecursionError:
        reason = "it is nested too deep"
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        reason = printable(str(error))
    raise TableError(f"cannot use the statistics {file_name}: {reason}; write them with ben-secure stats --json")


def _number(cell: Any) -> float:
    if cell is not None and type(cell) not in (int, float):
        raise ValueError(f"a mean or standard deviation is {printable(cell)}, expected a number or null")
    return math.nan if cell is None else float(cell)


class _Step(NamedTuple):
    """One copy: the arguments of a view of the patch's pixels, and the target."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    output: int
    start: int
    stop: int


class Pixels:
    """Fills arrays with the requested bands of patches.

    Attributes:
        names: The bands, in order.
        groups: The bands of each array.
        shapes: Shape of each array: one (bands, size, size), or one for each resolution.
        dtypes: Type of each array.
        keys: If the bands keep their resolution: for each array its resolution in metres, or "S1"; otherwise empty.
        native: Whether pixels stay as stored. ``torch.Converter`` then uses ``size``, ``mode``, ``scales`` and
            ``filling``.
        size: Height and width in pixels of the result, or None.
        mode: One of ``resampling.MODES``.
        scales: For each array the means and reciprocal standard deviations of its bands, float32 (n, 1, 1) each; or
            None.
        filling: Replacement for pixels that are not finite, or None.
    """

    def __init__(
        self,
        bands: Sequence[str],
        size: int | None,
        resampling: str,
        normalize: Normalisation | None,
        filling: float | None,
        dtype: str = "float32",
    ) -> None:
        """Check the arguments.

        Args:
            bands: Names of bands, from ``band_names``.
            size: Height and width in pixels of every band, or None to keep the sizes.
            resampling: One of ``resampling.MODES``.
            normalize: Means and standard deviations, or None to keep the values.
            filling: Replacement, after normalisation, for pixels that are not finite, or None to refuse them.
            dtype: One of ``DTYPES``.

        Raises:
            ValueError: An argument has a value that is not allowed, or a band has no mean and standard deviation.
        """
        self.names = tuple(bands)
        if resampling not in MODES:
            raise ValueError(f"resampling must be one of {', '.join(MODES)}, not {printable(resampling)!r}")
        if size is not None and (type(size) is not int or not 1 <= size <= 4096):
            raise ValueError(f"size must be None or 1 to 4096 pixels a side, not {printable(size)}")
        if filling is not None and type(filling) not in (int, float):
            raise ValueError(f"fill must be a number or None, not {printable(filling)}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {printable(dtype)!r}")
        self.native, self.size, self.mode, self.filling = dtype == "native", size, resampling, filling
        self._keep = self.native or size is None
        self.keys, self.groups = _grouped(self.names, self.native) if self._keep else ((), (self.names,))
        sides = [BANDS[group[0]].side if size is None or self.native else size for group in self.groups]
        self.shapes = tuple((len(group), side, side) for group, side in zip(self.groups, sides, strict=True))
        self.dtypes: tuple[np.dtype[Any], ...] = tuple(
            _STORED[BANDS[group[0]].sensor] if self.native else np.dtype(np.float32) for group in self.groups
        )
        self.scales = None if normalize is None else [_scale(group, normalize) for group in self.groups]
        self._steps: dict[Layout, tuple[_Step, ...]] = {}
        self._latest: tuple[Layout | None, tuple[_Step, ...]] = (None, ())

    def __getstate__(self) -> dict[str, Any]:
        # The steps for each layout are computed again after unpickling.
        return {**self.__dict__, "_steps": {}, "_latest": (None, ())}

    def fill(self, outputs: Sequence[Float32], layout: Layout, pixels: bytearray | memoryview) -> None:
        """Write one patch.

        Args:
            outputs: An array for each of ``shapes``.
            layout: Layout of the patch.
            pixels: Pixels of the patch.

        Raises:
            PatchFormatError: The patch lacks a band, a band cannot be converted, or a band has pixels that are not
                finite and ``filling`` is None.
        """
        known, steps = self._latest
        if known is not layout:
            steps = self._steps_for(layout)
            self._latest = layout, steps
        for shape, dtype, offset, output, start, stop in steps:
            view: npt.NDArray[Any] = np.ndarray(shape, dtype, pixels, offset)
            target = images = outputs[output][start:stop]
            if shape[1:] == target.shape[1:]:
                np.copyto(target, view, casting="unsafe")
            elif self.scales is None and dtype.kind != "f":
                resample(view, target, self.mode)
                continue
            else:  # normalise the smaller image: the weights of an output pixel sum to 1
                images = view.astype(np.float32)
            if self.scales is not None and not self.native:
                _normalise(images, self.scales[output], start, stop)
            if dtype.kind == "f":
                self._settle(images, self.groups[output][start:stop])
            if images is not target:
                resample(images, target, self.mode)

    def _settle(self, images: Float32, names: Sequence[str]) -> None:
        """Fill pixels that are not finite, or refuse them."""
        finite = np.isfinite(images)
        if finite.all():
            return
        if self.filling is None:
            bad = ", ".join(name for name, band in zip(names, finite, strict=True) if not band.all())
            raise _refused(
                f"{np.count_nonzero(~finite)} pixels of {bad} are NaN or infinite, which would make a model's output "
                "NaN; choose their replacement with fill= (float('nan') leaves them)"
            )
        if not self.native:
            np.copyto(images, self.filling, where=~finite)

    def _steps_for(self, layout: Layout) -> tuple[_Step, ...]:
        steps = self._steps.get(layout)
        if steps is None:
            for name in self.names:
                self._check(layout, name)
            if len(self._steps) >= _MAX_LAYOUTS:
                self._steps.clear()
            steps = self._steps[layout] = tuple(
                step for output, group in enumerate(self.groups) for step in _plan(layout, group, output)
            )
        return steps

    def _check(self, layout: Layout, name: str) -> None:
        """Check that the patch has a band and that it can be converted."""
        slot = layout.by_name.get(name)
        if slot is None:
            raise _refused(
                f"the patch does not have band {name}; its bands are {', '.join(layout.by_name)}; request only these "
                "with bands="
            )
        if slot.dtype.kind == "c":
            raise _refused(f"band {name} has complex numbers ({slot.dtype.str}), which cannot be converted to float32")
        if self._keep and slot.shape != BANDS[name].shape:
            raise _refused(
                f"band {name} has {slot.shape[0]} x {slot.shape[1]} pixels, expected {BANDS[name].side} x "
                f"{BANDS[name].side}; pass a size{' and dtype=' + repr('float32') if self.native else ''} to resample "
                "it"
            )
        stored = _STORED[BANDS[name].sensor]
        if self.native and not np.can_cast(slot.dtype, stored, "safe" if stored.kind == "u" else "same_kind"):
            raise _refused(f"band {name} is {slot.dtype}, which {stored} cannot hold; pass dtype='float32'")


def _grouped(names: Sequence[str], native: bool) -> tuple[tuple[int | str, ...], tuple[tuple[str, ...], ...]]:
    """Group bands that can share an array without resampling: by resolution, and if native, also by sensor."""
    groups: dict[int | str, list[str]] = {}
    for name in names:
        key: int | str = "S1" if native and BANDS[name].sensor == "S1" else BANDS[name].resolution_m
        groups.setdefault(key, []).append(name)
    keys = tuple(sorted(groups, key=str))
    return keys, tuple(tuple(groups[key]) for key in keys)


def _plan(layout: Layout, group: Sequence[str], output: int) -> list[_Step]:
    """Split bands into the fewest runs that are contiguous in the patch."""
    runs: list[list[BandSlot]] = []
    for name in group:
        slot = layout.by_name[name]
        if runs and run_of([*runs[-1], slot]) is not None:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    steps, start = [], 0
    for run in runs:
        first = run[0]
        steps.append(_Step((len(run), *first.shape), first.dtype, first.offset, output, start, start + len(run)))
        start += len(run)
    return steps


def _scale(group: Sequence[str], normalize: Normalisation) -> tuple[Float32, Float32]:
    """Means and reciprocal standard deviations of bands, float32 (n, 1, 1) each."""
    means, factors = [], []
    for name in group:
        if name not in normalize:
            raise ValueError(f"normalize has no mean and standard deviation for band {name}; add them")
        mean, deviation = map(float, normalize[name])
        if math.isnan(mean):
            raise ValueError(
                f"band {name} cannot be normalised: the statistics have no mean for it, because none of its pixels "
                "was finite; leave the band out with bands=, or pass your own numbers"
            )
        if not (math.isfinite(mean) and math.isfinite(deviation) and deviation > 0):
            raise ValueError(f"band {name} cannot be normalised by mean {mean} and standard deviation {deviation}")
        means.append(mean)
        factors.append(1 / deviation)
    return np.array(means, np.float32)[:, None, None], np.array(factors, np.float32)[:, None, None]


def _normalise(images: Float32, scale: tuple[Float32, Float32], start: int, stop: int) -> None:
    images -= scale[0][start:stop]
    images *= scale[1][start:stop]


def _refused(message: str) -> PatchFormatError:
    return PatchFormatError(message, rule=Rule.PATCH)
