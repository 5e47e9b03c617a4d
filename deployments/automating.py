"""Retries that nobody has to ask for: the schedule and the automation of the deployment retry-failures, switched on and off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.prefect_api import prefect_client
from tasks.corpus.failures import UsageError

DEPLOYMENT = "retry-failures/retry-failures"
AUTOMATION = "retry-failures after a run with failures"
SCHEDULE = "nightly"
"""As prefect.yaml calls them."""
PLACE = ("output", "runs")
"""Whose failures are converted. Parameters of the deployment, not of its schedule: whoever switches a schedule takes its own away
(Prefect 3.8: a change of `active` alone empties `parameters`)."""


class Switches(BaseModel):
    """How they stand."""

    model_config = ConfigDict(frozen=True)

    after_runs: bool
    nightly: bool
    place: dict[str, Any] = {}
    """Whose failures the schedule converts."""

    def lines(self) -> list[str]:
        """For people."""
        words = {True: "on", False: "off"}
        where = f", of {self.place['output']}" if self.place.get("output") else ""
        return [
            f"after runs with failures: {words[self.after_runs]}",
            f"nightly: {words[self.nightly]}{where}",
        ]


def read(environment: Mapping[str, str] | None = None) -> Switches:
    """How they stand.

    Args:
        environment: PREFECT_API_URL and the credential for it; {} or None takes Prefect's own settings.

    Raises UsageError where nothing is deployed, PdfFlowsError where Prefect's API does not answer.
    """
    with prefect_client(environment or {}) as client:
        return _read(client)


def switch(
    environment: Mapping[str, str] | None = None,
    *,
    after_runs: bool | None = None,
    nightly: bool | None = None,
    place: Mapping[str, Any] | None = None,
) -> Switches:
    """Switch on and off; None leaves a switch alone. Raises as `read`, and UsageError for a schedule that names no output.

    Args:
        place: the output (and runs) whose failures the schedule converts.
    """
    with prefect_client(environment or {}) as client:
        deployment, _, _ = _find(client)
        if nightly and not (deployment.parameters | dict(place or {})).get("output"):
            raise UsageError("the schedule names no output: say whose failures it is to convert, with --output")
        _set(client, after_runs, nightly, place or {})
        return _read(client)


def restore(environment: Mapping[str, str], before: Switches) -> None:
    """After a deploy, which switches off: switch on again what was on. Raises as `read`."""
    with prefect_client(environment) as client:
        _set(client, before.after_runs or None, before.nightly or None, before.place)


def _set(client: Any, after_runs: bool | None, nightly: bool | None, place: Mapping[str, Any]) -> None:
    from prefect.client.schemas.actions import DeploymentUpdate

    deployment, schedule, automation = _find(client)
    if place:
        parameters = deployment.parameters | dict(place)
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
    if nightly is not None:
        client.update_deployment_schedule(deployment.id, schedule.id, active=nightly)
    if after_runs is not None:
        (client.resume_automation if after_runs else client.pause_automation)(automation.id)


def _read(client: Any) -> Switches:
    deployment, schedule, automation = _find(client)
    place = {name: value for name, value in deployment.parameters.items() if name in PLACE}
    return Switches(after_runs=automation.enabled, nightly=schedule.active, place=place)


def _find(client: Any) -> tuple[Any, Any, Any]:
    from prefect.exceptions import ObjectNotFound

    missing = "is not there: deploy it (pdf-flows up, pdf-flows aws up, or prefect deploy --all)"
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise UsageError(f"the deployment {DEPLOYMENT} {missing}") from None
    schedules = [one for one in client.read_deployment_schedules(deployment.id) if one.slug == SCHEDULE]
    automations = client.read_automations_by_name(AUTOMATION)
    for found, what in ((schedules, f"schedule {SCHEDULE}"), (automations, f"automation {AUTOMATION!r}")):
        if not found:
            raise UsageError(f"the {what} of retry-failures {missing}")
    return deployment, schedules[0], automations[0]
