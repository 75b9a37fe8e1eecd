"""Make notebooks from pages: text becomes text, Python becomes cells, and a first cell makes data for them.

``python tests/support/notebooks.py`` writes them again after a change of a page.
"""

import json
import pathlib
import re

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
NAMES = ("lightning", "ddp", "torchgeo", "configilm")

DATA = """\
# Noise in place of BigEarthNet, to try this notebook. Leave this cell out if you have a database.
import os
import numpy as np
from ben_secure import BigEarthNet_S1_S2_Patch, PatchWriter
from ben_secure.bands import BANDS
from ben_secure.labels.nomenclature import BEN_19

if not os.path.exists("train.lmdb"):
    random = np.random.default_rng(0)
    with open("metadata.csv", "w") as table, PatchWriter("train.lmdb") as writer:
        print("patch_id,split", file=table)
        for number in range(24):
            pixels = {
                band.attribute: random.integers(0, 4000, band.shape).astype("f4" if band.sensor == "S1" else "u2")
                for band in BANDS.values()
            }
            writer[f"patch {number}"] = BigEarthNet_S1_S2_Patch(**pixels, labels=[BEN_19[number % 19]])
            print(f"patch {number},{('train', 'train', 'validation', 'test')[number % 4]}", file=table)
"""


def cells(name):
    """The cells of a page: pairs of a type and a text."""
    text, *rest = re.split(
        r"^```python\n(.*?)^```\n", (DOCS / f"{name}.md").read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    found = [("markdown", text), ("code", DATA)]
    found += [("markdown" if place % 2 else "code", part) for place, part in enumerate(rest)]
    return [
        (kind, (re.sub(r"\]\((?=[\w-]+\.md)", "](../", part) if kind == "markdown" else part).strip())
        for kind, part in found
        if part.strip()
    ]


def script(name):
    """The code of a page, as nbconvert would write it."""
    return "\n\n".join(text for kind, text in cells(name) if kind == "code") + "\n"


def notebook(name):
    """The notebook of a page, in JSON."""
    made = []
    for place, (kind, text) in enumerate(cells(name)):
        cell = {"cell_type": kind, "id": f"{name}-{place}", "metadata": {}, "source": text.splitlines(keepends=True)}
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    content = {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for chosen in NAMES:
        (DOCS / "notebooks" / f"{chosen}.ipynb").write_text(notebook(chosen))
