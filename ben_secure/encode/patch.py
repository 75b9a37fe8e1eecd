"""Read one patch from its folder, or from its two folders, and check it. Errors name the patch and the file.

Nothing is guessed. Each band of a sensor must be present exactly once, and any problem refuses the patch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np

from ben_secure.bands import BANDS, S1_BANDS, S2_BANDS, BandSpec
from ben_secure.encode.folders import FileProblem, PatchFiles, read_files, read_reference_map
from ben_secure.encode.geotiff import Unknown, decode_band, unknown_pixels
from ben_secure.encode.labels import LabelFile, metadata_of, parse_label_file
from ben_secure.encode.position import acquired_from_name, position_from_geotiff
from ben_secure.errors import EncodeError, printable
from ben_secure.labels.nomenclature import REFERENCE_MAP
from ben_secure.patches import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch

if TYPE_CHECKING:
    import numpy.typing as npt

    from ben_secure.patches.layout import PixelArray

PatchT = TypeVar("PatchT")

_MAP = BANDS["B02"]  # a reference map has the grid of the 10 m bands

_REMEDY = "fetch this patch again, or leave it out"


@dataclass(frozen=True, slots=True)
class Source:
    """The input for one patch. At least one of ``s2`` and ``s1`` must be set.

    Attributes:
        name: Name under which the patch is stored: the name of the Sentinel-2 patch if there is one, otherwise of the
            Sentinel-1 patch.
        s2: Sentinel-2 folder, or None.
        s1: Sentinel-1 folder, or None.
        row: Row of the metadata table, if there is a table.
        place: Whether to store position and acquisition time.
        map_of: Name and folder of the reference map, if maps are stored.
    """

    name: str
    s2: str | None = None
    s1: str | None = None
    row: Mapping[str, object] | None = None
    place: bool = True
    map_of: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """A patch and counts from reading it.

    Attributes:
        patch: The patch.
        unknown: Unknown pixels by band. Bands without any are left out.
        passed_over: Number of skipped files: files of other programs, and reference maps.
    """

    patch: BigEarthNet_S1_Patch | BigEarthNet_S2_Patch | BigEarthNet_S1_S2_Patch
    unknown: dict[str, Unknown]
    passed_over: int


def read_patch(
    folder: str | os.PathLike[str],
    *,
    labels: bool = True,
    metadata: Mapping[str, object] | None = None,
    place: bool = True,
) -> BigEarthNet_S1_Patch | BigEarthNet_S2_Patch:
    """Read one patch folder.

    Args:
        folder: Folder of GeoTIFFs ``NAME_BAND.tif``, one for each band of Sentinel-1 or Sentinel-2, and a label file
            ``NAME_labels_metadata.json``.
        labels: Whether to store ``labels`` (43 classes) and ``new_labels`` (19 classes). If so, the patch must have
            labels.
        metadata: Further metadata, such as the row of a metadata table. ``labels`` in it can replace the label file.
        place: Whether to store position and acquisition time: ``epsg``, ``bounds`` and ``acquired`` (see
            ``encode.position``), if files or name give them and ``metadata`` does not.

    Returns:
        The patch, with pixels and dtypes as in the files.

    Raises:
        EncodeError: A file or value is missing, duplicate, unreadable or malformed.
        MissingExtraError: A GeoTIFF is compressed and imagecodecs is not installed.
    """
    path = os.path.abspath(os.fspath(folder))
    name = os.path.basename(path)
    files = _files(name, path, labels)
    is_s1 = bool({spec.name for spec in S1_BANDS} & files.bands.keys())
    specs = S1_BANDS if is_s1 else S2_BANDS
    stored, arrays = _read(Source(name, row=metadata, place=place), path, files, labels, specs)
    if is_s1:
        return _make_patch(name, path, BigEarthNet_S1_Patch, arrays, stored)
    return _make_patch(name, path, BigEarthNet_S2_Patch, arrays, stored)


def read_source(source: Source, labels: bool = True) -> Reading:
    """Read one patch from one or two folders. Labels come from the Sentinel-2 folder if there is one.

    Args:
        source: The input.
        labels: As for ``read_patch``.

    Returns:
        The patch, and counts of unknown pixels and skipped files.

    Raises:
        EncodeError: As ``read_patch``.
        MissingExtraError: As ``read_patch``.
    """
    name = source.name
    main = source.s2 if source.s2 is not None else source.s1
    if main is None:
        raise ValueError("a source needs a folder")
    files = _files(name, main, labels)
    specs = S1_BANDS if source.s2 is None else S2_BANDS
    metadata, arrays = _read(source, main, files, labels, specs)
    unknown = _unknown(files, specs, arrays)
    if source.s2 is None:
        return Reading(_make_patch(name, main, BigEarthNet_S1_Patch, arrays, metadata), unknown, files.passed_over)
    if source.s1 is None:
        return Reading(_make_patch(name, main, BigEarthNet_S2_Patch, arrays, metadata), unknown, files.passed_over)
    s1_files = _files(name, source.s1, False)
    s1_arrays = _arrays(name, source.s1, s1_files, S1_BANDS)
    unknown |= _unknown(s1_files, S1_BANDS, s1_arrays)
    patch = _make_patch(name, main, BigEarthNet_S1_S2_Patch, s1_arrays + arrays, metadata)
    return Reading(patch, unknown, files.passed_over + s1_files.passed_over)


def _read(
    source: Source, folder: str, files: PatchFiles, labels: bool, specs: Sequence[BandSpec]
) -> tuple[dict[str, object], list[PixelArray]]:
    """Read the metadata with the reference map, and the pixels in the first folder."""
    label_file = _label_file(source.name, folder, files)
    metadata = _metadata(source, folder, label_file, labels)
    if source.map_of is not None:
        metadata = metadata | {REFERENCE_MAP: _reference_map(source.name, *source.map_of)}
    arrays = _arrays(source.name, folder, files, specs)
    if source.place:
        position = _position(source.name, folder, files, label_file, specs)
        metadata = metadata | {name: value for name, value in position.items() if name not in metadata}
    return metadata, arrays


def _position(
    name: str, folder: str, files: PatchFiles, label_file: LabelFile | None, specs: Sequence[BandSpec]
) -> dict[str, object]:
    """Return position and acquisition time, from the first of these that has them: GeoTIFFs, label file, name."""
    position = acquired_from_name(name) | ({} if label_file is None else label_file.position)
    for spec in specs:
        file_name, content = files.bands[spec.name]
        try:
            from_geotiff = position_from_geotiff(content, spec)
        except ValueError as error:
            _refuse(name, os.path.join(folder, file_name), error)
        if from_geotiff:
            return position | from_geotiff
    return position


def _reference_map(name: str, map_name: str, folder: str) -> npt.NDArray[np.uint16]:
    """Read the land cover of each pixel: uint16 (120, 120), codes of CORINE Land Cover."""
    path = folder
    try:
        file_name, content = read_reference_map(folder, map_name)
        path = os.path.join(folder, file_name)
        codes = decode_band(content, _MAP)
        if codes.dtype.kind not in "iu" or int(codes.min()) < 0 or int(codes.max()) > np.iinfo(np.uint16).max:
            raise ValueError(f"its pixels are {codes.dtype.str}, expected codes of CORINE Land Cover")
    except FileProblem as problem:
        _refuse(name, os.path.join(folder, problem.file_name), problem)
    except (OSError, ValueError) as error:
        _refuse(name, path, error)
    return np.array(codes, np.uint16)


def _unknown(files: PatchFiles, specs: Sequence[BandSpec], arrays: list[PixelArray]) -> dict[str, Unknown]:
    counts = {
        spec.name: unknown_pixels(files.bands[spec.name][1], pixels) for spec, pixels in zip(specs, arrays, strict=True)
    }
    return {band: unknown for band, unknown in counts.items() if unknown}


def read_label_file(name: str, folder: str) -> LabelFile | None:
    """Read only the label file of a patch folder.

    Args:
        name: Name of the patch.
        folder: Its folder.

    Returns:
        The content, or None if there is no label file.

    Raises:
        EncodeError: The label file is unreadable or malformed, or there are two.
    """
    try:
        return _label_file(name, folder, read_files(folder, pixels=False))
    except FileProblem as problem:
        _refuse(name, os.path.join(folder, problem.file_name), problem)
    except OSError as error:
        _refuse(name, folder, error)


def refusal(name: str, path: str, problem: object, remedy: str = _REMEDY) -> EncodeError:
    """Make the error about one patch.

    Args:
        name: Name of the patch, or of a folder that is not a patch (untrusted).
        path: The file or folder.
        problem: Description of the problem; already escaped.
        remedy: What to do.

    Returns:
        The error.
    """
    return EncodeError(f"cannot encode patch {printable(name)}: {printable(path, 400)}: {problem}; {remedy}")


def _refuse(name: str, path: str, error: Exception) -> NoReturn:
    if isinstance(error, OSError):
        raise refusal(name, path, printable(error.strerror or str(error))) from error
    raise refusal(name, path, error) from error


def _files(name: str, folder: str, labels: bool) -> PatchFiles:
    try:
        return read_files(folder, label_file=labels)
    except FileProblem as problem:
        _refuse(name, os.path.join(folder, problem.file_name), problem)
    except OSError as error:
        _refuse(name, folder, error)


def _label_file(name: str, folder: str, files: PatchFiles) -> LabelFile | None:
    if files.label_file is None:
        return None
    file_name, content = files.label_file
    try:
        return parse_label_file(content)
    except ValueError as error:
        _refuse(name, os.path.join(folder, file_name), error)


def _metadata(source: Source, folder: str, label_file: LabelFile | None, labels: bool) -> dict[str, object]:
    try:
        return metadata_of(label_file, source.row, labels)
    except ValueError as error:
        remedy = "correct them, or encode without labels (--no-labels, labels=False)"
        raise refusal(source.name, folder, error, remedy) from error


def _arrays(name: str, folder: str, files: PatchFiles, specs: Sequence[BandSpec]) -> list[PixelArray]:
    """Decode the pixels of all bands of one sensor, in the order of ``specs``."""
    arrays = []
    wanted = {spec.name for spec in specs}
    for band, (file_name, _) in files.bands.items():
        if band not in wanted:
            path, problem = os.path.join(folder, file_name), f"{band} is a band of the other sensor"
            raise refusal(name, path, problem, "sort Sentinel-1 and Sentinel-2 into two folders")
    missing = [spec.name for spec in specs if spec.name not in files.bands]
    if missing:
        noun = "band" if len(missing) == 1 else "bands"
        problem = f"{noun} {', '.join(missing)} missing; expected {len(specs)} files ending in _BAND.tif"
        raise refusal(name, folder, problem)
    for spec in specs:
        file_name, content = files.bands[spec.name]
        try:
            arrays.append(decode_band(content, spec))
        except ValueError as error:
            _refuse(name, os.path.join(folder, file_name), error)
    return arrays


def _make_patch(
    name: str, folder: str, cls: Callable[..., PatchT], arrays: list[PixelArray], metadata: dict[str, object]
) -> PatchT:
    """Make a patch. Only a metadata table can supply metadata that the class refuses."""
    try:
        return cls(*arrays, **metadata)
    except (TypeError, ValueError) as error:
        raise refusal(name, folder, printable(str(error), 400), "correct the metadata table") from error
