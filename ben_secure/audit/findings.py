"""Results of an audit: findings, the tally of a range of keys, and the report on a database.

These are data classes. The only decision made here is the verdict, which follows from the counts.
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
"""Maximum number of distinct programs per audit that fickling is asked about, once for accepted values and once for
refused ones."""
MAX_FINDINGS = 10_000
"""Maximum number of findings kept in detail, about 1 kB each. Others are only counted, because all of 590,326 values
may be malicious."""

NO_OPINION = "fickling has no opinion"
"""Prefix of the text that stands in for a missing opinion."""

KEPT_CLEAN_KEYS = 12
"""Number of LMDB keys of clean values that a tally keeps, so that reports can show pictures of them."""

_LEVELS = {level: rank for rank, level in enumerate(Level)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One problem, or one remark.

    Attributes:
        rule: Stable id of the kind of problem.
        message: Description, with the values found and expected; printable ASCII.
        lmdb_key: Raw LMDB key; untrusted, so escape it before printing. None for the database as a whole.
        offset: Byte of the value at which the problem was found, if known.
        opcode: Name of the pickle opcode at that byte, if known.
        global_name: ``module.name`` that the value asks for, escaped, if that is the problem.
        opinion: fickling's opinion of the value, escaped. None if fickling was not asked or has nothing to add.
        position: Number of records before this one in key order, if known.
        program: Fingerprint of the program of a refused value (``programs.refused_fingerprint``), if fickling is to be
            asked.
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
        """Severity."""
        return RULES[self.rule].level

    @property
    def category(self) -> Category:
        """Possible consequence: ``CODE`` if the value asks for a foreign global, otherwise the category of the rule."""
        return RULES[self.rule].category if self.global_name is None else Category.CODE

    @property
    def order(self) -> tuple[int, int, bool, bytes]:
        """Sort key for reports: category, then level, then the database as a whole before its LMDB keys in order."""
        return self.category.rank, _LEVELS[self.level], self.lmdb_key is not None, self.lmdb_key or b""

    @classmethod
    def from_error(cls, lmdb_key: bytes | None, error: BenSecureError) -> Finding:
        """Convert an error into a finding.

        Args:
            lmdb_key: Raw LMDB key of the value, or None for the database as a whole.
            error: The error. If it has no rule, it counts as ``malformed``.

        Returns:
            The finding.
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
    """Counts and findings of one range of keys.

    Law: adding up the tallies of any partition of the keys, in key order, gives the tally of all keys.

    Attributes:
        checked: Number of records judged.
        skipped: Number of records skipped because a verified manifest lists their digests (``since_manifest``).
        refused: Number of records with an error.
        value_bytes: Total size of the judged values, bytes.
        rules: Number of findings by rule, of every level.
        categories: Number of findings by category, of every level.
        findings: The first ``MAX_FINDINGS`` findings in report order (``Finding.order``).
        formats: Number of values by the program that wrote them (``canonical``, ``legacy: ...``, ``safetensors``).
            Refused values count as ``refused``.
        sizes: Number of values by the bit length of their size: n for 2 ** (n - 1) to 2 ** n - 1 bytes.
        clean_keys: LMDB keys of the first ``KEPT_CLEAN_KEYS`` clean values.
        programs: The first ``MAX_PROGRAMS`` distinct programs of accepted values: LMDB key and position of the first
            value with the program, by fingerprint (``programs.accepted_fingerprint``), in key order.
        opinions: Number of distinct programs by fickling's opinion: ``as honest``, ``more`` or ``none``.
        undecided: First reason why not every record of the range could be judged, or None.
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
    def processed(self) -> int:
        """Number of records judged or skipped."""
        return self.checked + self.skipped

    def count(self, *, value_bytes: int, written_by: str) -> None:
        """Count one judged record.

        Args:
            value_bytes: Length of its value, bytes, or 0 if it could not be read.
            written_by: Program that wrote the value, as in ``formats``.
        """
        self.checked += 1
        self.value_bytes += value_bytes
        self.sizes[value_bytes.bit_length()] += 1
        self.formats[written_by] += 1

    def keep_clean(self, lmdb_key: bytes) -> None:
        """Keep the LMDB key of a clean value, up to ``KEPT_CLEAN_KEYS``."""
        if len(self.clean_keys) < KEPT_CLEAN_KEYS:
            self.clean_keys.append(lmdb_key)

    def add(self, finding: Finding) -> None:
        """Count one finding, and keep it if it is among the first ``MAX_FINDINGS``."""
        self.rules[finding.rule] += 1
        self.categories[finding.category] += 1
        if self.findings and finding.order < self.findings[-1].order:
            insort(self.findings, finding, key=_order)
        else:  # the usual case, because records are judged in key order
            self.findings.append(finding)
        del self.findings[MAX_FINDINGS:]

    def see(self, program: bytes, lmdb_key: bytes, position: int) -> None:
        """Remember a new program of an accepted value, up to ``MAX_PROGRAMS``."""
        if program not in self.programs and len(self.programs) < MAX_PROGRAMS:
            self.programs[program] = lmdb_key, position

    def extend(self, other: Tally) -> None:
        """Add the tally of the next range."""
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
        self.clean_keys += other.clean_keys[: KEPT_CLEAN_KEYS - len(self.clean_keys)]
        for program, (lmdb_key, position) in other.programs.items():
            self.see(program, lmdb_key, position)
        self.opinions.update(other.opinions)
        self.undecided = self.undecided or other.undecided


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """Identifies the judged data file and its state. Equal for every copy of the file, on every machine.

    Attributes:
        file_bytes: Size of the file.
        transaction: Id of the last committed transaction.
        identity: 32 hexadecimal digits for a quick comparison of files: SHA-256 of the size (8 bytes, little-endian)
            and of 64 samples of 16 kB spread evenly, truncated to 16 bytes. It misses changes between the samples.
            ``sha256`` covers the whole file.
        sha256: SHA-256 of the whole file, hexadecimal, or None unless requested.
    """

    file_bytes: int
    transaction: int
    identity: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """Result of the audit of one database.

    Attributes:
        database: Path, as the caller gave it.
        entries: Number of records according to the meta page.
        tally: Counts and findings.
        file: The data file that was judged, or None if it could not be opened.
        sampled: Whether only a sample of the records was to be judged.
        undecided: Why not every record could be judged, or None.
        interrupted: Whether the user interrupted the audit.
        resumed: Number of records whose results come from an earlier, interrupted audit.
        fail_on: The exit code is 1 if a finding has at least this level.
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
        """Number of records judged."""
        return self.tally.checked

    @property
    def refused(self) -> int:
        """Number of records with an error."""
        return self.tally.refused

    @property
    def value_bytes(self) -> int:
        """Total size of the judged values, bytes."""
        return self.tally.value_bytes

    @property
    def rules(self) -> Mapping[Rule, int]:
        """Number of findings by rule, the most frequent first."""
        return dict(self.tally.rules.most_common())

    @property
    def categories(self) -> Mapping[Category, int]:
        """Number of findings by category, the gravest first."""
        return {category: self.tally.categories[category] for category in Category if self.tally.categories[category]}

    @property
    def errors(self) -> Mapping[Category, int]:
        """Number of findings of level error by category, the gravest first."""
        return {category: count for category, count in self.categories.items() if category not in HARMLESS}

    @property
    def clean(self) -> int:
        """Number of records that load as patches."""
        return self.checked - self.refused

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings that were kept, in report order (``Finding.order``)."""
        return tuple(self.tally.findings)

    @property
    def findings_left_out(self) -> int:
        """Number of findings that were counted but not kept."""
        return sum(self.tally.rules.values()) - len(self.tally.findings)

    def count(self, level: Level) -> int:
        """Number of findings of one level."""
        return sum(count for rule, count in self.tally.rules.items() if RULES[rule].level is level)

    @property
    def verdict(self) -> Verdict:
        """``refused`` if there is an error; ``clean`` only if all requested records were judged; else ``undecided``."""
        if self.count(Level.ERROR):
            return "refused"
        nothing = not self.checked and not self.tally.skipped
        return "undecided" if self.undecided is not None or nothing else "clean"

    @property
    def exit_code(self) -> int:
        """130 if interrupted; 1 if refused or a finding has at least the level ``fail_on``; 2 if undecided; else 0."""
        if self.interrupted:
            return INTERRUPTED_EXIT_CODE
        levels = list(Level)  # the gravest first
        if any(self.count(level) for level in levels[: levels.index(self.fail_on) + 1]):
            return EXIT_CODES["refused"]
        return EXIT_CODES[self.verdict]
