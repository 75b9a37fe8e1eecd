"""Elements, style and charts of the HTML report.

``Markup`` is HTML made by this module. Every other string is escaped when it becomes a child or an attribute. The page
has no scripts, loads nothing, links only to itself, and has a content security policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Child = str | int | None
"""Content of an element. Markup is inserted as it is, other text is escaped, None is left out."""


class Markup(str):
    """HTML that is safe to insert unescaped."""

    __slots__ = ()


_VOID = frozenset({"img", "meta"})


def tag(name: str, *children: Child, **attributes: Child) -> Markup:
    """Make an element.

    Args:
        name: Name of the element; a constant.
        children: Content.
        attributes: Attributes: ``class_`` for ``class``, and an underscore elsewhere for a hyphen. An attribute that is
            None is left out. An empty string gives an attribute without a value.

    Returns:
        The element.
    """
    words = [name]
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value == "":
            words.append(attribute)
        elif value is not None:
            words.append(f'{attribute}="{escape(str(value), quote=True)}"')
    opening = f"<{' '.join(words)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(children)}</{name}>")


def join(children: Sequence[Child]) -> Markup:
    """Concatenate children."""
    return Markup(
        "".join(child if isinstance(child, Markup) else escape(str(child)) for child in children if child is not None)
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[Child]], class_: str | None = None) -> Markup:
    """Make a table in a box that scrolls horizontally if necessary."""
    head = tag("thead", tag("tr", *(tag("th", heading, scope="col") for heading in headings)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell) for cell in row)) for row in rows))
    return tag("div", tag("table", head, body, class_=class_), class_="scroll")


def bars(counts: Mapping[str, int], heading: str, danger: str | None = None) -> Markup:
    """Draw counts as horizontal bars, in the given order.

    Args:
        counts: Counts by label.
        heading: Heading of the chart.
        danger: Label of the red bar.

    Returns:
        A figure.
    """
    most = max(counts.values(), default=0) or 1
    rows = []
    for label, count in counts.items():
        width = f"{max(100 * count / most, 0.5 if count else 0):.2f}%"
        bar = tag("rect", width=width, height=10, rx=2, class_="red" if label == danger else "blue")
        rows.append(
            tag(
                "tr",
                tag("th", label, scope="row"),
                tag("td", tag("svg", bar, width="100%", height=10, aria_hidden="true"), class_="bar"),
                tag("td", f"{count:,}", class_="number"),
            )
        )
    return tag("figure", tag("figcaption", heading), tag("table", tag("tbody", *rows), class_="bars"), class_="card")


_COLUMNS = 500


def strip(positions: Sequence[tuple[int, bool]], records: int) -> Markup:
    """Draw the positions of findings in key order.

    Args:
        positions: Position of each record with a finding, from 0, and whether the value is refused.
        records: Number of records in the database.

    Returns:
        A figure: key order from left to right, red for refused values, amber for warnings.
    """
    columns: dict[int, bool] = {}
    for position, refused in positions:
        column = min(position * _COLUMNS // max(records, 1), _COLUMNS - 1)
        columns[column] = columns.get(column, False) or refused
    width = max(2, min(1000 // max(records, 1), 20))
    marks = [
        tag("rect", x=column * 1000 // _COLUMNS, y=0, width=width, height=28, class_="red" if refused else "amber")
        for column, refused in sorted(columns.items())
    ]
    ground = tag("rect", x=0, y=0, width=1000, height=28, class_="ground")
    drawing = tag(
        "svg", ground, *marks, viewBox="0 0 1000 28", width="100%", height=28, preserveAspectRatio="none", role="img"
    )
    scale = tag(
        "div",
        tag("span", "first key"),
        tag("span", f"{records:,} records in key order"),
        tag("span", "last key"),
        class_="scale",
    )
    caption = tag("figcaption", "Positions of findings", tag("small", "red: refused, amber: warning"))
    return tag("figure", caption, drawing, scale, class_="card")


def page(title: str, *body: Child) -> Markup:
    """Make the document.

    Args:
        title: Title of the document.
        body: Content.

    Returns:
        The document.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(_STYLE)),
    )
    return join(
        [Markup("<!DOCTYPE html>\n"), tag("html", head, tag("body", tag("main", *body)), lang="en"), Markup("\n")]
    )


_STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1c2430;--soft:#5b6675;--line:#dfe3e9;--code:#f0f2f5;--blue:#3567b8;--red:#c0272d;
--amber:#b06f00;--green:#1a7f45;--on:#fff;--ground:#e4e8ee}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b2129;--ink:#e5e9ef;--soft:#98a3b3;--line:#2e3743;
--code:#232b35;--blue:#5f93e6;--red:#e5565b;--amber:#d99a2b;--green:#3fae6e;--on:#0f1317;--ground:#2a323d}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,
sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 24px 40px}
a{color:inherit}
h1{font-size:15px;font-weight:600;margin:0 0 10px;color:var(--soft)}
h2{font-size:20px;margin:40px 0 4px;overflow-wrap:anywhere}
h3{font-size:15px;margin:26px 0 10px}
p{margin:6px 0}
small,.soft{color:var(--soft);font-size:13px}
code,pre,.key{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:12.5px}
code,.key{overflow-wrap:anywhere}
.banner{border-radius:10px;padding:20px 24px;color:var(--on);background:var(--amber)}
.banner.clean{background:var(--green)}.banner.refused{background:var(--red)}
.banner strong{display:block;font-size:26px;line-height:1.2;letter-spacing:.02em}
.banner p{margin:6px 0 0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(112px,1fr));gap:12px;margin:14px 0}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px 16px}
.tile b{display:block;font-size:22px;font-weight:600;font-variant-numeric:tabular-nums;line-height:1.3}
.tile span{color:var(--soft);font-size:13px}
.tile.bad b{color:var(--red)}.tile.warn b{color:var(--amber)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(380px,1fr));gap:12px;align-items:start}
figure{margin:12px 0;min-width:0}.pair figure{margin:0}
figcaption{font-weight:600;margin-bottom:8px;display:flex;justify-content:space-between;gap:12px}
figcaption small{font-weight:400}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:5px 10px 5px 0;font-weight:400}
thead th{color:var(--soft);font-size:13px;border-bottom:1px solid var(--line);white-space:nowrap}
.list td{border-top:1px solid var(--line);overflow-wrap:anywhere}
.list.findings{table-layout:fixed;min-width:720px}
.findings{font-size:14px}.findings th:nth-child(1){width:29%}.findings th:nth-child(2){width:17%}
.bars th{width:1%;white-space:nowrap;font-size:13px;padding:3px 12px 3px 0}
.bars td{padding:3px 0}.bars .bar{vertical-align:middle}.bars svg{display:block}
.number{width:1%;text-align:right;padding-left:12px!important;font-variant-numeric:tabular-nums;font-size:13px}
.blue{fill:var(--blue)}.red{fill:var(--red)}.amber{fill:var(--amber)}.ground{fill:var(--ground)}
.scale{display:flex;justify-content:space-between;color:var(--soft);font-size:12px;margin-top:4px}
.badge{display:inline-block;border-radius:5px;padding:1px 8px;font-size:12px;font-weight:600;color:var(--on);
background:var(--soft);white-space:nowrap}
.badge.error,.badge.refused{background:var(--red)}.badge.warning,.badge.undecided{background:var(--amber)}
.badge.clean{background:var(--green)}
details{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;margin:10px 0}
summary{cursor:pointer;font-weight:600}
summary code{font-weight:400;color:var(--soft)}
summary .badge{margin-right:8px}
summary .count{float:right;font-variant-numeric:tabular-nums}
pre{background:var(--code);border-radius:6px;padding:10px 12px;overflow-x:auto;margin:6px 0 14px;line-height:1.45}
pre mark{background:var(--red);color:var(--on);border-radius:2px}
.where{margin:12px 0 0}
.opinion{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(124px,1fr));gap:14px}
.pictures figure{margin:0}.pictures img{width:100%;aspect-ratio:1;object-fit:contain;border-radius:4px;display:block;
background:var(--ground)}
.pictures figcaption{display:block;font-weight:400;font-size:11px;line-height:1.35;color:var(--soft);margin:5px 0 0;
overflow-wrap:anywhere}
footer{margin-top:36px;border-top:1px solid var(--line);padding-top:12px;color:var(--soft);font-size:13px}
@media print{:root{--bg:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#bbb;--code:#f4f4f4;--blue:#3567b8;--red:#c0272d;
--amber:#b06f00;--green:#1a7f45;--on:#fff;--ground:#e4e8ee}
body{font-size:12px}main{max-width:none;padding:0}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
details::details-content{content-visibility:visible;display:block}
.card,.tile,pre,tr,figure{break-inside:avoid}.scroll,pre{overflow:visible}pre{white-space:pre-wrap}}
"""
