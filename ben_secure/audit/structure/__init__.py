"""Look at a database as a whole: its pages, the files beside it, and who can write them."""
