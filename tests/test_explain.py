"""Explanations: the kind, the location, the effect under pickle, and the opcodes around it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure.audit.findings import NO_OPINION, Finding
from ben_secure.audit.judge.scan import scan_value
from ben_secure.audit.report.disassembly import around
from ben_secure.audit.report.explain import consequence, explain
from ben_secure.audit.rules import RULES
from ben_secure.errors import Rule
from ben_secure.tensors.writing import dumps as dumps_tensors
from support.databases import SHELL, values
from support.report_samples import HOSTILE_TEXTS
from support.strategies import make_patch


def test_a_refused_value_is_explained():
    """The explanation has rule, location, consequence and opcodes, from the finding and the value."""
    explanation = explain(scan_value(b"name", SHELL), SHELL)
    assert (explanation.level, explanation.title) == ("error", RULES[Rule.FORBIDDEN_GLOBAL].title)
    assert explanation.help == RULES[Rule.FORBIDDEN_GLOBAL].help
    assert explanation.position == "byte 17, STACK_GLOBAL, global posix.system"
    assert explanation.consequence == "pickle would import posix.system, and most likely call it"
    assert [line for line in explanation.disassembly if line.startswith(">")] == [">        17  STACK_GLOBAL"]
    assert explain(scan_value(b"name", SHELL)).disassembly == ()


def test_the_words_are_ficklings_if_it_has_any():
    """Without an opinion of fickling the words are ours, and the explanation says so."""
    finding = Finding(rule=Rule.FORBIDDEN_OPCODE, message="odd", opcode="BINPERSID", opinion="fickling: odd")
    assert consequence(finding) == "fickling: odd"
    finding = Finding(rule=Rule.FORBIDDEN_OPCODE, message="odd", opcode="BINPERSID", opinion=f"{NO_OPINION}: it died")
    assert consequence(finding).startswith("pickle would ask the loading program")
    assert consequence(finding).endswith("; fickling has no opinion: it died")
    assert consequence(Finding(rule=Rule.KEY_NAME, message="odd")) == ""


def test_of_a_long_value_the_surroundings_are_shown():
    """Eight opcodes before the location and four after it are shown."""
    value = b"\x80\x04" + b"N0" * 3_000 + SHELL[2:] + b"N" * 100
    lines = around(value, value.index(b"\x93"))
    assert len(lines) == 8 + 1 + 4
    assert lines[8].startswith(">")


def test_a_safetensors_file_has_no_opcodes():
    """Its first byte may be that of a pickle all the same."""
    value = dumps_tensors(make_patch())
    assert around(value, 8) == around(b"\x80\x04" + value[2:], 8) == []
    assert around(SHELL, 17) != []


@pytest.mark.threat("T4")
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_an_explanation_is_printable(text):
    """For any content of the file."""
    finding = Finding(rule=Rule.FORBIDDEN_GLOBAL, message="odd", global_name=text, opcode=text, opinion=text)
    explanation = explain(finding)
    assert re.fullmatch(r"[ -~]*", explanation.position + explanation.consequence)


@given(values() | st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_can_be_shown(value, offset):
    """The lines are few, short and printable ASCII."""
    lines = around(value, offset)
    assert len(lines) <= 13
    assert all(re.fullmatch(r"[ -~]{0,200}", line) for line in lines)
