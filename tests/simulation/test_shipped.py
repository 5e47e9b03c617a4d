"""The simulation runs the shipped code: the very functions and classes, unpatched, and none of their names made anew."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from simulation import fleet_world

SHIPPED = {
    "tasks.fleet.supervisor": ("step", "over", "recounted", "Fleet", "Sight", "Verb"),
    "tasks.candidates": ("Candidates",),
    "tasks.corpus.claims": ("Claims", "Claim", "Holder"),
    "tasks.corpus.ledger": ("LedgerWriter", "Record"),
    "tasks.corpus.lives": ("fence", "take_number"),
    "tasks.corpus.settled": ("SettledBoard",),
    "tasks.lookout": ("Lookout",),
    "tasks.worker": ("Worker",),
}


def test_the_shipped_functions_are_used() -> None:
    for module, names in SHIPPED.items():
        for name in names:
            used = getattr(fleet_world, name)
            assert used is getattr(importlib.import_module(module), name)
            assert used.__module__ == module
    for owner, name in (
        (fleet_world.Worker, "_next"),
        (fleet_world.Candidates, "far_ends"),
        (fleet_world.Claims, "take"),
        (fleet_world.SettledBoard, "publish"),
        (fleet_world.Lookout, "facts"),
    ):
        function = owner.__dict__[name]
        assert (function.__module__, function.__qualname__) == (owner.__module__, f"{owner.__name__}.{name}")


def test_nothing_is_made_anew_or_patched() -> None:
    names = {name for some in SHIPPED.values() for name in some}
    # `test_budget_runs.py` has a check of its own, and mutants that it patches in.
    here = Path(__file__).parent
    for path in (here / "fleet_world.py", here / "test_efficiency.py", here / "test_scale_of_fleet.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                assert node.name not in names, f"{path.name}: {node.name}"
                if isinstance(node, ast.ClassDef):
                    assert not {base.id for base in node.bases if isinstance(base, ast.Name)} & names
            elif isinstance(node, ast.Name):
                assert node.id not in ("setattr", "monkeypatch")
