"""Fingerprints: one for a program, for any pixels and labels; and the program that fickling gets."""

import pickle
import pickletools
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch
from ben_secure.audit.judge.programs import (
    MAX_PROGRAM_BYTES,
    MAX_PROGRAM_OPCODES,
    accepted_fingerprint,
    opcodes,
    refused_fingerprint,
    without_pixels,
)
from ben_secure.signing.footer import payload_end
from ben_secure.tensors.reading import SIGN
from ben_secure.tensors.writing import dumps as dumps_tensors
from ben_secure.values import Decoder
from support import assembler
from support.attacks import ATTACKS
from support.databases import HONEST, SHELL, values
from support.effort import effort_below
from support.legacy_values import GENERATIONS, MERGED, S1, S2, small_tree, tree, write
from support.strategies import TwoBandPatch, make_patch


def decoded(value):
    """Names and arguments, except bytes, lengths of frames, and the kind of bytes."""
    alike = {"BYTEARRAY8": "BINBYTES", "BINBYTES8": "BINBYTES"}
    return [
        (alike.get(opcode.name, opcode.name), None if isinstance(argument, bytes | bytearray) else argument)
        for opcode, argument, _ in pickletools.genops(value)
    ]


def fingerprint(value, decoder=None):
    """That of a value which loads."""
    return (decoder or Decoder()).note(value, payload_end(value), lambda _, state: accepted_fingerprint(state))


def fingerprints(*found):
    """How many there are, by one memory and by a new one for each value; they are the same in any order."""
    decoder = Decoder()
    together = [fingerprint(value, decoder) for value in found * 3]
    assert together == [fingerprint(value) for value in found] * 3
    assert [fingerprint(value, decoder) for value in found[::-1]] == together[: len(found)][::-1]
    return len(set(together))


def test_pixels_texts_and_numbers_do_not_matter():
    """A thousand values of one database are one program, however many labels they have; another class is another."""
    found = [
        make_patch(seed=seed, labels=[text, "Pastures"][: 1 + seed % 2], n=10**seed).dumps()
        for seed in range(6)
        for text in ("a", "bc" * 40, "d" * 300)
    ]
    assert len(set(found)) == 18
    assert fingerprints(*found) == 1
    assert fingerprints(found[0], make_patch(labels=[*"abcdef"] * 40, n=1).dumps()) == 1
    assert fingerprints(found[0], make_patch(BigEarthNet_S1_Patch, labels=["a", "b"], n=1).dumps()) == 1
    assert fingerprints(found[0], make_patch(labels=["a"], n=1, map=np.zeros(3)).dumps()) == 2
    assert fingerprints(found[0], make_patch(labels=["a"], n=np.int64(1)).dumps()) == 2


@pytest.mark.parametrize("kind", [S1, S2, MERGED])
def test_legacy_values_of_one_database_are_one_program(kind):
    """For any labels and any sharing; numpy 1 and 2 name their functions differently."""
    many = ["a", "b", "c"]
    metadata = [
        {"labels": ["Pastures", "b"]},
        {"labels": ["x" * 300, "c"], "n": 70_000},
        {"labels": many, "new_labels": [many[2], "d", many[0], "e"], "more": [many[1], many[2]]},
        {"labels": many, "more": many},
    ]
    found = {name: [write(tree(kind, name, some)) for some in metadata] for name in GENERATIONS}
    assert [fingerprints(*some) for some in found.values()] == [1] * len(found)
    # What 0.1.0 calls bands and 0.1.2 _bands is a text like another.
    assert fingerprints(*(some[0] for some in found.values())) == 2
    assert fingerprints(*(some[0] for some in found.values()), make_patch().dumps()) == 3


def test_values_that_are_not_remembered_have_the_same_fingerprints():
    """Without blocks, with a block in the metadata, with nested metadata: it follows from the value alone."""
    small = write(small_tree())
    blocks = [make_patch(labels=["a"], picture=np.zeros(size, "<u1")).dumps() for size in (10, 600, 601)]
    nested = [make_patch(labels=["a"], deep=value).dumps() for value in ([[1]], {"a": ["b", ("c",)]})]
    assert fingerprints(small, write(small_tree(metadata={"x": [[["y"]]]}))) == 1
    assert fingerprints(make_patch(BigEarthNet_S1_S2_Patch).dumps(), *nested) == 1
    assert fingerprints(*blocks) == 1
    assert fingerprints(small, *nested, *blocks) == 3


def test_declared_classes_have_programs_of_their_own():
    """A declared name is distinguished from those of the table."""
    bands = [make_patch().get_band_data_by_name(name) for name in ("B02", "B11")]
    decoder = Decoder((TwoBandPatch,))
    found = {fingerprint(TwoBandPatch(*bands).dumps(), decoder), fingerprint(make_patch().dumps(), decoder)}
    assert len(found) == 2


@pytest.mark.threat("T13")
def test_a_long_program_does_not_silence_fickling_on_others():
    """It has the fingerprint of those that fickling is not shown; one that is a little shorter is like all others."""
    usual = make_patch(labels=["a"]).dumps()
    for metadata, fits in (
        ({"x": [[]] * (MAX_PROGRAM_OPCODES - 60)}, True),
        ({"x": [[]] * MAX_PROGRAM_OPCODES}, False),
        ({"x": "y" * (MAX_PROGRAM_BYTES - 1000)}, True),
        ({"x": "y" * MAX_PROGRAM_BYTES}, False),
    ):
        value = make_patch(labels=["a"], **metadata).dumps()
        assert (without_pixels(value) is not None) == fits
        assert fingerprints(usual, value) == 2 - fits
        assert (fingerprint(value) == refused_fingerprint(value)) == (not fits)


