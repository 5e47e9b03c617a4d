"""The workers' pool: its template, and what prefect-aws makes of it; then all of it on a real Prefect server."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect_kit import pool_of, prefect, prefect_server

from deployments import automating
from deployments.automating import Switches
from deployments.aws.pool import (
    PARENTS_POOL,
    SECRETS,
    WORKERS_POOL,
    default_template,
    defaults_of,
    deploy,
    make_pool,
    make_template,
    plan_of,
)
from tasks.cloudwatch import GROUP_VARIABLE
from tasks.conversion import on_demand_variables
from tasks.corpus.failures import PdfFlowsError, UsageError

pytest.importorskip("prefect_aws")

ROOT = Path(__file__).resolve().parents[2]
ARN = "arn:aws:ecs:us-east-1:123456789012:task-definition/pdf-flows-worker:7"
OUTPUTS = {
    "ClusterName": "pdf-flows",
    "TaskDefinitionArn": ARN,
    "CapacityProviderName": "pdf-flows-spot",
    "LogGroupName": "/aws/ec2/pdf-workers/",
    "InputBucket": "in-bucket",
    "OutputBucket": "out-bucket",
    "TopicArn": "arn:aws:sns:us-east-1:123456789012:pdf-flows-notifications",
}


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return default_template()


@pytest.fixture
def template(base: dict[str, Any]) -> dict[str, Any]:
    return make_template(base, plan_of(OUTPUTS))


def configuration(template: dict[str, Any], variables: dict[str, Any]) -> Any:
    """What prefect-aws's worker makes of the template and a deployment's job variables."""
    from prefect_aws.workers.ecs_worker import ECSJobConfiguration

    return asyncio.run(ECSJobConfiguration.from_template_and_values(template, variables))


def run_task(template: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
    """The parameters of RunTask, by prefect-aws's own code, with what a worker of the pool has in its environment."""
    from prefect.client.schemas.objects import FlowRun
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings
    from prefect_aws.workers.ecs_worker import ECSWorker

    own = {PREFECT_API_URL: "http://10.42.0.9:4200/api", PREFECT_API_KEY: "key-xyz", PREFECT_API_AUTH_STRING: "a:b-xyz"}
    with temporary_settings(updates=own):
        found = configuration(template, variables)
        found.prepare_for_flow_run(FlowRun(flow_id="5f1c4b1e-0000-4000-8000-000000000001", name="r-worker-0"))
        definition = {"containerDefinitions": [{"name": "prefect"}], "requiresCompatibilities": ["EC2"]}
        worker = ECSWorker(work_pool_name=WORKERS_POOL)
        worker._validate_task_definition(definition, found)
        request: dict[str, Any] = worker._prepare_task_run_request(
            found, definition, found.task_run_request["taskDefinition"], False
        )
    return request


def deployed_variables() -> dict[str, Any]:
    """The job variables of convert-partition, as prefect.yaml has them."""
    text = (ROOT / "prefect.yaml").read_text().replace("{{ $PDF_FLOWS_ROOT }}", "/opt/pdf-flows")
    one = next(one for one in yaml.safe_load(text)["deployments"] if one["name"] == "convert-partition")
    assert one["work_pool"]["name"] == WORKERS_POOL
    found: dict[str, Any] = one["work_pool"]["job_variables"]
    return found


def test_run_task_has_what_the_stack_says(template: dict[str, Any]) -> None:
    request = run_task(template, deployed_variables())
    assert request["taskDefinition"] == ARN
    assert request["cluster"] == "pdf-flows"
    assert request["capacityProviderStrategy"] == [{"capacityProvider": "pdf-flows-spot", "weight": 1, "base": 0}]
    assert "launchType" not in request, "AWS refuses both"
    assert {"key": "Project", "value": "pdf-flows"} in request["tags"]
    assert any(tag["key"] == "prefect.io/flow-run-id" for tag in request["tags"]), "what the observer goes by"
    (container,) = request["overrides"]["containerOverrides"]
    assert (container["name"], container["command"]) == ("prefect", ["prefect", "flow-run", "execute"])
    assert not {"cpu", "memory"} & {*container, *request["overrides"]}, "the task definition's"
    environment = {item["name"]: item["value"] for item in container["environment"]}
    assert environment["PREFECT_API_URL"] == "http://10.42.0.9:4200/api"
    assert environment["PREFECT_HOME"] == "/tmp/prefect"
    assert environment[GROUP_VARIABLE] == "/aws/ec2/pdf-workers/"
    assert environment["PYTHONPATH"] == "/opt/pdf-flows", "the deployment's own is merged with the pool's"
    known = {"taskDefinition", "cluster", "capacityProviderStrategy", "tags", "overrides"}
    assert set(request) - {key for key, value in request.items() if value in (None, [], {})} == known


