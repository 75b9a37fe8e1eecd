"""What there is to encode: patch folders found, paired and joined with the metadata table, before a pixel is read.

Which Sentinel-1 patch belongs to which Sentinel-2 patch is said by the table's ``s1_name`` if there is one (BigEarthNet
v2), otherwise by the Sentinel-1 label files (v1). Either is only ever looked up among the folders that were found.
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
"""Failures kept in detail; the rest are counted."""

_MAX_NAME_BYTES = 511  # of an LMDB key


@dataclass(slots=True)
class Failures:
    """Patches that could not be encoded: how many, and the first of them.

    Attributes:
        strict: Whether the first one ends it all.
        count: All of them.
        first: The errors of the first ones, at most ``KEPT``.
    """

    strict: bool
    count: int = 0
    first: list[EncodeError] = field(default_factory=list)

    def add(self, error: EncodeError) -> None:
        """Count one patch.

        Raises:
            EncodeError: The error, if one is too many.
        """
        if self.strict:
            raise error
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(error)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be encoded.

    Attributes:
        sources: The patches in order of their LMDB keys.
        left_out: Patches passed over because the table has no row for them, where that was asked for.
        passed_over: Files and folders of other programs.
    """

    sources: list[Source]
    left_out: int
    passed_over: int

    def without_place(self) -> Plan:
        """Make the plan in which nobody stores where a patch is."""
        return replace(self, sources=[replace(source, place=False) for source in self.sources])

    def with_columns(self, columns: Collection[str]) -> Plan:
        """Make the plan in which only these columns of the table, and labels, become metadata."""
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
    """Find, pair and join.

    Args:
        s2: Folder of Sentinel-2 patches, or None.
        s1: Folder of Sentinel-1 patches, or None.
        rows: The metadata table by patch name (that of the Sentinel-2 patch, or of the Sentinel-1 patch if these are
            encoded alone; a table with ``s1_name`` serves for both), or None.
        listed_only: Pass over patches that the table has no row for; otherwise they fail.
        failures: Where what is no patch, has no twin, no row or no reference map is counted.
        maps: Folder of the reference maps, or None.

    Returns:
        The plan. Sentinel-1 patches that are nobody's twin are passed over.

    Raises:
        EncodeError: A folder cannot be read or has no patches, two patches have one name, or ``failures`` is strict.
    """
    main = s2 if s2 is not None else s1
    if main is None:
        raise ValueError("there is nothing to encode: name a folder for s2, s1 or both")
    folders, passed_over = _folders(main, failures)
    listed = None if rows is None else rows if s2 is not None else _by_s1_name(rows)
    left_out = 0
    if listed is not None:
        for name in [name for name in folders if name not in listed]:
            folder = folders.pop(name)
            if listed_only:
                left_out += 1
            else:
                failures.add(refusal(name, folder, "the metadata table has no row for it", "add one"))
    twins: dict[str, str] = {}
    if s2 is not None and s1 is not None:
        s1_folders, more = _folders(s1, failures)
        twins = _twins(folders, s1_folders, rows, failures)
        passed_over += more
    sources = []
    for name in sorted(folders):
        row = None if listed is None else listed[name]
        if s2 is None:
            sources.append(Source(name, s1=folders[name], row=row))
        elif s1 is None or name in twins:
            sources.append(Source(name, s2=folders[name], s1=twins.get(name), row=row))
    if not sources and not failures.count and not left_out:
        raise EncodeError(
            f"no patch folders in {printable(main, 400)}: expected folders of patches, or of scenes with patches inside"
        )
    return Plan(sources if maps is None else _with_maps(sources, maps, failures), left_out, passed_over)


def _with_maps(sources: list[Source], maps: str, failures: Failures) -> list[Source]:
    """The sources that have a reference map, which is that of the Sentinel-2 patch, with its folder."""
    folders, _ = _folders(maps, failures)
    found = []
    for source in sources:
        name = source.name
        if source.s2 is None and source.row is not None and isinstance(s2_name := source.row.get("patch_id"), str):
            name = s2_name
        if name in folders:
            found.append(replace(source, map_of=(name, folders[name])))
        else:
            what = f"there is no reference map of {printable(name)} in {printable(maps, 400)}"
            failures.add(refusal(source.name, source.s2 or source.s1 or "", what, "add it, or leave the patch out"))
    return found


