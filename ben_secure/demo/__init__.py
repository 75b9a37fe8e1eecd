"""The tour of ``ben-secure demo``: an honest database, a copy with attacks, and both ways to sign a database."""
