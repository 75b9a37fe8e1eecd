"""Exact sums and fine histograms of numbers. They do not depend on the order or the division of the numbers.

Only integers, minima and maxima are kept, so additions are exact. Means and standard deviations are rounded once, when
they are computed. Arrays are read and never changed.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_DIGIT = 19  # bits
_BLOCK = 2**15  # numbers added at a time: the sum of this many products of two digits is below 2**53
_UNIT = 1074 + _DIGIT  # the smallest float64 is 2**-1074 (IEEE 754), and its last digit may end below that
_CODE_SHIFT = 52 - 7  # bits of the mantissa that are not in a code; the width of a bin is at most 1/128 of its numbers


class Counts:
    """The frequency of each integer, as a run of counters from the first integer to the last.

    Attributes:
        first: The integer of the first counter.
        counters: int64. Empty if no integer was counted.
    """

    def __init__(self) -> None:
        self.first = 0
        self.counters: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, integers: npt.NDArray[Any], first: int) -> None:
        """Count integers that fit in int64 and are at least ``first``, with counters from ``first`` on."""
        self.merge(first, np.bincount(integers.astype(np.int64) - first if first else integers))

    def merge(self, first: int, counters: npt.NDArray[np.int64]) -> None:
        """Add counters for the integers from ``first`` on."""
        if not len(counters):
            return
        if not len(self.counters):
            self.first = first
        below = max(0, self.first - first)
        above = max(0, first + len(counters) - self.first - len(self.counters))
        if below or above:
            self.first -= below
            self.counters = np.concatenate([np.zeros(below, np.int64), self.counters, np.zeros(above, np.int64)])
        self.counters[first - self.first :][: len(counters)] += counters

    def items(self) -> list[tuple[int, int]]:
        """Return the counted integers, ascending, and their frequencies."""
        nonzero = np.flatnonzero(self.counters)
        return list(zip((nonzero + self.first).tolist(), self.counters[nonzero].tolist(), strict=True))


class Sums:
    """Sums, extremes and fine histogram of numbers, in at most 5 MB.

    Attributes:
        integers: Frequency of each integer of a dtype of at most 16 bits.
        codes: Frequency of each bin (see ``code_of``) of other finite numbers: below zero, at zero, above zero. One run
            of counters for all three would be megabytes of zeros.
        odd: Number of ``nan``, ``positive_infinite`` and ``negative_infinite``.
    """

    def __init__(self) -> None:
        self.integers, self.codes = Counts(), (Counts(), Counts(), Counts())
        self.odd: Counter[str] = Counter()
        # For the numbers that have codes. The units of the sums are 2**-_UNIT and its square.
        self._low, self._high, self._sum, self._squares = math.inf, -math.inf, 0, 0

    def add(self, array: npt.NDArray[Any]) -> None:
        """Add the numbers of an array.

        Args:
            array: Integers or floats of at most 64 bits, of any size and shape.

        Raises:
            TypeError: The array has another dtype, such as complex numbers.
        """
        kind, flat = array.dtype.kind, array.ravel()
        if kind not in "iuf" or array.dtype.itemsize > 8:
            raise TypeError(f"numbers of dtype {array.dtype} have no order and no deviation")
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            if kind == "f":
                self._add_floats(block)
            elif array.dtype.itemsize <= 2:
                self.integers.add(block, min(0, int(block.min())))  # from zero: bands need no subtraction
            else:
                exact = block.astype(object)  # Python's integers do not overflow; dtypes like these are rare
                self._add_coded(block.astype(np.float64), exact.sum() << _UNIT, exact.dot(exact) << 2 * _UNIT)

    def _add_floats(self, block: npt.NDArray[Any]) -> None:
        with np.errstate(invalid="ignore"):  # a signalling NaN is only a NaN
            numbers = block.astype(np.float64)
        finite = np.isfinite(numbers)
        if not finite.all():
            self.odd["nan"] += int(np.isnan(numbers).sum())
            self.odd["positive_infinite"] += int(np.isposinf(numbers).sum())
            self.odd["negative_infinite"] += int(np.isneginf(numbers).sum())
            numbers = numbers[finite]
        self._add_coded(numbers, *_moments(numbers))

    def _add_coded(self, numbers: npt.NDArray[np.float64], total: int, squares: int) -> None:
        self._sum += total
        self._squares += squares
        codes = code_of(numbers)
        for counts, part in zip(self.codes, (codes[codes < 0], codes[codes == 0], codes[codes > 0]), strict=True):
            if len(part):
                counts.add(part, int(part.min()))
        # Adding 0.0 makes -0.0 positive. Otherwise the minimum of the two would depend on the order.
        self._low = min(self._low, float(numbers.min(initial=math.inf)) + 0.0)
        self._high = max(self._high, float(numbers.max(initial=-math.inf)) + 0.0)

    def merge(self, other: Sums) -> None:
        """Add the numbers of another one."""
        for mine, counts in zip((self.integers, *self.codes), (other.integers, *other.codes), strict=True):
            mine.merge(counts.first, counts.counters)
        self.odd.update(other.odd)
        self._low, self._high = min(self._low, other._low), max(self._high, other._high)
        self._sum += other._sum
        self._squares += other._squares

    @property
    def count(self) -> int:
        """Number of finite numbers."""
        return sum(int(counts.counters.sum()) for counts in (self.integers, *self.codes))

    def extremes(self) -> tuple[float, float] | None:
        """Return minimum and maximum of the finite numbers (ints if all dtypes had at most 16 bits), or None."""
        seen = self.integers.items()
        numbers: list[float] = [seen[0][0], seen[-1][0]] if seen else []
        if self._low <= self._high:
            numbers = [*map(float, numbers), self._low, self._high]
        return (min(numbers), max(numbers)) if numbers else None

    def mean_and_deviation(self) -> tuple[float, float] | None:
        """Return mean and standard deviation of the finite numbers, each exact before it is rounded to float64.

        Returns:
            Mean, and standard deviation of the population (divided by n, as in ``numpy.std``), or None without numbers.
        """
        n, seen = self.count, self.integers.items()
        if not n:
            return None
        total = self._sum + (sum(number * times for number, times in seen) << _UNIT)
        squares = self._squares + (sum(number**2 * times for number, times in seen) << 2 * _UNIT)
        root = math.isqrt(n * squares - total**2)  # of the variance, times n
        return float(Fraction(total, n << _UNIT)), float(Fraction(root, n << _UNIT))

    def fine_bins(self) -> list[tuple[float, int]]:
        """Return the fine histogram: left edges (see ``edge_of``; small integers are their own edges) and counts."""
        coded = [(edge_of(code), times) for counts in self.codes for code, times in counts.items()]
        return [*self.integers.items(), *coded]


def _moments(numbers: npt.NDArray[np.float64]) -> tuple[int, int]:
    """Sum numbers and their squares, exactly.

    The largest numbers are split into digits of 19 bits (integers, as float64) until the rest is zero, and then the
    next largest. Sums of digits, and of products of two digits, are integers below 2**53, so they are exact.

    Args:
        numbers: Finite, at most ``_BLOCK``.

    Returns:
        Sum in units of 2**-_UNIT, and sum of squares in units of 2**(-2 * _UNIT).
    """
    total = squares = 0
    numbers = numbers[numbers != 0]
    while len(numbers):
        sizes = np.abs(numbers)
        exponent = math.frexp(sizes.max())[1]
        near = sizes >= math.ldexp(1.0, exponent - 53)  # so that there are at most 6 digits
        rest, numbers = np.ldexp(numbers[near], -exponent), numbers[~near]
        digits: list[npt.NDArray[np.float64]] = []
        while rest.any():
            rest = rest * 2.0**_DIGIT
            digits.append(np.trunc(rest))
            rest -= digits[-1]
        unit = _UNIT + exponent
        for i, digit in enumerate(digits, 1):
            total += int(digit.sum()) << unit - _DIGIT * i
            for j, other in enumerate(digits[:i], 1):
                squares += int((digit * other).sum()) << 2 * unit - _DIGIT * (i + j) + (i != j)  # twice if they differ
    return total, squares


def code_of(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the histogram bins of floats: sign, exponent and the first 7 bits of the mantissa, as one integer.

    Law: x <= y implies code_of(x) <= code_of(y), and edge_of(code) <= x < edge_of(code + 1) for the code of x.

    Args:
        numbers: Finite float64.

    Returns:
        int64, same shape. Code 0 begins at zero. Negative numbers have negative codes.
    """
    magnitude = np.abs(numbers).view(np.int64)
    # Rounded towards minus infinity also below zero, so every bin includes its left edge.
    return np.where(numbers < 0, -((magnitude + (1 << _CODE_SHIFT) - 1) >> _CODE_SHIFT), magnitude >> _CODE_SHIFT)


def edge_of(code: int) -> float:
    """Return the left edge of a histogram bin; the largest float64 for a bin beyond all numbers."""
    edge = float(np.int64(abs(code) << _CODE_SHIFT).view(np.float64))
    return math.copysign(min(edge, sys.float_info.max), code)
