"""The report in one HTML file: nothing runs, nothing is fetched, nothing of a database becomes an element."""

import io
import re

import pytest

from ben_secure import BigEarthNet_S1_S2_Patch
from ben_secure.audit import audit_database
from ben_secure.audit.findings import Finding
from ben_secure.audit.report._elements import Markup, bars, strip, tag
from ben_secure.audit.report.html_report import ROWS, write_html
from ben_secure.audit.rules import RULES
from ben_secure.errors import Rule
from support.databases import HONEST, SHELL, make_database
from support.html_pages import Page
from support.report_samples import CALL, HOSTILE_TEXTS, every_rule, hostile_report, report_of
from support.strategies import make_patch

ELEMENTS = (
    "html head meta title style body main h1 h2 h3 div p strong b span section figure figcaption small svg rect table "
    "thead tbody tr th td details summary code pre mark img footer a"
)
ATTRIBUTES = (
    "lang charset http-equiv content name class scope width height rx x y viewbox preserveaspectratio role aria-hidden "
    "open data-rule data-count src alt href id"
)


def html(*reports):
    """A page that passes the common checks."""
    out = io.StringIO()
    write_html(reports, out)
    text = out.getvalue()
    assert re.fullmatch(r"[ -~\n]*", text)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    assert text.index("Content-Security-Policy") < text.index("<style>")
    page = Page(text)
    assert ("content", policy) in page.attributes
    fetched = [text[text.index("<style>") : text.index("</style>")], *(value for _, value in page.attributes if value)]
    assert not [
        found
        for found in fetched
        if re.search(r"https?:|//|@import|url\(|javascript:", found) and "base64" not in found
    ]
    assert set(page.elements) <= set(ELEMENTS.split())
    assert {name for name, _ in page.attributes} <= set(ATTRIBUTES.split())
    return page


def test_it_says_verdict_counts_and_findings():
    """The page has the content of the other forms."""
    page = html(report_of())
    for text in (
        "REFUSED",
        "1 of 5 values in some.lmdb refused: 1 could exhaust memory or time.",
        "S2A_1",
        "Call with unexpected arguments",
    ):
        assert text in page.text
    assert ("data-rule", "call-shape") in page.attributes
    assert RULES[Rule.CALL_SHAPE].help in page.text


@pytest.mark.parametrize(
    ("report", "verdict"),
    [(report_of([]), "CLEAN"), (report_of([], undecided="torn page"), "UNDECIDED"), (every_rule(), "REFUSED")],
)
def test_the_banner_is_the_verdict(report, verdict):
    """It has the words and the class of the verdict."""
    page = html(report)
    assert verdict in page.texts
    assert ("class", f"banner {verdict.lower()}") in page.attributes


def test_findings_are_listed_by_category():
    """Possible code before damage, and errors before warnings before notes."""
    rules = re.findall(r'data-rule="([\w-]+)"', written(every_rule()))
    assert [RULES[Rule(rule)].category.rank for rule in rules] == sorted(text.category.rank for text in RULES.values())
    assert rules[0] == "forbidden-global"
    assert rules.index("unsafe-structure") < rules.index("invalid-patch")


def test_a_rule_of_damage_comes_first_if_it_hides_an_attack():
    """A value that is not a modern pickle but names a function is not listed after harmless oddities."""
    named = Finding(lmdb_key=b"b", rule=Rule.NOT_A_PICKLE, message="odd", global_name="posix.system")
    plain = Finding(lmdb_key=b"b", rule=Rule.NOT_A_PICKLE, message="odd")
    for finding, first in ((named, "not-a-pickle"), (plain, "call-shape")):
        assert re.findall(r'data-rule="([\w-]+)"', written(report_of([finding, CALL])))[0] == first


def written(*reports):
    """The page as text."""
    out = io.StringIO()
    write_html(reports, out)
    return out.getvalue()


