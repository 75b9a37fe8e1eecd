"""An audit in shards: each judges some of the records of every database and writes a partial result; merged, they are
the report of one run, byte for byte.

A shard says nothing of a database as a whole and asks for no second opinion: that is done when all are merged, by the
same code as in one run, on the sum of what the shards have found. So a shard is no verdict.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.run._wire import list_of, members_of
from ben_secure.audit.run.discover import databases_in
from ben_secure.audit.run.judging import Judging, Progress, Runner
from ben_secure.audit.run.parts import read_parts, write_parts
from ben_secure.audit.run.ranges import CHANGED, RangeTask, open_pages
from ben_secure.audit.run.state import PartFile, malformed
from ben_secure.errors import StoreError, printable


def judge_shard(
    paths: Sequence[str | os.PathLike[str]],
    shard: tuple[int, int],
    target: str | os.PathLike[str],
    *,
    options: Options,
    runner: Runner,
    progress: Progress | None = None,
) -> tuple[PartFile, int]:
    """Judge one shard of databases, for ``MergedFiles``.

    Args:
        paths: Databases, and folders in which (and below which) databases are looked for.
        shard: Its number, from 1 on, and how many there are.
        target: File for the result, which the caller then writes.
        options: How to judge.
        runner: Who judges.
        progress: Called as it goes on.

    Returns:
        The file, not yet written, and how many records were judged.

    Raises:
        UntrustedDataError: A manifest is not what it should be.
        StoreError: A database is missing, cannot be opened or was changed meanwhile.
    """
    file = PartFile(target, shard, [os.fspath(path) for path in paths])
    databases = [found.path for path in paths for found in databases_in(os.fspath(path)) if found.problem is None]
    if not databases:
        raise StoreError("there is no LMDB database to judge; check the paths")
    records = 0
    for database in databases:
        with open_pages(database, options) as pages:
            judging = Judging(pages, database, options, runner=runner, workers=1, shard=shard, progress=progress)
            failed = None
            try:
                for _ in judging.run():
                    pass
            except StoreError as error:
                if error.message == CHANGED:
                    raise
                failed = error.message  # as it would be in one run, in which others have come as far
            parts = [judging.part] if judging.part.records or judging.part.stop is None else []
            file.put(judging.whole, judging.described, write_parts(parts, failed))
            records += judging.part.tally.processed
    return file, records


class MergedFiles:
    """What the shards of one audit have written, together all of it.

    Attributes:
        asked: What was to be audited, as the caller of the shards has named it.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """Read the files.

        Raises:
            StoreError: One cannot be read, is something else or can have been changed by others; a shard is missing
                or there twice; the shards are not of one audit.
        """
        by_number: dict[int, PartFile] = {}
        for path in paths:
            file = PartFile.read(path)
            if file is None:
                raise StoreError(f"there is no file {printable(os.fspath(path), 400)}; check the path")
            first = by_number.setdefault(file.shard[0], file)
            if first is not file:
                raise StoreError(
                    f"shard {file.shard[0]}/{file.shard[1]} is there twice, in {printable(first.path, 400)} and "
                    f"{printable(file.path, 400)}; name each file once"
                )
            other = next(iter(by_number.values()))
            if (file.shard[1], file.asked) != (other.shard[1], other.asked):
                raise StoreError(
                    f"{printable(file.path, 400)} is of another audit than {printable(other.path, 400)}: other "
                    "databases, or another number of shards; merge what was begun with the same command"
                )
        if not by_number:
            raise StoreError("there is nothing to merge; name the files that the shards have written")
        count = next(iter(by_number.values())).shard[1]
        missing = sorted({*range(1, count + 1)} - {*by_number})
        if missing:
            named = ", ".join(f"{number}/{count}" for number in missing[:10])
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            raise StoreError(f"shards are missing: {named}{more}; run them (--shard), then merge all")
        self._files = [by_number[number] for number in sorted(by_number)]
        self.asked = self._files[0].asked

    def gone(self, databases: Iterable[str]) -> list[tuple[str, str | None]]:
        """Name what was judged and is not there any more: it was as bad or good as the rest.

        Args:
            databases: Paths of those that are there.
        """
        judged = {path for file in self._files for path in file.databases}
        problem = "the shards have judged it, and it is not there any more; run them again"
        return [(path, problem) for path in sorted(judged - {os.path.abspath(path) for path in databases})]

    def known(self, whole: RangeTask, options: dict[str, object]) -> Iterator[tuple[RangeTask, Tally]]:
        """As ``Known``: all of the database."""
        parts: list[object] = []
        failed = None
        for file in self._files:
            judged = file.judged(whole, options)
            if judged is None:
                raise StoreError(
                    f"{printable(file.path, 400)} has nothing on this database, as if it had not been there; run that "
                    "shard again"
                )
            try:
                members = members_of(judged, {"parts", "failed"})
                parts += list_of(members["parts"])
            except ValueError as error:
                raise malformed(file.path, error) from error
            failed = members["failed"]
            if failed is not None:
                break
        try:
            yield from read_parts([whole], {"parts": parts, "failed": failed})
        except ValueError as error:
            raise malformed(self._files[0].path, error) from error
