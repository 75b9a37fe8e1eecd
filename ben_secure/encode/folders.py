"""Find patch folders, and read the files of one of them.

There are two layouts. BigEarthNet v1 is a folder of patch folders. BigEarthNet v2 is a folder of scene folders, which
contain patch folders. A patch folder has the name of the patch and contains ``NAME_BAND.tif`` for each band.

The folders are untrusted. Links are refused. Files are opened relative to their folder, and only if they are regular
and small. Names from the content of a file never become part of a path. Nothing outside the folders is opened.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ben_secure.bands import BANDS
from ben_secure.encode import geotiff, labels
from ben_secure.errors import printable

# BigEarthNet v1 leaves out a leading zero of the hour; v2 adds processing baseline, orbit and tile.
_S2_SCENE = r"S2[ABC]_MSIL2A_\d{8}T\d{5,6}(_N\d{4}_R\d{3}_T\w{5})?"
_S1_SCENE = r"S1[ABC]_IW_GRDH_1SDV_\d{8}T\d{5,6}"
_PATCH = re.compile(rf"({_S2_SCENE}|{_S1_SCENE}_\w{{5}})_\d{{1,2}}_\d{{1,2}}", re.ASCII)
_SCENE = re.compile(rf"{_S2_SCENE}|{_S1_SCENE}", re.ASCII)
_TIFF = re.compile(r"(?:.*_)?(?P<band>[^_]*)\.tiff?", re.ASCII | re.IGNORECASE | re.DOTALL)
_REFERENCE_MAP = re.compile(r".*_reference_map\.tiff?", re.ASCII | re.IGNORECASE | re.DOTALL)
_MAX_ENTRIES = 1_000
# Files that macOS, Windows, Synology, QNAP and file systems add to folders. macOS can add ``._NAME`` to any file.
_LITTER = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "@Recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
)


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """One entry of a folder of patches.

    Attributes:
        name: Name of the entry, which is the name of the patch for a patch folder.
        folder: Path of the entry.
        problem: Why it is not a patch folder, or None if it is one, judging by its name.
        litter: Whether another program made it, so that it is skipped.
    """

    name: str
    folder: str
    problem: str | None = None
    litter: bool = False


def _is_litter(name: str) -> bool:
    return name.startswith("._") or name in _LITTER


def find_patches(root: str) -> Iterator[FolderEntry]:
    """Find the patch folders below a folder, without opening them.

    Args:
        root: A folder of patch folders, of scene folders, or of both.

    Yields:
        The patch folders; other folders and links, with the reason why they are not patch folders; and entries of other
        programs. All other files and hidden folders are skipped.

    Raises:
        OSError: ``root`` cannot be listed.
    """
    with os.scandir(root) as entries:
        for entry in entries:
            problem = _problem(entry)
            if _is_litter(entry.name):
                yield FolderEntry(entry.name, entry.path, litter=True)
            elif problem is not None:
                yield FolderEntry(entry.name, entry.path, problem)
            elif not entry.is_dir() or entry.name.startswith("."):
                continue
            elif _PATCH.fullmatch(entry.name):
                yield FolderEntry(entry.name, entry.path)
            else:
                yield from _inside(entry)


def _problem(entry: os.DirEntry[str]) -> str | None:
    if entry.is_symlink():
        return "it is a link, and links are not followed"
    return None


def _inside(scene: os.DirEntry[str]) -> Iterator[FolderEntry]:
    """List the patch folders in a scene folder. If it contains GeoTIFFs, it is itself a patch folder."""
    count = 0
    try:
        with os.scandir(scene.path) as entries:
            for entry in entries:
                problem = _problem(entry)
                if _is_litter(entry.name):
                    yield FolderEntry(entry.name, entry.path, litter=True)
                    continue
                if entry.is_dir(follow_symlinks=False) and _PATCH.fullmatch(entry.name):
                    yield FolderEntry(entry.name, entry.path)
                elif problem is not None and _PATCH.fullmatch(entry.name):
                    yield FolderEntry(entry.name, entry.path, problem)
                elif _TIFF.fullmatch(entry.name):
                    yield FolderEntry(scene.name, scene.path)
                    return
                else:
                    continue
                count += 1
    except OSError as error:
        yield FolderEntry(scene.name, scene.path, printable(error.strerror or str(error)))
        return
    if not count and not _SCENE.fullmatch(scene.name):
        yield FolderEntry(scene.name, scene.path, "it is not a patch or scene folder")


def better_roots(root: str) -> tuple[str, list[str]]:
    """Find the folders that the caller probably meant if a folder is one level too low or too high.

    Args:
        root: A folder without patches.

    Returns:
        The problem with the folder, and the folders to name instead. Empty if the level is not the problem.
    """
    deeper = []
    with os.scandir(root) as entries:
        for entry in entries:
            if _PATCH.fullmatch(entry.name) or _SCENE.fullmatch(entry.name):
                return "", []
            if (match := _TIFF.fullmatch(entry.name)) and match["band"] in BANDS:
                return "it is itself a patch", [os.path.dirname(os.path.abspath(root))]
            if entry.is_dir(follow_symlinks=False) and not _is_litter(entry.name) and _holds_patches(entry.path):
                deeper.append(entry.path)
    return "the patches are one folder deeper", sorted(deeper)


def _holds_patches(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_PATCH.fullmatch(entry.name) or _SCENE.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class PatchFiles:
    """The files of one patch folder, with their content.

    Attributes:
        bands: File name and content of the GeoTIFF of each band.
        label_file: File name and content of the label file, or None if there is none or it was not requested.
        passed_over: Number of skipped files: files of other programs, and reference maps.
    """

    bands: dict[str, tuple[str, bytes]]
    label_file: tuple[str, bytes] | None
    passed_over: int


def read_reference_map(folder: str, name: str) -> tuple[str, bytes]:
    """Read the reference map of a patch.

    Args:
        folder: Folder of the patch below the folder of reference maps. It must not be a link.
        name: Name of the patch.

    Returns:
        File name and content of ``NAME_reference_map.tif``.

    Raises:
        FileProblem: The file is missing, a link, not regular, or too large.
        OSError: The folder cannot be read.
    """
    file_name = f"{name}_reference_map.tif"
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return file_name, _read(fd, file_name, geotiff.MAX_FILE_BYTES)
    finally:
        os.close(fd)


class FileProblem(ValueError):
    """One file is refused.

    Attributes:
        file_name: Name of the file.
    """

    def __init__(self, file_name: str, message: str) -> None:
        super().__init__(message)
        self.file_name = file_name


def read_files(folder: str, *, pixels: bool = True, label_file: bool = True) -> PatchFiles:
    """Read the files of a patch folder.

    Args:
        folder: The folder. It must not be a link.
        pixels: Whether to read GeoTIFFs.
        label_file: Whether to read the label file.

    Returns:
        The files. The caller must check that all bands are present.

    Raises:
        FileProblem: A file is a link, not regular, too large, a GeoTIFF of an unknown band, or a duplicate.
        OSError: The folder or a file cannot be read.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        bands: dict[str, tuple[str, bytes]] = {}
        labels_entry: tuple[str, bytes] | None = None
        file_names = os.listdir(fd)
        if len(file_names) > _MAX_ENTRIES:
            raise FileProblem(".", f"it contains {len(file_names)} files, expected at most {_MAX_ENTRIES}")
        passed_over = 0
        for file_name in sorted(file_names):
            if _is_litter(file_name) or _REFERENCE_MAP.fullmatch(file_name):
                passed_over += 1
            elif file_name.endswith(labels.LABEL_FILE_SUFFIX) and label_file:
                if labels_entry is not None:
                    raise FileProblem(file_name, f"it is a second label file beside {printable(labels_entry[0])}")
                labels_entry = file_name, _read(fd, file_name, labels.MAX_FILE_BYTES)
            elif pixels and (match := _TIFF.fullmatch(file_name)):
                band = match["band"]
                if band not in BANDS:
                    raise FileProblem(file_name, "its name does not end in a known band, expected NAME_BAND.tif")
                if band in bands:
                    raise FileProblem(file_name, f"it is a second file of {band}, beside {printable(bands[band][0])}")
                bands[band] = file_name, _read(fd, file_name, geotiff.MAX_FILE_BYTES)
        return PatchFiles(bands, labels_entry, passed_over)
    finally:
        os.close(fd)


def _read(folder_fd: int, file_name: str, max_bytes: int) -> bytes:
    """Read one regular file. A FIFO does not block, and a link is not followed."""
    try:
        fd = os.open(file_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except OSError as error:
        problem = "it is a link, and links are not followed" if _is_link(folder_fd, file_name) else error.strerror
        raise FileProblem(file_name, printable(problem or str(error))) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileProblem(file_name, "it is not a regular file")
        if status.st_size > max_bytes:
            raise FileProblem(file_name, f"it has {status.st_size} bytes, expected at most {max_bytes}")
        content = os.read(fd, status.st_size + 1)
        while len(content) < status.st_size and (more := os.read(fd, status.st_size - len(content))):
            content += more
    except OSError as error:
        raise FileProblem(file_name, printable(error.strerror or str(error))) from error
    finally:
        os.close(fd)
    if len(content) != status.st_size:
        raise FileProblem(file_name, "it changed while it was read")
    return content


def _is_link(folder_fd: int, file_name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(file_name, dir_fd=folder_fd, follow_symlinks=False).st_mode)
    except OSError:
        return False
