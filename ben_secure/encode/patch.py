"""One patch from its folder, or from its two: files in, checked patch out, or an error that names patch and file.

Nothing is guessed: all bands of a sensor must be there, each once, and whatever is wrong is the patch's end.
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
from ben_secure.encode.place import acquired_by_name, place_of_geotiff
from ben_secure.errors import EncodeError, printable
from ben_secure.labels.nomenclature import REFERENCE_MAP
from ben_secure.patches import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch

if TYPE_CHECKING:
    import numpy.typing as npt

    from ben_secure.patches.layout import PixelArray

PatchT = TypeVar("PatchT")

_MAP = BANDS["B02"]  # a reference map has the grid of the 10 m bands

_WHAT_TO_DO = "fetch this patch again, or leave it out"


@dataclass(frozen=True, slots=True)
class Source:
    """Where one patch comes from.

    Attributes:
        name: Name under which it is stored: the Sentinel-2 patch's, if it has one.
        s2: Its Sentinel-2 folder, or None.
        s1: Its Sentinel-1 folder, or None; one of both there is.
        row: Its row of the metadata table, if there is a table.
        place: Whether to store where it is and when it was taken.
        map_of: The patch whose reference map it has, and the folder of that map, if maps are wanted.
    """

    name: str
    s2: str | None = None
    s1: str | None = None
    row: Mapping[str, object] | None = None
    place: bool = True
    map_of: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a source.

    Attributes:
        patch: The patch.
        unknown: Pixels about which nothing is known, by band, of bands that have some.
        passed_over: Files of other programs in its folders, and reference maps.
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
        folder: Folder of GeoTIFFs ``NAME_BAND.tif``, one for each band of Sentinel-1 or of Sentinel-2, with a label
            file ``NAME_labels_metadata.json`` beside them.
        labels: Whether to store ``labels`` (43 classes) and ``new_labels`` (19); if so, there must be some.
        metadata: More metadata, such as the patch's row of a metadata table; its ``labels`` stand for a label file.
        place: Whether to store where the patch is and when it was taken: ``epsg``, ``bounds`` and ``acquired`` (see
            ``encode.place``), as far as files and name say it and ``metadata`` does not.

    Returns:
        The patch; pixels and dtypes are those of the files.

    Raises:
        EncodeError: Something is missing, doubled, unreadable or misshapen.
        MissingExtraError: A GeoTIFF is compressed and imagecodecs is not installed.
    """
    path = os.path.abspath(os.fspath(folder))
    name = os.path.basename(path)
    files = _files(name, path, labels)
    of_s1 = {spec.name for spec in S1_BANDS} & files.bands.keys()
    specs = S1_BANDS if of_s1 else S2_BANDS
    found, arrays = _read(Source(name, row=metadata, place=place), path, files, labels, specs)
    if of_s1:
        return _made(name, path, BigEarthNet_S1_Patch, arrays, found)
    return _made(name, path, BigEarthNet_S2_Patch, arrays, found)


