"""Promise 4 with the whole run around it: whatever happens to machines, parents, prices and the store, bills stay below the cap.

`tests/unit/test_budget.py` has a thousand worlds around the budget functions alone; here the shipped supervisor, launches,
claims, heartbeats, fences, treasury and budget run together (`tests/simulation/budget_world.py`).
"""

from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import sys
import types
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import protocol_world
import pytest

from simulation import budget_world
from simulation.budget_world import BudgetWorld
from tasks.corpus.claims import Claims
from tasks.fleet import budget, spend, supervisor
from tasks.fleet.spend import Spend
from tasks.lease import ParentLease
from tasks.pulse import Pulse
from tasks.supervise import Supervision
from tasks.treasury import Treasury

DOCUMENTS = 200
ENOUGH = 120
"""Worlds in which a mutant must be caught."""
Patch = pytest.MonkeyPatch


class Outcome(NamedTuple):
    """What came of one world."""

    seed: int
    share: float
    """Of the budget, that was paid."""
    done: int
    losses: int
    interruptions: int
    why: str
    wrongs: list[str]


def simulate(seed: int) -> Outcome:
    with Patch.context() as patch:
        world = BudgetWorld(patch, seed, DOCUMENTS)
        try:
            world.run()
            return Outcome(seed, world.share, world.done, world.losses, world.interruptions, world.why, world.wrongs())
        finally:
            world.close()


def judge(outcomes: Iterable[Outcome]) -> str:
    """Nothing is wrong with any; and the worlds are worth something: budgets were nearly spent, parents were lost."""
    found = list(outcomes)
    assert not [(world.seed, world.share) for world in found if world.share > 1]
    assert not [(world.seed, world.wrongs) for world in found if world.wrongs]
    stopped = sum(world.why.startswith("budget") for world in found)
    losses, whole = sum(world.losses for world in found), sum(world.done == DOCUMENTS for world in found)
    assert stopped > len(found) / 10
    assert losses > len(found) / 4
    assert whole > len(found) / 10
    return (
        f"{len(found)} runs of {DOCUMENTS} documents: {sum(world.done for world in found)} published, {whole} whole, "
        f"{stopped} stopped by the budget, {losses} parents lost, {sum(world.interruptions for world in found)} machines "
        f"taken away; most spent {100 * max(world.share for world in found):.2f} % of the budget"
    )


def many(seeds: range) -> str:
    # Each process has clocks of its own to patch.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        return judge(pool.map(simulate, seeds, chunksize=10))


def test_no_run_costs_more_than_its_budget() -> None:
    judge(simulate(seed) for seed in range(10))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_fifty_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = many(range(50))
    with capsys.disabled():
        print(f"\n{text}")


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_thousand_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = many(range(10_000))
    with capsys.disabled():
        print(f"\n{text}")


# -- what breaks it --------------------------------------------------------------------------------------------------


def _set(owner: object, name: str, value: object) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def _endless(patch: Patch) -> None:
    patch.setattr(Pulse, "may_claim", lambda self: True)
    patch.setattr("tasks.pulse.SPEND_PATIENCE_SECONDS", float("inf"))
    patch.setattr(Pulse, "_parent_gone", lambda self: False)


MUTANTS: dict[str, Callable[[Patch], None]] = {
    "no reserve": _set(budget, "committed", lambda terms, position: position.spent),
    "launches without bound": _set(budget, "_launches", lambda *position: None),
    "launches are not written down": _set(Treasury, "launching", lambda self, worker, launch: None),
    "workers go on without a parent": _endless,
    "the gap between parents forgotten": _set(Spend, "resume", lambda self, gap, **how: None),
    "an overrun is not a stop": _set(budget, "_stop", lambda terms, position, bound: None),
}


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_caught(mutant: str, monkeypatch: Patch) -> None:
    MUTANTS[mutant](monkeypatch)
    assert any(simulate(seed).share > 1 for seed in range(ENOUGH))


# -- shipped ---------------------------------------------------------------------------------------------------------

SHIPPED: dict[str, tuple[object, ...]] = {
    "tasks/fleet/supervisor.py": (supervisor.step, supervisor.over, supervisor.recounted, supervisor.stop),
    "tasks/fleet/budget.py": (budget.assess, budget.committed),
    "tasks/fleet/spend.py": (spend.cost, Spend.spent, Spend.see, Spend.leave, Spend.withdraw, Spend.resume),
    "tasks/corpus/claims.py": (Claims.take, Claims.release, Claims.mine),
    "tasks/treasury.py": (Treasury.govern, Treasury.launching, Treasury.close),
    "tasks/supervise.py": (Supervision.run, Supervision._step, Supervision._launch, Supervision._govern),
    "tasks/pulse.py": (Pulse.may_claim, Pulse._tick, Pulse._look),
    "tasks/lease.py": (ParentLease.stop, ParentLease.tell),
}
NAMES = {
    "step",
    "over",
    "recounted",
    "assess",
    "committed",
    "cost",
    "Spend",
    "Claims",
    "Treasury",
    "Supervision",
    "Pulse",
}


def test_the_shipped_functions_run(monkeypatch: Patch) -> None:
    """While a world runs, each of them is the one of its module, and it is called."""
    world = BudgetWorld(monkeypatch, 6, 20)
    root = Path(supervisor.__file__).parents[2]
    wanted = {
        function.__code__: path
        for path, some in SHIPPED.items()
        for function in some
        if isinstance(function, types.FunctionType)
    }
    assert len(wanted) == sum(map(len, SHIPPED.values()))
    called: set[types.CodeType] = set()

    sys.setprofile(lambda frame, event, arg: called.add(frame.f_code) if event == "call" else None)
    try:
        world.run()
    finally:
        sys.setprofile(None)
        world.close()
    assert world.done
    for code, path in wanted.items():
        assert Path(code.co_filename) == root / path
    for name in ("step", "over"):
        assert getattr(importlib.import_module("tasks.supervise").supervisor, name).__code__ in called
    assert {budget.assess.__code__, budget.committed.__code__, Claims.take.__code__, Pulse.may_claim.__code__} <= called
    assert {Treasury.govern.__code__, Treasury.launching.__code__, Supervision._launch.__code__} <= called


def test_nothing_is_made_anew() -> None:
    for module in (budget_world, protocol_world):
        for node in ast.parse(Path(module.__file__ or "").read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.name not in NAMES, f"{module.__name__}: {node.name}"
