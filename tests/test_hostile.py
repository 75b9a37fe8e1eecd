"""Every attack of the corpus is refused, and nothing runs, changes or grows while it is."""

import contextlib
import copyreg
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import ben_secure
from ben_secure import metadata, patches
from ben_secure.errors import BenSecureError, PatchFormatError, UnsafePickleError
from ben_secure.pickles import PatchUnpickler, arrays, legacy, machine, names, records, unpickler
from ben_secure.values import Decoder, loads
from support import assembler, attacks
from support.assembler import (
    MEMO,
    REBUILD_ARRAY,
    REBUILD_SCALAR,
    array_blob,
    blob,
    call,
    canonical,
    dct,
    get,
    lst,
    name,
    number,
    part,
    text,
    tup,
    with_metadata,
)
from support.attacks import ATTACKS, FRAMES_ARE_DROPPED
from support.effort import effort_below
from support.fuzz_core import verdict
from support.legacy_values import GENERATIONS, MERGED, S1, S2, Maker, small_tree, tree, write

MEMORY = 64 * 2**20
CODE = [attack for attack in ATTACKS if attack.threat == "T1"]
WATCHED = [
    thing
    for module in (patches, metadata, arrays, legacy, machine, names, records, unpickler)
    for thing in vars(module).values()
    if isinstance(thing, type) and thing.__module__.startswith("ben_secure")
]
# Filled when it is first asked for, by honest code.
LAZY = {"__abstractmethods__", "__weakref__", "_abc_impl"}


def each(corpus):
    """Parameters of a test over attacks, each marked with its threat."""
    return [pytest.param(attack, id=attack.name, marks=pytest.mark.threat(attack.threat)) for attack in corpus]


def process_state():
    """The state of the process that hostile values might change."""
    classes = {cls: (set(dir(cls)), {k: v for k, v in vars(cls).items() if k not in LAZY}) for cls in WATCHED}
    functions = {f: vars(f).copy() for f in (patches.rebuild_patch, metadata.rebuild_array, metadata.rebuild_scalar)}
    rows = {pair: (id(row), row.name, row.use, row.arity) for pair, row in names.TABLE.items()}
    return classes, functions, rows, sorted(vars(pickle.Unpickler))


BEFORE = process_state()
HONEST = canonical()
HONEST_PATCH = loads(HONEST)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A working directory with everything that attacks need; at the end nothing ran and nothing changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(attacks.CODE)
    (tmp_path / "spare").touch()
    yield tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.py", "spare"]
    assert "evil" not in sys.modules
    assert process_state() == BEFORE
    assert loads(HONEST) == HONEST_PATCH


@contextlib.contextmanager
def extension(attack, cached):
    """Register the extension that the attack needs, used before or not."""
    if attack.extension is None:
        yield
        return
    module, attribute, code = attack.extension
    copyreg.add_extension(module, attribute, code)
    if cached:
        copyreg._extension_cache[code] = getattr(sys.modules[module], attribute)
    try:
        yield
    finally:
        copyreg.remove_extension(module, attribute, code)
        copyreg._extension_cache.pop(code, None)


def test_every_attack_has_its_own_name_and_reason():
    """Names identify attacks, and each attack states its effect."""
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) > 1000
    assert all(attack.why for attack in ATTACKS)
    assert {attack.threat for attack in ATTACKS} == {"T1", "T2", "T3", "T4", "T16"}


@pytest.mark.threat("T1")
def test_attacks_that_run_do_run_under_the_stock_unpickler(tmp_path):
    """The corpus is alive: attacks that claim to run code create the canary under ``pickle``."""
    script = """
import copyreg, io, json, os, pathlib, pickle, sys, tempfile, warnings
warnings.simplefilter("ignore")
sys.path[:0] = json.loads(sys.argv[1])
import numpy as np
from support import attacks
class Evil:
    def __reduce__(self):
        return os.mkdir, ("canary",)
dead = []
alive = [attack for attack in attacks.ATTACKS if attack.runs]
for attack in alive:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        sys.path.insert(0, folder)
        pathlib.Path("evil.py").write_text(attacks.CODE)
        pathlib.Path("spare").touch()
        np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
        if attack.extension:
            copyreg.add_extension(*attack.extension)
        try:
            pickle.load(io.BytesIO(attack.value()))
        except Exception:
            pass
        if not os.path.lexists("canary"):
            dead.append(attack.name)
        if attack.extension:
            copyreg.remove_extension(*attack.extension)
        sys.modules.pop("evil", None)
        sys.path.remove(folder)
        os.chdir("/")
json.dump([dead, len(alive)], open(sys.argv[2], "w"))
"""
    roots = [str(path) for path in sys.path if path]
    report = tmp_path / "report"
    subprocess.run([sys.executable, "-c", script, json.dumps(roots), report], check=True, capture_output=True)
    dead, alive = json.loads(report.read_text())
    assert dead == []
    assert alive >= 69 + FRAMES_ARE_DROPPED


