"""The memory between values: it changes no verdict and no patch, and holds a bounded number of bytes."""

import gc
import io
import itertools
import random
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import BigEarthNet_S1_Patch, BigEarthNetPatch, loads
from ben_secure.audit.findings import Tally
from ben_secure.audit.judge.scan import Judge, Options
from ben_secure.errors import BenSecureError, ResourceError, UndecidedError
from ben_secure.limits import Limits
from ben_secure.pickles.templates import MAX_BYTES
from ben_secure.pickles.unpickler import PatchUnpickler
from ben_secure.values import Decoder
from support import fuzz_core
from support.assembler import array_blob, blob, canonical, dct, entry, lst, name, text, tup, with_metadata
from support.fuzz_core import honest_values, mutate, note, same, verdict
from support.legacy_values import GENERATIONS, MERGED, S1, S2, Maker, labels, pixels_of, small_tree, tree, write
from support.strategies import make_patch

seeds = st.integers(0, 2**63)
VALUES = honest_values()


def mixed(rng):
    """Values of every generation and kind, with labels of their own, some of them changed; in random order."""
    base = []
    for generation in GENERATIONS:
        for kind in (S1, S2, MERGED):
            for turn in range(3):
                metadata = (
                    {"labels": [f"label {turn}"] * turn, "n": turn} if turn < 2 else {"x": {"a": [1]}, "b": b"b" * 600}
                )
                graph = Maker(GENERATIONS[generation]).standard(kind, pixels_of(turn, s1="|i1", s2="|u1"), metadata)
                base.append(write(graph, rng.choice((4, 5))))
    base += [loads(value).dumps() for value in base] + VALUES
    while True:
        value = rng.choice(base)
        if rng.random() < 0.5:
            changed = bytearray(value)
            for _ in range(rng.choice((1, 1, 2))):
                place = rng.choice(
                    (rng.randrange(min(600, len(value))), len(value) - 1 - rng.randrange(min(500, len(value))))
                )
                changed[place] = rng.randrange(256)
            value = bytes(changed)
        yield value


def compare(seed, count):
    """Compare verdicts with a memory and with none; gives how many values were patches."""
    values, memory, patches = mixed(random.Random(seed)), Decoder(), 0
    for _ in range(count):
        value = next(values)
        alone = verdict(value)
        assert same(verdict(value, decoder=memory), alone)
        patches += isinstance(alone, BigEarthNetPatch)
    return patches


@pytest.mark.threat("T1")
@pytest.mark.threat("T3")
def test_memory_changes_no_verdict():
    """Values of mixed generations, honest and changed, are judged after others as they are alone."""
    assert 100 < compare(1, 400) < 400


@pytest.mark.slow
@pytest.mark.threat("T1")
def test_memory_changes_no_verdict_of_many_values():
    """The same, for many more."""
    assert compare(2, 6000) > 1000


@pytest.mark.threat("T12")
def test_a_note_is_that_of_the_value_alone_and_is_there_exactly_if_it_loads():
    """It is made without the pixels, so values that differ in nothing else may share one."""

    def judged(memory, value):
        try:
            return memory.note(
                value,
                len(value),
                lambda patch, state: (
                    type(patch),
                    repr(patch.__stored_args__),
                    patch.bands[0].data.shape,
                    sorted(state.names),
                ),
            )
        except BenSecureError as error:
            return type(error), error.rule

    values, memory, refused = mixed(random.Random(3)), Decoder(), 0
    for turn in range(400):
        value = next(values)
        if turn % 5 == 0:
            verdict(value, decoder=memory)
        judgement = judged(memory, value)
        assert judgement == judged(Decoder(), value)
        assert (len(judgement) == 4) == isinstance(verdict(value), BigEarthNetPatch)
        refused += len(judgement) == 2
    assert 50 < refused < 350


@pytest.mark.threat("T1")
@given(st.lists(seeds, min_size=2, max_size=8))
def test_history_does_not_change_a_verdict(order):
    """Values in any order, honest and not, however often."""
    values = []
    for seed in order:
        rng = random.Random(seed)
        value = rng.choice(VALUES)
        values.append(mutate(rng, value, VALUES) if rng.random() < 0.6 else value)
    alone = [verdict(value) for value in values]
    memory = Decoder()
    for _ in range(3):
        assert all(same(verdict(v, decoder=memory), found) for v, found in zip(values, alone, strict=True))


