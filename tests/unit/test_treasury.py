"""The treasury: asks before it launches, pays for who lives, stops in time, and goes on where a former parent left off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.corpus import paths
from tasks.corpus.failures import StoreError, UsageError
from tasks.corpus.lives import Heartbeat, Life, Process
from tasks.corpus.store import Store, open_store
from tasks.fleet.budget import Terms
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.prices import AwsPrices, FixedPrices, Prices
from tasks.fleet.supervisor import Fleet
from tasks.governing import Seen
from tasks.treasury import Treasury

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"), writable=True)


def treasury(runs: Store, clock: Clock, terms: Terms, prices: Prices | None = None, **more: Any) -> Treasury:
    given = {"types": ("g4dn.xlarge",), "region": "us-east-1", "weight": 1000.0} | more
    return Treasury(runs, "r1", terms, prices or FixedPrices(0.2, ceiling=0.5), clock=clock, **given)


def life(machine: str, launch: int = 0, uptime: float = 0.0) -> Life:
    facts = {"id": machine, "type": "g4dn.xlarge", "zone": "us-east-1a", "lifecycle": "spot", "uptime": uptime}
    process = Process(host="elsewhere", pid=1, started=1)
    return Life(process=process, hostname=machine, launch=launch, machine=facts)


def spent(runs: Store) -> float:
    return float(json.loads(runs.read(paths.spend("r1") + "spend.json"))["spent"])


def test_the_record_is_there_before_a_machine_is_asked_for(runs: Store) -> None:
    money = treasury(runs, Clock(), Terms(budget=10.0))
    money.launching(0, 0)
    record = json.loads(runs.read(paths.spend("r1") + "spend.json"))
    assert record["spend"]["launches"]["0/0"]["ceiling"] == 0.5


def test_a_launch_that_cannot_be_written_down_is_none(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    money = treasury(runs, Clock(), Terms(budget=10.0))

    def refuse(key: str, data: bytes) -> None:
        raise StoreError("503")

    monkeypatch.setattr(runs, "put", refuse)
    with pytest.raises(StoreError):
        money.launching(0, 0)


def test_who_lives_is_paid_for_and_claiming_stops_before_the_cap(runs: Store) -> None:
    clock = Clock()
    money = treasury(runs, clock, Terms(budget=1.0, target=0.1))
    fleet = Fleet.of(2, 100)
    lives = {"0/0": life("i-1"), "1/0": life("i-2")}
    stop, said = None, []
    for minute in range(240):
        totals = Heartbeat(weight=minute, working_seconds=60.0 * minute, converted=minute)
        ruling = money.govern(fleet, Seen(lives=lives, totals=totals), 0.0)
        said += ruling.say
        if ruling.stop is not None:
            stop = ruling.stop
            break
        clock.now += 60
    assert stop is not None
    assert stop.startswith("budget: $")
    assert "what is left would cost about $" in stop
    # Two machines of $0.2 an hour: the reserve of two ceilings of $0.5 for 27 minutes stays untouched.
    assert 0.4 < spent(runs) < 0.62
    assert any("past the target of $0.10" in text for text in said)
    assert any("more than the budget of $1.00" in text for text in said)
    # They take as long as they may: it stays below the cap all the same.
    clock.now += 240
    money.govern(fleet, Seen(lives=lives), 0.0)
    money.close(Seen(lives=lives, over=set(lives)))
    clock.now += HOUR
    assert money.close(None).spent < 1.0


def test_the_counter_advances_while_it_can_be_written(runs: Store) -> None:
    clock = Clock()
    money = treasury(runs, clock, Terms(budget=10.0))
    first = money.govern(Fleet.of(1, 9), Seen(), 0.0).spend
    clock.now += 60
    second = money.govern(Fleet.of(1, 9), Seen(), 0.0).spend
    assert first is not None
    assert second == first + 1


def test_another_parent_goes_on_with_what_was_spent(runs: Store) -> None:
    clock = Clock()
    money = treasury(runs, clock, Terms(budget=10.0))
    for _ in range(3):
        money.govern(Fleet.of(1, 9), Seen(lives={"0/0": life("i-1")}), 0.0)
        clock.now += 1200
    before = spent(runs)
    assert before > 0.1
    again = treasury(runs, Clock(), Terms(budget=10.0))
    assert again.money().spent >= before
    # A budget that is spent launches nobody.
    poor = treasury(runs, Clock(), Terms(budget=before))
    ruling = poor.govern(Fleet.of(1, 9), Seen(), 0.0)
    assert ruling.stop is not None
    assert ruling.launches == 0


def test_a_launch_without_a_machine_is_withdrawn(runs: Store) -> None:
    money = treasury(runs, Clock(), Terms(budget=10.0))
    money.launching(0, 0)
    money.govern(Fleet.of(1, 9), Seen(withdrawn={"0/0": False}), 0.0)
    assert money.money().spent == 0


def test_own_machines_cost_nothing_and_the_deadline_holds(runs: Store) -> None:
    clock = Clock()
    terms = Terms(deadline=HOUR, teardown_seconds=0.0)
    money = treasury(runs, clock, terms, AwsPrices(), types=())
    own = Life(process=Process(host="h", pid=1, started=1), hostname="h", machine={"id": "h", "lifecycle": "own"})
    assert money.govern(Fleet.of(1, 9), Seen(lives={"0/0": own}), 0.0).stop is None
    clock.now += HOUR
    stop = money.govern(Fleet.of(1, 9), Seen(lives={"0/0": own}), 0.0).stop
    assert stop is not None
    assert stop.startswith("the deadline of 60 min has passed")
    assert money.money().spent == 0


def test_a_life_that_does_not_say_where_it_runs_counts_as_the_dearest(runs: Store) -> None:
    clock = Clock()
    money = treasury(runs, clock, Terms(budget=10.0), AwsPrices(max_price=0.3))
    unknown = Life(process=Process(host="h", pid=1, started=1), hostname="h")
    money.govern(Fleet.of(1, 9), Seen(lives={"0/0": unknown}), 0.0)
    clock.now += HOUR
    money.govern(Fleet.of(1, 9), Seen(lives={"0/0": unknown}), 0.0)
    assert money.money().spent >= 0.3


def test_a_rented_machine_that_does_not_know_itself_is_not_free(runs: Store) -> None:
    """Its metadata service did not answer: it takes itself for somebody's own."""
    clock = Clock()
    money = treasury(runs, clock, Terms(budget=10.0), AwsPrices(max_price=0.3))
    own = Life(process=Process(host="h", pid=1, started=1), hostname="h", machine={"id": "h", "lifecycle": "own"})
    for _ in range(2):
        money.govern(Fleet.of(1, 9), Seen(lives={"0/0": own}), 0.0)
        clock.now += HOUR
    assert money.money().spent >= 0.3


