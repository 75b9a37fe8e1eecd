"""Databases on web servers and in object storage: byte ranges of one pinned version of one object."""
