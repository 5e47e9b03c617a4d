"""The encoder's images against transformers' own DonutImageProcessor, run here on the same crops, byte for byte."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tasks.engines.dolphin import resize
from tasks.engines.dolphin.images import canvas, normalisation_table, prepare, prepare_fast
from tasks.engines.dolphin.resize import Taps, enlarge_and_reduce, taps

Pixels = NDArray[np.uint8]

SIDE = 896
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROOT = Path(__file__).resolve().parents[2]


@cache
def processor() -> Any:
    """The processor with the configuration of Dolphin's checkpoints."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    if transformers.__version__ != "4.47.0":
        pytest.skip(f"transformers {transformers.__version__} is not what is restated")
    return transformers.DonutImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_align_long_axis=True,
        do_resize=True,
        do_thumbnail=True,
        do_pad=True,
        resample=2,
        image_mean=MEAN,
        image_std=STD,
    )


def processed(image: Pixels, *, normalised: bool) -> NDArray[Any]:
    """What the processor makes of it: uint8, height x width x channels, or float32, channels first."""
    # Said only where the processor would take the height for channels.
    known = {"input_data_format": "channels_last"} if len(image) in (1, 3) else {}
    if normalised:
        [made] = processor()(image, return_tensors="np", **known)["pixel_values"]
        return made
    as_it_was = {"do_rescale": False, "do_normalize": False, "data_format": "channels_last"}
    [made] = processor()(image, return_tensors="np", **as_it_was, **known)["pixel_values"]
    return made


