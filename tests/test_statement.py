"""Statements of version 2: several databases, and the release before; one spelling for each."""

import dataclasses
import json
import re

import pytest

from ben_secure.errors import SignatureError
from ben_secure.signing.envelope import MAX_ENVELOPE_BYTES, sign_statement, verify_envelope
from ben_secure.signing.keys import SigningKey
from ben_secure.signing.statement import (
    MAX_SUBJECTS,
    MAX_TEXT_CHARACTERS,
    PREDICATE_TYPES,
    Predecessor,
    Statement,
    Subject,
    canonical_json,
)
from support.documents import ROOT
from support.releases import CREATED

PUBLISHER = SigningKey.generate()
ONE = Statement(name="n", version="2", count=3, manifest_sha256="1" * 64, created=CREATED, tool_version="0")
SUBJECTS = (
    Subject(name="test.lmdb", count=3, manifest_sha256="1" * 64),
    Subject(name="train.lmdb", count=5, manifest_sha256="2" * 64),
)
SEVERAL = dataclasses.replace(ONE, subjects=SUBJECTS)
LATER = dataclasses.replace(ONE, predecessor=Predecessor(version="1", manifest_sha256="3" * 64))
BOTH = dataclasses.replace(SEVERAL, predecessor=LATER.predecessor)


@pytest.mark.parametrize("field", ["_type", "predicateType"])
def test_a_statement_of_another_type_is_named_as_one(field):
    """Of a newer version, perhaps; not as one that was changed."""
    document = json.loads(ONE.encode())
    assert Statement.decode(canonical_json(document)) == ONE
    with pytest.raises(SignatureError, match=f"its {field} is other, expected https://"):
        Statement.decode(canonical_json(document | {field: "other"}))


@pytest.mark.parametrize("digest", ["1" * 63, "A" * 64, "", None, b"1" * 64])
def test_the_digest_of_each_subject_is_one(digest):
    """Whatever else a publisher's program passes is its mistake."""
    Subject(name="a", count=1, manifest_sha256="a" * 64)
    with pytest.raises(ValueError, match=r"manifest_sha256 is .*, expected 64 lowercase hexadecimal digits"):
        Subject(name="a", count=1, manifest_sha256=digest)


@pytest.mark.parametrize("statement", [ONE, SEVERAL, LATER, BOTH], ids=["one", "several", "later", "both"])
def test_a_statement_comes_back(statement):
    """Version 2 is written only if version 1 cannot say it."""
    assert Statement.decode(statement.encode()) == statement
    document = json.loads(statement.encode())
    assert document["predicateType"] == PREDICATE_TYPES[0 if statement is ONE else 1]


def test_any_manifest_of_a_release_can_be_in_question():
    """The signed content does not change."""
    train = SEVERAL.about("2" * 64)
    assert (train.count, train.subject) == (5, SUBJECTS[1])
    assert train.encode() == SEVERAL.encode()
    assert (SEVERAL.about("1" * 64), SEVERAL.about("4" * 64), SEVERAL.max_count) == (SEVERAL, None, 5)
    assert (ONE.subject, ONE.about("2" * 64), ONE.max_count) == (None, None, 3)


def test_the_largest_statement_fits_into_an_envelope():
    """With the most databases, the longest names and texts of characters that take twelve bytes each."""
    text = "\U00010300" * MAX_TEXT_CHARACTERS
    subjects = tuple(
        Subject(name=f"{number:0100}", count=2**53, manifest_sha256=f"{number:064x}") for number in range(MAX_SUBJECTS)
    )
    largest = Statement(
        name=text,
        version=text,
        license=text,
        count=2**53,
        manifest_sha256=f"{0:064x}",
        created=CREATED,
        tool_name=text,
        tool_version=text,
        subjects=subjects,
        predecessor=Predecessor(version=text, manifest_sha256="f" * 64),
    )
    envelope = sign_statement(largest, [PUBLISHER])
    assert len(envelope) <= MAX_ENVELOPE_BYTES
    assert verify_envelope(envelope, [PUBLISHER.verify_key]).statement == largest


