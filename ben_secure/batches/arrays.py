"""``PatchArrays``: a map-style dataset over databases of patches, items or whole batches, in plain numpy.

Everything is read through ``PatchReader``, so each value is verified as was asked for, and checked, before a byte of
it is converted; then its pixels go straight into the one array of the batch. It keeps no patch and writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ben_secure.batches.labels import LabelColumn, Labels
from ben_secure.batches.masks import Masks
from ben_secure.batches.names import Names, find_names, path_of
from ben_secure.batches.pixels import Normalisation, Pixels, band_names, read_statistics
from ben_secure.batches.places import place_of, places_of, selected
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

# A float64 that float32 cannot hold becomes infinite without a warning: a hostile database could make many.
_QUIET: dict[str, Any] = {"over": "ignore", "invalid": "ignore"}


class PatchArrays:
    """Patches of one or several databases as float32 arrays with their labels.

    ``arrays[i]`` is one patch, ``arrays[[i, j, ...]]`` a batch of them in new arrays. Pickled, it travels as paths,
    names and what is to be verified, and verifies anew where it arrives; threads may share it, a forked process may go
    on using it.

    Attributes:
        names: Names of the patches, in the order of the items.
        bands: Names of the bands, in the order of the arrays.
        classes: Classes of the label vectors, in their order; empty if labels are no vectors.
        readers: The databases.
        sample: The form of a sample, "tuple" or "dict".
        transform: What is applied to each image, or to each sample that is a dict; None for nothing.
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
        """Open the databases and list their patches; no value is read.

        Args:
            databases: Path of a database, or several; or readers that are open already, which bring their own keys
                (a ``PairedReader`` joins the Sentinel-1 and Sentinel-2 records of BigEarthNet v2).
            bands: Names of bands, in the order wanted, or a group of ``presets.GROUPS``: "RGB", "10m", "20m", "60m",
                "10m_20m", "S1", "S2", "S1_10m_20m", "all".
            order: Order of the bands of a group and of the classes, for weights that somebody has trained: "esa",
                "configilm" (BigEarthNet v2), "configilm-v1" or "torchgeo"; None for that of ``bands.BAND_GROUPS`` and
                ``nomenclature``.
            size: Pixels a side to which every band is resampled; None to leave the bands as they are, in an array for
                each resolution.
            resampling: "nearest", "bilinear" or "bicubic", as ``torch.nn.functional.interpolate`` does them.
            labels: "multi-hot-19" or "multi-hot-43" (vectors), "names" (``labels`` as stored), or None for no
                labels.
            labels_from: "patch", or "table" for the column ``labels`` of ``table``, as databases of rico-hdl need it;
                what is verified of a patch says nothing of a table.
            mask: The patch's reference map as ``mask``, int64 (size, size) by nearest: "19" for places among the
                classes, with ``masks.NO_CLASS`` for pixels of none, "codes" for those of CORINE Land Cover, None for no
                mask; needs ``sample="dict"``.
            normalize: (mean, standard deviation) by band name, or the JSON file that ``ben-secure stats --json`` wrote,
                or "reben" for those of the published reBEN models: each value becomes (value - mean) / deviation.
            fill: What pixels become that are NaN or infinite, after ``normalize`` (where 0 is the band's mean): a
                number, ``float("nan")`` to leave them to the caller, or None to refuse the patch.
            dtype: "float32"; or "native" for the bands as they are stored, in a dict of arrays by resolution (uint16,
                digital numbers) and "S1" (float32, decibel). Then ``size``, ``resampling``, ``normalize`` and numbers
                in ``fill`` do nothing here: ``ben_secure.torch.Converter`` does it later, on a device.
            sample: "tuple" for an image with its labels (float32 vectors), or the image alone if there are to be none;
                "dict" for ``{"image": ..., "label": ..., "mask": ..., "name": ...}`` (int64 vectors, as torchgeo has
                them).
            transform: Called with each image (an array, or arrays by resolution), or with each sample if it is a dict;
                its result takes its place.
            split: Names of the patches to use, or a file of them (text, CSV or Parquet); or with ``table`` the value of
                its column ``split``, such as "train"; None for all.
            exclude: Names of patches to leave out, or a file of them; or with ``table`` some of its columns
                "contains_seasonal_snow" and "contains_cloud_or_shadow".
            table: Metadata table (CSV or Parquet), or several, as ``metadata.parquet`` of BigEarthNet v2.
            verification: As for ``PatchReader``, like all that follow; names a manifest for a single database only.
            limits: See there.
            classes: See there.
            **keywords: See there.

        Raises:
            ValueError: An argument is not one of the admitted, a patch is in two databases or, though in the split, in
                none, or a file could mean several things; or as ``Verification``.
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
            raise ValueError("the table is for a split by its name, for exclude=, or for labels_from='table'")
        rows = None if table is None else read_rows(table, by_table)
        self.names: Names = find_names(self.readers, split, exclude, rows)
        self._label_column = None if rows is None or not by_table else LabelColumn(rows, self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        """Read one patch, or a batch.

        Args:
            index: Place of a patch among ``names``; or for a batch a slice, or a list, array or tensor of places or of
                one bool a patch.

        Returns:
            The patch's array, float32 (bands, size, size), or with ``size=None`` a dict of such arrays by resolution in
            metres; and its labels beside it unless they are None. With ``sample="dict"`` a dict of these and the name.

        Raises:
            IndexError: There is no such place, or a mask has another length.
            TypeError: The index is a single bool, or no index.
            BenSecureError: As ``batch``.
        """
        places = selected(index, len(self))
        if places is not None:
            return self.batch(places)
        natives, arrays = self._outputs(())
        masks = self._mask_outputs(1)
        with np.errstate(**_QUIET):
            place = place_of(index, len(self))
            labels = self._read(place, arrays, None if masks is None else masks[0])
        if labels is not None and not isinstance(labels, tuple):
            labels = self._native(labels)
        image = self._bundle(natives)
        if self.transform is None and self.sample == "tuple":
            return image if labels is None else (image, labels)
        labels = None if labels is None else [labels]
        masks = None if masks is None else self._native(masks)
        return Samples(self, image, [image], labels, [self.names[place]], masks)[0]

    def batch(self, indices: Iterable[int]) -> Any:
        """Read several patches straight into one new array.

        Args:
            indices: Places of patches among ``names``; a mask is for ``[]`` alone.

        Returns:
            As for one patch, with one axis more in front; labels that are names are a list of tuples, and names a list.

        Raises:
            IndexError: There is no such place.
            TypeError: An index is a bool, or no index.
            TagMismatchError: A ``mac_key`` was given, and a value is not the one that was tagged.
            ManifestMismatchError: A ``verify_key`` was given, and a value is not the one that was signed.
            UntrustedDataError: A value is not a patch, lacks a band or labels that are asked for, or asks for what no
                honest patch needs.
            StoreError: A database is damaged or truncated.
        """
        return self.samples(indices).whole()

    def samples(self, indices: Iterable[int]) -> Samples:
        """Read several patches as ``batch`` does, before any transform: that runs when a sample is asked for."""
        rows = places_of(indices, len(self))
        natives, arrays = self._outputs((len(rows),))
        masks = self._mask_outputs(len(rows))
        labels = self._fill(arrays, rows, masks)
        if labels is not None and not isinstance(labels, list):
            labels = self._native(labels)
        masks = None if masks is None else self._native(masks)
        each = [self._bundle(parts) for parts in zip(*natives, strict=True)]
        names = [self.names[row] for row in rows] if self.sample == "dict" else []
        return Samples(self, self._bundle(natives), each, labels, names, masks)

    def fill(self, outputs: Sequence[Array], indices: Iterable[int]) -> Any:
        """Read several patches into arrays that are there already, without ``transform``.

        Args:
            outputs: float32 arrays (n, bands, size, size): one, or with ``size=None`` one a resolution, ascending;
                with ``dtype="native"`` those of uint16, and that of Sentinel-1 last.
            indices: n places of patches among ``names``.

        Returns:
            The labels as ``batch`` returns them, as a numpy array if they are vectors; None if there are to be none.

        Raises:
            ValueError: The arrays are not of this number, shape or dtype.
            BenSecureError: As ``batch``.
        """
        rows = places_of(indices, len(self))
        shapes = [(len(rows), *shape) for shape in self._pixels.shapes]
        wanted = list(zip(shapes, self._pixels.dtypes, strict=True))
        if [(array.shape, array.dtype) for array in outputs] != wanted:
            raise ValueError("expected to fill " + ", ".join(f"{dtype} {shape}" for shape, dtype in wanted))
        return self._fill(outputs, rows)

    def _fill(self, outputs: Sequence[Array], rows: Sequence[int], masks: Mask | None = None) -> Any:
        parts = zip(rows, zip(*outputs, strict=True), [None] * len(rows) if masks is None else masks, strict=True)
        with np.errstate(**_QUIET):
            found = [self._read(row, images, mask) for row, images, mask in parts]
        return self._labels.together(found)

    def _read(self, row: int, outputs: Sequence[Array], mask: Mask | None) -> Any:
        """Read one patch into arrays, and its mask into another; returns its labels."""
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
                error.message += f"; to go on without this patch, pass exclude=[{printable(name)!r}]"
                if patch is None:
                    error.message += " or use what ben-secure convert --skip-refused makes of the database"
            error.located(path_of(reader), name.encode())
            raise

    def _outputs(self, leading: tuple[int, ...]) -> tuple[list[Any], list[Array]]:
        """New arrays for what is read: as they are given out, and the same memory for numpy."""
        return self._allocate([(*leading, *shape) for shape in self._pixels.shapes], self._pixels.dtypes)

    def _mask_outputs(self, patches: int) -> Mask | None:
        """A new array for masks, if there are to be any."""
        return None if self._masks is None else np.empty((patches, self._masks.side, self._masks.side), np.int64)

    def _bundle(self, natives: Sequence[Any]) -> Any:
        """One array as it is, several as a dict by resolution."""
        keys = self._pixels.keys
        return dict(zip(keys, natives, strict=True)) if keys else natives[0]

    # What torch does in another way.

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
    """Open the databases that are not open yet."""
    if isinstance(databases, str | os.PathLike | PatchReader | PairedReader):
        databases = [databases]
    places: list[Path | Reader] = list(databases)
    if not places:
        raise ValueError("name at least one database")
    if verification is not None:
        verification.check_databases(len(places))
    opened = any(isinstance(place, PatchReader | PairedReader) for place in places)
    if opened and (verification, limits, classes) != (None, DEFAULT_LIMITS, ()):
        raise ValueError("an open reader has its own verification, limits and classes; pass them to it")
    return tuple(
        place
        if isinstance(place, PatchReader | PairedReader)
        else PatchReader(place, verification=verification, limits=limits, classes=classes)
        for place in places
    )