@pytest.mark.parametrize("attack", each(ATTACKS))
def test_attack_is_refused(attack, trap):
    """The attack is refused with its class, rule and words, in bounded time and memory; its counterpart is a patch."""
    value, cached = attack.value(), attack.name.endswith("1")
    with extension(attack, cached), effort_below(60), pytest.raises(BenSecureError) as caught:
        loads(value)
    error = caught.value
    assert type(error) is attack.error
    assert error.rule in attack.rules
    assert re.search(attack.words, str(error))
    assert str(error).isascii()
    assert str(error).isprintable()
    assert len(str(error)) < 1000
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert isinstance(loads(attack.accepted()), ben_secure.BigEarthNetPatch)


@pytest.mark.parametrize("attack", each([attack for attack in ATTACKS if attack.threat in ("T2", "T16")]))
def test_attack_takes_little_memory(attack):
    """The peak is less than 64 MB more than the value itself."""
    value = attack.value()
    tracemalloc.start()
    try:
        with contextlib.suppress(BenSecureError):
            loads(value)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T1")
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack.extension], ids=lambda attack: attack.name)
def test_registered_extension_is_refused(attack, cached, trap):
    """Names that the application registered with copyreg, and perhaps used, are refused, too."""
    with extension(attack, cached), pytest.raises(UnsafePickleError, match="EXT"):
        loads(attack.value())


WATCH = """
import json, sys
from ben_secure import loads
from ben_secure.errors import BenSecureError
from support.attacks import ATTACKS

pairs = [(attack.name, attack.value(), attack.accepted()) for attack in ATTACKS]
seen, current = {}, ""
for turn in range(2):
    if turn:  # the first turn imports modules
        sys.addaudithook(lambda event, arguments: current and seen.setdefault(event, current))
    for name, value, accepted in pairs:
        current = name
        try:
            loads(value)
        except BenSecureError:
            pass
        else:
            seen["accepted"] = name
        loads(accepted)
        current = ""
json.dump(seen, sys.stdout)
"""


