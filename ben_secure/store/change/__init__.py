"""What is done to a database that exists: sign, tag, convert, copy, verify. Each goes through all of its records."""
