"""The two label nomenclatures of BigEarthNet, and the published mapping between them. Data only.

Sources: Sumbul et al., "BigEarthNet: A Large-Scale Benchmark Archive for Remote Sensing Image Understanding", IGARSS
2019 (43 level-3 classes of CORINE Land Cover 2018, in the spelling of the published label files); Sumbul et al.,
"BigEarthNet-MM", IEEE Geoscience and Remote Sensing Magazine 9(3), 2021 (the 19 classes; 11 of the 43 are dropped).
The orders come from ``original_labels``, ``BigEarthNet-19_labels`` and ``label_conversion`` in ``label_indices.json``
of the authors' models (git.tu-berlin.de/rsim/BigEarthNet-S2_19-classes_models). Other publications sort the classes
alphabetically, so a multi-hot vector is meaningful only together with its order.

BigEarthNet v2 (Clasen et al., "reBEN", IGARSS 2025) has only the 19 classes, in this spelling. The spelling of one
class differs: ``Transitional woodland/shrub`` in the 43 classes is ``Transitional woodland, shrub`` in the 19.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

BEN_19: tuple[str, ...] = (
    "Urban fabric",
    "Industrial or commercial units",
    "Arable land",
    "Permanent crops",
    "Pastures",
    "Complex cultivation patterns",
    "Land principally occupied by agriculture, with significant areas of natural vegetation",
    "Agro-forestry areas",
    "Broad-leaved forest",
    "Coniferous forest",
    "Mixed forest",
    "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation",
    "Transitional woodland, shrub",
    "Beaches, dunes, sands",
    "Inland wetlands",
    "Coastal wetlands",
    "Inland waters",
    "Marine waters",
)
"""The 19 classes; the position of each is its published index."""

TO_19: Mapping[str, str | None] = MappingProxyType(
    {
        "Continuous urban fabric": "Urban fabric",
        "Discontinuous urban fabric": "Urban fabric",
        "Industrial or commercial units": "Industrial or commercial units",
        "Road and rail networks and associated land": None,
        "Port areas": None,
        "Airports": None,
        "Mineral extraction sites": None,
        "Dump sites": None,
        "Construction sites": None,
        "Green urban areas": None,
        "Sport and leisure facilities": None,
        "Non-irrigated arable land": "Arable land",
        "Permanently irrigated land": "Arable land",
        "Rice fields": "Arable land",
        "Vineyards": "Permanent crops",
        "Fruit trees and berry plantations": "Permanent crops",
        "Olive groves": "Permanent crops",
        "Pastures": "Pastures",
        "Annual crops associated with permanent crops": "Permanent crops",
        "Complex cultivation patterns": "Complex cultivation patterns",
        "Land principally occupied by agriculture, with significant areas of natural vegetation": BEN_19[6],
        "Agro-forestry areas": "Agro-forestry areas",
        "Broad-leaved forest": "Broad-leaved forest",
        "Coniferous forest": "Coniferous forest",
        "Mixed forest": "Mixed forest",
        "Natural grassland": "Natural grassland and sparsely vegetated areas",
        "Moors and heathland": "Moors, heathland and sclerophyllous vegetation",
        "Sclerophyllous vegetation": "Moors, heathland and sclerophyllous vegetation",
        "Transitional woodland/shrub": "Transitional woodland, shrub",
        "Beaches, dunes, sands": "Beaches, dunes, sands",
        "Bare rock": None,
        "Sparsely vegetated areas": "Natural grassland and sparsely vegetated areas",
        "Burnt areas": None,
        "Inland marshes": "Inland wetlands",
        "Peatbogs": "Inland wetlands",
        "Salt marshes": "Coastal wetlands",
        "Salines": "Coastal wetlands",
        "Intertidal flats": None,
        "Water courses": "Inland waters",
        "Water bodies": "Inland waters",
        "Coastal lagoons": "Marine waters",
        "Estuaries": "Marine waters",
        "Sea and ocean": "Marine waters",
    }
)
"""The class of the 19 for each of the 43 classes, or None if the class was dropped; in published order."""

CORINE_43: tuple[str, ...] = tuple(TO_19)
"""The 43 classes; the position of each is its published index."""


_CODES = (
    *(111, 112, 121, 122, 123, 124, 131, 132, 133, 141, 142),
    *(211, 212, 213, 221, 222, 223, 231, 241, 242, 243, 244),
    *(311, 312, 313, 321, 322, 323, 324, 331, 332, 333, 334),
    *(411, 412, 421, 422, 423, 511, 512, 521, 522, 523),
)
CLC_CODES: Mapping[int, str] = MappingProxyType(dict(zip(_CODES, CORINE_43, strict=True)))
"""The 43 classes by their CORINE Land Cover 2018 codes, level 3 (without 335, glaciers)."""

REFERENCE_MAP = "reference_map"
"""Name of the metadata item with the reference map: uint16 (120, 120), a code of CORINE Land Cover per pixel."""


def to_19(labels: Iterable[str]) -> list[str]:
    """Translate labels of the 43 classes to the 19, as existing databases store them.

    Args:
        labels: Labels of ``CORINE_43``.

    Returns:
        The class of each label that is not dropped, in the given order. If two labels have the same class, it occurs
        twice. Empty if all labels are dropped (existing databases then store None).

    Raises:
        KeyError: A label is not one of the 43.
    """
    return [new for label in labels if (new := TO_19[label]) is not None]
