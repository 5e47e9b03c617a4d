"""What a run shows in the Prefect UI, as text."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.exceptions import FailedRun

from tasks.artifacts import (
    PROGRESS_SECONDS,
    WORKERS_SHOWN,
    RunProgress,
    spend_markdown,
    worker_rows,
)
from tasks.eta import Eta
from tasks.fleet.money import Money
from tasks.markup import code, plain
from tasks.quiet import expect_failed_state
from tasks.view import Interruption, RunView, WorkerState, WorkerView


@pytest.mark.parametrize(
    "name", ["paper_0123.pdf", "a b.pdf", "x/y-z (1).pdf", "50% of #4.pdf", "no %PDF- in the first 1024 bytes", "1.pdf"]
)
def test_names_that_markdown_leaves_alone_stay_as_they_are(name: str) -> None:
    assert plain(name) == name


@pytest.mark.parametrize(
    "name", ["*a*.pdf", "<b>.pdf", "_x_.pdf", "[a](b).pdf", "# 1.pdf", "1. One.pdf", "- x.pdf", "a~~b~~.pdf", "a&amp;b"]
)
def test_names_that_mean_something_in_markdown_become_code(name: str) -> None:
    assert plain(name) == f"`{name}`"


@given(st.text(alphabet="a` ", min_size=1))
def test_code_holds_any_backticks(text: str) -> None:
    shown = code(text)
    fence = shown[: len(shown) - len(shown.lstrip("`"))]
    inside = shown[len(fence) : -len(fence)]
    assert shown.endswith(fence)
    assert fence not in inside
    assert inside.strip(" ") == text.strip(" ")


@dataclass
class Numbers:
    processed: dict[int, int]
    failed: int = 0
    pages: int = 0
    assigned: dict[int, int] = field(default_factory=dict)


def test_progress_does_not_fall_when_a_worker_begins_a_new_life() -> None:
    progress = RunProgress(100, logging.getLogger("test"))
    seen = []
    for numbers in ({0: 10}, {0: 20, 1: 5}, {0: 0, 1: 6}, {0: 7, 1: 8}, {0: 90, 1: 60}):
        progress.show(Numbers(numbers))
        seen.append(progress.done)
    assert seen == [10, 25, 26, 35, 100]


def looked(**changes: object) -> RunView:
    workers = [
        WorkerView(worker=0, state=WorkerState.DONE, done=9, total=9),
        WorkerView(
            worker=1,
            state=WorkerState.DRAINING,
            why="notice: <b>gone</b>",
            done=1,
            total=9,
            eta=50.0,
            pages_per_second=1.5,
            in_hand=["*a*|b.pdf"],
            page=3,
        ),
    ]
    given = {"run_id": "r", "input": "i", "output": "o", "engine": "e", "created": "", "at": 0.0, "workers": workers}
    return RunView(**{**given, "documents": 18, "done": 10, **changes})


def test_the_table_of_workers_has_the_worst_first_and_shows_names_as_they_are() -> None:
    first, second = worker_rows(looked())
    assert (first["worker"], second["worker"]) == (1, 0)
    assert (first["why"], first["in hand"], first["page"]) == ("`notice: <b>gone</b>`", "`*a*|b.pdf`", 3)
    assert (first["ETA"], second["ETA"]) == ("50 s", "")


def test_the_table_of_workers_leads_to_their_logs() -> None:
    flow_runs = [str(UUID(int=7)), None, "](javascript:alert(1))"]
    workers = [WorkerView(worker=k, state=WorkerState.WORKING, flow_run_id=one) for k, one in enumerate(flow_runs)]
    shown = {row["worker"]: row["log"] for row in worker_rows(looked(workers=workers))}
    assert shown == {0: f"[log](/runs/flow-run/{UUID(int=7)}?tab=Logs)", 1: "", 2: ""}


def test_the_table_of_workers_is_bounded() -> None:
    many = [WorkerView(worker=k, state=WorkerState.WORKING) for k in range(1000)]
    assert len(worker_rows(looked(workers=many))) == WORKERS_SHOWN


def test_the_spend_says_what_was_spent_and_how_it_goes_on() -> None:
    money = Money(spent=4.0, budget=100.0, projected=15.1, machines=2, leaving=1)
    notice = Interruption(worker=3, attempt=0, machine="i-1", why="notice: <x>", notice=True)
    view = looked(
        money=money, pages=2000, eta=Eta(likely=7200, least=3600, most=None), notices=1, interruptions=[notice]
    )
    text = spend_markdown(view)
    for line in (
        "| spent | $4.00 |",
        "| projected | $15.10 |",
        "| per 1,000 pages | $2.000 |",
        "| ETA | 2.0 h (60 min to no end in sight) |",
        "| machines | 2 at work, 1 being torn down |",
        "| worker 3 | i-1 | `notice: <x>` |",
    ):
        assert line in text
    over = spend_markdown(view.model_copy(update={"over": True, "state": "Completed", "money": None}))
    assert "ETA" not in over
    assert "nothing is paid for" in over


class Counting(RunProgress):
    """Notes what it would publish."""

    def __init__(self, view: RunView | None) -> None:
        super().__init__(18, logging.getLogger("test"), view=lambda: view)
        self.calls: list[str] = []

    def _publish_progress(self) -> None:
        self.calls.append("progress")

    def _publish_workers(self, view: RunView) -> None:
        self.calls.append("workers")

    def _publish_spend(self, view: RunView) -> None:
        self.calls.append("spend")


def test_a_tick_makes_one_call_and_all_artifacts_have_their_turn() -> None:
    assert PROGRESS_SECONDS >= 15
    shown, early = Counting(looked()), Counting(None)
    for tick in range(1, 9):
        shown._tick()
        early._tick()
        assert len(shown.calls) == len(early.calls) == tick
    assert shown.calls == ["progress", "workers", "progress", "spend"] * 2
    assert set(early.calls) == {"progress"}


def test_a_failed_state_is_no_traceback_but_an_exception_is(caplog: pytest.LogCaptureFixture) -> None:
    expect_failed_state()
    expect_failed_state()
    logger = logging.getLogger("prefect.flow_runs")
    logger.addHandler(caplog.handler)
    try:
        for error in (FailedRun("input folder does not exist"), KeyError("ours")):
            try:
                raise error
            except (FailedRun, KeyError):
                logger.exception("Engine execution exited with unexpected exception")
    finally:
        logger.removeHandler(caplog.handler)
    shown = [type(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert set(shown) == {KeyError}
