"""Signed releases: one time for all of them."""

from datetime import datetime, timezone

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
