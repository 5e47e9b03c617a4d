"""Scaling by hand: a wish for another number of workers, which the run's parent reads within seconds."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.corpus import paths
from tasks.corpus.failures import NotFound, UsageError
from tasks.corpus.paths import SCHEMA
from tasks.corpus.runs import RunSpec, resolve
from tasks.corpus.store import Store
from tasks.report import read_report


class Wish(BaseModel):
    """scale/<number>.json: so many workers."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    number: int
    workers: int


def newest_wish(runs: Store, run_id: str) -> Wish | None:
    """The last wish, None where there is none. Raises StoreError."""
    keys = [info.key for info in runs.list(paths.scales(run_id))]
    if not keys:
        return None
    try:
        return Wish.model_validate_json(runs.read(max(keys)))
    except (NotFound, ValidationError):
        return None


def ask_for(runs: Store, run_id: str | None, workers: int) -> tuple[Wish, RunSpec]:
    """Wish for so many workers of a run (None: the latest). Raises UsageError where it is over, or the number is absurd."""
    if not 0 <= workers <= 1000:
        raise UsageError(f"{workers} workers: from 0 (the run waits) to 1000")
    spec = resolve(runs, run_id)
    report = read_report(runs, spec.run_id)
    if report is not None and report.remaining == 0:
        raise UsageError(f"run {spec.run_id} is over ({report.state}): there is nothing to scale")
    last = newest_wish(runs, spec.run_id)
    number = last.number + 1 if last is not None else 0
    while True:
        wish = Wish(number=number, workers=workers)
        if runs.create(f"{paths.scales(spec.run_id)}{number:09d}.json", wish.model_dump_json().encode()):
            return wish, spec
        number += 1
