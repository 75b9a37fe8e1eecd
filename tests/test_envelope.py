"""Statements and envelopes: those signed by trusted keys are read, and all other bytes are refused."""

import base64
import json
import pathlib
import pickle
import re
import runpy
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import ManifestMismatchError, SignatureError, UntrustedDataError
from ben_secure.errors import Rule
from ben_secure.signing.envelope import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, pae, sign_statement, verify_envelope
from ben_secure.signing.keys import MacKey, SigningKey, VerifyKey
from ben_secure.signing.statement import MAX_TEXT_CHARACTERS, Statement

VECTORS = pathlib.Path(__file__).parent / "vectors"
OURS = json.loads((VECTORS / "manifest.json").read_text("utf-8"))
DSSE = json.loads((VECTORS / "dsse.json").read_text("utf-8"))

PUBLISHER, PARTNER, STRANGER = (
    SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in (1, 2, 3)
)
PUBLIC, PARTNER_PUBLIC = PUBLISHER.verify_key, PARTNER.verify_key
STATEMENT = Statement(
    name="BigEarthNet-S2",
    version="1.0",
    license="CDLA-Permissive-1.0",
    count=590_326,
    manifest_sha256="0123456789abcdef" * 4,
    created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    tool_version="0.1.0",
)
ENVELOPE = sign_statement(STATEMENT, [PUBLISHER])

printable = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
texts = st.text(printable, min_size=1, max_size=MAX_TEXT_CHARACTERS)
statements = st.builds(
    Statement,
    name=texts,
    version=texts,
    license=st.none() | texts,
    count=st.integers(0, 2**53),
    manifest_sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
    created=st.datetimes(timezones=st.just(timezone.utc)).map(lambda time: time.replace(microsecond=0)),
    tool_name=texts,
    tool_version=texts,
)


def refused(unverified, keys=(PUBLIC,), threshold=1):
    """The error with which an envelope is refused."""
    with pytest.raises(SignatureError) as caught:
        verify_envelope(unverified, keys, threshold)
    assert isinstance(caught.value, UntrustedDataError)
    assert caught.value.rule == Rule.SIGNATURE
    return caught.value


