"""Cards of a patch, a reader or a dataset for notebooks: HTML of bounded size without scripts, with all text escaped.

This module knows patches only as objects with bands. A patch that cannot be drawn has no picture. A patch that cannot
be read is replaced by the error message.
"""

from __future__ import annotations

import base64
import html
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ben_secure.errors import BenSecureError, MissingExtraError, printable
from ben_secure.view.quicklook import look, to_png

if TYPE_CHECKING:
    import numpy.typing as npt

_MOST_ROWS = 12
_MOST_CHARACTERS = 200
_MOST_PICTURES = 4
_MOST_NAMES = 100_000
_SIDE = 120  # maximum side of a thumbnail in pixels; a patch has 120


def card(title: str, rows: Sequence[tuple[str, object]], pictures: Iterable[str] = ()) -> str:
    """Make a table, with pictures under it.

    Args:
        title: Its heading.
        rows: Names and values: a str, a number, or a list or tuple of these.
        pictures: Results of ``thumbnail``.

    Returns:
        HTML.
    """
    table_rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows[:_MOST_ROWS])
    more = len(rows) - _MOST_ROWS
    rest = f"<tr><td colspan=2>and {more} more</td></tr>" if more > 0 else ""
    return f"<div><b>{_text(title)}</b><table>{table_rows}{rest}</table>{''.join(pictures)}</div>"


def thumbnail(bands: Mapping[str, npt.NDArray[Any]], *captions: object) -> str:
    """Draw some bands (see ``quicklook.look``). Without Pillow or a fitting composite, show only the captions."""
    picture = ""
    try:
        image = look(bands).image
        step = -(-max(image.shape[:2]) // _SIDE)
        data = base64.b64encode(to_png(image[::step, ::step])).decode()
        picture = f'<img alt="" width={_SIDE} src="data:image/png;base64,{data}">'
    except (ValueError, ImportError, MissingExtraError):
        pass
    lines = "".join(f"<br>{_text(caption)}" for caption in captions)
    return f'<span style="display:inline-block;max-width:{2 * _SIDE}px;margin:4px">{picture}{lines}</span>'


def gallery(title: str, names: Collection[str], load: Callable[[str], Any], verified: str | None) -> str:
    """Make the card of many patches, with pictures, names and labels of the first ones.

    Args:
        title: Its heading.
        names: Names of the patches.
        load: Reads one patch.
        verified: Description of the checks for each patch, or None if there are none.

    Returns:
        HTML. An error message replaces a patch that cannot be read.
    """
    rows: list[tuple[str, object]] = []
    pictures = []
    try:
        rows += [("patches", len(names)), ("verified", verified or "nothing")]
        for name in itertools.islice(names, _MOST_PICTURES):
            pictures.append(_picture(name, load))
    except (BenSecureError, ValueError) as error:  # or the reader was closed
        pictures.append(_message(error))
    return card(title, rows, pictures)


def _picture(name: str, load: Callable[[str], Any]) -> str:
    try:
        contents = load(name).to_dict()
    except BenSecureError as error:
        return _message(error)
    return thumbnail(contents["bands"], name, contents["metadata"].get("labels", ""))


def _message(error: Exception) -> str:
    return f"<p>{html.escape(printable(str(error), 400))}</p>"


def completions(names: Iterable[str]) -> list[str]:
    """Return names for completion between brackets: the first ``_MOST_NAMES``, without unprintable ones."""
    return [name for name in itertools.islice(names, _MOST_NAMES) if name.isprintable()]


def _text(value: object) -> str:
    """Escape a value. A list is written with commas."""
    if type(value) in (list, tuple):
        value = ", ".join(printable(item, _MOST_CHARACTERS) for item in value[:32])  # type: ignore[index]
    return html.escape(printable(value, _MOST_CHARACTERS))
