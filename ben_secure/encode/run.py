"""Encode folders of GeoTIFFs into a database: read by many, written by one, in order, and resumed where it ended.

Workers read, check and serialise patches; this process alone writes, in the order of the LMDB keys, and holds a
bounded number of them. The database appears complete or not at all (``store.writer``).
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

_BATCH = 8  # patches of one task: some 2 MB
_FINGERPRINT_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What ``encode`` did.

    Attributes:
        written: Patches in the new database, those of an interrupted run included; 0 if there is none.
        resumed: Of these, patches that an interrupted run had written.
        left_out: Patches passed over because the metadata table has no row for them.
        failures: Patches that could not be encoded; none unless ``keep_going``.
        unknown: Pixels about which nothing is known, by band, in the patches that were not resumed. They are stored
            as they are.
        passed_over: Files and folders of other programs, and reference maps, that lay among the patches.
        columns_left_out: Columns of the metadata tables that are no metadata of a patch, with the reason.
    """

    written: int
    resumed: int
    left_out: int
    failures: Failures
    unknown: dict[str, UnknownPixels] = field(default_factory=dict)
    passed_over: int = 0
    columns_left_out: dict[str, str] = field(default_factory=dict)


class _Payload(NamedTuple):
    """A serialised patch, and what there is to say about it."""

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
    """Write a database of the patches in one folder, or of the pairs in two.

    A run that was interrupted, even killed, is resumed by the same call: what it had written to the hidden place
    beside ``target`` is taken up if folders, patch names, tables, key and options are the same. Patches that are
    written are not looked at again, even if their files have changed.

    Args:
        target: Database to make; nothing may be there yet.
        s2: Folder of Sentinel-2 patches, in the layout of BigEarthNet v1 or v2.
        s1: Folder of Sentinel-1 patches, likewise; with both, pairs are merged under the Sentinel-2 name.
        labels: Whether to store ``labels`` and ``new_labels``; if so, each patch must have some.
        metadata: Metadata table or tables (see ``tables.read_table``), whose columns become metadata.
        columns: Names of the columns that do; None for all that are plain data. ``labels`` and ``s1_name`` serve their
            purpose without being named.
        listed_only: Pass over patches that the tables have no row for, instead of failing.
        reference_maps: Folder of the reference maps of BigEarthNet v2, ``SCENE/PATCH/PATCH_reference_map.tif``; each
            patch must have one, which becomes its metadata ``reference_map``: uint16 (120, 120), a code of CORINE Land
            Cover a pixel (``nomenclature.CLC_CODES``).
        place: Whether to store where a patch is and when it was taken (see ``encode.place``).
        mac_key: Key to tag the values with.
        context: Dataset name bound into each tag.
        workers: Processes that read; with 1 this one does. More are spawned, so that a script needs the usual
            ``if __name__ == "__main__":``.
        keep_going: Count patches that cannot be encoded and write the rest, instead of stopping at the first.
        progress: Called with how many patches are done and how many there are.

    Returns:
        What was done. There is a new database exactly if ``written`` is not 0.

    Raises:
        EncodeError: There is nothing to encode, a table cannot be used or lacks a column that is named, two
            patches have one name, or (without ``keep_going``) a patch cannot be encoded.
        StoreError: There is something at ``target``, or it cannot be written.
        MissingExtraError: imagecodecs is not installed, or a table is Parquet and pyarrow is not.
        TypeError: ``mac_key`` is something else.
        ValueError: Neither ``s2`` nor ``s1`` is given, ``workers`` is less than 1, ``listed_only`` or ``columns``
            come without ``metadata``, or ``context`` without a key.
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
    refuse_taken(target)  # before hours of work; the writer looks again
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
    resume = _fingerprint([*options, [_facts(table) for table in tables]], plan)
    tally = Tally(passed_over=plan.passed_over)
    resumed = 0
    with suppress(_Nothing), PatchWriter(target, mac_key=mac_key, context=context, resume=resume) as writer:
        left = [source for source in plan.sources if source.name not in writer]
        resumed = len(plan.sources) - len(left)
        _write(writer, left, labels, workers, failures, tally, _after(progress, resumed))
        if not tally.written + resumed:
            raise _Nothing
    return Encoded(
        written=tally.written + resumed,
        resumed=resumed,
        left_out=plan.left_out,
        failures=failures,
        unknown=tally.unknown,
        passed_over=tally.passed_over,
        columns_left_out=columns_left_out,
    )


class _Nothing(Exception):
    """Leaves the block of a writer whose database shall not appear."""


def _facts(table: PathLike) -> list[object]:
    found = os.stat(table)
    return [os.path.abspath(os.fspath(table)), found.st_size, found.st_mtime_ns]


def _fingerprint(options: list[object], plan: Plan) -> bytes:
    """Digest of what decides on the content of the database, as far as it is known before files are read."""
    digest = hashlib.sha256(json.dumps(options).encode())
    for source in plan.sources:
        digest.update(json.dumps([source.name, source.s2, source.s1, source.map_of]).encode())
    return digest.digest()


def _after(progress: Progress | None, before: int) -> Progress:
    return lambda done, total: None if progress is None else progress(before + done, before + total)


def _write(
    writer: PatchWriter,
    sources: list[Source],
    labels: bool,
    workers: int,
    failures: Failures,
    tally: Tally,
    progress: Progress,
) -> None:
    """Write what the workers make of the sources."""
    with closing(_payloads(sources, labels, workers)) as payloads:
        for done, (source, payload) in enumerate(zip(sources, payloads, strict=True), 1):
            if isinstance(payload, EncodeError):
                failures.add(payload)
            else:
                writer.put_payload(source.name, payload.value)
                tally.add(payload.unknown, payload.passed_over)
            progress(done, len(sources))


def _payloads(sources: list[Source], labels: bool, workers: int) -> Generator[_Payload | EncodeError, None, None]:
    """The serialised patch of each source in order, or why there is none."""
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
    """Hand out batches in turn and take the results in the same order.

    A worker has one batch at a time, so that neither side ever waits for the other to read; its pipe ends with this
    process, and the worker with its pipe.
    """
    import multiprocessing  # here, because commands that start no workers would wait for it

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
        for place, batch in enumerate(batches):
            pipe = pipes[place % len(pipes)]
            results = _received(pipe, batch)
            if place + len(pipes) < len(batches):
                _send(pipe, batches[place + len(pipes)])
            yield from results
    finally:
        for pipe in pipes:
            pipe.close()
        for process in processes:
            process.terminate()
            process.join()


def _send(pipe: Connection, batch: list[Source]) -> None:
    with suppress(OSError):  # the worker is dead, which shows when its results are waited for
        pipe.send(batch)


def _received(pipe: Connection, batch: list[Source]) -> list[_Payload | EncodeError]:
    try:
        results = pipe.recv()
    except (EOFError, OSError) as error:
        raise EncodeError(
            f"a worker ended while it read the patches {printable(batch[0].name)} to {printable(batch[-1].name)}: it "
            "crashed or was killed, perhaps for want of memory; try again, with fewer workers if memory is short (a "
            'script that calls encode with workers needs if __name__ == "__main__":)'
        ) from error
    if isinstance(results, Exception):
        raise results
    found: list[_Payload | EncodeError] = results
    return found


def _work(pipe: Connection, labels: bool) -> None:
    """What a worker does until the other end of its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that hands out work is interrupted and says so
    with suppress(EOFError, OSError):
        while True:
            batch = pipe.recv()
            try:
                results: object = [_payload(source, labels) for source in batch]
            except BenSecureError as error:  # such as a library that is not installed: it concerns all
                results = error
            except Exception as error:
                results = RuntimeError(f"{type(error).__name__}: {printable(str(error), 400)}")
            pipe.send(results)
