"""Read records from the pages of a hostile LMDB data file, with ``pread`` and without liblmdb."""
