"""A patch as an xarray Dataset: each band on its own grid, with coordinates if the metadata contains them.

Nothing is resampled. Coordinates are the centres of the pixels, as in CF and rioxarray. The coordinate reference system
is given by its EPSG number, without looking up the projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ben_secure._system.optional import require

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray

_SCALARS = (str, int, float, bool)


class Layer(NamedTuple):
    """One band.

    Attributes:
        name: Its name.
        resolution_m: Metres along one side of a pixel.
        pixels: Its pixels (rows, columns).
    """

    name: str
    resolution_m: int
    pixels: npt.NDArray[Any]


def to_dataset(layers: Iterable[Layer], metadata: Mapping[str, object]) -> xarray.Dataset:
    """Make a Dataset.

    Args:
        layers: The bands.
        metadata: Metadata of the patch: ``epsg``, ``bounds`` and ``reference_map`` are used if they have the form in
            which ``encode`` stores them. Other scalars and lists of text become attributes.

    Returns:
        A Dataset with a variable for each band, without a copy of the pixels. The finest grid has the dimensions ``y``
        and ``x``, the others for example ``y_20m`` and ``x_20m``. With ``bounds`` they have coordinates. With ``epsg``
        there is a ``spatial_ref``.

    Raises:
        MissingExtraError: xarray is not installed.
    """
    require("to_xarray", "xarray")
    import xarray

    layers = sorted(layers, key=lambda layer: layer.resolution_m)
    bounds = _bounds(metadata.get("bounds"))
    grids: dict[tuple[int, int], tuple[str, str]] = {}
    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {}
    for layer in layers:
        shape = (layer.pixels.shape[0], layer.pixels.shape[1])
        if shape not in grids:
            ending = f"_{layer.resolution_m}m" if grids else ""
            ending = f"_{shape[0]}_{shape[1]}" if any(y == f"y{ending}" for y, _ in grids.values()) else ending
            grids[shape] = f"y{ending}", f"x{ending}"
            coordinates |= {} if bounds is None else _coordinates(bounds, shape, grids[shape])
        variables[layer.name] = (grids[shape], layer.pixels, {"resolution_m": layer.resolution_m})
    codes = metadata.get("reference_map")
    if isinstance(codes, np.ndarray) and codes.shape in grids:
        variables["reference_map"] = (grids[codes.shape], codes, {})
    epsg = metadata.get("epsg")
    if type(epsg) is int:
        system = f"EPSG:{epsg}"
        coordinates["spatial_ref"] = ((), 0, {"spatial_ref": system, "crs_wkt": system})
    attributes = {name: value for name, value in metadata.items() if _is_plain(value)}
    return xarray.Dataset(variables, coordinates, attributes)


def _bounds(bounds: object) -> tuple[float, float, float, float] | None:
    """Return left, bottom, right and top edge, or None if the metadata is something else."""
    if not isinstance(bounds, list | tuple) or len(bounds) != 4:
        return None
    if not all(type(edge) in (int, float) and math.isfinite(edge) for edge in bounds):
        return None
    left, bottom, right, top = map(float, bounds)
    return (left, bottom, right, top) if left < right and bottom < top else None


def _coordinates(
    bounds: tuple[float, float, float, float], shape: tuple[int, int], names: tuple[str, str]
) -> dict[str, Any]:
    left, bottom, right, top = bounds
    rows, columns = shape
    y = top - (np.arange(rows) + 0.5) * ((top - bottom) / rows)
    x = left + (np.arange(columns) + 0.5) * ((right - left) / columns)
    return {
        names[0]: (names[0], y, {"axis": "Y", "standard_name": "projection_y_coordinate"}),
        names[1]: (names[1], x, {"axis": "X", "standard_name": "projection_x_coordinate"}),
    }


def _is_plain(value: object) -> bool:
    return isinstance(value, _SCALARS) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
