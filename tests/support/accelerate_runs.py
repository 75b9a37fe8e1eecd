"""Runs of Accelerate, for ``run_framework``; two ranks write their results."""

import json
import pathlib

from accelerate import Accelerator, DataLoaderConfiguration, debug_launcher
from accelerate.utils import set_seed

from support.framework_cases import KINDS, make, numbers


def run(kind, path, folder, form, workers, start=None, **options):
    """Two epochs of a loader that Accelerate has prepared."""
    set_seed(3)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(**options))
    loader = accelerator.prepare(make(kind, path, form, workers, start))
    seen = [[epoch, numbers(batch)] for epoch in range(2) for batch in loader]
    file = pathlib.Path(folder) / f"{kind}-{accelerator.process_index}.json"
    file.write_text(json.dumps({"fit": seen}))


def run_all(path, folder, runs):
    """In one launch, because each takes as long as an import of torch."""
    for name, options in runs.items():
        for kind in KINDS:
            run(kind, path, f"{folder}/{name}", **options)


def main(path, folder, runs):
    """The runs by their folders, in JSON."""
    debug_launcher(run_all, (path, folder, json.loads(runs)), num_processes=2)