def test_the_machine_of_local_workers_has_its_price_before_anything_is_started(runs: Store) -> None:
    ours = Machine(id="i-1", type="g4dn.xlarge", lifecycle=Lifecycle.ON_DEMAND, region="us-east-1", uptime=50 * HOUR)
    clock, terms = Clock(), Terms(budget=1.0, teardown_seconds=0.0, start_seconds=30.0, worth_seconds=0.0)
    money = treasury(runs, clock, terms, AwsPrices(), types=(), shared=True, own=ours)
    money.launching(0, 0)
    money.launching(1, 0)
    record = json.loads(runs.read(paths.spend("r1") + "spend.json"))["spend"]["launches"]
    # One machine for all, and what it did before the run is not the run's.
    assert [launch["ceiling"] for launch in record.values()] == [0.526, 0.0]
    facts = ours.model_dump(mode="json")
    lives = {
        f"{k}/0": Life(process=Process(host="h", pid=1, started=1), hostname="h", launch=0, machine=facts)
        for k in (0, 1)
    }
    clock.now += HOUR
    money.govern(Fleet.of(2, 9), Seen(lives=lives), 0.0)
    assert 0.5 < money.money().spent < 0.65
    with pytest.raises(UsageError, match=r"p3\.2xlarge.*--max-price"):
        treasury(runs, Clock(), terms, AwsPrices(), types=(), own=ours.model_copy(update={"type": "p3.2xlarge"}))


