"""Orders of bands and classes, and statistics, for published weights. Data only.

Weights are useful only if bands and classes have the same order as in training. The orders come from the code of
ConfigILM 0.7.1 (``BENv1_utils``, ``BENv2_utils``) and torchgeo 0.8.1 (``BigEarthNet``, ``BigEarthNetV2``). Tests
compare them with both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from ben_secure.bands import BAND_GROUPS

_ESA = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_MORE_GROUPS = {"S1_10m_20m": (*BAND_GROUPS["10m_20m"], *BAND_GROUPS["S1"])}

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({**BAND_GROUPS, **_MORE_GROUPS})
"""Bands by group name, in the order of this package."""


class Order(NamedTuple):
    """The order of bands and classes in one project.

    Attributes:
        groups: Bands by group name. alphabetical: Whether classes are sorted by name; otherwise they have the published
            order.
    """

    groups: Mapping[str, tuple[str, ...]]
    alphabetical: bool


def _order(bands: Sequence[str], alphabetical: bool, **groups: tuple[str, ...]) -> Order:
    """All groups in the order of ``bands``, except RGB and the given groups."""
    ordered = {name: tuple(sorted(group, key=bands.index)) for name, group in GROUPS.items()}
    return Order(MappingProxyType({**ordered, "RGB": BAND_GROUPS["RGB"], **groups}), alphabetical)


ORDERS: Mapping[str, Order] = MappingProxyType(
    {
        "esa": _order((*_ESA, "VV", "VH"), alphabetical=False),
        "configilm": _order(("VV", "VH", *_ESA), alphabetical=True),
        "configilm-v1": _order(
            ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A", "VH", "VV", "B01", "B09"),
            alphabetical=True,
            **{"10m": ("B04", "B03", "B02", "B08")},
        ),
        "torchgeo": _order(("VH", "VV", *_ESA), alphabetical=False),
    }
)
"""Orders by name.

"esa" is the order of ESA's products. "configilm" is the order of ConfigILM for BigEarthNet v2, used to train the reBEN
models. "configilm-v1" is its order for v1, which has neither B01 nor B09; they come last here. "torchgeo" has VH before
VV, because its datasets sort their files, although its documentation lists VV before VH."""

REBEN: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "B01": (361.07678, 575.0687),
        "B02": (438.37207, 607.02686),
        "B03": (614.05566, 603.2968),
        "B04": (588.4096, 684.56885),
        "B05": (942.8433, 738.4327),
        "B06": (1769.9316, 1100.456),
        "B07": (2049.5515, 1275.8054),
        "B08": (2193.292, 1369.3717),
        "B8A": (2235.5566, 1356.5441),
        "B09": (2241.4553, 1316.3933),
        "B11": (1568.2268, 1070.1613),
        "B12": (997.7325, 813.52765),
        "VV": (-12.643864, 5.133494),
        "VH": (-19.352558, 5.5905056),
    }
)
"""Means and population standard deviations used to train the reBEN models.

They are of the train split of BigEarthNet v2, resampled to 120 x 120 pixels by nearest (ConfigILM 0.7.1,
``BENv2_utils.means["120_nearest"]``)."""

STATISTICS: Mapping[str, Mapping[str, tuple[float, float]]] = MappingProxyType({"reben": REBEN})
"""Statistics by name."""
