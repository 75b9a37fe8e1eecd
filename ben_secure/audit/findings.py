"""What an audit finds: one refused record, and the report on a whole database.

Plain values, judged elsewhere: nothing is read or decided here but the verdict, which follows from the counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ben_secure.errors import BenSecureError, Rule

Verdict = Literal["clean", "refused", "undecided"]

EXIT_CODES: Mapping[Verdict, int] = {"clean": 0, "refused": 1, "undecided": 2}
"""Exit code of the command line for each verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One record that is refused, and why.

    Attributes:
        lmdb_key: Raw LMDB key; hostile, escape it before it is shown.
        rule: Stable id of the reason.
        message: What was found against what was expected; printable ASCII.
        offset: Byte of the value at which the reason stands, if it stands at one.
        opcode: Name of the pickle opcode there, if known.
        global_name: ``module.name`` that the value asked for, escaped, if that is the reason.
    """

    lmdb_key: bytes
    rule: Rule
    message: str
    offset: int | None = None
    opcode: str | None = None
    global_name: str | None = None

    @classmethod
    def from_error(cls, lmdb_key: bytes, error: BenSecureError) -> Finding:
        """Make a finding of the error with which a value was refused.

        Args:
            lmdb_key: Raw LMDB key of the value.
            error: The refusal.

        Returns:
            The finding; an error without a rule counts as ``malformed``.
        """
        return cls(
            lmdb_key=lmdb_key,
            rule=error.rule or Rule.MALFORMED,
            message=error.message,
            offset=error.offset,
            opcode=error.opcode,
            global_name=error.global_name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What was found in one database.

    Attributes:
        database: Path as the caller gave it.
        checked: Records that were judged.
        refused: How many of them are refused.
        rules: How many were refused by each rule.
        findings: The refused records in key order, the first of them only if there are very many.
        value_bytes: Bytes of the values that were read.
        undecided: Why not every record could be judged, or None.
    """

    database: str
    checked: int
    refused: int
    rules: Mapping[Rule, int]
    findings: tuple[Finding, ...]
    value_bytes: int
    undecided: str | None

    @property
    def clean(self) -> int:
        """Records from which the loader returns a patch."""
        return self.checked - self.refused

    @property
    def findings_left_out(self) -> int:
        """Refused records that are counted but not among the findings."""
        return self.refused - len(self.findings)

    @property
    def verdict(self) -> Verdict:
        """``refused`` if anything is; ``clean`` only if every record of a database that has some was judged."""
        if self.refused:
            return "refused"
        return "undecided" if self.undecided is not None or not self.checked else "clean"

    @property
    def exit_code(self) -> int:
        """0 clean, 1 refused, 2 undecided."""
        return EXIT_CODES[self.verdict]