@pytest.mark.threat("T1")
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3), st.integers(0, 2)), min_size=2, max_size=6))
def test_a_last_frame_of_any_length_is_known_and_one_that_ends_elsewhere_is_not(made):
    """Values whose last frames differ in length, or whose frame is not the last: each has the verdict of it alone."""
    pixels = blob(bytes(2 * 14400))
    values = []
    for length, off, behind in made:
        begin = name("ben_secure.patches", "rebuild_patch") + b"(K\x01" + text(S1) + text("|i1")
        body = begin + pixels + dct(text("labels"), lst(*[text("x")] * length)) + b"N" + b"tR"
        framed = b"\x95" + (len(body) + (behind == 0) + off).to_bytes(8, "little") + body
        values.append(b"\x80\x04" + framed + b".")
    alone = [verdict(value) for value in values]
    memory = Decoder()
    for _ in range(4):
        assert all(same(verdict(v, decoder=memory), found) for v, found in zip(values, alone, strict=True))


@pytest.mark.threat("T1")
def test_forbidden_names_are_found_behind_a_known_beginning():
    """A value that begins like a thousand honest ones is read to its end."""
    memory = Decoder()
    honest = write(tree(S1, s1="|i1", metadata={"x": "a", "y": "labels"}))
    for _ in range(10):
        verdict(honest, decoder=memory)
    assert note(memory, honest) is note(memory, honest)
    hostile = honest.replace(text("a"), name("a", "b"))
    assert not isinstance(verdict(hostile, decoder=memory), BigEarthNetPatch)
    for word in (b"VV", b"BenS1_Band", b"_reconstruct", b"bandVH"):
        assert not isinstance(verdict(honest.replace(word, b"\x1b" * len(word)), decoder=memory), BigEarthNetPatch)
    assert isinstance(verdict(honest, decoder=memory), BigEarthNetPatch)


@pytest.mark.threat("T3")
@pytest.mark.parametrize(
    "metadata",
    [
        {"x": (shared := ["a"]), "y": shared, "raw": bytes(700), "z": 1},
        {"x": (shared := {"k": 1}), "raw": bytes(700), "y": [shared, shared], "z": shared},
        {"raw": bytes(700), "more": bytes(bytearray(700)), "same": [b"q" * 600] * 2, "set": {b"q" * 600, 1}},
        {"x": 0.5, "raw": bytes(700), "y": 2**70, "z": (1.5, 2.5)},
        {"x": None, "raw": bytes(700), **labels()},
    ],
    ids=["list", "dict", "blocks", "numbers", "labels"],
)
def test_a_value_is_the_same_patch_each_time(metadata):
    """From the first load to the tenth: equal, with the same sharing and the same attributes beyond the stored ones."""
    value, memory = write(small_tree(metadata=metadata)), Decoder()
    first = loads(value)
    for _ in range(10):
        patch = verdict(value, decoder=memory)
        assert patch == first
        assert patch._extras() == {}
        if "y" in metadata and metadata["x"] is metadata["y"]:
            assert patch.x is patch.y


@pytest.mark.threat("T1")
def test_threads_do_not_disturb_each_other():
    """Values that begin alike, loaded by several threads through one memory, are all themselves."""
    values = [write(tree(S1, s1="|i1", metadata={"labels": [f"label {n}"], "n": n})) for n in range(10)]
    hostile = [value.replace(b"label", b"\xff\xff\xff\xff\xff") for value in values]
    alone, memory, wrong = [loads(value) for value in values], Decoder(), []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(200):
            n = rng.randrange(10)
            if verdict(values[n], decoder=memory) != alone[n] or not isinstance(
                verdict(hostile[n], decoder=memory), tuple
            ):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


# What is kept has a budget in bytes.


def large_lists():
    """53 kB of metadata in the shared beginning, another label each."""
    base = legacy_with({"x": [None] * 20_000, "y": "label 100000"})
    return (base.replace(b"label 100000", b"label %06d" % n) for n in range(60))


def legacy_with(metadata):
    return write(Maker().standard(S1, pixels_of(s1="|i1"), metadata))


def label_sets():
    """Ever new labels, in legacy and canonical values."""
    for start in (legacy_with({"labels": ["label 1000000"] * 3}), make_s1(labels=["label 1000000"] * 3).dumps()):
        yield from (start.replace(b"label 1000000", b"label %07d" % n) for n in range(3000))


def make_s1(**metadata):
    return BigEarthNet_S1_Patch(
        **{f"band{b}": array for b, array in pixels_of(s1="|i1").items() if b in ("VH", "VV")}, **metadata
    )


def long_labels():
    """Metadata of nearly all that a template may hold."""
    start = make_s1(labels=["1000000" * 40] * 8).dumps()
    return (start.replace(b"1000000", b"%07d" % n) for n in range(1600))