def test_machines_with_a_named_price_are_reserved_one_by_one(runs: Store) -> None:
    """A work pool of another cloud: nothing is rented from AWS, and each launch is a machine."""
    money = treasury(runs, Clock(), Terms(budget=10.0), FixedPrices(0.5), types=())
    money.launching(0, 0)
    money.launching(1, 0)
    record = json.loads(runs.read(paths.spend("r1") + "spend.json"))["spend"]["launches"]
    assert [launch["ceiling"] for launch in record.values()] == [0.5, 0.5]


def test_the_deadline_counts_from_the_runs_first_start(runs: Store) -> None:
    clock = Clock()
    terms = Terms(deadline=HOUR, teardown_seconds=0.0)
    first = treasury(runs, clock, terms, AwsPrices(), types=())
    clock.now += 3000
    first.close(Seen())
    again = treasury(runs, clock, terms, AwsPrices(), types=())
    clock.now += 700
    stop = again.govern(Fleet.of(1, 9), Seen(), 0.0).stop
    assert stop is not None
    assert stop.endswith("a larger --deadline goes on")


def test_a_parent_that_was_overtaken_does_not_replace_its_heirs_record(runs: Store) -> None:
    clock = Clock()
    money = treasury(runs, clock, Terms(budget=10.0))
    money.govern(Fleet.of(1, 9), Seen(lives={"0/0": life("i-1")}), 0.0)
    heir = treasury(runs, clock, Terms(budget=10.0))
    clock.now += HOUR
    heir.govern(Fleet.of(1, 9), Seen(lives={"0/1": life("i-2")}), 0.0)
    before = runs.read(paths.spend("r1") + "spend.json")
    money.close(Seen())
    with pytest.raises(StoreError, match="another parent's"):
        money.launching(1, 0)
    assert runs.read(paths.spend("r1") + "spend.json") == before


def test_a_type_without_a_price_is_refused_before_anything_is_started(runs: Store) -> None:
    with pytest.raises(UsageError, match="--max-price"):
        treasury(runs, Clock(), Terms(budget=10.0), AwsPrices(), types=("x99.huge",))


def test_a_spend_record_that_makes_no_sense_is_refused(runs: Store) -> None:
    runs.put(paths.spend("r1") + "spend.json", b"{")
    with pytest.raises(UsageError, match="no spend record"):
        treasury(runs, Clock(), Terms(budget=10.0))


def test_machines_of_a_former_parent_that_nobody_took_over_are_torn_down(runs: Store) -> None:
    clock = Clock()
    money = treasury(runs, clock, Terms(budget=10.0))
    money.launching(0, 0)
    money.launching(1, 0)
    money.launching(2, 0)
    money.govern(Fleet.of(2, 9), Seen(lives={"0/0": life("i-1"), "1/0": life("i-2")}), 0.0)
    money.close(None)
    again = treasury(runs, clock, Terms(budget=10.0), living={"1/0"}, launched={2})
    assert (again.money().machines, again.money().leaving) == (1, 1)
    record = again._book.spend
    assert set(record.launches) == {"2/0"}
    clock.now += 3 * HOUR
    # i-1 was paid for until its teardown was over, i-2 all the time.
    again.govern(Fleet.of(2, 9), Seen(lives={"1/0": life("i-2")}), 0.0)
    assert again.money().leaving == 0
    assert 0.6 < again.money().spent < 2.2


def test_a_launch_that_could_not_be_written_down_is_forgotten(runs: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    money = treasury(runs, Clock(), Terms(budget=10.0))
    monkeypatch.setattr(runs, "put", lambda *_: (_ for _ in ()).throw(StoreError("503")))
    with pytest.raises(StoreError):
        money.launching(0, 0)
    assert money._book.spend.launches == {}