def spelled(document):
    """An envelope as this package spells it."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def with_signatures(change):
    """The envelope of both keys with its list of signatures changed."""
    document = json.loads(sign_statement(STATEMENT, [PUBLISHER, PARTNER]))
    return spelled(document | {"signatures": change(*document["signatures"])})


# Laws.


@given(statements)
def test_a_statement_is_read_as_it_was_written(statement):
    """One statement has one spelling, and it has room in an envelope."""
    payload = statement.encode()
    assert Statement.decode(payload) == statement
    assert len(payload) < 2**15


@given(statements)
def test_an_envelope_is_read_as_it_was_signed(statement):
    """The same statement and the same keys make the same envelope; it says who signed it."""
    envelope = sign_statement(statement, [PUBLISHER, PARTNER])
    assert envelope == sign_statement(statement, [PUBLISHER, PARTNER])
    verified = verify_envelope(envelope, [PARTNER_PUBLIC, STRANGER.verify_key, PUBLIC], 2)
    assert verified.statement == statement
    assert verified.signed_by == (PARTNER_PUBLIC, PUBLIC)


KEYID = re.search(rb'"keyid":"(\w+)"', ENVELOPE).span(1)


@pytest.mark.threat("T8")
def test_every_flipped_bit_is_refused():
    """All of them, one by one; in the key id, which decides nothing, they are refused or change nothing."""
    ignored = 0
    for bit in range(len(ENVELOPE) * 8):
        changed = bytearray(ENVELOPE)
        changed[bit // 8] ^= 1 << bit % 8
        if KEYID[0] <= bit // 8 < KEYID[1]:
            try:
                assert verify_envelope(bytes(changed), [PUBLIC]) == verify_envelope(ENVELOPE, [PUBLIC])
                ignored += 1
            except SignatureError:
                pass  # no longer ASCII, or a quotation mark
        else:
            refused(bytes(changed))
    assert ignored


@pytest.mark.threat("T8")
@given(st.integers(0, len(ENVELOPE) - 1), st.integers(0, len(ENVELOPE)), st.binary(max_size=8))
def test_any_splice_is_refused(start, end, new):
    """Bytes cut out, put in or exchanged, at the ends too."""
    changed = ENVELOPE[:start] + new + ENVELOPE[end:]
    if changed != ENVELOPE and not (KEYID[0] <= start and end <= KEYID[1]):
        refused(changed)


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_are_refused(unverified):
    """Nothing but ``SignatureError`` gets out."""
    refused(unverified)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
def test_any_json_in_any_field_is_refused(data):
    """Fields of every type, in the envelope and in the statement that the right key has signed."""
    document, statement = json.loads(ENVELOPE), json.loads(STATEMENT.encode())
    for holder in (document, statement):
        changed = json.loads(json.dumps(holder))
        inner = changed
        while True:  # walk down to some field
            field = data.draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            if not isinstance(inner[field], dict | list) or data.draw(st.booleans()):
                break
            inner = inner[field]
        inner[field] = data.draw(json_values)
        if changed == holder or field == "keyid":
            continue
        if holder is document:
            refused(spelled(changed))
        else:
            refused_or_meant(spelled(changed)[:-1])


def refused_or_meant(payload):
    """A payload signed by the publisher is refused, unless it is exactly the encoding of a statement."""
    try:
        verified = verify_envelope(envelope_of(payload), [PUBLIC])
    except SignatureError:
        return
    assert verified.statement.encode() == payload


def envelope_of(payload, payload_type=PAYLOAD_TYPE):
    """An envelope with any payload at all, signed by the publisher."""
    signature = base64.b64encode(PUBLISHER.sign(pae(payload_type, payload))).decode()
    return spelled(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [{"keyid": PUBLISHER.fingerprint, "sig": signature}],
        }
    )


# The signers.


@pytest.mark.threat("T8")
def test_another_key_is_refused():
    """The message names the trusted keys, and the claims of the envelope."""
    assert verify_envelope(ENVELOPE, [PUBLIC]).statement == STATEMENT
    message = str(refused(ENVELOPE, [STRANGER.verify_key]))
    assert "signed by 0 of the keys that you trust" in message
    assert STRANGER.fingerprint in message
    assert PUBLISHER.fingerprint[:40] in message
    assert "without" not in message


def test_any_one_of_several_keys_suffices():
    """A publisher may be one of several that are trusted."""
    verified = verify_envelope(ENVELOPE, [STRANGER.verify_key, PUBLIC])
    assert verified.signed_by == (PUBLIC,)


@pytest.mark.threat("T8")
def test_the_threshold_counts_distinct_keys():
    """The same signature twice, the same key twice, or two signatures of one key, are one."""
    both = sign_statement(STATEMENT, [PUBLISHER, PARTNER])
    keys = [PUBLIC, PARTNER_PUBLIC]
    assert verify_envelope(both, keys, 2).signed_by == (PUBLIC, PARTNER_PUBLIC)
    assert "by 1 of the keys that you trust, expected 2" in str(refused(ENVELOPE, keys, 2))
    twice = with_signatures(lambda mine, _: [mine, mine, mine | {"keyid": PARTNER.fingerprint}])
    assert verify_envelope(twice, keys).signed_by == (PUBLIC,)
    refused(twice, keys, 2)
    refused(with_signatures(lambda mine, other: [mine, other | {"sig": mine["sig"]}]), keys, 2)
    with pytest.raises(ValueError, match="from 1 to the number of keys, 1"):
        verify_envelope(both, [PUBLIC, VerifyKey(PUBLIC.public_key)], 2)


@pytest.mark.parametrize(("keys", "threshold"), [([PUBLIC], 0), ([PUBLIC], -1), ([PUBLIC], True), ([], 1), ([], 0)])
def test_a_threshold_that_means_nothing(keys, threshold):
    """It is the caller's mistake, and never means that no signature is needed."""
    with pytest.raises(ValueError, match="threshold is"):
        verify_envelope(ENVELOPE, keys, threshold)


@pytest.mark.parametrize("key", [PUBLISHER, MacKey(bytes(32)), PUBLIC.public_key, "key", None])
def test_only_a_verify_key_verifies(key):
    """Keys of other kinds are not accepted."""
    with pytest.raises(TypeError, match="must be VerifyKey"):
        verify_envelope(ENVELOPE, [PUBLIC, key])


