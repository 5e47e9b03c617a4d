"""The work pools and the deployments of a stack: what Prefect has to know of the account.

Workers run on a pool of type `ecs`, parents on one of type `process`; `pdf-flows up` has pools of the same names on one
machine, so that one prefect.yaml serves both. The template of the workers' pool is prefect-aws's own (prefect-aws 0.7), so
that it follows its upgrades, without what has no effect where the stack owns the task definition, and with what the stack
knows as defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.aws.account import TAG
from deployments.aws.errors import AwsError
from deployments.deploying import deploy_all
from deployments.prefect_api import prefect_client
from tasks.corpus.failures import PdfFlowsError, UsageError

ROOT = Path(__file__).resolve().parents[2]
IMAGE_ROOT = "/opt/pdf-flows"
"""Where the project is in the workers' image, which the control host runs, too."""
WORKERS_POOL, WORKERS_TYPE = "pdf-flows-workers", "ecs"
PARENTS_POOL, PARENTS_TYPE = "pdf-flows-parents", "process"
CONTAINER = "prefect"
"""The only container name whose exit status Prefect's observer goes by."""

OF_THE_TASK_DEFINITION = (
    "family",
    "image",
    "cpu",
    "memory",
    "execution_role_arn",
    "vpc_id",
    "configure_cloudwatch_logs",
    "cloudwatch_logs_options",
    "cloudwatch_logs_prefix",
    "network_configuration",
    "auto_deregister_task_definition",
    "match_latest_revision_in_family",
)
"""Variables of prefect-aws that it ignores, with a warning for each run, where it is given a task definition."""
SECRETS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
"""Settings that a worker would hand on in RunTask, where DescribeTasks and CloudTrail show them. Tasks have ECS secrets."""


class PoolPlan(BaseModel):
    """What the stack says of the place where workers run."""

    model_config = ConfigDict(frozen=True)

    project: str = Field(min_length=1)
    cluster: str = Field(min_length=1)
    """Name or ARN."""
    task_definition_arn: str = Field(min_length=1)
    capacity_provider: str = Field(min_length=1)
    log_group: str | None = None
    """Of CloudWatch, for the streams worker-<k>."""


def plan_of(outputs: Mapping[str, str], project: str | None = None) -> PoolPlan:
    """From the stack's outputs. Raises UsageError naming the one that is missing.

    Args:
        project: the value of the tag Project; None takes it from the task definition's family, `<project>-worker`.
    """
    for name in ("ClusterName", "TaskDefinitionArn", "CapacityProviderName"):
        if not outputs.get(name):
            raise UsageError(f"the stack has no output {name}: bring it up to date with pdf-flows aws up")
    if project is None:
        found = re.search(r"task-definition/(.+)-worker:\d+$", outputs["TaskDefinitionArn"])
        if found is None:
            raise UsageError(f"the project of {outputs['TaskDefinitionArn']} is not known: name it with --project")
        project = found[1]
    return PoolPlan(
        project=project,
        cluster=outputs["ClusterName"],
        task_definition_arn=outputs["TaskDefinitionArn"],
        capacity_provider=outputs["CapacityProviderName"],
        log_group=outputs.get("LogGroupName") or None,
    )


def strategy(provider: str) -> list[dict[str, Any]]:
    """All on one capacity provider. prefect-aws demands all three fields."""
    return [{"capacityProvider": provider, "weight": 1, "base": 0}]


def make_template(base: Mapping[str, Any], plan: PoolPlan) -> dict[str, Any]:
    """The base job template of the workers' pool. Pure.

    Args:
        base: prefect-aws's own (`default_template`); it is not changed.

    Raises UsageError where it is no template that this code knows.
    """
    try:
        return _template(_copy(base), plan)
    except (KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"prefect-aws's default template has no {error}: this version of it is not known here (0.7 is)"
        ) from error


def _template(template: dict[str, Any], plan: PoolPlan) -> dict[str, Any]:
    job, variables = template["job_configuration"], template["variables"]
    properties = variables["properties"]
    for name in OF_THE_TASK_DEFINITION:
        properties.pop(name, None)
        job.pop(name, None)
    # The stack's, by its ARN: prefect-aws registers none, and compares none with what AWS has made of it.
    job["task_definition"] = {}
    request = job["task_run_request"]
    overrides = request["overrides"]
    for place in (overrides, *overrides["containerOverrides"]):
        # The task definition fits the smallest machine; Prefect's defaults would not.
        place.pop("cpu", None)
        place.pop("memory", None)

    arn = properties["task_definition_arn"]
    arn.pop("anyOf", None)
    arn |= {"type": "string", "minLength": 1, "default": plan.task_definition_arn}
    properties["cluster"]["default"] = plan.cluster
    properties["container_name"]["default"] = CONTAINER
    # FARGATE by default, which no GPU task runs on. Without effect as long as there is a strategy, which without machines queues
    # (PROVISIONING) where a launch type fails.
    properties["launch_type"]["default"] = "EC2"
    properties["capacity_provider_strategy"] |= {"default": strategy(plan.capacity_provider), "minItems": 1}
    properties["labels"] |= {
        "default": {TAG: plan.project},
        "description": "Tags of the ECS tasks. What has no tag Project is not found when the project is stopped.",
    }
    properties["env"]["default"] = worker_environment(plan)
    variables["required"] = sorted({*(variables.get("required") or ()), "task_definition_arn"})
    return template


