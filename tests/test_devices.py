"""securesystemslib reads what is signed here, and its signers sign; skipped where it is not installed."""

import json

import pytest

pytest.importorskip("securesystemslib")

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Signature, Signer, SSlibKey

from ben_secure.signing.envelope import sign_statement, verify_envelope
from ben_secure.signing.publisher.devices import DeviceKey
from test_envelope import ENVELOPE, PARTNER, PARTNER_PUBLIC, PUBLIC, PUBLISHER, STATEMENT, with_signatures

pytestmark = pytest.mark.threat("T23")


def sslib_key(signing_key):
    """The public key as securesystemslib has it."""
    return SSlibKey.from_crypto(signing_key.private_key.public_key(), keyid=signing_key.fingerprint)


def test_other_dsse_tools_read_the_envelope():
    """securesystemslib verifies it, and the payload is an in-toto statement about the manifest file."""
    envelope = Envelope.from_dict(json.loads(sign_statement(STATEMENT, [PUBLISHER, PARTNER])))
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert len(envelope.verify([sslib_key(PUBLISHER), sslib_key(PARTNER)], 2)) == 2
    assert json.loads(envelope.payload) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "BigEarthNet-S2", "digest": {"sha256": "0123456789abcdef" * 4}}],
        "predicateType": "https://ben-secure.readthedocs.io/manifest/v1",
        "predicate": {
            "count": 590_326,
            "created": "2026-01-02T03:04:05Z",
            "dataset": {"name": "BigEarthNet-S2", "version": "1.0", "license": "CDLA-Permissive-1.0"},
            "tool": {"name": "ben-secure", "version": "0.1.0"},
        },
    }


def test_why_securesystemslib_does_not_verify_here():
    """There the key id decides; should that change, ``envelope`` can be simpler."""
    document = json.loads(with_signatures(lambda mine, other: [mine | {"keyid": "x"}]))
    with pytest.raises(VerificationError):
        Envelope.from_dict(document).verify([sslib_key(PUBLISHER)], 1)
    document = json.loads(with_signatures(lambda mine, other: [mine, other | {"keyid": mine["keyid"]}]))
    with pytest.raises(ValueError, match="Multiple signatures"):
        Envelope.from_dict(document)


class RemoteSigner(Signer):
    """A key in some device: it signs, and its public key and key id are what the device says."""

    public_key = SSlibKey.from_crypto(PARTNER.private_key.public_key(), keyid="device-7")

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri, public_key, secrets_handler=None):
        raise NotImplementedError

    def sign(self, payload):
        return Signature("device-7", PARTNER.sign(payload).hex())


def test_a_signer_of_securesystemslib_signs():
    """Beside a key of a file; the key id is the fingerprint, whatever the device says."""
    envelope = sign_statement(STATEMENT, [DeviceKey(RemoteSigner()), PUBLISHER])
    assert [each["keyid"] for each in json.loads(envelope)["signatures"]] == [
        PARTNER.fingerprint,
        PUBLISHER.fingerprint,
    ]
    assert len(verify_envelope(envelope, [PUBLIC, PARTNER_PUBLIC], 2).signed_by) == 2
    device = DeviceKey(CryptoSigner(PUBLISHER.private_key, sslib_key(PUBLISHER)))
    assert sign_statement(STATEMENT, [device]) == ENVELOPE
    assert repr(device) == f"DeviceKey({PUBLISHER.fingerprint})"


def test_a_signer_with_a_key_of_another_kind():
    """It is refused before anything is signed: nobody here could verify it."""
    with pytest.raises(ValueError, match="ecdsa-sha2-nistp256, expected ed25519"):
        DeviceKey(CryptoSigner.generate_ecdsa())