def odd_labels():
    """Metadata that an audit remarks on at length, with little beside it."""
    start = make_s1(**{"n" * 40: "\x1b1000000" + "\U0001f6f0" * 40}).dumps()
    return (start.replace(b"1000000", b"%07d" % n) for n in range(6000))


def layouts():
    """Generic values, each with a layout of its own, with many bands of long names."""
    for n in range(60):
        bands = [entry(band=text(f"{n} {b} {'n' * 200}"), columns=b"K\x08") for b in range(64)]
        yield canonical(layout=tup(*bands), pixels=array_blob(bytes(512)))


def beginnings():
    """Values each of which begins in its own way, with all that a beginning may have of containers."""
    for n in range(30):
        yield canonical(
            kind=text(S1),
            layout=text("|i1"),
            pixels=array_blob(bytes(2 * 14400)),
            stored=dct(text("x"), lst(*[b"}"] * 3000), text(f"n{n}"), b"N"),
        )


PROBES = {probe.__name__: probe for probe in (large_lists, label_sets, long_labels, layouts, beginnings)}


def kept(load, probe):
    """Bytes that are kept after values were loaded."""
    gc.collect()
    tracemalloc.start()
    try:
        for value in probe():
            load(value)
            load(value)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    "probe",
    [
        pytest.param(probe, marks=[pytest.mark.slow] if probe in (large_lists, beginnings) else [])
        for probe in PROBES.values()
    ],
    ids=PROBES,
)
def test_what_a_decoder_keeps_is_bounded_in_bytes(probe):
    """Whatever is loaded, and in spite of what it keeps: the budget, and what layouts take."""
    memory = Decoder()
    assert kept(lambda value: memory.load(value, len(value)), probe) < MAX_BYTES + 2 * 2**20


@pytest.mark.slow
@pytest.mark.threat("T2")
def test_what_an_audit_keeps_is_bounded_in_bytes():
    """What it says of a value is counted with the patch."""
    judge = Judge("/nowhere", Options())
    assert kept(lambda value: judge.count(Tally(), 0, b"k", value), odd_labels) < MAX_BYTES + 2 * 2**20


@pytest.mark.slow
@pytest.mark.threat("T2")
def test_what_a_process_keeps_is_bounded_in_bytes():
    """Plain ``loads`` keeps two memories, for the usual limits and for the latest others: 16 MB together."""

    def everything():
        for probe in PROBES.values():
            yield from itertools.islice(probe(), 20 if probe in (large_lists, beginnings, layouts) else 1500)

    other = Limits(max_bands=64, max_depth=31)
    assert kept(lambda value: (loads(value), loads(value, limits=other)), everything) < 16 * 2**20


@pytest.mark.threat("T2")
def test_honest_labels_fit():
    """All of the label sets that BigEarthNet has are remembered at once."""
    memory = Decoder()
    values = [
        make_s1(labels=[f"some label of CORINE Land Cover {n} {k}" for k in range(3)]).dumps() for n in range(1000)
    ]
    first = [note(memory, value) for value in [values[0], *values]][1:]
    assert len(set(first)) == 1000
    assert [note(memory, value) for value in values] == first


# To lack memory is no verdict.


@pytest.mark.threat("T2")
@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("load", [loads, lambda value: PatchUnpickler(io.BytesIO(value)).load()])
def test_too_little_memory_is_no_verdict(load, error, monkeypatch):
    """It is undecided; afterwards the value loads."""

    def fails(*arguments, **keywords):
        raise error

    value = make_patch(labels=["a"]).dumps()
    with monkeypatch.context() as patched:
        patched.setattr(BigEarthNetPatch, "_assemble", fails)
        with pytest.raises(ResourceError, match="says nothing about them") as caught:
            load(value)
    assert isinstance(caught.value, UndecidedError)
    assert load(value) == make_patch(labels=["a"])
    with pytest.raises(BenSecureError) as caught:
        loads(with_metadata(name("os", "system")))
    assert not isinstance(caught.value, UndecidedError)


def test_templates_share_nothing_that_can_change():
    """Each patch of one template is all its own."""
    memory = Decoder()
    values = [make_patch(seed=seed, labels=["a", "b"]).dumps() for seed in range(6)]
    patches = [memory.load(value, len(value)) for value in values]
    assert note(memory, values[0]) is note(memory, values[5])
    assert len({id(patch.labels) for patch in patches}) == 6
    for patch in patches:
        fuzz_core.spoil(patch)
    assert [memory.load(value, len(value)) for value in values] == [loads(value) for value in values]
    assert np.array_equal(loads(values[3]).band02.data, make_patch(seed=3).band02.data)
