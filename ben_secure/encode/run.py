"""Encode folders of GeoTIFFs into a database, with several workers, and resume interrupted runs.

Workers read, check and serialise patches. Only this process writes, in the order of the LMDB keys, and it holds a
bounded number of patches. The database appears only when it is complete (``store.writer``).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Collection, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ben_secure._system.appear import refuse_taken
from ben_secure._system.forks import not_started
from ben_secure._system.interrupts import uninterrupted
from ben_secure._system.optional import require
from ben_secure.encode.geotiff import Unknown
from ben_secure.encode.patch import Source, read_source
from ben_secure.encode.plan import Failures, Plan, make_plan
from ben_secure.encode.rows import PathLike, read_rows
from ben_secure.encode.tally import Tally, UnknownPixels
from ben_secure.errors import BenSecureError, EncodeError, printable
from ben_secure.store.change.rewrite import Progress
from ben_secure.store.writer import PatchWriter

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from ben_secure.signing.keys import MacKey, MacKeySet

_BATCH = 8  # patches per task, about 2 MB
_FINGERPRINT_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Result of ``encode``.

    Attributes:
        written: Number of patches in the new database, including those of an interrupted run, or 0 if no database was
            written.
        resumed: Number of patches that come from an interrupted run.
        left_out: Number of patches skipped because the metadata table has no row for them.
        failures: Patches that could not be encoded; none without ``keep_going``.
        unknown: Unknown pixels by band, in the patches that were not resumed. Their values are stored unchanged.
        passed_over: Number of skipped files and folders: those of other programs, and reference maps.
        columns_left_out: Columns of the metadata tables that cannot be metadata, with the reasons.
    """

    written: int
    resumed: int
    left_out: int
    failures: Failures
    unknown: dict[str, UnknownPixels] = field(default_factory=dict)
    passed_over: int = 0
    columns_left_out: dict[str, str] = field(default_factory=dict)


class _Payload(NamedTuple):
    """A serialised patch, with the counts of its ``Reading``."""

    value: bytes
    unknown: dict[str, Unknown]
    passed_over: int


def encode(
    target: PathLike,
    *,
    s2: PathLike | None = None,
    s1: PathLike | None = None,
    labels: bool = True,
    metadata: PathLike | Sequence[PathLike] = (),
    columns: Collection[str] | None = None,
    listed_only: bool = False,
    reference_maps: PathLike | None = None,
    place: bool = True,
    mac_key: MacKey | MacKeySet | None = None,
    context: str = "",
    workers: int = 1,
    keep_going: bool = False,
    progress: Progress | None = None,
) -> Encoded:
    """Write a database of the patches in one folder, or of the pairs in two folders.

    The same call resumes a run that was interrupted or killed. It reuses the finished patches in a hidden folder beside
    ``target`` if folders, patch names, tables, key and options are the same. These patches are not read again, even if
    their files have changed.

    Args:
        target: Database to write. It must not exist.
        s2: Folder of Sentinel-2 patches, in the layout of BigEarthNet v1 or v2.
        s1: Folder of Sentinel-1 patches, in either layout. With both folders, pairs are merged under the name of the
            Sentinel-2 patch.
        labels: Whether to store ``labels`` and ``new_labels``. If so, each patch must have labels.
        metadata: Metadata table or tables (see ``tables.read_table``), whose columns become metadata.
        columns: Names of the columns to store, or None for all columns with plain data. ``labels`` and ``s1_name`` are
            used even if they are not among the names.
        listed_only: Skip patches without a row in the tables, instead of failing.
        reference_maps: Folder of the reference maps of BigEarthNet v2, ``SCENE/PATCH/PATCH_reference_map.tif``. Each
            patch must have one. It becomes the metadata item ``reference_map``: uint16 (120, 120), a code of CORINE
            Land Cover per pixel (``nomenclature.CLC_CODES``).
        place: Whether to store position and acquisition time (see ``encode.position``).
        mac_key: Key for tags, or None to write values without tags.
        context: Dataset name bound into each tag.
        workers: Number of processes that read patches; with 1, the calling process reads them. More processes are
            spawned, so a script needs the usual ``if __name__ == "__main__":``.
        keep_going: Count patches that cannot be encoded and write the others, instead of stopping at the first.
        progress: Called with the number of finished patches and the number of all patches.

    Returns:
        The result. A database was written exactly if ``written`` is not 0.

    Raises:
        EncodeError: There is nothing to encode, a table cannot be used or lacks a requested column, two patches have
            the same name, or (without ``keep_going``) a patch cannot be encoded.
        StoreError: ``target`` exists or cannot be written.
        MissingExtraError: imagecodecs is not installed, or a table is Parquet and pyarrow is not installed.
        TypeError: ``mac_key`` is not a key.
        ValueError: ``s2`` and ``s1`` are both None, ``workers`` is less than 1, ``listed_only`` or ``columns`` is given
            without ``metadata``, or ``context`` without a key.
    """
    require("encoding GeoTIFFs", "imagecodecs")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    tables = [metadata] if isinstance(metadata, str | os.PathLike) else list(metadata)
    if listed_only and not tables:
        raise ValueError("listed_only requires a metadata table")
    if columns is not None and not tables:
        raise ValueError("columns requires a metadata table")
    target = os.fspath(target)
    refuse_taken(target)  # checked before hours of work; the writer checks again
    roots = [None if root is None else os.path.abspath(root) for root in (s2, s1)]
    failures = Failures(strict=not keep_going)
    columns_left_out: dict[str, str] = {}
    rows = read_rows(tables, columns, columns_left_out)
    maps = None if reference_maps is None else os.path.abspath(reference_maps)
    plan = make_plan(roots[0], roots[1], rows, listed_only, failures, maps)
    if columns is not None:
        plan = plan.with_columns(columns)
    if not place:
        plan = plan.without_place()
    chosen = None if columns is None else sorted(columns)
    options = [_FINGERPRINT_VERSION, roots, labels, getattr(mac_key, "fingerprint", None), context, chosen, maps, place]
    resume = _fingerprint([*options, [_table_state(table) for table in tables]], plan)
    tally = Tally(passed_over=plan.passed_over)
    resumed = 0
    with suppress(_NothingWritten), PatchWriter(target, mac_key=mac_key, context=context, resume=resume) as writer:
        left = [source for source in plan.sources if source.name not in writer]
        resumed = len(plan.sources) - len(left)
        _write(writer, left, labels, workers, failures, tally, _offset(progress, resumed))
        if not tally.written + resumed:
            raise _NothingWritten
    return Encoded(
        written=tally.written + resumed,
        resumed=resumed,
        left_out=plan.left_out,
        failures=failures,
        unknown=tally.unknown,
        passed_over=tally.passed_over,
        columns_left_out=columns_left_out,
    )


