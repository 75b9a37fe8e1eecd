"""Have ranges of keys judged on a Dask cluster that shares the file system; the report is that of a local audit.

The only module that knows Dask. Tasks travel to the workers of the cluster, each of which judges in an expendable
process of its own, with the same limits and the same findings as on one machine (``workers``); so no value is judged
in a process of Dask, and a value that kills a process does not take a worker of the cluster along. What comes back is
JSON, parsed strictly and matched against what was asked. It must never send a MAC key over a connection that others
can listen to.

Dask itself runs what it is sent: whoever can connect to a scheduler can run code as every worker and every client of
it. So a report from a cluster is worth as much as the cluster (T14).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ben_secure
from ben_secure._system.optional import require
from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.run.parts import Part, read_parts, write_parts
from ben_secure.audit.run.ranges import RangeTask, open_pages, split
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S, Workers
from ben_secure.errors import BenSecureError, StoreError, printable

if TYPE_CHECKING:
    from ben_secure.audit.run.judging import Runner
    from ben_secure.audit.run.workers import Split

CONNECT_TIMEOUT_S = 10.0
"""How long to wait for the scheduler, and for its first worker, seconds."""

PATIENCE_S = 60.0
"""How long a cluster may have no worker before the audit gives up, seconds."""

_ADDRESS = re.compile(r"(tcp|tls)://[\w.:\[\]-]+:[0-9]{1,5}", re.ASCII)
# A worker of the cluster starts a process for each batch, which takes as long as to judge some 1,000 values.
_MOST_RECORDS, _FEWEST_RECORDS = 16_384, 256
_BATCHES_A_THREAD = 4
_POLL_S, _LOOK_S = 0.01, 1.0
_CONNECTION_LOST = "the connection to the cluster was lost; see whether its scheduler still runs"
# What comes out of Dask: errors of the network, of tasks, of its own; of any class.
_ANY = (Exception, asyncio.CancelledError)


@contextlib.contextmanager
def cluster(address: str, options: Options, *, value_timeout_s: float = VALUE_TIMEOUT_S) -> Iterator[Runner]:
    """Connect to a running cluster while the block runs.

    Args:
        address: Of its scheduler: ``tcp://HOST:PORT``, or ``tls://HOST:PORT`` with the certificates that Dask's own
            configuration names.
        options: How the values are going to be judged.
        value_timeout_s: How long a process may be at one value, seconds.

    Yields:
        What ``Run.runner`` is to be.

    Raises:
        MissingExtraError: distributed is not installed.
        StoreError: The address is none, or a MAC key would travel in the clear; nobody answers, or has workers; a
            worker has another version of ben_secure, or none.
    """
    if not _ADDRESS.fullmatch(address):
        raise StoreError(f"{printable(address)!r} is no address of a scheduler; expected tcp://HOST:PORT or tls://...")
    verification = options.verification
    if verification is not None and verification.mac_key is not None and not address.startswith("tls://"):
        raise StoreError(
            "the MAC key would travel to the workers over a connection that others can listen to, and who has it can "
            "forge tags; audit on this machine, or use a cluster with TLS (tls://HOST:PORT)"
        )
    client = _connect(address)
    try:
        _check_workers(client)

        def runner(tasks: Iterable[RangeTask], _: Split) -> Generator[tuple[RangeTask, Tally], None, None]:
            return _judged(client, tasks, value_timeout_s)

        yield runner
    finally:
        with contextlib.suppress(*_ANY):  # the scheduler may be gone
            client.close(timeout=5)


def _connect(address: str) -> Any:
    require("an audit on a Dask cluster", "distributed")
    import distributed

    try:
        client: Any = distributed.Client(  # type: ignore[no-untyped-call]
            address, timeout=CONNECT_TIMEOUT_S, set_as_default=False, name="ben-secure-audit"
        )
    except _ANY as error:
        raise StoreError(
            f"no scheduler of a Dask cluster answers at {printable(address)}: {_told(error)}; see "
            "whether it runs, and whether its version of Dask is that of this machine"
        ) from error
    return client


def _told(error: object) -> str:
    """What an error says that came from the network: of any class, whose methods may fail."""
    try:
        text = str(error)
    except Exception:
        text = "it does not say what"
    return f"{printable(type(error).__name__)}: {printable(text, 300)}"


def _check_workers(client: Any) -> None:
    """Wait for a worker, and refuse those whose findings could be others than ours."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        versions = client.run(installed_version, on_error="return")
    except _ANY as error:
        raise StoreError(f"the cluster has no workers: {_told(error)}; start some (dask worker)") from error
    for worker, version in sorted(versions.items()):
        if version != ben_secure.__version__:
            found = version if isinstance(version, str) else _told(version)
            raise StoreError(
                f"worker {printable(worker)} of the cluster has another ben_secure: expected "
                f"{ben_secure.__version__}, found {printable(found, 200)}; install the same version everywhere"
            )


