"""Fixtures and settings of the whole suite."""

import os
import pathlib

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """Folder of real archives, named by ``BEN_SECURE_DATA``; no test needs it."""
    folder = os.environ.get("BEN_SECURE_DATA")
    if not folder:
        pytest.skip("BEN_SECURE_DATA names no folder of real archives")
    return pathlib.Path(folder)
