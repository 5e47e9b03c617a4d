"""Fixtures of the chaos tests: one local Prefect server for all commands, and places to convert in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chaos.harness import Place, environment

HOLD = """
import sys
from deployments.server import PrefectServer, ServerSettings
with PrefectServer.obtain(ServerSettings()):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a local server that lives as long as the tests: a process of ours is its user all the time."""
    folder = tmp_path_factory.mktemp("home")
    env = environment(folder, folder / "tmp", PDF_FLOWS_SERVER_LINGER="1")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield folder
        assert holder.stdin is not None
        holder.stdin.close()


@pytest.fixture
def place(tmp_path: Path, home: Path) -> Iterator[Place]:
    """An input and an output of one's own."""
    found = Place(tmp_path / "place", home)
    yield found
    found.close()


@pytest.fixture
def new_place(tmp_path: Path, home: Path) -> Iterator[Callable[..., Place]]:
    """Makes places: `new_place(home=..., output=..., source=...)`."""
    made: list[Place] = []

    def make(*, home: Path = home, output: str | None = None, source: str | None = None) -> Place:
        made.append(Place(tmp_path / f"place-{len(made)}", home, output=output, source=source))
        return made[-1]

    yield make
    for place in made:
        place.close()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What the instants are drawn from: `--chaos-seed`."""
    return int(request.config.getoption("--chaos-seed"))