def _judged(
    client: Any, tasks: Iterable[RangeTask], value_timeout_s: float
) -> Generator[tuple[RangeTask, Tally], None, None]:
    """Judge ranges, as ``Workers.judged`` does."""
    threads = max(1, _threads(client))
    batches = _batches(tasks, threads)
    under_way: deque[tuple[list[RangeTask], Any]] = deque()
    failure: StoreError | None = None
    more = True
    try:
        while more or under_way:
            while more and len(under_way) < 2 * threads:
                try:
                    batch = next(batches)
                except StopIteration:
                    more = False
                except StoreError as error:
                    failure, more = error, False
                else:
                    under_way.append((batch, _submitted(client, batch, value_timeout_s)))
            if under_way:
                batch, future = under_way.popleft()
                yield from _parts(batch, _answer(client, batch, future))
    finally:
        with contextlib.suppress(*_ANY):  # the scheduler may be gone
            client.cancel([future for _, future in under_way])
    if failure is not None:
        raise failure


def _submitted(client: Any, batch: list[RangeTask], value_timeout_s: float) -> Any:
    """Hand a batch to the cluster; never the answer to an earlier one that was alike."""
    try:
        return client.submit(judge_batch, ben_secure.__version__, batch, value_timeout_s, pure=False)
    except _ANY as error:
        raise StoreError(_CONNECTION_LOST) from error


def _threads(client: Any) -> int:
    """How many values the cluster can judge at once."""
    try:
        return sum(client.nthreads().values())
    except _ANY as error:
        raise StoreError(_CONNECTION_LOST) from error


def _batches(tasks: Iterable[RangeTask], threads: int) -> Iterator[list[RangeTask]]:
    """Put ranges that follow each other together, so that starting a process for them pays."""
    batch: list[RangeTask] = []
    try:
        for task in tasks:
            batch.append(task)
            wanted = task.identity.entries // (threads * _BATCHES_A_THREAD)
            if sum(part.records for part in batch) >= min(max(wanted, _FEWEST_RECORDS), _MOST_RECORDS):
                yield batch
                batch = []
    except StoreError:  # of the tree of pages; what comes before it is judged
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _answer(client: Any, batch: Sequence[RangeTask], future: Any) -> str:
    """Wait for what a worker of the cluster has to say."""
    import distributed

    patience = _Patience(client)
    try:
        while future.status in ("pending", "finished", "lost"):  # what is lost with a worker is judged again
            patience.look()
            if future.status != "finished":
                time.sleep(_POLL_S)  # the status is known here; nobody is asked for it
                continue
            with contextlib.suppress(distributed.TimeoutError):  # the worker that has it is being lost
                answer: str = future.result(timeout=_LOOK_S)
                return answer
        if future.status != "error":
            raise StoreError(_CONNECTION_LOST)
        error = future.exception(timeout=_LOOK_S)
    except BenSecureError:
        raise
    except _ANY as raised:
        error = raised
    if isinstance(error, BenSecureError):
        raise error
    last = batch[-1]
    raise StoreError(
        f"the cluster could not judge records {batch[0].position} to {last.position + last.records - 1}: "
        f"{_told(error)}; see the logs of its workers"
    ) from error


class _Patience:
    """Ends the wait for a cluster that has nobody to work, or does not answer."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._looked = time.monotonic()
        self._alone_since: float | None = None

    def look(self) -> None:
        """See whether there are workers, now and then.

        Raises:
            StoreError: There were none for ``PATIENCE_S``, or the scheduler is gone.
        """
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        if _threads(self._client):
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > PATIENCE_S:
            raise StoreError(f"the cluster had no workers for {PATIENCE_S:g} s; see why they ended")


def _parts(batch: Sequence[RangeTask], answer: str) -> Iterator[tuple[RangeTask, Tally]]:
    """Read an answer, which must be about just the ranges that were asked about; as ``read_parts``."""
    try:
        yield from read_parts(batch, json.loads(answer))
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"the cluster gave an answer that makes no sense: {printable(str(error))}; see who can connect to it"
        ) from error


# What runs in the cluster.


def installed_version() -> str:
    """The version of ben_secure in a worker of the cluster."""
    return ben_secure.__version__


def judge_batch(version: str, batch: Sequence[RangeTask], value_timeout_s: float) -> str:
    """Judge ranges in a worker of the cluster, in a process of its own.

    Args:
        version: Of ben_secure, where the ranges were made.
        batch: The ranges.
        value_timeout_s: How long the process may be at one value, seconds.

    Returns:
        JSON of ``write_parts``.

    Raises:
        StoreError: This is another version, or the database is not to be seen here.
    """
    if version != ben_secure.__version__:
        raise StoreError(f"a worker of the cluster has ben_secure {ben_secure.__version__}, expected {version}")
    path, options = batch[0].path, batch[0].options
    if not os.path.exists(path):
        raise StoreError(
            f"a worker of the cluster does not see {printable(path, 400)}; it must have the file system of this "
            "machine, under the same path"
        )

    def cut_around(task: RangeTask, place: int) -> list[RangeTask]:
        with open_pages(path, options) as pages:
            return split(pages, task, place)

    parts = []
    failed = None
    pool = Workers(1, value_timeout_s=value_timeout_s, max_value_bytes=options.limits.max_value_bytes)
    try:
        with pool as workers:
            for task, tally in workers.judged(batch, cut_around):
                parts.append(Part(stop=task.stop, records=task.records, tally=tally))
    except StoreError as error:
        failed = error.message
    return json.dumps(write_parts(parts, failed))
