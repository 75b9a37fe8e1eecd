"""fickling's second opinion, obtained in an expendable process. It never decides the verdict."""
