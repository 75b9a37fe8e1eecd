"""Find out whether a database holds only patches. Every record goes through the loader. No value is kept."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ben_secure.audit.findings import AuditReport, Finding
    from ben_secure.audit.judge.scan import Options, scan_value
    from ben_secure.audit.run.runner import Run, audit_database, audit_many

__all__ = ["AuditReport", "Finding", "Options", "Run", "audit_database", "audit_many", "scan_value"]

# Imported on first use (PEP 562): the worker processes run modules of this package and need only a few of them.
_HOMES = {
    **dict.fromkeys(("AuditReport", "Finding"), "ben_secure.audit.findings"),
    **dict.fromkeys(("Run", "audit_database", "audit_many"), "ben_secure.audit.run.runner"),
    **dict.fromkeys(("Options", "scan_value"), "ben_secure.audit.judge.scan"),
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
