"""Judge one record: does it load as a patch, and what is to be remarked on it. Bytes in, findings out."""
