"""What was judged of a database, as plain data: on disk, between shards, and between machines.

A document names no range by itself. Its parts follow each other from the beginning of what was asked for, and it is
read only as the answer to just that; it is never patched up (T12, T14, T20).
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
class Part:
    """Ranges that follow each other, as one.

    Attributes:
        stop: Key before which it ends; None for the end of the database.
        records: Records in it.
        tally: What was found in it.
    """

    stop: bytes | None = b""
    records: int = 0
    tally: Tally = field(default_factory=Tally)

    def take(self, task: RangeTask, tally: Tally) -> None:
        """Add the range that follows."""
        self.stop = task.stop
        self.records += task.records
        self.tally.extend(tally)


def write_parts(parts: Iterable[Part], failed: str | None = None) -> dict[str, object]:
    """Write parts as plain data.

    Args:
        parts: In key order; each begins where the one before ends.
        failed: Why they end before what was asked for, or None.
    """
    written = [
        {
            "stop": None if part.stop is None else part.stop.hex(),
            "records": part.records,
            "tally": tally_to_json(part.tally),
        }
        for part in parts
    ]
    return {"parts": written, "failed": failed}


def read_parts(
    asked: Iterable[RangeTask], document: object, *, all_of_it: bool = True
) -> Iterator[tuple[RangeTask, Tally]]:
    """Read parts, which must be those of just the ranges that were asked for.

    Args:
        asked: The ranges, in key order.
        document: From ``write_parts``; not believed.
        all_of_it: Whether there must be parts of every range.

    Yields:
        The ranges, or the parts into which they were cut, with their tallies.

    Raises:
        ValueError: It is something else.
        StoreError: It says why it ends early.
    """
    todo = deque(asked)
    members = members_of(document, {"parts", "failed"})
    for member in list_of(members["parts"]):
        part = members_of(member, {"stop", "records", "tally"})
        tally = tally_from_json(part["tally"])
        if not todo:
            raise ValueError("a range that was not asked for")
        task, records = todo.popleft(), number_of(part["records"])
        stop = None if part["stop"] is None else bytes_of(part["stop"])
        last = stop == task.stop
        fits = records == task.records if last else stop is not None and stop > task.start and records <= task.records
        if not fits or (tally.undecided is None and tally.processed != records):
            raise ValueError("a range that was not asked for, or a tally of other records")
        yield replace(task, stop=stop, records=records), tally
        if stop is not None and not last:
            position, left = task.position + records, task.records - records
            todo.appendleft(replace(task, start=stop, position=position, records=left))
    if members["failed"] is not None:
        raise StoreError(printable(str(members["failed"]), 1000))
    if todo and all_of_it:
        raise ValueError("ranges are missing")
