"""Pictures for people, of any object that has named bands. It does not know the patch classes, which lie above it."""
