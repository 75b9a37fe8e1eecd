"""The fuzzers: each target on its corpus and on a few new inputs, and the driver, which has to notice faults."""

import mmap
import random
import time

import pytest

from ben_secure import StoreError
from fuzz import run
from fuzz.target import Target, mutate_bytes, refusal
from fuzz.targets import TARGETS

FOUND = [pytest.param(name, path, id=f"{name}/{path.name}") for name in TARGETS for path in run.corpus(name)]


@pytest.mark.threat("T15")
@pytest.mark.threat("T27")
@pytest.mark.threat("T28")
@pytest.mark.parametrize(("name", "path"), FOUND)
def test_what_was_found_once_stays_mended(name, path):
    """Every file of the corpus passes the oracles of its target."""
    pytest.importorskip(TARGETS[name].needs or "ben_secure")
    run.examine(TARGETS[name], path.read_bytes())


def test_every_folder_of_the_corpus_has_a_target():
    """So that no file lies there unused."""
    assert {path.parent.name for path in run.CORPUS.rglob("*") if path.is_file()} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_accept_and_refuse(name):
    """A few dozen inputs of each: some seed is accepted, some changed one is refused, and no oracle complains."""
    pytest.importorskip(TARGETS[name].needs or "ben_secure")
    target = TARGETS[name]
    seeds = target.seeds()
    assert any(target.examine(value, value) is None for value in seeds)
    refused = 0
    for number in range(10 if name == "parquet" else 40):
        rng = random.Random(number)
        base = rng.choice(seeds)
        refused += run.examine(target, target.mutate(rng, base, seeds), base, traced=number % 8 == 0) is not None
    assert refused


def worked(target, folder, seconds=0.3):
    """The driver's output for a target."""
    with mmap.mmap(-1, 2**21) as scratch:
        return run.work(target, seconds, 7, scratch, folder)


def parses(value, _):
    """A parser with a fault: it takes every input that begins with an odd byte for granted."""

    def parse():
        if value[:1] not in (b"a", b"c"):
            raise StoreError("not a nor c")

    def check(_):
        assert value[:1] != b"c", "it takes c"

    return refusal(parse, check)


def test_the_driver_keeps_what_fails(tmp_path):
    """A file for each way to fail, with the input, which the same seed finds again; without faults there is none."""
    target = Target("sample", lambda: [b"a"], mutate_bytes, parses)
    first, again = worked(target, tmp_path / "one"), worked(target, tmp_path / "two")
    (text,) = first["failures"]
    (kept,) = (tmp_path / "one").iterdir()
    assert kept.read_bytes()[:1] == b"c"
    assert str(kept) in text
    assert "it takes c" in text
    assert kept.read_bytes() == next((tmp_path / "two").iterdir()).read_bytes()
    assert [one.partition(", kept")[0] for one in again["failures"]] == [text.partition(", kept")[0]]
    whole = Target("sample", lambda: [b"a"], mutate_bytes, lambda value, _: None)
    result = worked(whole, tmp_path / "none")
    assert result["failures"] == []
    assert result["accepted"] == result["count"] > 1
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda: bytearray(2**24), "bytes, expected at most"),
        (lambda: burn(0.3), r"s, expected at most"),
        (lambda: 1 / 0, "division by zero"),
        (lambda: refusal(lambda: fail("\x1b[31m")), "not printable ASCII"),
    ],
)
def test_the_driver_notices(fault, message):
    """Memory, time, foreign errors and messages with control characters are failures."""

    def examine(value, _):
        if value:
            fault()

    target = Target("sample", lambda: [b""], mutate_bytes, examine, seconds=0.05, memory=2**20)
    assert run.examine(target, b"") is None
    with pytest.raises((AssertionError, ZeroDivisionError), match=message):
        run.examine(target, b"x")


def burn(seconds):
    """Use the processor for so long."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def fail(text):
    raise StoreError(text)
