"""``load``, ``loads`` and ``PatchUnpickler``: accepted input, results, and no other outcomes."""

import contextlib
import io
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ben_secure
from ben_secure import Band, BigEarthNetPatch, load, loads
from ben_secure.bands import S1_BANDS
from ben_secure.errors import (
    BenSecureError,
    LimitExceededError,
    PatchFormatError,
    ResourceError,
    Rule,
    UnsafePickleError,
)
from ben_secure.limits import Limits
from ben_secure.pickles import PatchUnpickler, machine
from ben_secure.pickles.names import TABLE
from ben_secure.signing.keys import MacKey
from ben_secure.signing.tags import append_tag
from ben_secure.values import Decoder
from support import fuzz_core, strategies
from support.assembler import (
    MEMO,
    REBUILD_PATCH,
    array_blob,
    blob,
    call,
    canonical,
    dct,
    entry,
    get,
    lst,
    name,
    new,
    number,
    program,
    text,
    tup,
    with_metadata,
)
from support.attacks import ATTACKS
from support.fuzz_core import honest_values, mutate, note
from support.legacy_values import (
    GENERATIONS,
    GENERIC,
    MERGED,
    PATCH_MODULES,
    S1,
    S2,
    Maker,
    New,
    labels,
    name_of,
    pixels_of,
    small_tree,
    write,
)
from support.strategies import TwoBandPatch, make_patch
from support.tensor_files import S1_FILE

VALUES = honest_values()
HOSTILE = [attack.value() for attack in ATTACKS if attack.threat == "T1"][::10]


class Guarded(BigEarthNetPatch):
    """A subclass whose code would be noticed."""

    calls: list[str] = []  # noqa: RUF012

    def __init__(self, *arguments, **keywords):
        self.calls.append("__init__")
        super().__init__(*arguments, **keywords)

    def __new__(cls, *arguments, **keywords):
        cls.calls.append("__new__")
        return super().__new__(cls)

    def __setattr__(self, attribute, value):
        self.calls.append("__setattr__")
        super().__setattr__(attribute, value)

    def __setstate__(self, state):
        self.calls.append("__setstate__")

    def __reduce_ex__(self, protocol):
        self.calls.append("__reduce_ex__")
        return super().__reduce_ex__(protocol)


class Child(ben_secure.BigEarthNet_S1_Patch):
    """A subclass of a class with fixed bands."""


# Input.


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda value: memoryview(bytearray(value))])
def test_loads_takes_bytes_like_data(kind):
    """Bytes, bytearray and memoryview are the same value; later changes of them do not change the patch."""
    value = make_patch(ben_secure.BigEarthNet_S1_Patch).dumps()
    data = kind(value)
    patch = loads(data)
    if not isinstance(data, bytes) and not memoryview(data).readonly:
        data[:] = bytes(len(data))
    assert patch == loads(value)


def test_loads_takes_a_strided_memoryview():
    """A view that is not contiguous is read as the bytes that it shows."""
    value = canonical()
    assert loads(memoryview(bytes(b for pair in zip(value, value, strict=True) for b in pair))[::2]) == loads(value)


@pytest.mark.parametrize("data", [None, "text", 5, ["x"], np.zeros(3), io.BytesIO(b"x")])
def test_loads_takes_nothing_else(data):
    """Anything else is the caller's mistake, not the data's."""
    with pytest.raises(TypeError, match="must be bytes"):
        loads(data)


def test_load_reads_a_file_to_its_end(tmp_path):
    """A file holds exactly one value."""
    (tmp_path / "one").write_bytes(canonical())
    (tmp_path / "two").write_bytes(canonical() * 2)
    with (tmp_path / "one").open("rb") as file:
        assert load(file) == loads(canonical())
    with (tmp_path / "two").open("rb") as file, pytest.raises(PatchFormatError) as caught:
        load(file)
    assert caught.value.rule == Rule.TRAILING_DATA


def test_files_are_read_up_to_the_limit_only():
    """Of an endless file no more is read than a value and its footer may have."""

    class Endless(io.RawIOBase):
        asked = 0

        def read(self, size=-1):
            assert size >= 0
            self.asked += size
            return b"\x80" * size

    file = Endless()
    with pytest.raises(LimitExceededError, match="at most 1000"):
        load(file, limits=Limits(max_value_bytes=1000))
    assert file.asked == 1000 + 64 + 1


@pytest.mark.threat("T2")
def test_value_of_just_the_largest_size_passes():
    """The limit on bytes is inclusive."""
    value = canonical()
    assert loads(value, limits=Limits(max_value_bytes=len(value)))
    with pytest.raises(LimitExceededError, match=f"{len(value)} bytes"):
        loads(value, limits=Limits(max_value_bytes=len(value) - 1))


# Results.


