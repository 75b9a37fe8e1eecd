"""Signature schemes: the key alone decides curve and hash, and a signature has one spelling."""

import pickle

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA224, SHA256, SHA384, SHA512
from hypothesis import given
from hypothesis import strategies as st

from ben_secure import SignatureError
from ben_secure.signing.keys import SigningKey, VerifyKey

pytestmark = pytest.mark.threat("T23")

MESSAGE = b"what a publisher says"
KEYS = {
    "ed25519": SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))),
    "ecdsa-sha2-nistp256": SigningKey(ec.derive_private_key(0x1234567, ec.SECP256R1())),
    "ecdsa-sha2-nistp384": SigningKey(ec.derive_private_key(0x7654321, ec.SECP384R1())),
}
# The orders of the base points as FIPS 186-4, sections D.1.2.3 and D.1.2.4, prints them.
ORDERS = {
    "ecdsa-sha2-nistp256": 115792089210356248762697446949407573529996955224135760342422259061068512044369,
    "ecdsa-sha2-nistp384": int(
        "39402006196394479212279040100143613805079739270465446667946905279627"
        "659399113263569398956308152294913554433653942643"
    ),
}
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493  # RFC 8032, section 5.1
HASHES = {"ecdsa-sha2-nistp256": SHA256(), "ecdsa-sha2-nistp384": SHA384()}
schemes = pytest.mark.parametrize("scheme", KEYS)
of_ecdsa = pytest.mark.parametrize("scheme", HASHES)

# RFC 6979, sections A.2.5 and A.2.6: keys, and signatures (r, s) of "sample" under the hash that belongs to the curve.
RFC6979 = {
    "ecdsa-sha2-nistp256": (
        ec.SECP256R1(),
        "60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6",
        "7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716",
        "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
    ),
    "ecdsa-sha2-nistp384": (
        ec.SECP384R1(),
        "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13",
        "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720",
        "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46",
        "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
    ),
}


def refused(verify_key, signature, message=MESSAGE):
    with pytest.raises(SignatureError, match=f"not signed by the key {verify_key.fingerprint}"):
        verify_key.verify(signature, message)


@schemes
@given(message=st.binary(max_size=300))
def test_what_a_key_signs_its_public_key_verifies(scheme, message):
    """And the public key of no other scheme does, nor over another message."""
    signature = KEYS[scheme].sign(message)
    for name, key in KEYS.items():
        if name == scheme:
            key.verify_key.verify(signature, message)
        else:
            refused(key.verify_key, signature, message)
    refused(KEYS[scheme].verify_key, signature, message + b"\0")


