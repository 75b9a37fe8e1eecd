"""Audit databases in shards. The merged results give the same report as a single run, byte for byte.

Each shard judges some of the records of every database and writes a file with its results. It does not examine the
database as a whole and asks for no second opinion, so it gives no verdict. Merging does both, on the sum of all shards
and with the same code as a single run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.run._wire import list_of, members_of
from ben_secure.audit.run.discover import databases_in
from ben_secure.audit.run.judging import Judging, Progress, Runner
from ben_secure.audit.run.partial_results import results_from_json, results_to_json
from ben_secure.audit.run.ranges import CHANGED, RangeTask, open_pages
from ben_secure.audit.run.state import ResultFile, malformed
from ben_secure.errors import StoreError, printable


def judge_shard(
    paths: Sequence[str | os.PathLike[str]],
    shard: tuple[int, int],
    target: str | os.PathLike[str],
    *,
    options: Options,
    runner: Runner,
    progress: Progress | None = None,
) -> tuple[ResultFile, int]:
    """Judge one shard of databases, for ``ShardResults``.

    Args:
        paths: Databases, and folders that are searched for databases recursively.
        shard: Number of the shard, starting at 1, and number of shards.
        target: File for the results. The caller must write it.
        options: How to judge.
        runner: Judges the ranges.
        progress: Called after each range.

    Returns:
        The file, not yet written, and the number of records judged.

    Raises:
        UntrustedDataError: A manifest is refused.
        StoreError: A database is missing, cannot be opened or has changed during the audit.
    """
    file = ResultFile(target, shard, [os.fspath(path) for path in paths])
    databases = [result.path for path in paths for result in databases_in(os.fspath(path)) if result.problem is None]
    if not databases:
        raise StoreError("no LMDB database to judge in the given paths; check the paths")
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
                failed = error.message  # merging reports it as a single run does
            results = [judging.result] if judging.result.records or judging.result.stop is None else []
            file.put(judging.whole, judging.description, results_to_json(results, failed))
            records += judging.result.tally.processed
    return file, records


class ShardResults:
    """The results of all shards of one audit.

    Attributes:
        requested: Paths that the shards were asked to audit.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """Read the files.

        Raises:
            StoreError: A file cannot be read, is not the result of a shard or could have been changed by others; a
                shard is missing or duplicate; the shards belong to different audits.
        """
        by_number: dict[int, ResultFile] = {}
        for path in paths:
            file = ResultFile.read(path)
            if file is None:
                raise StoreError(f"the file {printable(os.fspath(path), 400)} does not exist; check the path")
            first = by_number.setdefault(file.shard[0], file)
            if first is not file:
                raise StoreError(
                    f"shard {file.shard[0]}/{file.shard[1]} is given twice, as {printable(first.path, 400)} and "
                    f"{printable(file.path, 400)}; name one file per shard"
                )
            other = next(iter(by_number.values()))
            if (file.shard[1], file.requested) != (other.shard[1], other.requested):
                raise StoreError(
                    f"{printable(file.path, 400)} and {printable(other.path, 400)} belong to different audits: the "
                    "databases or the number of shards differ; merge only files from the same command"
                )
        if not by_number:
            raise StoreError("no files to merge were given; name the files that the shards have written")
        count = next(iter(by_number.values())).shard[1]
        missing = sorted({*range(1, count + 1)} - {*by_number})
        if missing:
            named = ", ".join(f"{number}/{count}" for number in missing[:10])
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            raise StoreError(f"shards are missing: {named}{more}; run them (--shard), then merge all")
        self._files = [by_number[number] for number in sorted(by_number)]
        self.requested = self._files[0].requested

    def gone(self, databases: Iterable[str]) -> list[tuple[str, str | None]]:
        """List the databases that the shards have judged but that do not exist any more, each with the reason.

        Args:
            databases: Paths of the existing databases.
        """
        judged = {path for file in self._files for path in file.databases}
        problem = "the shards have judged this database, but it does not exist any more; run the shards again"
        return [(path, problem) for path in sorted(judged - {os.path.abspath(path) for path in databases})]

    def results_for(self, whole: RangeTask, options: dict[str, object]) -> Iterator[tuple[RangeTask, Tally]]:
        """As ``PriorResults``. The results cover the whole database, or give a reason why they do not."""
        parts: list[object] = []
        failed = None
        for file in self._files:
            judged = file.judged(whole, options)
            if judged is None:
                raise StoreError(
                    f"{printable(file.path, 400)} has no results on this database, which perhaps did not exist then; "
                    "run that shard again"
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
            yield from results_from_json([whole], {"parts": parts, "failed": failed})
        except ValueError as error:
            raise malformed(self._files[0].path, error) from error
