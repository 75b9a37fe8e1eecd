"""All targets by name."""

from __future__ import annotations

from fuzz import encoded, files, keys, signed, tables, values

TARGETS = {
    target.name: target for module in (values, signed, keys, encoded, tables, files) for target in module.TARGETS
}
