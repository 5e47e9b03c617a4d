"""Flow: change the number of workers of a run that is going on."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger


@flow(name="scale-run", validate_parameters=True, persist_result=False)
def scale_run(output: str, workers: int, run_id: str | None = None, runs: str | None = None) -> Any:
    """Change the number of workers of a run that is going on: its parent launches or drains within seconds.

    Args:
        output: The run's output.
        workers: How many workers from now on; 0: the run waits.
        run_id: The run. Default: the latest.
        runs: Where runs are kept, if not in _runs of the output.
    """
    from tasks.entry import scale

    return scale(output, workers, run_id, runs, get_run_logger())
