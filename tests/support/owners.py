"""Files whose owners are others than they are, since only root can give files away."""

import os
import pathlib
import types

_FIELDS = ("st_mode", "st_gid", "st_dev", "st_ino", "st_nlink", "st_size")


def owned(monkeypatch, caller, **owners):
    """Let the caller be this user, and files and folders belong to others: by name up to a dot; root has the rest."""
    real = os.lstat

    def changed(path, **options):
        facts = real(path, **options)
        uid = owners.get(pathlib.PurePath(os.fsdecode(path)).name.partition(".")[0], 0)
        return types.SimpleNamespace(**{name: getattr(facts, name) for name in _FIELDS}, st_uid=uid)

    monkeypatch.setattr(os, "lstat", changed)
    monkeypatch.setattr(os, "geteuid", lambda: caller)
