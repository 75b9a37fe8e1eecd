"""Judge the values of one database: take earlier results, judge the rest, and add up the tallies in key order.

The sum does not depend on how the keys were cut or on where the ranges were judged. ``runner`` adds everything that
goes beyond single values: the database as a whole, second opinions and the verdict.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.audit.run.partial_results import PartialResult
from ben_secure.audit.run.ranges import CHANGED, RangeTask, cut, identity_of, of_shard, sample, split
from ben_secure.audit.run.state import PriorResults, StateFile, describe
from ben_secure.audit.run.workers import Split
from ben_secure.errors import StoreError
from ben_secure.pages.reader import PageReader

Progress = Callable[[int, int], None]
"""Called after each range with the number of processed records and the total number."""

Runner = Callable[[Iterable[RangeTask], Split], Generator[tuple[RangeTask, Tally], None, None]]
"""Judges ranges. Yields each range, or the parts into which it was cut, with its tally, in key order."""

_MAX_RANGE_RECORDS, _MIN_RANGE_RECORDS = 2048, 32
_RANGES_PER_WORKER = 8  # enough to keep all workers busy until the end


class Judging:
    """Judges one database, or one shard of it.

    Attributes:
        whole: The range of all records, with the state of the database when it was opened.
        description: The way of judging, from ``describe``.
        sampled: Whether only a sample is judged.
        result: Result so far.
        resumed: Number of records whose results come from an interrupted audit.
    """

    def __init__(
        self,
        pages: PageReader,
        path: str,
        options: Options,
        *,
        runner: Runner,
        workers: int,
        sample: int | None = None,
        shard: tuple[int, int] | None = None,
        prior: PriorResults | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare to judge.

        Args:
            pages: The database.
            path: Its path.
            options: How to judge.
            runner: Judges the ranges.
            workers: Number of ranges judged in parallel.
            sample: Number of values to judge, or None for all.
            shard: Number of the shard to judge, starting at 1, and number of shards, or None for all.
            prior: Earlier results, or None. If it is a ``StateFile``, new results are written to it.
            progress: Called after each range.

        Raises:
            SignatureError: As ``Judge``.
            ManifestMismatchError: As ``Judge``.
            StoreError: As ``Judge``.
        """
        identity = identity_of(pages)
        self._pages = pages
        self._runner = runner
        self._sample = sample if sample is not None and sample < identity.entries else None
        self._shard = shard
        self._ranges = (workers if shard is None else shard[1]) * _RANGES_PER_WORKER
        self._prior = prior
        self._progress = progress
        self.sampled = self._sample is not None
        self.whole = RangeTask(
            path=os.path.abspath(path), identity=identity, start=b"", stop=None, position=0, records=identity.entries,
            options=options,
        )  # fmt: skip
        judge = Judge(self.whole.path, options)
        judge.check_count(identity.entries, partly=self.sampled)
        self.description = describe(options, judge, self._sample)
        self.result = PartialResult()
        self.resumed = 0

    @property
    def total(self) -> int:
        """Number of records to judge in all shards together."""
        return self.whole.records if self._sample is None else self._sample

    def run(self) -> Generator[Tally, None, None]:
        """Judge the records.

        Yields:
            The tally of each range in key order, after it was added to ``result``.

        Raises:
            StoreError: The database is damaged or has changed, the runner failed, or ``prior`` cannot be used.
        """
        left: RangeTask | None = self.whole
        if self._prior is not None:
            for task, tally in self._prior.results_for(self.whole, self.description):
                left = _after(self.whole, task)
                self.result.take(task, tally)
                self.resumed += tally.processed if isinstance(self._prior, StateFile) else 0
                yield tally
        if left is None:
            return
        try:
            with closing(self._runner(self._tasks(left), self._cut_around)) as judged:
                for task, tally in judged:
                    if tally.undecided == CHANGED:
                        raise StoreError(CHANGED)
                    self.result.take(task, tally)
                    yield tally
                    if self._progress is not None:
                        self._progress(self.result.tally.processed, self.total)
                    self._keep(now=False)
        finally:
            self._keep(now=True)

    def _tasks(self, left: RangeTask) -> Iterator[RangeTask]:
        pages, path, options = self._pages, left.path, left.options
        if self._sample is not None:
            yield from (task for task in sample(pages, path, options, self._sample) if task.start >= left.start)
            return
        records = max(_MIN_RANGE_RECORDS, min(_MAX_RANGE_RECORDS, 1 + self.whole.records // self._ranges))
        tasks = cut(pages, path, options, records, left.start, left.position)
        yield from tasks if self._shard is None else of_shard(tasks, *self._shard, self.whole.records)

    def _cut_around(self, task: RangeTask, index: int) -> list[RangeTask]:
        return split(self._pages, task, index)

    def _keep(self, *, now: bool) -> None:
        if isinstance(self._prior, StateFile) and self.result.tally.processed:
            self._prior.keep(self.whole, self.description, self.result, now=now)


def _after(whole: RangeTask, task: RangeTask) -> RangeTask | None:
    """Return the range after a range, up to the end of the database."""
    position = task.position + task.records
    if task.stop is None:
        return None
    return replace(whole, start=task.stop, position=position, records=whole.records - position)
