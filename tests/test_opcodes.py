"""The first wall: what the walk admits, what it hands out to be executed, and that its cache changes nothing."""

import io
import pickle
import random
import struct
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure.errors import BenSecureError, LimitExceededError, PatchFormatError, Rule, UnsafePickleError
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches import BigEarthNetPatch
from ben_secure.pickles import _segments, loads, opcodes
from ben_secure.pickles._segments import Segments
from support import fuzz_core
from support.assembler import (
    HONEST,
    MEMO,
    NONE,
    STOP,
    array_blob,
    blob,
    call,
    canonical,
    canonical_parts,
    dct,
    frame,
    get,
    lst,
    members,
    name,
    nested,
    new,
    number,
    program,
    text,
    tup,
    with_metadata,
)
from support.attacks import ATTACKS
from support.fuzz_core import ADMITTED, examine, honest_values, mutate, pieces, random_program, reframed
from support.legacy_values import GENERATIONS, GENERIC, MERGED, PATCH_MODULES, S1, labels, small_tree, tree, write
from support.strategies import make_patch

VALUES = honest_values()
BLOCK = b"B" + (600).to_bytes(4, "little") + b"a" * 600
seeds = st.integers(0, 2**63)


def check(value, **limits):
    """Check under the default limits, or under some others."""
    return opcodes.check(value, Limits(**limits) if limits else DEFAULT_LIMITS)


@pytest.fixture(autouse=True)
def forget():
    """Each test starts without remembered segments."""
    Segments.forget()


# What is admitted.


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("protocol", [4, 5])
def test_honest_legacy_values_pass(generation, protocol):
    """What the original package writes is admitted, in either protocol."""
    assert check(write(small_tree(generation), protocol))
    assert check(write(tree(S1, generation, s1="|i1"), protocol))


