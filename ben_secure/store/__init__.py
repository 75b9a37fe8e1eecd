"""Databases of patches on disk: ``reader`` reads one, ``pairs`` joins two, ``writer`` writes a new one.

Nothing is imported here, because only ``writer`` uses liblmdb, and a reader must not load it.
"""
