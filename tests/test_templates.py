"""The memory between values: it changes no verdict and no patch, and holds a bounded number of bytes."""

import gc
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
from ben_secure.errors import BenSecureError, LimitExceededError, UnsafePickleError
from ben_secure.limits import Limits
from ben_secure.pickles.templates import MAX_BYTES
from ben_secure.values import Decoder
from support.assembler import (
    HONEST,
    NONE,
    array_blob,
    canonical,
    dct,
    entry,
    frame,
    lst,
    name,
    number,
    part,
    program,
    text,
    tup,
)
from support.fuzz_core import honest_values, mutate, note, repainted, same, spoil, verdict
from support.legacy_values import GENERATIONS, MERGED, S1, S2, Maker, labels, pixels_of, small_tree, tree, write
from support.strategies import make_patch

seeds = st.integers(0, 2**63)
VALUES = honest_values()


def known(decoder, value):
    """Whether a decoder remembers a value that it reads again and again."""
    return note(decoder, value) is not None and note(decoder, value) is note(decoder, value)


LABELLED = dct(text("labels"), lst(text("label")))


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
    """Compare verdicts with a memory and without; return the number of values that were patches.

    Pixels change, too; a footer may follow; the value may be in memory that the patch keeps; and patches are changed.
    """
    rng = random.Random(seed)
    values, memory, patches = mixed(rng), Decoder(), 0
    for _ in range(count):
        value = next(values)
        if rng.random() < 0.5:
            value = repainted(value, rng.randrange(10**6))
        alone = verdict(value)
        how = {"footer": rng.choice((b"", b"x" * 64)), "aligned": rng.choice((None, rng.randrange(16)))}
        found = verdict(value, decoder=memory, **how)
        assert same(found, alone)
        if isinstance(alone, BigEarthNetPatch):
            assert found.dumps() == alone.dumps()
            spoil(found)
            patches += 1
    return patches


@pytest.mark.threat("T1")
@pytest.mark.threat("T3")
def test_memory_changes_no_verdict():
    """Values of mixed generations, honest and changed, are judged after others as they are alone."""
    assert 100 < compare(1, 400) < 400


@pytest.mark.slow
@pytest.mark.threat("T1")
def test_memory_changes_no_verdict_of_many_values():
    """The same is checked for many more values."""
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
    """This holds for honest and other values in any order and number."""
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
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3), st.booleans()), min_size=2, max_size=6))
def test_a_last_frame_of_any_length_is_known_and_one_that_ends_elsewhere_is_not(made):
    """Values whose last frames differ in length, or whose frame is not the last: each has the verdict of it alone."""
    pixels = array_blob(bytes(2 * 14400))
    head, tail = canonical(kind=text(S1), layout=text("|i1"), pixels=pixels, stored=LABELLED)[2:-1].split(pixels)
    values = []
    for length, off, last in made:
        body = pixels + tail.replace(text("label"), text("l" * length))
        framed = frame(body + b"." * last, length=len(body) + last + off)
        values.append(b"\x80\x04" + head + framed + b"." * (not last))
        values.append(b"\x80\x04" + frame(head + body + b".", length=len(head + body) + 1 + off))
    alone = [verdict(value) for value in values]
    memory = Decoder()
    for _ in range(4):
        assert all(same(verdict(v, decoder=memory), found) for v, found in zip(values, alone, strict=True))


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("kind", [S1, S2, MERGED])
@pytest.mark.parametrize("protocol", [4, 5])
def test_honest_values_are_remembered(kind, generation, protocol):
    """For every generation and kind, and any pixels; other labels are read again."""
    memory, maker = Decoder(), Maker(GENERATIONS[generation])
    values = [write(maker.standard(kind, pixels_of(seed), labels()), protocol) for seed in range(3)]
    other = write(maker.standard(kind, pixels_of(), {"labels": ["others"]}), protocol)
    assert known(memory, values[0])
    assert note(memory, values[1]) is note(memory, values[0]) is note(memory, values[2])
    assert note(memory, other) is not note(memory, values[0])
    assert known(memory, other)
    alone = note(memory, other)
    assert memory.note(other + b"what follows".ljust(64), len(other), lambda *_: object()) is alone


@pytest.mark.parametrize(
    "metadata",
    [{"x": {"k": 1}}, {"x": (1,)}, {"x": b"raw"}, {"x": [["a"]]}, {"x": np.arange(3)}, {"x": {1}}, {"x": ["a"] * 3000}],
    ids=["dict", "tuple", "bytes", "nested", "array", "set", "long"],
)
def test_other_metadata_is_made_again_for_each_value(metadata):
    """Metadata that is not flat and short is not remembered, so each patch has its own; flat metadata is."""
    values, memory = [make_patch(seed=seed, **metadata).dumps() for seed in range(4)], Decoder()
    assert not any(known(memory, value) for value in values)
    assert known(memory, make_patch(x=["a"]).dumps())
    for seed, value in enumerate(values):
        patch = memory.load(value, len(value))
        assert patch == make_patch(seed=seed, **metadata)
        spoil(patch)
        assert memory.load(value, len(value)) == make_patch(seed=seed, **metadata)


