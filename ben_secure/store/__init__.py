"""Databases of patches on disk: ``reader`` reads them, ``pairs`` two at a time, ``writer`` writes new ones.

Nothing is imported here: who only reads must not pull in liblmdb, which only ``writer`` uses.
"""
