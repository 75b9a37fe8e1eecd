"""The form of commands: the words for a wrong call, options that agree with functions, completion in a shell."""

import inspect
import typing

import click
import pytest

from ben_secure.cli import main
from ben_secure.cli._app import app
from support.databases import HONEST, make_database


@pytest.fixture
def database(tmp_path, monkeypatch):
    """A database in the working directory, whose name is ``a``; others may write to it."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "a", {b"first": HONEST[0]}).chmod(0o777)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "a", "--fail-on", "critical"], "--fail-on is critical; expected error, warning or note"),
        (["audit", "a", "--workers", "0"], "--workers is 0; expected a whole number of at least 1"),
        (["audit", "a", "--sample", "1.5"], "--sample is 1.5; expected a whole number of at least 1"),
        (["audit", "a", "--value-timeout", "nan"], "--value-timeout is nan; expected a number of at least 0.01"),
        (["audit", "a", "--value-timeout", "inf"], "--value-timeout is inf; expected a number of at least 0.01"),
        (["audit", "a", "--format", "\x1b[31m"], r"--format is \x1b[31m; expected table, json, sarif or html"),
        (["audit"], "DB is missing"),
        (["audit", "a", "--fial-on", "note"], "there is no option --fial-on; did you mean --fail-on?"),
        (["show", "a"], "--output is missing"),
        (["keygen", "mac", "a", "--algorithm", "MD5"], "--algorithm is MD5; expected HS256 or A256GMAC"),
        (["inspect", "a", "b", "--hex"], "KEY is b; expected hexadecimal digits, or no --hex"),
    ],
)
def test_a_usage_error_says_what_is_expected_and_where_it_is_explained(arguments, message, database, capsys):
    """The message has the expected value, and the command whose help explains it; a correct call is accepted."""
    assert main(arguments) == 2
    command = " ".join(arguments[: 2 if arguments[0] == "keygen" else 1])
    assert capsys.readouterr() == ("", f"ben-secure: {message} (see ben-secure {command} --help)\n")


@pytest.mark.parametrize(
    "options",
    [["--fail-on", "note"], ["--workers", "1"], ["--sample", "1"], ["--value-timeout", "9.5"], ["--format", "TABLE"]],
)
def test_what_an_option_expects_is_taken(options, database, capsys):
    """The counterparts of the refused values; a choice may be written in either case."""
    assert main(["audit", "a", *options]) == (1 if "note" in options else 0)
    assert capsys.readouterr().err == ""


def commands(group=app, path=()):
    """Every command below a group, by the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield pytest.param(command, id=" ".join((*path, name)))


@pytest.mark.parametrize("command", list(commands()))
def test_each_option_is_a_parameter_of_its_type(command):
    """The options of a command and the parameters of its function are the same, and None is allowed where it can be."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    hints.pop("return")
    if hints.pop("verification", None) is not None:
        hints |= dict.fromkeys(("mac_key", "manifest", "name", "version", "subject"), str | None)
        hints |= {"context": str, "verify_key": tuple[str, ...], "threshold": int}
    assert {parameter.name for parameter in command.params} == set(hints)
    for parameter in command.params:
        several = parameter.nargs == -1 or parameter.multiple
        default = parameter.get_default(click.Context(command))
        can_be_none = not (parameter.required or several or isinstance(default, str | int | float))
        assert (type(None) in typing.get_args(hints[parameter.name])) == can_be_none, parameter.name
        assert (hints[parameter.name] == tuple[str, ...]) == several, parameter.name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ben-secure aud", ["plain,audit"]),
        ("ben-secure audit --fail-", ["plain,--fail-on"]),
        ("ben-secure audit --fail-on ", ["plain,error", "plain,warning", "plain,note"]),
        ("ben-secure keygen ", ["plain,mac", "plain,publisher"]),
        ("ben-secure audit da", ["file,da"]),
        ("ben-secure audit --resume st", ["file,st"]),
        ("ben-secure audit --context st", []),
    ],
)
def test_a_shell_can_complete(words, expected, monkeypatch, capfd):
    """Commands, options, choices and files; nothing is run."""
    monkeypatch.setenv("_BEN_SECURE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert main([]) == 0
    assert capfd.readouterr().out.split() == expected


def test_a_shell_gets_its_script(monkeypatch, capfd):
    """For the shells that are known; another one is undecided."""
    for shell, exit_code in (("zsh", 0), ("fish", 0), ("csh", 2)):
        monkeypatch.setenv("_BEN_SECURE_COMPLETE", f"{shell}_source")
        assert main([]) == exit_code
        assert ("ben-secure" in capfd.readouterr().out) == (exit_code == 0)
