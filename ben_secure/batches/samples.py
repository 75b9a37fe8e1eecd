"""A batch that was read as one, as samples: what a transform gets, and what it leaves.

Reading draws no random numbers and may happen in another thread; transforms may draw some, so they run when the first
sample is asked for, in the thread of whoever asks. Nothing here reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

SAMPLES = ("tuple", "dict")
"""The forms that a sample comes in: an image with its labels beside it, or a dict of both and the patch's name."""


class Maker(Protocol):
    """The dataset that a batch comes from, as far as samples need it."""

    sample: str

    transform: Callable[[Any], Any] | None

    def _memory(self, array: Any) -> Any: ...

    def _join(self, arrays: list[Any]) -> Any: ...


class Samples(Sequence[Any]):
    """The samples of one batch, each transformed once; ``whole`` has them in arrays with a batch axis in front."""

    def __init__(
        self, maker: Maker, images: Any, each: list[Any], labels: Any, names: list[str], masks: Any = None
    ) -> None:
        """Take what was read.

        Args:
            maker: The dataset, for its transform and the form of its samples.
            images: The batch's array, or its arrays by resolution.
            each: Views of them, patch by patch.
            labels: Labels of the patches in order; None if there are to be none.
            names: Names of the patches.
            masks: Their masks, with a batch axis in front; None if there are to be none.
        """
        self._maker = maker
        self._whole, self._each, self._labels = images, each, labels
        if maker.sample == "dict":
            self._whole = _named(images, labels, names, masks)
            nothing = [None] * len(each)
            parts = zip(
                each,
                labels if labels is not None else nothing,
                names,
                masks if masks is not None else nothing,
                strict=True,
            )
            self._each = [_named(*part) for part in parts]
            self._labels = None
        self._transformed = self._in_place = maker.transform is None

    def whole(self) -> Any:
        """All samples in one, of the form of a sample."""
        self._transform()
        whole = self._whole if self._in_place or not self._each else stack(self._each, self._maker._join)
        return whole if self._labels is None else (whole, self._labels)

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, index: Any) -> Any:
        self._transform()
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self._each[index] if self._labels is None else (self._each[index], self._labels[index])

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)

    def _transform(self) -> None:
        """Apply the transform; what it changes in place stays in the batch's arrays."""
        transform = self._maker.transform
        if self._transformed or transform is None:
            return
        self._transformed = True
        before = [self._leaves(part) for part in self._each]
        self._each = [transform(part) for part in self._each]
        self._in_place = [self._leaves(part) for part in self._each] == before

    def _leaves(self, value: Any) -> list[Any]:
        """Identity and memory of each array of a sample: a transform may put others in their place, or turn them."""
        if isinstance(value, dict):
            return [(name, self._leaves(part)) for name, part in value.items()]
        return [id(value), self._maker._memory(value)]


def _named(image: Any, labels: Any, name: Any, mask: Any) -> dict[str, Any]:
    optional = {"label": labels, "mask": mask}
    return {"image": image, **{key: value for key, value in optional.items() if value is not None}, "name": name}


def stack(samples: list[Any], join: Callable[[list[Any]], Any]) -> Any:
    """Put samples together: dicts and tuples part by part, names as a list, all else by ``join``.

    Args:
        samples: Of one form, at least one.
        join: Makes one array of several.

    Returns:
        Of the same form, each array with an axis more in front.
    """
    first = samples[0]
    if isinstance(first, dict):
        return {name: stack([sample[name] for sample in samples], join) for name in first}
    if isinstance(first, str) or (isinstance(first, tuple) and all(isinstance(part, str) for part in first)):
        return samples
    if type(first) is tuple:
        return tuple(stack(list(parts), join) for parts in zip(*samples, strict=True))
    return join(samples)
