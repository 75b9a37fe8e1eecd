"""Run fuzzing targets, each in a process of its own: ``python tests/fuzz/run.py --target all --seconds 60 --jobs 2``.

Input number n of a run depends on the seed, the target and n, and on which earlier inputs were refused in a new way:
these are mutated further. An input that breaks a property, takes too much time or memory, or ends the process, is kept
in a file; target, seed and number are printed, and the exit code is 1. Put such a file into ``tests/corpus/TARGET``
when the fault is mended.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import hashlib
import importlib.util
import json
import mmap
import os
import pathlib
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

if __name__ == "__main__":
    sys.path[:1] = [str(folder) for folder in pathlib.Path(__file__).resolve().parents[1:3]]

from fuzz.target import Refusal, Target
from fuzz.targets import TARGETS

CORPUS = pathlib.Path(__file__).resolve().parents[1] / "corpus"
_HANG_SECONDS = 20
_TRACED = 16  # of so many inputs the memory of one is traced
_RSS_STEP = 2**27  # by which an input that is not traced may raise the most that the process has ever had
_MOST_KEPT = 1_500
_KEPT_OF_A_WAY = 3
_MOST_FAILURES = 8
_MOST_INPUT = 2**20
_TEMPORARY = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None


class Slow(AssertionError):
    """An input took too much time or memory."""


def corpus(name: str) -> list[pathlib.Path]:
    """Files of a target's corpus."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def examine(target: Target, value: bytes, base: bytes = b"", traced: bool = True) -> Refusal:
    """Let a target examine one input, and check the time and the memory that it takes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if traced:
        tracemalloc.start()
    start = time.process_time()
    try:
        found = target.examine(value, base)
    finally:
        taken = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
    if taken > target.seconds * (4 if traced else 1):
        raise Slow(f"it took {taken:.2f} s, expected at most {target.seconds} s")
    most = target.memory + target.memory_per_byte * len(value)
    if peak > most:
        raise Slow(f"it took {peak} bytes, expected at most {most} for an input of {len(value)}")
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    if more > _RSS_STEP + most:
        raise Slow(f"the process grew by {more} bytes at an input of {len(value)}")
    return found


def way(found: object) -> str:
    """The way in which an input was refused: the message without what varies."""
    text = "accepted" if found is None else f"{type(found).__name__} {found}"
    return re.sub(r"\\x..|[0-9a-f]{8,}|[0-9]+|'[^']*'|\"[^\"]*\"|/\S+", "#", text)[:160]


def work(target: Target, seconds: float, seed: int, scratch: mmap.mmap, save: pathlib.Path) -> dict[str, object]:
    """Fuzz for a time, or until so many inputs have failed in different ways.

    Args:
        target: The target.
        seconds: How long.
        seed: Of all choices.
        scratch: Memory that outlives this process; holds the number and the bytes of the present input.
        save: Folder for inputs that fail.

    Returns:
        The output of the parent: counts, and descriptions of failures.
    """
    seeds = target.seeds() + [path.read_bytes() for path in corpus(target.name)]
    pool, ways = list(seeds), collections.Counter[str]()
    failures: dict[str, str] = {}
    count = accepted = 0
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < seconds and len(failures) < _MOST_FAILURES:
        rng = random.Random(f"{seed} {target.name} {count}")
        base = value = seeds[count] if count < len(seeds) else rng.choice(seeds if rng.random() < 0.3 else pool)
        if count >= len(seeds):
            for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
                value = target.mutate(rng, value, pool)
            value = value[:_MOST_INPUT]
        scratch[: len(value) + 16] = count.to_bytes(8, "little") + len(value).to_bytes(8, "little") + value
        signal.setitimer(signal.ITIMER_REAL, _HANG_SECONDS + 4 * target.seconds)
        try:
            found = examine(target, value, base, traced=count % _TRACED == 0)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # also a panic of cryptography
            if (shape := way(error)) not in failures:
                kept = _kept(save, target.name, seed, value, count, error)
                failures[shape] = kept + "\n" + "".join(traceback.format_exception(error)[-5:])
        else:
            accepted += found is None
            ways[shape := way(found)] += 1
            if ways[shape] <= _KEPT_OF_A_WAY and len(pool) < _MOST_KEPT and len(value) < 2**17:
                pool.append(value)
        signal.setitimer(signal.ITIMER_REAL, 0)
        count += 1
    found = list(failures.values())
    return {"count": count, "accepted": accepted, "ways": len(ways), "seconds": elapsed, "failures": found}


def _kept(save: pathlib.Path, name: str, seed: int, value: bytes, count: int, error: object) -> str:
    """Keep an input that fails, under a name that stands for the way in which it does; returns words for both."""
    save.mkdir(parents=True, exist_ok=True)
    path = save / f"{name}-{hashlib.sha256(way(error).encode()).hexdigest()[:12]}"
    path.write_bytes(value)
    return f"target {name}, seed {seed}, input {count}, kept as {path}: {type(error).__name__}: {str(error)[:2000]}"


def _worker(options: argparse.Namespace) -> None:
    """The work of one target's process."""
    faulthandler.enable()
    tempfile.tempdir = _TEMPORARY
    signal.signal(signal.SIGALRM, _hang)
    with open(options.scratch, "r+b") as file, mmap.mmap(file.fileno(), 0) as scratch:
        result = work(TARGETS[options.worker], options.seconds, options.seed, scratch, options.save)
    print(json.dumps(result))