def by_pillow(image: Pixels, side: int) -> Pixels:
    """The processor's steps for any side, where it would end without a pixel, too."""
    opened = Image.fromarray(np.ascontiguousarray(image))
    width, height = opened.size
    long = int(side * max(width, height) / min(width, height))
    opened = opened.resize((side, long) if width <= height else (long, side), Image.Resampling.BILINEAR)
    width, height = opened.size
    if long > side:
        short = max(int(side * side / long), 1)
        size = (short, side) if height > width else (side, short)
        opened = opened.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    whole = Image.new("RGB", (side, side))
    whole.paste(opened, ((side - opened.width) // 2, (side - opened.height) // 2))
    return np.array(whole)


@cache
def page(scale: float) -> Pixels:
    """A page of text as PyMuPDF renders it: black, coloured, large and small."""
    with pymupdf.open() as document:
        sheet = document.new_page()
        text = "The quick brown fox jumps over the lazy dog; 0123456789 (a+b)/c = 42, and so on. " * 8
        for number, colour in enumerate(
            [(0, 0, 0), (0, 0, 0), (0.7, 0.1, 0.1), (0, 0.2, 0.8), (0, 0, 0), (0.2, 0.5, 0.2)]
        ):
            box = pymupdf.Rect(40, 40 + 125 * number, 555, 160 + 125 * number)
            sheet.draw_rect(box, color=colour, fill=(1, 1, 0.9) if number == 2 else None)
            sheet.insert_textbox(box, text, fontsize=5 + 2 * number, color=colour)
        drawn = sheet.get_pixmap(matrix=pymupdf.Matrix(scale, scale))
        return np.frombuffer(drawn.samples, np.uint8).reshape(drawn.height, drawn.width, 3)


def filled(height: int, width: int, seed: int) -> Pixels:
    """Noise, coloured, grey, black and white or few values; gradients; text as a view into a page."""
    noise = np.random.default_rng(seed)
    kind = seed % 7
    if kind in (0, 1) and height <= 1600 and width <= 1100:
        sheet = page(1.06 if height <= 890 and width <= 630 else 2)
        top, left = noise.integers(sheet.shape[0] - height + 1), noise.integers(sheet.shape[1] - width + 1)
        return sheet[top : top + height, left : left + width]
    if kind == 2:
        return noise.integers(0, 256, (height, width, 3), np.uint8)
    if kind == 3:
        return np.repeat(noise.integers(0, 256, (height, width, 1), np.uint8), 3, axis=2)
    if kind == 4:
        return np.repeat(noise.integers(0, 2, (height, width, 1), np.uint8) * np.uint8(255), 3, axis=2)
    if kind == 5:
        return noise.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (height, width, 3))
    ramp = np.linspace(0, 255, width)[None, :, None] * np.linspace(0.2, 1, height)[:, None, None]
    return (ramp * np.array([1, 0.6, 0.3])).astype(np.uint8)


def mixed(draw: random.Random) -> tuple[int, int]:
    return draw.randint(4, 400), draw.randint(4, 400)


def line(draw: random.Random) -> tuple[int, int]:
    return draw.randint(10, 60), draw.randint(100, 850)


def column(draw: random.Random) -> tuple[int, int]:
    return draw.randint(100, 850), draw.randint(14, 60)


def edge(draw: random.Random) -> tuple[int, int]:
    """About where a factor of the reduction changes, or the last size."""
    short = draw.randint(6, 110)
    long = short * draw.choice((1, 2, 4, 6, 8, 10, 12, 14, 16, 20)) + draw.randint(-3, 3)
    size = short, min(max(long, 4), 900)
    return size if draw.random() < 0.6 else size[::-1]


def large(draw: random.Random) -> tuple[int, int]:
    """Over the side in one direction or both."""
    size = draw.randint(890, 2000), draw.choice((draw.randint(300, 899), draw.randint(896, 2000)))
    return size if draw.random() < 0.5 else size[::-1]


def largest(draw: random.Random) -> tuple[int, int]:
    size = draw.randint(2000, 4000), draw.randint(150, 4000)
    return size if draw.random() < 0.5 else size[::-1]


def sliver(draw: random.Random) -> tuple[int, int]:
    """1 to 3 pixels."""
    short = draw.randint(1, 3)
    size = short, draw.randint(1, 40 * short)
    return size if draw.random() < 0.5 else size[::-1]


Shape = Callable[[random.Random], tuple[int, int]]
FEW: dict[Shape, int] = {mixed: 30, line: 12, column: 8, edge: 28, large: 8, largest: 2, sliver: 9}
MANY: dict[Shape, int] = {mixed: 120, line: 90, column: 50, edge: 120, large: 30, largest: 12, sliver: 40}


def crops(shape: Shape, count: int, seed: int) -> Iterator[Pixels]:
    draw = random.Random(f"{shape.__name__}-{seed}")
    for number in range(count):
        yield filled(*shape(draw), seed=seed + number)


def assert_same(shape: Shape, count: int, seed: int) -> None:
    table = normalisation_table(MEAN, STD)
    for number, image in enumerate(crops(shape, count, seed)):
        made = canvas(prepare(image))
        if number % 4 == 0:
            floats = np.stack([table[channel][made[..., channel]] for channel in range(3)])
            assert np.array_equal(floats, processed(image, normalised=True)), (image.shape, number)
        else:
            assert np.array_equal(made, processed(image, normalised=False)), (image.shape, number)


@pytest.mark.parametrize("shape", FEW, ids=lambda shape: shape.__name__)
def test_images_are_the_processors(shape: Shape) -> None:
    assert_same(shape, FEW[shape], seed=0)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("shape", MANY, ids=lambda shape: shape.__name__)
def test_many_images_are_the_processors(shape: Shape) -> None:
    assert_same(shape, MANY[shape], seed=1000)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from((16, 32, 56, 100)), st.integers(0, 2**20))
def test_any_shape_gets_what_the_steps_give(height: int, width: int, side: int, seed: int) -> None:
    image = filled(height, width, seed)
    assert np.array_equal(canvas(prepare(image, side), side), by_pillow(image, side))


@settings(max_examples=150, deadline=None)
@given(
    *(st.integers(1, 14) for _ in range(2)),
    *(st.integers(0, 150) for _ in range(2)),
    *(st.integers(1, 30) for _ in range(2)),
    st.sampled_from((1, 3)),
    st.integers(0, 2**20),
)
def test_enlarged_and_reduced_as_pillow_does(
    height: int, width: int, taller: int, wider: int, down: int, across: int, channels: int, seed: int
) -> None:
    image = filled(height, width, seed)[..., :channels]
    made = enlarge_and_reduce(image, (height + taller, width + wider), (down, across))
    opened = Image.fromarray(np.ascontiguousarray(image if channels == 3 else image[..., 0]))
    opened = opened.resize((width + wider, height + taller), Image.Resampling.BILINEAR).reduce((across, down))
    assert np.array_equal(made, np.array(opened).reshape(made.shape))


