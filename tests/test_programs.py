"""Fingerprints: one for a program, whatever its pixels and labels; and the program that fickling is shown."""

import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch
from ben_secure.audit.judge.programs import MAX_PROGRAM_BYTES, MAX_PROGRAM_OPCODES, Programs, without_pixels
from ben_secure.tensors.reading import SIGN
from ben_secure.tensors.writing import dumps as dumps_tensors
from support import assembler
from support.attacks import ATTACKS
from support.databases import HONEST, SHELL, values
from support.legacy_values import GENERATIONS, MERGED, S1, S2, small_tree, tree, write
from support.strategies import make_patch


def opcodes(value):
    """Names and arguments, but for bytes, lengths of frames, and which kind of bytes it is."""
    alike = {"BYTEARRAY8": "BINBYTES", "BINBYTES8": "BINBYTES"}
    return [
        (alike.get(opcode.name, opcode.name), None if isinstance(argument, bytes | bytearray) else argument)
        for opcode, argument, _ in pickletools.genops(value)
    ]


def fingerprints(*found):
    """How many there are, by one memory and by a new one for each value; they are the same."""
    programs = Programs()
    together = [programs.accepted(value) for value in found]
    assert together == [Programs().accepted(value) for value in found]
    assert [programs.accepted(value) for value in found[::-1]] == together[::-1]
    return len(set(together))


def test_pixels_and_labels_do_not_matter():
    """A thousand values of one archive are one program, however many labels they have, but for one label alone."""
    found = [
        make_patch(seed=seed, labels=[text, "Pastures"], n=seed).dumps()
        for seed in range(4)
        for text in ("a", "bc" * 40)
    ]
    assert len(set(found)) == 8
    assert fingerprints(*found) == 1
    assert fingerprints(found[0], make_patch(labels=["a" * 300, "b"], n=10**9).dumps()) == 1
    assert fingerprints(found[0], make_patch(labels=[*"abcdef"], n=1).dumps()) == 1
    assert fingerprints(found[0], make_patch(labels=["a"], n=1).dumps()) == 2
    assert fingerprints(found[0], make_patch(labels=["a", 1], n=1).dumps()) == 2
    assert fingerprints(found[0], make_patch(labels=["a", b"b"], n=1).dumps()) == 2
    assert fingerprints(found[0], make_patch(BigEarthNet_S1_Patch, labels=["a", "b"], n=1).dumps()) == 2


@pytest.mark.parametrize("kind", [S1, S2, MERGED])
def test_legacy_values_of_one_generation_are_one_program(kind):
    """Those of numpy 1 and 2, pydantic 1 and 2 differ; the lengths of frames, which those of labels, do not matter."""
    found = {
        generation: [
            write(tree(kind, generation, {"labels": ["Pastures", "b"]})),
            write(tree(kind, generation, {"labels": ["x" * 300, "c"]})),
        ]
        for generation in GENERATIONS
    }
    assert [fingerprints(*pair) for pair in found.values()] == [1] * len(found)
    many = ["a", "b", "c"]
    for generation, (first, _) in found.items():
        again = {"labels": many, "new_labels": [many[2], "d", many[0], "e"], "more": [many[1], many[2]]}
        less = {"labels": many[:2], "new_labels": ["d", many[0]], "more": [many[1], many[1]]}
        assert fingerprints(*(write(tree(kind, generation, metadata)) for metadata in (again, less))) == 1
        more = again | {"more": again["labels"]}
        assert fingerprints(first, *(write(tree(kind, generation, metadata)) for metadata in (again, more))) == 3
    # What 0.1.0 calls bands and 0.1.2 _bands is a text like another.
    assert fingerprints(*(pair[0] for pair in found.values())) >= len(found) - 1


def test_values_without_blocks_and_with_more_of_them_are_told_apart():
    """A beginning that is known does not stand for what follows it."""
    small = write(small_tree())
    merged = make_patch(BigEarthNet_S1_S2_Patch).dumps()
    blocks = [make_patch(picture=np.zeros(size, "<u1")).dumps() for size in (10, 600, 601)]
    assert fingerprints(small, merged, *blocks) == 5


@given(st.lists(values(), max_size=6))
def test_a_fingerprint_follows_from_the_value_alone(found):
    """Whatever was seen before, also of hostile values."""
    programs = Programs()
    assert [programs.refused(value) for value in found] == [Programs().refused(value) for value in found]
    assert [programs.accepted(value) for value in found] == [Programs().accepted(value) for value in found]


@pytest.mark.threat("T13")
def test_of_a_refused_value_everything_but_the_pixels_matters():
    """What a function is called with is a part of what it does."""
    system = [assembler.program(assembler.call(assembler.name("os", "system"), assembler.text(text))) for text in "ab"]
    programs = Programs()
    assert len({programs.refused(value) for value in [*system, system[0]]}) == 2
    pixels = [assembler.program(assembler.blob(bytes([n]) * 5_000)) for n in range(2)]
    assert len({programs.refused(value) for value in pixels}) == 2  # their first bytes are shown
    assert len({programs.refused(pixels[0][:-100] + bytes([n]) * 99 + b".") for n in range(3)}) == 1
    assert programs.refused(dumps_tensors(make_patch())) is None


@pytest.mark.parametrize(
    "value",
    HONEST
    + [make_patch(labels=["a"]).dumps(), *(attack.twin() for attack in ATTACKS[::40] if attack.twin()[4:9] != SIGN)],
)
def test_the_program_has_the_opcodes_of_the_value(value):
    """In their order with their arguments; only the pixels are cut, and a bytearray is bytes."""
    program = without_pixels(value)
    assert opcodes(program) == opcodes(value)
    assert len(program) < 6_000


def test_what_stands_behind_the_end_stays():
    """A second pickle is shown too, and what is no opcode."""
    assert without_pixels(HONEST[0] + SHELL).endswith(SHELL)
    assert without_pixels(SHELL + b"\xff\xfe") == SHELL + b"\xff\xfe"
    assert without_pixels(b"") == b""


@pytest.mark.threat("T13")
def test_a_program_that_is_too_long_is_not_shown():
    """In bytes or opcodes; one less is."""
    assert without_pixels(b"\x80\x04" + b"N" * (MAX_PROGRAM_OPCODES - 1)) is not None
    assert without_pixels(b"\x80\x04" + b"N" * MAX_PROGRAM_OPCODES) is None
    room = MAX_PROGRAM_BYTES - 2 - 5 - 1
    for size, fits in ((room, True), (room + 1, False)):
        value = b"\x80\x04" + assembler.text("x" * size) + b"."
        assert (without_pixels(value) is not None) == fits
    assert Programs().refused(b"\x80\x04" + b"N" * 10**5) == Programs().refused(b"\x80\x04" + b"0" * 10**5)


@pytest.mark.threat("T13")
@given(st.binary(max_size=300))
def test_any_bytes_have_a_fingerprint(data):
    """Nothing is raised, and the program is no longer than the value and the heads of its blocks."""
    assert len(Programs().refused(data) or b"") in (0, 16)
    assert len(Programs().accepted(data)) == 16
    program = without_pixels(data)
    assert program is None or len(program) <= len(data) + 5


def test_protocols_0_to_5_can_be_walked():
    """Also those that the loader does not admit."""
    for protocol in range(6):
        value = pickle.dumps({"a": [1, 2.5, "x", b"y" * 900, None, (1, 2)]}, protocol)
        shown = without_pixels(value)
        assert shown is not None
        assert [name for name, _ in opcodes(shown)] == [name for name, _ in opcodes(value)]
