"""Read an LMDB data file by its pages, with ``pread`` and without liblmdb: raw records out, hostile bytes in."""