def test_plain_pickles_of_plain_data_pass():
    """The walk admits what CPython writes for plain data; that it is no patch is found later."""
    data = {
        "a": [1, -1, 2**40, 0.5, None, True, "x", "y" * 300, b"b", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "b": {"c": {1, "x", None, b"y"}, "d": set(), "e": {}, "f": []},
        "g": bytearray(b"z"),
    }
    for protocol in (4, 5):
        value = pickle.dumps({k: v for k, v in data.items() if k != "g" or protocol == 5}, protocol)
        found = check(value)
        assert pickle.loads(found.opcodes, buffers=found.buffers) == pickle.loads(value)


@pytest.mark.threat("T1")
@pytest.mark.parametrize("op", range(256))
def test_every_other_opcode_is_refused(op):
    """An opcode outside the list is refused where it stands, whatever its operands are."""
    value = b"\x80\x04" + bytes([op]) + b"\0\0\0\0\0\0\0\0\n\n."
    if op in ADMITTED:
        with pytest.raises((PatchFormatError, UnsafePickleError, LimitExceededError)) as caught:
            check(value)
        assert (caught.value.rule, caught.value.offset) != (Rule.FORBIDDEN_OPCODE, 2)
    else:
        with pytest.raises(UnsafePickleError, match="not needed by any patch") as caught:
            check(value)
        assert (caught.value.rule, caught.value.offset) == (Rule.FORBIDDEN_OPCODE, 2)


# Where and what.


@pytest.mark.threat("T1")
def test_error_says_where_and_what():
    """Offset, opcode and global ride as attributes."""
    value = with_metadata(call(name("os", "system"), text("x")))
    with pytest.raises(UnsafePickleError) as caught:
        check(value)
    error = caught.value
    assert value[error.offset : error.offset + 1] == b"\x93"
    assert (error.opcode, error.global_name) == ("STACK_GLOBAL", "os.system")


@pytest.mark.parametrize(
    "attack", [pytest.param(a, id=a.name, marks=pytest.mark.threat(a.threat)) for a in ATTACKS[::7]]
)
def test_offset_is_that_of_an_opcode(attack):
    """What the walk refuses, it refuses at the first byte of an opcode that it names."""
    value = attack.value()
    with pytest.raises(BenSecureError) as caught:
        loads(value)
    error = caught.value
    if error.opcode and not error.opcode.startswith("0x"):
        assert fuzz_core.pickletools.code2op[chr(value[error.offset])].name == error.opcode


# Frames.


@given(seeds)
def test_frames_at_opcode_boundaries_change_nothing(seed):
    """An honest program means the same in any frames, and in none."""
    rng = random.Random(seed)
    value = rng.choice(VALUES[:7])
    framed = reframed(rng, pieces(value))
    assert loads(framed) == loads(value)


@pytest.mark.threat("T1")
@given(seeds)
def test_frames_inside_an_opcode_are_refused(seed):
    """A frame may end at an opcode boundary and nowhere else."""
    rng = random.Random(seed)
    found = pieces(rng.choice(VALUES[:7]))[1:]
    rest = b"".join(found)
    ends, position = set(), 0
    for piece in found:
        position += len(piece)
        ends.add(position)
    length = rng.choice([n for n in range(1, len(rest)) if n not in ends])
    with pytest.raises(UnsafePickleError, match="crosses the end of its frame"):
        check(b"\x80\x04" + frame(rest, length=length))
    assert check(b"\x80\x04" + frame(rest, length=rng.choice(sorted(ends))))


# Limits: each is honoured, and inclusive.


@pytest.mark.threat("T2")
@pytest.mark.parametrize(
    ("limit", "most", "value"),
    [
        ("max_value_bytes", len(canonical()), canonical()),
        ("max_opcodes", len(pieces(canonical())) - 1, canonical()),
        ("max_opcodes", 2, program(blob(bytes(600)))),
        ("max_opcodes", 20, program(lst(*[NONE] * 16))),
        ("max_memo", 3, program(text("a") + MEMO * 3)),
        ("max_memo", 3, program(lst(NONE + MEMO, b"]" + MEMO, b"}" + MEMO))),
        ("max_depth", 5, program(nested(4, b"]", b"a", b"]"))),
        ("max_depth", 5, program(nested(5, b"", b"\x85"))),
        ("max_nodes", 11, program(lst(*[NONE] * 10))),
        ("max_nodes", 11, program(lst(lst(NONE, NONE, NONE, NONE) + MEMO, get(0)))),
        ("max_text_bytes", 600, program(tup(text("a" * 300), text("b" * 300)))),
        ("max_int_bytes", 9, program(number(2**70))),
    ],
)
def test_limit_is_honoured(limit, most, value):
    """What just fits passes, and one less is refused, however often it is asked for."""
    for _ in range(5):
        assert check(value, **{limit: most})
        with pytest.raises(LimitExceededError) as caught:
            check(value, **{limit: most - 1})
        assert caught.value.rule == Rule.LIMIT
        assert "Limits" in str(caught.value)


# The program that is handed out is the one that was checked.


@given(seeds)
def test_random_programs_agree_with_cpython(seed):
    """Whatever is admitted means the same to the walk's program, to the C unpickler and to the Python one."""
    examine(random_program(random.Random(seed)))


@given(seeds)
def test_mutations_agree_with_cpython(seed):
    """The same for honest values after a few changes, with warm and with empty caches."""
    rng = random.Random(seed)
    base = value = rng.choice(VALUES)
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = mutate(rng, value, VALUES)
    examine(value, base)


@given(seeds)
def test_grown_programs_agree_with_cpython(seed):
    """The same for parts put into the metadata of a patch, where more of them is admitted."""
    rng = random.Random(seed)
    inside = [rng.choice((fuzz_core.random_part, fuzz_core.random_opcode))(rng) for _ in range(rng.randrange(1, 5))]
    examine(with_metadata(b"(" + b"".join(inside) + b"t"), canonical())


def test_program_has_the_blocks_out_of_band():
    """Long bytes are not copied: they are views of the payload, told apart from bytearrays."""
    value = program(tup(blob(b"a" * 600), array_blob(b"b" * 600), blob(b"c" * 100)))
    found = check(value)
    assert [(block.format, block.tobytes()) for block in found.blocks] == [("B", b"a" * 600), ("b", b"b" * 600)]
    assert all(block.obj is value for block in found.blocks)
    assert len(found.opcodes) < 200


# The cache of segments.


@pytest.mark.threat("T1")
@given(st.lists(seeds, min_size=2, max_size=8))
def test_history_does_not_change_a_verdict(order):
    """Values in any order, honest and not, get the verdict that they get alone."""
    values = []
    for seed in order:
        rng = random.Random(seed)
        value = rng.choice(VALUES)
        values.append(mutate(rng, value, VALUES) if rng.random() < 0.6 else value)
    alone = []
    for value in values:
        Segments.forget()
        alone.append(fuzz_core.verdict(value))
    Segments.forget()
    for _ in range(3):
        assert [fuzz_core.verdict(value) for value in values] == alone


def checked(value):
    """What the walk says of a value, whole."""
    try:
        found = opcodes.check(value, DEFAULT_LIMITS)
    except BenSecureError as error:
        return type(error), error.message, error.rule, error.offset
    return found.opcodes if found.known is None else None, [bytes(block) for block in found.blocks]


def test_a_state_that_is_too_large_to_be_kept_leaves_no_gap():
    """What was checked is what is executed, also the second time: nothing is remembered behind a cut that is not."""
    block = b"B" + (600).to_bytes(4, "little")
    value = b"\x80\x04](" + b"K\x01" * 2100 + block + b"a" * 600 + b"e" + block + b"b" * 600 + b"\x86."
    first = opcodes.check(value, DEFAULT_LIMITS)
    for _ in range(5):
        again = opcodes.check(value, DEFAULT_LIMITS)
        assert (again.opcodes, list(map(bytes, again.blocks))) == (first.opcodes, [b"a" * 600, b"b" * 600])


@pytest.mark.threat("T1")
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3), st.integers(0, 2)), min_size=2, max_size=6))
def test_a_last_frame_of_any_length_is_known_and_one_that_ends_elsewhere_is_not(made):
    """Values whose last frames differ in length, or whose frame is not the last: each has the verdict of it alone."""
    block = b"B" + (600).to_bytes(4, "little") + b"a" * 600
    values = []
    for length, off, behind in made:
        body = block + b"\x8c\x02" + b"x" * 2 + b"N" * length + b"t"
        framed = b"\x95" + (len(body) + (behind == 0) + off).to_bytes(8, "little") + body
        values.append(b"\x80\x04(" + framed + (b"" if behind < 2 else block + b"\x86") + b".")
    alone = []
    for value in values:
        Segments.forget()
        alone.append(checked(value))
    Segments.forget()
    for _ in range(4):
        for value, expected in zip(values, alone, strict=True):
            found = checked(value)
            assert found[1:] == expected[1:]
            assert type(found) is type(expected)


