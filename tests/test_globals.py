"""A refused value is searched for its imports, for any reason of refusal; an accepted one is not."""

import pickle

import pytest

from ben_secure.audit.findings import Finding
from ben_secure.audit.judge.globals import MAX_OPCODES, foreign_global, with_global
from ben_secure.audit.judge.scan import scan_value
from ben_secure.audit.rules import Category
from ben_secure.errors import Rule
from support import assembler
from support.databases import HONEST, SHELL
from support.strategies import TwoBandPatch


class Call:
    """Pickled, it asks for ``posix.system``."""

    def __reduce__(self):
        import os

        return os.system, ("touch canary",)


@pytest.mark.threat("T1")
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_names_its_globals(protocol):
    """Old protocols are refused as such; the report still names their globals."""
    finding = scan_value(b"a", pickle.dumps(Call(), protocol=protocol))
    assert finding.global_name == "posix.system"
    assert finding.category is Category.CODE
    assert "do not load" in finding.message
    assert "fetch" not in finding.message


@pytest.mark.threat("T1")
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (HONEST[0] + SHELL, Rule.TRAILING_DATA),
        (b"X" * 5 + SHELL, Rule.NOT_A_PICKLE),
        (b"\x80\x04" + SHELL[2:-1] + b"B\xff\xff\xff\x7f.", Rule.FORBIDDEN_GLOBAL),
        (b"\x80\x04\x8c\x01x\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93.", Rule.FORBIDDEN_OPCODE),
        (b"(iposix\nsystem\n.", Rule.NOT_A_PICKLE),
        (b"\x80\x04\x82\x07.", Rule.FORBIDDEN_OPCODE),
    ],
)
def test_an_attack_that_is_damaged_too_is_an_attack(value, rule):
    """By a second pickle, an old opcode, the memo or an extension; where something is named, the category says so."""
    finding = scan_value(b"a", value)
    assert finding.rule is rule
    named = rule is not Rule.NOT_A_PICKLE or not value.startswith(b"X")
    assert (finding.category is Category.CODE, finding.global_name is not None) == (named, named)


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff\xd8\xff\xe0JFIF", b"\x89PNG\r\n\x1a\n", b"class,label\nfoo,bar\n", b"import os\nos.x\n", b"hello"],
)
def test_what_is_no_pickle_names_nothing(value):
    """Pictures, tables and texts are not patches, but they are not attacks."""
    finding = scan_value(b"a", value)
    assert (finding.rule, finding.global_name, finding.category) == (Rule.NOT_A_PICKLE, None, Category.NO_PATCH)


@pytest.mark.parametrize("value", HONEST)
def test_honest_values_name_nothing_foreign(value):
    """Also if they are refused, because they were cut or swapped."""
    assert foreign_global(value) is None
    assert scan_value(b"a", value[:-20]).global_name is None
    swapped = Finding(rule=Rule.TAG_INVALID, message="another tag; fetch it again")
    assert with_global(swapped, value) is swapped
    assert with_global(swapped, SHELL).category is Category.CODE


def test_classes_of_the_caller_are_not_foreign():
    """They are if the caller does not declare them."""
    value = assembler.program(assembler.name(TwoBandPatch.__module__, TwoBandPatch.__qualname__), assembler.text("x"))
    pair = (TwoBandPatch.__module__, TwoBandPatch.__qualname__)
    assert foreign_global(value, [pair]) is None
    assert foreign_global(value) == ".".join(pair)


@pytest.mark.threat("T2")
def test_only_so_many_opcodes_are_looked_at():
    """A global after the limit is not found, and the rule decides; one before it is found."""
    assert foreign_global(b"\x80\x04" + b"N" * MAX_OPCODES + b"cposix\nsystem\n.") is None
    assert foreign_global(b"\x80\x04" + b"N" * (MAX_OPCODES - 9) + b"cposix\nsystem\n.") == "posix.system"


@pytest.mark.threat("T4")
def test_names_are_escaped_and_cut():
    """They come from the file."""
    value = assembler.program(assembler.name("\x1b[31m" * 200, "x"))
    asked = foreign_global(value)
    assert asked.startswith(r"\x1b[31m")
    assert len(asked) == 200