@pytest.mark.parametrize(
    "change",
    [
        lambda mine, other: [mine | {"keyid": other["keyid"]}, other | {"keyid": mine["keyid"]}],
        lambda mine, other: [mine | {"keyid": "same"}, other | {"keyid": "same"}],
        lambda mine, other: [{"sig": mine["sig"]}, {"sig": other["sig"]}],
        lambda mine, other: [mine | {"keyid": ""}, other | {"keyid": "\ud800\x1b[31m"}],
        lambda mine, other: [other, mine],
        lambda mine, other: [mine | {"sig": ""}, mine | {"sig": "AAAA"}, other, mine],
    ],
    ids=["swapped", "the same", "absent", "odd", "order", "bad signatures before"],
)
def test_a_key_id_decides_nothing(change):
    """Neither a key id nor the order of signatures selects or excludes a key."""
    verified = verify_envelope(with_signatures(change), [PUBLIC, PARTNER_PUBLIC], 2)
    assert verified.statement == STATEMENT
    refused(with_signatures(change), [STRANGER.verify_key])


# Signing.


class Faulty:
    """A device whose signatures are those of another message."""

    verify_key = PUBLIC

    def sign(self, message):
        return PUBLISHER.sign(message + b"!")


class Elsewhere(Faulty):
    """A key in some device: it signs, and says which public key is its own."""

    def sign(self, message):
        return PUBLISHER.sign(message)


def test_a_key_that_is_elsewhere_signs_as_one_in_a_file():
    """The envelope is the same."""
    assert sign_statement(STATEMENT, [Elsewhere()]) == ENVELOPE


@pytest.mark.parametrize(
    ("signers", "match"),
    [
        ([], "no signer"),
        ([PUBLISHER, PUBLISHER], "two signers have the key"),
        ([PUBLISHER, Elsewhere()], "two signers have the key"),
        ([Faulty()], "its own public key does not verify"),
    ],
    ids=["none", "the same twice", "the same in two places", "a faulty device"],
)
def test_signers_that_will_not_do(signers, match):
    """Nothing is signed that a reader would then refuse."""
    with pytest.raises(ValueError, match=match):
        sign_statement(STATEMENT, signers)


# Statements.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "n" * 257),
        ("name", "a\nb"),
        ("name", b"bytes"),
        ("name", None),
        ("version", 1.0),
        ("version", "\ud800"),
        ("license", ""),
        ("tool_version", "\x1b[31m"),
        ("count", -1),
        ("count", True),
        ("count", 1.0),
        ("count", 2**53 + 1),
        ("manifest_sha256", "0" * 63),
        ("manifest_sha256", "F" * 64),
        ("manifest_sha256", "0" * 64 + "\n"),
        ("manifest_sha256", bytes(32)),
        ("created", datetime(2026, 1, 1)),
        ("created", datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))),
        ("created", datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc)),
        ("created", "2026-01-01T00:00:00Z"),
    ],
)
def test_a_statement_cannot_say_nonsense(field, value):
    """A statement that could not be read again is not signed."""
    with pytest.raises(ValueError, match=f"{field} is "):
        replace(STATEMENT, **{field: value})


@pytest.mark.threat("T8")
def test_another_release_is_not_the_one_asked_for():
    """An old release is signed well, and refused if another version is wanted."""
    for asked in ({}, {"name": "BigEarthNet-S2"}, {"version": "1.0"}, {"name": "BigEarthNet-S2", "version": "1.0"}):
        STATEMENT.require(**asked)
    for asked, match in (
        ({"version": "1.1"}, "version 1.0, expected 1.1"),
        ({"name": "BigEarthNet-S2", "version": "1"}, "version 1.0, expected 1;"),
        ({"name": "bigearthnet-s2", "version": "1.0"}, "name BigEarthNet-S2, expected bigearthnet-s2"),
        ({"name": ""}, "name BigEarthNet-S2, expected ;"),
    ):
        with pytest.raises(ManifestMismatchError, match=match) as caught:
            STATEMENT.require(**asked)
        assert caught.value.rule == Rule.MANIFEST


# Vectors.


def test_vectors_are_made_again_byte_for_byte():
    """The second implementation, stored with the vectors, makes the same bytes."""
    generator = runpy.run_path(str(VECTORS / "generate_manifest.py"))
    assert generator["document"]() == (VECTORS / "manifest.json").read_text("utf-8")


def vector_keys():
    return [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key["seed"]))) for key in OURS["keys"]]