def _folders(root: str, failures: Failures) -> tuple[dict[str, str], int]:
    """Patch folders by name, and how many files and folders of other programs lie beside them."""
    folders: dict[str, str] = {}
    passed_over = 0
    try:
        for found in find_patches(root):
            if found.litter:
                passed_over += 1
            elif found.problem is not None:
                if not folders:
                    _refuse_misplaced(root)
                failures.add(refusal(found.name, found.folder, found.problem, "correct the input"))
            elif not _is_name(found.name):
                what = f"its name is no UTF-8 of 1 to {_MAX_NAME_BYTES} bytes, which an LMDB key must be"
                failures.add(refusal(found.name, found.folder, what, "rename it"))
            elif found.name in folders:
                what = f"there is another folder of this name, {printable(folders[found.name], 400)}"
                raise refusal(found.name, found.folder, what, "keep one of them")
            else:
                folders[found.name] = found.folder
        if all(os.path.dirname(folder) != root for folder in folders.values()):
            _refuse_misplaced(root, at_least=2 if folders else 1)
    except OSError as error:
        raise EncodeError(
            f"cannot read the folder {printable(root, 400)}: {printable(error.strerror or str(error))}; name another"
        ) from error
    return folders, passed_over


def _refuse_misplaced(root: str, at_least: int = 1) -> None:
    """Refuse a folder that is one level too low or too high, and say which to name, if there are that many."""
    what, roots = better_roots(root)
    if len(roots) >= at_least:
        names = " or ".join(printable(other, 400) for other in roots[:4])
        raise EncodeError(f"cannot encode the folder {printable(root, 400)}: {what}; name {names}")


def _is_name(name: str) -> bool:
    try:
        return len(name.encode()) <= _MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def _by_s1_name(rows: Rows) -> Mapping[str, Mapping[str, object]]:
    """Rows of a table for Sentinel-1 patches: those it names, and by ``s1_name`` those that it names as twins."""
    if not any(S1_NAME in row for row in rows.values()):
        return rows
    return rows | {s1_name: {"patch_id": name, **rows[name]} for name, s1_name in pairs_of(rows).items()}


def _twins(
    folders: dict[str, str], s1_folders: dict[str, str], rows: Rows | None, failures: Failures
) -> dict[str, str]:
    """The Sentinel-1 folder of each Sentinel-2 patch; patches without one fail."""
    if rows is not None and any(S1_NAME in row for row in rows.values()):
        pairs = pairs_of(rows)
        twins = {name: s1_folders[pairs[name]] for name in folders if pairs.get(name) in s1_folders}
        said = f"the metadata table's {S1_NAME}"
    else:
        twins = _from_label_files(folders, s1_folders, failures)
        said = "the label files of the Sentinel-1 patches"
    for name in sorted(folders.keys() - twins.keys()):
        what = f"it has no Sentinel-1 twin: {said} lead to no folder that is there"
        failures.add(refusal(name, folders[name], what, "add the twin, or leave the patch out"))
    return twins


def _from_label_files(folders: dict[str, str], s1_folders: dict[str, str], failures: Failures) -> dict[str, str]:
    twins: dict[str, str] = {}
    for s1_name, folder in sorted(s1_folders.items()):
        try:
            label_file = read_label_file(s1_name, folder)
            if label_file is None or label_file.s2_name is None:
                what = "no label file names its Sentinel-2 twin"
                raise refusal(s1_name, folder, what, "add it, or a metadata table with s1_name")
        except EncodeError as error:
            failures.add(error)
            continue
        s2_name = label_file.s2_name
        if s2_name in twins:
            what = (
                f"its label file names the twin {printable(s2_name)}, as that of {printable(twins[s2_name], 400)} does"
            )
            raise refusal(s1_name, folder, what, "keep one of them")
        if s2_name in folders:
            twins[s2_name] = folder
    return twins
