"""Pages that cost the sandbox's child: the document goes on without it, each page by the cheapest way that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.failures import Category, ConversionError, Phase
from tasks.engines.falls import MOST_FALLS, Falls
from tasks.engines.markdown import page_ranges, ways_of
from tasks.engines.protocol import EngineName, EngineResult, Limits, Page
from tasks.engines.sandbox import Sandbox


@pytest.fixture
def convert(tmp_path: Path) -> Iterator[Callable[..., EngineResult]]:
    made: list[Sandbox] = []

    def run(script: str, **limits: Any) -> EngineResult:
        made.append(Sandbox(EngineName.DUMMY, Limits(**limits), scratch=tmp_path))
        pdf = tmp_path / "in.pdf"
        pdf.write_bytes(f"%PDF-dummy {script}\n".encode())
        return made[-1].convert(pdf, tmp_path / "out", [])

    yield run
    for one in made:
        one.close()


@pytest.mark.parametrize("how", ["crash", "exit=3", "memory"])
def test_a_page_that_kills_its_process_costs_only_itself(convert: Callable[..., EngineResult], how: str) -> None:
    result = convert(f"pages=4 on=2 ways=2 assets=1 {how}", memory_mb=512)
    assert [page.way for page in result.pages] == ["way 1", "way 3", "way 1", "way 1"]
    assert [page.gap for page in result.pages] == [None] * 4
    assert result.assets[0].path.read_text().startswith("asset 0")


def test_a_page_that_waits_for_ever_costs_only_itself(convert: Callable[..., EngineResult]) -> None:
    result = convert("pages=3 on=2 ways=2 hang gap=2", page_timeout=2.0)
    assert [page.way for page in result.pages] == ["way 1", "way 3", "way 1"]
    assert result.pages[1].gap is not None
    assert "over the time limit of page 2" in result.pages[1].gap


def test_without_another_way_the_document_fails(convert: Callable[..., EngineResult]) -> None:
    with pytest.raises(ConversionError, match="SIGSEGV") as caught:
        convert("pages=3 on=2 crash")
    assert caught.value.failure.category is Category.CRASHED
    assert caught.value.failure.page == 2


def test_the_time_limit_of_the_document_counts_all_of_its_processes(convert: Callable[..., EngineResult]) -> None:
    with pytest.raises(ConversionError, match="the document's time limit"):
        convert("pages=3 on=1 ways=9 spin", page_timeout=4.0, document_timeout=3.0)


def loss(category: Category, page: int, *, retryable: bool = False) -> ConversionError:
    return ConversionError.of(category, Phase.CONVERT, "lost", retryable=retryable, page=page)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([Category.CRASHED, Category.TIMEOUT, Category.MEMORY, Category.ENGINE]),
            st.integers(1, 3),
            st.integers(0, 4),
            st.floats(0, 1),
        ),
        max_size=40,
    )
)
def test_ways_never_take_more_than_the_page_has(losses: list[tuple[Category, int, int, float]]) -> None:
    falls, taken = Falls(60.0), 0
    spent: dict[int, float] = {}
    for category, page, ways, share in losses:
        falls.begin(page, ways)
        limit = falls.limit
        assert limit <= falls.patience <= 60.0 - spent.get(page, 0.0) + 1e-6
        assert 0 <= limit <= 60.0 - spent.get(page, 0.0) + 1e-6
        seconds = limit * share
        goes_on = falls.take(loss(category, page), False, seconds)
        assert goes_on == (ways > 0 and category is not Category.ENGINE and taken < MOST_FALLS)
        if goes_on:
            taken += 1
            spent[page] = spent.get(page, 0.0) + seconds
    assert sum(map(len, falls.dump().values())) == taken


def test_only_the_page_in_hand_can_fall() -> None:
    falls = Falls(60.0)
    falls.begin(2, 3)
    assert not falls.take(loss(Category.CRASHED, 1), False, 0.0)
    assert not falls.take(loss(Category.TIMEOUT, 2), True, 0.0)
    assert not falls.take(loss(Category.TIMEOUT, 2, retryable=True), False, 0.0)
    assert falls.take(loss(Category.TIMEOUT, 2, retryable=True), False, 0.0, guilty=True)
    assert falls.dump()["2"][0]["starved"] is True
    assert not falls.take(loss(Category.CRASHED, 2), False, 0.0)


@given(st.sets(st.integers(1, 60)))
def test_ranges_name_every_page_once(numbers: set[int]) -> None:
    text = page_ranges(sorted(numbers))
    named: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(numbers)


def test_pages_by_their_ways() -> None:
    pages = [
        Page(number=number, text="", way=way) for number, way in [(3, "text"), (1, "layout"), (2, None), (4, "text")]
    ]
    assert ways_of(pages) == {"layout": [1], "text": [3, 4]}
