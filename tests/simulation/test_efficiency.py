"""Efficiency: wall-clock within 5 % of total work / mean machines up.

Mean machines up = machine-time up / wall-clock, so the bound says: machine-time up <= 1.05 x the documents' work, each second
of it counted once. Up is from a worker's first heartbeat until it ends or its machine goes; a worker that found nothing more is
taken to stay up, idle, until the last document of the run is done (in truth its machine is let go). Beside first-time work are,
then, work repeated after hard losses, waiting, and the idle tail. Waiting for machines and boots are not up; what they cost in
wall-clock shows in the table's last column, `World.stretch`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation.fleet_world import World


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_five_percent(seed: int, tmp_path: Path) -> None:
    found = {policy: World(seed, 4000, 5, tmp_path, policy).run() for policy in ("shipped", "modulo", "queue")}
    for policy, world in found.items():
        hours = f"{world.total / 3600:.1f} | {world.up / 3600:.1f}"
        print(
            f"| {seed} | {policy} | {hours} | {world.tail / 60:.0f} | {world.repeated / 60:.0f} | {100 * world.overhead:.2f} % "
            f"| {world.interruptions} | {world.ended_at / 3600:.2f} | {world.stretch:.3f} |"
        )
        assert len(world.done) == 4000
        assert world.worked == pytest.approx(world.total), "two workers worked on one document"
    shipped = found["shipped"]
    assert shipped.overhead <= 0.05
    assert shipped.ended_at <= found["modulo"].ended_at
