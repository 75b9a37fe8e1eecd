"""A plugin of pytest: tests in an order that the number in ``SHUFFLE`` decides."""

import os
import random


def pytest_collection_modifyitems(items):
    """Shuffle the tests of all files together."""
    random.Random(os.environ["SHUFFLE"]).shuffle(items)
