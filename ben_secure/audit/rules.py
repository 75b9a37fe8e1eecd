"""Every rule of the audit: its level, one line for a table, and the help text that reports carry. Data only.

An error means that the loader does not load the value, or that the database as a whole must not be used; it makes the
exit code 1. A warning or a note never does, unless the caller asks for more (``--fail-on``). A category tells attacks
from damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from ben_secure.errors import Rule


class Level(str, Enum):
    """How grave a finding is; the names are those of SARIF 2.1.0, section 3.58.6."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    def __str__(self) -> str:
        return self.value


class Category(str, Enum):
    """What a finding could mean for the reader, the gravest first; reports list findings in this order."""

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
        """Write what a value of this category does, as in ``could run code``."""
        return _CATEGORIES[self][0]

    def counted(self, count: int) -> str:
        """Write a number of findings, as in ``3 could run code``."""
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
            "it is not what was tagged or signed: fetch it again from its source",
        ),
        Category.DAMAGE: ("is damaged", "are damaged", "fetch it again"),
        Category.NO_PATCH: (
            "is no patch",
            "are no patches",
            "ask its publisher, or leave out what is refused: ben-secure convert DB NEW --skip-refused",
        ),
        Category.EXPOSED: ("is open to change by others", "are open to change by others", "see to its permissions"),
        Category.ODD: ("is odd", "are odd", "look at the findings"),
    }
)
HARMLESS = frozenset({Category.EXPOSED, Category.ODD})
"""Categories of warnings and notes; the others are those of errors."""
_RANKS = {category: rank for rank, category in enumerate(Category)}


@dataclass(frozen=True, slots=True)
class RuleText:
    """What is said about a rule.

    Attributes:
        level: How grave a finding of this rule is.
        category: What it could mean.
        title: What is wrong, in a few words.
        help: What it means, and what to do; a few sentences of plain ASCII.
    """

    level: Level
    category: Category
    title: str
    help: str


def _error(category: Category, title: str, help_text: str) -> RuleText:
    return RuleText(Level.ERROR, category, title, help_text)


def _warning(category: Category, title: str, help_text: str) -> RuleText:
    return RuleText(Level.WARNING, category, title, help_text)


_FETCH = "Fetch the database again; if it stays so, ask its publisher."
_EXHAUSTING = "Loading it with pickle could take all memory or crash the process. Find out who wrote this file."
_HOSTILE = "Somebody may have put it there to run code. Do not load it with pickle; find out who wrote this file."

