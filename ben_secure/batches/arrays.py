"""``PatchArrays``: a map-style dataset of patches in numpy, read one by one or in whole batches.

``PatchReader`` verifies and checks each value before any byte of it is converted. The pixels are then written directly
into the batch's array. No patch is kept, and nothing is written to disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ben_secure.batches.indexing import index_of, indices_of, selected_indices
from ben_secure.batches.labels import LabelColumn, Labels
from ben_secure.batches.masks import Masks
from ben_secure.batches.patch_names import PatchNames, find_names, path_of
from ben_secure.batches.pixels import Normalisation, Pixels, band_names, read_statistics
from ben_secure.batches.presets import ORDERS
from ben_secure.batches.samples import SAMPLES, Samples
from ben_secure.batches.splits import read_rows
from ben_secure.errors import BenSecureError, LimitExceededError, PatchFormatError, UnsafePickleError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.signing.policy import Keywords, Verification
from ben_secure.store.pairs import PairedReader
from ben_secure.store.reader import PatchReader, scratch
from ben_secure.view.cards import gallery

if TYPE_CHECKING:
    import numpy.typing as npt
    from typing_extensions import Unpack

    from ben_secure.patches import BigEarthNetPatch

    Array: TypeAlias = npt.NDArray[Any]
    Mask: TypeAlias = npt.NDArray[np.int64]

Path: TypeAlias = str | os.PathLike[str]
Reader: TypeAlias = PatchReader | PairedReader

# A float64 beyond the range of float32 becomes infinite. numpy's warning is off, because a hostile database could cause
# very many.
_QUIET: dict[str, Any] = {"over": "ignore", "invalid": "ignore"}


class PatchArrays:
    """Patches of one or several databases as float32 arrays with their labels.

    ``arrays[i]`` is one patch, ``arrays[[i, j, ...]]`` a batch of them in new arrays. A pickle of it contains the
    paths, the names and the ``Verification``. Unpickling opens and verifies the databases again. Threads may share it,
    and a forked process may use it.

    Attributes:
        names: Names of the patches, in the order of the items.
        bands: Names of the bands, in the order of the arrays.
        classes: Classes of the label vectors, in order. Empty if labels are not vectors.
        readers: The databases.
        sample: Form of a sample, "tuple" or "dict".
        transform: Function called with each image (or with each sample if it is a dict), or None.
    """

    def __init__(
        self,
        databases: Path | Reader | Iterable[Path | Reader],
        *,
        bands: str | Sequence[str] = "all",
        order: str | None = None,
        size: int | None = 120,
        resampling: str = "nearest",
        labels: str | None = "multi-hot-19",
        labels_from: str = "patch",
        mask: str | None = None,
        normalize: Normalisation | Path | None = None,
        fill: float | None = None,
        dtype: str = "float32",
        sample: str = "tuple",
        transform: Callable[[Any], Any] | None = None,
        split: Path | Iterable[str] | None = None,
        exclude: Path | Iterable[str] | None = None,
        table: Path | Iterable[Path] | None = None,
        verification: Verification | None = None,
        limits: Limits = DEFAULT_LIMITS,
        classes: Iterable[type[BigEarthNetPatch]] = (),
        **keywords: Unpack[Keywords],
    ) -> None:
        """Open the databases and list their patches. No value is read.

        Args:
            databases: Path of a database, or several paths; or open readers, which have their own keys (a
                ``PairedReader`` joins the Sentinel-1 and Sentinel-2 records of BigEarthNet v2).
            bands: Names of bands, in the desired order, or the name of a group in ``presets.GROUPS``: "RGB", "10m",
                "20m", "60m", "10m_20m", "S1", "S2", "S1_10m_20m", "all".
            order: Order of the bands of a group and of the classes, to match pretrained weights: "esa", "configilm"
                (BigEarthNet v2), "configilm-v1" or "torchgeo", or None for the order of ``bands.BAND_GROUPS`` and
                ``nomenclature``.
            size: Height and width in pixels to which every band is resampled, or None to keep each resolution, in an
                array of its own.
            resampling: "nearest", "bilinear" or "bicubic", with the results of ``torch.nn.functional.interpolate``.
            labels: "multi-hot-19" or "multi-hot-43" for vectors, "names" for ``labels`` as stored, or None for no
                labels.
            labels_from: "patch", or "table" for the column ``labels`` of ``table`` (databases of rico-hdl have no
                labels). Keys and signatures do not cover a table.
            mask: Adds the reference map as ``mask``, int64 (size, size), resampled by nearest: "19" for indices into
                the classes (``masks.NO_CLASS`` for pixels of no class), "codes" for CORINE Land Cover codes, None for
                no mask. Requires ``sample="dict"``.
            normalize: (mean, standard deviation) by band name, or the JSON file written by ``ben-secure stats --json``,
                or "reben" for the statistics of the published reBEN models. Each value becomes (value - mean) /
                standard deviation.
            fill: Replacement for NaN and infinite pixels, applied after ``normalize`` (so 0 is the band's mean): a
                number, ``float("nan")`` to leave them, or None to refuse the patch.
            dtype: "float32"; or "native" for the bands as stored, in a dict of arrays by resolution (uint16, digital
                numbers) and "S1" (float32, backscatter in dB). With "native", ``size``, ``resampling``, ``normalize``
                and a number in ``fill`` are not applied here. ``ben_secure.torch.Converter`` applies them later, on a
                device.
            sample: "tuple" for an image with its labels (float32 vectors), or only the image with ``labels=None``;
                "dict" for ``{"image": ..., "label": ..., "mask": ..., "name": ...}`` (int64 vectors, as in torchgeo).
            transform: Function called with each image (an array, or a dict of arrays by resolution), or with each
                sample if it is a dict. Its result replaces the argument.
            split: Names of the patches to use, or a file of names (text, CSV or Parquet); with ``table``, a value of
                its column ``split``, such as "train". None for all.
            exclude: Names of patches to leave out, or a file of names; with ``table``, one or both of the columns
                "contains_seasonal_snow" and "contains_cloud_or_shadow".
            table: Metadata table (CSV or Parquet), or several, such as ``metadata.parquet`` of BigEarthNet v2.
            verification: As for ``PatchReader``. It may name a manifest only if there is a single database.
            limits: As for ``PatchReader``.
            classes: As for ``PatchReader``.
            **keywords: As for ``PatchReader``.

        Raises:
            ValueError: An argument has a value that is not allowed, a patch is in two databases, a patch of the split
                is in no database, or a file is ambiguous, or as ``Verification``.
            TableError: A file of names or statistics, or a table, cannot be used.
            BenSecureError: As ``PatchReader``.
        """
        if isinstance(normalize, str | os.PathLike):
            normalize = read_statistics(normalize)
        self._pixels = Pixels(band_names(bands, order), size, resampling, normalize, fill, dtype)
        alphabetical = order is not None and ORDERS[order].alphabetical
        self._labels = Labels(labels, alphabetical, np.int64 if sample == "dict" else np.float32)
        self.bands = self._pixels.names
        self.classes = self._labels.classes
        if sample not in SAMPLES:
            raise ValueError(f"sample must be one of {', '.join(SAMPLES)}, not {printable(sample)!r}")
        if mask is not None and sample != "dict":
            raise ValueError('a mask needs sample="dict"')
        self._masks = None if mask is None else Masks(mask, size, self.classes)
        self.sample = sample
        self.transform = transform
        self.readers = _opened(databases, Verification.of(verification, keywords), limits, tuple(classes))
        by_table = labels_from == "table" and labels is not None
        if labels_from not in ("patch", "table") or (by_table and table is None):
            raise ValueError(f"labels_from must be patch, or table with table=, not {printable(labels_from)!r}")
        if table is not None and not (by_table or isinstance(split, str) or exclude):
            raise ValueError("table= has no effect without a named split, exclude= or labels_from='table'")
        rows = None if table is None else read_rows(table, by_table)
        self.names: PatchNames = find_names(self.readers, split, exclude, rows)
        self._label_column = None if rows is None or not by_table else LabelColumn(rows, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        """Read one patch, or a batch.

        Args:
            index: Index into ``names`` for one patch. For a batch: a slice; or a list, array or tensor of indices, or
                of bools, one for each patch.

        Returns:
            A tuple of the image and its labels, or only the image if there are no labels. The image is float32 (bands,
            size, size), or with ``size=None`` a dict of such arrays by resolution in metres. With ``sample="dict"``, a
            dict that also has the name.

        Raises:
            IndexError: The index is out of range, or the number of bools is not the number of patches.
            TypeError: The index is a single bool, or not an index.
            BenSecureError: As ``batch``.
        """
        indices = selected_indices(index, len(self))
        if indices is not None:
            return self.batch(indices)
        natives, arrays = self._outputs(())
        masks = self._mask_outputs(1)
        with np.errstate(**_QUIET):
            row = index_of(index, len(self))
            labels = self._read(row, arrays, None if masks is None else masks[0])
        if labels is not None and not isinstance(labels, tuple):
            labels = self._native(labels)
        image = self._bundle(natives)
        if self.transform is None and self.sample == "tuple":
            return image if labels is None else (image, labels)
        labels = None if labels is None else [labels]
        masks = None if masks is None else self._native(masks)
        return Samples(self, image, [image], labels, [self.names[row]], masks)[0]

    def batch(self, indices: Iterable[int]) -> Any:
        """Read several patches into one new array.

        Args:
            indices: Indices into ``names``. Bools are allowed only in ``[]``.

        Returns:
            As for one patch, with an additional first axis. Label names are a list of tuples, and patch names a list.

        Raises:
            IndexError: An index is out of range.
            TypeError: An index is a bool, or not an index.
            TagMismatchError: A ``mac_key`` was given, and a value is not the tagged one.
            ManifestMismatchError: A ``verify_key`` was given, and a value is not the signed one.
            UntrustedDataError: A value is not a patch, lacks a requested band or the labels, or uses something that no
                honest patch needs.
            StoreError: A database is damaged or truncated.
        """
        return self.samples(indices).whole()

    def samples(self, indices: Iterable[int]) -> Samples:
        """Read several patches like ``batch``, but apply ``transform`` only when a sample is used."""
        rows = indices_of(indices, len(self))
        natives, arrays = self._outputs((len(rows),))
        masks = self._mask_outputs(len(rows))
        labels = self._fill(arrays, rows, masks)
        if labels is not None and not isinstance(labels, list):
            labels = self._native(labels)
        masks = None if masks is None else self._native(masks)
        each = [self._bundle(arrays) for arrays in zip(*natives, strict=True)]
        names = [self.names[row] for row in rows] if self.sample == "dict" else []
        return Samples(self, self._bundle(natives), each, labels, names, masks)

    def fill(self, outputs: Sequence[Array], indices: Iterable[int]) -> Any:
        """Read several patches into existing arrays, without ``transform``.

        Args:
            outputs: float32 arrays (n, bands, size, size): one, or with ``size=None`` one for each resolution, finest
                first. With ``dtype="native"``, uint16 arrays for Sentinel-2, and the float32 array for Sentinel-1 last.
            indices: n indices into ``names``.

        Returns:
            The labels as from ``batch``, vectors as a numpy array, or None with ``labels=None``.

        Raises:
            ValueError: The number, a shape or a dtype of the arrays is not as expected.
            BenSecureError: As ``batch``.
        """
        rows = indices_of(indices, len(self))
        shapes = [(len(rows), *shape) for shape in self._pixels.shapes]
        wanted = list(zip(shapes, self._pixels.dtypes, strict=True))
        if [(array.shape, array.dtype) for array in outputs] != wanted:
            raise ValueError("expected to fill " + ", ".join(f"{dtype} {shape}" for shape, dtype in wanted))
        return self._fill(outputs, rows)

    def _fill(self, outputs: Sequence[Array], rows: Sequence[int], masks: Mask | None = None) -> Any:
        targets = zip(rows, zip(*outputs, strict=True), [None] * len(rows) if masks is None else masks, strict=True)
        with np.errstate(**_QUIET):
            labels = [self._read(row, images, mask) for row, images, mask in targets]
        return self._labels.together(labels)

    def _read(self, row: int, outputs: Sequence[Array], mask: Mask | None) -> Any:
        """Read the image of one patch into arrays, and its mask into another array. Return its labels."""
        reader, name = self.readers[self.names.databases[row]], self.names[row]
        patch = None
        try:
            patch = reader._load(name, scratch) if isinstance(reader, PatchReader) else reader[name]
            self._pixels.fill(outputs, patch._layout, patch._pixels)
            if self._masks is not None and mask is not None:
                records = reader if isinstance(reader, PatchReader) else reader.s2_reader
                self._masks.fill(mask, patch, name, records)
            return self._labels.of(patch.__dict__ if self._label_column is None else self._label_column[row])
        except BenSecureError as error:
            if isinstance(error, UnsafePickleError | LimitExceededError | PatchFormatError):
                error.message += f"; to leave this patch out, pass exclude=[{printable(name)!r}]"
                if patch is None:
                    error.message += " or write a clean copy of the database: ben-secure convert DB NEW --skip-refused"
            error.located(path_of(reader), name.encode())
            raise

    def _outputs(self, leading: tuple[int, ...]) -> tuple[list[Any], list[Array]]:
        """New arrays to read into: as the caller gets them, and as numpy arrays over the same memory."""
        return self._allocate([(*leading, *shape) for shape in self._pixels.shapes], self._pixels.dtypes)

    def _mask_outputs(self, patches: int) -> Mask | None:
        """A new array for masks, or None if none are requested."""
        return None if self._masks is None else np.empty((patches, self._masks.side, self._masks.side), np.int64)

    def _bundle(self, natives: Sequence[Any]) -> Any:
        """A single array as it is, several as a dict by resolution."""
        keys = self._pixels.keys
        return dict(zip(keys, natives, strict=True)) if keys else natives[0]

    # ``ben_secure.torch`` overrides these.

    def _allocate(
        self, shapes: list[tuple[int, ...]], dtypes: Sequence[np.dtype[Any]]
    ) -> tuple[list[Any], list[Array]]:
        arrays = [np.empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        return arrays, arrays

    def _native(self, array: npt.NDArray[Any]) -> Any:
        return array

    def _memory(self, array: Any) -> Any:
        return getattr(array, "__array_interface__", None)

    def _join(self, arrays: list[Any]) -> Any:
        return np.stack(arrays)

    def _repr_html_(self) -> str:
        def load(name: str) -> BigEarthNetPatch:
            return self.readers[self.names.databases[self.names.index(name)]][name]

        verified = {reader.verified or "nothing" for reader in self.readers}
        return gallery(repr(self), self.names, load, ", ".join(sorted(verified)))

    def __repr__(self) -> str:
        paths = ", ".join(repr(path_of(reader)) for reader in self.readers)
        return f"{type(self).__name__}({paths}: {len(self)} patches of {', '.join(self.bands)})"


def _opened(
    databases: Path | Reader | Iterable[Path | Reader],
    verification: Verification | None,
    limits: Limits,
    classes: tuple[type[BigEarthNetPatch], ...],
) -> tuple[Reader, ...]:
    """Open the databases that are given as paths."""
    if isinstance(databases, str | os.PathLike | PatchReader | PairedReader):
        databases = [databases]
    sources: list[Path | Reader] = list(databases)
    if not sources:
        raise ValueError("name at least one database")
    if verification is not None:
        verification.check_databases(len(sources))
    opened = any(isinstance(source, PatchReader | PairedReader) for source in sources)
    if opened and (verification, limits, classes) != (None, DEFAULT_LIMITS, ()):
        raise ValueError("an open reader has its own verification, limits and classes; pass them to it")
    return tuple(
        source
        if isinstance(source, PatchReader | PairedReader)
        else PatchReader(source, verification=verification, limits=limits, classes=classes)
        for source in sources
    )
