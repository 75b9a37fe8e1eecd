"""Locales that some tests need."""

import sys

import pytest

names_in_utf8 = pytest.mark.skipif(
    sys.getfilesystemencoding() != "utf-8", reason="its paths are not ASCII, but the locale is"
)
