"""Pillow's bilinear enlargement followed by its box reduction, byte for byte, without the enlarged image between the two.

Restates Pillow 13's libImaging/Resample.c (`precompute_coeffs`, the 8 bit passes) and Reduce.c (`ImagingReduceNxN`,
`ImagingReduceCorners`). A text line of 816x20 pixels is enlarged to 36556x896 before it is made smaller: here the vertical
pass and the reduction are one table look-up for each enlarged column and pair of neighbouring source rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_BITS = 22
"""PRECISION_BITS of Resample.c: weights are fixed-point numbers, 1 << 22 is one."""
_ONE = 1 << _BITS
_HALF = 1 << (_BITS - 1)
_DIFFERENCES = np.arange(-255, 256, dtype=np.int32)
"""What the value above can be more than the one below."""
_PAIRS, _ROWS, _VALUES = 48, 1024, 1 << 15
"""Source rows and enlarged rows of a stripe, values of a band: what stays in a core's cache, and bounds the memory."""


class Taps(NamedTuple):
    """How enlarged pixels come from two neighbouring source pixels (n each)."""

    first: NDArray[np.intp]
    """The first of the two."""
    weight: NDArray[np.int32]
    """Of the first."""
    excess: NDArray[np.int32]
    """The two weights' sum less one: each is rounded by itself."""


def taps(source: int, target: int, start: int, stop: int) -> Taps:
    """Weights of the enlarged pixels start..stop of an axis of `source` pixels that becomes `target` >= `source` long.

    The order of the operations is that of `precompute_coeffs`, so that every double is the same.
    """
    centre = (np.arange(start, stop) + 0.5) * (source / target)
    first = np.maximum((centre - 1.0 + 0.5).astype(np.intp), 0)
    two = np.minimum((centre + 1.0 + 0.5).astype(np.intp), source) - first > 1
    near = np.maximum(1.0 - np.abs(first - centre + 0.5), 0.0)
    far = np.where(two, np.maximum(1.0 - np.abs(first + 1 - centre + 0.5), 0.0), 0.0)
    both = near + far
    weight = (0.5 + near / both * _ONE).astype(np.int32)
    excess = weight + (0.5 + far / both * _ONE).astype(np.int32) - np.int32(_ONE)
    # The last pixel has no second one to go with: it becomes the second of the last two.
    last = first > max(source - 2, 0)
    weight[last], first[last] = 0, source - 2
    return Taps(first, weight, excess)


