"""Judge one record: whether it is a patch that loads, and what to remark on it. Bytes in, findings out, nothing kept."""
