"""What people are told, and when: each thing once, and never that of which they know more already."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.failures import Category
from tasks.fleet.money import Money
from tasks.messages import CAPACITY_SECONDS, EARLY, SUBJECT, About, Standing, due, ended
from tasks.report import Report, RunState, cause, rates, state_name

ABOUT = About(
    run_id="20261128-091500-ab12",
    input="s3://in/pdfs",
    output="s3://out/a b",
    engine="dolphin",
    page="s3://out/a b/_runs/20261128-091500-ab12/report.html",
    link="http://127.0.0.1:4200/runs/flow-run/1",
)


def standing(**changes: object) -> Standing:
    return Standing.model_validate({"documents": 1000, "settled": 400, "failed": 4, "max_failure_rate": 0.05} | changes)


def names(now: Standing, sent: set[str] | frozenset[str] = frozenset()) -> list[str]:
    return [message.name for message in due(ABOUT, now, sent)]


def spent(usd: float, budget: float | None = 100.0, **changes: object) -> Standing:
    return standing(money=Money(spent=usd, budget=budget), **changes)


def test_a_run_that_goes_well_tells_nobody() -> None:
    assert names(standing()) == []
    assert names(spent(49.9)) == []
    assert names(spent(1e6, budget=None)) == []
    assert names(standing(without=CAPACITY_SECONDS - 1)) == []


def test_failures_over_the_limit_are_told_once_they_are_no_chance() -> None:
    assert names(standing(settled=EARLY - 1, failed=49)) == []
    assert names(standing(settled=EARLY, failed=5)) == []
    assert names(standing(settled=EARLY, failed=6)) == ["failure-rate"]
    # Certain, however few have an end: nothing that comes can bring it below the limit.
    assert names(standing(settled=51, failed=51)) == ["failure-rate"]
    (message,) = due(ABOUT, standing(settled=100, failed=7), set())
    assert message.subject == "pdf-flows 20261128-091500-ab12: failure rate 7 %, the limit is 5 %"
    assert "7 of the 100 documents" in message.text
    assert "pdf-flows failures 's3://out/a b' 20261128-091500-ab12" in message.text


def test_the_budget_is_told_at_50_90_and_100_per_cent() -> None:
    assert names(spent(50)) == ["budget-50-of-100.00"]
    assert names(spent(90)) == ["budget-90-of-100.00"], "the half is no news any more"
    assert names(spent(90), {"budget-50-of-100.00"}) == ["budget-90-of-100.00"]
    # What is committed counts, not what is spent: it is never exceeded.
    stopped = spent(81, stopping="budget: $81.00 are spent, and until the 5 machines are gone it may be $100.20")
    (message,) = due(ABOUT, stopped, set())
    assert message.name == "budget-100-of-100.00"
    assert "budget: $81.00 are spent" in message.text
    assert "a larger --budget goes on" in message.text
    # A parent that is started again with the same budget sees 81 % once more.
    assert names(spent(81), {"budget-100-of-100.00"}) == []
    assert names(spent(81, budget=160), {"budget-100-of-100.00"}) == ["budget-50-of-160.00"]
    assert names(spent(10, stopping="interrupted")) == []


def test_no_machine_for_half_an_hour() -> None:
    (message,) = due(ABOUT, standing(without=CAPACITY_SECONDS), set())
    assert message.name == "no-capacity"
    assert message.subject.endswith("no machine for 30 min")
    assert "600 documents wait" in message.text
    assert names(standing(without=CAPACITY_SECONDS, stopping="cancelled")) == []


steps = st.builds(
    lambda done, failed, usd, without, stop: (done, failed, usd, without, stop),
    st.integers(0, 400),
    st.floats(0, 1),
    st.floats(0, 40),
    st.floats(0, 4000),
    st.sampled_from([None, None, None, "budget: no more", "cancelled"]),
)


@given(st.lists(steps, max_size=30), st.integers(1, 5000))
def test_never_a_flood(some: list[tuple[int, float, float, float, str | None]], documents: int) -> None:
    """Whatever a run goes through: four kinds of message, each name once."""
    sent: list[str] = []
    settled, failed, usd = 0, 0, 0.0
    for done, share, paid, without, stop in some:
        done = min(done, documents - settled)
        settled, failed, usd = settled + done, failed + int(share * done), usd + paid
        now = spent(usd, documents=documents, settled=settled, failed=failed, without=without, stopping=stop)
        found = names(now, set(sent))
        assert len(set(found)) == len(found)
        assert not set(found) & set(sent)
        sent += found
    levels = [int(name.split("-")[1]) for name in sent if name.startswith("budget")]
    assert levels == sorted(levels), "a level below one that was told is no news"
    assert len(sent) <= 5


# -- the end ---------------------------------------------------------------------------------------------------------


def report(**changes: object) -> Report:
    values = dict(
        run_id=ABOUT.run_id,
        state=RunState.COMPLETED,
        input="in",
        output="out",
        documents=40,
        converted=40,
        skipped=0,
        partial=0,
        failed=0,
        quarantined=0,
        remaining=0,
        duplicates=0,
        pages=700,
        seconds=3600.0,
        pages_per_second=7.0,
        engine="layout",
        report="out/_runs/r/report.json",
    )
    return Report.model_validate(values | changes)


def test_the_end_says_outcome_figures_and_what_to_do() -> None:
    failed = report(
        state=RunState.COMPLETED_WITH_FAILURES,
        why="3 of 40 documents failed",
        converted=37,
        failed=2,
        quarantined=1,
        categories={"DAMAGED": 2, "CRASHED": 1},
        money=Money(spent=3.1, budget=100),
        left=["task/1"],
    )
    message = ended(ABOUT, failed)
    assert message.subject == "pdf-flows 20261128-091500-ab12: Completed with failures"
    assert message.text.splitlines() == [
        "Run 20261128-091500-ab12: Completed with failures",
        "s3://in/pdfs to s3://out/a b, engine dolphin",
        "",
        "3 of 40 documents failed.",
        "40 documents: 37 converted, 0 skipped, 3 failed, 0 remaining; 700 pages.",
        "The last start took 60 min.",
        "Failures: 2 DAMAGED, 1 CRASHED.",
        "Money: spent $3.10 of $100.00.",
        "STILL RUNNING, and it may cost money: task/1.",
        "",
        "What to do: see why: pdf-flows failures 's3://out/a b' 20261128-091500-ab12; "
        "convert them again: pdf-flows retry 's3://out/a b' 20261128-091500-ab12",
        "Report: s3://out/a b/_runs/20261128-091500-ab12/report.html",
        "Prefect: http://127.0.0.1:4200/runs/flow-run/1",
    ]


def test_each_end_says_what_to_do_next() -> None:
    def told(**changes: object) -> tuple[str, str]:
        message = ended(ABOUT, report(**changes))
        (line,) = [line for line in message.text.splitlines() if line.startswith("What to do: ")]
        return message.subject.partition(": ")[2], line.removeprefix("What to do: ")

    assert told() == ("Completed", "nothing")
    stopped = {"state": RunState.STOPPED, "why": "budget: spent; a larger --budget goes on", "remaining": 3}
    assert told(**stopped) == ("Stopped: budget", "run the same again: it goes on where it was")
    wrong, next_ = told(state=RunState.FAILED, why="the accounting does not close: ...", duplicates=1)
    assert (wrong, next_.split("pdf-flows ")[1].split()[0]) == ("Failed", "audit")
    elsewhere = ABOUT.model_copy(update={"elsewhere": "s3://runs/here"})
    assert "--runs s3://runs/here" in ended(elsewhere, report(state=RunState.FAILED, failed=9, converted=31)).text


def test_no_message_names_a_document() -> None:
    def said(why: str) -> str:
        return ended(ABOUT, report(state=RunState.STOPPED, why=why, remaining=1)).text.splitlines()[3]

    named = "no such object: 'secret.pdf'"
    assert said(f"breaker: STORE: {named} (30 documents in a row)") == "Breaker: STORE; the report says more."
    assert said(f"FORBIDDEN: {named}") == "FORBIDDEN; the report says more."
    died = f"worker 0 died again and again without progress: {named}"
    assert said(died) == "Worker 0 died again and again without progress; the report says more."
    assert said("budget: $3.00 are spent") == "Budget: $3.00 are spent."


def test_an_end_like_the_one_before_is_no_news() -> None:
    stopped = report(state=RunState.STOPPED, why="interrupted", remaining=30, converted=10)
    again = stopped.model_copy(update={"why": "cancelled", "seconds": 2.0})
    further = stopped.model_copy(update={"remaining": 20, "converted": 20})
    assert ended(ABOUT, stopped).name == ended(ABOUT, again).name
    assert len({ended(ABOUT, one).name for one in (stopped, further, report())}) == 3


@given(st.text(max_size=500), st.text(max_size=500))
def test_subjects_fit_and_names_can_be_objects(why: str, key: str) -> None:
    about = ABOUT.model_copy(update={"run_id": "r" * 64, "output": key})
    for message in (ended(about, report(state=RunState.STOPPED, why=why or None, remaining=1)),):
        assert len(message.subject) <= SUBJECT
        assert message.subject.isascii()
        assert all(char.isalnum() or char in "-." for char in message.name)


# -- what a state is called ------------------------------------------------------------------------------------------


def test_states_say_what_happened() -> None:
    def stopped(why: str | None) -> str:
        return state_name(RunState.STOPPED, why)

    assert state_name(RunState.COMPLETED, None) == "Completed"
    assert state_name(RunState.COMPLETED_WITH_FAILURES, "3 of 40 documents failed") == "Completed with failures"
    assert state_name(RunState.FAILED, "failure rate 7 % over the limit of 5 % (3 documents)") == "Failed"
    assert stopped("budget: $81.00 are spent") == "Stopped: budget"
    assert stopped("the deadline of 48 h has passed; a larger --deadline goes on") == "Stopped: deadline"
    assert stopped("canary: nothing was published") == "Stopped: canary"
    assert stopped("breaker: STORE: no route (30 documents in a row)") == "Stopped: breaker"
    assert stopped("worker 0 died again and again without progress: boom") == "Stopped: workers died"
    assert stopped("3 documents remain") == "Stopped"
    assert stopped(None) == "Stopped"
    assert {cause(str(category)) for category in (Category.STORE, Category.DISK_FULL, Category.FORBIDDEN)} == {
        "store",
        "disk full",
        "forbidden",
    }


def test_a_rate_and_its_limit_are_told_apart() -> None:
    assert rates(0.07, 0.05) == ("7 %", "5 %")
    assert rates(0.0625, 0.05) == ("6.2 %", "5 %")
    assert rates(0.05001, 0.05) == ("5.001 %", "5 %")
    assert rates(1.0, 0.0) == ("100 %", "0 %")
    assert rates(0.05, 0.05) == ("5 %", "5 %")


@given(st.floats(0, 1), st.floats(0, 1))
def test_rates_over_their_limit_look_like_it(rate: float, limit: float) -> None:
    shown = [float(text.removesuffix(" %")) for text in rates(rate, limit)]
    if abs(rate - limit) > 1e-9:
        assert (shown[0] > shown[1]) == (rate > limit)