@pytest.mark.threat("T1")
def test_the_interpreter_notices_nothing():
    """While the corpus is read, no audit event (PEP 578) is raised but that of ``id``: no import, no file, no code."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    run = subprocess.run([sys.executable, "-c", WATCH], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout).keys() <= {"builtins.id"}


@pytest.mark.threat("T3")
def test_attacks_are_refused_alike_by_a_decoder_that_has_read_much():
    """Class, rule, place and words of each refusal are those of a decoder that has read nothing."""
    decoder, honest = Decoder(), list(HONEST_VALUES.values())
    for place, attack in enumerate(ATTACKS):
        for value in (honest[place % len(honest)], attack.accepted()):
            decoder.load(value, len(value))
        assert verdict(attack.value(), decoder=decoder) == verdict(attack.value()), attack.name


@pytest.mark.parametrize("attack", each(CODE))
def test_unpickler_refuses_what_is_after_execution(attack, trap):
    """``PatchUnpickler`` is the same machine, for any registrations with copyreg."""
    with extension(attack, True), pytest.raises(attack.error) as caught:
        PatchUnpickler(io.BytesIO(attack.value())).load()
    assert caught.value.rule in attack.rules


HONEST_VALUES = {
    "canonical": canonical(),
    "canonical with metadata": canonical(stored=dct(text("x"), lst(number(1), text("a"))), extras=dct(text("y"), b"N")),
    **{f"small {generation}": write(small_tree(generation)) for generation in GENERATIONS},
    "S1 numpy1-pydantic1": write(tree(S1, s1="|i1")),
    "S2 numpy2-pydantic2": write(tree(S2, "numpy2-pydantic2", s2="|u1")),
}


@pytest.mark.threat("T2")
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("value", HONEST_VALUES.values(), ids=HONEST_VALUES)
def test_truncation_is_refused(value, warm):
    """An honest value cut at any opcode, and at any byte of a small one, is damaged and nothing else."""
    decoder = Decoder()
    for _ in range(6 if warm else 0):
        decoder.load(value, len(value))
    ends = set(range(min(len(value), 1500))) | set(range(0, len(value), 997)) | set(range(len(value) - 300, len(value)))
    position = 0
    from support.fuzz_core import pieces

    for piece in pieces(value):
        position = value.index(piece, position)
        ends |= {position, position + 1}
    for end in sorted(ends & set(range(len(value)))):
        with pytest.raises(PatchFormatError) as caught:
            decoder.load(value[:end], end)
        assert caught.value.rule in ("malformed", "not-a-pickle")
    assert isinstance(loads(value), ben_secure.BigEarthNetPatch)


def one_array_many_times(count):
    """A list of one array."""
    array = call(REBUILD_ARRAY, text("|u1"), tup(number(10**6)), blob(b"\1" * 10**6))
    return with_metadata(lst(array + MEMO, *[get(0)] * count))


def one_band_record_many_times(generation, count=64):
    """Bands that share their array."""
    maker, pixels = Maker(GENERATIONS[generation]), np.zeros((2000, 2000), "|u1")
    array = maker.array(pixels)
    return write(
        maker.generic({f"b{n}": maker.band("Band", f"b{n}", 10, pixels, data=array) for n in range(count)}, {})
    )


def equal_but_not_the_same(count):
    """Attributes and stored arguments that are equal, block by block."""
    graph = small_tree(metadata={})
    graph.state["x"] = [bytes(10**6)] * count
    graph.state["__stored_args__"] = {"x": [bytes(bytearray(10**6))] * count}
    return write(graph)


def shared_text(count):
    """A list of one text."""
    return write(small_tree(metadata={"x": ["A" * 100_000] * count}))


COSTLY = {
    "one array, a thousand times": lambda: one_array_many_times(1000),
    "one array as 64 bands": lambda: one_band_record_many_times("numpy1-pydantic1"),
    "equal blocks compared a thousand times": lambda: equal_but_not_the_same(5000),
    "one text, 9,000 times": lambda: shared_text(9000),
    "str scalar": lambda: with_metadata(call(REBUILD_SCALAR, text("<U1000000"), blob(b"\0\0\1\0" * 10**6))),
    "short wide texts": lambda: with_metadata(lst(*[text("A" * 250 + "\U0001f6f0")] * 40_000)),
    "one block, 9,000 times": lambda: with_metadata(lst(blob(bytes(10**6)) + MEMO, *[get(0)] * 9000)),
    "one bytearray, 9,000 times": lambda: with_metadata(lst(array_blob(bytes(10**6)) + MEMO, *[get(0)] * 9000)),
    "one array as a thousand scalars' data": lambda: with_metadata(
        tup(blob(b"\1" * 10**6) + MEMO, *[call(REBUILD_ARRAY, text("|u1"), tup(number(10**6)), get(0))] * 1000)
    ),
    "9,000 empty sets": lambda: with_metadata(lst(b"\x8f" * 9000)),
    "colliding integers": lambda: with_metadata(assembler.members(*[number((2**61 - 1) * n) for n in range(1, 1025)])),
    "largest pixels": lambda: canonical(
        layout=tup(assembler.entry(rows=number(3600), columns=number(4000))), pixels=array_blob(bytes(3600 * 4000))
    ),
}


@pytest.mark.threat("T2")
@pytest.mark.parametrize("make", COSTLY.values(), ids=COSTLY)
def test_small_values_stay_small(make):
    """A borderline value costs no more than others, because shared objects stay shared."""
    value = make()
    with effort_below(100):
        for _ in range(2):
            with contextlib.suppress(BenSecureError):
                loads(value)
    tracemalloc.start()
    try:
        with contextlib.suppress(BenSecureError):
            loads(value)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    "metadata",
    [
        ["A" * 100_000] * 3000,
        [bytes(100_000)] * 3000,
        [{"A" * 100_000}] * 3000,
        [{"A" * 100_000: 1}] * 3000,
        [np.zeros(200_000, "|u1")] * 800,
        [np.str_("A" * 25_000)] * 700,
        np.array(["A" * 100_000] * 3000, dtype=object),
    ],
    ids=["text", "bytes", "set", "key", "array", "numpy text", "object array"],
)
def test_what_is_admitted_can_be_shown_and_written(metadata):
    """A patch that comes out of a small value stays small when it is printed or written."""
    value = write(small_tree(metadata={"x": metadata}))
    assert len(value) < 2**20
    try:
        patch = loads(value)
    except BenSecureError:
        return
    tracemalloc.start()
    try:
        assert len(repr(patch)) < MEMORY
        assert len(patch.dumps()) < MEMORY
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T3")
def test_values_do_not_share_what_can_change():
    """A patch shares no mutable object with others, for any number and order of loads."""
    graph = tree(MERGED, s1="|i1", s2="|u1", metadata={"labels": ["a"], "d": {"k": [1]}, "t": ([2],), "s": {3}})
    graph.state["a"] = graph.state["__stored_args__"]["a"] = Maker().array(np.zeros(3, "<u2"))
    for value in (write(graph), loads(write(graph)).dumps()):
        fresh = loads(value)
        loaded = [loads(value) for _ in range(8)]
        for patch in loaded:
            patch.labels.append("b")
            patch.d["k"].append(2)
            patch.t[0].append(3)
            patch.s.add(4)
            patch.a[:] = 7
            patch.get_band_by_name("VV").data[:] = 9
            patch.__stored_args__["more"] = 1
        assert loads(value) == fresh
        assert len({id(patch.labels) for patch in loaded}) == len(loaded)


@pytest.mark.threat("T4")
def test_messages_do_not_show_addresses():
    """Memory addresses are not shown, and the same value gives the same report."""
    for attack in ATTACKS:
        with pytest.raises(BenSecureError) as caught:
            loads(attack.value())
        assert " at 0x" not in str(caught.value), attack.name


@pytest.mark.threat("T1")
def test_names_of_the_package_under_attack_exist():
    """The controls that name parts of our own package name something that is there."""
    assert name("ben_secure.patches", "rebuild_patch") in HONEST
    assert part(Maker().dtype("<u2"))
    assert unpickler.pickle.loads is pickle.loads
