"""Exact sums and fine histograms of numbers, which can be taken apart and merged in any order.

Everything kept here is an integer (or a minimum or maximum), so adding is associative and commutative without any
rounding: how a database was cut into parts, and which part was done first, cannot be seen in the result. Rounding
happens once, when a mean or a deviation is asked for. It reads arrays and never changes them.

A float is split as mantissa * 2**exponent. Mantissas are cut into limbs of 18 bits and summed by exponent in float64,
where a sum of 2**16 products of two limbs stays below 2**53 and is therefore exact.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_LIMB = 18
_BLOCK = 2**16
_MANTISSA_BITS = {2: 11, 4: 24, 8: 53}  # IEEE 754 binary16, binary32, binary64, by itemsize
# The smallest float64, 2**-1074, is 2**52 * 2**-1126 when its mantissa is written with 53 bits.
_UNIT = 1126
_CODE_BITS = 7  # of the mantissa: a histogram bin is at most 1/128 of its numbers wide


class Counts:
    """How often each integer was seen, kept as one run of counters.

    Attributes:
        first: The integer that the first counter is for.
        counters: int64, one for each integer from ``first`` on; empty if none was seen.
    """

    __slots__ = ("counters", "first")

    def __init__(self) -> None:
        self.first = 0
        self.counters: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, first: int, counters: npt.NDArray[np.int64]) -> None:
        """Add counters for the integers from ``first`` on."""
        if not len(self.counters):
            self.first, self.counters = first, counters.astype(np.int64)
            return
        if not len(counters):
            return
        low = min(first, self.first)
        high = max(first + len(counters), self.first + len(self.counters))
        if (low, high) != (self.first, self.first + len(self.counters)):
            grown = np.zeros(high - low, np.int64)
            grown[self.first - low :][: len(self.counters)] = self.counters
            self.first, self.counters = low, grown
        self.counters[first - low :][: len(counters)] += counters

    def items(self) -> list[tuple[int, int]]:
        """The integers that were seen, ascending, and how often."""
        places = np.flatnonzero(self.counters)
        return list(zip((places + self.first).tolist(), self.counters[places].tolist(), strict=True))


class Sums:
    """Count, sums, extremes and fine histogram of numbers.

    Attributes:
        count: Finite numbers.
        nan: NaN.
        positive_infinite: +inf.
        negative_infinite: -inf.
        integers: How often each integer of a dtype of at most 16 bits was seen.
        codes: How often each bin of all others was seen (see ``code_of``).
        minimum: Smallest finite number, if there is one.
        maximum: Largest finite number, if there is one.
    """

    def __init__(self) -> None:
        self.count = self.nan = self.positive_infinite = self.negative_infinite = 0
        self.integers, self.codes = Counts(), Counts()
        self.minimum: int | float | None = None
        self.maximum: int | float | None = None
        # Of all but the small integers, whose counters tell: sums in units of 2**-_UNIT and its square.
        self._sum = self._squares = 0

    def add(self, array: npt.NDArray[Any]) -> None:
        """Add the numbers of an array.

        Args:
            array: Integers or floats of any size and shape.

        Raises:
            TypeError: Its numbers are neither, such as complex ones.
        """
        flat = array.ravel()
        if flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2:
            self._add_small(flat)
        elif flat.dtype.kind in "iu":
            self._add_integers(flat)
        elif flat.dtype.kind == "f" and flat.dtype.itemsize in _MANTISSA_BITS:
            for start in range(0, len(flat), _BLOCK):
                self._add_floats(flat[start : start + _BLOCK])
        else:
            raise TypeError(f"numbers of dtype {flat.dtype} have no order and no deviation")

    def _add_small(self, flat: npt.NDArray[Any]) -> None:
        if not len(flat):
            return
        low, high = int(flat.min()), int(flat.max())
        first = min(low, 0)  # counted from zero, a band needs no copy
        counted = np.bincount(flat if first == 0 else flat.astype(np.int64) - first)
        self.integers.add(low, counted[low - first :])
        self.count += len(flat)
        self._widen(low, high)

    def _add_integers(self, flat: npt.NDArray[Any]) -> None:
        numbers = flat.tolist()  # Python's integers do not overflow; dtypes like these are rare
        if not numbers:
            return
        self.count += len(numbers)
        self._sum += sum(numbers) << _UNIT
        self._squares += sum(number * number for number in numbers) << 2 * _UNIT
        self._widen(min(numbers), max(numbers))
        self._add_codes(flat.astype(np.float64))

    def _add_floats(self, block: npt.NDArray[Any]) -> None:
        bits = _MANTISSA_BITS[block.dtype.itemsize]
        with np.errstate(invalid="ignore"):  # a signalling NaN is only a NaN
            numbers = block.astype(np.float64)
        finite = np.isfinite(numbers)
        if not finite.all():
            self.nan += int(np.isnan(numbers).sum())
            self.positive_infinite += int((numbers == np.inf).sum())
            self.negative_infinite += int((numbers == -np.inf).sum())
            numbers = numbers[finite]
        if not len(numbers):
            return
        self.count += len(numbers)
        # The sum with 0.0 makes -0.0 positive: which of the two a minimum is would depend on the order.
        self._widen(float(numbers.min()) + 0.0, float(numbers.max()) + 0.0)
        self._add_codes(numbers)
        fractions, exponents = np.frexp(numbers)
        lowest = int(exponents.min())
        places = (exponents - lowest).astype(np.intp)  # as bincount wants it, once
        mantissas = np.ldexp(np.abs(fractions), bits).astype(np.int64)
        signs = np.sign(numbers)
        limbs = [((mantissas >> shift) & (2**_LIMB - 1)).astype(np.float64) for shift in range(0, bits, _LIMB)]
        unit = lowest - bits + _UNIT
        for i, limb in enumerate(limbs):
            self._sum += _total(places, limb * signs) << (unit + i * _LIMB)
            for j in range(i, len(limbs)):
                doubled = 1 if i == j else 2
                self._squares += doubled * _total(places, limb * limbs[j], step=2) << (2 * unit + (i + j) * _LIMB)

    def _add_codes(self, numbers: npt.NDArray[np.float64]) -> None:
        codes = code_of(numbers)
        # By sign: around zero lie most codes and few numbers, and counters for them all would be megabytes an array.
        for part in (codes[codes < 0], codes[codes == 0], codes[codes > 0]):
            if len(part):
                first = int(part.min())
                self.codes.add(first, np.bincount(part - first))

    def _widen(self, low: float, high: float) -> None:
        self.minimum = low if self.minimum is None else min(self.minimum, low)
        self.maximum = high if self.maximum is None else max(self.maximum, high)

    def merge(self, other: Sums) -> None:
        """Add what another has seen."""
        self.count += other.count
        self.nan += other.nan
        self.positive_infinite += other.positive_infinite
        self.negative_infinite += other.negative_infinite
        self.integers.add(other.integers.first, other.integers.counters)
        self.codes.add(other.codes.first, other.codes.counters)
        self._sum += other._sum
        self._squares += other._squares
        if other.minimum is not None and other.maximum is not None:
            self._widen(other.minimum, other.maximum)

    def _moments(self) -> tuple[Fraction, Fraction]:
        """Exact sum, and exact sum of squares, of all finite numbers."""
        seen = self.integers.items()
        small, small_squares = sum(n * times for n, times in seen), sum(n * n * times for n, times in seen)
        return (
            Fraction(self._sum, 1 << _UNIT) + small,
            Fraction(self._squares, 1 << 2 * _UNIT) + small_squares,
        )

    def mean_and_deviation(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the finite numbers, each the exact one rounded to float64.

        Returns:
            Mean, and deviation of the population (divided by n, as ``numpy.std`` does); None if there is no number.
        """
        if not self.count:
            return None
        total, squares = self._moments()
        mean = total / self.count
        return float(mean), _root(squares / self.count - mean * mean)

    def fine_bins(self) -> list[tuple[float, float, int]]:
        """The histogram as it is kept.

        Returns:
            Bins in ascending order as (left edge, right edge, count), the left one belonging to the bin, empty bins
            left out. Where all numbers are small integers, a bin is one integer; otherwise at most 1/128 of its numbers
            wide.
        """
        if not len(self.codes.counters):
            return [(number, number + 1, times) for number, times in self.integers.items()]
        merged = dict(self.codes.items())
        for number, times in self.integers.items():
            code = int(code_of(np.array([number], np.float64))[0])
            merged[code] = merged.get(code, 0) + times
        return [(edge_of(code), edge_of(code + 1), merged[code]) for code in sorted(merged)]


