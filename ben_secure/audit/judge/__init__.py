"""Judge single records: does the value load as a patch, and is anything about it unusual? Bytes in, findings out."""
