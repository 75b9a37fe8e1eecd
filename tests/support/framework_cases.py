"""Loaders for the runs of frameworks: of a plain list of the items, and of ours. A patch's pixels are its number."""

import multiprocessing

from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from ben_secure.torch import EpochSampler, PatchDataset, batch_loader, collate

KINDS = ("list", "loader", "collate")
BATCH = 4


class Listed(Dataset):
    """The items of a dataset in a list, which every loader must reproduce."""

    def __init__(self, dataset):
        self.items = [dataset[place] for place in range(len(dataset))]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        return self.items[place]


def make(kind, path, form, workers, start=None):
    """One loader over the patches of a database.

    Its workers are started in one of multiprocessing's ways, and then once, because most ways take long.
    """
    multiprocessing.set_forkserver_preload(["ben_secure.torch"])
    dataset = PatchDataset(path, bands="S1")
    dataset = Listed(dataset) if kind == "list" else dataset
    if form == "subset":
        dataset = Subset(dataset, range(1, len(dataset)))
    options = {"batch_size": BATCH, "num_workers": workers, "multiprocessing_context": start}
    options["persistent_workers"] = start is not None
    if form == "by hand":
        options["sampler"] = DistributedSampler(dataset, shuffle=True)
    elif form == "seeded":
        options |= {"shuffle": True, "seed": 7} if kind == "loader" else {"sampler": EpochSampler(dataset, 7)}
    else:
        options["shuffle"] = form != "in order"
    if kind == "loader":
        return batch_loader(dataset, **options)
    return DataLoader(dataset, collate_fn=collate if kind == "collate" else None, **options)


def numbers(batch):
    """The numbers of the patches in a batch, which has to have its axis."""
    images, labels = batch
    assert images.shape[1:] == (2, 120, 120)
    assert labels.shape == (len(images), 19)
    return images[:, 0, 0, 0].int().tolist()
