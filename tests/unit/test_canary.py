"""The canary: what a sample is, what it is judged by, and that the others wait for it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.canary import Canary, Waiting, keep_verdict, read_verdict
from tasks.corpus import paths
from tasks.corpus.lives import Heartbeat
from tasks.corpus.manifest import Row
from tasks.corpus.partition import Bitmap
from tasks.corpus.store import open_store
from tasks.fleet.canary import Sample, Verdict, by_size, judge
from tasks.fleet.supervisor import Fleet
from tasks.governing import Seen


def sample(**facts: Any) -> Sample:
    given = {"documents": 20, "done": 20, "published": 20, "failed": 0, "processed": 20, "max_failure_rate": 0.05}
    return Sample.model_validate(given | facts)


HOPELESS = {"published": 0, "failed": 3, "done": 3, "processed": 3}
DEAR = {"pace": 1.0, "left": 360_000.0, "workers": 5, "usd_per_hour": 0.5}  # 100 h of one machine


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        ({}, Verdict.PASSED, "20 of 20 published"),
        ({"done": 19}, Verdict.PENDING, ""),
        ({"done": 3, "processed": 3, "published": 3, "ended": True}, Verdict.PASSED, "3 of 3"),
        ({"published": 19, "failed": 1}, Verdict.PASSED, "1 failed"),
        ({"published": 18, "failed": 2}, Verdict.FAILED, "failure rate 10.0%, the limit is 5.0%"),
        ({"done": 2, "processed": 2, "published": 0, "failed": 1}, Verdict.PENDING, ""),
        (HOPELESS, Verdict.FAILED, "nothing was published"),
        (DEAR | {"budget": 50.0}, Verdict.FAILED, r"over the budget of \$50.00 .*22.0 h on 5 workers, \$55.00 in all"),
        (DEAR | {"budget": 60.0}, Verdict.PASSED, r"22.0 h on 5 workers, \$55.00"),
        (DEAR | {"seconds_left": 21 * 3600.0}, Verdict.FAILED, "over the deadline, 21.0 h away"),
        (DEAR | {"seconds_left": 23 * 3600.0}, Verdict.PASSED, "22.0 h"),
        ({"processed": 0, "done": 0, "published": 0, "ended": True}, Verdict.PASSED, "0 of 0"),
    ],
)
def test_verdicts(facts: dict[str, Any], verdict: Verdict, words: str) -> None:
    found, why = judge(sample(**facts))
    assert found is verdict
    assert (why == "") == (words == "")
    if words:
        assert re.search(words, why), why


@given(st.lists(st.integers(0, 10**9), max_size=80), st.integers(1, 30))
def test_a_sample_is_even_by_size(weights: list[int], count: int) -> None:
    places = by_size(weights, count)
    assert len(set(places)) == len(places) == min(count, len(weights))
    assert [weights[p] for p in places] == sorted(weights[p] for p in places)
    if len(weights) >= 2 * count and count > 1:
        # Neither the lightest alone nor the heaviest: every part of the sizes has its document.
        ranks = sorted(range(len(weights)), key=lambda p: (weights[p], p))
        wide = len(weights) / count
        assert [int(ranks.index(p) // wide) for p in places] == list(range(count))


def test_only_what_waits_is_sampled_and_weighed() -> None:
    rows = [
        Row(index, f"{index}.pdf", f"{index}.md", size, "e", done=index == 1) for index, size in enumerate((5, 9, 7, 3))
    ]
    settled = Bitmap(4)
    settled.add(3)
    waiting = Waiting(rows, settled)
    assert waiting.weight == 12
    assert waiting.sample(20) == [2, 0]


def test_the_others_are_launched_once_it_passed() -> None:
    canary = Canary(2, 5, 100.0, max_failure_rate=0.05, treasury=None, budget=None, deadline=None)
    fleet = Fleet.of(1, 10)
    beat = Heartbeat(converted=1, sampled=1)
    assert canary.govern(fleet, Seen(totals=beat), 0.0).wanted is None
    passed = canary.govern(fleet, Seen(totals=beat.model_copy(update={"converted": 2, "sampled": 2})), 1.0)
    assert (passed.wanted, passed.stop) == (5, None)
    assert passed.say[0].startswith("canary passed: 2 of 2")
    # Judged once: what comes later is the breaker's and the failure rate's.
    assert canary.govern(fleet, Seen(totals=Heartbeat(failed=9)), 2.0).stop is None


def test_a_wish_to_scale_counts_for_more_than_the_plan() -> None:
    canary = Canary(1, 5, 100.0, max_failure_rate=0.05, treasury=None, budget=None, deadline=None)
    # Also where somebody asked for as many as there are.
    fleet = Fleet.of(1, 10)
    fleet.by_hand = True
    assert canary.govern(fleet, Seen(totals=Heartbeat(converted=1, sampled=1)), 0.0).wanted is None


def test_what_a_dead_life_could_not_tell_of_the_sample_counts() -> None:
    """It died with seven done and three told; its successor finds the others done, and has none left to see."""
    kept: list[Verdict] = []
    canary = Canary(7, 5, 100.0, max_failure_rate=0.05, treasury=None, budget=None, deadline=None, keep=kept.append)
    totals = Heartbeat(converted=3, sampled=3)
    successor = Heartbeat(sample_left=2)
    assert canary.govern(Fleet.of(1, 10), Seen(totals=totals, beats={0: successor}), 0.0).wanted is None
    done = Seen(totals=totals, beats={0: successor.model_copy(update={"sample_left": 0})})
    assert canary.govern(Fleet.of(1, 10), done, 1.0).wanted == 5
    assert kept == [Verdict.PENDING, Verdict.PASSED]


def test_a_verdict_is_kept_with_the_run(tmp_path: Path) -> None:
    runs = open_store(str(tmp_path / "runs"), writable=True)
    assert read_verdict(runs, "r1") is None
    for verdict in (Verdict.PENDING, Verdict.FAILED):
        keep_verdict(runs, "r1", verdict)
        assert read_verdict(runs, "r1") is verdict
    runs.put(paths.canary("r1"), b"nonsense")
    assert read_verdict(runs, "r1") is None


def test_a_bad_sample_stops_the_run() -> None:
    canary = Canary(5, 5, 100.0, max_failure_rate=0.05, treasury=None, budget=None, deadline=None)
    stop = canary.govern(Fleet.of(1, 10), Seen(totals=Heartbeat(failed=5, sampled=5)), 0.0).stop
    assert stop == "canary: nothing was published (0 of 5 published, 5 failed); --canary 0 goes on without one"
