"""The field's own readers and transforms: ConfigILM and torchgeo have the same images; their code works on ours."""

import importlib.util
import json
import pathlib

import pytest

torch = pytest.importorskip("torch")

from ben_secure import PatchReader  # noqa: E402
from ben_secure.encode import encode  # noqa: E402
from ben_secure.labels.tables import pairs_of, read_table  # noqa: E402
from ben_secure.store.pairs import PairedReader  # noqa: E402
from ben_secure.torch import PatchDataset, batch_loader  # noqa: E402
from support.geotiffs import S1_NAME, make_pairs, tiff  # noqa: E402
from support.patch_databases import database, patches  # noqa: E402

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]  # warnings of the field's packages


def needs(*names):
    """Skip if a package is not installed, and name it."""
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"{', '.join(absent)} is not installed")


def mock_data(version):
    """The data that ConfigILM brings along for its own tests."""
    import configilm

    return pathlib.Path(configilm.__file__).parent / "extra" / "mock_data" / version


@needs("configilm", "bigearthnet_common")
@pytest.mark.parametrize("size", [120, 128])
@pytest.mark.parametrize(
    ("channels", "bands"), [(2, "S1"), (3, "RGB"), (4, "10m"), (10, "10m_20m"), (12, "S1_10m_20m")]
)
def test_configilm_v1(channels, bands, size):
    """All channel settings and the labels agree, exactly, except for float32 rounding after interpolation."""
    from configilm.extra.DataSets.BENv1_DataSet import BENv1DataSet

    folder = mock_data("BENv1")
    files = {"images_lmdb": folder / "BigEarthNetEncoded.lmdb"}
    files |= {f"{split}_data": folder / f"{split}.csv" for split in ("train", "val", "test")}
    theirs = BENv1DataSet(files, split="train", img_size=(channels, size, size))
    ours = PatchDataset(
        files["images_lmdb"], bands=bands, order="configilm-v1", size=size, resampling="bicubic-corners",
        split=theirs.patches,
    )  # fmt: skip
    assert len(ours) == len(theirs) > 0
    for (image, labels), (expected, expected_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(labels, expected_labels.float())
        for band, name, wanted in zip(image, ours.bands, expected, strict=True):
            if size == 120 and name in ("B02", "B03", "B04", "B08", "VV", "VH"):
                assert torch.equal(band, wanted)
            torch.testing.assert_close(band, wanted, rtol=0, atol=0.02)


@needs("configilm")
@pytest.mark.parametrize(
    ("channels", "bands"), [(2, "S1"), (3, "RGB"), (4, "10m"), (10, "10m_20m"), (12, "S1_10m_20m"), (14, "all")]
)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_configilm_v2(channels, bands, split):
    """Every channel setting, split and label is equal bit for bit, from the same database and table."""
    from configilm.extra.BENv2_utils import band_combi_to_mean_std
    from configilm.extra.DataSets.BENv2_DataSet import BENv2DataSet

    folder = mock_data("BENv2")
    metadata = folder / "metadata.parquet"
    files = {
        "images_lmdb": folder / "BigEarthNet-V2-LMDB",
        "metadata_parquet": metadata,
        "metadata_snow_cloud_parquet": folder / "metadata_for_patches_with_snow_cloud_or_shadow.parquet",
    }
    theirs = BENv2DataSet(files, split=split, img_size=(channels, 120, 120))
    ours = PatchDataset(
        PairedReader(PatchReader(files["images_lmdb"]), pairs_of(read_table(metadata))), bands=bands,
        order="configilm", split=split, table=metadata, labels_from="table",
    )  # fmt: skip
    assert sorted(ours.names) == theirs.patches
    for name, (image, labels) in zip(ours.names, ours, strict=True):
        expected, expected_labels = theirs[theirs.patches.index(name)]
        assert torch.equal(image, expected)
        assert torch.equal(labels, expected_labels.float())
    mean, deviation = (
        torch.tensor(numbers).float()[:, None, None] for numbers in band_combi_to_mean_std([*ours.bands])
    )
    theirs.BENv2Loader.env.close()
    normalised = PatchDataset(ours.readers, bands=bands, order="configilm", normalize="reben", labels=None)
    torch.testing.assert_close(normalised[0], (PatchDataset(
        ours.readers, bands=bands, order="configilm", labels=None)[0] - mean) / deviation)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Folders as torchgeo wants them, and a database of them."""
    root = tmp_path_factory.mktemp("torchgeo")
    names = make_pairs(root)
    encode(str(root / "db"), s2=root / "s2", s1=root / "s1")
    return root, names


@needs("torchgeo", "tifffile")
class TestTorchgeo:
    """Its images are integers, because it reads them as such: ours, rounded."""

    def compare(self, theirs, root, names, bands, classes):
        """All patches of a dataset of torchgeo."""
        ours = PatchDataset(
            root / "db", bands=bands, order="torchgeo", resampling="bilinear", sample="dict", split=names,
            labels=f"multi-hot-{classes}",
        )  # fmt: skip
        assert len(theirs) == len(ours) > 0
        for sample, expected in ((ours[place], theirs[place]) for place in range(len(ours))):
            image = expected["image"] if bands != "all" or "image" in expected else torch.cat(
                [expected["image_s1"], expected["image_s2"]])  # fmt: skip
            torch.testing.assert_close(sample["image"], image, rtol=0, atol=0.52)
            assert torch.equal(sample["label"], expected["label"])

    @pytest.mark.parametrize("classes", [19, 43])
    @pytest.mark.parametrize("bands", ["s1", "s2", "all"])
    def test_version_1(self, pairs, bands, classes, tmp_path):
        """Bands, labels and their orders agree."""
        from torchgeo.datasets import BigEarthNet

        root, names = pairs
        (tmp_path / "BigEarthNet-v1.0").symlink_to(root / "s2")
        (tmp_path / "BigEarthNet-S1-v1.0").symlink_to(root / "s1")
        lines = "".join(f"{name},{S1_NAME.format(place, 7)}\n" for place, name in enumerate(names))
        for split in ("train", "val", "test"):
            (tmp_path / f"bigearthnet-{split}.csv").write_text(lines)
        theirs = BigEarthNet(str(tmp_path), split="train", bands=bands, num_classes=classes)
        self.compare(theirs, root, names, "all" if bands == "all" else bands.upper(), classes)

    @pytest.mark.parametrize("bands", ["s1", "s2", "all"])
    def test_version_2(self, pairs, bands, tmp_path):
        """They agree with the table of version 2, too."""
        pa = pytest.importorskip("pyarrow")
        import numpy as np
        import pyarrow.parquet as pq
        from torchgeo.datasets import BigEarthNetV2

        root, names = pairs
        twins = [S1_NAME.format(place, 7) for place in range(len(names))]
        for folder, members, parts in (("S2", names, 2), ("S1", twins, 3)):
            for name in members:
                scene = tmp_path / f"BigEarthNet-{folder}" / "_".join(name.split("_")[:-parts])
                scene.mkdir(parents=True, exist_ok=True)
                (scene / name).symlink_to(root / folder.lower() / name)
        for name in names:
            place = tmp_path / "Reference_Maps" / "_".join(name.split("_")[:-2]) / name
            place.mkdir(parents=True)
            (place / f"{name}_reference_map.tif").write_bytes(tiff(np.full((120, 120), 231, np.uint16)))
        labels = json.loads(next((root / "s2" / names[0]).glob("*.json")).read_text())["labels"]
        labels = [label for label in labels if label in BigEarthNetV2.class_set] + ["Inland wetlands"]
        columns = {
            "patch_id": names,
            "s1_name": twins,
            "split": ["train"] * len(names),
            "labels": [labels] * len(names),
        }
        pq.write_table(pa.table(columns), tmp_path / "metadata.parquet")
        theirs = BigEarthNetV2(str(tmp_path), split="train", bands=bands)
        self.compare(theirs, root, names, "all" if bands == "all" else bands.upper(), 19)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return database(tmp_path_factory.mktemp("field") / "db", patches(6))


def tuples(plain, bands="RGB"):
    return PatchDataset(plain, bands=bands).batch(range(6))


@needs("torchvision")
def test_torchvision_transforms_samples(plain):
    """The whole dict is transformed; entries that are not images stay."""
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomHorizontalFlip(1.0), v2.CenterCrop(100), v2.RandomErasing(0.0)])
    images, labels = tuples(plain)
    for workers in (0, 1):
        dataset = PatchDataset(plain, bands="RGB", sample="dict", transform=transform)
        batch = next(iter(batch_loader(dataset, 6, num_workers=workers)))
        assert torch.equal(batch["image"], images.flip(-1)[..., 10:-10, 10:-10])
        assert torch.equal(batch["label"], labels)
        assert batch["name"] == list(dataset.names)


@needs("kornia")
def test_kornia_augments_samples_and_batches(plain):
    """kornia selects the entries of the dict by their keys."""
    import kornia.augmentation as augmentation

    flip = augmentation.AugmentationSequential(
        augmentation.RandomVerticalFlip(p=1.0), data_keys=None, keepdim=True, same_on_batch=True
    )
    images, labels = tuples(plain)
    whole = next(iter(batch_loader(PatchDataset(plain, bands="RGB", sample="dict"), 6)))
    each = next(iter(batch_loader(PatchDataset(plain, bands="RGB", sample="dict", transform=flip), 6)))
    for batch in (flip(whole), each):
        assert torch.equal(batch["image"], images.flip(-2))
        assert torch.equal(batch["label"], labels)
        assert batch["name"] == [f"patch {place}" for place in range(6)]


@needs("torchgeo", "lightning")
def test_a_trainer_of_torchgeo_runs(plain, tmp_path):
    """The unchanged trainer trains, validates and tests on dicts of image and label."""
    import lightning.pytorch as pl
    from torchgeo.trainers import ClassificationTask

    dataset = PatchDataset(plain, bands="S1", normalize="reben", sample="dict", size=64)
    loader = batch_loader(dataset, 3, shuffle=True)
    task = ClassificationTask(model="resnet18", task="multilabel", num_labels=19, in_channels=2, loss="bce")
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, loader, batch_loader(dataset, 3))
    assert trainer.global_step == 2
    (metrics,) = trainer.test(task, batch_loader(dataset, 3), verbose=False)
    assert metrics["test_loss"] > 0
