"""Operations on an existing database: sign, tag, convert, copy, verify. Each reads all of its records."""