def _hang(*_: object) -> None:
    raise Slow("it hangs")


def fuzz(name: str, seconds: float, seed: int, save: pathlib.Path) -> tuple[str, bool]:
    """Run one target in a process of its own; returns what to print, and whether nothing failed."""
    needs = TARGETS[name].needs
    if needs is not None and importlib.util.find_spec(needs) is None:
        return f"{name}: left out, {needs} is not installed", True
    with tempfile.NamedTemporaryFile(dir=_TEMPORARY) as scratch:
        scratch.truncate(_MOST_INPUT + 16)
        command = [sys.executable, __file__, "--worker", name, "--seed", str(seed), "--seconds", str(seconds)]
        command += ["--save", str(save), "--scratch", scratch.name]
        hashes = {**os.environ, "PYTHONHASHSEED": str(seed % 2**32)}  # the order of sets depends on it
        try:
            run = subprocess.run(
                command, env=hashes, capture_output=True, text=True, timeout=2 * seconds + 180, check=False
            )
            result = json.loads(run.stdout.splitlines()[-1])
        except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
            content = pathlib.Path(scratch.name).read_bytes()
            number, size = (int.from_bytes(content[at : at + 8], "little") for at in (0, 8))
            hung = isinstance(error, subprocess.TimeoutExpired)
            died = "it hangs" if hung else f"the process ended with {run.returncode}:\n{run.stderr[-3000:]}"
            return f"FAILED {_kept(save, name, seed, content[16 : 16 + size], number, died)}", False
    counts = f"{result['count']} inputs, {result['accepted']} accepted, the others refused in {result['ways']} ways"
    failures = "".join(f"\nFAILED {text}" for text in result["failures"])
    return f"{name}: seed {seed}, {counts}, {result['seconds']:.0f} s{failures}", not failures


def main() -> int:
    """Fuzz, print a line for each target, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=["all", *TARGETS], action="append", help="may be repeated; default: all")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--save", type=pathlib.Path, default=pathlib.Path("fuzz-failures"), help="folder for failures")
    parser.add_argument("--input", type=pathlib.Path, help="examine this file instead, with one --target")
    parser.add_argument("--worker", choices=list(TARGETS), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.seed = random.randrange(2**32) if options.seed is None else options.seed
    if options.worker:
        _worker(options)
        return 0
    names = list(TARGETS) if not options.target or "all" in options.target else options.target
    if options.input:
        print(way(examine(TARGETS[names[0]], options.input.read_bytes())))
        return 0
    whole = True
    with ThreadPoolExecutor(options.jobs) as threads:
        for line, good in threads.map(lambda name: fuzz(name, options.seconds, options.seed, options.save), names):
            print(line, flush=True)
            whole &= good
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