class _NothingWritten(Exception):
    """Leaves the block of a writer so that no database appears."""


def _table_state(table: PathLike) -> list[object]:
    status = os.stat(table)
    return [os.path.abspath(os.fspath(table)), status.st_size, status.st_mtime_ns]


def _fingerprint(options: list[object], plan: Plan) -> bytes:
    """Hash everything that determines the content of the database and is known before the files are read."""
    digest = hashlib.sha256(json.dumps(options).encode())
    for source in plan.sources:
        digest.update(json.dumps([source.name, source.s2, source.s1, source.map_of]).encode())
    return digest.digest()


def _offset(progress: Progress | None, resumed: int) -> Progress:
    return lambda finished, total: None if progress is None else progress(resumed + finished, resumed + total)


def _write(
    writer: PatchWriter,
    sources: list[Source],
    labels: bool,
    workers: int,
    failures: Failures,
    tally: Tally,
    progress: Progress,
) -> None:
    """Write the payloads of the sources."""
    with closing(_payloads(sources, labels, workers)) as payloads:
        for number, (source, payload) in enumerate(zip(sources, payloads, strict=True), 1):
            if isinstance(payload, EncodeError):
                failures.add(payload)
            else:
                writer.put_payload(source.name, payload.value)
                tally.add(payload.unknown, payload.passed_over)
            progress(number, len(sources))


def _payloads(sources: list[Source], labels: bool, workers: int) -> Generator[_Payload | EncodeError, None, None]:
    """Yield the serialised patch of each source in order, or the error."""
    batches = [sources[start : start + _BATCH] for start in range(0, len(sources), _BATCH)]
    if min(workers, len(batches)) < 2:
        return (_payload(source, labels) for source in sources)
    return _from_workers(batches, labels, workers)


def _payload(source: Source, labels: bool) -> _Payload | EncodeError:
    try:
        reading = read_source(source, labels)
        return _Payload(reading.patch.dumps(), reading.unknown, reading.passed_over)
    except EncodeError as error:
        return error


def _from_workers(
    batches: list[list[Source]], labels: bool, workers: int
) -> Generator[_Payload | EncodeError, None, None]:
    """Distribute batches to workers in turn, and yield the results in the same order.

    A worker has one batch at a time, so the two sides never both block on writing. A worker ends when its pipe closes,
    which happens at the latest when this process ends.
    """
    import multiprocessing  # imported here, because it slows down the start of commands without workers

    spawn = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    try:
        for _ in range(min(workers, len(batches))):
            try:
                ours, theirs = spawn.Pipe()
                pipes.append(ours)
                process = spawn.Process(target=_work, args=(theirs, labels), daemon=True)
                with theirs, uninterrupted():
                    process.start()
            except OSError as error:
                raise not_started(error) from error
            processes.append(process)
        for pipe, batch in zip(pipes, batches, strict=False):
            _send(pipe, batch)
        for index, batch in enumerate(batches):
            pipe = pipes[index % len(pipes)]
            results = _receive(pipe, batch)
            if index + len(pipes) < len(batches):
                _send(pipe, batches[index + len(pipes)])
            yield from results
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


def _send(pipe: Connection, batch: list[Source]) -> None:
    with suppress(OSError):  # the worker is dead, which ``_receive`` reports
        pipe.send(batch)


def _receive(pipe: Connection, batch: list[Source]) -> list[_Payload | EncodeError]:
    try:
        results = pipe.recv()
    except (EOFError, OSError) as error:
        raise EncodeError(
            f"a worker ended while it read the patches {printable(batch[0].name)} to {printable(batch[-1].name)}: it "
            "crashed or was killed, perhaps because memory was short; try again with fewer workers (a script that "
            'calls encode with workers needs if __name__ == "__main__":)'
        ) from error
    if isinstance(results, Exception):
        raise results
    payloads: list[_Payload | EncodeError] = results
    return payloads


def _work(pipe: Connection, labels: bool) -> None:
    """Serve as a worker until the other end of the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles the interrupt
    with suppress(EOFError, OSError):
        while True:
            batch = pipe.recv()
            try:
                results: object = [_payload(source, labels) for source in batch]
            except BenSecureError as error:  # not about one patch; for example, a library is not installed
                results = error
            except Exception as error:
                results = RuntimeError(f"{type(error).__name__}: {printable(str(error), 400)}")
            pipe.send(results)