@pytest.mark.parametrize("axis", [0, 1])
def test_long_axes_are_enlarged_as_pillow_does(axis: int) -> None:
    # What a crop of 3281x10 becomes: long enough that two rounded weights do not always add up to one.
    assert taps(3281, 293977, 0, 293977).excess.any()
    image = np.random.default_rng(3).integers(0, 256, (3281, 2), np.uint8)
    opened = Image.fromarray(image).resize((2, 293977), Image.Resampling.BILINEAR).reduce((1, 164))
    expected = np.array(opened)
    if axis == 0:
        made = enlarge_and_reduce(image[..., None], (293977, 2), (164, 1))[..., 0]
    else:
        made = enlarge_and_reduce(image.T[..., None], (2, 293977), (1, 164))[..., 0].T
    assert np.array_equal(made, expected)


def test_weights_that_do_not_add_up_to_one_count_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    # In earnest they miss by 2**-22, which no pixel shows.
    one, noise = 1 << 22, np.random.default_rng(5)
    missing = {12: noise.integers(-one // 4, 1, 90) // 2 * 2, 9: noise.integers(-one // 4, 1, 90)}

    def uneven(source: int, target: int, start: int, stop: int) -> Taps:
        found = taps(source, target, start, stop)
        weight = np.minimum(found.weight, one // 2)
        excess = np.where(np.arange(start, stop) % 3 == 0, missing[source][start:stop], 0)
        return Taps(found.first, weight, excess.astype(np.int32))

    monkeypatch.setattr(resize, "taps", uneven)
    image = noise.integers(0, 256, (12, 9, 3), np.uint8)
    enlarged = image.astype(np.int64)
    for source in (9, 12):
        enlarged = enlarged.swapaxes(0, 1)
        first, weight, excess = uneven(source, 90, 0, 90)
        above, below = enlarged[first], enlarged[first + 1]
        weight, excess = weight[:, None, None].astype(np.int64), excess[:, None, None]
        enlarged = (above * weight + below * (one - weight + excess) + one // 2) >> 22
    expected = np.array(Image.fromarray(enlarged.astype(np.uint8)).reduce((5, 4)))
    assert np.array_equal(enlarge_and_reduce(image, (90, 90), (4, 5)), expected)


def test_views_and_layouts_do_not_matter() -> None:
    image = filled(40, 300, 2)
    expected = prepare(image)
    for same in (np.asfortranarray(image), np.repeat(image, 2, axis=1)[:, ::2], image[::-1][::-1]):
        assert np.array_equal(prepare(same).pixels, expected.pixels)
    assert expected.pixels.flags.c_contiguous
    assert expected.pixels.flags.writeable


def test_a_crop_that_would_end_without_a_pixel_has_one() -> None:
    assert prepare(filled(4, 4000, 2)).pixels.shape == (1, SIDE, 3)
    assert prepare(filled(1001, 1, 3)).pixels.shape == (SIDE, 1, 3)


@pytest.mark.parametrize(
    ("mean", "std"), [(MEAN, STD), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0, 0.1, 0.9), (1, 0.3, 3))]
)
def test_the_table_is_rescaling_and_normalising(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    table = normalisation_table(mean, std)
    values = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    only = {"do_resize": False, "do_thumbnail": False, "do_pad": False, "do_align_long_axis": False}
    made = processor()(values, image_mean=mean, image_std=std, return_tensors="np", **only)["pixel_values"][0]
    assert table.dtype == made.dtype == np.float32
    assert table.tobytes() == made.reshape(3, 256).tobytes()


def test_the_fast_mode_has_the_same_place_and_nearly_the_same_pixels() -> None:
    for image in (page(1.06)[100:140, 50:600], page(1.06)[:, :300], page(2)):
        exact, fast = prepare(image), prepare_fast(image)
        assert (fast.top, fast.left, fast.pixels.shape) == (exact.top, exact.left, exact.pixels.shape)
        assert np.abs(fast.pixels.astype(int) - exact.pixels).mean() < 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("size", [(4, 4000), (4000, 4), (1, 4000), (200, 4000), (690, 4000), (4000, 690)])
def test_memory_stays_bounded(size: tuple[int, int]) -> None:
    # In a process of its own: Pillow's memory is not Python's, and a peak is for life.
    program = f"""
import numpy as np
from tasks.engines.dolphin.images import prepare
def of_process(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) / 1024
noise = np.random.default_rng(0)
prepare(noise.integers(0, 256, (20, 300, 3), np.uint8))
image = noise.integers(0, 256, {(*size, 3)}, np.uint8)
before = of_process("VmRSS")
prepare(image)
print(of_process("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 40, done.stdout
