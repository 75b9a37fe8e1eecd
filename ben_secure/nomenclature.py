"""The documented path of ``ben_secure.labels.nomenclature``."""

from ben_secure.labels.nomenclature import BEN_19, CORINE_43, TO_19, to_19

__all__ = ["BEN_19", "CORINE_43", "TO_19", "to_19"]
