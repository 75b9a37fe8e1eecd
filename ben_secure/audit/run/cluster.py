"""Judge ranges of keys on a Dask cluster that shares the file system. The report equals that of a local audit.

Only this module imports Dask. Each worker of the cluster judges its tasks in a separate, expendable process, with the
same limits and findings as on one machine (``workers``). So no value is judged in a process of Dask, and a value that
kills its process does not kill a worker of the cluster. Answers are JSON, parsed strictly and matched against the
request. A MAC key must never be sent over an unencrypted connection.

Dask runs the code that it receives: anyone who can connect to a scheduler can run code in every worker and every client
of it. So a report from a cluster can be trusted only as far as the cluster (T14).
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
from ben_secure.audit.run.partial_results import PartialResult, results_from_json, results_to_json
from ben_secure.audit.run.ranges import RangeTask, open_pages, split
from ben_secure.audit.run.workers import VALUE_TIMEOUT_S, Workers
from ben_secure.errors import BenSecureError, StoreError, printable

if TYPE_CHECKING:
    from ben_secure.audit.run.judging import Runner
    from ben_secure.audit.run.workers import Split

CONNECT_TIMEOUT_S = 10.0
"""Maximum time to wait for the scheduler, and for its first worker, seconds."""

PATIENCE_S = 60.0
"""Maximum time during which the cluster may have no worker, seconds."""

_ADDRESS = re.compile(r"(tcp|tls)://[\w.:\[\]-]+:[0-9]{1,5}", re.ASCII)
# A worker of the cluster starts a process for each batch, which takes as long as judging about 1,000 values.
_MAX_BATCH_RECORDS, _MIN_BATCH_RECORDS = 16_384, 256
_BATCHES_PER_THREAD = 4
_POLL_S, _CHECK_S = 0.01, 1.0
_CONNECTION_LOST = "the connection to the cluster was lost; check that its scheduler is running"
# Dask raises errors of the network, of tasks and of its own, which can have any class.
_ANY = (Exception, asyncio.CancelledError)


@contextlib.contextmanager
def cluster(address: str, options: Options, *, value_timeout_s: float = VALUE_TIMEOUT_S) -> Iterator[Runner]:
    """Connect to a running cluster for the duration of the block.

    Args:
        address: Address of the scheduler: ``tcp://HOST:PORT``, or ``tls://HOST:PORT`` with the certificates from the
            configuration of Dask.
        options: How the values will be judged.
        value_timeout_s: Maximum time for one value, seconds.

    Yields:
        The runner for ``Run.runner``.

    Raises:
        MissingExtraError: distributed is not installed.
        StoreError: The address is invalid, or a MAC key would be sent unencrypted; the scheduler does not answer or has
            no workers; a worker has another version of ben_secure, or none.
    """
    if not _ADDRESS.fullmatch(address):
        raise StoreError(
            f"{printable(address)!r} is not a scheduler address; expected tcp://HOST:PORT or tls://HOST:PORT"
        )
    verification = options.verification
    if verification is not None and verification.mac_key is not None and not address.startswith("tls://"):
        raise StoreError(
            "the MAC key would be sent to the workers unencrypted, and anyone who reads it can forge tags; audit on "
            "this machine, or use a cluster with TLS (tls://HOST:PORT)"
        )
    client = _connect(address)
    try:
        _check_workers(client)

        def runner(tasks: Iterable[RangeTask], _: Split) -> Generator[tuple[RangeTask, Tally], None, None]:
            return _judge_ranges(client, tasks, value_timeout_s)

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
            f"no scheduler of a Dask cluster answers at {printable(address)}: {_describe_error(error)}; check that it "
            "is running and has the same version of Dask as this machine"
        ) from error
    return client


def _describe_error(error: object) -> str:
    """Describe an error from the network. It can have any class, and its methods may fail."""
    try:
        text = str(error)
    except Exception:
        text = "it has no message"
    return f"{printable(type(error).__name__)}: {printable(text, 300)}"


def _check_workers(client: Any) -> None:
    """Wait for a worker, and refuse workers with another version, because their findings could differ."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_TIMEOUT_S)
        versions = client.run(installed_version, on_error="return")
    except _ANY as error:
        raise StoreError(f"the cluster has no workers: {_describe_error(error)}; start some (dask worker)") from error
    for worker, version in sorted(versions.items()):
        if version != ben_secure.__version__:
            other = version if isinstance(version, str) else _describe_error(version)
            raise StoreError(
                f"worker {printable(worker)} of the cluster has another version of ben_secure: expected "
                f"{ben_secure.__version__}, found {printable(other, 200)}; install the same version everywhere"
            )


def _judge_ranges(
    client: Any, tasks: Iterable[RangeTask], value_timeout_s: float
) -> Generator[tuple[RangeTask, Tally], None, None]:
    """Judge ranges like ``Workers.judge_ranges``."""
    threads = max(1, _threads(client))
    batches = _batches(tasks, threads)
    pending: deque[tuple[list[RangeTask], Any]] = deque()
    failure: StoreError | None = None
    more = True
    try:
        while more or pending:
            while more and len(pending) < 2 * threads:
                try:
                    batch = next(batches)
                except StopIteration:
                    more = False
                except StoreError as error:
                    failure, more = error, False
                else:
                    pending.append((batch, _submit(client, batch, value_timeout_s)))
            if pending:
                batch, future = pending.popleft()
                yield from _parse_answer(batch, _answer(client, batch, future))
    finally:
        with contextlib.suppress(*_ANY):  # the scheduler may be gone
            client.cancel([future for _, future in pending])
    if failure is not None:
        raise failure