def enlarge_and_reduce(
    image: NDArray[np.uint8], enlarged: tuple[int, int], factors: tuple[int, int]
) -> NDArray[np.uint8]:
    """What `Image.resize(enlarged, BILINEAR)` and `Image.reduce(factors)` give. All sizes are (height, width).

    image: h x w x channels, no axis longer than the enlarged one; gives ceil(height / factor) x ceil(width / factor) x channels.
    """
    height, width, channels = image.shape
    rows, columns = enlarged
    down, across = factors
    # Two equal pixels give what one alone does, and everything below may count on a pair.
    image = np.repeat(image, 2, axis=0) if height == 1 else image
    image = np.repeat(image, 2, axis=1) if width == 1 else image
    reduced = np.empty((-(-rows // down), -(-columns // across), channels), np.uint8)
    step = max(1, min(_PAIRS * rows // height, _ROWS) // down)
    for top in range(0, len(reduced), step):
        bottom = min(top + step, len(reduced))
        vertical = taps(height, rows, top * down, min(bottom * down, rows))
        stripe = _Stripe(image[vertical.first[0] : vertical.first[-1] + 2], vertical, down, across)
        for left, right, start, stop in _bands(columns, across, stripe.values):
            horizontal = taps(width, columns, start, stop)
            reduced[top:bottom, left:right] = stripe.reduced(horizontal, right - left)
    return reduced


def _bands(columns: int, across: int, values: int) -> Iterator[tuple[int, int, int, int]]:
    """Bands of equally wide blocks: first and last block, first and last enlarged column, each last one exclusive."""
    full = columns // across
    step = max(1, _VALUES // (values * across))
    for left in range(0, full, step):
        right = min(left + step, full)
        yield left, right, left * across, right * across
    if columns % across:
        yield full, full + 1, full * across, columns


def _rounded(sums: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Means of blocks as Reduce.c has them: sums (blocks x ...) over `sizes` pixels; the multiplier is a float's quotient."""
    sizes = sizes.reshape(-1, *[1] * (sums.ndim - 1))
    multiplier = (np.float32(1 << 32) / (sizes << 8).astype(np.float32)).astype(np.uint32)
    return (((sums + sizes // 2).astype(np.uint32) * multiplier) >> np.uint32(24)).astype(np.uint8)


def _groups(numbers: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Where each number is, from 0 to the largest."""
    return [np.flatnonzero(numbers == number) for number in range(int(numbers.max()) + 1)]


def _turns(
    pair: NDArray[np.intp], block: NDArray[np.intp], counts: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
    """Parts in which no two have the same block, so that they are added to their blocks at once. Blocks are sorted."""
    for here in _groups(np.arange(len(block)) - np.searchsorted(block, block)):
        yield pair[here], block[here], counts[here]


class _Stripe:
    """Some source rows and the blocks' rows that come from them.

    An enlarged pixel is `below + ((above - below) * weight + half >> 22)`. Of the enlarged rows that lie between the same two
    source rows and in the same block, the sum of the second term depends on the difference only: a table of 511 sums. A
    pair of rows has one for each block that it reaches into (its slots), as many as fit packed into one 64 bit number.
    """

    def __init__(self, image: NDArray[np.uint8], vertical: Taps, down: int, across: int) -> None:
        sources, width, self._channels = image.shape
        self._pairs = sources - 1
        self.values = sources * self._channels
        """Values of an enlarged column."""
        columns = image.transpose(1, 0, 2).astype(np.int32).reshape(width, self.values)
        self._second, self._change = columns[1:], columns[:-1] - columns[1:]
        self._vertical = vertical
        self._block = np.arange(len(vertical.first)) // down
        self._heights = np.bincount(self._block)
        pair = vertical.first - vertical.first[0]
        starts = np.flatnonzero(np.diff(pair, prepend=-1) | np.diff(self._block, prepend=-1))
        counts = np.diff(starts, append=len(pair))
        pair, block = pair[starts], self._block[starts]
        slot = np.arange(len(starts)) - np.searchsorted(pair, pair)
        self._turns = [list(_turns(pair[here], block[here], counts[here])) for here in _groups(slot)]
        self._bits = (across * down * 510).bit_length()
        self._fields = 63 // self._bits
        # One pair more: a column's last row is followed by the next column's first one.
        self._tables = np.zeros((-(-len(self._turns) // self._fields), sources, 511), np.int64)
        sums = self._sums(starts + counts) + 255 * counts[:, None]
        for field in range(self._fields):
            here = slot % self._fields == field
            self._tables[slot[here] // self._fields, pair[here]] += sums[here] << (self._bits * field)
        self._offsets = np.repeat(np.arange(sources) * 511 + 255, self._channels)

    def _sums(self, stops: NDArray[np.intp]) -> NDArray[np.int64]:
        """Sums of the second term over the enlarged rows up to each stop, from the one before: stops x differences."""
        terms = _DIFFERENCES[:, None] * self._vertical.weight
        terms += _HALF
        terms >>= _BITS
        self._uneven = np.flatnonzero(self._vertical.excess)
        terms[:, self._uneven] = 0
        return np.diff(terms.cumsum(axis=1, dtype=np.int32)[:, stops - 1], axis=1, prepend=0).T.astype(np.int64)

    def reduced(self, horizontal: Taps, blocks: int) -> NDArray[np.uint8]:
        """The blocks (down x across x channels) of a band: `horizontal` are its enlarged columns, equally many for each."""
        across = len(horizontal.first) // blocks
        by_column = (blocks, across, self._pairs + 1, self._channels)
        values = self._horizontal(horizontal)
        flat = values.reshape(-1)
        index = np.zeros(values.shape, np.intp)
        np.subtract(flat[: -self._channels], flat[self._channels :], out=index.reshape(-1)[: -self._channels])
        index += self._offsets
        below = self._by_row(values.reshape(by_column).sum(axis=1, dtype=np.int32))[1:]
        below -= 255 * across
        sums = np.zeros((len(self._heights), below.shape[1]), np.int64)
        for slot, turns in enumerate(self._turns):
            group, field = divmod(slot, self._fields)
            if field == 0:
                packed = self._by_row(self._tables[group].take(index).reshape(by_column).sum(axis=1))
            for pairs, reached, counts in turns:
                part = packed.take(pairs, axis=0) >> (self._bits * field)
                part &= (1 << self._bits) - 1
                part += below.take(pairs, axis=0) * counts[:, None]
                sums[reached] += part
        for row in self._uneven:
            sums[self._block[row]] += self._term(values, row).reshape(blocks, across, -1).sum(axis=1).T.reshape(-1)
        means = _rounded(sums, self._heights * across)
        return means.reshape(-1, self._channels, blocks).transpose(0, 2, 1)

    @staticmethod
    def _by_row(sums: NDArray[Any]) -> NDArray[np.int64]:
        """Blocks x rows x channels to rows x (channels x blocks): what follows runs along the longest axis."""
        return sums.transpose(1, 2, 0).astype(np.int64, order="C").reshape(sums.shape[1], -1)

    def _horizontal(self, horizontal: Taps) -> NDArray[np.int32]:
        """The horizontal pass: columns x values."""
        second = self._second.take(horizontal.first, axis=0)
        values = self._change.take(horizontal.first, axis=0)
        values *= horizontal.weight[:, None]
        if horizontal.excess.any():
            values += second * horizontal.excess[:, None]
        values += _HALF
        values >>= _BITS
        values += second
        return values

    def _term(self, values: NDArray[np.int32], row: np.intp) -> NDArray[np.int32]:
        """The second term for an enlarged row whose weights do not add up to one: columns x channels."""
        pair = int(self._vertical.first[row] - self._vertical.first[0]) * self._channels
        above, below = values[:, pair : pair + self._channels], values[:, pair + self._channels :][:, : self._channels]
        exact: NDArray[np.int32] = (
            (above - below) * self._vertical.weight[row] + below * self._vertical.excess[row] + _HALF
        )
        exact >>= _BITS
        return exact