@pytest.mark.threat("T3")
def test_a_beginning_that_is_too_long_is_not_remembered():
    """A value with tens of kilobytes in front of its last pixels is read each time, and is the same each time."""
    for count, remembered in ((9000, False), (90, True)):
        graph = tree(S1, metadata={})
        graph.state = {"x": list(range(count)), **graph.state}
        graph.state["__stored_args__"]["x"] = graph.state["x"]
        value, memory = write(graph), Decoder()
        assert known(memory, value) == remembered
        assert same(verdict(value, decoder=memory), verdict(value))


@pytest.mark.threat("T3")
def test_the_order_of_the_blocks_is_that_of_the_value():
    """Bands whose blocks have an unusual order are remembered, each with its own pixels."""
    memory = Decoder()
    for seed in range(5):
        graph = Maker().standard(S1, pixels_of(seed), labels())
        graph.state = {key: graph.state[key] for key in ("bandVV", "bandVH", *list(graph.state)[2:])}
        value = write(graph)
        assert known(memory, value)
        patch = memory.load(value, len(value))
        for band in ("VV", "VH"):
            assert np.array_equal(patch.get_band_data_by_name(band), pixels_of(seed)[band])


@pytest.mark.threat("T3")
@pytest.mark.parametrize(
    "make", [lambda: write(tree(MERGED)), lambda: write(tree(S1), 5), lambda: make_s1(x=["a"]).dumps()]
)
def test_a_value_that_differs_anywhere_but_in_its_pixels_is_read_again(make):
    """After a change, cut or addition of one byte, at each border of the pixels and in many other places."""
    value, memory = make(), Decoder()
    assert known(memory, value)
    painted = repainted(value, 2)
    pixels = {place for place in range(len(value)) if value[place] != painted[place]}
    borders = {place + more for place in pixels for more in (-6, -5, -1, 1) if place + more not in pixels}
    rng = random.Random(0)
    beside = sorted(set(range(len(value))) - pixels)
    for place in {0, len(value) - 1, *rng.sample(sorted(borders), 40), *rng.sample(beside, 60)}:
        changed = bytes([value[place] ^ 1])
        for data in (
            value[:place] + changed + value[place + 1 :], value[:place] + value[place + 1 :],
            value[:place] + changed + value[place:], value[:place],
        ):  # fmt: skip
            assert same(verdict(data, decoder=memory), verdict(data))


@pytest.mark.threat("T1")
def test_other_limits_and_classes_share_no_verdict():
    """A value read under one set of rules is unknown to another."""
    mine = type("Mine", (BigEarthNetPatch,), {"__module__": "archive"})
    layout = tup(entry(columns=number(600)))
    value = canonical(kind=name("archive", "Mine"), layout=layout, pixels=array_blob(bytes(600)))
    declared, plain, narrow = Decoder((mine,)), Decoder(), Decoder((mine,), Limits(max_opcodes=9))
    for _ in range(4):
        for found in (declared.load(value, len(value)), loads(value, classes=[mine])):
            assert type(found) is mine
        for refused in (lambda: plain.load(value, len(value)), lambda: loads(value)):
            with pytest.raises(UnsafePickleError, match=r"archive\.Mine"):
                refused()
        with pytest.raises(LimitExceededError):
            narrow.load(value, len(value))
    assert known(declared, value)


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


# The memory has a budget in bytes.


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
    start = make_s1(labels=["1000000" * 30] * 8).dumps()
    return (start.replace(b"1000000", b"%07d" % n) for n in range(1600))


def odd_labels():
    """Metadata that is short but gets many remarks of the audit."""
    start = make_s1(**{"n" * 40: "\x1b1000000" + "\U0001f6f0" * 40}).dumps()
    return (start.replace(b"1000000", b"%07d" % n) for n in range(6000))


def layouts():
    """Generic values, each with a layout of its own, with many bands of long names."""
    for n in range(60):
        bands = [entry(band=text(f"{n} {b} {'n' * 200}"), columns=b"K\x08") for b in range(64)]
        yield canonical(layout=tup(*bands), pixels=array_blob(bytes(512)))


def forgotten_layouts():
    """One layout with many tails, and between two of them so many others that a cache of the latest has lost it."""
    bands = tup(*[entry(band=text(f"{b} {'n' * 100}"), columns=b"K\x08") for b in range(64)])
    others = [canonical(layout=tup(entry(band=text(f"{n}")))) for n in range(20)]
    for n in range(400):
        yield canonical(layout=bands, pixels=array_blob(bytes(512)), stored=dct(text("x"), number(n)))
        yield from others


def small_things():
    """Short metadata of many objects: lists under many names, integers, floats."""
    for n in range(300):
        for stored in (
            [piece for k in range(40) for piece in (text(f"k{n}_{k}"), b"]")],
            [text("x"), lst(*[number(1000 + n * k) for k in range(60)])],
            [text("x"), lst(*[b"G" + n.to_bytes(8, "big")] * 40)],
            [text(f"{n}" + "\U00020000" * 240), number(n)],
        ):
            yield canonical(kind=text(S1), layout=text("|i1"), pixels=array_blob(bytes(28800)), stored=dct(*stored))