def read_source(source: Source, labels: bool = True) -> Reading:
    """Read one patch from one folder or two; labels are those of the Sentinel-2 folder if there is one.

    Args:
        source: Where it comes from.
        labels: As for ``read_patch``.

    Returns:
        The patch, and the pixels in it about which nothing is known.

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
    found, arrays = _read(source, main, files, labels, specs)
    unknown = _unknown(files, specs, arrays)
    if source.s2 is None:
        return Reading(_made(name, main, BigEarthNet_S1_Patch, arrays, found), unknown, files.passed_over)
    if source.s1 is None:
        return Reading(_made(name, main, BigEarthNet_S2_Patch, arrays, found), unknown, files.passed_over)
    s1_files = _files(name, source.s1, False)
    s1_arrays = _arrays(name, source.s1, s1_files, S1_BANDS)
    unknown |= _unknown(s1_files, S1_BANDS, s1_arrays)
    patch = _made(name, main, BigEarthNet_S1_S2_Patch, s1_arrays + arrays, found)
    return Reading(patch, unknown, files.passed_over + s1_files.passed_over)


def _read(
    source: Source, folder: str, files: PatchFiles, labels: bool, specs: Sequence[BandSpec]
) -> tuple[dict[str, object], list[PixelArray]]:
    """Metadata and pixels of a patch that are in its first folder, and the reference map."""
    label_file = _label_file(source.name, folder, files)
    found = _metadata(source, folder, label_file, labels)
    if source.map_of is not None:
        found = found | {REFERENCE_MAP: _reference_map(source.name, *source.map_of)}
    arrays = _arrays(source.name, folder, files, specs)
    if source.place:
        place = _place(source.name, folder, files, label_file, specs)
        found = found | {key: value for key, value in place.items() if key not in found}
    return found, arrays


def _place(
    name: str, folder: str, files: PatchFiles, label_file: LabelFile | None, specs: Sequence[BandSpec]
) -> dict[str, object]:
    """Where a patch is: what a GeoTIFF says goes before the label file, and that before the name."""
    found = acquired_by_name(name) | ({} if label_file is None else label_file.place)
    for spec in specs:
        file_name, content = files.bands[spec.name]
        try:
            here = place_of_geotiff(content, spec)
        except ValueError as error:
            _refuse(name, os.path.join(folder, file_name), error)
        if here:
            return found | here
    return found


def _reference_map(name: str, map_name: str, folder: str) -> npt.NDArray[np.uint16]:
    """The land cover of each pixel, (120, 120) codes of CORINE Land Cover."""
    place = folder
    try:
        file_name, content = read_reference_map(folder, map_name)
        place = os.path.join(folder, file_name)
        codes = decode_band(content, _MAP)
        if codes.dtype.kind not in "iu" or int(codes.min()) < 0 or int(codes.max()) > np.iinfo(np.uint16).max:
            raise ValueError(f"its pixels are {codes.dtype.str}, expected codes of CORINE Land Cover")
    except FileProblem as problem:
        _refuse(name, os.path.join(folder, problem.file_name), problem)
    except (OSError, ValueError) as error:
        _refuse(name, place, error)
    return np.array(codes, np.uint16)


def _unknown(files: PatchFiles, specs: Sequence[BandSpec], arrays: list[PixelArray]) -> dict[str, Unknown]:
    counts = {
        spec.name: unknown_pixels(files.bands[spec.name][1], pixels) for spec, pixels in zip(specs, arrays, strict=True)
    }
    return {band: unknown for band, unknown in counts.items() if unknown}


def read_label_file(name: str, folder: str) -> LabelFile | None:
    """Read the label file of a patch folder, if it has one, and nothing else.

    Args:
        name: Name of the patch.
        folder: Its folder.

    Returns:
        What the file says.

    Raises:
        EncodeError: It is unreadable, no label file, or there are two.
    """
    try:
        return _label_file(name, folder, read_files(folder, pixels=False))
    except FileProblem as problem:
        _refuse(name, os.path.join(folder, problem.file_name), problem)
    except OSError as error:
        _refuse(name, folder, error)


def refusal(name: str, place: str, what: object, remedy: str = _WHAT_TO_DO) -> EncodeError:
    """Make the error about one patch.

    Args:
        name: Its name, or that of a folder that is none; hostile.
        place: The file or folder.
        what: What is wrong.
        remedy: What to do.

    Returns:
        The error.
    """
    return EncodeError(f"cannot encode patch {printable(name)}: {printable(place, 400)}: {what}; {remedy}")


def _refuse(name: str, place: str, error: Exception) -> NoReturn:
    if isinstance(error, OSError):
        raise refusal(name, place, printable(error.strerror or str(error))) from error
    raise refusal(name, place, error) from error


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
        remedy = "add them, or encode without labels (--no-labels, labels=False)"
        raise refusal(source.name, folder, error, remedy) from error


def _arrays(name: str, folder: str, files: PatchFiles, specs: Sequence[BandSpec]) -> list[PixelArray]:
    """Pixels of all bands of one sensor, in the order of ``specs``."""
    arrays = []
    wanted = {spec.name for spec in specs}
    for band, (file_name, _) in files.bands.items():
        if band not in wanted:
            what = f"{band} is a band of the other sensor"
            raise refusal(
                name, os.path.join(folder, file_name), what, "sort Sentinel-1 and Sentinel-2 into two folders"
            )
    missing = [spec.name for spec in specs if spec.name not in files.bands]
    if missing:
        what = f"{', '.join(missing)} missing; expected {len(specs)} files ending in _BAND.tif"
        raise refusal(name, folder, f"{'band' if len(missing) == 1 else 'bands'} {what}")
    for spec in specs:
        file_name, content = files.bands[spec.name]
        try:
            arrays.append(decode_band(content, spec))
        except ValueError as error:
            _refuse(name, os.path.join(folder, file_name), error)
    return arrays


def _made(
    name: str, folder: str, cls: Callable[..., PatchT], arrays: list[PixelArray], metadata: dict[str, object]
) -> PatchT:
    """Make a patch; what its metadata may not be comes from a table."""
    try:
        return cls(*arrays, **metadata)
    except (TypeError, ValueError) as error:
        raise refusal(name, folder, printable(str(error), 400), "correct the metadata table") from error
