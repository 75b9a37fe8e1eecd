"""A publisher's pair of keys: signing and verifying, key files, and devices that hold the private key."""