@pytest.mark.threat("T1")
@pytest.mark.parametrize(
    "value",
    [
        write(tree(MERGED)),
        write(tree(S1), 5),
        make_patch().dumps(),
        b"\x80\x04(" + BLOCK + BLOCK + b"t.",
        b"\x80\x04(" + frame(BLOCK + b"N" * 20) + BLOCK + b"t.",
        b"\x80\x04(" + frame(BLOCK + b"N" * 20 + b"t") + b".",
    ],
    ids=["merged", "S1", "canonical", "no frame", "a frame and more", "a frame"],
)
def test_the_path_leads_where_the_edges_lead(value):
    """What is compared at once on the usual way is what is compared edge by edge, also of a value cut or changed."""
    Segments.forget()
    for _ in range(4):
        checked(value)
    known = _segments._DEFAULT_TREE
    way = known.path
    assert way.leads_to(value, len(value))
    borders = [place for segment, start in way._segments for place in (start, start + len(segment))]
    places = {place + more for place in borders for more in (-1, 0, 1)} & set(range(len(value)))
    cases = [(value, len(value)), (value + b"x" * 40, len(value))]
    cases += [(value, end) for end in places | {way.end, way.end + 1}]
    for place in places:
        changed = bytes([value[place] ^ 1])
        cases.append((value[:place] + changed + value[place + 1 :], len(value)))
        cases.append((value[:place] + changed + value[place:], len(value) + 1))
    shorter = 0
    for data, end in cases:
        found = []
        for path in (way, None):
            known.path = path
            segments = Segments(known, data, end)
            found.append((segments.end, segments.snapshot, segments.blocks, segments._program))
        assert found[0] == found[1]
        shorter += segments.end < way.end
    assert 0 < shorter < len(cases)


def test_the_length_of_the_labels_does_not_matter_to_the_cache():
    """Labels stand in the last frame with the last pixels; whatever their length, all but the end of it is known."""
    made = [pickle.dumps(_framed(n), 4) for n in range(60)]
    for value in made:
        checked(value)
    for value in made:
        segments = Segments.of(value, len(value), DEFAULT_LIMITS, frozenset())
        assert len(value) - segments.end < 1000
        assert len(segments.blocks) == 2


def _framed(n):
    return [bytes(70_000), bytes([n]) * 7_200, ["label" * n]]


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
    value = write(small_tree(metadata=metadata))
    first = loads(value)
    for _ in range(10):
        patch = loads(value)
        assert patch == first
        assert patch._extras() == {}
        if "y" in metadata and metadata["x"] is metadata["y"]:
            assert patch.x is patch.y


