"""The rules of the audit, each with its level, category, title and help text. Data only.

An error means that the loader refuses the value or that the database as a whole must not be used. It makes the exit
code 1. Warnings and notes do so only on request (``--fail-on``). Categories separate attacks from damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from ben_secure.errors import Rule


class Level(str, Enum):
    """Severity of a finding. The names come from SARIF 2.1.0, section 3.58.6."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    def __str__(self) -> str:
        return self.value


class Category(str, Enum):
    """Possible consequence of a finding, gravest first. Reports list findings in this order."""

    CODE = "could-run-code"
    EXHAUST = "could-exhaust"
    AUTHENTICITY = "not-authentic"
    DAMAGE = "damaged"
    NO_PATCH = "no-patch"
    EXPOSED = "exposed"
    ODD = "odd"

    def __str__(self) -> str:
        return self.value

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return _RANKS[self]

    @property
    def one(self) -> str:
        """The predicate for one value of this category, such as ``could run code``."""
        return _CATEGORIES[self][0]

    def counted(self, count: int) -> str:
        """Format a number of findings, such as ``3 could run code``."""
        one, many, _ = _CATEGORIES[self]
        return f"{count:,} {one if count == 1 else many}"

    @property
    def advice(self) -> str:
        """What to do about a database in which this is the gravest category of an error."""
        return _CATEGORIES[self][2]


_CATEGORIES: Mapping[Category, tuple[str, str, str]] = MappingProxyType(
    {
        Category.CODE: ("could run code", "could run code", "do not load it with pickle, and find out who wrote it"),
        Category.EXHAUST: (
            "could exhaust memory or time",
            "could exhaust memory or time",
            "do not load it with pickle, and find out who wrote it",
        ),
        Category.AUTHENTICITY: (
            "is not authentic",
            "are not authentic",
            "it differs from the tagged or signed data: fetch it again from its source",
        ),
        Category.DAMAGE: ("is damaged", "are damaged", "fetch it again"),
        Category.NO_PATCH: (
            "is not a patch",
            "are not patches",
            "ask its publisher, or leave out refused values: ben-secure convert DB NEW --skip-refused",
        ),
        Category.EXPOSED: ("can be changed by others", "can be changed by others", "check its permissions"),
        Category.ODD: ("is odd", "are odd", "look at the findings"),
    }
)
HARMLESS = frozenset({Category.EXPOSED, Category.ODD})
"""Categories of warnings and notes. All other categories are for errors."""
_RANKS = {category: rank for rank, category in enumerate(Category)}


@dataclass(frozen=True, slots=True)
class RuleText:
    """Level, category and texts of a rule.

    Attributes:
        level: Severity of its findings.
        category: Their possible consequence.
        title: The problem in a few words.
        help: Meaning of the problem and what to do; a few sentences of printable ASCII.
    """

    level: Level
    category: Category
    title: str
    help: str


def _error(category: Category, title: str, help_text: str) -> RuleText:
    return RuleText(Level.ERROR, category, title, help_text)


def _warning(category: Category, title: str, help_text: str) -> RuleText:
    return RuleText(Level.WARNING, category, title, help_text)


_FETCH = "Fetch the database again. If the problem remains, ask its publisher."
_EXHAUSTING = "Loading it with pickle could use all memory or crash the process. Find out who wrote this file."
_HOSTILE = "Somebody may have put it there to run code. Do not load it with pickle; find out who wrote this file."