RULES: Mapping[Rule, RuleText] = MappingProxyType(
    {
        Rule.NOT_A_PICKLE: _error(
            Category.NO_PATCH,
            "not a pickle",
            f"The value is neither a pickled patch nor a safetensors record. {_FETCH}",
        ),
        Rule.MALFORMED: _error(
            Category.DAMAGE, "damaged or truncated value", f"The value ends early or makes no sense. {_FETCH}"
        ),
        Rule.TRAILING_DATA: _error(
            Category.CODE,
            "data behind the pickle",
            f"Bytes follow the end of the pickle: a second program, perhaps. {_HOSTILE}",
        ),
        Rule.FORBIDDEN_OPCODE: _error(
            Category.CODE,
            "opcode that no patch needs",
            f"The pickle has an instruction that no honest patch has. {_HOSTILE}",
        ),
        Rule.FORBIDDEN_GLOBAL: _error(
            Category.CODE,
            "global outside the allow-list",
            f"The pickle asks for a function or class that no patch needs; pickle would import it and, mostly, call "
            f"it. {_HOSTILE}",
        ),
        Rule.CALL_SHAPE: _error(
            Category.EXHAUST,
            "call with other arguments than patches make",
            f"An admitted function would be called as no patch calls it. {_EXHAUSTING}",
        ),
        Rule.LIMIT: _error(
            Category.EXHAUST,
            "resource limit exceeded",
            f"The value is larger, deeper or longer than any honest patch. {_EXHAUSTING}",
        ),
        Rule.STRUCTURE: _error(
            Category.CODE,
            "unsafe structure",
            "The pickle is built as no patch is: of an old protocol, or with objects that are not its own or change "
            f"after they were checked. {_HOSTILE}",
        ),
        Rule.ARRAY: _error(
            Category.EXHAUST, "invalid array", f"An array's dtype, shape and bytes do not agree. {_EXHAUSTING}"
        ),
        Rule.PATCH: _error(
            Category.NO_PATCH,
            "not a valid patch",
            f"The value is harmless but no patch: a band is missing, misshapen or of another type. {_FETCH}",
        ),
        Rule.TENSORS: _error(
            Category.NO_PATCH,
            "invalid safetensors record",
            f"The header of the record breaks the rules of the safetensors format, or names no bands. {_FETCH}",
        ),
        Rule.LMDB_KEY: _error(
            Category.NO_PATCH,
            "LMDB key without a name",
            "The LMDB key is not UTF-8 or too long, so no reader can name the patch, and listing the names stops "
            "there. Write a copy without it: ben-secure convert DB NEW --skip-refused.",
        ),
        Rule.TAG_MISSING: _error(
            Category.AUTHENTICITY,
            "tag missing",
            "A key was given, and the value bears no tag: it was not written by the key's holders.",
        ),
        Rule.TAG_INVALID: _error(
            Category.AUTHENTICITY,
            "tag invalid",
            f"The value, its LMDB key or its context is not what was tagged with this key. {_FETCH}",
        ),
        Rule.TAG_FOREIGN: _error(
            Category.AUTHENTICITY,
            "tag of another key",
            "The value bears the tag of a key that was not given; nobody here can vouch for it.",
        ),
        Rule.MANIFEST: _error(
            Category.AUTHENTICITY,
            "not what the manifest lists",
            f"The signed manifest has no such record, or another value for it. {_FETCH}",
        ),
        Rule.SIGNATURE: _error(
            Category.AUTHENTICITY, "signature invalid", "The manifest is not signed by the keys that were given."
        ),
        Rule.LOST: _error(
            Category.EXHAUST,
            "value that stopped a worker",
            "The process that judged this value died or hung, and did so again when it judged nothing else. Please "
            "report it with the value: no value should be able to.",
        ),
        Rule.DAMAGED: _error(
            Category.DAMAGE,
            "database structure damaged",
            f"The pages of the data file contradict each other. ben_secure reads it within bounds; liblmdb may crash "
            f"on it. {_FETCH}",
        ),
        Rule.RECORD_MISSING: _error(
            Category.AUTHENTICITY,
            "record missing",
            f"The signed manifest lists a record that the database does not have. {_FETCH}",
        ),
        Rule.FOREIGN_FILE: _warning(
            Category.EXPOSED,
            "file that does not belong here",
            "A database directory holds data.mdb and lock.mdb. Find out what the other files are for.",
        ),
        Rule.WRITABLE: _warning(
            Category.EXPOSED,
            "writable by others",
            "Whoever can write the data file, or replace it in its folder, decides what everyone loads. Take write "
            "permission from group and others (chmod go-w).",
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
            "fickling finds more in this value than in any honest patch, or lmdb.verify finds fault with the pages. "
            "ben_secure runs nothing of a value and accounts for every page; look at it all the same.",
        ),
        Rule.METADATA: _warning(
            Category.ODD,
            "suspicious metadata",
            "The metadata is plain data and safe to load, but holds what no label or date needs, such as control "
            "characters that could take over a terminal that prints it.",
        ),
        Rule.KEY_NAME: RuleText(
            Level.NOTE,
            Category.ODD,
            "LMDB key is no BigEarthNet patch name",
            "The key does not have the format of patch names of BigEarthNet v1 or v2. It loads all the same.",
        ),
    }
)
"""The text of every rule; has exactly the members of ``Rule``."""

OF_THE_WHOLE = frozenset({Rule.DAMAGED, Rule.RECORD_MISSING, Rule.SIGNATURE})
"""Errors that concern no value that is there."""
