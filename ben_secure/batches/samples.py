"""The samples of a batch that was read in one step, with transforms.

Reading draws no random numbers, so it may run in another thread. A transform may draw some, so transforms run when the
first sample is used, in the thread that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

SAMPLES = ("tuple", "dict")
"""The forms of a sample: a tuple of image and labels, or a dict of both and the patch's name."""


class Maker(Protocol):
    """The dataset of a batch, as far as samples need it."""

    sample: str

    transform: Callable[[Any], Any] | None

    def _memory(self, array: Any) -> Any: ...

    def _join(self, arrays: list[Any]) -> Any: ...


class Samples(Sequence[Any]):
    """The samples of one batch, each transformed once. ``whole`` returns the batch as arrays."""

    def __init__(
        self, maker: Maker, images: Any, each: list[Any], labels: Any, names: list[str], masks: Any = None
    ) -> None:
        """Store what was read.

        Args:
            maker: The dataset, for its transform and its form of samples.
            images: The batch's array, or its arrays by resolution.
            each: Views of ``images``, one for each patch.
            labels: Labels of the patches in order, or None.
            names: Names of the patches.
            masks: Masks of the patches, with a first axis for the batch, or None.
        """
        self._maker = maker
        self._whole, self._each, self._labels = images, each, labels
        if maker.sample == "dict":
            self._whole = _named(images, labels, names, masks)
            nothing = [None] * len(each)
            samples = zip(
                each,
                labels if labels is not None else nothing,
                names,
                masks if masks is not None else nothing,
                strict=True,
            )
            self._each = [_named(*sample) for sample in samples]
            self._labels = None
        self._transformed = self._in_place = maker.transform is None

    def whole(self) -> Any:
        """The batch, in the form of a sample."""
        self._transform()
        whole = self._whole if self._in_place or not self._each else stack(self._each, self._maker._join)
        return whole if self._labels is None else (whole, self._labels)

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, index: Any) -> Any:
        self._transform()
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return self._each[index] if self._labels is None else (self._each[index], self._labels[index])

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    def _transform(self) -> None:
        """Apply the transform. If it only changes samples in place, the batch's arrays are kept."""
        transform = self._maker.transform
        if self._transformed or transform is None:
            return
        self._transformed = True
        before = [self._leaves(sample) for sample in self._each]
        self._each = [transform(sample) for sample in self._each]
        self._in_place = [self._leaves(sample) for sample in self._each] == before

    def _leaves(self, value: Any) -> list[Any]:
        """Identity and memory of each array of a sample, to notice arrays that a transform replaced or transposed."""
        if isinstance(value, dict):
            return [(name, self._leaves(item)) for name, item in value.items()]
        return [id(value), self._maker._memory(value)]


def _named(image: Any, labels: Any, name: Any, mask: Any) -> dict[str, Any]:
    optional = {"label": labels, "mask": mask}
    return {"image": image, **{key: value for key, value in optional.items() if value is not None}, "name": name}


def stack(samples: list[Any], join: Callable[[list[Any]], Any]) -> Any:
    """Combine samples: dicts and tuples element by element, names in a list, all else with ``join``.

    Args:
        samples: Samples of one form, at least one.
        join: Makes one array from several.

    Returns:
        The same form, each array with an additional first axis.
    """
    first = samples[0]
    if isinstance(first, dict):
        return {name: stack([sample[name] for sample in samples], join) for name in first}
    if isinstance(first, str) or (isinstance(first, tuple) and all(isinstance(part, str) for part in first)):
        return samples
    if type(first) is tuple:
        return tuple(stack(list(parts), join) for parts in zip(*samples, strict=True))
    return join(samples)