def _total(places: npt.NDArray[Any], weights: npt.NDArray[np.float64], step: int = 1) -> int:
    """Sum of weights, each times 2**(step * place); exact."""
    sums = np.bincount(places, weights)
    return sum(int(sums[place]) << step * place for place in np.flatnonzero(sums).tolist())


def _root(square: Fraction) -> float:
    """Square root, rounded to float64 from at least 64 correct bits; also where the square is beyond float64."""
    shift = max(0, 66 - (square.numerator.bit_length() - square.denominator.bit_length()) // 2)
    return float(Fraction(math.isqrt((square.numerator << 2 * shift) // square.denominator), 1 << shift))


def code_of(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Find the histogram bins of floats: sign, exponent and the first 7 bits of the mantissa, as one integer.

    Law: x <= y implies code_of(x) <= code_of(y), and edge_of(code) <= x < edge_of(code + 1) for the code of x.

    Args:
        numbers: Finite float64.

    Returns:
        int64, same shape. Code 0 begins at zero; the codes below are of negative numbers.
    """
    magnitude = np.abs(numbers).view(np.int64)
    shift = 52 - _CODE_BITS
    # Towards minus infinity also below zero, so that every bin is closed on its left.
    return np.where(numbers < 0, -((magnitude + (1 << shift) - 1) >> shift), magnitude >> shift)


def edge_of(code: int) -> float:
    """The left edge of a histogram bin; the largest float64 for one beyond all numbers."""
    bits = np.int64(min(abs(code), 2047 << _CODE_BITS)) << np.int64(52 - _CODE_BITS)
    edge = float(np.array(bits).view(np.float64))
    return math.copysign(min(edge, np.finfo(np.float64).max.item()), code) if code else 0.0
