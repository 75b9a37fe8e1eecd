"""Find out whether a database holds anything but patches: every record through the loader, nothing kept."""

from typing import TYPE_CHECKING

from ben_secure.lazy import lazily

if TYPE_CHECKING:
    from ben_secure.audit.findings import AuditReport, Finding
    from ben_secure.audit.run import Run, audit_database, audit_many
    from ben_secure.audit.scan import Options, scan_value

__all__ = ["AuditReport", "Finding", "Options", "Run", "audit_database", "audit_many", "scan_value"]

# The processes that an audit starts are modules of this package, and need little of it.
__getattr__ = lazily(
    __name__,
    {
        **dict.fromkeys(("AuditReport", "Finding"), "ben_secure.audit.findings"),
        **dict.fromkeys(("Run", "audit_database", "audit_many"), "ben_secure.audit.run"),
        **dict.fromkeys(("Options", "scan_value"), "ben_secure.audit.scan"),
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