def beginnings(fill=b"\x8f" * 8000):
    """Values each of which begins in its own way, with all that a beginning may have of the largest small things.

    By default empty sets: one byte makes one of 216.
    """
    for n in range(6):
        graph = Maker().standard(S1, pixels_of(s1="|i1"), {"y": f"label 10000{n}"})
        filling = f"FILLING {n}"
        graph.state = {"x": filling, **graph.state}
        graph.state["__stored_args__"]["x"] = filling
        yield program(part(graph).replace(text(filling), lst(NONE * n, fill)))


PROBES = (label_sets, long_labels, layouts, small_things, beginnings, large_lists, forgotten_layouts)


def kept(load, values):
    """The maximum number of bytes kept between two values, in addition to the present value."""
    gc.collect()
    tracemalloc.start()
    try:
        most = 0
        for value in values:
            load(value)
            load(value)
            most = max(most, tracemalloc.get_traced_memory()[0])
        return most
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T2")
@pytest.mark.parametrize("probe", [*PROBES[:4], *(pytest.param(probe, marks=pytest.mark.slow) for probe in PROBES[4:])])
def test_what_a_decoder_keeps_is_bounded_in_bytes(probe):
    """For any loaded values: the budget, plus the layouts."""
    memory = Decoder()
    assert kept(lambda value: memory.load(value, len(value)), probe()) < MAX_BYTES + 2 * 2**20


@pytest.mark.slow
@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    "fill",
    [
        b"]" * 8000,
        b"}(\x8c\x01kNu" * 1600,
        b"N\x85" * 5000,
        b"M\1\1" * 4000,
        text("\U00020000" * 60) * 60,
        HONEST * 90,
    ],
    ids=["lists", "dicts", "tuples", "numbers", "texts", "scalars"],
)
def test_what_beginnings_keep_is_bounded_in_bytes(fill):
    """The same holds for beginnings full of other content."""
    memory = Decoder()
    assert kept(lambda value: memory.load(value, len(value)), beginnings(fill)) < MAX_BYTES + 2 * 2**20


@pytest.mark.slow
@pytest.mark.threat("T2")
def test_what_an_audit_keeps_is_bounded_in_bytes():
    """The notes of the audit are counted with the patch."""
    judge = Judge("/nowhere", Options())
    assert kept(lambda value: judge.count(Tally(), 0, b"k", value), odd_labels()) < MAX_BYTES + 2 * 2**20


@pytest.mark.slow
@pytest.mark.threat("T2")
def test_what_a_process_keeps_is_bounded_in_bytes():
    """Plain ``loads`` keeps two memories, for the usual limits and for the latest others: 16 MB together."""

    def everything():
        for probe in PROBES:
            yield from itertools.islice(probe(), 5 if probe in (large_lists, layouts) else 500)

    other = Limits(max_bands=64, max_depth=31)
    assert kept(lambda value: (loads(value), loads(value, limits=other)), everything()) < 16 * 2**20


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


# What patches share.


@pytest.mark.threat("T3")
@pytest.mark.parametrize("aligned", [None, 0, 5])
@pytest.mark.parametrize("make", [lambda: write(tree(MERGED)), lambda: make_patch(labels=["a", "b"], n=1).dumps()])
def test_patches_of_one_template_share_nothing_that_can_change(make, aligned):
    """However a value is read: pixels, lists and stored arguments of each patch are its own."""
    value, memory = make(), Decoder()
    assert known(memory, value)
    patches = [verdict(value, decoder=memory, aligned=aligned) for _ in range(5)]
    for place, patch in enumerate(patches):
        assert same(patch, verdict(value))
        assert patch.__stored_args__["labels"] is patch.labels
        patch.labels.append(place)
        patch.more = place
        for band in patch.bands:
            band.data[...] = place
    things = [thing for patch in patches for thing in (patch.labels, patch.__stored_args__, vars(patch))]
    assert len(set(map(id, things))) == len(things)
    for one, other in itertools.combinations(patches, 2):
        assert not np.shares_memory(one.bands[0].data, other.bands[0].data)
    assert same(verdict(value, decoder=memory), verdict(value))


@pytest.mark.threat("T3")
@pytest.mark.parametrize("generation", GENERATIONS)
def test_beginnings_share_nothing_that_can_change(generation):
    """A list before the bands, in a beginning that values share, belongs to each patch separately."""
    values = []
    for serial in range(6):
        graph = tree(S1, generation, {"parts": [["a"], {"b": ["c"]}], "number": f"n{serial}"})
        graph.state = {"parts": graph.state["parts"], **graph.state}
        values.append(write(graph))
    memory = Decoder()
    for value in [*values, *values]:
        patch = memory.load(value, len(value))
        assert patch.parts == [["a"], {"b": ["c"]}] == patch.__stored_args__["parts"]
        patch.parts[0].clear()
        patch.parts[1]["b"].clear()
        spoil(patch)
