"""The spend ledger: bills by the second, machines once however many workers, what is not known at its dearest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fleet.book import BadRecord, Overtaken, SpendBook
from tasks.fleet.budget import Memory
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.prices import FixedPrices
from tasks.fleet.spend import HOUR, PricePoint, Rental, Spend, cost

MACHINE = Machine(id="i-1", type="g4dn.xlarge", zone="us-east-1a", lifecycle=Lifecycle.SPOT, uptime=480.0)


def rental(since: float, until: float | None, *points: tuple[float, float], priced: float | None = None) -> Rental:
    return Rental(
        machine=MACHINE,
        since=since,
        until=until,
        ceiling=1.0,
        extras=0.1,
        prices=[PricePoint(since=at, usd_per_hour=usd) for at, usd in points],
        priced_until=since if priced is None else priced,
    )


def test_seconds_times_price_history() -> None:
    bill = rental(0, 7200, (0, 0.2), (3600, 0.4), priced=7200)
    assert cost(bill, 7200) == (pytest.approx(0.2 + 0.4 + 0.2), 7200)
    assert cost(bill, 5400).usd == pytest.approx(0.2 + 0.2 + 0.15)
    assert cost(bill, 1e6) == cost(bill, 7200)


def test_a_minute_at_least_and_whole_seconds() -> None:
    assert cost(rental(0, 10), 10) == (pytest.approx(60 * 1.1 / HOUR), 60)
    assert cost(rental(0, 100.2), 200).seconds == 101


def test_what_no_quote_confirms_is_at_the_ceiling() -> None:
    bill = rental(0, None, (0, 0.2), priced=3600)
    assert cost(bill, 7200).usd == pytest.approx(0.2 + 1.0 + 0.2)
    earlier = rental(-3600, None, (0, 0.2), priced=3600)
    assert cost(earlier, 3600).usd == pytest.approx(1.0 + 0.2 + 0.2)


@given(
    st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 1)), max_size=5).map(lambda points: sorted(points)),
    st.floats(0, 10_000),
    st.floats(0, 10_000),
)
def test_bills_grow_and_stay_below_the_ceiling(points: list[tuple[float, float]], one: float, other: float) -> None:
    bill = rental(0, 8000, *points, priced=6000)
    early, late = cost(bill, min(one, other)), cost(bill, max(one, other))
    # The rest of the first minute, and of a second, is at the ceiling until a quote confirms less.
    rest = 60 if early.seconds <= 60 else 1
    assert early.usd <= late.usd + rest * 1.0 / HOUR + 1e-9
    assert late.usd <= late.seconds * 1.1 / HOUR + 1e-9


def seen(spend: Spend, life: str, machine: Machine, at: float, **more: object) -> None:
    spend.see(life, machine, at=at, ceiling=1.0, extras=0.1, late=0.0, **more)  # type: ignore[arg-type]


def test_workers_of_one_machine_pay_once() -> None:
    spend = Spend()
    seen(spend, "0/0", MACHINE, 600)
    seen(spend, "1/0", MACHINE, 620)
    assert spend.spent(3660) == pytest.approx(3600 * 1.1 / HOUR)  # since 600 - 480 - 60
    spend.leave("0/0", at=1000, teardown_seconds=300)
    assert len(spend.live()) == 1
    spend.leave("1/0", at=2000, teardown_seconds=300)
    assert spend.live() == ()
    assert spend.ending(2100) == pytest.approx(200 * 1.1 / HOUR)
    assert spend.spent(9999) == pytest.approx((2300 - 60) * 1.1 / HOUR)
    spend.gone("i-1", at=2100)
    assert spend.spent(9999) == pytest.approx((2100 - 60) * 1.1 / HOUR)
    # The next worker on the same machine: it was there all the time.
    seen(spend, "2/0", MACHINE, 3000)
    assert spend.spent(3660) == pytest.approx(3600 * 1.1 / HOUR)


def test_launches_wait_for_their_machine() -> None:
    spend = Spend()
    for launch in ("a", "b", "c"):
        spend.ask(launch, at=100, ceiling=2.0, extras=0.0)
    assert [rate.waited for rate in spend.pending(150)] == [50, 50, 50]
    seen(spend, "0/0", MACHINE, 700, launch="a")
    spend.withdraw("b", at=700, start_seconds=900, teardown_seconds=300)
    spend.withdraw("c", at=700, start_seconds=900, teardown_seconds=300, machine=False)
    assert spend.pending(700) == ()
    # b: as if its machine had run since it was asked for, until it is torn down.
    paid_b = (600 + 300) * 2.0 / HOUR
    assert spend.spent(1000) == pytest.approx(paid_b + (1000 - 160) * 1.1 / HOUR)


def test_a_gap_is_at_the_ceiling_for_what_lived() -> None:
    spend = Spend()
    seen(spend, "0/0", MACHINE, 540)  # since 0
    spend.price("i-1", 0.2, at=3600)
    spend.at = 3600
    spend.resume(3600, orphan_seconds=600)
    assert spend.at == 7200
    spend.price("i-1", 0.2, at=10800)  # what a quote says later does not make the gap cheaper
    assert spend.spent(10800) == pytest.approx(0.2 + 1.0 + 0.2 + 0.3)


def test_orphans() -> None:
    """Not seen after a long gap: their workers ended by the rule. After a short one they may have lived until just now."""
    for gap, until in ((7200.0, 3600 + 600.0), (60.0, 3660 + 30 + 300.0), (1.0, 3600 + 600.0)):
        spend = Spend()
        seen(spend, "0/0", MACHINE, 540)
        spend.at = 3600
        spend.resume(gap, orphan_seconds=600)
        teardown = 300 if gap > 1 else 100
        spend.leave("0/0", at=spend.at + (30 if gap < 100 else 75), teardown_seconds=teardown)
        assert spend.rentals["i-1"].until == (until if gap != 60.0 else max(until, 4200.0))


def test_a_machine_seen_again_after_a_gap_goes_on() -> None:
    spend = Spend()
    seen(spend, "0/0", MACHINE, 540)
    spend.at = 3600
    spend.resume(60, orphan_seconds=600)
    # The parents' clocks differ: the machine's own uptime says that the gap was an hour.
    seen(spend, "0/0", MACHINE.model_copy(update={"uptime": 7140.0}), 3660)
    assert spend.rentals["i-1"].since == 3660 - 7140 - 60
    assert spend.rentals["i-1"].orphan_until is None


def test_unseen_launches_of_an_earlier_parent() -> None:
    spend = Spend()
    spend.ask("a", at=0, ceiling=1.0, extras=0.0)
    spend.resume(HOUR, orphan_seconds=600)
    spend.withdraw("a", at=HOUR, start_seconds=900, teardown_seconds=200)
    assert spend.spent(2 * HOUR) == pytest.approx((900 + 600) * 1.0 / HOUR)


def test_an_adopted_launch_is_paid_since_it_was_asked_for() -> None:
    spend = Spend()
    spend.ask("a", at=0, ceiling=1.0, extras=0.1)
    spend.resume(HOUR, orphan_seconds=600)
    seen(spend, "0/0", MACHINE, HOUR, launch="a")  # its uptime is what it was when it started
    assert spend.rentals["i-1"].since == 0


def test_own_machine_that_was_there_before() -> None:
    spend = Spend()
    spend.see("0/0", MACHINE, at=30, ceiling=0.5, extras=0.0, not_before=0.0)
    assert spend.rentals["i-1"].since == 0


def test_six_thousand_rentals_make_a_small_record() -> None:
    spend = Spend()
    for n in range(6000):
        machine = MACHINE.model_copy(update={"id": f"i-{n}"})
        seen(spend, f"{n}/0", machine, 1000)
        spend.leave(f"{n}/0", at=1000, teardown_seconds=100)
    before = spend.spent(1e6)
    closed = spend.fold(1e6)
    assert len(closed) == 6000
    assert spend.spent(1e6) == pytest.approx(before) == pytest.approx(sum(line.usd for line in closed))
    assert spend.totals["g4dn.xlarge/spot/us-east-1a"].rentals == 6000
    assert len(spend.model_dump_json()) < 1000


class Kept:
    """Records in memory."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.fail = False

    def read(self, key: str) -> bytes | None:
        return self.data.get(key)

    def put(self, key: str, data: bytes) -> None:
        if self.fail:
            raise OSError("away")
        self.data[key] = data

    def create(self, key: str, data: bytes) -> bool:
        new = key not in self.data
        self.data.setdefault(key, data)
        return new


