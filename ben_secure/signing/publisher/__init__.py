"""A publisher's pair of keys: what signs and verifies, its files, and devices that hold the private key."""
