"""Have the values of one database judged: take what is known, have the rest judged, and add it up in key order.

Whatever the keys were cut into, and whoever judged the parts, the sum is the same. What is to be said beyond single
values (the database as a whole, second opinions, the verdict) is said of the sum, by ``runner``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace

from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.audit.run.parts import Part
from ben_secure.audit.run.ranges import CHANGED, RangeTask, cut, identity_of, of_shard, sample, split
from ben_secure.audit.run.state import Known, StateFile, describe
from ben_secure.audit.run.workers import Split
from ben_secure.errors import StoreError
from ben_secure.pages.reader import PageReader

Progress = Callable[[int, int], None]
"""Called after each range with records done and records to do."""

Runner = Callable[[Iterable[RangeTask], Split], Generator[tuple[RangeTask, Tally], None, None]]
"""Has ranges judged by whoever; gives each, or the parts into which it was cut, with its tally, in key order."""

_MOST_RECORDS, _FEWEST_RECORDS = 2048, 32  # of a range; each is read, cut and answered by itself
_RANGES_A_WORKER = 8  # so that all are busy to the end


class Judging:
    """The judging of one database, or of one shard of it.

    Attributes:
        whole: The range of all its records, in the state in which it was opened.
        described: How they are judged, from ``describe``.
        sampled: Whether only some are.
        part: All that was judged.
        resumed: Records of it of which the state of an interrupted audit told.
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
        known: Known | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare.

        Args:
            pages: The database.
            path: Its path.
            options: How to judge.
            runner: Who judges.
            workers: How many do so at once.
            sample: How many values to judge; None for all.
            shard: Number of the shard to judge, from 1 on, and how many there are; None for all.
            known: What was judged before, or None. If it is a ``StateFile``, what is judged now is kept in it.
            progress: Called as it goes on.

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
        self._ranges = (workers if shard is None else shard[1]) * _RANGES_A_WORKER
        self._known = known
        self._progress = progress
        self.sampled = self._sample is not None
        self.whole = RangeTask(
            path=os.path.abspath(path), identity=identity, start=b"", stop=None, position=0, records=identity.entries,
            options=options,
        )  # fmt: skip
        judge = Judge(self.whole.path, options)
        judge.check_count(identity.entries, partly=self.sampled)
        self.described = describe(options, judge, self._sample)
        self.part = Part()
        self.resumed = 0

    @property
    def total(self) -> int:
        """Records that are to be judged, of all shards."""
        return self.whole.records if self._sample is None else self._sample

    def run(self) -> Generator[Tally, None, None]:
        """Do it.

        Yields:
            The tally of each range, in key order, after it was added to ``part``.

        Raises:
            StoreError: The database is damaged, or was changed meanwhile; nobody can judge it; ``known`` is of no use.
        """
        left: RangeTask | None = self.whole
        if self._known is not None:
            for task, tally in self._known.known(self.whole, self.described):
                left = _behind(self.whole, task)
                self.part.take(task, tally)
                self.resumed += tally.processed if isinstance(self._known, StateFile) else 0
                yield tally
        if left is None:
            return
        try:
            with closing(self._runner(self._tasks(left), self._cut_around)) as judged:
                for task, tally in judged:
                    if tally.undecided == CHANGED:
                        raise StoreError(CHANGED)
                    self.part.take(task, tally)
                    yield tally
                    if self._progress is not None:
                        self._progress(self.part.tally.processed, self.total)
                    self._keep(now=False)
        finally:
            self._keep(now=True)

    def _tasks(self, left: RangeTask) -> Iterator[RangeTask]:
        pages, path, options = self._pages, left.path, left.options
        if self._sample is not None:
            yield from (task for task in sample(pages, path, options, self._sample) if task.start >= left.start)
            return
        records = max(_FEWEST_RECORDS, min(_MOST_RECORDS, 1 + self.whole.records // self._ranges))
        tasks = cut(pages, path, options, records, left.start, left.position)
        yield from tasks if self._shard is None else of_shard(tasks, *self._shard, self.whole.records)

    def _cut_around(self, task: RangeTask, place: int) -> list[RangeTask]:
        return split(self._pages, task, place)

    def _keep(self, *, now: bool) -> None:
        if isinstance(self._known, StateFile) and self.part.tally.processed:
            self._known.keep(self.whole, self.described, self.part, now=now)


def _behind(whole: RangeTask, task: RangeTask) -> RangeTask | None:
    """What follows a range, up to the end of the database."""
    position = task.position + task.records
    if task.stop is None:
        return None
    return replace(whole, start=task.stop, position=position, records=whole.records - position)