@pytest.mark.threat("T1")
def test_forbidden_names_are_found_behind_known_segments():
    """A value that begins like a thousand honest ones is checked to its end."""
    honest = write(tree(S1, s1="|i1", metadata={"x": "a", "y": "labels"}))
    for _ in range(10):
        loads(honest)
    hostile = honest.replace(text("a") + MEMO, name("a", "b") + MEMO)
    assert hostile != honest
    with pytest.raises(BenSecureError):
        loads(hostile)
    for word in (b"VV", b"BenS1_Band", b"_reconstruct", b"bandVH"):
        changed = honest.replace(word, b"\x1b" * len(word))
        with pytest.raises(BenSecureError):
            loads(changed)
    assert isinstance(loads(honest), BigEarthNetPatch)


@pytest.mark.threat("T1")
def test_other_limits_and_classes_share_no_verdict():
    """What was verified for one set of rules is unknown to another."""
    pair = ("archive", "Mine")
    value = program(new(name(*pair)) + dct(text("x"), blob(bytes(600))) + b"b")
    for _ in range(5):
        assert opcodes.check(value, DEFAULT_LIMITS, frozenset([pair]))
        with pytest.raises(UnsafePickleError, match=r"archive\.Mine"):
            opcodes.check(value, DEFAULT_LIMITS)
        with pytest.raises(LimitExceededError):
            opcodes.check(value, Limits(max_depth=1), frozenset([pair]))


@pytest.mark.threat("T1")
def test_threads_do_not_disturb_each_other():
    """Values that begin alike, loaded by several threads at once, are all themselves."""
    values = [write(tree(S1, s1="|i1", metadata={"labels": [f"label {n}"], "n": n})) for n in range(10)]
    hostile = [value.replace(b"label", b"\xff\xff\xff\xff\xff") for value in values]
    alone = [loads(value) for value in values]
    Segments.forget()
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(300):
            n = rng.randrange(10)
            if rng.random() < 0.02:
                Segments.forget()
            if fuzz_core.verdict(values[n]) != alone[n] or not isinstance(fuzz_core.verdict(hostile[n]), tuple):
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


@pytest.mark.threat("T2")
def test_memory_of_segments_is_bounded():
    """A hostile archive, every value of which is new, does not fill the memory."""
    import tracemalloc

    texts = [lst(*[text(f"{n}-{k}" + "y" * 90) + MEMO for k in range(200)]) for n in range(200)]
    values = [canonical(stored=dct(text("x"), x, text("y"), blob(bytes(600)))) for x in texts]
    loads(values[0])
    tracemalloc.start()
    try:
        for value in values:
            for _ in range(2):
                loads(value)
        assert tracemalloc.get_traced_memory()[0] < 48 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T3")
def test_what_is_in_the_memo_is_not_changed_afterwards():
    """An object that was fetched from the memo is final; one that was only stored is not."""
    check(program(b"]" + MEMO + NONE + b"a"))
    check(program(b"](" + NONE + b"e" + MEMO + get(0) + b"\x86"))
    with pytest.raises(UnsafePickleError, match="changed after it was used"):
        check(program(b"]" + MEMO + get(0) + NONE + b"a\x86"))
    with pytest.raises(UnsafePickleError, match="changed after it was used"):
        check(program(new(name(PATCH_MODULES[S1], S1)) + MEMO + get(0) + b"}b\x86"))


@pytest.mark.threat("T3")
def test_shared_objects_count_each_time():
    """Nodes are counted as if every reference were written out, sets and calls included."""
    level = members(*[number(n) for n in range(9)]) + MEMO
    assert check(program(tup(level, *[get(0)] * 3)), max_nodes=41)
    with pytest.raises(LimitExceededError, match="written out"):
        check(program(tup(level, *[get(0)] * 3)), max_nodes=40)


def test_stop_must_be_the_last_byte():
    """Exactly one pickle: what follows is refused, with the place where it begins."""
    value = canonical()
    with pytest.raises(PatchFormatError) as caught:
        check(value + b"x")
    assert (caught.value.rule, caught.value.offset) == (Rule.TRAILING_DATA, len(value))


def test_kinds_of_payload():
    """The walk reads bytes; the program refers to them without a copy."""
    value = b"\x80\x05" + frame(canonical_parts() + STOP)
    found = check(value)
    assert pickle.loads(found.opcodes) == loads(value)
    assert loads(io.BytesIO(value).getvalue()) == loads(canonical())
    assert struct.unpack("<Q", found.opcodes[3:11])[0] == len(found.opcodes) - 11
    assert text(GENERIC) in found.opcodes
    assert HONEST not in found.opcodes