def test_many_findings_are_counted():
    """Not all are listed, and the page says so."""
    findings = [Finding(lmdb_key=b"key-%d" % n, rule=Rule.ARRAY, message="odd") for n in range(ROWS + 20)]
    page = html(report_of(findings, left_out=30))
    assert sum(text.startswith("key-") for text in page.texts) == ROWS
    assert f"and {50:,} more; the JSON report lists more of them" in page.text


def test_a_real_database_has_pictures_and_the_opcodes_around_a_refusal(tmp_path):
    """Clean patches are looked at, hostile values are taken apart; the call is in plain text."""
    patch = make_patch(BigEarthNet_S1_S2_Patch).dumps()
    database = make_database(tmp_path / "db", {b"a": patch, b"b": SHELL, b"c": HONEST[0], b"d": patch})
    page = html(audit_database(database))
    assert len(page.images) == 2  # the third honest one has not the bands of a picture
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in page.images)
    assert any(text.startswith(">") and text.endswith("STACK_GLOBAL") for text in page.texts)
    assert "system('touch canary')" in page.text


def test_a_database_that_is_gone_has_a_report_without_pictures():
    """The findings are all there."""
    page = html(report_of(clean_keys=[b"S2A_9"]))
    assert page.images == []
    assert "S2A_1" in page.text


def test_several_databases_have_an_overview():
    """Each has a row with a link to its section; refused ones come first."""
    page = html(report_of([], database="one.lmdb"), report_of(database="two.lmdb"))
    assert page.elements["section"] == 2
    assert page.texts.count("one.lmdb") == 2
    text = written(report_of([], database="one.lmdb"), report_of(database="two.lmdb"))
    assert re.findall(r'href="([^"]*)"[^>]*><code>([^<]*)', text) == [
        ("#database-1", "two.lmdb"), ("#database-2", "one.lmdb"),
    ]  # fmt: skip
    assert re.findall(r'<h2 id="([^"]*)">([^<]*)', text) == [("database-1", "two.lmdb"), ("database-2", "one.lmdb")]


def test_the_strip_shows_where_errors_and_warnings_stand():
    """The strip is in key order from left to right; an error hides a warning in its column."""
    drawn = strip([(0, True), (999, False), (998, True), (500, False)], 1000)
    assert re.findall(r'x="(\d+)" y="0" width="2" height="28" class="(\w+)"', drawn) == [
        ("0", "red"), ("500", "amber"), ("998", "red"),
    ]  # fmt: skip
    assert (
        "Positions of findings"
        not in html(report_of([Finding(lmdb_key=b"a", rule=Rule.KEY_NAME, message="odd", position=1)])).text
    )
    assert "Positions of findings" in html(report_of([CALL])).text


def test_bars_are_as_long_as_their_counts():
    """The most frequent is as wide as the figure; a count of zero has no bar."""
    assert re.findall(r'width="([\d.]+)%" height="10" rx', bars({"a": 50, "b": 200, "c": 0}, "x")) == [
        "25.00", "100.00", "0.00",
    ]  # fmt: skip


@pytest.mark.threat("T4")
def test_an_element_escapes_what_stands_in_it():
    """Text and attributes cannot end it; markup that was made here stays."""
    made = tag("p", "<b>", tag("b", "&"), class_='"><script>')
    assert made == '<p class="&quot;&gt;&lt;script&gt;">&lt;b&gt;<b>&amp;</b></p>'
    assert type(made) is Markup


@pytest.mark.threat("T4")
@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_nothing_of_a_database_becomes_an_element_or_an_attribute(text):
    """Hostile keys, globals, paths, formats and opinions are text, in printable ASCII."""
    tame, page = html(hostile_report("tame")), html(hostile_report(text))
    assert page.elements == tame.elements
    assert page.attributes == tame.attributes
    escaped = text.encode("unicode_escape").decode().replace("\\\\", "\\")
    assert sum(escaped in shown for shown in page.texts) >= 4
