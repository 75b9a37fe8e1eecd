"""The documented path of ``ben_secure.labels.tables``."""

from ben_secure.labels.tables import pairs_of, read_names, read_table

__all__ = ["pairs_of", "read_names", "read_table"]
