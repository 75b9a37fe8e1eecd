"""Explain a finding: what it is, where it stands, what it would have done, and the opcodes around it.

Shared by ``inspect`` and the reports. Runs nothing, asks nobody: what fickling said is already in the finding, and
where it said nothing the words are ours. Everything is escaped and bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ben_secure.audit.findings import NO_OPINION, Finding
from ben_secure.audit.report.disassembly import around
from ben_secure.audit.rules import RULES, Level
from ben_secure.errors import Rule, printable

_OPCODES: Mapping[str, str] = MappingProxyType(
    {
        "PERSID": "ask the program that loads it for an object by a name from the file",
        "BINPERSID": "ask the program that loads it for an object by a name from the file",
        "EXT1": "import what a number stands for in the registry of extensions",
        "EXT2": "import what a number stands for in the registry of extensions",
        "EXT4": "import what a number stands for in the registry of extensions",
        "GLOBAL": "import a module and take a name from it",
        "INST": "import a class and call it",
        "OBJ": "call a class",
        "NEWOBJ_EX": "make an object with arguments of the file's choice",
        "NEXT_BUFFER": "take bytes that are not in the value",
        "READONLY_BUFFER": "take bytes that are not in the value",
        "POP": "throw away what it has just made, which hides a call from scanners",
        "POP_MARK": "throw away what it has just made, which hides a call from scanners",
        "DUP": "use one object twice",
        "BUILD": "set attributes of an object, or call its __setstate__",
        "REDUCE": "call a function with arguments of the file's choice",
    }
)
"""What pickle does at an opcode."""

_RULES: Mapping[Rule, str] = MappingProxyType(
    {
        Rule.TRAILING_DATA: "ignore what follows, unless a reader goes on behind the first pickle",
        Rule.LIMIT: "take what time and memory it asks for",
        Rule.STRUCTURE: "change objects that are not the value's own",
        Rule.ARRAY: "allocate what the file says, or take raw bytes for pointers",
        Rule.CALL_SHAPE: "call a function with arguments of the file's choice",
    }
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A finding in words.

    Attributes:
        level: How grave it is.
        title: What is wrong, in a few words.
        help: What that means, and what to do.
        place: Byte, opcode and global, as far as they are known; may be empty.
        consequence: What loading the value with pickle would have done, by fickling or in our words; may be empty.
        disassembly: The opcodes around the place; empty if the value is not at hand or is not a pickle.
    """

    level: Level
    title: str
    help: str
    place: str
    consequence: str
    disassembly: tuple[str, ...]


def explain(finding: Finding, value: bytes | None = None) -> Explanation:
    """Put a finding into words.

    Args:
        finding: The finding.
        value: The stored bytes, if at hand; hostile.

    Returns:
        The explanation; printable ASCII.
    """
    rule = RULES[finding.rule]
    parts = [f"byte {finding.offset:,}"] if finding.offset is not None else []
    parts += [printable(finding.opcode)] if finding.opcode is not None else []
    parts += [f"global {printable(finding.global_name, 300)}"] if finding.global_name is not None else []
    lines = around(value, finding.offset) if value is not None and finding.offset is not None else []
    return Explanation(rule.level, rule.title, rule.help, ", ".join(parts), consequence(finding), tuple(lines))


def consequence(finding: Finding) -> str:
    """What loading the value with pickle would have done.

    Args:
        finding: The finding.

    Returns:
        What fickling says if it has an opinion, else a sentence of ours, as far as there is one.
    """
    opinion = None if finding.opinion is None else printable(finding.opinion, 500)
    if opinion is not None and not opinion.startswith(NO_OPINION):
        return opinion
    if finding.global_name is not None:
        what = f"import {printable(finding.global_name, 300)}, and most likely call it"
    elif finding.rule is Rule.FORBIDDEN_OPCODE:
        what = _OPCODES.get(finding.opcode or "", "do something that no honest patch needs")
    else:
        what = _RULES.get(finding.rule, "")
    own = f"pickle would {what}" if what else ""
    return "; ".join(part for part in (own, opinion) if part)
