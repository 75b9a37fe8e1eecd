"""Errors say what and where, survive pickling, and show nothing hostile."""

import copy
import os
import pickle
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import errors
from ben_secure.errors import BenSecureError, Rule, UndecidedError, UntrustedDataError, printable, shell_command

CLASSES = [
    found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, BenSecureError)
]  # fmt: skip
anything = st.recursive(
    st.text() | st.binary() | st.integers() | st.floats() | st.none() | st.booleans(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner) | st.just(object()),
)


@pytest.mark.threat("T4")
@given(anything, st.integers(3, 300))
def test_printable_is_short_plain_text(value, limit):
    """For any input the result is printable ASCII on one line, within the limit."""
    shown = printable(value, limit)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= limit


@pytest.mark.threat("T4")
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=120))
def test_printable_leaves_plain_text_alone(text):
    """Text that needs no escape is unchanged."""
    assert printable(text) == text


@pytest.mark.threat("T4")
@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\x9b2J", "\\x9b2J"),
        ("\x7f\0", "\\x7f\\x00"),
        ("ä\U0001f6f0", "\\xe4\\U0001f6f0"),
        ("\ud800", "\\ud800"),
        (b"\x1b\xff", "b'\\x1b\\xff'"),
        (bytearray(b"x"), "b'x'"),
        (None, "None"),
        (1.5, "1.5"),
        (-7, "-7"),
        ("", ""),
    ],
)
def test_printable_escapes(value, shown):
    """Escapes, line ends, marks that turn text around, surrogates: all become letters."""
    assert printable(value) == shown


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_a_shell_reads_the_words_of_a_command():
    """The shell reads the words unchanged, for any content, and the printed command is printable ASCII."""
    names = [
        b"plain",
        b"it's",
        b"$HOME `id` \\n",
        b"-R",
        b"a b;\n",
        "t\xe4mp".encode(),
        b"\xff\x1b[31m'\"",
        bytes(range(1, 256)),
    ]
    command = shell_command("printf", "%s\\0", *map(os.fsdecode, names))
    assert command.isascii()
    assert command.isprintable()
    assert command.startswith(r"printf '%s\0' plain ")
    assert subprocess.check_output(["bash", "-c", command]).split(b"\0")[:-1] == names


@pytest.mark.threat("T2")
def test_printable_looks_at_the_beginning_only():
    """A megabyte of text, or a small object that would print as gigabytes, costs nothing."""
    assert printable("x" * 10**7) == "x" * 117 + "..."
    assert len(printable("\x1b" * 10**7)) == 120
    assert len(printable(b"\xff" * 10**7)) <= 120
    laughs = ["ha" * 1000]
    for _ in range(40):
        laughs = [laughs] * 10
    for value in (laughs, tuple(laughs), {"x": laughs}, [[laughs]], {1, 2}, ["y" * 10**7] * 100):
        assert len(printable(value)) <= 120
    loop = []
    loop.append(loop)
    assert len(printable(loop)) <= 120


@pytest.mark.threat("T2")
def test_printable_of_huge_integers():
    """An integer that Python refuses to print is shown all the same."""
    for value in (2**511, -(2**511), 10**5000, [10**5000]):
        assert len(printable(value)) <= 120


@pytest.mark.threat("T4")
def test_printable_runs_no_code_of_what_it_shows():
    """The repr of an object is its own business."""

    class Loud:
        def __repr__(self):
            raise AssertionError("asked")

        __str__ = __format__ = __repr__

    class Text(str):
        def __getitem__(self, item):
            raise AssertionError("asked")

    assert "Loud" in printable(Loud())
    assert "Loud" in printable([Loud()])
    assert "0x" not in printable(object())


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_errors_survive_pickling(cls):
    """Type, text and every attribute come through, as when an error leaves a worker."""
    error = cls(
        "message", database="a.lmdb", lmdb_key=b"\xffkey", rule=Rule.ARRAY, offset=0, opcode="BUILD", global_name="a.b"
    )
    for again in (*(pickle.loads(pickle.dumps(error, p)) for p in range(6)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is cls
        assert vars(again) == vars(error)
        assert str(again) == str(error)
        assert again.args == error.args
        assert isinstance(again.rule, Rule)
    assert vars(pickle.loads(pickle.dumps(cls("bare")))) == vars(cls("bare"))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_on_one_branch(cls):
    """Refused or undecided: the branch is the exit code."""
    branches = [issubclass(cls, UntrustedDataError), issubclass(cls, UndecidedError)]
    assert sum(branches) == (0 if cls is BenSecureError else 1)


@pytest.mark.threat("T4")
def test_place_is_shown_escaped():
    """Key and database are part of the text, harmless whatever they are."""
    error = errors.StoreError("cannot read").located("bad\x1bname.lmdb", b"k\x1b]0;x\x07")
    assert str(error) == "cannot read [at LMDB key b'k\\x1b]0;x\\x07' in bad\\x1bname.lmdb]"
    assert str(errors.StoreError("x").located("db")) == "x [in db]"
    assert str(errors.StoreError("x")) == "x"


def test_place_is_kept_once_it_is_known():
    """An outer layer does not overwrite the more exact location of an inner one."""
    error = errors.PatchFormatError("x").located("inner", b"key")
    assert error.located("outer", b"other") is error
    assert (error.database, error.lmdb_key) == ("inner", b"key")
    assert errors.PatchFormatError("x", lmdb_key=b"").located("db", b"other").lmdb_key == b""


def test_rules_are_their_text():
    """Reports have stable ids."""
    assert str(Rule.FORBIDDEN_GLOBAL) == Rule.FORBIDDEN_GLOBAL == "forbidden-global"
    assert len({rule.value for rule in Rule}) == len(Rule)
    assert all(rule.value.replace("-", "").isalpha() for rule in Rule)