@schemes
def test_every_flipped_bit_of_a_signature_is_refused(scheme):
    """All of them, one by one; so is a signature that is cut or longer."""
    signature, verify_key = KEYS[scheme].sign(MESSAGE), KEYS[scheme].verify_key
    verify_key.verify(signature, MESSAGE)
    for bit in range(len(signature) * 8):
        changed = bytearray(signature)
        changed[bit // 8] ^= 1 << bit % 8
        refused(verify_key, bytes(changed))
    for changed in (signature[:-1], signature + b"\0", b"\0" + signature, b"", signature * 2):
        refused(verify_key, changed)


@of_ecdsa
def test_the_other_s_is_refused(scheme):
    """For ECDSA (r, n - s) is as valid as (r, s); here it would be a second envelope that nobody made."""
    key = KEYS[scheme]
    r, s = decode_dss_signature(key.sign(MESSAGE))
    other = encode_dss_signature(r, ORDERS[scheme] - s)
    key.private_key.public_key().verify(other, MESSAGE, ec.ECDSA(HASHES[scheme]))
    key.verify_key.verify(encode_dss_signature(r, s), MESSAGE)
    refused(key.verify_key, other)


@of_ecdsa
def test_the_smaller_s_is_always_made(scheme):
    """For either result of the library: forty signatures include a large s, except in one of 10^12 cases."""
    key = KEYS[scheme]
    for _ in range(40):
        assert decode_dss_signature(key.sign(MESSAGE))[1] <= ORDERS[scheme] // 2


@of_ecdsa
def test_other_encodings_of_a_signature_are_refused(scheme):
    """BER lengths, leading zeros, the raw form of IEEE P1363, numbers that are zero, negative or too large."""
    key = KEYS[scheme]
    signature = key.sign(MESSAGE)
    r, s = decode_dss_signature(signature)
    key.verify_key.verify(signature, MESSAGE)
    size = key.private_key.curve.key_size // 8
    body = signature[2:]
    zero_before = b"\x30" + bytes([len(body) + 1]) + b"\x02" + bytes([body[1] + 1]) + b"\0" + body[2:]
    for other in (
        b"\x30\x81" + bytes([len(body)]) + body,
        b"\x30\x80" + body + b"\0\0",
        zero_before,
        r.to_bytes(size, "big") + s.to_bytes(size, "big"),
        encode_dss_signature(r + ORDERS[scheme], s),
        encode_dss_signature(r, s + ORDERS[scheme]),
        encode_dss_signature(0, s),
        encode_dss_signature(r, 0),
        b"\x30\x06\x02\x01\xff\x02\x01\x01",
    ):
        refused(key.verify_key, other)


def test_the_other_s_of_ed25519_is_refused():
    """RFC 8032, section 5.1.7, forbids S + L."""
    key = KEYS["ed25519"]
    signature = key.sign(MESSAGE)
    key.verify_key.verify(signature, MESSAGE)
    s = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    refused(key.verify_key, signature[:32] + s.to_bytes(32, "little"))


@of_ecdsa
def test_a_signature_under_another_hash_is_refused(scheme):
    """Also one that the holder of the key has made: the curve decides the hash."""
    key = KEYS[scheme]
    for algorithm in (SHA224(), SHA256(), SHA384(), SHA512()):
        r, s = decode_dss_signature(key.private_key.sign(MESSAGE, ec.ECDSA(algorithm)))
        signature = encode_dss_signature(r, min(s, ORDERS[scheme] - s))
        if algorithm.name == HASHES[scheme].name:
            key.verify_key.verify(signature, MESSAGE)
        else:
            refused(key.verify_key, signature)


@of_ecdsa
def test_rfc_6979_vectors(scheme):
    """The signature of the RFC verifies if it has the smaller s, and otherwise in the one spelling."""
    curve, x, y, r, s = RFC6979[scheme]
    key = VerifyKey(ec.EllipticCurvePublicNumbers(int(x, 16), int(y, 16), curve).public_key())
    assert key.scheme == scheme
    r, s = int(r, 16), int(s, 16)
    small = min(s, ORDERS[scheme] - s)
    key.verify(encode_dss_signature(r, small), b"sample")
    refused(key, encode_dss_signature(r, ORDERS[scheme] - small), b"sample")


@schemes
def test_a_key_of_each_scheme_travels(scheme):
    """A public key does so in a pickle, with its scheme; a private key never does."""
    again = pickle.loads(pickle.dumps(KEYS[scheme].verify_key))
    assert (again, again.scheme) == (KEYS[scheme].verify_key, scheme)
    again.verify(KEYS[scheme].sign(MESSAGE), MESSAGE)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(KEYS[scheme])


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP521R1(), ec.SECP224R1(), ec.BrainpoolP256R1()])
def test_other_curves_are_refused(curve):
    """Private and public keys; those of the three schemes are taken above."""
    key = ec.generate_private_key(curve)
    with pytest.raises(TypeError, match="must be a private key of Ed25519, ECDSA P-256 or ECDSA P-384"):
        SigningKey(key)
    with pytest.raises(TypeError, match="must be a public key of Ed25519, ECDSA P-256 or ECDSA P-384"):
        VerifyKey(key.public_key())
    with pytest.raises(InvalidSignature):  # the library takes them, so it is this package that refuses
        key.public_key().verify(b"", MESSAGE, ec.ECDSA(SHA256()))
