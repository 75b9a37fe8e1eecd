"""Judge one record: is it a patch that loads, and what is to be remarked on it. Bytes in, findings out, nothing kept."""
