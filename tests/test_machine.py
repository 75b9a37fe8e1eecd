"""The machine: the accepted programs, their results, and the places where it stops."""

import pickle
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import loads
from ben_secure.errors import BenSecureError, LimitExceededError, PatchFormatError, Rule, UnsafePickleError
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.pickles import machine
from ben_secure.pickles.names import TABLE, declared
from ben_secure.pickles.records import Block, Record
from support import fuzz_core
from support.assembler import (
    MEMO,
    NONE,
    array_blob,
    blob,
    call,
    canonical,
    frame,
    get,
    lst,
    members,
    name,
    new,
    number,
    program,
    text,
    tup,
    with_metadata,
)
from support.attacks import ATTACKS
from support.fuzz_core import ADMITTED, examine, honest_values, mutate, pieces, random_program, reframed
from support.legacy_values import GENERATIONS, PATCH_MODULES, S1, small_tree, tree, write

VALUES = honest_values()
seeds = st.integers(0, 2**63)


def check(value, **limits):
    """Run under the default limits, or under some others; gives the state at the end."""
    return machine.run(value, len(value), TABLE, Limits(**limits) if limits else DEFAULT_LIMITS)


def plain(item, value):
    """The result of the machine, with bytes in place of blocks."""
    if type(item) is Block:
        return (bytearray if item.mutable else bytes)(value[item.start : item.stop])
    if type(item) in (list, tuple, set):
        return type(item)(plain(part, value) for part in item)
    return {key: plain(part, value) for key, part in item.items()} if type(item) is dict else item


# Accepted programs.


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("protocol", [4, 5])
def test_honest_legacy_values_pass(generation, protocol):
    """Values of the original package are accepted, in either protocol."""
    assert check(write(small_tree(generation), protocol))
    assert check(write(tree(S1, generation, s1="|i1"), protocol))


def test_plain_pickles_of_plain_data_pass():
    """The machine accepts CPython's pickles of plain data; a later step finds that they are not patches."""
    data = {
        "a": [1, -1, 2**40, 0.5, None, True, "x", "y" * 300, b"b", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "b": {"c": {1, "x", None, b"y"}, "d": set(), "e": {}, "f": []},
        "g": bytearray(b"z"),
        "h": [b"h" * 600, {b"i" * 600}, bytearray(b"j" * 600)],
    }
    for protocol in (4, 5):
        written = {k: v for k, v in data.items() if k not in "gh" or protocol == 5}
        value = pickle.dumps(written, protocol)
        assert plain(check(value).levels[0][0], value) == written


@pytest.mark.threat("T1")
@pytest.mark.parametrize("op", range(256))
def test_every_other_opcode_is_refused(op):
    """An opcode outside the list is refused at its position, for any operands."""
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
    """Offset, opcode and global are attributes of the error."""
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
    """A refusal has the position of the first byte of an opcode, and its name."""
    value = attack.value()
    with pytest.raises(BenSecureError) as caught:
        loads(value)
    error = caught.value
    if error.opcode and not error.opcode.startswith("0x"):
        assert fuzz_core.pickletools.code2op[chr(value[error.offset])].name == error.opcode


@pytest.mark.parametrize(
    ("rule", "value", "words"),
    [
        (Rule.FORBIDDEN_GLOBAL, with_metadata(name("os", "system")), r"os\.system, .* \(STACK_GLOBAL at byte 112\);"),
        (Rule.FORBIDDEN_OPCODE, program(NONE + b"0"), r"opcode 0x30 is not needed by any patch \(POP at byte 3\);"),
        (Rule.STRUCTURE, program(NONE + b"}b"), r"target is a NoneType, not a fresh Record \(BUILD at byte 4\);"),
        (Rule.CALL_SHAPE, program(call(name("numpy", "dtype"))), r"dtype .* \(REDUCE at byte 19\);"),
        (Rule.LIMIT, program(b"\x8a\x41" + bytes(65)), r"bytes of an integer: found 65, at most 64 .* Limits"),
        (Rule.MALFORMED, b"\x80\x04\x8c", r"damaged: cut short or out of step \(byte 2\); fetch the value"),
        (Rule.TRAILING_DATA, canonical() + b"xy", r"^2 bytes follow the end of the pickle: a second"),
        (Rule.NOT_A_PICKLE, b"hello", r"^not a pickle: it starts with b'hello', expected PROTO, b'\\x80'$"),
    ],
    ids=lambda value: value if isinstance(value, Rule) else "",
)  # fmt: skip
def test_a_refusal_says_what_where_and_what_to_do(rule, value, words):
    """There is one message for each rule."""
    with pytest.raises(BenSecureError, match=words) as caught:
        check(value)
    assert caught.value.rule == rule


@pytest.mark.threat("T1")
@given(seeds, st.binary(max_size=80))
def test_no_byte_behind_the_end_decides_anything(seed, footer):
    """With any bytes behind the payload the object is the same, or the refusal is, at the same place."""
    rng = random.Random(seed)
    value = rng.choice(VALUES)
    if rng.random() < 0.7:
        value = mutate(rng, value, VALUES)[: rng.choice((10**9, rng.randrange(1, 3000)))]

    def outcome(data):
        try:
            left = machine.run(data, len(value), TABLE, DEFAULT_LIMITS)
        except BenSecureError as error:
            return type(error), str(error), error.rule, error.offset
        return fuzz_core.tokens(left.levels[0][0], value)

    assert outcome(value + footer) == outcome(value)


# Frames.


@given(seeds)
def test_frames_at_opcode_boundaries_change_nothing(seed):
    """An honest program has the same meaning with any frames, and without frames."""
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
        ("max_text_bytes", 600, program(tup(text("a" * 300), text("b" * 300)))),
        ("max_int_bytes", 9, program(number(2**70))),
    ],
)
def test_limit_is_honoured(limit, most, value):
    """A value at the limit passes, and a limit lower by one refuses it, on every call."""
    for _ in range(5):
        assert check(value, **{limit: most})
        with pytest.raises(LimitExceededError) as caught:
            check(value, **{limit: most - 1})
        assert caught.value.rule == Rule.LIMIT
        assert "Limits" in str(caught.value)


