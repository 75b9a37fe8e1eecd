"""fickling as a second opinion, in a process that may die; it never gives the verdict."""