@given(strategies.patches())
def test_canonical_values_come_back(patch):
    """Every patch that can be made can be written and read, again and again, and is itself."""
    value = patch.dumps()
    for _ in range(6):
        again = loads(value, classes=[TwoBandPatch])
        assert type(again) is type(patch)
        assert again == patch


@given(strategies.metadata())
def test_legacy_metadata_comes_back(metadata):
    """Metadata comes back from a legacy value unchanged, with numpy objects as numpy writes them."""
    maker = Maker()
    found = loads(write(small_tree(metadata={key: _as_numpy_writes(maker, value) for key, value in metadata.items()})))
    plain = loads(write(small_tree(metadata={})))
    expected = BigEarthNetPatch(bands=plain.bands, **metadata)
    for key in metadata:
        assert ben_secure.metadata.equal(getattr(found, key), _native(getattr(expected, key)))
        assert ben_secure.metadata.equal(found.__stored_args__[key], _native(metadata[key]))


def _as_numpy_writes(maker, value):
    """The graph that the stock pickler would write for metadata."""
    if isinstance(value, np.ndarray):
        return maker.array(value)
    if isinstance(value, np.generic):
        return maker.scalar(value)
    if type(value) in (list, tuple):
        return type(value)(_as_numpy_writes(maker, part) for part in value)
    if type(value) is dict:
        return {key: _as_numpy_writes(maker, part) for key, part in value.items()}
    return value


def _native(value):
    """The result of numpy's own loader: native byte order, and texts without trailing NULs."""
    if isinstance(value, np.str_):
        return np.str_(value.rstrip("\0"))
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return value.astype(value.dtype.newbyteorder("="))
    if type(value) in (list, tuple):
        return type(value)(map(_native, value))
    if type(value) is dict:
        return {key: _native(part) for key, part in value.items()}
    return value


def test_small_pixels_and_long_metadata():
    """It does not matter which parts of a value are long."""
    for pixels in (1, 511, 512, 513):
        for raw in (1, 511, 512, 513):
            for blocks in (1, 2, 3):
                stored = dct(*(part for n in range(blocks) for part in (text(f"x{n}"), blob(bytes([n]) * raw))))
                value = canonical(
                    layout=tup(entry(columns=number(pixels))), pixels=array_blob(b"\3" * pixels), stored=stored
                )
                for _ in range(6):
                    patch = loads(value)
                    assert patch.get_band_data_by_name("g").tolist() == [[3] * pixels]
                    assert [getattr(patch, f"x{n}") for n in range(blocks)] == [bytes([n]) * raw for n in range(blocks)]


def test_pixels_belong_to_the_patch():
    """Two loads of one value share no pixels, and the value itself stays as it is."""
    for value in (canonical(), canonical(pixels=blob(b"\7\x08")), write(small_tree())):
        before = bytes(value)
        first, second = loads(value), loads(value)
        for band in first.bands:
            band.data[...] = 99
        assert value == before
        assert loads(value) == second != first


def test_long_bytes_in_metadata_come_back_as_bytes():
    """A block that travels out of band is a plain object in the end, in containers and sets, too."""
    for size in (1, 511, 512, 5000):
        raw = bytes(range(256)) * 20
        stored = {"a": raw[:size], "b": [raw[:size], (raw[:size],)], "c": {"k": {raw[:size], "x"}}}
        patch = make_patch(ben_secure.BigEarthNet_S1_Patch, **stored)
        assert loads(patch.dumps()) == patch
        assert loads(patch.dumps()).__stored_args__ == stored
        assert loads(write(small_tree(metadata=stored))).__stored_args__ == stored


@pytest.mark.threat("T3")
@pytest.mark.parametrize("size", [1, 511, 512, 5000])
def test_bytearray_in_metadata_is_refused_at_any_size(size):
    """Whether a value is admitted does not hang on how long a part of it is."""
    with pytest.raises(PatchFormatError, match="bytearray"):
        loads(with_metadata(array_blob(bytes(size))))
    assert loads(with_metadata(blob(bytes(size)))).x == bytes(size)


@pytest.mark.threat("T1")
@given(st.integers(0, 2**63), st.binary(max_size=80))
@example(0, canonical())
def test_what_follows_a_payload_is_not_looked_at(seed, footer):
    """A payload before other bytes is read like the payload alone, with the same patch or refusal."""
    rng = random.Random(seed)
    value = rng.choice(VALUES)
    if rng.random() < 0.8:
        value = mutate(rng, value, VALUES)
    if rng.random() < 0.3:
        value = value[: rng.randrange(len(value) + 1)]
    alone = fuzz_core.verdict(value)
    for _ in range(5):
        assert fuzz_core.verdict(value, footer) == alone


# Subclasses that the caller declares.


