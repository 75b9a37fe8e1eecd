"""Write an audit report as one HTML file: verdict, counts, charts, findings with disassemblies, and quick-looks.

The file needs neither network nor scripts. All text from a database is escaped twice, to printable ASCII and for HTML
(``_elements``). A few values of each database are read again for pictures and disassemblies. If a value cannot be read
again, the report leaves its picture or disassembly out.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

from ben_secure import __version__
from ben_secure.audit.findings import AuditReport, Finding, Verdict
from ben_secure.audit.report._elements import Child, Markup, bars, join, page, strip, table, tag
from ben_secure.audit.report.explain import Explanation, explain
from ben_secure.audit.report.json_report import overall, printable_key
from ben_secure.audit.report.table_report import file_of, headline, opinions_of, plural
from ben_secure.audit.rules import RULES, Category, Level
from ben_secure.errors import BenSecureError, Rule, counted, printable
from ben_secure.pages.reader import PageReader
from ben_secure.remote.addresses import is_remote

ROWS = 50
"""Maximum number of findings listed per rule and database; the rest are counted."""
_DISASSEMBLED = 3
_PICTURES = 8
_PICTURE_SIDE = 240
_MAX_REREAD = 20  # databases
_ORDER = list(Level)
_WORST_FIRST: list[Verdict] = ["refused", "undecided", "clean"]
_SENTENCES: dict[Verdict, str] = {
    "refused": "See the findings.",
    "clean": "Every judged value is a patch and nothing else.",
    "undecided": "Not everything could be judged, so there is no verdict.",
}
_FOOTER = (
    f"ben-secure {__version__}. Its loader decides the verdicts; fickling gives a second opinion that decides nothing. "
    "Text from the databases is printed in ASCII, with other characters escaped."
)
_Read = Callable[[bytes], bytes | None]


def write_html(reports: Sequence[AuditReport], out: TextIO) -> None:
    """Write the reports as one HTML document.

    Args:
        reports: The reports. Their databases are read again for pictures and disassemblies, if they can be opened.
        out: Output stream; only ASCII is written.
    """
    verdict = overall(report.verdict for report in reports)
    reports = sorted(reports, key=lambda report: _WORST_FIRST.index(report.verdict))
    body: list[Child] = [tag("h1", "ben-secure audit"), _banner(reports, verdict), _tiles(reports)]
    if len(reports) > 1:
        body.append(_overview(reports))
    for index, report in enumerate(reports):
        body.append(_database(report, _anchor(index), index < _MAX_REREAD))
    body.append(tag("footer", tag("p", _FOOTER)))
    out.write(page(f"ben-secure audit: {verdict}", *body))


def _banner(reports: Sequence[AuditReport], verdict: Verdict) -> Markup:
    refused = sum(report.refused for report in reports)
    judged = sum(report.checked for report in reports)
    where = f"in {len(reports):,} databases" if len(reports) != 1 else f"in {printable(reports[0].database, 400)}"
    sums = sum((Counter(report.errors) for report in reports), Counter[Category]())
    if verdict == "refused":
        listed = ", ".join(category.counted(sums[category]) for category in Category if sums[category])
        result = f"{refused:,} of {counted(judged, 'value')} {where} refused: {listed}."
    else:
        result = f"{counted(judged, 'value')} judged {where}."
    sampled = " Only a sample of the records was judged." if any(report.sampled for report in reports) else ""
    advice = _SENTENCES[verdict]
    if sums:
        text = min(sums, key=lambda category: category.rank).advice
        advice = f"{text[0].upper()}{text[1:]}."
    texts = tag("strong", headline(reports)), tag("p", f"{result}{sampled} {advice}")
    return tag("div", *texts, class_=f"banner {verdict}")


def _tiles(reports: Sequence[AuditReport]) -> Markup:
    tiles = [
        (f"{sum(report.checked for report in reports):,}", "values judged", None),
        (f"{sum(report.clean for report in reports):,}", "clean", None),
        (f"{(refused := sum(report.refused for report in reports)):,}", "refused", "bad" if refused else None),
        (_size(sum(report.value_bytes for report in reports)), "of values", None),
    ]
    skipped = sum(report.tally.skipped for report in reports)
    tiles += [(f"{skipped:,}", "skipped: in a verified manifest", None)] if skipped else []
    for level, colour in zip(_ORDER, ("bad", "warn", None), strict=True):
        count = sum(report.count(level) for report in reports)
        tiles.append((f"{count:,}", plural(level, count).partition(" ")[2], colour if count else None))
    return tag(
        "div",
        *(
            tag("div", tag("b", number), tag("span", text), class_=join_classes("tile", bad))
            for number, text, bad in tiles
        ),
        class_="tiles",
    )


def join_classes(*names: str | None) -> str:
    """Write a class attribute."""
    return " ".join(name for name in names if name)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _badge(text: str) -> Markup:
    return tag("span", text, class_=f"badge {text}")


def _overview(reports: Sequence[AuditReport]) -> Markup:
    rows = [
        [
            _badge(report.verdict),
            tag("a", tag("code", printable(report.database, 400)), href=f"#{_anchor(index)}"),
            f"{report.checked:,}",
            f"{report.refused:,}",
            f"{report.count(Level.WARNING):,}",
            ", ".join(category.counted(count) for category, count in report.errors.items())
            or printable(report.undecided or "", 200),
        ]
        for index, report in enumerate(reports)
    ]
    headings = ["verdict", "database", "judged", "refused", "warnings", "findings"]
    return tag("div", table(headings, rows, "list overview"), class_="card")


def _anchor(index: int) -> str:
    return f"database-{index + 1}"


def _database(report: AuditReport, anchor: str, reread: bool) -> Markup:
    """Make the section on one database; with ``reread``, values are read again for pictures and disassemblies."""
    heading = tag("h2", printable(report.database, 400), id=anchor)
    facts = [
        _badge(report.verdict),
        f" {report.entries:,} records, {report.checked:,} judged, {_size(report.value_bytes)}",
    ]
    if report.sampled:
        facts.append("; only a sample")
    children: list[Child] = [heading, tag("p", *facts, class_="soft")]
    if report.undecided is not None:
        children.append(tag("p", tag("b", "Not finished: "), printable(report.undecided, 1000)))
    remarks = filter(None, (opinions_of(report), file_of(report)))
    children += [tag("p", f"{text[0].upper()}{text[1:]}.", class_="soft") for text in remarks]
    positions = [
        (finding.position, finding.level is Level.ERROR)
        for finding in report.findings
        if finding.position is not None and finding.level is not Level.NOTE
    ]
    children.append(strip(positions, report.entries) if positions else None)
    children.append(_charts(report) if report.checked else None)
    if not reread or is_remote(report.database):
        return tag("section", *children, _findings(report, lambda _: None))
    try:
        with PageReader(report.database) as reader:
            read = _tolerant(reader)
            return tag("section", *children, _findings(report, read), _pictures(report, read))
    except BenSecureError:
        return tag("section", *children, _findings(report, lambda _: None))


def _tolerant(reader: PageReader) -> _Read:
    """Make a function that reads a value and returns None if it cannot be read."""

    def read(lmdb_key: bytes) -> bytes | None:
        with suppress(BenSecureError):
            return reader.get(lmdb_key)
        return None

    return read


def _charts(report: AuditReport) -> Markup:
    tally = report.tally
    bits = [bit for bit, count in tally.sizes.items() if count]
    sizes = {_range(bit): tally.sizes[bit] for bit in range(min(bits), max(bits) + 1)} if bits else {}
    formats = {
        printable(name): count for name, count in sorted(tally.formats.items(), key=lambda item: (-item[1], item[0]))
    }
    charts = [bars(sizes, "Sizes of values") if sizes else None]
    charts.append(bars(formats, "Written by", "refused") if formats else None)
    return tag("div", *charts, class_="pair")


def _range(bits: int) -> str:
    """Format the sizes with this bit length: 2 ** (bits - 1) up to 2 ** bits bytes."""
    return f"{_power(bits - 1)} to {_power(bits)}" if bits else "empty"


def _power(bits: int) -> str:
    unit = min(bits // 10, 3)
    return f"{2 ** (bits - 10 * unit):,} {('B', 'KiB', 'MiB', 'GiB')[unit]}"


def _findings(report: AuditReport, read: _Read) -> Markup | None:
    """List the findings by rule, the gravest first."""
    if not report.rules:
        return None
    kept: dict[Rule, list[Finding]] = {rule: [] for rule in report.rules}
    for finding in report.findings:
        kept.setdefault(finding.rule, []).append(finding)
    counts = report.rules

    def gravity(rule: Rule) -> tuple[int, int, int, str]:
        category = min((finding.category.rank for finding in kept[rule]), default=RULES[rule].category.rank)
        return category, _ORDER.index(RULES[rule].level), -counts.get(rule, 0), str(rule)

    groups = [_group(rule, counts.get(rule, 0), kept[rule], read) for rule in sorted(kept, key=gravity)]
    return join([tag("h3", "Findings"), *groups])


def _group(rule: Rule, count: int, findings: Sequence[Finding], read: _Read) -> Markup:
    text = RULES[rule]
    title = [
        _badge(str(text.level)),
        tag("span", f"{text.title[0].upper()}{text.title[1:]} "),
        tag("code", str(rule)),
        tag("span", f"{count:,}", class_="count"),
    ]
    rows = [_row(finding) for finding in findings[:ROWS]]
    children: list[Child] = [
        tag("p", text.help, class_="soft"),
        table(["LMDB key", "byte, opcode", "found"], rows, "list findings") if rows else None,
        tag("p", f"and {count - len(rows):,} more; the JSON report lists more of them", class_="soft")
        if count > len(rows)
        else None,
    ]
    for finding in findings[:_DISASSEMBLED]:
        value = read(finding.lmdb_key) if finding.lmdb_key is not None and finding.offset is not None else None
        explanation = explain(finding, value)
        children.append(_disassembly(finding, explanation) if explanation.disassembly else None)
    opened = "" if text.level is not Level.NOTE or count <= 10 else None
    return tag("details", tag("summary", *title), *children, open=opened, data_rule=str(rule), data_count=count)


def _row(finding: Finding) -> list[Child]:
    texts: list[Child] = [tag("div", printable(finding.message, 600))]
    if finding.opinion is not None:
        texts.append(tag("div", printable(finding.opinion, 600), class_="opinion"))
    key = "(database)" if finding.lmdb_key is None else printable_key(finding.lmdb_key)
    return [
        tag("span", key, class_="key"),
        join(
            [
                None if finding.offset is None else f"{finding.offset:,} ",
                None if finding.opcode is None else tag("code", printable(finding.opcode)),
            ]
        ),
        join(texts),
    ]


def _disassembly(finding: Finding, explanation: Explanation) -> Markup:
    key = "" if finding.lmdb_key is None else printable_key(finding.lmdb_key)
    lines = [join([tag("mark", line) if line.startswith(">") else line, "\n"]) for line in explanation.disassembly]
    consequence = tag("div", explanation.consequence, class_="opinion") if explanation.consequence else None
    where = tag("div", tag("span", key, class_="key"), f", {explanation.position}", class_="where")
    return join([where, consequence, tag("pre", *lines)])


def _pictures(report: AuditReport, read: _Read) -> Markup | None:
    """Make quick-looks of a few clean patches."""
    figures = []
    for lmdb_key in report.tally.clean_keys[:_PICTURES]:
        picture = _picture(read(lmdb_key))
        if picture is not None:
            source = "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
            caption = tag("figcaption", printable_key(lmdb_key), class_="key")
            figures.append(tag("figure", tag("img", src=source, alt="quick-look of a clean patch"), caption))
    if not figures:
        return None
    return join([tag("h3", "Some clean patches"), tag("div", *figures, class_="card pictures")])


def _picture(value: bytes | None) -> bytes | None:
    """Make a PNG of at most ``_PICTURE_SIDE`` pixels per side. Return None if the value cannot be drawn."""
    from ben_secure.values import loads
    from ben_secure.view.quicklook import to_png

    if value is None:
        return None
    try:
        image = loads(value).quicklook().image
    except (BenSecureError, ValueError):  # the value has changed, has a class of the caller, or lacks suitable bands
        return None
    step = -(-max(image.shape[:2]) // _PICTURE_SIDE)
    return to_png(image[::step, ::step])
