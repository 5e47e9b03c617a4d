"""The budget's promise in a thousand mean worlds, what breaks it, and single assessments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spend_world import DOCUMENTS, World

from tasks.fleet import budget, spend
from tasks.fleet.budget import (
    Memory,
    Position,
    Terms,
    WarningKind,
    assess,
    committed,
    parse_duration,
    parse_usd,
)
from tasks.fleet.machine import Lifecycle
from tasks.fleet.spend import HOUR, Rate, Rental, Spend

ENOUGH = 400
"""Worlds in which a mutant must be caught."""


@pytest.mark.parametrize(("runs", "closest"), [(200, 0.98), pytest.param(1000, 0.99, marks=pytest.mark.soak)])
def test_no_world_costs_more_than_its_budget(runs: int, closest: float) -> None:
    worlds = [World(seed).run() for seed in range(runs)]
    over = [(world.seed, world.share) for world in worlds if world.share > 1]
    assert not over
    # The worlds are worth something: budgets were nearly spent, claiming stopped, parents were lost, documents were done.
    assert max(world.share for world in worlds) > closest
    assert sum(any(why.startswith("budget") for why in world.stops) for world in worlds) > runs / 5
    assert sum(world.losses for world in worlds) > runs / 4
    assert sum(world.finished == DOCUMENTS for world in worlds) > runs / 10


_committed, _cost, _leaving = budget.committed, spend.cost, Terms.leaving_seconds
_leave, _withdraw = Spend.leave, Spend.withdraw
Patch = pytest.MonkeyPatch


def _reserve_without(**without: float) -> Callable[[Patch], None]:
    def leaving(self: Terms) -> float:
        return _leaving.fget(self.model_copy(update=without))  # type: ignore[attr-defined, no-any-return]

    return lambda patch: patch.setattr(Terms, "leaving_seconds", property(leaving))


def _committed_without(**without: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(budget, "committed", lambda t, p: _committed(t, p.model_copy(update=without)))


def _tail_at_last_price(rental: Rental, at: float) -> spend.Cost:
    last = rental.prices[-1].usd_per_hour if rental.prices else rental.ceiling
    return _cost(rental.model_copy(update={"ceiling": last}), at)


MUTANTS: dict[str, Callable[[Patch], None]] = {
    "no reserve": lambda patch: patch.setattr(budget, "committed", lambda terms, position: position.spent),
    "ceilings ignored": lambda patch: patch.setattr(Rate, "most", Rate.likely),
    "pending launches forgotten": _committed_without(pending=()),
    "machines being torn down forgotten": _committed_without(ending=0.0),
    "teardown forgotten in the reserve": _reserve_without(teardown_seconds=0.0),
    "drain forgotten": _reserve_without(drain_seconds=0.0),
    "patience of workers forgotten": _reserve_without(patience_seconds=0.0),
    "tick forgotten": _reserve_without(tick_seconds=0.01),
    "teardown forgotten in the ledger": lambda patch: patch.setattr(
        Spend, "leave", lambda self, life, *, at, teardown_seconds: _leave(self, life, at=at, teardown_seconds=0.0)
    ),
    "machines never heard from forgotten": lambda patch: patch.setattr(
        Spend, "withdraw", lambda self, launch, **how: _withdraw(self, launch, **{**how, "machine": False})
    ),
    "the gap between parents forgotten": lambda patch: patch.setattr(World, "resume", lambda self, gap: None),
    "unconfirmed prices at the last one": lambda patch: patch.setattr(spend, "cost", _tail_at_last_price),
    "launches without bound": lambda patch: patch.setattr(budget, "_launches", lambda *position: None),
}


LATE = {"tick forgotten"}
"""Only a world far on shows them."""


@pytest.mark.parametrize(
    "mutant", [pytest.param(mutant, marks=[pytest.mark.slow] if mutant in LATE else []) for mutant in MUTANTS]
)
def test_mutants_are_caught(mutant: str, monkeypatch: Patch) -> None:
    MUTANTS[mutant](monkeypatch)
    assert any(World(seed).run().share > 1 for seed in range(ENOUGH))


def test_a_stopped_run_goes_on_with_more_money() -> None:
    world = next(w for w in (World(seed).run() for seed in range(50)) if w.parent_lives and w.finished < DOCUMENTS)
    first = world.finished
    world.terms = world.terms.model_copy(update={"budget": 1000.0, "deadline": None})
    world.memory, world.stopping, world.over_at = world.memory.resumed(), False, None
    world.kill_rate = world.trouble = world.lossy = 0.0
    world.worst = False
    world.run()
    assert first < world.finished == DOCUMENTS
    assert world.bill <= 1000


rates = st.builds(
    Rate,
    ceiling=st.just(0.0) | st.floats(0.05, 5),
    extras=st.just(0.0) | st.floats(0.01, 0.1),
    usd_per_hour=st.none(),
    waited=st.floats(0, 5000),
)
positions = st.builds(
    Position,
    now=st.floats(0, 200_000),
    began=st.just(0.0),
    spent=st.floats(0, 200),
    ending=st.floats(0, 5),
    machine_seconds=st.floats(0, 1e6),
    live=st.lists(rates, max_size=6).map(tuple),
    pending=st.lists(rates, max_size=6).map(tuple),
    wanted=st.integers(0, 8),
    work_done=st.floats(0, 1e6),
    work_left=st.floats(0, 1e6),
    spot=rates,
    on_demand=st.none() | rates,
)
terms_of = st.builds(
    Terms,
    budget=st.none() | st.floats(0.01, 200),
    deadline=st.none() | st.floats(1, 300_000),
    on_demand=st.booleans(),
    max_price=st.none() | st.floats(0.1, 5),
)


@settings(max_examples=300, deadline=None)
@given(terms_of, positions)
def test_what_is_allowed_is_paid_for(terms: Terms, position: Position) -> None:
    seen = assess(terms, position, Memory())
    assert seen.committed >= position.spent
    if terms.budget is not None:
        assert not seen.claiming or seen.committed <= terms.budget
    if terms.deadline is not None and position.now >= terms.deadline:
        assert not seen.claiming
    assert seen.claiming == (seen.why is None)
    if not seen.claiming:
        assert seen.launches_allowed == 0
        # For good, whatever the position.
        assert not assess(terms, Position(now=0, began=0, spent=0), seen.memory).claiming
    if not terms.on_demand:
        assert seen.lifecycle is Lifecycle.SPOT
    rate = position.on_demand if seen.lifecycle is Lifecycle.ON_DEMAND else position.spot
    if seen.launches_allowed and rate is not None and terms.budget is not None:
        asked = (*position.pending, *[rate] * seen.launches_allowed)
        assert committed(terms, position.model_copy(update={"pending": asked})) <= terms.budget + 1e-9
    # Each warning is given once.
    assert not assess(terms, position, seen.memory).warnings


def place(**more: object) -> Position:
    rate = Rate(ceiling=0.5, extras=0.02, usd_per_hour=0.2)
    given_ = dict(now=HOUR, began=0.0, spent=1.0, live=(rate,) * 5, wanted=5, spot=rate, work_left=100.0)
    return Position.model_validate({**given_, **more})


def test_reserve_in_figures() -> None:
    terms = Terms(budget=100, tick_seconds=60, patience_seconds=180, drain_seconds=180, teardown_seconds=1200)
    assert committed(terms, place()) == pytest.approx(1.0 + 5 * 0.52 * 1621 / 3600)
    pending = (Rate(ceiling=1.0, extras=0.02),)
    assert committed(terms, place(live=(), pending=pending)) == pytest.approx(1.0 + 1.02 * (900 + 1621) / 3600)
    assert assess(terms, place(spent=98.82), Memory()).claiming
    stopped = assess(terms, place(spent=98.84), Memory())
    assert not stopped.claiming
    assert "more than $100.00" in (stopped.why or "")


def test_no_terms_no_limits() -> None:
    seen = assess(Terms(), place(), Memory())
    assert seen.claiming
    assert seen.launches_allowed is None
    assert seen.warnings == ()


def test_too_little_for_one_machine_is_an_end() -> None:
    seen = assess(Terms(budget=1.3), place(live=()), Memory())
    assert (
        seen.why
        == "budget: no machine works, and $0.30 of $1.30 are left: too little to start one, which may cost $0.45"
    )
    assert assess(Terms(budget=1.3), place(live=(), work_left=0.0), Memory()).claiming
    late = assess(Terms(deadline=HOUR + 60), place(live=()), Memory())
    assert late.why == "no machine that is started now would be ready before the deadline"


def test_warnings_each_once_and_anew_for_another_budget() -> None:
    terms = Terms(budget=100, target=50)
    memory, given_ = Memory(), []
    for spent in (10, 50, 50.1, 60, 91, 92):
        seen = assess(terms, place(spent=spent), memory)
        memory = seen.memory
        given_.append([warned.kind for warned in seen.warnings])
    assert given_ == [[], [WarningKind.HALF], [WarningKind.TARGET], [], [WarningKind.NEARLY], []]
    more = assess(terms.model_copy(update={"budget": 150.0}), place(spent=92), memory)
    assert [warned.kind for warned in more.warnings] == [WarningKind.HALF]


def test_projection() -> None:
    # 50 of 150 done in 5 machine-hours: 10 machine-hours more, at $0.22, and the tail's tenth.
    seen = assess(Terms(budget=3), place(work_done=50.0, machine_seconds=5 * HOUR, spent=1.0), Memory())
    assert seen.left_cost == pytest.approx(2.42)
    assert seen.projection is not None
    assert seen.projection.usd == pytest.approx(3.42)
    assert seen.projection.hours_left == pytest.approx(2.2)
    assert [warned.kind for warned in seen.warnings] == [WarningKind.PROJECTION]
    assert assess(Terms(), place(), Memory()).projection is None


def test_on_demand_only_if_asked_for_at_risk_and_affordable() -> None:
    dear = Rate(ceiling=0.6, extras=0.02)
    # Half an hour of five machines is left to do; one has come, the others have been waited for too long.
    waited = (Rate(ceiling=0.5, extras=0.02, waited=2000.0),) * 4
    short = place(
        live=place().live[:1],
        pending=waited,
        on_demand=dear,
        work_done=50.0,
        work_left=50.0,
        machine_seconds=2.5 * HOUR,
    )
    terms = Terms(budget=50, deadline=3 * HOUR, on_demand=True)
    assert assess(terms, short, Memory()).lifecycle is Lifecycle.ON_DEMAND
    assert assess(terms.model_copy(update={"on_demand": False}), short, Memory()).lifecycle is Lifecycle.SPOT
    assert assess(terms.model_copy(update={"deadline": 9 * HOUR}), short, Memory()).lifecycle is Lifecycle.SPOT
    assert assess(terms.model_copy(update={"budget": 4.0}), short, Memory()).lifecycle is Lifecycle.SPOT
    assert assess(terms.model_copy(update={"max_price": 0.5}), short, Memory()).lifecycle is Lifecycle.SPOT
    # Back once there are enough machines again; not for a minute's difference.
    memory = Memory(lifecycle=Lifecycle.ON_DEMAND)
    enough = short.model_copy(update={"live": place().live, "pending": ()})
    assert assess(terms, enough, memory).lifecycle is Lifecycle.SPOT
    just = terms.model_copy(update={"deadline": HOUR + 2.8 * HOUR})
    assert assess(just, short, Memory()).lifecycle is Lifecycle.SPOT
    assert assess(just, short, memory).lifecycle is Lifecycle.ON_DEMAND


def test_terms_are_checked() -> None:
    with pytest.raises(ValueError, match="must not be above the budget"):
        Terms(budget=50, target=100)
    with pytest.raises(ValueError, match="greater than 0"):
        Terms(budget=0)
    with pytest.raises(ValueError, match="finite"):
        Terms(budget=float("inf"))


@pytest.mark.parametrize(
    ("text", "seconds"), [("48h", 172800), ("90m", 5400), ("2d", 172800), ("1d12h", 129600), ("300s", 300)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "48", "h", "48x", "-1h", "1h!", "1 fortnight"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="write 48h"):
        parse_duration(text)


def test_amounts() -> None:
    assert [parse_usd(text) for text in ("100", "$99.50", "100 USD")] == [100, 99.5, 100]
    for text in ("", "-1", "1e3", "ten", "100 EUR"):
        with pytest.raises(ValueError, match="US dollars"):
            parse_usd(text)