@pytest.mark.threat("T1")
def test_declared_subclass_is_made_without_its_code():
    """A declared class is admitted, canonical or legacy, and none of its methods run."""
    band = ben_secure.Band(name="g", data=np.zeros((1, 2), "|u1"), spatial_resolution=10, data_shape=(1, 2))
    value = Guarded(bands=[band], x=1).dumps()
    graph = small_tree(metadata={"x": 1})
    graph.cls = name_of(Guarded.__module__, "Guarded")
    Guarded.calls.clear()
    for data in (value, write(graph)):
        for _ in range(6):
            assert type(loads(data, classes=[Guarded])) is Guarded
        with pytest.raises(UnsafePickleError, match="Guarded") as caught:
            loads(data)
        assert caught.value.rule == Rule.FORBIDDEN_GLOBAL
    assert Guarded.calls == []


def test_declared_subclass_of_fixed_bands_keeps_their_rules():
    """A class derived from S1 has the bands of S1."""
    bands = {spec.attribute: np.zeros(spec.shape, "|i1") for spec in S1_BANDS}
    value = Child(**bands, x=1).dumps()
    assert type(loads(value, classes=[Child, Guarded])) is Child
    graph = New(name_of(Child.__module__, "Child"), small_tree().state)
    with pytest.raises(PatchFormatError, match="bandVH"):
        loads(write(graph), classes=[Child])


@pytest.mark.threat("T1")
def test_declaring_a_class_admits_that_name_only():
    """Neither the class's module nor names below the class come with it."""
    pair = (Guarded.__module__, Guarded.__qualname__)
    for module, attribute in ((pair[0], "os"), (pair[0], f"{pair[1]}.calls"), (pair[1], pair[0]), (pair[0], "Child")):
        with pytest.raises(UnsafePickleError, match="asks for"):
            loads(canonical(kind=name(module, attribute)), classes=[Guarded])
    assert type(loads(canonical(kind=name(*pair)), classes=[Guarded])) is Guarded
    with pytest.raises(UnsafePickleError) as caught:
        loads(program(call(name(*pair), number(1))), classes=[Guarded])
    assert caught.value.rule == Rule.CALL_SHAPE


@pytest.mark.threat("T3")
def test_a_class_that_is_defined_again():
    """The class that the caller declares now is the one that comes out, not one of the same name from before."""
    old, new_one = (type("Mine", (BigEarthNetPatch,), {"__module__": "archive"}) for _ in range(2))
    graph = small_tree(metadata={"raw": bytes(700), "labels": ["a"] * 100})
    graph.cls = name_of("archive", "Mine")
    layout = tup(*[entry(band=text(f"b{n}")) for n in range(40)])
    kind = name("archive", "Mine")
    for value in (
        write(graph),
        canonical(kind=kind, layout=layout, pixels=array_blob(bytes(80)), stored=dct(text("x"), blob(bytes(600)))),
    ):
        for cls in (old, new_one, old):
            for _ in range(6):
                assert type(loads(value, classes=[cls])) is cls


@pytest.mark.parametrize(
    ("classes", "error"),
    [
        ([int], TypeError),
        (["Guarded"], TypeError),
        ([Guarded, Guarded], ValueError),
        ([list[int]], TypeError),
        (5, TypeError),
    ],
)
def test_only_patch_classes_can_be_declared(classes, error):
    """A wrong declaration is the caller's mistake."""
    with pytest.raises(error):
        loads(canonical(), classes=classes)


def test_class_under_a_name_of_the_interface_cannot_be_declared():
    """Names of the table cannot be declared."""
    posing = type("BigEarthNet_S1_Patch", (BigEarthNetPatch,), {"__module__": PATCH_MODULES[S1]})
    with pytest.raises(ValueError, match="interface itself"):
        loads(canonical(), classes=[posing])


@pytest.mark.threat("T3")
def test_an_admitted_class_is_no_kind():
    """The kind of a canonical value is a name or a declared class, not just any class of the table."""
    for module, attribute in (PATCH_MODULES[GENERIC], GENERIC), (PATCH_MODULES[S2], S2):
        with pytest.raises(PatchFormatError, match=r"the patch class .* is unknown"):
            loads(canonical(kind=name(module, attribute)), classes=[Guarded])
    with pytest.raises(PatchFormatError, match=r"the patch class .* is unknown"):
        loads(canonical(kind=new(name(PATCH_MODULES[MERGED], MERGED))))


# The unpickler itself.