class Clock:
    def __init__(self, t: float = 0.0) -> None:
        self.t = t

    def __call__(self) -> float:
        return self.t


def test_the_next_parent_goes_on() -> None:
    kept, clock, wall = Kept(), Clock(500.0), Clock(1e9)
    book = SpendBook(kept, "run/spend/", orphan_seconds=600, clock=clock, wall=wall)
    assert not book.found
    assert book.now == 0
    seen(book.spend, "0/0", MACHINE.model_copy(update={"uptime": 0.0}), 60)  # since 0
    clock.t += 3600
    wall.t += 3600
    book.confirm(FixedPrices(0.25, ceiling=1.0))
    book.memory = Memory(warned=("x",), stopped="budget")
    assert book.write() == 1
    assert book.write() == 2
    # Another host, whose clock counts from elsewhere, half an hour later.
    wall.t += 1800
    heir = SpendBook(kept, "run/spend/", orphan_seconds=600, clock=Clock(7.0), wall=wall)
    assert heir.found
    assert heir.now == 5400
    assert heir.counter == 2
    assert heir.memory == Memory(warned=("x",))
    assert heir.spend.spent(5400) == pytest.approx(0.25 + 0.5 + 0.15)
    assert heir.write() == 3


def test_a_write_that_fails_leaves_nothing_out() -> None:
    kept, clock = Kept(), Clock()
    book = SpendBook(kept, "s/", orphan_seconds=600, clock=clock, wall=clock)
    seen(book.spend, "0/0", MACHINE, 540)
    book.spend.leave("0/0", at=540, teardown_seconds=60)
    clock.t = 10_000
    kept.fail = True
    with pytest.raises(OSError, match="away"):
        book.write()
    assert book.counter == 0
    kept.fail = False
    assert book.write() == 1
    lines = [key for key in kept.data if key.startswith("s/rentals/")]
    assert len(lines) == 1
    assert book.spend.rentals == {}
    assert book.spend.spent(10_000) == pytest.approx(600 * 1.1 / HOUR)


