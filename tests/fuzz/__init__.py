"""Structure-aware fuzzers, one target for each parser of untrusted bytes; ``run.py`` runs them."""
