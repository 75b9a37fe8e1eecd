"""Pictures for people, of any object that has named bands. The patch classes lie above this package."""
