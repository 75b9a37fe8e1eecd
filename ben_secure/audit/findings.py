"""What an audit finds: findings, the tally of a range of keys, and the report on a whole database.

Plain values, judged elsewhere: nothing is read or decided here but the verdict, which follows from the counts.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

from ben_secure.audit.rules import HARMLESS, RULES, Category, Level
from ben_secure.errors import BenSecureError, Rule

Verdict = Literal["clean", "refused", "undecided"]

INTERRUPTED_EXIT_CODE = 130

EXIT_CODES: Mapping[Verdict, int] = {"clean": 0, "refused": 1, "undecided": 2}
"""Exit code of the command line for each verdict."""

MAX_PROGRAMS = 500
"""Distinct programs of values that load, and as many of refused ones, about which fickling is asked in one audit."""
MAX_FINDINGS = 10_000
"""Findings kept in detail (about 1 kB each); the rest are counted. All of 590,326 values may be hostile."""

NO_OPINION = "fickling has no opinion"
"""How an opinion begins that is none."""

KEPT_NAMES = 12
"""LMDB keys of clean values that a report keeps, for pictures of them."""


_LEVELS = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong or worth a remark.

    Attributes:
        rule: Stable id of what it is.
        message: What was found against what was expected; printable ASCII.
        lmdb_key: Raw LMDB key; hostile, escape it before it is shown. None if it concerns the database as a whole.
        offset: Byte of the value at which the reason stands, if it stands at one.
        opcode: Name of the pickle opcode there, if known.
        global_name: ``module.name`` that the value asked for, escaped, if that is the reason.
        opinion: What fickling says of the value, escaped; None if it was not asked or has nothing to add.
        position: How many records of the database come before this one in key order, if known.
        program: Fingerprint of the program of a refused value (``programs.shown``), if fickling is to be asked.
    """

    rule: Rule
    message: str
    lmdb_key: bytes | None = None
    offset: int | None = None
    opcode: str | None = None
    global_name: str | None = None
    opinion: str | None = None
    position: int | None = None
    program: bytes | None = None

    @property
    def level(self) -> Level:
        """How grave it is."""
        return RULES[self.rule].level

    @property
    def category(self) -> Category:
        """What it could mean: that of the rule; a refused value that asks for a global no patch has could run code."""
        return RULES[self.rule].category if self.global_name is None else Category.CODE

    @property
    def order(self) -> tuple[int, int, bool, bytes]:
        """Where it stands in a report: by category, then by level, the database as a whole first, then by LMDB key."""
        return self.category.rank, _LEVELS[self.level], self.lmdb_key is not None, self.lmdb_key or b""

    @classmethod
    def from_error(cls, lmdb_key: bytes | None, error: BenSecureError) -> Finding:
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


