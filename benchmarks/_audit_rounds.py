"""The rounds of ``bench_audit.py``; runs inside its virtual environment and prints one JSON object."""

import io
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

import _common
import bigearthnet_patch_interface.merged_interface as merged
import lmdb
import numpy as np
from fickling.analysis import check_safety
from fickling.fickle import Pickled
from picklescan.scanner import scan_pickle_bytes

import ben_secure
from ben_secure.audit.run.runner import Run, audit_database

SIDES = {
    **dict.fromkeys(("02", "03", "04", "08"), 120),
    **dict.fromkeys(("05", "06", "07", "8A", "11", "12"), 60),
    **dict.fromkeys(("01", "09"), 20),
}
LABELS = [f"class {number} of some nomenclature, with a name as long as they are" for number in range(43)]
SETS = 1000  # different sets of labels in the database
UNSEEN = 1000  # values in an database in which no set of labels occurs twice
FEW = 20  # values of the database on which the time to start is measured
SAMPLES = {"fickling": 5, "picklescan": 100}  # values in a turn of the slow ways

figures: dict[str, dict] = {}
rows: list[dict] = []


def figure(name, value, unit):
    figures[name] = {"value": value, "unit": unit}
    return value


def row(what, value, *, at_most=None, at_least=None):
    rows.append({"what": what, "value": value, "at_most": at_most, "at_least": at_least})


# The database.


def patches(data):
    """Pixels by the original's names for the bands: of real patches if there are some, otherwise random."""
    path = pathlib.Path(data, "legacy", "numpy2-pydantic2", "s1_s2.lmdb")
    if path.exists():
        with ben_secure.PatchReader(path) as reader:
            return [{name_of(band): band.data for band in patch.bands} for patch in reader.values()]
    rng = np.random.default_rng(0)
    optical = [
        {f"band{b}": rng.integers(0, 10_000, (side, side), dtype="uint16") for b, side in SIDES.items()}
        for _ in range(6)
    ]
    radar = [{b: rng.normal(-15, 4, (120, 120)).astype("float32") for b in ("bandVH", "bandVV")} for _ in range(6)]
    return [s2 | s1 for s2, s1 in zip(optical, radar, strict=True)]


def name_of(band):
    return "band" + band.name.removeprefix("B")


def label_sets(rng, sets):
    """Lists of labels, and how often each occurs: in proportion to 1/rank, as land cover does roughly."""
    lists = [sorted(rng.choice(LABELS, rng.integers(1, 8), replace=False).tolist()) for _ in range(sets)]
    weights = 1 / np.arange(1, sets + 1)
    return lists, weights / weights.sum()


def build(path, count, sources, sets=SETS):
    """Let the original pickle so many patches, each with noise in its pixels and one of so many sets of labels."""
    rng = np.random.default_rng(1)
    lists, weights = label_sets(rng, sets)
    environment = lmdb.open(path, map_size=(count + 100) * 2**19, sync=False)
    with environment, environment.begin(write=True) as transaction:
        for number in range(count):
            bands = {
                name: data + (rng.random(data.shape, "float32") < 0.5).astype(data.dtype)
                for name, data in sources[number % len(sources)].items()
            }
            labels = lists[rng.choice(sets, p=weights) if sets < count else number]
            patch = merged.BigEarthNet_S1_S2_Patch(**bands, labels=labels, new_labels=labels[:2])
            name = f"S2A_MSIL2A_201706{number // 8281 + 10:02}T101031_{number % 8281 // 91:02}_{number % 91:02}"
            transaction.put(name.encode(), patch.dumps(), append=True)
    return path


# The ways.


def audit(path, workers):
    """Audit a database that has nothing to find."""
    report = audit_database(path, run=Run(workers=workers))
    if report.verdict != "clean" or report.findings:
        raise SystemExit(f"an honest database is {report.verdict}: {report.undecided} {report.findings[:1]}")


def fickling(values):
    for value in values:
        check_safety(Pickled.load(value))


def picklescan(values):
    for value in values:
        scan_pickle_bytes(io.BytesIO(value), "value")


def cat(path):
    subprocess.run(["cat", f"{path}/data.mdb"], check=True, stdout=subprocess.DEVNULL)


