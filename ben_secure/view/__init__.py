"""Pictures for people, of whatever has named bands. It does not know the patch classes, which lie above it."""