_order = attrgetter("order")


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was found in one range of keys; ranges that follow each other are added up.

    Law: the sum over any partition of the keys is the tally of all of them, whoever counted the parts.

    Attributes:
        checked: Records that were judged.
        skipped: Records whose digest a verified manifest lists, where the caller trusts those.
        refused: Records with an error.
        value_bytes: Bytes of the values that were judged.
        rules: Findings by rule, of every level.
        categories: Findings by category, likewise.
        findings: The first ``MAX_FINDINGS`` findings in their order (``Finding.order``).
        formats: Values by the program that wrote them (``canonical, ...``, ``legacy: ...``, ``safetensors``), refused
            ones as ``refused``.
        sizes: Values by the bit length of their size: n for 2 ** (n - 1) to 2 ** n - 1 bytes.
        clean_keys: LMDB keys of the first ``KEPT_NAMES`` clean values.
        programs: The first ``MAX_PROGRAMS`` distinct programs of values that load, by fingerprint
            (``programs.accepted``): LMDB key and position of the first value that has it, in key order.
        opinions: Distinct programs by what fickling says of them: ``as honest``, ``more`` or ``none``.
        undecided: Why not every record of the range could be judged, or None; the first reason.
    """

    checked: int = 0
    skipped: int = 0
    refused: int = 0
    value_bytes: int = 0
    rules: Counter[Rule] = field(default_factory=Counter)
    categories: Counter[Category] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[int] = field(default_factory=Counter)
    clean_keys: list[bytes] = field(default_factory=list)
    programs: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    opinions: Counter[str] = field(default_factory=Counter)
    undecided: str | None = None

    @property
    def done(self) -> int:
        """Records that were judged or passed over."""
        return self.checked + self.skipped

    def count(self, *, value_bytes: int, written_by: str) -> None:
        """Count one judged record.

        Args:
            value_bytes: Length of its value, as far as it was read.
            written_by: As in ``formats``.
        """
        self.checked += 1
        self.value_bytes += value_bytes
        self.sizes[value_bytes.bit_length()] += 1
        self.formats[written_by] += 1

    def keep_clean(self, lmdb_key: bytes) -> None:
        """Keep the LMDB key of a clean value, if there is room."""
        if len(self.clean_keys) < KEPT_NAMES:
            self.clean_keys.append(lmdb_key)

    def add(self, finding: Finding) -> None:
        """Count one finding and keep it, if there is room."""
        self.rules[finding.rule] += 1
        self.categories[finding.category] += 1
        if self.findings and finding.order < self.findings[-1].order:
            insort(self.findings, finding, key=_order)
        else:  # as most do, for they come in key order
            self.findings.append(finding)
        del self.findings[MAX_FINDINGS:]

    def see(self, program: bytes, lmdb_key: bytes, position: int) -> None:
        """Remember the program of a value that loads, if it is a new one and there is room."""
        if program not in self.programs and len(self.programs) < MAX_PROGRAMS:
            self.programs[program] = lmdb_key, position

    def extend(self, other: Tally) -> None:
        """Add the tally of the range that follows."""
        self.checked += other.checked
        self.skipped += other.skipped
        self.refused += other.refused
        self.value_bytes += other.value_bytes
        self.rules.update(other.rules)
        self.categories.update(other.categories)
        if len(self.findings) < MAX_FINDINGS or (
            other.findings and _order(other.findings[0]) < _order(self.findings[-1])
        ):
            self.findings = sorted([*self.findings, *other.findings], key=_order)[:MAX_FINDINGS]
        self.formats.update(other.formats)
        self.sizes.update(other.sizes)
        self.clean_keys += other.clean_keys[: KEPT_NAMES - len(self.clean_keys)]
        for program, (lmdb_key, position) in other.programs.items():
            self.see(program, lmdb_key, position)
        self.opinions.update(other.opinions)
        self.undecided = self.undecided or other.undecided


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Which state of which data file was judged; equal for every copy of the file, on every machine.

    Attributes:
        file_bytes: Its size.
        transaction: Id of the last committed transaction.
        identity: 32 hexadecimal digits that tell it from other files at a glance: SHA-256 of its size (8 bytes,
            little-endian) and of 64 samples of 16 kB spread evenly, cut to 16 bytes. A change between the samples does
            not show; ``sha256`` has all.
        sha256: SHA-256 of the whole file, hexadecimal; None if it was not asked for.
    """

    file_bytes: int
    transaction: int
    identity: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What was found in one database.

    Attributes:
        database: Path as the caller gave it.
        entries: Records that the database has, as its meta page says.
        tally: The counts, and the findings.
        file: The data file that was judged; None if it could not be opened.
        sampled: Whether only a part of the records was to be judged.
        undecided: Why not every record could be judged, or None.
        interrupted: Whether that is because the user interrupted it.
        resumed: Records of which an earlier, interrupted audit has told.
        fail_on: Least level of a finding for which the exit code is 1.
    """

    database: str
    entries: int
    tally: Tally
    file: FileFacts | None = None
    sampled: bool = False
    undecided: str | None = None
    interrupted: bool = False
    resumed: int = 0
    fail_on: Level = Level.ERROR

    @property
    def checked(self) -> int:
        """Records that were judged."""
        return self.tally.checked

    @property
    def refused(self) -> int:
        """Records with an error."""
        return self.tally.refused

    @property
    def value_bytes(self) -> int:
        """Bytes of the values that were judged."""
        return self.tally.value_bytes

    @property
    def rules(self) -> Mapping[Rule, int]:
        """Findings by rule, the most frequent first."""
        return dict(self.tally.rules.most_common())

    @property
    def categories(self) -> Mapping[Category, int]:
        """Findings by category, the gravest first."""
        return {category: self.tally.categories[category] for category in Category if self.tally.categories[category]}

    @property
    def errors(self) -> Mapping[Category, int]:
        """Findings of level error by category, the gravest first."""
        return {category: count for category, count in self.categories.items() if category not in HARMLESS}

    @property
    def clean(self) -> int:
        """Records from which the loader returns a patch."""
        return self.checked - self.refused

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings that were kept, in their order (``Finding.order``)."""
        return tuple(self.tally.findings)

    @property
    def findings_left_out(self) -> int:
        """Findings that are counted but not kept."""
        return sum(self.tally.rules.values()) - len(self.tally.findings)

    def count(self, level: Level) -> int:
        """Findings of one level."""
        return sum(found for rule, found in self.tally.rules.items() if RULES[rule].level is level)

    @property
    def verdict(self) -> Verdict:
        """``refused`` if there is an error; ``clean`` only if every record that was to be judged was."""
        if self.count(Level.ERROR):
            return "refused"
        nothing = not self.checked and not self.tally.skipped
        return "undecided" if self.undecided is not None or nothing else "clean"

    @property
    def exit_code(self) -> int:
        """130 interrupted; 1 refused, or a finding of level ``fail_on`` or graver; 2 undecided; otherwise 0."""
        if self.interrupted:
            return INTERRUPTED_EXIT_CODE
        levels = list(Level)  # the gravest first
        if any(self.count(level) for level in levels[: levels.index(self.fail_on) + 1]):
            return EXIT_CODES["refused"]
        return EXIT_CODES[self.verdict]