def changed(statement, change):
    """The payload of a statement whose document was changed; spelled as statements are."""
    document = json.loads(statement.encode())
    change(document)
    return canonical_json(document)


CHANGES = {
    "another order": (SEVERAL, lambda d: d["subject"].reverse()),
    "a subject twice": (SEVERAL, lambda d: d["subject"].append(d["subject"][0])),
    "a subject without a count": (SEVERAL, lambda d: d["predicate"]["counts"].pop("test.lmdb")),
    "a count without a subject": (SEVERAL, lambda d: d["predicate"]["counts"].update({"x": 1})),
    "one manifest for two": (SEVERAL, lambda d: d["subject"][1].update(digest={"sha256": "1" * 64})),
    "a count as well": (SEVERAL, lambda d: d["predicate"].update(count=3)),
    "a path as name": (
        SEVERAL,
        lambda d: (d["subject"][0].update(name="../a"), d["predicate"]["counts"].update({"../a": 1})),
    ),
    "several in version 1": (SEVERAL, lambda d: d.update(predicateType=PREDICATE_TYPES[0])),
    "a predecessor in version 1": (LATER, lambda d: d.update(predicateType=PREDICATE_TYPES[0])),
    "version 2 for nothing": (ONE, lambda d: d.update(predicateType=PREDICATE_TYPES[1])),
    "no counts": (SEVERAL, lambda d: d["predicate"].update(counts={})),
    "a half predecessor": (LATER, lambda d: d["predicate"]["predecessor"].pop("version")),
    "more of a predecessor": (LATER, lambda d: d["predicate"]["predecessor"].update(name="n")),
    "no digest of a predecessor": (LATER, lambda d: d["predicate"]["predecessor"].update(manifest_sha256="")),
}


@pytest.mark.threat("T8")
@pytest.mark.parametrize(("statement", "change"), CHANGES.values(), ids=CHANGES)
def test_another_statement_is_refused(statement, change):
    """Even if it was signed: a reader and an auditor would not read it alike."""
    assert changed(statement, lambda document: None) == statement.encode()
    with pytest.raises(SignatureError, match="not a statement about a manifest"):
        Statement.decode(changed(statement, change))


@pytest.mark.parametrize(
    "wrong",
    [
        {"subjects": SUBJECTS[:1]},
        {"subjects": SUBJECTS[::-1]},
        {"subjects": SUBJECTS * 2},
        {"subjects": (SUBJECTS[0], dataclasses.replace(SUBJECTS[1], manifest_sha256="1" * 64))},
        {"subjects": SUBJECTS, "count": 4},
    ],
)
def test_what_cannot_be_said_is_the_callers_mistake(wrong):
    """A single database has no name, each occurs once, and the selected one is among them."""
    with pytest.raises(ValueError, match=r"(databases|manifests) of (a|the) release"):
        dataclasses.replace(ONE, **wrong)


@pytest.mark.parametrize("uri", [*PREDICATE_TYPES, "https://ben-secure.readthedocs.io/value-tag/a256gmac/v1"])
def test_a_type_uri_names_a_page_of_the_site(uri):
    """The path of a URI is that of a page, which gives the URI, on the site that mkdocs.yml names."""
    site = re.search(r"^site_url: (\S+)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)[1]
    assert uri.startswith(site)
    assert f"URI: `{uri}`\n" in (ROOT / "docs" / f"{uri.removeprefix(site)}.md").read_text()


@pytest.mark.parametrize(("statement", "version"), [(ONE, 1), (SEVERAL, 2), (LATER, 2)])
def test_the_page_of_a_predicate_lists_its_fields(statement, version):
    """Each field of the predicate is in the table of the page, or in that of the version before."""
    pages = "".join((ROOT / "docs" / "manifest" / f"v{number}.md").read_text() for number in range(1, version + 1))
    for field in json.loads(statement.encode())["predicate"]:
        assert re.search(rf"^\|.*`{field}[.`]", pages, re.MULTILINE), field