def worker_environment(plan: PoolPlan) -> dict[str, str | None]:
    """The variables of each worker's container beside its image's. None: it is not handed on."""
    from tasks.cloudwatch import GROUP_VARIABLE

    # A worker of the pool hands its own settings on, its home included, which no container has.
    found: dict[str, str | None] = {"PREFECT_HOME": "/tmp/prefect"}  # noqa: S108 - the image's only writable place
    found |= dict.fromkeys(SECRETS)
    return found | ({GROUP_VARIABLE: plan.log_group} if plan.log_group is not None else {})


def require_prefect_aws() -> None:
    """Raises UsageError where it is not installed."""
    if find_spec("prefect_aws") is None:
        raise UsageError("prefect_aws is not installed, which has the ECS work pool: make setup EXTRAS=aws")


def default_template() -> dict[str, Any]:
    """prefect-aws's own. Raises UsageError where it is not installed."""
    require_prefect_aws()
    from prefect_aws.workers.ecs_worker import ECSWorker

    found: dict[str, Any] = ECSWorker.get_default_base_job_template()
    return found


def make_pool(outputs: Mapping[str, str], environment: Mapping[str, str], *, project: str | None = None) -> str:
    """Make both pools, or bring them up to date; limits and pauses stay as they are. What came of it, in words.

    Args:
        outputs: the stack's.
        environment: PREFECT_API_URL and the credential for it; {} takes Prefect's own settings.

    Raises UsageError for bad outputs, AwsError where Prefect refuses or does not answer.
    """
    from prefect.workers.process import ProcessWorker

    template = make_template(default_template(), plan_of(outputs, project))
    with prefect_client(environment, AwsError) as client:
        said = [
            _bring(client, WORKERS_POOL, WORKERS_TYPE, template),
            _bring(client, PARENTS_POOL, PARENTS_TYPE, ProcessWorker.get_default_base_job_template()),
        ]
    return ", ".join(said)


def _bring(client: Any, name: str, kind: str, template: dict[str, Any]) -> str:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    try:
        client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
    except ObjectAlreadyExists:
        pool = client.read_work_pool(name)
    else:
        return f"{name} made"
    if pool.type != kind:
        raise AwsError(
            f"the work pool {name} is of type {pool.type}, not {kind} (pdf-flows up makes one for this machine): delete it first"
        )
    if pool.base_job_template == template:
        return f"{name} as it should be"
    client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
    return f"{name} brought up to date"


def deploy(
    outputs: Mapping[str, str],
    environment: Mapping[str, str],
    *,
    parameters: Mapping[str, str] | None = None,
    root: Path = ROOT,
    image_root: str = IMAGE_ROOT,
) -> str:
    """`prefect --no-prompt deploy --all` of the clone, for the image; the form's fields get the stack's buckets.

    Args:
        parameters: the stack's, for the prefixes.
        root: the clone.
        image_root: where the project is in the image.

    Raises AwsError with Prefect's reason.
    """
    environment = {
        **os.environ,
        **environment,
        "PDF_FLOWS_ROOT": image_root,
        "PREFECT_LOGGING_COLORS": "false",
        "PYTHONPATH": os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    try:
        deploy_all(root, environment)
    except PdfFlowsError as error:
        raise AwsError(str(error)) from error
    filled = _fill(defaults_of(outputs, parameters or {}), environment)
    return f"deployed{', with ' + filled if filled else ''}"


def defaults_of(outputs: Mapping[str, str], parameters: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What the run form of a deployment says before anybody fills it in, by the deployment's name. Pure."""
    known: dict[str, Any] = {}
    for field, bucket, prefix in (("input", "InputBucket", "InputPrefix"), ("output", "OutputBucket", "OutputPrefix")):
        if outputs.get(bucket):
            # Workers may touch these prefixes only (docs/iam.md).
            known[field] = f"s3://{outputs[bucket]}/{parameters.get(prefix, f'{field}/')}".rstrip("/")
    output = {name: value for name, value in known.items() if name == "output"}
    if outputs.get("TaskDefinitionArn"):
        known["region"] = outputs["TaskDefinitionArn"].split(":")[3]
    if outputs.get("TopicArn"):
        known["notify_topic"] = outputs["TopicArn"]
    again = {name: value for name, value in known.items() if name != "input"}
    return {"convert-corpus": known, "retry-failures": again, "scale-run": output}


def _fill(wanted: Mapping[str, Mapping[str, Any]], environment: Mapping[str, str]) -> str:
    from prefect.client.schemas.actions import DeploymentUpdate

    with prefect_client(environment, AwsError) as client:
        for name, parameters in wanted.items():
            if parameters:
                there = client.read_deployment_by_name(f"{name}/{name}")
                client.update_deployment(there.id, DeploymentUpdate(parameters=there.parameters | parameters))
    return ", ".join(f"{name}={value}" for name, value in wanted["convert-corpus"].items())


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value
