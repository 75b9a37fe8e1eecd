"""Keys and their files: ``MacKey`` for tags; ``SigningKey``, ``DeviceKey`` and ``VerifyKey`` for manifests.

MAC, signing and verify keys are separate types, so one cannot stand in for another. Everyone who can check a tag can
also make one. Verifying a signature does not allow signing. Fingerprints identify keys. No secret is in a ``repr``, a
message or an error.
"""

from ben_secure.signing._mac_keys import MacKey, MacKeySet, add_mac_key, read_mac_keys, write_mac_keys
from ben_secure.signing.footer import Suite
from ben_secure.signing.publisher.devices import DeviceKey
from ben_secure.signing.publisher.files import (
    read_signing_key,
    read_verify_key,
    write_key_pair,
    write_signing_key,
    write_verify_key,
)
from ben_secure.signing.publisher.keys import Signer, SigningKey, VerifyKey

__all__ = [
    "DeviceKey",
    "MacKey",
    "MacKeySet",
    "Signer",
    "SigningKey",
    "Suite",
    "VerifyKey",
    "add_mac_key",
    "read_mac_keys",
    "read_signing_key",
    "read_verify_key",
    "write_key_pair",
    "write_mac_keys",
    "write_signing_key",
    "write_verify_key",
]