@pytest.mark.threat("T1")
@pytest.mark.parametrize(
    "pair", [("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("", ""), ("numpy", "dtype.type")]
)
def test_find_class_imports_nothing(pair):
    """Every call of ``find_class`` returns a row of the table or raises an error."""
    unpickler = PatchUnpickler(io.BytesIO(canonical()))
    with pytest.raises(UnsafePickleError, match="asks for"):
        unpickler.find_class(*pair)
    for known, row in TABLE.items():
        assert unpickler.find_class(*known) is row
    with pytest.raises(UnsafePickleError, match="outside itself"):
        unpickler.persistent_load("x")
    mine = PatchUnpickler(io.BytesIO(canonical()), classes=[Guarded]).find_class(Guarded.__module__, "Guarded")
    assert mine.patch_class is Guarded
    assert not callable(mine)
    with pytest.raises(UnsafePickleError, match="Guarded"):
        unpickler.find_class(Guarded.__module__, "Guarded")


@pytest.mark.parametrize("value", VALUES)
def test_unpickler_loads_what_loads_does(value):
    """The same patch, of a tagged value, too; other content is refused."""
    for stored in (value, append_tag(MacKey.generate(), b"BEN", b"name", value)):
        assert PatchUnpickler(io.BytesIO(stored)).load() == loads(value)
    with pytest.raises(PatchFormatError, match="not a pickle"):
        PatchUnpickler(io.BytesIO(S1_FILE)).load()


def test_unpickler_is_used_once():
    """A second ``load`` has nothing to read and says so as one of our errors."""
    unpickler = PatchUnpickler(io.BytesIO(canonical()))
    assert unpickler.load() == loads(canonical())
    with pytest.raises(BenSecureError):
        unpickler.load()


class Watched(PatchUnpickler):
    """Notes what CPython's own ``load`` would ask for."""

    asked: list[object] = []  # noqa: RUF012

    def find_class(self, module, attribute, /):
        self.asked.append((module, attribute))
        return super().find_class(module, attribute)

    def persistent_load(self, pid):
        self.asked.append(pid)


@pytest.mark.threat("T1")
@pytest.mark.parametrize("value", [*VALUES, with_metadata(name("os", "system")), with_metadata(text("0") + b"Q")])
def test_the_engine_of_cpython_never_sees_a_payload(value):
    """``load`` runs the machine; the hooks of CPython's own ``load`` are never called."""
    Watched.asked.clear()
    with contextlib.suppress(UnsafePickleError):
        assert Watched(io.BytesIO(value)).load() == loads(value)
    assert Watched.asked == []
    with pytest.raises(
        (BenSecureError, TypeError, AttributeError, pickle.UnpicklingError)
    ):  # and if it were asked, there is nothing to call
        pickle.Unpickler.load(Watched(io.BytesIO(value)))
    assert Watched.asked


@pytest.mark.threat("T1")
def test_the_file_is_read_once_and_by_nobody_else():
    """One ``read`` of a value with its footer; the engine would ask for lines, frames and single bytes."""

    class File(io.BytesIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

        def readline(self, *size):
            raise AssertionError("a line is asked for")

        readinto = peek = readline

    for value in (*VALUES, canonical() * 2, b""):
        asked = []
        with contextlib.suppress(BenSecureError):
            assert PatchUnpickler(File(value), limits=Limits(max_value_bytes=10**6)).load() == loads(value)
        assert asked == [10**6 + 64 + 1]


@pytest.mark.threat("T1")
def test_no_function_of_pickle_runs():
    """Seen from the interpreter: nothing of pickle reads, evaluates or imports; a finished patch may be written."""
    called = set()

    def watch(frame, event, argument):
        if event == "c_call":
            called.add((argument.__module__ or type(argument.__self__).__module__, argument.__qualname__))
        elif event == "call":
            called.add((frame.f_globals.get("__name__"), frame.f_code.co_name))

    for watching in (False, True):  # messages import their modules in the first turn
        sys.setprofile(watch if watching else None)
        try:
            for value in [*VALUES, *HOSTILE]:
                with contextlib.suppress(BenSecureError):
                    PatchUnpickler(io.BytesIO(value)).load()
        finally:
            sys.setprofile(None)
    assert ("ben_secure.pickles.machine", "run") in called
    of_pickle = {name for module, name in called if module in ("_pickle", "pickle")}
    assert of_pickle <= {"Unpickler.__init__", "__init__", "Pickler.dump"}
    words = {name.rpartition(".")[2] for _, name in called}
    assert not words & {"__import__", "exec", "eval", "compile", "getattr", "setattr", "__setstate__", "import_module"}


def test_errors_keep_their_cause():
    """Errors of numpy or the interpreter are chained, for debugging."""
    with pytest.raises(PatchFormatError) as caught:
        loads(canonical(pixels=array_blob(b"abc")))
    assert isinstance(caught.value.__cause__, ValueError)


# To lack memory is no verdict.


@pytest.mark.threat("T2")
@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_lack_of_memory_is_no_verdict(error, monkeypatch):
    """It is raised as our error without a verdict, wherever it occurs and for every reader."""

    def fails(*arguments):
        raise error

    def unpickled(value):
        return PatchUnpickler(io.BytesIO(value)).load()

    for place, attribute in ((machine, "run"), (BigEarthNetPatch, "_assemble")):
        with monkeypatch.context() as patched:
            patched.setattr(place, attribute, fails)
            for read, value in ((loads, canonical()), (unpickled, canonical()), (loads, S1_FILE)):
                if attribute == "_assemble" or value is not S1_FILE:
                    with pytest.raises(ResourceError, match="not judged") as caught:
                        read(value)
                    assert isinstance(caught.value.__cause__, error)
    assert unpickled(canonical()) == loads(canonical())
    assert loads(S1_FILE)


@pytest.mark.threat("T2")
def test_a_full_stack_is_no_verdict():
    """Close to the recursion limit of the interpreter the verdict is that of the value, or there is none."""
    hostile, honest, decoder = with_metadata(name("os", "system")), canonical(), Decoder()

    def at(depth, value):
        return at(depth - 1, value) if depth else decoder.load(value, len(value))

    seen = {hostile: set(), honest: set()}
    for value, found in seen.items():
        for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit()):
            try:
                assert at(depth, value) == loads(honest)
                found.add("patch")
            except UnsafePickleError:
                found.add("refused")
            except ResourceError:
                found.add("undecided")
            except RecursionError:
                found.add("no room to begin")
    assert seen[hostile] == {"refused", "undecided", "no room to begin"}
    assert seen[honest] == {"patch", "undecided", "no room to begin"}
    assert decoder.load(honest, len(honest))


def child(script, **env):
    """Run a script in a separate process; return its output."""
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, **env}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


ALLOCATIONS = """
import _testcapi
from ben_secure.errors import ResourceError, UntrustedDataError
from ben_secure.values import Decoder
from support import fuzz_core

def read(decoder, value):
    try:
        return decoder.load(value, len(value))
    except ResourceError:
        return None
    except UntrustedDataError as error:
        return type(error), str(error)

values = fuzz_core.honest_values()
decided = undecided = 0
for value in [*values, values[0][:-1], values[4][:-3], values[4] + b"x"]:
    expected, warm = read(Decoder(), value), Decoder()
    for _ in range(3):
        read(warm, value)
    for memory in (None, warm):
        same = allocation = 0
        while same < 20:
            decoder = memory or Decoder()
            try:
                _testcapi.set_nomemory(allocation, allocation + 1)
                try:
                    verdict = read(decoder, value)
                finally:
                    _testcapi.remove_mem_hooks()
            except (MemoryError, SystemError):  # before the decoder was called; or CPython has lost the error
                verdict = None
            assert verdict is None or verdict == expected, (allocation, verdict)
            assert read(decoder, value) == expected, allocation
            same = 0 if verdict is None else same + 1
            decided, undecided, allocation = decided + same, undecided + (verdict is None), allocation + 1
print(decided > 100, undecided > 1000)
"""


@pytest.mark.slow
@pytest.mark.threat("T2")
def test_an_allocation_that_fails_is_no_verdict():
    """For every failing allocation, the verdict is that of the value, or none; and the memory stays correct."""
    pytest.importorskip("_testcapi", reason="this Python cannot make allocations fail")
    assert child(ALLOCATIONS) == "True True\n"


LITTLE_MEMORY = """
import resource
import numpy as np
from ben_secure import loads
from ben_secure.audit import scan_value
from ben_secure.errors import ResourceError
from support.assembler import array_blob, canonical, entry, number, tup
from support.legacy_values import Maker, write

pixels, maker = np.ones((3600, 4000), "|u1"), Maker()
legacy = write(maker.generic({"g": maker.band("Band", "g", 10, pixels)}, {}))
layout = tup(entry(rows=number(3600), columns=number(4000)))
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
for value in (legacy, canonical(layout=layout, pixels=array_blob(bytes(pixels)))):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**23, hard))
    for read in (loads, lambda value: scan_value(b"k", value)):
        try:
            read(value)
        except ResourceError as error:
            assert isinstance(error.__cause__, MemoryError)
        else:
            raise SystemExit("there was memory enough")
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert loads(value).bands[0].data.all()
    assert scan_value(b"k", value) is None
print("done")
"""


@pytest.mark.threat("T2")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
def test_too_little_memory_is_no_verdict():
    """A good value without enough memory is undecided, in the loader and the audit, and good afterwards."""
    # So that glibc gives large pieces of memory back.
    assert child(LITTLE_MEMORY, MALLOC_MMAP_THRESHOLD_="65536") == "done\n"


# Anything at all.


@given(st.binary(max_size=400))
@example(b"")
@example(b"\x80")
@example(b"\x80\x04.")
def test_any_bytes_are_a_patch_or_one_of_our_errors(data):
    """No bytes make anything else happen, with or without a plausible beginning."""
    for value in (data, b"\x80\x04" + data, b"\x80\x05" + data + b".", canonical()[:40] + data):
        with pytest.raises(BenSecureError):
            loads(value)


@given(st.integers(0, 2**63))
def test_mutations_are_a_patch_or_one_of_our_errors(seed):
    """Honest values with a few changes, too; accepted values can be written and read again."""
    rng = random.Random(seed)
    value = rng.choice(VALUES)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = mutate(rng, value, VALUES)
    found = fuzz_core.verdict(value)
    if isinstance(found, BigEarthNetPatch):
        assert loads(found.dumps()) == found
        assert isinstance(repr(found), str)
        assert pickle.loads(pickle.dumps(found)) == found


@given(st.integers(0, 2**63))
def test_flipped_bits_are_a_patch_or_one_of_our_errors(seed):
    """A single flipped bit is the most frequent damage."""
    rng = random.Random(seed)
    value = bytearray(rng.choice(VALUES))
    place = rng.randrange(len(value)) if rng.random() < 0.3 else rng.randrange(min(len(value), 600))
    value[place] ^= 1 << rng.randrange(8)
    found = fuzz_core.verdict(bytes(value))
    assert isinstance(found, BigEarthNetPatch) or found[-1]


def test_short_fuzzing():
    """A second of the fuzzer, as ``python tests/fuzz/run.py --target value`` runs it for hours."""
    seed = int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    for _ in range(300):
        base = value = rng.choice(VALUES)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
            value = mutate(rng, value, VALUES)
        try:
            fuzz_core.examine(value, base)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {value!r}") from error


def test_rebuild_patch_is_what_plain_pickle_finds():
    """A canonical value names a function that exists, so that plain pickle reads it too."""
    assert REBUILD_PATCH in canonical()
    assert pickle.loads(canonical()) == loads(canonical())


def kept(value, decoder=None):
    """The patch that a reader makes: it may keep the memory that the value was read into."""
    decoder = decoder or Decoder()
    at = decoder.pickles.pixels_at % 16
    memory = np.empty(len(value) + 16, np.uint8)
    view = memoryview(memory)[-at % 16 :][: len(value)]
    view[:] = value
    return decoder.load(view, len(value), at), memory


class TestMemoryOfTheCaller:
    """A patch may keep the memory that its value was read into; it is the patch that ``loads`` returns."""

    @pytest.mark.parametrize("place", range(len(VALUES)))
    def test_it_equals_what_loads_returns(self, place):
        """For any value, known or not."""
        value, decoder = VALUES[place], Decoder()
        for _ in range(5):
            patch, (found, _) = loads(value), kept(value, decoder)
            assert type(found) is type(patch)
            assert found == patch
            assert found.dumps() == patch.dumps()

    @given(st.integers(0, len(VALUES) - 1), st.randoms(use_true_random=False))
    def test_it_is_refused_for_the_same_reason(self, place, rng):
        """Any change of a value gives the same verdict from bytes and from memory of the caller."""
        value = mutate(rng, VALUES[place], VALUES)
        verdicts = []
        for read in (loads, lambda value: kept(value)[0]):
            try:
                verdicts.append(read(value).dumps())
            except BenSecureError as error:
                verdicts.append((type(error), str(error)))
        assert verdicts[0] == verdicts[1]

    def test_pixels_are_not_copied_when_they_are_aligned(self):
        """From the second value on they are; the arrays are writable, and metadata can be set."""
        decoder = Decoder()
        for turn in range(4):
            patch, memory = kept(make_patch(seed=turn, labels=["a"]).dumps(), decoder)
            assert np.shares_memory(patch.band02.data, memory) == (turn > 0)
            assert patch.band02.data.flags.aligned
            assert patch == make_patch(seed=turn, labels=["a"])
            patch.band02.data[0, 0] = 1
            patch.labels = []

    def test_pixels_that_are_not_aligned_are_copied(self):
        """numpy would read them, slowly; other libraries would not."""
        decoder, value = Decoder(), make_patch().dumps()
        kept(value, decoder)
        memory = memoryview(bytearray(value))
        for aligned in range(16):
            patch = decoder.load(memory, len(value), aligned)
            expected = aligned == decoder.pickles.pixels_at % 16
            assert np.shares_memory(patch.band02.data, np.frombuffer(memory, np.uint8)) == expected


class TestValuesThatDifferInPixels:
    """The result for one value is reused for the next, if only its pixels differ."""

    def values(self, count=6, **metadata):
        return [make_patch(seed=seed, **(metadata or {"labels": ["a", "b"], "n": 1})).dumps() for seed in range(count)]

    def test_pixels_are_each_value_s_own(self):
        """And so is all of its metadata that can be changed."""
        for read in (loads, lambda value: kept(value)[0]):
            found = [read(value) for value in self.values()]
            for seed, patch in enumerate(found):
                assert patch == make_patch(seed=seed, labels=["a", "b"], n=1)
                patch.labels.append("c")
            assert loads(self.values()[0]).labels == ["a", "b"]
        patches = [loads(value) for value in self.values()]
        patches[4].labels.append("c")
        patches[4].band02.data[...] = 0
        assert patches[5].labels == ["a", "b"]
        assert loads(make_patch(seed=4, labels=["a", "b"], n=1).dumps()) == make_patch(seed=4, labels=["a", "b"], n=1)

    def test_metadata_of_any_depth_is_each_value_s_own(self):
        """Also if it is built again each time."""
        patches = [loads(value) for value in self.values(labels=["a"], deep={"x": [1]}, array=np.arange(3))]
        patches[4].deep["x"].append(2)
        patches[4].array[0] = 7
        assert patches[5].deep == {"x": [1]}
        assert patches[5].array[0] == 0

    @pytest.mark.threat("T3")
    def test_a_value_of_another_length_is_refused(self):
        """However often the honest ones were seen; one byte more or less, with the count of the block to match."""
        decoder = Decoder()
        for value in self.values():
            assert kept(value, decoder)[0] == loads(value)
        block = value.index(b"\x96") + 1
        size = int.from_bytes(value[block : block + 8], "little")
        start = block + 8
        for changed in (size - 1, size + 1):
            forged = value[:block] + changed.to_bytes(8, "little") + bytes(changed) + value[start + size :]
            for read in (loads, lambda value: kept(value, decoder)[0]):
                with pytest.raises(BenSecureError):
                    read(forged)
        zero = value[:start] + bytes(size) + value[start + size :]
        assert not loads(zero).band02.data.any()

    @pytest.mark.threat("T3")
    @pytest.mark.parametrize("stored", [dct(text("x"), get(0)), dct(text("x"), lst(get(0)))])
    def test_metadata_that_is_the_pixels_is_read_the_same_however_much_is_known(self, stored):
        """Values of the same beginning were seen or not: the same patch, and its own bytes in the metadata."""
        layout = tup(*(entry(band=text(f"b{place}"), rows=number(10), columns=number(10)) for place in range(30)))

        def value(seed, stored):
            return canonical(layout=layout, pixels=blob(bytes([seed]) * 3000) + MEMO, stored=stored)

        expected = [at_first(value(seed, stored)) for seed in range(6)]
        decoder = Decoder()
        for seed in range(6):
            decoder.load(value(seed, b"}"), len(value(seed, b"}")))
        for seed, patch in enumerate(expected):
            assert decoder.load(value(seed, stored), len(value(seed, stored))) == loads(value(seed, stored)) == patch
            assert (patch.x if isinstance(patch.x, bytes) else patch.x[0]) == bytes([seed]) * 3000

    @pytest.mark.threat("T3")
    def test_bytes_between_bands_are_looked_at_each_time(self):
        """They depend on the pixels, so no earlier value speaks for them."""
        bands = [
            Band(name=name, spatial_resolution=1, data_shape=(33, 33), data=np.ones((33, 33), dtype))
            for name, dtype in (("a", "u1"), ("b", "u2"))
        ]
        value = BigEarthNetPatch(bands).dumps()
        decoder = Decoder()
        for _ in range(6):
            assert kept(value, decoder)[0] == loads(value)
        place = value.index(b"\x01" * 1089 + b"\0") + 1089
        for read in (loads, lambda value: kept(value, decoder)[0]):
            with pytest.raises(PatchFormatError, match="unused bytes between bands"):
                read(value[:place] + b"\1" + value[place + 1 :])


def legacy(kind=MERGED, generation="numpy1-pydantic1", seed=0, metadata=None, **dtypes):
    """A value of the original package with the pixels of a seed."""
    graph = Maker(GENERATIONS[generation]).standard(
        kind, pixels_of(seed, **dtypes), labels() if metadata is None else metadata
    )
    return write(graph)


def at_first(value):
    """The patch that is read by a process that has read nothing yet."""
    return Decoder().load(value, len(value))


class TestLegacyValuesThatDifferInPixels:
    """The same for values of the original package, whose pixels are a block for each band."""

    @pytest.mark.parametrize("generation", GENERATIONS)
    @pytest.mark.parametrize("kind", [S1, S2, MERGED])
    def test_each_is_what_a_new_process_reads(self, generation, kind):
        """However many were read before; and patches share nothing that can be changed."""
        values = [legacy(kind, generation, seed) for seed in range(6)]
        expected = [at_first(value) for value in values]
        decoder = Decoder()
        found = [decoder.load(value, len(value)) for value in values]
        assert note(decoder, values[-1]) is note(decoder, values[-1])
        assert found == expected
        for patch in found:
            patch.labels.append("changed")
            patch.get_band_by_name(patch.bands[0].name).data[...] = 1
        assert [loads(value) for value in values] == expected
        assert [kept(value, decoder)[0] for value in values] == expected

    @pytest.mark.threat("T3")
    def test_an_array_in_the_metadata_is_each_value_s_own(self):
        """Its bytes are a block, too, so the result for one value is not reused for the next."""
        values = [legacy(S1, metadata={"map": Maker().array(np.full(600, seed, "<u2"))}) for seed in range(6)]
        decoder = Decoder()
        assert [int(decoder.load(value, len(value)).map[0]) for value in values] == [0, 1, 2, 3, 4, 5]
        assert note(decoder, values[-1]) is not note(decoder, values[-1])

    @pytest.mark.threat("T3")
    @pytest.mark.parametrize("shape", ["bytes", "list", "array"])
    def test_metadata_that_is_the_pixels_of_a_band_is_each_value_s_own(self, shape):
        """One block may be both: then the metadata differs with the pixels, and nothing is recalled."""
        values = []
        for seed in range(6):
            graph = Maker().standard(S1, pixels_of(seed), labels())
            array = graph.state["bandVH"].state["__dict__"]["data"]
            both = {"bytes": array.state[4], "list": [array.state[4]], "array": array}[shape]
            graph.state["__stored_args__"]["both"] = graph.state["both"] = both
            values.append(write(graph))
        expected = [at_first(value) for value in values]
        decoder = Decoder()
        for value, patch in zip(values, expected, strict=True):
            assert decoder.load(value, len(value)) == kept(value, decoder)[0] == patch
            both = patch.both[0] if shape == "list" else patch.both
            assert bytes(both) == patch.bandVH.data.tobytes()
        assert note(decoder, values[-1]) is not note(decoder, values[-1])

    @pytest.mark.threat("T3")
    def test_one_block_for_two_bands_is_read_for_both(self):
        """This order of blocks is unusual, so nothing is reused; the counterpart has a block for each band."""
        values = []
        for seed in range(6):
            pixels = pixels_of(seed)
            graph = Maker().standard(S1, pixels, labels())
            graph.state["bandVV"].state["__dict__"]["data"] = graph.state["bandVH"].state["__dict__"]["data"]
            values.append(write(graph))
        decoder = Decoder()
        for seed, value in enumerate(values):
            patch = decoder.load(value, len(value))
            assert (patch.bandVV.data == pixels_of(seed)["VH"]).all()
            assert (patch.bandVH.data == pixels_of(seed)["VH"]).all()
        assert note(decoder, values[-1]) is not note(decoder, values[-1])

    def test_foreign_byte_order_is_swapped_each_time(self):
        """The patch's bytes are not those of the block, so nothing is recalled."""
        values = [legacy(S1, seed=seed, s1=">f4") for seed in range(6)]
        expected = [at_first(value) for value in values]
        assert [loads(value) for value in values] == expected
        assert (expected[5].bandVV.data == pixels_of(5)["VV"]).all()

    def test_one_list_in_two_places_stays_one(self):
        """Metadata that is shared within a patch is shared within each patch, and by no two of them."""
        shared = ["Pastures"]
        values = [legacy(S1, seed=seed, metadata={"labels": shared, "again": shared}) for seed in range(6)]
        patches = [loads(value) for value in values]
        assert all(patch.labels is patch.again for patch in patches)
        assert patches[4].labels is not patches[5].labels

    @pytest.mark.threat("T3")
    def test_a_block_of_another_length_is_refused(self):
        """However often the honest values were seen."""
        values = [legacy(S2, seed=seed) for seed in range(6)]
        for value in values:
            loads(value)
        place = value.index(b"B" + (800).to_bytes(4, "little"))
        for changed in (799, 801):
            forged = value[:place] + b"B" + changed.to_bytes(4, "little") + bytes(changed) + value[place + 805 :]
            with pytest.raises(BenSecureError):
                loads(forged)
        assert not loads(value[: place + 5] + bytes(800) + value[place + 805 :]).band01.data.any()

    @given(st.integers(0, len(VALUES) - 1), st.randoms(use_true_random=False))
    def test_a_value_with_a_note_loads(self, place, rng):
        """The law of notes, for honest values and changed ones: there is one exactly if there is a patch."""
        decoder = Decoder()
        for value in (VALUES[place],) * 3 + (mutate(rng, VALUES[place], VALUES),) * 2:
            alone = fuzz_core.verdict(value)
            assert fuzz_core.same(fuzz_core.verdict(value, decoder=decoder), alone)
            with contextlib.nullcontext() if isinstance(alone, BigEarthNetPatch) else pytest.raises(BenSecureError):
                note(decoder, value)
