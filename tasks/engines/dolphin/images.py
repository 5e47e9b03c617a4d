"""Images as Dolphin's encoder gets them: byte for byte what transformers 4.47.0's DonutImageProcessor makes of a crop.

Its steps (models/donut/image_processing_donut.py, `preprocess`), all by Pillow: `resize`, bilinear, the shorter edge to the
side; `thumbnail`, bicubic with reducing_gap 2, into side x side; `pad_image`, black, centred. The first makes huge images of
thin crops; here they are never there (resize.py). Rescaling and normalising are a table for the device to look up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.engines.dolphin.resize import enlarge_and_reduce

_GAP = 2.0
"""reducing_gap of the processor's `thumbnail`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is pasted on a black side x side canvas."""

    pixels: NDArray[np.uint8]
    """Height x width x 3, RGB."""
    top: int
    left: int


class _Sizes(NamedTuple):
    """Sizes of a crop after each step: (height, width)."""

    first: tuple[int, int]
    last: tuple[int, int]
    factors: tuple[int, int]
    """Of the box reduction that `Image.resize` begins the last step with, because of reducing_gap."""


def _sizes(height: int, width: int, side: int) -> _Sizes:
    """`get_resize_output_image_size` (transformers/image_transforms.py), then `thumbnail`, then `Image.resize`.

    Crops over `side` times as long as wide end with no pixel there, and the processor raises; here with one.
    """
    long = int(side * max(height, width) / min(height, width))
    tall = height >= width
    short = max(int(side * side / long), 1)
    if long == side:
        return _Sizes((side, side), (side, side), (1, 1))
    by_long, by_short = int(long / side / _GAP) or 1, int(side / short / _GAP) or 1
    if tall:
        return _Sizes((long, side), (side, short), (by_long, by_short))
    return _Sizes((side, long), (short, side), (by_short, by_long))


def prepared_size(height: int, width: int, side: int = 896) -> tuple[int, int]:
    """Height and width of what `prepare` makes of an image of this size."""
    return _sizes(height, width, side).last


def prepare(image: NDArray[np.uint8], side: int = 896) -> Prepared:
    """The processor's pixels for an RGB image (h x w x 3).

    Heights of 1 and 3 pixels, which the processor takes for channels, get what its steps give for every other image.
    """
    grey = _without_colour(image)
    height, width = image.shape[:2]
    return _centred(_exact(image if grey is None else grey, _sizes(height, width, side)), side)


def prepare_fast(image: NDArray[np.uint8], side: int = 896) -> Prepared:
    """The same size and place by one bicubic resize. NOT the processor's pixels: 4 % of them differ by more than 2 of 255."""
    grey = _without_colour(image)
    height, width = prepared_size(*image.shape[:2], side=side)
    opened = Image.fromarray(np.ascontiguousarray(image if grey is None else grey))
    return _centred(np.array(opened.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=_GAP)), side)


def canvas(prepared: Prepared, side: int = 896) -> NDArray[np.uint8]:
    """The whole image: side x side x 3."""
    whole = np.zeros((side, side, 3), np.uint8)
    height, width = prepared.pixels.shape[:2]
    whole[prepared.top : prepared.top + height, prepared.left : prepared.left + width] = prepared.pixels
    return whole


def normalisation_table(mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255) -> NDArray[np.float32]:
    """What a channel's value becomes: 3 x 256. `rescale` and `normalize` of transformers/image_transforms.py, bit for bit."""
    rescaled = (np.arange(256).astype(np.float64) * scale).astype(np.float32)
    means, stds = np.array(mean, np.float32), np.array(std, np.float32)
    table: NDArray[np.float32] = (rescaled - means[:, None]) / stds[:, None]
    return table


def _without_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The one channel (h x w) of an image whose three are equal: a third of the work for the same pixels."""
    red = image[..., 0]
    return red if np.array_equal(red, image[..., 1]) and np.array_equal(red, image[..., 2]) else None


def _exact(image: NDArray[np.uint8], sizes: _Sizes) -> NDArray[np.uint8]:
    """Both steps, for an image of h x w or h x w x 3."""
    height, width = sizes.last
    # Below 6 times as long as wide the enlarged image is small, and Pillow about as fast.
    if min(sizes.factors) < 3 or min(image.shape[:2]) >= min(sizes.first):
        opened = Image.fromarray(np.ascontiguousarray(image))
        if opened.height < sizes.first[0]:
            # Enlarging, Pillow takes the horizontal pass first, too, but holds three images.
            opened = opened.resize((sizes.first[1], opened.height), Image.Resampling.BILINEAR)
        opened = opened.resize(sizes.first[::-1], Image.Resampling.BILINEAR)
        if sizes.last != sizes.first:
            opened = opened.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=_GAP)
        return np.array(opened)
    shaped = image if image.ndim == 3 else image[..., None]
    reduced = enlarge_and_reduce(shaped, sizes.first, sizes.factors)
    opened = Image.fromarray(reduced if image.ndim == 3 else reduced[..., 0])
    box = (0, 0, sizes.first[1] / sizes.factors[1], sizes.first[0] / sizes.factors[0])
    return np.array(opened.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _centred(pixels: NDArray[np.uint8], side: int) -> Prepared:
    """`pad_image`; one channel (h x w) becomes three."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return Prepared(pixels, (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2)
