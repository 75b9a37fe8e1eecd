"""Plan what to encode: find patch folders, pair them and join them with the metadata table, before any pixel is read.

The column ``s1_name`` of the table pairs Sentinel-1 and Sentinel-2 patches (BigEarthNet v2). Without it, the Sentinel-1
label files do (v1). Names from either are only looked up among the existing folders.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from ben_secure.encode.folders import better_roots, find_patches
from ben_secure.encode.patch import Source, read_label_file, refusal
from ben_secure.errors import EncodeError, printable
from ben_secure.labels.tables import LABEL_COLUMNS, S1_NAME, Rows, pairs_of

KEPT = 20
"""Number of failures kept in detail; the rest are counted."""

_MAX_NAME_BYTES = 511  # of an LMDB key


@dataclass(slots=True)
class Failures:
    """Patches that could not be encoded.

    Attributes:
        strict: Whether the first failure ends the run.
        count: Number of failures.
        first: The first errors, at most ``KEPT``.
    """

    strict: bool
    count: int = 0
    first: list[EncodeError] = field(default_factory=list)

    def add(self, error: EncodeError) -> None:
        """Count one failure.

        Raises:
            EncodeError: The error, if ``strict`` is set.
        """
        if self.strict:
            raise error
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(error)


@dataclass(frozen=True, slots=True)
class Plan:
    """The patches to encode.

    Attributes:
        sources: The patches in order of their LMDB keys.
        left_out: Number of patches skipped because the table has no row for them (``listed_only``).
        passed_over: Number of skipped files and folders of other programs.
    """

    sources: list[Source]
    left_out: int
    passed_over: int

    def without_place(self) -> Plan:
        """Return the plan without position and acquisition time."""
        return replace(self, sources=[replace(source, place=False) for source in self.sources])

    def with_columns(self, columns: Collection[str]) -> Plan:
        """Return the plan with only these columns of the table, and labels, as metadata."""
        kept = {*columns, *LABEL_COLUMNS}
        sources = [
            replace(source, row={name: cell for name, cell in (source.row or {}).items() if name in kept})
            for source in self.sources
        ]
        return replace(self, sources=sources)


def make_plan(
    s2: str | None,
    s1: str | None,
    rows: Rows | None,
    listed_only: bool,
    failures: Failures,
    maps: str | None = None,
) -> Plan:
    """Find patch folders, pair them, and join them with the rows of the table.

    Args:
        s2: Folder of Sentinel-2 patches, or None.
        s1: Folder of Sentinel-1 patches, or None.
        rows: Rows of the metadata table by name of the Sentinel-2 patch, or None. If only Sentinel-1 patches are
            encoded, the table may have their names instead, or list them in ``s1_name``.
        listed_only: Skip patches without a row in the table; otherwise they fail.
        failures: Counts folders that are not patches, and patches without a pair, row or reference map.
        maps: Folder of the reference maps, or None.

    Returns:
        The plan. If pairs are encoded, Sentinel-1 patches without a pair are skipped.

    Raises:
        EncodeError: A folder cannot be read or has no patches, two patches have the same name, or ``failures`` is
            strict.
    """
    main = s2 if s2 is not None else s1
    if main is None:
        raise ValueError("nothing to encode; give a folder for s2, s1 or both")
    folders, passed_over = _folders(main, failures)
    listed = None if rows is None else rows if s2 is not None else _by_s1_name(rows)
    left_out = 0
    if listed is not None:
        for name in [name for name in folders if name not in listed]:
            folder = folders.pop(name)
            if listed_only:
                left_out += 1
            else:
                failures.add(refusal(name, folder, "the metadata table has no row for it", "add a row"))
    pairs: dict[str, str] = {}
    if s2 is not None and s1 is not None:
        s1_folders, skipped = _folders(s1, failures)
        pairs = _pair(folders, s1_folders, rows, failures)
        passed_over += skipped
    sources = []
    for name in sorted(folders):
        row = None if listed is None else listed[name]
        if s2 is None:
            sources.append(Source(name, s1=folders[name], row=row))
        elif s1 is None or name in pairs:
            sources.append(Source(name, s2=folders[name], s1=pairs.get(name), row=row))
    if not sources and not failures.count and not left_out:
        raise EncodeError(
            f"no patch folders in {printable(main, 400)}: expected folders of patches, or of scenes with patches inside"
        )
    return Plan(sources if maps is None else _with_maps(sources, maps, failures), left_out, passed_over)


def _with_maps(sources: list[Source], maps: str, failures: Failures) -> list[Source]:
    """Add the reference map of the Sentinel-2 patch to each source. Sources without one fail."""
    folders, _ = _folders(maps, failures)
    with_maps = []
    for source in sources:
        name = source.name
        if source.s2 is None and source.row is not None and isinstance(s2_name := source.row.get("patch_id"), str):
            name = s2_name
        if name in folders:
            with_maps.append(replace(source, map_of=(name, folders[name])))
        else:
            problem = f"{printable(maps, 400)} has no reference map of {printable(name)}"
            failures.add(refusal(source.name, source.s2 or source.s1 or "", problem, "add it, or leave the patch out"))
    return with_maps


def _folders(root: str, failures: Failures) -> tuple[dict[str, str], int]:
    """Return the patch folders by name, and the number of skipped files and folders of other programs."""
    folders: dict[str, str] = {}
    passed_over = 0
    try:
        for entry in find_patches(root):
            if entry.litter:
                passed_over += 1
            elif entry.problem is not None:
                if not folders:
                    _refuse_misplaced(root)
                remedy = "remove it from the input, or replace it by a patch folder"
                failures.add(refusal(entry.name, entry.folder, entry.problem, remedy))
            elif not _is_lmdb_key(entry.name):
                problem = f"its name cannot be an LMDB key, which is UTF-8 of 1 to {_MAX_NAME_BYTES} bytes"
                failures.add(refusal(entry.name, entry.folder, problem, "rename it"))
            elif entry.name in folders:
                problem = f"another folder has the same name, {printable(folders[entry.name], 400)}"
                raise refusal(entry.name, entry.folder, problem, "keep one of them")
            else:
                folders[entry.name] = entry.folder
        if all(os.path.dirname(folder) != root for folder in folders.values()):
            _refuse_misplaced(root, at_least=2 if folders else 1)
    except OSError as error:
        raise EncodeError(
            f"cannot read the folder {printable(root, 400)}: {printable(error.strerror or str(error))}; check the path"
        ) from error
    return folders, passed_over


def _refuse_misplaced(root: str, at_least: int = 1) -> None:
    """Refuse a folder that is one level too low or too high, if there are at least so many folders to name instead."""
    problem, roots = better_roots(root)
    if len(roots) >= at_least:
        names = " or ".join(printable(other, 400) for other in roots[:4])
        raise EncodeError(f"cannot encode the folder {printable(root, 400)}: {problem}; name {names}")


def _is_lmdb_key(name: str) -> bool:
    try:
        return len(name.encode()) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def _by_s1_name(rows: Rows) -> Mapping[str, Mapping[str, object]]:
    """Return the rows by the names of Sentinel-1 patches as well, if the table has ``s1_name``."""
    if not any(S1_NAME in row for row in rows.values()):
        return rows
    return rows | {s1_name: {"patch_id": name, **rows[name]} for name, s1_name in pairs_of(rows).items()}


def _pair(folders: dict[str, str], s1_folders: dict[str, str], rows: Rows | None, failures: Failures) -> dict[str, str]:
    """Return the Sentinel-1 folder of each Sentinel-2 patch. Patches without one fail."""
    if rows is not None and any(S1_NAME in row for row in rows.values()):
        s1_names = pairs_of(rows)
        pairs = {name: s1_folders[s1_names[name]] for name in folders if s1_names.get(name) in s1_folders}
        source = f"{S1_NAME} in the metadata table"
    else:
        pairs = _pair_by_label_files(folders, s1_folders, failures)
        source = "the label files of the Sentinel-1 patches"
    for name in sorted(folders.keys() - pairs.keys()):
        problem = f"it has no Sentinel-1 patch: no existing folder is named for it by {source}"
        failures.add(refusal(name, folders[name], problem, "add the Sentinel-1 patch, or leave this one out"))
    return pairs


def _pair_by_label_files(folders: dict[str, str], s1_folders: dict[str, str], failures: Failures) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for s1_name, folder in sorted(s1_folders.items()):
        try:
            label_file = read_label_file(s1_name, folder)
            if label_file is None or label_file.s2_name is None:
                problem = "no label file names its Sentinel-2 patch"
                raise refusal(s1_name, folder, problem, "add one, or use a metadata table with s1_name")
        except EncodeError as error:
            failures.add(error)
            continue
        s2_name = label_file.s2_name
        if s2_name in pairs:
            other = printable(pairs[s2_name], 400)
            problem = f"its label file names the Sentinel-2 patch {printable(s2_name)}, and so does that of {other}"
            raise refusal(s1_name, folder, problem, "keep one of them")
        if s2_name in folders:
            pairs[s2_name] = folder
    return pairs