RULES: Mapping[Rule, RuleText] = MappingProxyType(
    {
        Rule.NOT_A_PICKLE: _error(
            Category.NO_PATCH,
            "not a pickle",
            f"The value is neither a pickled patch nor a safetensors record. {_FETCH}",
        ),
        Rule.MALFORMED: _error(
            Category.DAMAGE, "damaged or truncated value", f"The value ends early or cannot be decoded. {_FETCH}"
        ),
        Rule.TRAILING_DATA: _error(
            Category.CODE,
            "data after the pickle",
            f"Bytes follow the end of the pickle. They may be a second program. {_HOSTILE}",
        ),
        Rule.FORBIDDEN_OPCODE: _error(
            Category.CODE,
            "opcode that no patch needs",
            f"The pickle has an instruction that no honest patch has. {_HOSTILE}",
        ),
        Rule.FORBIDDEN_GLOBAL: _error(
            Category.CODE,
            "global outside the allow-list",
            "The pickle asks for a function or class that no patch needs. pickle would import it and most likely call "
            f"it. {_HOSTILE}",
        ),
        Rule.CALL_SHAPE: _error(
            Category.EXHAUST,
            "call with unexpected arguments",
            f"An allowed function is called with arguments that no patch passes. {_EXHAUSTING}",
        ),
        Rule.LIMIT: _error(
            Category.EXHAUST,
            "resource limit exceeded",
            f"The value is larger, deeper or longer than any honest patch. {_EXHAUSTING}",
        ),
        Rule.STRUCTURE: _error(
            Category.CODE,
            "unsafe structure",
            "No honest patch has this structure: an old pickle protocol, foreign objects, or objects that change after "
            f"they were checked. {_HOSTILE}",
        ),
        Rule.ARRAY: _error(
            Category.EXHAUST, "invalid array", f"An array's dtype, shape and bytes do not agree. {_EXHAUSTING}"
        ),
        Rule.PATCH: _error(
            Category.NO_PATCH,
            "not a valid patch",
            f"The value is harmless but not a patch: a band is missing or has the wrong shape or type. {_FETCH}",
        ),
        Rule.TENSORS: _error(
            Category.NO_PATCH,
            "invalid safetensors record",
            f"The header of the record breaks the rules of the safetensors format, or names no bands. {_FETCH}",
        ),
        Rule.LMDB_KEY: _error(
            Category.NO_PATCH,
            "LMDB key without a name",
            "The LMDB key is not UTF-8 or too long, so readers cannot name the patch, and listing the names fails at "
            "this key. Write a copy without it: ben-secure convert DB NEW --skip-refused.",
        ),
        Rule.TAG_MISSING: _error(
            Category.AUTHENTICITY,
            "tag missing",
            "A key was given, but the value has no tag, so no holder of the key wrote it.",
        ),
        Rule.TAG_INVALID: _error(
            Category.AUTHENTICITY,
            "tag invalid",
            f"The value, its LMDB key or its context is not the one that was tagged with this key. {_FETCH}",
        ),
        Rule.TAG_FOREIGN: _error(
            Category.AUTHENTICITY,
            "tag of another key",
            "The value was tagged with a key that was not given, so its origin cannot be verified.",
        ),
        Rule.MANIFEST: _error(
            Category.AUTHENTICITY,
            "not what the manifest lists",
            f"The signed manifest does not list this record, or lists another value for it. {_FETCH}",
        ),
        Rule.SIGNATURE: _error(
            Category.AUTHENTICITY, "signature invalid", "The manifest is not signed by the keys that were given."
        ),
        Rule.LOST: _error(
            Category.EXHAUST,
            "value that stopped a worker",
            "The process that judged this value died or hung, and so did a second process that judged only this value. "
            "No value should be able to do that. Please report it with the value.",
        ),
        Rule.DAMAGED: _error(
            Category.DAMAGE,
            "database structure damaged",
            "The pages of the data file contradict each other. ben_secure reads it within bounds, but liblmdb may "
            f"crash on it. {_FETCH}",
        ),
        Rule.RECORD_MISSING: _error(
            Category.AUTHENTICITY,
            "record missing",
            f"The signed manifest lists a record that the database does not have. {_FETCH}",
        ),
        Rule.FOREIGN_FILE: _warning(
            Category.EXPOSED,
            "file that does not belong here",
            "A database directory contains only data.mdb and lock.mdb. Find out what the other files are for.",
        ),
        Rule.WRITABLE: _warning(
            Category.EXPOSED,
            "writable by others",
            "Anyone who can change the data file, or replace it in its folder, decides what everyone loads. Remove "
            "write permission for group and others (chmod go-w).",
        ),
        Rule.OWNER: _warning(
            Category.EXPOSED,
            "owned by somebody else",
            "The owner of the data file or its folder can change what everyone loads. Make sure that you trust them, "
            "or verify tags or a manifest.",
        ),
        Rule.OPINION: _warning(
            Category.ODD,
            "second opinion disagrees",
            "fickling reports more about this value than about any honest patch, or lmdb.verify reports faults in the "
            "pages. ben_secure runs no code from a value and accounts for every page, but the difference is worth a "
            "look.",
        ),
        Rule.METADATA: _warning(
            Category.ODD,
            "suspicious metadata",
            "The metadata is safe to load, but contains things that no label or date needs, such as control characters "
            "that could take over a terminal that prints them.",
        ),
        Rule.KEY_NAME: RuleText(
            Level.NOTE,
            Category.ODD,
            "LMDB key is not a BigEarthNet patch name",
            "The key does not have the format of patch names of BigEarthNet v1 or v2. The value still loads.",
        ),
    }
)
"""The text of every member of ``Rule``."""

DATABASE_RULES = frozenset({Rule.DAMAGED, Rule.RECORD_MISSING, Rule.SIGNATURE})
"""Errors that concern the database rather than one of its values."""
