"""Find out whether a database holds anything but patches: every record through the loader, nothing kept."""

from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.run import Run, audit_database, audit_many
from ben_secure.audit.scan import Options, scan_value

__all__ = ["AuditReport", "Finding", "Options", "Run", "audit_database", "audit_many", "scan_value"]
