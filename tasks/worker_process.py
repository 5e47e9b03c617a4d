"""A worker's life without Prefect: what a relaunched worker runs when the API is gone for good."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from pydantic import ValidationError

from tasks.cloudwatch import shipping
from tasks.corpus.failures import PdfFlowsError
from tasks.fleet.local import when_parent_ends
from tasks.passwords import read_passwords
from tasks.worker import Worker, WorkerSettings


def command_line(parameters: dict[str, Any]) -> list[str]:
    """The command that runs a worker with the parameters of its flow."""
    return [sys.executable, "-m", "tasks.worker_process", json.dumps(parameters)]


def main(argv: list[str]) -> int:
    """Exit status: 0 at an orderly end, 1 at an error, 2 for unusable parameters."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    log = logging.getLogger("pdf_flows.worker")
    try:
        parameters = json.loads(argv[0])
        reference = parameters.pop("password_file", None)
        settings = WorkerSettings.model_validate(parameters)
        worker = Worker(settings, log, passwords=read_passwords(reference))
    except (IndexError, ValueError, ValidationError, PdfFlowsError) as error:
        log.error("%s", error)  # noqa: TRY400 - one line is what a person needs
        return 2
    when_parent_ends(worker.drain)
    try:
        with shipping(settings.worker, settings.run_id):
            worker.run()
    except PdfFlowsError as error:
        log.error("%s", error)  # noqa: TRY400
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