def test_a_write_whose_answer_was_lost_is_no_other_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, clock = Kept(), Clock()
    book = SpendBook(kept, "s/", orphan_seconds=600, clock=clock, wall=clock)
    assert book.write() == 1
    put = kept.put

    def lost(key: str, data: bytes) -> None:
        put(key, data)
        raise OSError("the answer is lost")

    monkeypatch.setattr(kept, "put", lost)
    for _ in range(2):
        with pytest.raises(OSError, match="lost"):
            book.write()
    monkeypatch.setattr(kept, "put", put)
    assert book.write() == 4
    heir = SpendBook(kept, "s/", orphan_seconds=600, clock=clock, wall=clock)
    heir.write()
    with pytest.raises(Overtaken):
        book.write()


def test_an_own_machines_pause_between_two_starts_is_not_the_runs() -> None:
    spend = Spend()
    own = Machine(id="h", lifecycle=Lifecycle.OWN, uptime=9999.0)
    spend.see("0/0", own, at=10, ceiling=60, extras=0, not_before=0)
    spend.leave("0/0", at=70, teardown_seconds=0)
    spend.resume(200, orphan_seconds=600)
    assert spend.at == 270
    spend.see("0/1", own, at=280, ceiling=60, extras=0, not_before=270)
    assert spend.spent(330) == pytest.approx((70 + 60) * 60 / HOUR)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"counter": "x"}', b'{"schema_version": 99}', b'{"spend": {"at": NaN}}', b'{"written": Infinity}'],
)
def test_a_record_that_makes_no_sense_is_refused(data: bytes) -> None:
    kept = Kept()
    kept.data["s/spend.json"] = data
    with pytest.raises(BadRecord, match=r"s/spend\.json"):
        SpendBook(kept, "s/", orphan_seconds=600)