# Accepted programs have the same meaning for other readers.


@given(seeds)
def test_random_programs_agree_with_cpython(seed):
    """Every accepted program leaves the same in the machine, the C unpickler and the Python unpickler."""
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


@pytest.mark.threat("T1")
@given(seeds, st.integers(1, 80))
def test_programs_that_are_admitted_agree_with_cpython(seed, steps):
    """Programs in which each step fits the stack are accepted, and leave the same in all three."""
    assert fuzz_core.agrees_with_cpython(fuzz_core.grown_program(random.Random(seed), steps))


def test_long_bytes_are_not_looked_into():
    """They stay where they are, told apart from bytearrays; shorter ones are plain."""
    value = program(tup(blob(b"a" * 600), array_blob(b"b" * 512), blob(b"c" * 511)))
    left = check(value)
    (first, second, third), blocks = left.levels[0][0], left.blocks
    assert [first, second] == blocks
    assert [(value[b.start : b.stop], b.mutable) for b in blocks] == [(b"a" * 600, False), (b"b" * 512, True)]
    assert third == b"c" * 511
    shared = check(program(tup(blob(b"a" * 600) + MEMO, get(0), array_blob(b"b" * 600), get(0))))
    first, second, third, fourth = shared.levels[0][0]
    assert first is second is fourth
    assert shared.blocks == [first, third]


def test_calls_are_written_down():
    """A call is a record of its name, arguments and state, and a name is a row of the table that cannot be called."""
    value = program(call(name("numpy", "dtype"), text("u2"), b"\x89", b"\x88") + tup(number(3)) + b"b")
    record = check(value).levels[0][0]
    assert type(record) is Record
    assert record.name is TABLE["numpy", "dtype"]
    assert (record.arguments, record.state) == (("u2", False, True), (3,))
    assert not callable(record.name)


@pytest.mark.threat("T1")
def test_only_declared_classes_are_admitted():
    """A class that the caller declares is a row of the caller's table and of no other."""
    pair = ("archive", "Mine")
    mine = type("Mine", (), {"__module__": "archive"})
    value = program(new(name(*pair)) + b"}b")
    assert machine.run(value, len(value), declared((mine,)), DEFAULT_LIMITS).levels[0][0].name.patch_class is mine
    with pytest.raises(UnsafePickleError, match=r"archive\.Mine"):
        check(value)