def ways(path, few, unseen, count, cores):
    """All ways: the number of cores, the number of values per turn, and the function to call."""
    with ben_secure.PatchReader(path) as reader:
        names = list(reader)[:: max(1, count // 200)]
        samples = {way: [reader.raw(name) for name in names[:wanted]] for way, wanted in SAMPLES.items()}
    one = {max(cores)}
    return {
        "audit, 1 process": (one, count, lambda: audit(path, 1)),
        "audit, 2 processes": (cores, count, lambda: audit(path, 2)),
        f"audit of {FEW} values, 1 process": (one, FEW, lambda: audit(few, 1)),
        f"audit of {UNSEEN} values, labels never seen before": (one, UNSEEN, lambda: audit(unseen, 1)),
        "fickling: check_safety": (one, len(samples["fickling"]), lambda: fickling(samples["fickling"])),
        "picklescan: scan_pickle_bytes": (one, len(samples["picklescan"]), lambda: picklescan(samples["picklescan"])),
        "cat data.mdb": (one, count, lambda: cat(path)),
    }


def rounds(functions, seconds, cores):
    """Interleaved rounds; returns the samples of every way, in seconds a turn."""
    samples = {way: [] for way in functions}
    order = list(functions)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(samples[order[0]]) < 3:
        random.shuffle(order)
        for way in order:
            where, _, function = functions[way]
            os.sched_setaffinity(0, where)
            start = time.perf_counter()
            function()
            samples[way].append(time.perf_counter() - start)
    os.sched_setaffinity(0, cores)
    return samples


# Memory.


def memory(path, workers):
    """Audit in a program of its own and watch it: most resident MiB of it, and of any process that it starts."""
    code = f"from ben_secure.audit.run.runner import Run, audit_database as a; a({path!r}, run=Run(workers={workers}))"
    program = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])
    peaks: dict[int, float] = {}
    watcher = threading.Thread(target=watch, args=(program, peaks))
    watcher.start()
    if program.wait():
        raise SystemExit("the audit that was watched failed")
    watcher.join()
    own = peaks.pop(program.pid)
    return own, max(peaks.values(), default=own)


def watch(program, peaks):
    while program.poll() is None:
        for pid in family(program.pid):
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
            if peak is not None:  # a process that is ending has no memory
                peaks[pid] = int(peak.split()[1]) / 1024
        time.sleep(0.01)


def family(pid):
    """A process and all that it started."""
    try:
        lists = [path.read_text() for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        lists = []
    return [pid, *(member for children in lists for child in children.split() for member in family(int(child)))]


def report(samples, functions, size):
    """Turn the samples into figures and rows."""
    median = {way: statistics.median(found) for way, found in samples.items()}
    speed = {way: functions[way][1] / seconds for way, seconds in median.items()}
    for way, found in speed.items():
        figure(way, found, "values/s")
    one, two, start, new, slow, scan, read = median
    for way in (one, two, read):
        figure(f"{way}, bytes", size / median[way] / 1e6, "MB/s")
    figure("time of an audit of few values", median[start] * 1e3, "ms")
    lasting = (functions[one][1] - FEW) / (median[one] - median[start])
    figure("audit, 1 process, without its start", lasting, "values/s")
    fresh = (UNSEEN - FEW) / (median[new] - median[start])
    figure("audit, 1 process, without its start, labels never seen before", fresh, "values/s")
    row("values/s: audit, 1 process / fickling", speed[one] / speed[slow], at_least=100)
    row("values/s: audit, 1 process / picklescan", speed[one] / speed[scan], at_least=8)
    row("values/s: audit, 1 process, without its start / picklescan", lasting / speed[scan])
    row("time of a value: labels never seen before / seen", lasting / fresh, at_most=2.5)
    row("values/s: the same, labels never seen before / picklescan", fresh / speed[scan])
    row("time: audit, 1 process / cat data.mdb", median[one] / median[read])
    row("time: audit, 2 processes / cat data.mdb", median[two] / median[read], at_most=2.2)
    row("speed: audit, 2 processes / audit, 1 process", median[one] / median[two])


def main():
    _common.check_origin(ben_secure)
    folder, seconds, count, data = sys.argv[1], float(sys.argv[2]), max(int(sys.argv[3]), 2 * FEW), sys.argv[4]
    cores = os.sched_getaffinity(0)
    sources = patches(data)
    path, few = build(f"{folder}/database", count, sources), build(f"{folder}/few", FEW, sources)
    unseen = build(f"{folder}/unseen", UNSEEN, sources, sets=UNSEEN)
    functions = ways(path, few, unseen, count, cores)
    for _, _, function in functions.values():  # warm
        function()
    samples = rounds(functions, seconds, cores)
    report(samples, functions, os.path.getsize(f"{path}/data.mdb"))
    for database, values in ((few, FEW), (path, count)):
        own, worker = memory(database, 2)
        figure(f"memory of the program, database of {values:,} values", own, "MiB")
        row(f"MiB of a worker, database of {values:,} values", worker, at_most=60)
    json.dump({"figures": figures, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main()
