"""Explain a finding: the problem, its position, its consequence under ``pickle``, and the opcodes around it.

``inspect`` and the reports share this module. It runs no code from the value and does not start fickling: fickling's
opinion is already in the finding. Without an opinion, it uses texts of its own. All text is escaped and bounded.
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
        "PERSID": "ask the loading program for an object by a name from the file",
        "BINPERSID": "ask the loading program for an object by a name from the file",
        "EXT1": "import the name registered for a number in the extension registry",
        "EXT2": "import the name registered for a number in the extension registry",
        "EXT4": "import the name registered for a number in the extension registry",
        "GLOBAL": "import a module and take a name from it",
        "INST": "import a class and call it",
        "OBJ": "call a class",
        "NEWOBJ_EX": "make an object with arguments of the file's choice",
        "NEXT_BUFFER": "read bytes from outside the value",
        "READONLY_BUFFER": "read bytes from outside the value",
        "POP": "discard the object that it has just made, which hides a call from scanners",
        "POP_MARK": "discard the object that it has just made, which hides a call from scanners",
        "DUP": "use one object twice",
        "BUILD": "set attributes of an object, or call its __setstate__",
        "REDUCE": "call a function with arguments of the file's choice",
    }
)
"""Effect of an opcode under ``pickle``."""

_RULES: Mapping[Rule, str] = MappingProxyType(
    {
        Rule.TRAILING_DATA: "ignore the bytes that follow, unless a reader continues after the first pickle",
        Rule.LIMIT: "use as much time and memory as the value asks for",
        Rule.STRUCTURE: "change objects that do not belong to the value",
        Rule.ARRAY: "allocate as much memory as the file asks for, or use raw bytes as pointers",
        Rule.CALL_SHAPE: "call a function with arguments of the file's choice",
    }
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """A finding in words.

    Attributes:
        level: Severity.
        title: The problem in a few words.
        help: Meaning of the problem and what to do.
        position: The known ones of byte, opcode and global, as a text, which may be empty.
        consequence: Effect of loading the value with pickle, according to fickling or to this module. It may be empty.
        disassembly: The opcodes around the position. Empty if the value is not available or is not a pickle.
    """

    level: Level
    title: str
    help: str
    position: str
    consequence: str
    disassembly: tuple[str, ...]


def explain(finding: Finding, value: bytes | None = None) -> Explanation:
    """Put a finding into words.

    Args:
        finding: The finding.
        value: The stored bytes, if available (untrusted).

    Returns:
        The explanation; printable ASCII.
    """
    rule = RULES[finding.rule]
    position = [f"byte {finding.offset:,}"] if finding.offset is not None else []
    position += [printable(finding.opcode)] if finding.opcode is not None else []
    position += [f"global {printable(finding.global_name, 300)}"] if finding.global_name is not None else []
    lines = around(value, finding.offset) if value is not None and finding.offset is not None else []
    return Explanation(rule.level, rule.title, rule.help, ", ".join(position), consequence(finding), tuple(lines))


def consequence(finding: Finding) -> str:
    """Describe the effect of loading the value with pickle.

    Args:
        finding: The finding.

    Returns:
        fickling's opinion if there is one, otherwise a text for the opcode or rule. May be empty.
    """
    opinion = None if finding.opinion is None else printable(finding.opinion, 500)
    if opinion is not None and not opinion.startswith(NO_OPINION):
        return opinion
    if finding.global_name is not None:
        effect = f"import {printable(finding.global_name, 300)}, and most likely call it"
    elif finding.rule is Rule.FORBIDDEN_OPCODE:
        effect = _OPCODES.get(finding.opcode or "", "do something that no honest patch needs")
    else:
        effect = _RULES.get(finding.rule, "")
    own = f"pickle would {effect}" if effect else ""
    return "; ".join(text for text in (own, opinion) if text)
