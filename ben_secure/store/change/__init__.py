"""What is done to a database that exists: sign, tag, convert, copy, verify. Every step goes through all of its records."""
