"""Results on parts of a database as plain data: in state files, in shard files, and from other machines.

A document does not state which ranges it covers. It is read only as the answer to a list of requested ranges: its parts
must follow each other from the start of the first range. Any deviation is an error (T12, T14, T20).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ben_secure.audit.findings import Tally
from ben_secure.audit.run._wire import bytes_of, list_of, members_of, number_of, tally_from_json, tally_to_json
from ben_secure.audit.run.ranges import RangeTask
from ben_secure.errors import StoreError, printable


@dataclass(slots=True)
class PartialResult:
    """The result on one or more consecutive ranges.

    Attributes:
        stop: LMDB key before which the ranges end, or None for the end of the database.
        records: Number of records in the ranges.
        tally: Sum of their tallies.
    """

    stop: bytes | None = b""
    records: int = 0
    tally: Tally = field(default_factory=Tally)

    def take(self, task: RangeTask, tally: Tally) -> None:
        """Add the next range."""
        self.stop = task.stop
        self.records += task.records
        self.tally.extend(tally)


def results_to_json(results: Iterable[PartialResult], failed: str | None = None) -> dict[str, object]:
    """Convert results into plain data.

    Args:
        results: In key order. Each starts where the previous one ends.
        failed: Why the results end before the last requested range, or None.
    """
    parts = [
        {
            "stop": None if result.stop is None else result.stop.hex(),
            "records": result.records,
            "tally": tally_to_json(result.tally),
        }
        for result in results
    ]
    return {"parts": parts, "failed": failed}


def results_from_json(
    requested: Iterable[RangeTask], document: object, *, complete: bool = True
) -> Iterator[tuple[RangeTask, Tally]]:
    """Read results, which must match the requested ranges.

    Args:
        requested: The ranges, in key order.
        document: From ``results_to_json`` (untrusted).
        complete: Whether the results must cover all ranges.

    Yields:
        The ranges, or the parts into which they were cut, with their tallies.

    Raises:
        ValueError: The document does not match the ranges.
        StoreError: The document gives a reason why it ends early.
    """
    todo = deque(requested)
    members = members_of(document, {"parts", "failed"})
    for member in list_of(members["parts"]):
        part = members_of(member, {"stop", "records", "tally"})
        tally = tally_from_json(part["tally"])
        if not todo:
            raise ValueError("a range that was not requested")
        task, records = todo.popleft(), number_of(part["records"])
        stop = None if part["stop"] is None else bytes_of(part["stop"])
        last = stop == task.stop
        fits = records == task.records if last else stop is not None and stop > task.start and records <= task.records
        if not fits or (tally.undecided is None and tally.processed != records):
            raise ValueError("a range that was not requested, or a tally of other records")
        yield replace(task, stop=stop, records=records), tally
        if stop is not None and not last:
            position, left = task.position + records, task.records - records
            todo.appendleft(replace(task, start=stop, position=position, records=left))
    if members["failed"] is not None:
        raise StoreError(printable(str(members["failed"]), 1000))
    if todo and complete:
        raise ValueError("ranges are missing")
