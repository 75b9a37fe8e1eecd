"""Where a patch is and when it was taken: from the GeoTIFF's own fields, the label file of v1, or the patch's name.

All three are untrusted and none is needed: what is not there, or makes no sense, is left out. Nothing is computed but
the corners, and no projection is looked up.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping

from ben_secure.bands import BandSpec
from ben_secure.encode.directory import Directory, first_directory

EPSG = "epsg"
"""Metadata: number of the coordinate reference system in the EPSG registry; int."""

BOUNDS = "bounds"
"""Metadata: left, bottom, right and top edge of the patch in units of that system; list of 4 float."""

ACQUIRED = "acquired"
"""Metadata: when the scene was taken; ISO 8601 with ``Z`` for UTC, a date alone where the name has no clock time."""

# GeoTIFF 1.1 (OGC 19-008r4): fields, and keys of the key directory.
_PIXEL_SCALE, _TIEPOINT, _TRANSFORMATION, _KEYS = 33550, 33922, 34264, 34735
_RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1025, 2048, 3072
_POINT, _USER_DEFINED = 2, 32767
_AUTHORITY = re.compile(r'AUTHORITY\["EPSG","(\d{4,6})"\]\]\s*', re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", re.ASCII)
_NAME = re.compile(r"S[12][A-D]_\w+?_(\d{4})(\d\d)(\d\d)T(\d{5,6})_", re.ASCII)


def place_of_geotiff(content: bytes, spec: BandSpec) -> dict[str, object]:
    """Take the place out of a GeoTIFF.

    Args:
        content: The whole file, from which ``geotiff.decode_band`` has taken the pixels; hostile.
        spec: The band that it is.

    Returns:
        ``epsg`` and ``bounds``, as far as the file says them; ``bounds`` only of an image that has north above.

    Raises:
        ValueError: A field is of another type, too large, or not in the file.
    """
    directory = first_directory(content)
    keys = _geo_keys(directory)
    found: dict[str, object] = {}
    epsg = keys.get(_PROJECTED, keys.get(_GEOGRAPHIC))
    if epsg is not None and 1024 <= epsg < _USER_DEFINED:
        found[EPSG] = epsg
    grid = _grid(directory)
    if grid is not None:
        left, top, across, down = grid
        if keys.get(_RASTER_TYPE) == _POINT:  # the corner is the middle of the first pixel
            left, top = left - across / 2, top + down / 2
        bounds = [left, top - spec.side * down, left + spec.side * across, top]
        # Of pixels too small for their place the edges are one number.
        if bounds[0] < bounds[2] and bounds[1] < bounds[3] and all(map(math.isfinite, bounds)):
            found[BOUNDS] = bounds
    return found


def _geo_keys(directory: Directory) -> dict[int, int]:
    """Keys whose value stands in the key directory itself: a number of four is (key, 0, 1, value)."""
    numbers = directory.integers(_KEYS)
    entries = [numbers[place : place + 4] for place in range(4, len(numbers) - 3, 4)]
    return {key: value for key, where, count, value in entries if where == 0 and count == 1}


def _grid(directory: Directory) -> tuple[float, float, float, float] | None:
    """Left and top edge, width and height of a pixel."""
    matrix = directory.floats(_TRANSFORMATION)
    if len(matrix) == 16:
        return (matrix[3], matrix[7], matrix[0], -matrix[5]) if matrix[1] == matrix[4] == 0 else None
    scale, tie = directory.floats(_PIXEL_SCALE), directory.floats(_TIEPOINT)
    if len(scale) < 2 or len(tie) != 6:
        return None
    return tie[3] - tie[0] * scale[0], tie[4] + tie[1] * scale[1], scale[0], scale[1]


def place_of_document(document: Mapping[str, object]) -> dict[str, object]:
    """Take place and time out of a label file of BigEarthNet v1.

    Args:
        document: The JSON object; hostile. ``coordinates`` has the corners (a Sentinel-1 file says ``lly``),
            ``projection`` the system as text, ``acquisition_date`` or ``acquisition_time`` the time.

    Returns:
        ``epsg``, ``bounds`` and ``acquired``, as far as it says them.
    """
    found: dict[str, object] = {}
    projection, corners = document.get("projection"), document.get("coordinates")
    if (
        isinstance(projection, str)
        and (match := _AUTHORITY.search(projection[-40:]))
        and match.end() == len(projection[-40:])
    ):
        found[EPSG] = int(match[1])
    if isinstance(corners, dict):
        edges = [corners.get("ulx"), corners.get("lry", corners.get("lly")), corners.get("lrx"), corners.get("uly")]
        bounds = [float(edge) for edge in edges if isinstance(edge, int | float) and abs(edge) < 1e9]
        if len(bounds) == 4 and bounds[0] < bounds[2] and bounds[1] < bounds[3]:
            found[BOUNDS] = bounds
    time = document.get("acquisition_date", document.get("acquisition_time"))
    if isinstance(time, str) and _TIME.fullmatch(time) and (moment := _moment(time)) is not None:
        found[ACQUIRED] = moment
    return found


def _moment(text: str) -> str | None:
    try:
        return datetime.datetime.fromisoformat(text).isoformat() + "Z"
    except ValueError:
        return None


def acquired_by_name(name: str) -> dict[str, object]:
    """Take the time out of the name of a patch, in which v1 leaves out a leading zero of the hour.

    Args:
        name: Name of the patch; hostile.

    Returns:
        ``acquired``: with a clock time if the name has one; nothing if it has no date.
    """
    match = _NAME.match(name)
    if match is None:
        return {}
    day, clock = "-".join(match.group(1, 2, 3)), match[4].zfill(6)
    moment = _moment(f"{day}T{clock[:2]}:{clock[2:4]}:{clock[4:]}")
    if moment is None and _moment(day) is None:
        return {}
    return {ACQUIRED: moment or day}
