"""After a build the control host takes the new image, unless a parent runs there."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

import pytest
from aws_kit import REGION, stubbed
from template_kit import Rendered

from deployments.aws import up
from deployments.aws.account import Account
from deployments.aws.orchestration import PrefectApi, Run
from deployments.aws.steps import Steps


class Living:
    """A Prefect with these flow runs."""

    def __init__(self, *runs: Run) -> None:
        self.runs = runs

    def living(self) -> list[Run]:
        return list(self.runs)


def run(name: str, *, parent: bool) -> Run:
    return Run(id=uuid4(), name=name, flow="convert-corpus" if parent else "convert-partition", state="Running")


def renew(prefect: Living, *answers: Any) -> tuple[list[str], list[str]]:
    said: list[str] = []
    notes: list[str] = []
    with stubbed("ssm", *answers) as ssm:
        account = Account(region=REGION, clients={"ssm": ssm})
        up._renew(account, "i-0123456789abcdef0", cast(PrefectApi, prefect), Steps(tell=said.append), notes)
    return said, notes


def test_the_control_host_takes_a_new_image() -> None:
    asked = {
        "InstanceIds": ["i-0123456789abcdef0"],
        "DocumentName": "AWS-RunShellScript",
        "Parameters": {"commands": [up.RENEW]},
        "TimeoutSeconds": 60,
    }
    answer = ("send_command", {"Command": {"CommandId": "0" * 36}}, asked)
    said, notes = renew(Living(run("worker 1", parent=False)), answer)
    assert notes == []
    assert any("let the control host take the new image" in line for line in said)


def test_but_not_below_a_parent_that_runs() -> None:
    _, notes = renew(Living(run("brave-\x1b[2Jfox", parent=True)))
    (note,) = notes
    assert "keeps the former image, since brave-" in note
    assert "\x1b" not in note


@pytest.mark.parametrize("unit", ["pdf-flows-prepare", "pdf-flows@"])
def test_units_are_those_of_the_template(unit: str) -> None:
    script = Rendered().properties("ControlTemplate")["LaunchTemplateData"]["UserData"]
    assert unit in up.RENEW
    assert f"/etc/systemd/system/{unit}.service" in script
