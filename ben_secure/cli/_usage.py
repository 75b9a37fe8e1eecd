"""Options and arguments of commands, their types, and the messages for usage errors.

An ``OptionType`` converts the text of an option, or reports the expected values in the same style as all other
messages, which click's own types do not. Text from the command line is escaped in messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ben_secure.errors import printable

_Function = TypeVar("_Function", bound=Callable[..., object])


class OptionType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.5
    """Type of an option or argument: converts its text into a value."""

    def __init__(
        self,
        metavar: str,
        convert: Callable[[str], object],
        expected: str = "",
        *,
        choices: tuple[str, ...] | None = (),
    ) -> None:
        """Make a type.

        Args:
            metavar: Placeholder in the help.
            convert: Converts the text. Raises ValueError for an invalid text.
            expected: Description of valid values for the message. If empty, the message has the text of the ValueError.
            choices: Texts for shell completion, or None to complete file names.
        """
        self.name = metavar
        self._convert = convert
        self._expected = expected
        self._choices = choices

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """Return the placeholder in the help."""
        return self.name

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Convert a text. A default value that is not a text does not change."""
        if not isinstance(value, str):
            return value
        try:
            return self._convert(value)
        except ValueError as error:
            name = "the value" if param is None else _name(param)
            text = f"{name} is {printable(value)}; expected {self._expected}" if self._expected else f"{name}: {error}"
            raise click.UsageError(text, ctx) from error

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete one of the choices, or the name of a file."""
        if self._choices is None:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(choice) for choice in self._choices if choice.startswith(incomplete)]


PATH = OptionType("FILE", str, choices=None)


def one_of(choices: Mapping[str, object]) -> OptionType:
    """Make a type that accepts a few texts, in upper or lower case, and converts each into its value."""
    values = {text.casefold(): value for text, value in choices.items()}

    def convert(text: str) -> object:
        if text.casefold() not in values:
            raise ValueError
        return values[text.casefold()]

    *others, last = choices
    return OptionType("|".join(choices), convert, f"{', '.join(others)} or {last}", choices=tuple(choices))


def whole(metavar: str = "N", *, least: int | None = None) -> OptionType:
    """Make a type of whole numbers, with a minimum if ``least`` is given."""

    def convert(text: str) -> int:
        if (number := int(text)) < (number if least is None else least):
            raise ValueError
        return number

    return OptionType(metavar, convert, "a whole number" + ("" if least is None else f" of at least {least}"))


def number(metavar: str, *, least: float) -> OptionType:
    """Make a type of finite numbers of at least ``least``."""

    def convert(text: str) -> float:
        if not least <= (value := float(text)) < math.inf:
            raise ValueError
        return value

    return OptionType(metavar, convert, f"a number of at least {least}")


class Argument(click.Argument):
    """A positional argument with a line in the help."""

    def __init__(self, names: list[str], *, note: str, metavar: str, **attributes: Any) -> None:
        """Make an argument as click does. ``note`` is the line in the help."""
        super().__init__(names, metavar=metavar, **attributes)
        self.note = note


class Command(click.Command):
    """A command whose help lists its arguments above its options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then the options."""
        arguments = [(param.metavar or "", param.note) for param in self.params if isinstance(param, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(ctx, formatter)


class Group(click.Group):
    """A group that lists its commands in the order in which they were added."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the names of the commands."""
        return list(self.commands)


def argument(name: str, *, note: str, metavar: str, **attributes: Any) -> Callable[[_Function], _Function]:
    """Add an argument with a line in the help to the decorated function."""
    return click.argument(name, cls=Argument, note=note, metavar=metavar, **attributes)


def wrong_call(error: click.UsageError) -> str:
    """Write a usage error in one line, with the command that prints the help."""
    text = error.message
    if isinstance(error, click.MissingParameter) and error.param is not None:
        text = f"{_name(error.param)} is missing"
    elif isinstance(error, click.NoSuchOption):
        suggestion = f"; did you mean {' or '.join(error.possibilities)}?" if error.possibilities else ""
        text = f"there is no option {error.option_name}{suggestion}"
    path = "ben-secure" if error.ctx is None else error.ctx.command_path
    return f"{printable(text.rstrip('.'), 1000)} (see {path} --help)"


def _name(param: click.Parameter) -> str:
    """Return the longest spelling of an option, or the name of an argument in the help."""
    return (param.metavar or "").strip("[].") if isinstance(param, click.Argument) else max(param.opts, key=len)
