"""LMDB databases on disk: ``pages`` reads raw records, ``reader`` reads patches, ``writer`` writes them.

Nothing is imported here: who only reads must not pull in liblmdb, which only ``writer`` uses.
"""