@given(st.lists(values(), max_size=6))
def test_refused_values_differ_by_all_of_their_program(found):
    """Also hostile ones: those that fickling is shown the same of, and no others, have one fingerprint."""
    assert len({refused_fingerprint(value) for value in found}) == len({without_pixels(value) for value in found})


@pytest.mark.threat("T13")
def test_of_a_refused_value_everything_but_the_pixels_matters():
    """The arguments of a function are a part of its effect."""
    system = [assembler.program(assembler.call(assembler.name("os", "system"), assembler.text(text))) for text in "ab"]
    assert len({refused_fingerprint(value) for value in [*system, system[0]]}) == 2
    pixels = [assembler.program(assembler.blob(bytes([n]) * 5_000)) for n in range(2)]
    assert len({refused_fingerprint(value) for value in pixels}) == 2  # their first bytes are shown
    assert len({refused_fingerprint(pixels[0][:-100] + bytes([n]) * 99 + b".") for n in range(3)}) == 1
    assert refused_fingerprint(dumps_tensors(make_patch())) is None


@pytest.mark.parametrize(
    "value",
    HONEST
    + [
        make_patch(labels=["a"]).dumps(),
        *(attack.accepted() for attack in ATTACKS[::40] if attack.accepted()[4:9] != SIGN),
    ],
)
def test_the_program_has_the_opcodes_of_the_value(value):
    """In their order with their arguments; only the pixels are cut, and a bytearray is bytes."""
    program = without_pixels(value)
    assert decoded(program) == decoded(value)
    assert len(program) < 6_000


def test_what_stands_behind_the_end_stays():
    """A second pickle is shown, too, and a few bytes that are not opcodes."""
    assert without_pixels(HONEST[0] + SHELL).endswith(SHELL)
    assert without_pixels(SHELL + b"\xff\xfe") == SHELL + b"\xff\xfe"
    assert without_pixels(SHELL + b"\xff" * 100_000) == SHELL + b"\xff" * 16
    assert without_pixels(b"") == b""


def test_a_value_that_is_cut_short_is_shown_without_its_pixels():
    """Up to the opcode that is cut; two that differ in pixels only have one fingerprint."""
    whole = write(tree(S1, s1="|i1"))
    cut = whole[: len(whole) // 3]
    assert 0 < len(without_pixels(cut)) < 1_000
    assert refused_fingerprint(cut) == refused_fingerprint(cut[:-5000] + bytes(5000))


@pytest.mark.threat("T13")
def test_a_program_that_is_too_long_is_not_shown():
    """In bytes or opcodes; one less is."""
    assert without_pixels(b"\x80\x04" + b"N" * (MAX_PROGRAM_OPCODES - 2) + b".") is not None
    assert without_pixels(b"\x80\x04" + b"N" * (MAX_PROGRAM_OPCODES - 1) + b".") is None
    room = MAX_PROGRAM_BYTES - 2 - 5 - 1
    for size, fits in ((room, True), (room + 1, False)):
        value = b"\x80\x04" + assembler.text("x" * size) + b"."
        assert (without_pixels(value) is not None) == fits
    assert refused_fingerprint(b"\x80\x04" + b"N" * 10**5) == refused_fingerprint(b"\x80\x04" + b"0" * 10**5)


@pytest.mark.threat("T13")
@given(st.binary(max_size=300))
def test_any_bytes_have_a_fingerprint(data):
    """Nothing is raised, and the program is no longer than the value and the heads of its blocks."""
    assert len(refused_fingerprint(data) or b"") in (0, 16)
    program = without_pixels(data)
    assert program is None or len(program) <= len(data) + 5 * data.count(b"\x96")


@pytest.mark.threat("T13")
@pytest.mark.parametrize(
    "value",
    {
        "a decimal of a million digits": b"I" + b"9" * 10**6 + b"\n.",
        "a long decimal without an end": b"L" + b"9" * 10**6,
        "a long integer": b"\x8b" + (10**6).to_bytes(4, "little") + b"\x7f" * 10**6 + b".",
        "a negative length": b"\x8b\xff\xff\xff\xff.",
        "a length beyond the value": b"\x8e" + b"\xff" * 8 + b".",
        "text that is no UTF-8": b"\x8c\1\xff.",
        "a text with escapes": b"S'\\d\\x'\n.",
        "a text that is no ASCII": b"S'\xff'\n.",
        "a text without quotes": b"Sx\n.",
        "a broken raw escape": b"V\\u12\n.",
        "a float that is none": b"Fx\n.",
        "a persistent id that is no ASCII": b"P\xff\n.",
        "a global without an end": b"cx\n",
        "millions of opcodes": b"N" * 2**22,
        "millions of pickles": b"N." * 2**21,
    }.items(),
    ids=lambda case: case[0],
)
def test_hostile_opcodes_are_decoded_in_little_time(value):
    """Decoding may fail, without an error or a warning; the opcodes before are shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with effort_below(100):
            program = without_pixels(b"K\1" + value[1])
        names = [name for name, *_ in opcodes(b"K\1" + value[1][:2000])]
    assert program is None or program.startswith(b"K\1")
    assert names[0] == "BININT1"
    assert names.count("") <= 1


def test_protocols_0_to_5_can_be_walked():
    """Also those that the loader does not admit."""
    for protocol in range(6):
        value = pickle.dumps({"a": [1, 2.5, "x", b"y" * 900, None, (1, 2)]}, protocol)
        program = without_pixels(value)
        assert program is not None
        assert [name for name, _ in decoded(program)] == [name for name, _ in decoded(value)]
