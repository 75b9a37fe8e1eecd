"""Find out whether a database holds anything but patches: every record through the loader, nothing kept."""

from ben_secure.audit.findings import AuditReport, Finding
from ben_secure.audit.run import audit_database
from ben_secure.audit.scan import scan_value

__all__ = ["AuditReport", "Finding", "audit_database", "scan_value"]
