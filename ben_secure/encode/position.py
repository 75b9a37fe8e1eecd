"""Position and acquisition time of a patch, from the fields of its GeoTIFFs, its label file (v1) or its name.

All three are untrusted, and none is required: a missing or implausible item is left out. Only the corners are computed.
No projection is looked up.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping

from ben_secure.bands import BandSpec
from ben_secure.encode.directory import Directory, first_directory

EPSG = "epsg"
"""Name of the metadata item with the coordinate reference system: its EPSG code, int."""

BOUNDS = "bounds"
"""Name of the metadata item with left, bottom, right and top edge in units of that system: list of 4 floats."""

ACQUIRED = "acquired"
"""Name of the metadata item with the acquisition time: ISO 8601 with ``Z`` for UTC, or only a date, str."""

# GeoTIFF 1.1 (OGC 19-008r4): fields, and keys of the key directory.
_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_POINT, _USER_DEFINED = 2, 32767
_AUTHORITY = re.compile(r'AUTHORITY\["EPSG","(\d{4,6})"\]\]\s*', re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", re.ASCII)
_NAME = re.compile(r"S[12][A-D]_\w+?_(\d{4})(\d\d)(\d\d)T(\d{5,6})_", re.ASCII)


def position_from_geotiff(content: bytes, spec: BandSpec) -> dict[str, object]:
    """Get the position from a GeoTIFF.

    Args:
        content: The whole file, which ``geotiff.decode_band`` has accepted (untrusted).
        spec: The band of the file.

    Returns:
        ``epsg`` and ``bounds``, if the file has them. There are no ``bounds`` if north is not up.

    Raises:
        ValueError: A field has the wrong type, is too large, or lies outside the file.
    """
    directory = first_directory(content)
    keys = _geo_keys(directory)
    position: dict[str, object] = {}
    epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC))
    if epsg is not None and 1024 <= epsg < _USER_DEFINED:
        position[EPSG] = epsg
    grid = _grid(directory)
    if grid is not None:
        left, top, across, down = grid
        if keys.get(_RASTER_TYPE) == _POINT:  # the tie point is the center of the first pixel
            left, top = left - across / 2, top + down / 2
        bounds = [left, top - spec.side * down, left + spec.side * across, top]
        # If pixels are tiny compared with the coordinates, opposite edges round to the same number.
        if bounds[0] < bounds[2] and bounds[1] < bounds[3] and all(map(math.isfinite, bounds)):
            position[BOUNDS] = bounds
    return position


def _geo_keys(directory: Directory) -> dict[int, int]:
    """Return the keys whose value is in the key directory itself: entries of the form (key, 0, 1, value)."""
    numbers = directory.integers(_KEYS)
    entries = [numbers[start : start + 4] for start in range(4, len(numbers) - 3, 4)]
    return {key: value for key, location, count, value in entries if location == 0 and count == 1}


def _grid(directory: Directory) -> tuple[float, float, float, float] | None:
    """Return left and top edge, and width and height of a pixel, or None if north is not up or the grid is missing."""
    matrix = directory.floats(_TRANSFORMATION)
    if len(matrix) == 16:
        return (matrix[3], matrix[7], matrix[0], -matrix[5]) if matrix[1] == matrix[4] == 0 else None
    scale, tie = directory.floats(_PIXEL_SCALE), directory.floats(_TIEPOINT)
    if len(scale) < 2 or len(tie) != 6:
        return None
    return tie[3] - tie[0] * scale[0], tie[4] + tie[1] * scale[1], scale[0], scale[1]


def position_from_label_file(document: Mapping[str, object]) -> dict[str, object]:
    """Get position and time from a label file of BigEarthNet v1.

    Args:
        document: The JSON object (untrusted). ``coordinates`` has the corners (``lly`` instead of ``lry`` for
            Sentinel-1), ``projection`` the coordinate system as text, ``acquisition_date`` or ``acquisition_time`` the
            time.

    Returns:
        ``epsg``, ``bounds`` and ``acquired``, if the document has them.
    """
    position: dict[str, object] = {}
    projection, corners = document.get("projection"), document.get("coordinates")
    if (
        isinstance(projection, str)
        and (match := _AUTHORITY.search(projection[-40:]))
        and match.end() == len(projection[-40:])
    ):
        position[EPSG] = int(match[1])
    if isinstance(corners, dict):
        edges = [corners.get("ulx"), corners.get("lry", corners.get("lly")), corners.get("lrx"), corners.get("uly")]
        bounds = [float(edge) for edge in edges if isinstance(edge, int | float) and abs(edge) < 1e9]
        if len(bounds) == 4 and bounds[0] < bounds[2] and bounds[1] < bounds[3]:
            position[BOUNDS] = bounds
    time = document.get("acquisition_date", document.get("acquisition_time"))
    if isinstance(time, str) and _TIME.fullmatch(time) and (moment := _moment(time)) is not None:
        position[ACQUIRED] = moment
    return position


def _moment(text: str) -> str | None:
    try:
        return datetime.datetime.fromisoformat(text).isoformat() + "Z"
    except ValueError:
        return None


def acquired_from_name(name: str) -> dict[str, object]:
    """Get the acquisition time from the name of a patch. Names of v1 omit a leading zero of the hour.

    Args:
        name: Name of the patch (untrusted).

    Returns:
        ``acquired``, which is only a date if the name has no valid time of day. Empty if the name has no date.
    """
    match = _NAME.match(name)
    if match is None:
        return {}
    day, clock = "-".join(match.group(1, 2, 3)), match[4].zfill(6)
    moment = _moment(f"{day}T{clock[:2]}:{clock[2:4]}:{clock[4:]}")
    if moment is None and _moment(day) is None:
        return {}
    return {ACQUIRED: moment or day}
