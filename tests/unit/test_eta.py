"""When will it end: the arithmetic behind it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.eta import SLICES, Eta, Sample, Window, eta, quantile, slice_rates

RATES = st.lists(st.floats(0, 1e6), min_size=0, max_size=8)
LEFT = st.floats(0, 1e9)


@given(LEFT, LEFT, RATES)
def test_more_work_never_ends_sooner(a: float, b: float, rates: list[float]) -> None:
    less, more = eta(min(a, b), rates), eta(max(a, b), rates)
    if more is None or less is None:
        assert more is None or min(a, b) == 0
        return
    assert less.likely <= more.likely
    for one, other in ((less.least, more.least), (less.most, more.most)):
        assert one is None or other is None or one <= other * (1 + 1e-12)


@given(LEFT, RATES, st.floats(1, 100))
def test_faster_never_ends_later(left: float, rates: list[float], times: float) -> None:
    slow, fast = eta(left, rates), eta(left, [rate * times for rate in rates])
    if slow is not None:
        assert fast is not None
        assert fast.likely <= slow.likely * (1 + 1e-9)


@given(st.floats(-1e9, 1e9), st.lists(st.floats(), max_size=8))
def test_it_is_never_negative_and_the_band_holds_what_is_likely(left: float, rates: list[float]) -> None:
    found = eta(left, rates)
    if found is None:
        return
    assert 0 <= found.likely < math.inf
    assert found.least is None or 0 <= found.least <= found.likely
    assert found.most is None or found.most >= found.likely


@pytest.mark.parametrize("rates", [[], [0.0], [0.0] * 6, [float("nan")], [1e-300]])
def test_where_nothing_is_known_nothing_is_said(rates: list[float]) -> None:
    assert eta(100.0, rates) is None


def test_nothing_left_takes_no_time_whatever_the_rates() -> None:
    assert eta(0.0, []) == Eta(likely=0.0, least=0.0, most=0.0)


def test_two_rates_make_no_band_three_do_and_a_standstill_leaves_it_open() -> None:
    assert eta(60.0, [1.0, 1.0]) == Eta(likely=60.0)
    banded = eta(60.0, [1.0, 2.0, 3.0])
    assert banded is not None
    assert (banded.likely, banded.least, banded.most) == (30.0, pytest.approx(60 / 2.6), pytest.approx(60 / 1.4))
    open_ended = eta(60.0, [0.0, 0.0, 3.0])
    assert open_ended is not None
    assert open_ended.most is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_quantile_lies_among_the_values(values: list[float], share: float) -> None:
    assert min(values) * (1 - 1e-9) <= quantile(values, share) <= max(values) * (1 + 1e-9)


@given(st.lists(st.tuples(st.floats(0.1, 60), st.floats(0, 1000)), min_size=1, max_size=60))
def test_slices_lose_no_work(steps: list[tuple[float, float]]) -> None:
    samples, at, done = [Sample(0.0, 0.0)], 0.0, 0.0
    for seconds, work in steps:
        at, done = at + seconds, done + work
        samples.append(Sample(at, done))
    rates = slice_rates(samples)
    assert len(rates) <= SLICES
    assert (rates == []) == (at < 15.0)
    if rates:
        assert sum(rates) * at / len(rates) == pytest.approx(done, abs=1e-6)


@given(st.lists(st.floats(0.01, 30), min_size=2, max_size=400))
def test_a_window_is_bounded_and_forgets_what_is_older(steps: list[float]) -> None:
    window, at = Window(60.0), 0.0
    for seconds in steps:
        at += seconds
        window.add(at, at * 2)
    kept = list(window._samples)
    assert len(kept) <= 2 * 300 + 3
    assert kept[-1].at == at
    assert all(sample.at > at - 60.0 for sample in kept[1:])
    if window.rate is not None:
        assert window.rate == pytest.approx(2.0)