@pytest.mark.parametrize("vector", OURS["valid"], ids=lambda vector: vector["case"])
def test_valid_vectors(vector):
    """The package makes the same envelope from the statement, and reads the statement from the envelope."""
    keys = vector_keys()
    assert [key.fingerprint for key in keys] == [key["fingerprint"] for key in OURS["keys"]]
    signers = [keys[place] for place in vector["signed_by"]]
    verified = verify_envelope(vector["envelope"].encode(), [key.verify_key for key in signers], len(signers))
    assert json.loads(verified.statement.encode()) == vector["statement"]
    assert sign_statement(verified.statement, signers) == vector["envelope"].encode()


@pytest.mark.parametrize("vector", OURS["invalid_payloads"], ids=lambda vector: vector["case"])
def test_invalid_payloads(vector):
    """The signature is valid, but the payload is not a statement about a manifest."""
    message = str(refused(vector["envelope"].encode(), [vector_keys()[0].verify_key]))
    assert re.match("the signed payload is not a statement|the signed statement is not JSON", message)


@pytest.mark.threat("T8")
@pytest.mark.parametrize("vector", OURS["invalid_envelopes"], ids=lambda vector: vector["case"])
def test_invalid_envelopes(vector):
    """The statement is good, and the envelope does not vouch for it."""
    message = str(refused(bytes.fromhex(vector["envelope"]), [vector_keys()[0].verify_key]))
    assert re.match("this is not the envelope|the envelope is (not JSON|signed by 0)", message)


@pytest.mark.threat("T8")
@pytest.mark.parametrize(
    "unverified",
    [envelope_of(STATEMENT.encode(), "application/vnd.in-toto+xml"), b"[%s]" % ENVELOPE, b'"payloadType"'],
    ids=["of another type", "in a list", "a string"],
)
def test_an_envelope_of_another_kind_is_named_as_such(unverified):
    """Not as one that was changed on its way."""
    assert f"its payloadType is not {PAYLOAD_TYPE}" in refused(unverified).message


@pytest.mark.parametrize(
    ("unverified", "match"),
    [
        (b'{"payloadType":"application/vnd.in-toto+json","payload":' + b"[" * 60_000, "not JSON"),
        (ENVELOPE + b" " * MAX_ENVELOPE_BYTES, "expected at most 65536"),
        (b"9" * 60_000, "not JSON"),
        (envelope_of(b"[" * 30_000), "the signed statement is not JSON"),
        (envelope_of(STATEMENT.encode().replace(b"590326", b"9" * 5000)), "the signed statement is not JSON"),
    ],
    ids=["deep", "long", "a long number", "deep inside", "a long number inside"],
)
def test_what_would_take_too_much(unverified, match):
    """Depth, length and digits are bounded."""
    assert match in str(refused(unverified))


@pytest.mark.parametrize("vector", DSSE["cases"], ids=lambda vector: vector["case"])
def test_dsse_vectors(vector):
    """The bytes that are signed, with lengths that count bytes."""
    assert pae(vector["payload_type"], vector["payload"].encode()) == vector["pae"].encode()


def test_dsse_signature():
    """The signature of the specification is one over these bytes."""
    numbers = ec.EllipticCurvePublicNumbers(*(int(DSSE["public_key"][axis]) for axis in "xy"), ec.SECP256R1())
    raw = base64.b64decode(DSSE["signature"])
    signature = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    message = pae("http://example.com/HelloWorld", b"hello world")
    numbers.public_key().verify(signature, message, ec.ECDSA(SHA256()))


def test_a_verified_statement_travels():
    """Between processes it is as it was."""
    verified = verify_envelope(ENVELOPE, [PUBLIC])
    assert pickle.loads(pickle.dumps(verified)) == verified


def test_an_envelope_whose_line_ends_were_changed_says_so():
    """Line ends as git, editors and transfers as text change them are named; another byte is not called that."""
    assert verify_envelope(ENVELOPE, [PUBLIC]).statement == STATEMENT
    for changed in (
        ENVELOPE.replace(b"\n", b"\r\n"),
        ENVELOPE.replace(b"\n", b"\r"),
        ENVELOPE.rstrip(),
        ENVELOPE + b"\n",
    ):
        with pytest.raises(
            SignatureError, match="its line ends were changed, perhaps by git, an editor or a transfer as text"
        ):
            verify_envelope(changed, [PUBLIC])
    with pytest.raises(SignatureError, match="fields or an encoding that this version does not write"):
        verify_envelope(ENVELOPE.replace(b":", b": ", 1), [PUBLIC])
