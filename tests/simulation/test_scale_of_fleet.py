"""A million documents and 200 workers: requests to the store, USD for them, requests to Prefect, memory of the parent's state.

Claims, listings, ledgers and outputs are those that the shipped code sent to the counting store; heartbeats and the parent's
looks are reckoned from machine-time and wall-clock: a beat is 1 PUT, 1 HEAD and 2 GET each 15 s, a look 1 GET a worker and 1 LIST
each 5 s, and one Prefect call per 200 runs each 2 s.
"""

from __future__ import annotations

import gc
import math
import time
import tracemalloc
from pathlib import Path

import pytest
from memory_store import USD

from simulation.fleet_world import World
from tasks.corpus.lives import BEAT_SECONDS
from tasks.fleet.supervisor import Fleet, Sight, step

LOOK_SECONDS = 5.0
PREFECT_SECONDS = 2.0
RUNS_A_CALL = 200
TOLD_EVERY = 3 * 3600.0


def pulses(world: World) -> dict[str, float]:
    """Requests that are not simulated, by kind."""
    beats, looks = world.up / BEAT_SECONDS, world.ended_at / LOOK_SECONDS
    return {"PUT": beats, "HEAD": beats, "GET": 2 * beats + looks * world.workers, "LIST": looks}


def simulate(documents: int, workers: int, folder: Path) -> None:
    begun = time.process_time()
    world = World(1, documents, workers, folder)
    gc.freeze()  # millions of rows, which are there to the end

    def tell() -> None:
        """How far it is, for who waits for the large ones."""
        spent = time.process_time() - begun
        print(f"{world.now / 3600:.0f} h: {len(world.done)} documents, {spent:.0f} s of CPU", flush=True)
        if not world.over:
            world.at(world.now + TOLD_EVERY, tell)

    world.at(TOLD_EVERY, tell)
    try:
        world.run()
    finally:
        gc.unfreeze()
    assert len(world.done) == documents
    assert world.worked == pytest.approx(world.total)
    hours = world.ended_at / 3600
    print(
        f"\n{documents} documents, {workers} workers, seed 1: {hours:.1f} h, {100 * world.overhead:.2f} % beside work"
    )
    print(f"interruptions {world.interruptions}, launches {world.launches}")
    usd = 0.0
    beside = pulses(world)
    for kind in sorted({*beside, *world.store.requests}):
        sent, reckoned = world.store.requests[kind], beside.get(kind, 0.0)
        usd += (sent + reckoned) * USD[kind]
        print(f"| {kind} | {sent} | {reckoned:.0f} | {(sent + reckoned) / world.ended_at:.2f} |")
    for (kind, room), count in world.store.by_room.most_common(12):
        print(f"|   | {kind} {room} | {count} |")
    print(f"of the parent's page: {dict(world.of_page)} in {world.looks} looks, {world.looking:.0f} s of CPU")
    print(
        f"supervisor: {world.steps} steps, {world.stepping:.0f} s of CPU; whole: {time.process_time() - begun:.0f} s of CPU"
    )
    print(
        f"wall-clock over ideal {world.stretch:.4f}, idle tail {world.tail / 3600:.2f} h, repeated {world.repeated / 3600:.2f} h"
    )
    print(f"USD {usd:.2f}; Prefect {math.ceil(workers / RUNS_A_CALL) / PREFECT_SECONDS:.1f} calls a second")
    assert usd < 0.01 * world.up / 3600, "more than a cent a machine-hour"


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_twentieth(tmp_path: Path) -> None:
    simulate(50_000, 10, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_fortieth_of_it_with_all_workers(tmp_path: Path) -> None:
    simulate(25_000, 200, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_tenth_of_it_with_all_workers(tmp_path: Path) -> None:
    simulate(100_000, 200, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_million(tmp_path: Path) -> None:
    simulate(1_000_000, 200, tmp_path)


def test_the_supervisor_of_200_workers_is_small() -> None:
    """The parent's state for 200 workers, with a sight of each, stays below 1 MB."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        fleet = Fleet.of(200, 1_000_000)
        step(fleet, {}, 0.0)
        sights = {k: Sight(beaten=True, in_hand=2, idle=float(k)) for k in range(200)}
        step(fleet, sights, 5.0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(f"supervisor of 200 workers: {used / 1000:.0f} kB")
    assert used < 1_000_000