def _submit(client: Any, batch: list[RangeTask], value_timeout_s: float) -> Any:
    """Submit a batch to the cluster. ``pure=False`` prevents Dask from returning the answer to an equal batch."""
    try:
        return client.submit(judge_batch, ben_secure.__version__, batch, value_timeout_s, pure=False)
    except _ANY as error:
        raise StoreError(_CONNECTION_LOST) from error


def _threads(client: Any) -> int:
    """Return the number of threads of all workers."""
    try:
        return sum(client.nthreads().values())
    except _ANY as error:
        raise StoreError(_CONNECTION_LOST) from error


def _batches(tasks: Iterable[RangeTask], threads: int) -> Iterator[list[RangeTask]]:
    """Combine consecutive ranges into batches, so that starting a process for each batch is worth it."""
    batch: list[RangeTask] = []
    try:
        for task in tasks:
            batch.append(task)
            wanted = task.identity.entries // (threads * _BATCHES_PER_THREAD)
            if sum(member.records for member in batch) >= min(max(wanted, _MIN_BATCH_RECORDS), _MAX_BATCH_RECORDS):
                yield batch
                batch = []
    except StoreError:  # the page tree is damaged; the ranges before the damage are judged
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _answer(client: Any, batch: Sequence[RangeTask], future: Any) -> str:
    """Wait for the answer of a worker of the cluster."""
    import distributed

    patience = _Patience(client)
    try:
        while future.status in ("pending", "finished", "lost"):  # Dask repeats the tasks of a lost worker
            patience.check()
            if future.status != "finished":
                time.sleep(_POLL_S)  # the status is local, so reading it needs no request
                continue
            with contextlib.suppress(distributed.TimeoutError):  # the worker with the result is being lost
                answer: str = future.result(timeout=_CHECK_S)
                return answer
        if future.status != "error":
            raise StoreError(_CONNECTION_LOST)
        error = future.exception(timeout=_CHECK_S)
    except BenSecureError:
        raise
    except _ANY as raised:
        error = raised
    if isinstance(error, BenSecureError):
        raise error
    last = batch[-1]
    raise StoreError(
        f"the cluster could not judge records {batch[0].position} to {last.position + last.records - 1}: "
        f"{_describe_error(error)}; see the logs of its workers"
    ) from error


class _Patience:
    """Ends the wait for a cluster that has no workers or does not answer."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._checked = time.monotonic()
        self._no_workers_since: float | None = None

    def check(self) -> None:
        """Check that the cluster has workers, at most every ``_CHECK_S``.

        Raises:
            StoreError: The cluster has had no workers for ``PATIENCE_S``, or the scheduler is gone.
        """
        now = time.monotonic()
        if now - self._checked < _CHECK_S:
            return
        self._checked = now
        if _threads(self._client):
            self._no_workers_since = None
        elif self._no_workers_since is None:
            self._no_workers_since = now
        elif now - self._no_workers_since > PATIENCE_S:
            raise StoreError(f"the cluster had no workers for {PATIENCE_S:g} s; find out why they ended")


def _parse_answer(batch: Sequence[RangeTask], answer: str) -> Iterator[tuple[RangeTask, Tally]]:
    """Read an answer, which must match the batch, as ``results_from_json``."""
    try:
        yield from results_from_json(batch, json.loads(answer))
    except (ValueError, TypeError, RecursionError) as error:
        raise StoreError(
            f"the cluster sent an invalid answer: {printable(str(error))}; check who can connect to it"
        ) from error


# Functions that run in the cluster.


def installed_version() -> str:
    """Return the version of ben_secure in a worker of the cluster."""
    return ben_secure.__version__


def judge_batch(version: str, batch: Sequence[RangeTask], value_timeout_s: float) -> str:
    """Judge ranges in a worker of the cluster, in a separate process.

    Args:
        version: Version of ben_secure that made the ranges.
        batch: The ranges.
        value_timeout_s: Maximum time for one value, seconds.

    Returns:
        JSON of ``results_to_json``.

    Raises:
        StoreError: The version differs, or the database does not exist here.
    """
    if version != ben_secure.__version__:
        raise StoreError(
            f"a worker of the cluster has ben_secure {ben_secure.__version__}, expected {version}; install the same "
            "version everywhere"
        )
    path, options = batch[0].path, batch[0].options
    if not os.path.exists(path):
        raise StoreError(
            f"a worker of the cluster does not see {printable(path, 400)}; mount the file system there under the same "
            "path"
        )

    def cut_around(task: RangeTask, index: int) -> list[RangeTask]:
        with open_pages(path, options) as pages:
            return split(pages, task, index)

    results = []
    failed = None
    pool = Workers(1, value_timeout_s=value_timeout_s, max_value_bytes=options.limits.max_value_bytes)
    try:
        with pool as workers:
            for task, tally in workers.judge_ranges(batch, cut_around):
                results.append(PartialResult(stop=task.stop, records=task.records, tally=tally))
    except StoreError as error:
        failed = error.message
    return json.dumps(results_to_json(results, failed))