def test_no_credential_of_the_prefect_worker_travels_in_run_task(
    template: dict[str, Any], base: dict[str, Any]
) -> None:
    assert "xyz" not in json.dumps(run_task(template, deployed_variables()))
    # So that this test can fail: prefect-aws's own template hands both on.
    ours = copy.deepcopy(base)
    ours["variables"]["properties"]["task_definition_arn"]["default"] = ARN
    assert set(
        re.findall(r"PREFECT_API_KEY|PREFECT_API_AUTH_STRING", json.dumps(run_task(ours, {"launch_type": "EC2"})))
    ) == set(SECRETS)


def test_botocore_takes_the_request(template: dict[str, Any]) -> None:
    import botocore.session
    from botocore.validate import validate_parameters

    operation = botocore.session.get_session().get_service_model("ecs").operation_model("RunTask")
    assert operation.input_shape is not None
    validate_parameters(run_task(template, deployed_variables()), operation.input_shape)


def test_on_demand_is_one_job_variable(template: dict[str, Any]) -> None:
    request = run_task(template, deployed_variables() | (on_demand_variables("pdf-flows-on-demand") or {}))
    assert [one["capacityProvider"] for one in request["capacityProviderStrategy"]] == ["pdf-flows-on-demand"]
    assert request["taskDefinition"] == ARN


def test_every_placeholder_has_a_variable_and_none_is_without_effect(template: dict[str, Any]) -> None:
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    assert template["job_configuration"]["task_definition"] == {}, "nothing is registered"
    assert template["variables"]["required"] == ["task_definition_arn"]
    assert template["variables"]["properties"]["launch_type"]["default"] == "EC2"


def test_the_given_template_is_not_changed_and_upgrades_are_followed(base: dict[str, Any]) -> None:
    before = copy.deepcopy(base)
    make_template(base, plan_of(OUTPUTS))
    assert base == before
    before["variables"]["properties"]["new_in_0_8"] = {"type": "string"}
    before["job_configuration"]["new"] = "{{ new_in_0_8 }}"
    assert "new_in_0_8" in make_template(before, plan_of(OUTPUTS))["variables"]["properties"]
    del before["job_configuration"]["task_run_request"]["overrides"]
    with pytest.raises(UsageError, match="'overrides'"):
        make_template(before, plan_of(OUTPUTS))


@pytest.mark.parametrize("name", ["ClusterName", "TaskDefinitionArn", "CapacityProviderName"])
def test_a_missing_output_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}.*pdf-flows aws up"):
        plan_of({**OUTPUTS, name: ""})


def test_the_project_is_the_task_definitions() -> None:
    assert plan_of({**OUTPUTS, "TaskDefinitionArn": ARN.replace("pdf-flows", "other")}).project == "other"
    odd = {**OUTPUTS, "TaskDefinitionArn": "arn:aws:ecs:us-east-1:123456789012:task-definition/odd:1"}
    assert plan_of(odd, "mine").project == "mine"
    with pytest.raises(UsageError, match="--project"):
        plan_of(odd)


def test_form_defaults_are_the_stacks_buckets() -> None:
    assert defaults_of(OUTPUTS, {"InputPrefix": "pdfs/2026/"})["convert-corpus"] == {
        "input": "s3://in-bucket/pdfs/2026",
        "output": "s3://out-bucket/output",
        "region": "us-east-1",
        "notify_topic": OUTPUTS["TopicArn"],
    }
    found = defaults_of(OUTPUTS, {"OutputPrefix": ""})
    assert found["retry-failures"] == {
        "output": "s3://out-bucket",
        "region": "us-east-1",
        "notify_topic": OUTPUTS["TopicArn"],
    }
    assert found["scale-run"] == {"output": "s3://out-bucket"}
    assert defaults_of({}, {})["scale-run"] == {}


