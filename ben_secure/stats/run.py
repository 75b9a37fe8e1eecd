"""Read a database once and tally its patches, in this process or in several.

The reader verifies and decodes every value. A database with a refused value has no statistics. Workers are spawned,
never forked, and receive the reader (with its keys) through the pipe that starts them. They return tallies. The sum of
the tallies does not depend on the division of the work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice

from ben_secure._system.forks import not_started
from ben_secure._system.interrupts import uninterrupted
from ben_secure.errors import BenSecureError, StoreError
from ben_secure.signing.policy import Verification
from ben_secure.stats.results import Statistics
from ben_secure.stats.tally import Tally
from ben_secure.store.reader import PatchReader

Progress = Callable[[int, int], None]
"""Called with the number of patches counted so far, and the number of all patches."""

_BATCH = 256  # patches per task: a tenth of a second, and a few kB of names to send
_AHEAD = 3  # waiting tasks per worker

_CHANGED = "the database was written to while it was counted; start again when the writer is done"


def stats(
    source: str | os.PathLike[str] | PatchReader,
    *,
    verification: Verification | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Statistics:
    """Compute exact statistics of all patches of a database, reading each once.

    Args:
        source: Path of the database; or a reader, which has its own verification, limits and classes.
        verification: The checks for every value, if ``source`` is a path.
        workers: Number of processes. With more than one, a script must have its code under
            ``if __name__ == "__main__":``, as always with spawned processes.
        progress: Called after each batch.

    Returns:
        The statistics. They do not depend on ``workers``, to the last bit.

    Raises:
        UntrustedDataError: A value was refused (the error has its LMDB key), or there are too many different labels.
        StoreError: The database is missing, empty or damaged, was written to meanwhile, holds complex numbers, or a
            worker was lost.
        TypeError: ``verification`` is not a ``Verification``.
        ValueError: ``workers`` is less than 1, or ``source`` is a reader and there is a ``verification``.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    if not isinstance(source, PatchReader):
        with PatchReader(source, verification=verification) as reader:
            return stats(reader, workers=workers, progress=progress)
    if verification is not None:
        raise ValueError("an open reader has its own verification; pass it to the reader")
    facts = source.facts
    total = Tally()
    batches = _batches(source)
    tallies = map(partial(_tally, source), batches) if workers == 1 else _tallied_by(source, batches, workers)
    try:
        for tally_part in tallies:
            total.merge(tally_part)
            if progress is not None:
                progress(total.patches, facts.entries)
    except BenSecureError as error:
        raise error.located(source.path) from None
    if source.facts.txnid != facts.txnid or total.patches != facts.entries:
        raise StoreError(_CHANGED, database=source.path)
    if not total.patches:
        raise StoreError("the database is empty, so there is nothing to count", database=source.path)
    return Statistics.of(source.path, total)


def _batches(reader: PatchReader) -> Iterator[list[str]]:
    names = iter(reader)
    while batch := list(islice(names, _BATCH)):
        yield batch


def _tally(reader: PatchReader, names: list[str]) -> Tally:
    tally = Tally()
    for name in names:
        try:
            tally.add(reader[name])
        except KeyError:
            raise StoreError(_CHANGED, database=reader.path) from None
        except BenSecureError as error:
            raise error.located(reader.path, name.encode()) from None
    return tally


def _tallied_by(reader: PatchReader, batches: Iterator[list[str]], workers: int) -> Iterator[Tally]:
    """Tally in processes. A bounded number of batches waits. Results, and so refusals, come in key order.

    Where semaphores cannot be made, because ``/dev/shm`` is missing or full, this process does it all.
    """
    pending: deque[Future[Tally]] = deque()
    spawn = multiprocessing.get_context("spawn")
    try:
        pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start, initargs=(reader,))
    except OSError:
        yield from (_tally(reader, names) for names in batches)
        return
    try:
        for names in batches:
            try:
                with uninterrupted():  # submitting starts a worker if none is idle
                    pending.append(pool.submit(_work, names))
            except OSError as error:
                raise not_started(error) from error
            if len(pending) > workers * _AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise StoreError(
            "a worker process was lost, perhaps for lack of memory; try again with fewer workers", database=reader.path
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_readers: list[PatchReader] = []


def _start(reader: PatchReader) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the main one ends the others
    _readers[:] = [reader]


def _work(names: list[str]) -> Tally:
    return _tally(_readers[0], names)
