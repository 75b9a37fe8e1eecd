"""Limits are positive whole numbers that cannot be changed, and honest values stay far below them."""

import dataclasses
import pickle

import pytest

from ben_secure import loads
from ben_secure.limits import DEFAULT_LIMITS, Limits
from support.legacy_values import GENERATIONS, MERGED, tree, write

NAMES = [field.name for field in dataclasses.fields(Limits)]


@pytest.mark.threat("T2")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, None, True, False, 1.0, float("inf"), "1", 10**9 * 1.0])
def test_there_is_no_unlimited(name, value):
    """Nothing but a positive int is a limit, and the message names the limit."""
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})
    assert getattr(Limits(**{name: 1}), name) == 1


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_frozen(name):
    """A limit that was set stays; others are another object."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(DEFAULT_LIMITS, name, 10**9)
    with pytest.raises((AttributeError, TypeError)):
        DEFAULT_LIMITS.unknown = 1
    assert Limits() == DEFAULT_LIMITS != dataclasses.replace(DEFAULT_LIMITS, **{name: 10**12})
    assert pickle.loads(pickle.dumps(DEFAULT_LIMITS)) == DEFAULT_LIMITS


def test_limits_are_named():
    """Positional arguments would be confused."""
    with pytest.raises(TypeError):
        Limits(1)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_honest_values_stay_far_below(generation):
    """The largest usual value passes with a tenth of most limits, and with the depth and sides it needs."""
    tenth = {name: getattr(DEFAULT_LIMITS, name) // 10 for name in NAMES}
    exact = {"max_depth": 16, "max_int_bytes": 9, "max_array_dims": 2, "max_bands": 14, "max_name_characters": 50}
    assert loads(write(tree(MERGED, generation)), limits=Limits(**{**tenth, **exact}))