# -- on a real server -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server's API. No AWS there: deploying must do without."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name, raising=False)
        with prefect_server(tmp_path_factory.mktemp("pool")) as found:
            yield found


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_real_work_pool_create_takes_it(api: str, template: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "template.json"
    file.write_text(json.dumps(template))
    done = prefect(api, "work-pool", "create", "by-hand", "--type", "ecs", "--base-job-template", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert pool_of(api, "by-hand")["base_job_template"] == template
    # So that this can fail: a placeholder that is no variable.
    template["job_configuration"]["task_run_request"]["group"] = "{{ nobody_knows_it }}"
    file.write_text(json.dumps(template))
    assert prefect(api, "work-pool", "create", "bad", "--type", "ecs", "--base-job-template", str(file)).returncode != 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_pools_deployments_and_the_trigger(api: str) -> None:
    environment = {"PREFECT_API_URL": api}
    assert make_pool(OUTPUTS, environment) == "pdf-flows-workers made, pdf-flows-parents made"
    httpx.patch(f"{api}/work_pools/{WORKERS_POOL}", json={"concurrency_limit": 7, "is_paused": True}).raise_for_status()
    assert make_pool(OUTPUTS, environment).count("as it should be") == 2
    newer = {**OUTPUTS, "TaskDefinitionArn": ARN.replace(":7", ":8")}
    assert "pdf-flows-workers brought up to date" in make_pool(newer, environment)
    workers = pool_of(api, WORKERS_POOL)
    assert (workers["type"], workers["concurrency_limit"], workers["is_paused"]) == ("ecs", 7, True)
    assert workers["base_job_template"]["variables"]["properties"]["task_definition_arn"]["default"].endswith(":8")
    assert pool_of(api, PARENTS_POOL)["type"] == "process"

    said = deploy(OUTPUTS, environment)
    assert "output=s3://out-bucket/output" in said
    deployments = {one["name"]: one for one in httpx.post(f"{api}/deployments/filter", json={}, timeout=30).json()}
    assert {name: one["work_pool_name"] for name, one in deployments.items()} == {
        "convert-corpus": PARENTS_POOL,
        "retry-failures": PARENTS_POOL,
        "scale-run": PARENTS_POOL,
        "convert-partition": WORKERS_POOL,
    }
    parent, retry = deployments["convert-corpus"], deployments["retry-failures"]
    assert parent["parameters"] == {
        "launcher": "work-pool",
        "input": "s3://in-bucket/input",
        "output": "s3://out-bucket/output",
        "region": "us-east-1",
        "notify_topic": OUTPUTS["TopicArn"],
    }
    assert parent["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "/opt/pdf-flows"}}
    ]
    assert deployments["convert-partition"]["job_variables"]["env"]["PYTHONPATH"] == "/opt/pdf-flows"
    ((cron, active),) = [(one["schedule"]["cron"], one["active"]) for one in retry["schedules"]]
    assert (cron, active) == ("0 3 * * *", False), "created paused"

    place = {"output": "s3://out-bucket/output"}
    off, on = (Switches(after_runs=switched, nightly=switched, place=place) for switched in (False, True))
    assert automating.read(environment) == off, "nobody asked for it yet"
    ended(api, parent["id"], "20261124-z")
    time.sleep(3)
    assert asked_for(api, retry["id"]) == []
    automating.switch(environment, after_runs=True, nightly=True)
    # Deploying again leaves them on.
    deploy(OUTPUTS, environment)
    assert automating.read(environment) == on
    assert scheduled(api, retry["id"]), "by which the flow knows that nobody looks on"
    assert automating.switch(environment, nightly=False) == on.model_copy(update={"nightly": False})
    time.sleep(2)
    terms = {"budget": 12.5, "workers": 3, "notify_block": "slack-webhook/ops"}
    ended(api, parent["id"], "20261125-a", parent["parameters"] | terms)
    first = triggered(api, retry["id"], 1)[0]
    expected = dict.fromkeys(("runs", "password_file", "deadline", "max_price", "price", "machine_types"))
    expected |= terms | {"retryable_only": True, "rounds": 2, "run_id": "20261125-a", "launcher": "work-pool"}
    expected |= {name: parent["parameters"][name] for name in ("output", "region", "notify_topic")}
    assert first["parameters"] == expected
    # A retry that fails again asks for the next one, which finds in the runs whether that is one too many.
    end(api, first["id"], "20261125-b")
    assert {run["parameters"]["run_id"] for run in triggered(api, retry["id"], 2)} == {"20261125-a", "20261125-b"}
    (second,) = [run for run in asked_for(api, retry["id"]) if run["parameters"]["run_id"] == "20261125-b"]
    assert second["parameters"] == expected | {"run_id": "20261125-b"}
    end(api, second["id"], "20261125-c", "Nothing to retry")
    # So does a run over its limit of failures; one that was stopped, or whose flow run is of no deployment of these, does not.
    ended(api, parent["id"], "20261125-d", state={"type": "FAILED", "name": "Failed"})
    ended(api, parent["id"], "20261125-e", state={"type": "FAILED", "name": "Stopped: budget"})
    ended(api, deployments["scale-run"]["id"], "20261125-f", {"workers": 1})
    triggered(api, retry["id"], 3)
    time.sleep(3)
    assert [run["parameters"]["run_id"][-1] for run in asked_for(api, retry["id"])] == ["a", "b", "d"]


def scheduled(api: str, deployment: str) -> list[dict[str, Any]]:
    """The runs that a deployment's schedule has made, once there are any."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := [run for run in _runs_of(api, deployment) if run["auto_scheduled"]]:
            return found
        time.sleep(0.5)
    return []


def triggered(api: str, deployment: str, count: int) -> list[dict[str, Any]]:
    """The runs of a deployment once there are so many."""
    until = time.monotonic() + 60
    while len(found := asked_for(api, deployment)) < count and time.monotonic() < until:
        time.sleep(0.5)
    return found


WITH_FAILURES = {"type": "COMPLETED", "name": "Completed with failures"}


def ended(
    api: str,
    deployment: str,
    name: str,
    parameters: dict[str, Any] | None = None,
    *,
    state: dict[str, str] = WITH_FAILURES,
) -> None:
    """A flow run of a deployment that has ended, with failures unless another state is given."""
    body = {"name": name, "state": {"type": "PENDING"}, "parameters": parameters or {}}
    answer = httpx.post(f"{api}/deployments/{deployment}/create_flow_run", json=body, timeout=30)
    set_states(api, answer.raise_for_status().json()["id"], state)


def end(api: str, id: str, name: str, state: str = WITH_FAILURES["name"]) -> None:
    """A flow run that waits gets a run's name, and ends."""
    httpx.patch(f"{api}/flow_runs/{id}", json={"name": name}, timeout=30).raise_for_status()
    set_states(api, id, {"type": "COMPLETED", "name": state})


def set_states(api: str, id: str, state: dict[str, str]) -> None:
    for each in ({"type": "RUNNING"}, state):
        httpx.post(
            f"{api}/flow_runs/{id}/set_state", json={"state": each, "force": True}, timeout=30
        ).raise_for_status()


def asked_for(api: str, deployment: str) -> list[dict[str, Any]]:
    """The runs of a deployment, oldest first; not those that its schedule makes."""
    return [run for run in _runs_of(api, deployment) if not run["auto_scheduled"]]


def _runs_of(api: str, deployment: str) -> list[dict[str, Any]]:
    answer = httpx.post(
        f"{api}/flow_runs/filter", json={"deployments": {"id": {"any_": [deployment]}}}, timeout=30
    ).raise_for_status()
    return sorted(answer.json(), key=lambda run: run["created"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_prefect_refuses_is_one_line(api: str) -> None:
    httpx.post(f"{api}/work_pools/", json={"name": "x", "type": "process"}, timeout=30)
    with pytest.raises(PdfFlowsError, match=r"does not do what it is asked"):
        make_pool(OUTPUTS, {"PREFECT_API_URL": "http://127.0.0.1:9/api"})
    with pytest.raises(PdfFlowsError, match=r"deploy --all in .+ failed \(status \d+\): ."):
        deploy(OUTPUTS, {"PREFECT_API_URL": "http://127.0.0.1:9/api"})