@pytest.mark.threat("T3")
def test_what_is_in_the_memo_is_not_changed_afterwards():
    """An object that was fetched from the memo is final; one that was only stored is not."""
    check(program(b"]" + MEMO + NONE + b"a"))
    check(program(b"](" + NONE + b"e" + MEMO + get(0) + b"\x86"))
    with pytest.raises(UnsafePickleError, match="changed after it was referred to"):
        check(program(b"]" + MEMO + get(0) + NONE + b"a\x86"))
    with pytest.raises(UnsafePickleError, match="changed after it was referred to"):
        check(program(new(name(PATCH_MODULES[S1], S1)) + MEMO + get(0) + b"}b\x86"))


@pytest.mark.threat("T2")
@pytest.mark.parametrize("head", [b"X\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"\x96\0\0\0\0\0\1\0\0", b"\x8a\xff"])
def test_nothing_is_taken_for_a_length_that_is_announced(head):
    """A length is compared with the available bytes before any memory is allocated for it."""
    tracemalloc.start()
    try:
        with pytest.raises(PatchFormatError, match="are announced"):
            check(program(head + b"x"))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.threat("T3")
def test_shared_objects_count_each_time():
    """Objects are counted as if every reference were written out, sets included."""
    level = members(*[number(n) for n in range(9)]) + MEMO
    value = with_metadata(tup(level, *[get(0)] * 3))
    assert loads(value, limits=Limits(max_nodes=45))
    with pytest.raises(LimitExceededError, match="written out"):
        loads(value, limits=Limits(max_nodes=40))


@pytest.mark.threat("T2")
@pytest.mark.parametrize(("opener", "closer"), [(b"]", b"a"), (b"", b"\x85")])
def test_depth_is_bounded(opener, closer):
    """Metadata inside of itself, a list or a tuple, is admitted to a depth and no further."""
    for depth, fits in (20, True), (31, False), (10_000, False):
        value = with_metadata(opener * depth + NONE + closer * depth)
        if fits:
            assert loads(value)
        else:
            with pytest.raises((LimitExceededError, PatchFormatError)):
                loads(value)


def test_stop_must_be_the_last_byte():
    """Exactly one pickle is accepted; the refusal has the position of the first byte after it."""
    value = canonical()
    with pytest.raises(PatchFormatError) as caught:
        check(value + b"x")
    assert (caught.value.rule, caught.value.offset) == (Rule.TRAILING_DATA, len(value))


# To go on from where another payload was.

LONG = text("n" * 300)
GOES_ON = {
    "opcodes": ({"max_opcodes": 7}, b"(" + NONE * 3, NONE + b"t", NONE * 2 + b"t"),
    "memo": ({"max_memo": 3}, b"(" + (NONE + MEMO) * 2, NONE + MEMO + b"t", (NONE + MEMO) * 2 + b"t"),
    "text": ({"max_text_bytes": 700}, b"(" + LONG * 2, text("n" * 100) + b"t", LONG + b"t"),
    "numbers in sets": (
        {},
        b"(" + members(*map(number, range(1000, 1512))),
        members(*map(number, range(2000, 2512))) + b"t",
        members(*map(number, range(2000, 2513))) + b"t",
    ),
    "a list that stands in two places": ({}, b"(" + b"]" + MEMO + get(0), b"t", NONE + b"at"),
    "a list that stands in one": ({}, b"(" + b"]" + MEMO, get(0) + b"t", get(0) + NONE + b"at"),
    "an object in the memo": ({}, b"(" + b"]" + MEMO, NONE + b"at", MEMO + b"t"),
}


@pytest.mark.threat("T3")
@pytest.mark.parametrize(("limits", "start", "end", "other"), GOES_ON.values(), ids=GOES_ON)
def test_a_known_beginning_counts(limits, start, end, other):
    """Counts and sealed objects carry over to the continuation; each refusal has an accepted counterpart."""
    limits, start = Limits(**limits), b"\x80\x04" + start
    honest, hostile = start + end + b".", start + other + b"."
    state = machine.state_at(honest, len(honest), TABLE, limits, len(start))
    for _ in range(2):
        left = machine.run(honest, len(honest), TABLE, limits, state).levels[0][0]
        assert left == machine.run(honest, len(honest), TABLE, limits).levels[0][0]
        verdicts = []
        for known in (None, state):
            with pytest.raises(BenSecureError) as caught:
                machine.run(hostile, len(hostile), TABLE, limits, known)
            verdicts.append((type(caught.value), caught.value.rule, caught.value.offset))
        assert verdicts[0] == verdicts[1]
