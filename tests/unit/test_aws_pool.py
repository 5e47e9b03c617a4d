"""`pdf-flows aws pool` from end to end: a stack of the shipped template on moto, the command line, a real Prefect server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aws_kit import REGION, Cloud, call, own_account
from conftest import MotoS3
from prefect_kit import pool_names, pool_of, prefect, prefect_server

from deployments.aws.pool import PARENTS_POOL, WORKERS_POOL
from deployments.aws.stack import TEMPLATE, Stacks

pytest.importorskip("prefect_aws")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server's API."""
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
        yield found


@pytest.fixture(scope="module")
def cloud(server: str, moto_s3: MotoS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """An account with the shipped template's stack for that server, without a control host, in a network that is there."""
    with own_account() as found:
        # moto makes no capacity providers: their names stand in place of the references to them.
        text = TEMPLATE.read_text(encoding="utf-8")
        for name, provider in (("SpotProvider", "spot"), ("OnDemandProvider", "on-demand")):
            text = text.replace(f"{{Value: !Ref {name}}}", f'{{Value: !Sub "${{ProjectName}}-{provider}"}}')
        path = tmp_path_factory.mktemp("stack") / "template.yaml"
        path.write_text(text)
        vpc, subnets = found.network()
        words = ["--template", str(path), "--vpc", vpc, "--subnets", ",".join(subnets), "--api-url", server]
        assert call("up", "--no-deployments", "--no-control-host", *words) == 0
        yield found


@pytest.fixture
def api(server: str) -> str:
    """The same, without any pool."""
    for name in pool_names(server):
        httpx.delete(f"{server}/work_pools/{name}", timeout=30).raise_for_status()
    return server


def aws(*words: str, api: str | None = None) -> subprocess.CompletedProcess[str]:
    """`pdf-flows aws ...` in a process of its own; this process's settings of Prefect name the API."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", "aws", *words],
        cwd=ROOT,
        env=environment | ({"PREFECT_API_URL": api} if api is not None else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def outputs(cloud: Cloud) -> dict[str, str]:
    stack = Stacks(cloud.account).find()
    assert stack is not None
    return stack.outputs


def test_pools_are_made_once_and_brought_back(cloud: Cloud, api: str, tmp_path: Path) -> None:
    dry = aws("pool", "--dry-run", api=api)
    assert (dry.returncode, dry.stdout, dry.stderr) == (0, "", f"would make the work pools at {api}\n")
    assert pool_names(api) == set()

    made = aws("pool", api=api)
    assert made.returncode == 0, made.stderr
    assert f"  {WORKERS_POOL} made, {PARENTS_POOL} made" in made.stderr
    workers, parents = pool_of(api, WORKERS_POOL), pool_of(api, PARENTS_POOL)
    assert (workers["type"], parents["type"]) == ("ecs", "process")
    known = outputs(cloud)
    defaults = {
        name: about["default"]
        for name, about in workers["base_job_template"]["variables"]["properties"].items()
        if "default" in about
    }
    assert known["TaskDefinitionArn"].startswith(f"arn:aws:ecs:{REGION}:{cloud.number}:task-definition/")
    assert defaults["task_definition_arn"] == known["TaskDefinitionArn"]
    assert defaults["cluster"] == known["ClusterName"]
    assert [one["capacityProvider"] for one in defaults["capacity_provider_strategy"]] == ["pdf-flows-spot"]
    assert (defaults["launch_type"], defaults["labels"]) == ("EC2", {"Project": "pdf-flows"})

    again = aws("pool", "--api-url", api)
    assert again.returncode == 0, again.stderr
    assert f"  {WORKERS_POOL} as it should be, {PARENTS_POOL} as it should be" in again.stderr
    # All of it: the time of the last change, too.
    assert (pool_of(api, WORKERS_POOL), pool_of(api, PARENTS_POOL)) == (workers, parents)

    # Somebody's change: a dry run leaves it, the command brings the pool back and leaves the pause alone.
    bent = json.loads(json.dumps(workers["base_job_template"]))
    bent["variables"]["properties"]["cluster"]["default"] = "another"
    change(api, WORKERS_POOL, base_job_template=bent, is_paused=True)
    assert aws("pool", "--dry-run", api=api).returncode == 0
    assert pool_of(api, WORKERS_POOL)["base_job_template"] == bent
    assert f"{WORKERS_POOL} brought up to date" in aws("pool", api=api).stderr
    mended = pool_of(api, WORKERS_POOL)
    assert (mended["base_job_template"], mended["is_paused"]) == (workers["base_job_template"], True)

    # By hand, with what --template prints.
    printed = aws("pool", "--template")
    assert (printed.returncode, printed.stderr) == (0, "")
    file = tmp_path / "template.json"
    file.write_text(printed.stdout)
    done = prefect(api, "work-pool", "create", "by-hand", "--type", "ecs", "--base-job-template", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert pool_of(api, "by-hand")["base_job_template"] == workers["base_job_template"]


def change(api: str, pool: str, **what: Any) -> None:
    httpx.patch(f"{api}/work_pools/{pool}", json=what, timeout=30).raise_for_status()


def test_a_pool_of_another_kind_is_named_and_left(api: str) -> None:
    httpx.post(f"{api}/work_pools/", json={"name": WORKERS_POOL, "type": "process"}, timeout=30).raise_for_status()
    before = pool_of(api, WORKERS_POOL)
    done = aws("pool", api=api)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        f"pdf-flows: the work pool {WORKERS_POOL} is of type process, not ecs (pdf-flows up makes one for this machine): "
        "delete it first"
    )
    assert pool_of(api, WORKERS_POOL) == before


@pytest.mark.parametrize(
    ("words", "set_to", "status", "said"),
    [
        (["--api-url", NOBODY], None, 3, f"the work pools were not made: {NOBODY} does not answer"),
        (["--dry-run", "--api-url", NOBODY], None, 3, f"the work pools were not made: {NOBODY} does not answer"),
        (
            ["--project", "nothing"],
            None,
            2,
            f"there is no stack nothing in {REGION}: pdf-flows aws up makes it",
        ),
    ],
)
def test_what_keeps_it_from_being_made_is_one_line(
    cloud: Cloud, server: str, words: list[str], set_to: str | None, status: int, said: str
) -> None:
    done = aws("pool", *words, api=set_to)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", f"pdf-flows: {said.format(server=server)}\n")


@pytest.mark.parametrize("set_to", [NOBODY, None])
def test_the_stack_names_its_prefect_whatever_this_machine_is_set_to(
    cloud: Cloud, server: str, set_to: str | None
) -> None:
    done = aws("pool", "--dry-run", api=set_to)
    assert done.returncode == 0
    assert f"make the work pools at {server}" in done.stderr
