"""Pictures for people. It draws whatever has named bands, and does not know the patch classes, which have it below them."""
