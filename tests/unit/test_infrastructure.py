"""The CloudFormation template, clause by clause of what was asked of it; its scripts run for real; the stack on moto."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from imds_server import ACTION, REBALANCE, ImdsServer, imds_server
from moto import mock_aws
from template_kit import TEMPLATE, Rendered, heredoc, load

from deployments.aws.stack import LARGEST_BYTES
from deployments.up import PARENTS_POOL, WORKERS_POOL
from tasks.conversion import on_demand_variables
from tasks.fleet.notice import FILE, FILE_VARIABLE, REBALANCE_FILE
from tasks.fleet.price_table import ON_DEMAND

REGIONS = ("us-east-1", "us-east-2", "us-west-2", "eu-west-1")
TYPES = ["g4dn.xlarge", "g4dn.2xlarge", "g6.xlarge", "g5.xlarge", "g6.2xlarge", "g5.2xlarge"]
OUTPUTS = [
    "ClusterName",
    "CapacityProviderName",
    "OnDemandCapacityProviderName",
    "AutoScalingGroupName",
    "OnDemandAutoScalingGroupName",
    "LaunchTemplateId",
    "TaskDefinitionArn",
    "LogGroupName",
    "InputBucket",
    "OutputBucket",
    "RepositoryUri",
    "TopicArn",
    "EventsQueueName",
    "BuildProjectName",
    "ControlInstanceId",
    "TaskSecurityGroupId",
    "SubnetIds",
    "TaskRoleArn",
    "ExecutionRoleArn",
    "WorkerInstanceProfileName",
    "PrefectApiUrl",
    "VpcId",
    "SourceBucket",
    "ApiAuthSecretArn",
    "PrefectWorkerRoleArn",
    "OperatorRoleArn",
]
ELSEWHERE = {
    "ControlHost": "false",
    "PrefectApiUrl": "https://api.prefect.example/api",
    "PrefectSecretName": "prefect/key",
}
EXISTING = {"ExistingVpcId": "vpc-1", "ExistingSubnetIds": "subnet-a,subnet-b", "ControlZone": "us-east-1c"}
CHECKOV = TEMPLATE.with_name("checkov.yaml")


@pytest.fixture(scope="module")
def stack() -> Rendered:
    return Rendered()


def data(stack: Rendered, name: str = "LaunchTemplate") -> dict[str, Any]:
    found: dict[str, Any] = stack.properties(name)["LaunchTemplateData"]
    return found


def tags(item: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in item.get("Tags", item.get("ResourceTags", []))}


# --- the template as such


def test_it_is_small_enough_for_cloudformation() -> None:
    """AWS documentation, CloudFormation quotas: 51,200 bytes inline, 1 MB from a bucket."""
    assert len(TEMPLATE.read_bytes()) <= LARGEST_BYTES


def test_cfn_lint_has_no_finding_in_four_regions() -> None:
    words = [
        str(Path(sys.executable).with_name("cfn-lint")),
        "--template",
        str(TEMPLATE),
        "--regions",
        *REGIONS,
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_it_has_no_anchors_which_cloudformation_refuses() -> None:
    tokens = list(yaml.scan(TEMPLATE.read_text(encoding="utf-8")))
    assert not [t for t in tokens if isinstance(t, yaml.AnchorToken | yaml.AliasToken)]


def test_outputs(stack: Rendered) -> None:
    assert set(stack.outputs) == set(OUTPUTS)
    assert all(stack.outputs.values())


def test_every_parameter_has_a_default() -> None:
    assert all("Default" in item for item in load()["Parameters"].values())


def test_prefixes_can_hold_no_wildcard_and_end_in_a_slash() -> None:
    for name in ("InputPrefix", "OutputPrefix"):
        pattern = load()["Parameters"][name]["AllowedPattern"]
        assert all(re.fullmatch(pattern, good) for good in ("", "input/", "a/b c/"))
        assert not any(re.fullmatch(pattern, bad) for bad in ("input", "*/", "a?/", "/", "${aws:userid}/"))


def test_everything_that_can_carry_the_tag_project_does(stack: Rendered) -> None:
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    without = []
    for name, item in stack.resources.items():
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", item["Type"]).schema
        named = {"Tags", "ResourceTags"} & set(schema["properties"])
        if (
            named
            and schema.get("tagging", {}).get("taggable", True)
            and tags(item["Properties"]).get("Project") != "pdf-flows"
        ):
            without.append(name)
    assert without == []


def test_machines_and_their_disks_carry_the_tag_project(stack: Rendered) -> None:
    for name, kinds in (("LaunchTemplate", {"instance", "volume"}), ("ControlTemplate", {"volume"})):
        specified = {item["ResourceType"]: tags(item)["Project"] for item in data(stack, name)["TagSpecifications"]}
        assert specified == dict.fromkeys(kinds, "pdf-flows")
    for name in ("SpotGroup", "OnDemandGroup"):
        assert all(tag["PropagateAtLaunch"] for tag in stack.properties(name)["Tags"])


# --- cluster, capacity, groups


def test_cluster(stack: Rendered) -> None:
    assert stack.properties("Cluster")["ClusterName"] == "pdf-flows"


@pytest.mark.parametrize("kind", ["Spot", "OnDemand"])
def test_capacity_providers_have_managed_scaling_over_their_group(stack: Rendered, kind: str) -> None:
    provider = stack.properties(f"{kind}Provider")["AutoScalingGroupProvider"]
    assert provider["AutoScalingGroupArn"] == stack({"Ref": f"{kind}Group"})
    scaling = provider["ManagedScaling"]
    assert (scaling["Status"], scaling["TargetCapacity"], scaling["InstanceWarmupPeriod"]) == ("ENABLED", 100, 180)
    assert provider["ManagedDraining"] == provider["ManagedTerminationProtection"] == "ENABLED"
    # Termination protection needs it.
    assert stack.properties(f"{kind}Group")["NewInstancesProtectedFromScaleIn"] is True


def test_spot_is_the_default_and_both_providers_belong_to_the_cluster(stack: Rendered) -> None:
    found = stack.properties("ClusterProviders")
    assert found["CapacityProviders"] == ["pdf-flows-spot", "pdf-flows-on-demand"]
    assert found["DefaultCapacityProviderStrategy"] == [{"CapacityProvider": "pdf-flows-spot", "Weight": 1}]


def test_a_run_can_name_the_on_demand_provider(stack: Rendered) -> None:
    variables = on_demand_variables(stack.outputs["OnDemandCapacityProviderName"])
    assert variables is not None
    assert (
        variables["capacity_provider_strategy"][0]["capacityProvider"] == stack.properties("OnDemandProvider")["Name"]
    )


def test_all_spot_price_capacity_optimized(stack: Rendered) -> None:
    spread = stack.properties("SpotGroup")["MixedInstancesPolicy"]["InstancesDistribution"]
    assert (spread["OnDemandBaseCapacity"], spread["OnDemandPercentageAboveBaseCapacity"]) == (0, 0)
    assert spread["SpotAllocationStrategy"] == "price-capacity-optimized"


def test_the_on_demand_group_is_all_on_demand(stack: Rendered) -> None:
    spread = stack.properties("OnDemandGroup")["MixedInstancesPolicy"]["InstancesDistribution"]
    assert spread["OnDemandPercentageAboveBaseCapacity"] == 100 and "SpotMaxPrice" not in spread


@pytest.mark.parametrize("kind", ["SpotGroup", "OnDemandGroup"])
def test_an_explicit_list_of_single_gpu_types_g4dn_xlarge_first(stack: Rendered, kind: str) -> None:
    overrides = stack.properties(kind)["MixedInstancesPolicy"]["LaunchTemplate"]["Overrides"]
    assert [item["InstanceType"] for item in overrides] == TYPES
    assert all(set(item) == {"InstanceType"} for item in overrides)  # capacity providers know no weights


def test_each_type_has_one_nvidia_gpu_of_16_gb_x86_and_a_price_that_we_know() -> None:
    """By moto's catalogue of real types."""
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="us-east-1")
        found = ec2.describe_instance_types(InstanceTypes=TYPES)["InstanceTypes"]
    assert len(found) == len(TYPES)
    for item in found:
        (gpu,) = item["GpuInfo"]["Gpus"]
        assert (gpu["Manufacturer"], gpu["Count"]) == ("NVIDIA", 1)
        assert item["GpuInfo"]["TotalGpuMemoryInMiB"] >= 15 * 1024
        assert item["ProcessorInfo"]["SupportedArchitectures"] == ["x86_64"]
        assert item["InstanceType"] in ON_DEMAND


@pytest.mark.parametrize("kind", ["SpotGroup", "OnDemandGroup"])
def test_at_most_as_many_machines_as_workers_and_none_to_begin_with(kind: str) -> None:
    group = Rendered({"Workers": "7"}).properties(kind)
    assert (group["MinSize"], group["MaxSize"]) == ("0", "7")
    # Would set a running fleet back at each update of the stack.
    assert "DesiredCapacity" not in group
    # ECS gets no notice of what rebalancing takes away.
    assert not group.get("CapacityRebalance", False)


@pytest.mark.parametrize("price", ["", "0.39"])
def test_an_optional_max_price(price: str) -> None:
    spread = Rendered({"MaxPrice": price}).properties("SpotGroup")["MixedInstancesPolicy"]["InstancesDistribution"]
    assert spread["SpotMaxPrice"] == price
    assert re.fullmatch(load()["Parameters"]["MaxPrice"]["AllowedPattern"], price)


def test_machines_of_all_the_subnets(stack: Rendered) -> None:
    assert stack.properties("SpotGroup")["VPCZoneIdentifier"] == ["subneta", "subnetb", "subnetc"]
    assert Rendered(EXISTING).properties("SpotGroup")["VPCZoneIdentifier"] == ["subnet-a", "subnet-b"]


# --- the GPU machine


def test_the_machine_image_is_the_ecs_gpu_one_of_al2023_by_its_ssm_parameter() -> None:
    parameter = load()["Parameters"]["GpuAmi"]
    assert parameter["Type"] == "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"
    assert parameter["Default"] == "/aws/service/ecs/optimized-ami/amazon-linux-2023/gpu/recommended/image_id"


@pytest.mark.parametrize("name", ["LaunchTemplate", "ControlTemplate"])
def test_the_metadata_service_wants_tokens_and_containers_on_a_bridge_do_not_reach_it(
    stack: Rendered, name: str
) -> None:
    assert data(stack, name)["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


@pytest.mark.parametrize("name", ["LaunchTemplate", "ControlTemplate"])
def test_disks_are_encrypted_gp3_and_go_with_the_machine(stack: Rendered, name: str) -> None:
    (disk,) = data(stack, name)["BlockDeviceMappings"]
    assert disk["DeviceName"] == "/dev/xvda"
    assert (disk["Ebs"]["VolumeType"], disk["Ebs"]["Encrypted"], disk["Ebs"]["DeleteOnTermination"]) == (
        "gp3",
        True,
        True,
    )


def test_a_machine_that_switches_itself_off_is_terminated(stack: Rendered) -> None:
    assert data(stack)["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_nothing_comes_in(stack: Rendered) -> None:
    for given in (stack, Rendered(EXISTING), Rendered(ELSEWHERE)):
        for group in given.of_type("AWS::EC2::SecurityGroup").values():
            assert "SecurityGroupIngress" not in group
        rules = given.of_type("AWS::EC2::SecurityGroupIngress")
        assert {rule["GroupId"] for rule in rules.values()} <= {"controlgroup"}
    assert data(stack)["NetworkInterfaces"][0]["Groups"] == ["taskgroup"]


def test_what_goes_out_is_https_and_the_prefect_api(stack: Rendered) -> None:
    def out(given: Rendered) -> set[tuple[int, str]]:
        inline = given.properties("TaskGroup")["SecurityGroupEgress"]
        more = [
            rule for rule in given.of_type("AWS::EC2::SecurityGroupEgress").values() if rule["GroupId"] == "taskgroup"
        ]
        return {(int(r["FromPort"]), r.get("CidrIp", r.get("DestinationSecurityGroupId"))) for r in [*inline, *more]}

    assert out(stack) == {(443, "0.0.0.0/0"), (4200, "controlgroup")}
    assert out(Rendered(ELSEWHERE)) == {(443, "0.0.0.0/0")}
    # CloudFormation compares numbers as the texts that they are given as.
    elsewhere = Rendered(ELSEWHERE | {"PrefectApiPort": "4200"})
    assert out(elsewhere) == {(443, "0.0.0.0/0"), (4200, "0.0.0.0/0")}


def test_the_only_shell_is_ssms(stack: Rendered) -> None:
    for name in ("LaunchTemplate", "ControlTemplate"):
        assert "KeyName" not in data(stack, name)
    assert {"instancerole", "prefectworkerrole", "plainrole"} == set(stack.properties("ShellPolicy")["Roles"])


@pytest.mark.parametrize("name", ["LaunchTemplate", "ControlTemplate"])
def test_user_data_fits_and_is_bash(stack: Rendered, name: str, tmp_path: Path) -> None:
    script = data(stack, name)["UserData"]
    assert script.startswith("#!/bin/bash\n") and len(script.encode()) < 16_384
    for text in (script, heredoc(script, INNER[name])):
        (tmp_path / "s").write_text(text)
        assert subprocess.run(["bash", "-n", tmp_path / "s"], capture_output=True, text=True).stderr == ""


INNER = {"LaunchTemplate": "/usr/local/bin/spot-watch", "ControlTemplate": "/usr/local/bin/pdf-flows-host"}


def test_ecs_agent(stack: Rendered) -> None:
    config = heredoc(data(stack)["UserData"], "/etc/ecs/ecs.config").splitlines()
    assert {
        "ECS_CLUSTER=pdf-flows",
        "ECS_ENABLE_GPU_SUPPORT=true",
        # Without it a task in the host's network gets no role of its own.
        "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST=true",
        "ECS_CONTAINER_STOP_TIMEOUT=110s",
    } <= set(config)


# --- scripts, run


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """A folder for the root of a machine, with `bin` of stand-ins for what is not here."""
    (tmp_path / "bin").mkdir()
    yield tmp_path


def stand_in(machine: Path, name: str, body: str = "") -> None:
    """A program that notes each call in `calls`, then does `body`."""
    path = machine / "bin" / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> {machine}/calls\n{body}\n')
    path.chmod(0o755)


def calls(machine: Path) -> list[str]:
    path = machine / "calls"
    return path.read_text().splitlines() if path.exists() else []


def moved(script: str, machine: Path) -> str:
    """The script with its absolute paths below the machine's folder."""
    text = re.sub(r"(?<![\w./:])/(etc|run|usr/local|var/lib|dev/disk|data)\b", rf"{machine}/\1", script)
    return text.replace(f"#!{machine}", "#!")


def environment(machine: Path, **more: str) -> dict[str, str]:
    return {"PATH": f"{machine / 'bin'}:{os.environ['PATH']}", "HOME": str(machine), "NO_PROXY": "127.0.0.1", **more}


def test_user_data_of_a_machine_writes_its_units_and_starts_them(machine: Path) -> None:
    for folder in ("etc/systemd/system", "etc/ecs", "usr/local/bin", "var/lib"):
        (machine / folder).mkdir(parents=True)
    stand_in(machine, "systemctl")
    script = moved(data(Rendered({"MaxHours": "3"}))["UserData"], machine)
    before = time.time()
    subprocess.run(["bash", "-euc", script], env=environment(machine), check=True)
    assert calls(machine) == [
        "systemctl enable --now dead-man.timer",
        "systemctl is-active -q dead-man.timer",
        "systemctl enable --now --no-block spot-watch",
    ]
    units = machine / "etc/systemd/system"
    timer = (units / "dead-man.timer").read_text()
    (at,) = re.findall(r"^OnCalendar=@(\d+)$", timer, re.MULTILINE)
    assert 0 <= int(at) - int(before) - 3 * 3600 < 60
    # A machine that was off or rebooting at that time goes off when it is back.
    assert "Persistent=true" in timer
    assert "ExecStart=/usr/bin/systemctl poweroff" in (units / "dead-man.service").read_text()
    assert os.access(machine / "usr/local/bin/spot-watch", os.X_OK)
    assert (machine / "var/lib/spot-notice").is_dir()


def test_a_machine_without_its_timer_ends_all_the_same(machine: Path) -> None:
    for folder in ("etc/systemd/system", "etc/ecs", "usr/local/bin", "var/lib"):
        (machine / folder).mkdir(parents=True)
    stand_in(machine, "systemctl", 'case "$1" in is-active) exit 3 ;; esac')
    stand_in(machine, "shutdown")
    script = moved(data(Rendered({"MaxHours": "3"}))["UserData"], machine)
    subprocess.run(["bash", "-c", script], env=environment(machine), check=True)
    assert "shutdown -h +180" in calls(machine)


@pytest.mark.parametrize(
    ("hours", "good"), [("1", 1), ("48", 1), ("720", 1), ("0", 0), ("721", 0), ("1.5", 0), ("1e1", 0), ("", 0)]
)
def test_hours_are_whole(hours: str, good: int) -> None:
    """The machine's script reckons with them: a fraction took its timer away."""
    assert bool(re.fullmatch(load()["Parameters"]["MaxHours"]["AllowedPattern"], hours)) == bool(good)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_understands_the_units(machine: Path, stack: Rendered) -> None:
    later = int(time.time()) + 3600
    said = subprocess.run(
        ["systemd-analyze", "calendar", f"@{later}"], capture_output=True, text=True, check=True
    ).stdout
    assert datetime.fromtimestamp(later, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") in said
    for name, units in UNITS.items():
        for unit in units:
            text = heredoc(data(stack, name)["UserData"], f"/etc/systemd/system/{unit}")
            # What they start is not on this machine.
            path = machine / unit.replace("@", "@x")
            path.write_text(re.sub(r"(Exec\w+=-?)\S+", r"\1/bin/true", text))
            done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True)
            assert "Unknown" not in done.stderr and "ignoring" not in done.stderr, done.stderr


UNITS = {
    "LaunchTemplate": ("dead-man.service", "spot-watch.service"),
    "ControlTemplate": ("pdf-flows-prepare.service", "pdf-flows@.service"),
}


@pytest.fixture
def watcher(machine: Path, stack: Rendered) -> Iterator[tuple[ImdsServer, Path, list[subprocess.Popen[bytes]]]]:
    """The watcher as the template renders it, and what it watches. The process is started by `start`."""
    script = machine / "spot-watch"
    script.write_text(heredoc(data(stack)["UserData"], "/usr/local/bin/spot-watch"))
    stand_in(machine, "docker", 'if [ "$1" = ps ]; then echo 0123abcd; fi')
    (machine / "notice").mkdir()
    processes: list[subprocess.Popen[bytes]] = []
    with imds_server() as imds:
        yield imds, machine, processes
        for process in processes:
            process.kill()
            process.wait()


def start(watcher: tuple[ImdsServer, Path, list[subprocess.Popen[bytes]]], **more: str) -> subprocess.Popen[bytes]:
    imds, machine, processes = watcher
    given = {"METADATA": imds.url, "NOTICE_FOLDER": str(machine / "notice"), "POLL_SECONDS": "0.1", **more}
    processes.append(subprocess.Popen(["bash", machine / "spot-watch"], env=environment(machine, **given)))
    return processes[-1]


def until(what: Any, seconds: float = 10.0) -> float:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not come"
        time.sleep(0.02)
    return time.monotonic() - began


def in_seconds(seconds: float) -> str:
    return json.dumps(
        {"action": "terminate", "time": f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"}
    )


def test_a_notice_becomes_a_file_at_once_and_sigterm_later(watcher: Any) -> None:
    imds, machine, _ = watcher
    process = start(watcher, TERM_AFTER_SECONDS="2")
    until(lambda: len([r for r in imds.requests if ACTION in r]) >= 3)
    assert list((machine / "notice").glob("[!.]*")) == [] and calls(machine) == []
    notice = in_seconds(120)
    imds.paths[ACTION] = notice
    file = machine / "notice" / FILE.name
    assert until(file.exists) < 3
    assert file.read_text() == notice
    assert file.stat().st_mode & 0o004  # the container's user is another one
    began = time.monotonic()
    assert calls(machine) == []
    assert process.wait(10) == 0
    assert 1.5 < time.monotonic() - began < 5
    assert calls(machine) == [
        "docker ps -q --filter label=com.amazonaws.ecs.container-name=prefect",
        "docker kill --signal TERM 0123abcd",
    ]


def test_a_notice_that_came_late_leaves_less_time_before_sigterm(watcher: Any) -> None:
    imds, machine, _ = watcher
    imds.paths[ACTION] = in_seconds(32)
    began = time.monotonic()
    assert start(watcher).wait(20) == 0  # 85 s otherwise
    assert time.monotonic() - began < 6
    assert calls(machine)[-1] == "docker kill --signal TERM 0123abcd"


@pytest.mark.parametrize("odd", ['{"action":"terminate"}', '{"action":"terminate","time":"soon"}', "gibberish"])
def test_a_notice_without_a_time_waits_as_long_as_any(watcher: Any, odd: str) -> None:
    imds, machine, _ = watcher
    imds.paths[ACTION] = odd
    began = time.monotonic()
    assert start(watcher, TERM_AFTER_SECONDS="1").wait(20) == 0
    assert time.monotonic() - began > 0.9
    assert (machine / "notice" / FILE.name).read_text() == odd


def test_a_rebalance_recommendation_becomes_a_file_and_stops_nothing(watcher: Any) -> None:
    imds, machine, _ = watcher
    imds.paths[REBALANCE] = '{"noticeTime":"2026-11-23T12:00:00Z"}'
    process = start(watcher)
    until((machine / "notice" / REBALANCE_FILE).exists)
    time.sleep(0.5)
    assert process.poll() is None and calls(machine) == []


def test_a_metadata_service_that_fails_is_asked_again(watcher: Any) -> None:
    imds, machine, _ = watcher
    imds.status = 500
    process = start(watcher, TERM_AFTER_SECONDS="0")
    until(lambda: len(imds.requests) > 4)
    imds.garbage = b"no HTTP at all\r\n\r\n"
    time.sleep(0.5)
    imds.status, imds.garbage = None, None
    imds.paths[ACTION] = in_seconds(120)
    assert process.wait(15) == 0
    assert (machine / "notice" / FILE.name).exists()


# --- the task


def container(given: Rendered) -> dict[str, Any]:
    (found,) = given.properties("TaskDefinition")["ContainerDefinitions"]
    assert found["Name"] == "prefect"  # what Prefect's observer looks at
    return dict(found)


def test_the_task_takes_one_gpu_and_fits_a_g4dn_xlarge(stack: Rendered) -> None:
    assert container(stack)["ResourceRequirements"] == [{"Type": "GPU", "Value": "1"}]
    assert container(stack)["Cpu"] <= 4096
    # 16 GiB less what kernel, agent and Docker keep.
    assert container(stack)["MemoryReservation"] <= container(stack)["Memory"] <= 15_000


def test_the_task_runs_on_ec2_without_a_nat_gateway(stack: Rendered) -> None:
    task = stack.properties("TaskDefinition")
    assert (task["RequiresCompatibilities"], task["NetworkMode"]) == (["EC2"], "host")
    # Task-level sizes would be a second limit, which RunTask's overrides of prefect-aws collide with.
    assert "Cpu" not in task and "Memory" not in task


def test_stop_timeout_init_process_shared_memory(stack: Rendered) -> None:
    assert container(stack)["StopTimeout"] == 110
    assert container(stack)["LinuxParameters"] == {"InitProcessEnabled": True, "SharedMemorySize": 2048}


def test_its_root_file_system_is_read_only_with_scratch_of_its_own(stack: Rendered) -> None:
    assert container(stack)["ReadonlyRootFilesystem"] is True
    assert container(stack)["DockerSecurityOptions"] == ["no-new-privileges"]
    volumes = {volume["Name"]: volume for volume in stack.properties("TaskDefinition")["Volumes"]}
    assert volumes["scratch"]["DockerVolumeConfiguration"]["Scope"] == "task"
    assert {"SourceVolume": "scratch", "ContainerPath": "/tmp"} in container(stack)["MountPoints"]


def test_the_notice_reaches_the_container_where_the_worker_looks(stack: Rendered) -> None:
    volumes = {volume["Name"]: volume for volume in stack.properties("TaskDefinition")["Volumes"]}
    assert volumes["spot-notice"]["Host"]["SourcePath"] == "/var/lib/spot-notice"
    mount = {"SourceVolume": "spot-notice", "ContainerPath": str(FILE.parent), "ReadOnly": True}
    assert mount in container(stack)["MountPoints"]
    assert {"Name": FILE_VARIABLE, "Value": str(FILE)} in container(stack)["Environment"]
    watch = heredoc(data(stack)["UserData"], "/usr/local/bin/spot-watch")
    assert "${NOTICE_FOLDER:-/var/lib/spot-notice}" in watch and FILE.name in watch and REBALANCE_FILE in watch


def test_sigterm_leaves_time_to_drain_before_the_end_and_the_stop_timeout_fits_a_notice(stack: Rendered) -> None:
    """A worker drains within 90 s of a notice and 20 s of SIGTERM (docs/fleet.md); a notice comes 120 s ahead."""
    watch = heredoc(data(stack)["UserData"], "/usr/local/bin/spot-watch")
    (after,) = re.findall(r"TERM_AFTER_SECONDS:-(\d+)", watch)
    (poll,) = re.findall(r"POLL_SECONDS:-(\d+)", watch)
    assert int(after) >= 75 and int(poll) + int(after) + 20 <= 120
    assert container(stack)["StopTimeout"] < 120


def test_logs_go_to_the_group_for_seven_days(stack: Rendered) -> None:
    log = container(stack)["LogConfiguration"]
    assert (log["LogDriver"], log["Options"]["awslogs-group"]) == ("awslogs", "/aws/ec2/pdf-workers/")
    assert log["Options"]["mode"] == "non-blocking" and "awslogs-create-group" not in log["Options"]
    group = stack.properties("WorkerLogGroup")
    assert (group["LogGroupName"], group["RetentionInDays"]) == ("/aws/ec2/pdf-workers/", 7)
    assert "WorkerLogGroup" not in Rendered({"CreateLogGroup": "false"}).resources


def test_the_image_is_the_repositorys_latest_or_the_one_given(stack: Rendered) -> None:
    assert container(stack)["Image"] == "123456789012.dkr.ecr.us-east-1.amazonaws.com/pdf-flows/worker:latest"
    assert container(Rendered({"ImageUri": "other@sha256:12"}))["Image"] == "other@sha256:12"


def test_credentials_reach_the_container_as_references_only(stack: Rendered) -> None:
    secret = stack({"Ref": "ApiAuthSecret"})
    assert container(stack)["Secrets"] == [{"Name": "PREFECT_API_AUTH_STRING", "ValueFrom": secret}]
    elsewhere = container(Rendered(ELSEWHERE))["Secrets"]
    assert elsewhere == [
        {"Name": "PREFECT_API_KEY", "ValueFrom": "arn:aws:secretsmanager:us-east-1:123456789012:secret:prefect/key"}
    ]
    assert "Secrets" not in container(Rendered(ELSEWHERE | {"PrefectSecretName": ""}))
    words = json.dumps(container(stack)["Environment"])
    assert not re.search("AUTH|KEY|SECRET|PASSWORD|TOKEN", words)


# --- events


def test_the_events_queue_gets_the_clusters_task_changes(stack: Rendered) -> None:
    rule = stack.properties("TaskRule")
    assert rule["EventPattern"] == {
        "source": ["aws.ecs"],
        "detail-type": ["ECS Task State Change"],
        "detail": {"clusterArn": ["arn:aws:ecs:us-east-1:123456789012:cluster/pdf-flows"]},
    }
    assert [target["Arn"] for target in rule["Targets"]] == [stack({"Fn::GetAtt": ["EventsQueue", "Arn"]})]
    assert stack.properties("EventsQueue")["RedrivePolicy"]["maxReceiveCount"] == 3
    assert "QUEUE=" + stack.outputs["EventsQueueName"] in data(stack, "ControlTemplate")["UserData"]


def test_spot_notices_have_a_rule_and_a_queue(stack: Rendered) -> None:
    rule = stack.properties("SpotRule")
    assert rule["EventPattern"]["detail-type"] == [
        "EC2 Spot Instance Interruption Warning",
        "EC2 Instance Rebalance Recommendation",
    ]
    assert [target["Arn"] for target in rule["Targets"]] == [stack({"Fn::GetAtt": ["SpotQueue", "Arn"]})]


def test_only_the_rules_may_send_to_the_queues(stack: Rendered) -> None:
    for name, queue, rule in (("EventsPolicy", "EventsQueue", "TaskRule"), ("SpotPolicy", "SpotQueue", "SpotRule")):
        policy = stack.properties(name)
        (statement,) = policy["PolicyDocument"]["Statement"]
        assert statement["Principal"] == {"Service": "events.amazonaws.com"}
        assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": stack({"Fn::GetAtt": [rule, "Arn"]})}}
        # SQS refuses a policy that names another queue than the one that it is set on.
        assert statement["Resource"] == stack({"Fn::GetAtt": [queue, "Arn"]})
        assert policy["Queues"] == [stack({"Ref": queue})]


# --- storage


@pytest.mark.parametrize("name", ["InputBucket", "OutputBucket", "SourceBucket"])
def test_buckets_are_encrypted_private_and_cleaned_up(stack: Rendered, name: str) -> None:
    bucket = stack.properties(name)
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert (
        set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        and len(bucket["PublicAccessBlockConfiguration"]) == 4
    )
    aborted = [r for r in bucket["LifecycleConfiguration"]["Rules"] if "AbortIncompleteMultipartUpload" in r]
    assert len(aborted) == 1
    # A name would stand in the way of the next stack, when the bucket was kept.
    assert "BucketName" not in bucket


def test_documents_outlive_the_stack_and_a_mistake(stack: Rendered) -> None:
    for name in ("InputBucket", "OutputBucket"):
        item = load()["Resources"][name]
        assert (item["DeletionPolicy"], item["UpdateReplacePolicy"]) == ("Retain", "Retain")
    output = stack.properties("OutputBucket")
    assert output["VersioningConfiguration"] == {"Status": "Enabled"}
    # Nothing current ever expires: a run's records are its evidence.
    assert not [rule for rule in output["LifecycleConfiguration"]["Rules"] if "ExpirationInDays" in rule]


def test_existing_buckets_are_taken_instead() -> None:
    given = Rendered({"ExistingInputBucket": "mine-in", "ExistingOutputBucket": "mine-out"})
    assert not {"InputBucket", "OutputBucket"} & set(given.resources)
    assert (given.outputs["InputBucket"], given.outputs["OutputBucket"]) == ("mine-in", "mine-out")


def test_repository(stack: Rendered) -> None:
    repository = stack.properties("Repository")
    assert repository["RepositoryName"] == "pdf-flows/worker"
    assert repository["ImageTagMutability"] == "IMMUTABLE_WITH_EXCLUSION"
    (exclusion,) = repository["ImageTagMutabilityExclusionFilters"]
    assert exclusion["ImageTagMutabilityExclusionFilterValue"] == "latest"
    (rule,) = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
    assert rule["selection"]["countNumber"] == 3


# --- alerts and budget


def test_topic_with_an_email_subscription(stack: Rendered) -> None:
    given = Rendered({"NotificationEmail": "a@b.example"}).properties("Subscription")
    assert (given["Protocol"], given["Endpoint"]) == ("email", "a@b.example")
    assert "Subscription" not in stack.resources


def test_alerts_at_50_and_90_percent_to_the_topic_and_the_address(stack: Rendered) -> None:
    for given, subscribers in ((stack, ["SNS"]), (Rendered({"NotificationEmail": "a@b.example"}), ["SNS", "EMAIL"])):
        budget = given.properties("Budget")
        alerts = budget["NotificationsWithSubscribers"]
        assert [alert["Notification"]["Threshold"] for alert in alerts] == [50, 90]
        for alert in alerts:
            assert alert["Notification"]["NotificationType"] == "ACTUAL"
            assert [item["SubscriptionType"] for item in alert["Subscribers"]] == subscribers
    assert stack.properties("Budget")["Budget"]["BudgetLimit"] == {"Amount": 100, "Unit": "USD"}


def test_the_budget_counts_by_tag_only_when_asked(stack: Rendered) -> None:
    assert "CostFilters" not in stack.properties("Budget")["Budget"]
    filtered = Rendered({"BudgetByTag": "true"}).properties("Budget")["Budget"]
    assert filtered["CostFilters"] == {"TagKeyValue": ["user:Project$pdf-flows"]}


def test_at_100_percent_no_task_starts_any_more(stack: Rendered) -> None:
    stop = stack.properties("BudgetStop")
    assert stop["ActionThreshold"] == {"Type": "PERCENTAGE", "Value": 100}
    assert (stop["ActionType"], stop["ApprovalModel"], stop["NotificationType"]) == (
        "APPLY_IAM_POLICY",
        "AUTOMATIC",
        "ACTUAL",
    )
    assert stop["Definition"]["IamActionDefinition"] == {
        "PolicyArn": stack({"Ref": "StopPolicy"}),
        "Roles": ["prefectworkerrole"],
    }
    (statement,) = stack.properties("StopPolicy")["PolicyDocument"]["Statement"]
    assert statement == {"Effect": "Deny", "Action": ["ecs:RunTask", "ecs:StartTask"], "Resource": "*"}


def test_budgets_may_publish_to_the_topic(stack: Rendered) -> None:
    (statement,) = stack.properties("TopicPolicy")["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "budgets.amazonaws.com"}
    assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


# --- network


def test_public_subnets_with_an_s3_gateway_endpoint_and_no_nat(stack: Rendered) -> None:
    kinds = {item["Type"] for item in stack.resources.values()}
    assert not {"AWS::EC2::NatGateway", "AWS::EC2::EIP"} & kinds
    endpoint = stack.properties("S3Endpoint")
    assert (endpoint["VpcEndpointType"], endpoint["ServiceName"]) == ("Gateway", "com.amazonaws.us-east-1.s3")
    assert endpoint["RouteTableIds"] == ["routes"]
    route = stack.properties("DefaultRoute")
    assert (route["DestinationCidrBlock"], route["GatewayId"]) == ("0.0.0.0/0", "internetgateway")
    zones = [subnet["AvailabilityZone"] for subnet in stack.of_type("AWS::EC2::Subnet").values()]
    assert len(set(zones)) == 3
    routed = {item["SubnetId"] for item in stack.of_type("AWS::EC2::SubnetRouteTableAssociation").values()}
    assert routed == {"subneta", "subnetb", "subnetc"}
    for name in ("LaunchTemplate", "ControlTemplate"):
        assert data(stack, name)["NetworkInterfaces"][0]["AssociatePublicIpAddress"] is True


def test_an_existing_vpc_is_taken_as_it_is() -> None:
    given = Rendered(EXISTING)
    made = {item["Type"] for item in given.resources.values() if item["Type"].startswith("AWS::EC2::")}
    assert made == {
        f"AWS::EC2::{kind}"
        for kind in (
            "SecurityGroup",
            "SecurityGroupIngress",
            "SecurityGroupEgress",
            "LaunchTemplate",
            "Volume",
            "Instance",
        )
    }
    assert (given.outputs["VpcId"], given.outputs["SubnetIds"]) == ("vpc-1", "subnet-a,subnet-b")
    assert given.properties("TaskGroup")["VpcId"] == given.properties("ControlGroup")["VpcId"] == "vpc-1"


# --- control host


CONTROL = {
    "ApiAuthSecret",
    "ApiSecretPolicy",
    "ControlVolume",
    "ControlProfile",
    "ControlTemplate",
    "ControlInstance",
    "ControlPolicy",
    "ControlGroup",
    "ControlFromTasks",
    "TasksToControl",
}


def test_a_control_host_by_default_and_not_when_refused(stack: Rendered) -> None:
    assert set(stack.resources) >= CONTROL
    without = Rendered(ELSEWHERE)
    assert not CONTROL & set(without.resources)
    assert without.outputs["PrefectApiUrl"] == ELSEWHERE["PrefectApiUrl"]
    assert "ControlInstanceId" not in without.outputs


def test_it_is_small_and_on_demand(stack: Rendered) -> None:
    assert stack.properties("ControlInstance")["InstanceType"] == "t3.medium"
    assert "InstanceMarketOptions" not in data(stack, "ControlTemplate")
    # Unlimited is the default of t3, and would cost more than the machine.
    assert data(stack, "ControlTemplate")["CreditSpecification"] == {"CpuCredits": "standard"}


def test_it_is_reached_from_the_tasks_security_group_alone(stack: Rendered) -> None:
    rule = stack.properties("ControlFromTasks")
    assert (rule["GroupId"], rule["SourceSecurityGroupId"]) == ("controlgroup", "taskgroup")
    assert (rule["FromPort"], rule["ToPort"]) == (4200, 4200)
    assert data(stack, "ControlTemplate")["NetworkInterfaces"][0]["Groups"] == ["controlgroup"]
    assert stack.outputs["PrefectApiUrl"] == "http://10.42.0.10:4200/api"


def test_its_history_is_on_a_disk_of_its_own_in_its_zone(stack: Rendered) -> None:
    volume = stack.properties("ControlVolume")
    assert (volume["VolumeType"], volume["Encrypted"]) == ("gp3", True)
    assert volume["AvailabilityZone"] == stack.properties("SubnetA")["AvailabilityZone"]
    assert data(stack, "ControlTemplate")["NetworkInterfaces"][0]["SubnetId"] == "subneta"
    existing = Rendered(EXISTING)
    assert existing.properties("ControlVolume")["AvailabilityZone"] == "us-east-1c"
    assert data(existing, "ControlTemplate")["NetworkInterfaces"][0]["SubnetId"] == "subnet-a"
    # Not deleted with a machine, as a disk of its launch template would be.
    assert len(data(stack, "ControlTemplate")["BlockDeviceMappings"]) == 1
    assert load()["Resources"]["ControlVolume"]["UpdateReplacePolicy"] == "Snapshot"


def test_no_update_of_the_stack_replaces_it() -> None:
    """Properties that CloudFormation replaces an instance for are in the launch template, and that is taken in one version."""
    properties = load()["Resources"]["ControlInstance"]["Properties"]
    assert set(properties) == {"LaunchTemplate", "InstanceType", "EbsOptimized", "Tags"}
    assert properties["LaunchTemplate"]["Version"] == {"Ref": "ControlTemplateVersion"}
    assert load()["Parameters"]["ControlTemplateVersion"]["Default"] == "1"


def test_the_api_secret_is_made_by_secrets_manager_and_is_nowhere_in_the_template(stack: Rendered) -> None:
    secret = stack.properties("ApiAuthSecret")
    assert "SecretString" not in secret
    # A comma or a quote would have to be escaped in an environment file.
    assert secret["GenerateSecretString"] == {"PasswordLength": 40, "ExcludePunctuation": True}


@pytest.fixture
def host(machine: Path, stack: Rendered) -> Path:
    """A control host's files, with stand-ins for AWS, Docker and the disk."""
    script = moved(data(stack, "ControlTemplate")["UserData"], machine)
    for folder in ("etc/systemd/system", "usr/local/bin", "run", "var/lib/cloud/data"):
        (machine / folder).mkdir(parents=True)
    (machine / "var/lib/cloud/data/instance-id").write_text("i-0abc\n")
    for name in ("systemctl", "mount", "mkfs.xfs"):
        stand_in(machine, name)
    stand_in(machine, "dnf", "exit 1")
    stand_in(machine, "blkid", "exit 2")
    stand_in(machine, "mountpoint", "exit 1")
    stand_in(machine, "sleep")
    stand_in(machine, "ip", "echo '1.1.1.1 via 10.42.0.1 dev ens5 src 10.42.0.10 uid 0 \\    cache'")
    stand_in(machine, "docker", '[ "$1" != login ] || cat > /dev/null')
    device = machine / "dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_controlvolume"
    stand_in(
        machine,
        "aws",
        f"""case "$1 $2" in
          "secretsmanager get-secret-value") echo TOPSECRETAUTH ;;
          "ecs describe-task-definition") echo repo/pdf-flows/worker:latest ;;
          "ecr get-login-password") echo ECRTOKEN ;;
          "ec2 attach-volume") mkdir -p {device.parent}; touch {device} ;;
        esac""",
    )
    subprocess.run(["bash", "-euc", script], env=environment(machine), check=True)
    assert calls(machine) == [
        "systemctl enable --now --no-block pdf-flows-prepare pdf-flows@postgres pdf-flows@server pdf-flows@parents "
        "pdf-flows@ecs-worker"
    ]
    (machine / "calls").unlink()
    return machine


def act(host: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = str(host / "usr/local/bin/pdf-flows-host")
    return subprocess.run([program, *words], env=environment(host), capture_output=True, text=True)


def test_the_control_host_prepares_itself(host: Path) -> None:
    done = act(host, "prepare")
    assert done.returncode == 0, done.stderr
    said = calls(host)
    assert "aws ec2 attach-volume --volume-id controlvolume --instance-id i-0abc --device /dev/sdf" in said
    assert [line.split()[0] for line in said if line.startswith(("mkfs", "mount "))] == ["mkfs.xfs", "mount"]
    assert "docker pull -q repo/pdf-flows/worker:latest" in said
    # Parents and workers run the image of the one task definition.
    assert "aws ecs describe-task-definition --task-definition pdf-flows-worker" in " ".join(said)
    worker = (host / "run/pdf-flows/worker.env").read_text().splitlines()
    assert worker == ["PREFECT_API_AUTH_STRING=TOPSECRETAUTH", "PREFECT_API_URL=http://10.42.0.10:4200/api"]
    server = dict(line.split("=", 1) for line in (host / "run/pdf-flows/server.env").read_text().splitlines())
    password = (host / "data/password").read_text().strip()
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == "TOPSECRETAUTH"
    database = f"postgresql+asyncpg://prefect:{password}@127.0.0.1:5432/prefect"
    assert server["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == database
    assert len(password) >= 32


def test_prepared_again_it_keeps_disk_and_password(host: Path) -> None:
    act(host, "prepare")
    password = (host / "data/password").read_text()
    stand_in(host, "blkid")  # there is a file system now
    (host / "calls").unlink()
    assert act(host, "prepare").returncode == 0
    assert (host / "data/password").read_text() == password
    assert not [line for line in calls(host) if line.startswith(("mkfs", "aws ec2"))]


def test_a_disk_that_cannot_be_read_is_not_made_anew(host: Path) -> None:
    stand_in(host, "blkid", "exit 4")
    assert act(host, "prepare").returncode != 0
    assert not [line for line in calls(host) if line.startswith(("mkfs", "mount "))]


@pytest.mark.parametrize(
    "missing", ["secretsmanager get-secret-value", "ecs describe-task-definition", "ec2 attach-volume"]
)
def test_while_something_is_missing_nothing_is_served(host: Path, missing: str) -> None:
    (host / "bin/aws.real").write_text((host / "bin/aws").read_text())
    (host / "bin/aws.real").chmod(0o755)
    stand_in(host, "aws", f'if [ "$1 $2" = "{missing}" ]; then exit 254; fi; exec {host}/bin/aws.real "$@"')
    assert act(host, "prepare").returncode != 0
    served = act(host, "serve", "server")
    assert served.returncode == 1 and "not prepared" in served.stdout
    assert not [line for line in calls(host) if line.startswith("docker run")]


def test_what_the_control_host_runs(host: Path) -> None:
    act(host, "prepare")
    (host / "calls").unlink()
    runs = {}
    for name in ("postgres", "server", "parents", "ecs-worker"):
        assert act(host, "serve", name).returncode == 0
        removed, runs[name] = calls(host)[-2:]
        assert removed == f"docker rm -f {name}"
        assert f"--name {name}" in runs[name] and "--network host" in runs[name]
    image = "repo/pdf-flows/worker:latest"
    # Postgres: its data on the disk that is kept, and nobody but this host.
    assert f"-v {host}/data/postgres:/var/lib/postgresql/data" in runs["postgres"]
    assert runs["postgres"].endswith("-c listen_addresses=127.0.0.1")
    assert runs["server"].endswith(f"{image} prefect server start --host 0.0.0.0 --port 4200")
    assert "server.env" in runs["server"] and "worker.env" not in runs["server"]
    # A worker that made its pool itself would make it without the template.
    ends = f"{image} prefect worker start --type"
    assert runs["parents"].endswith(f"{ends} process --pool {PARENTS_POOL} --no-create-pool-if-not-found")
    assert runs["ecs-worker"].endswith(f"{ends} ecs --pool {WORKERS_POOL} --no-create-pool-if-not-found")
    assert "PREFECT_INTEGRATIONS_AWS_ECS_OBSERVER_SQS_QUEUE_NAME=pdf-flows-ecs-events" in runs["ecs-worker"]
    # The ECS worker hands its PREFECT_ settings on to the tasks: the server's must not be among them.
    assert "server.env" not in runs["ecs-worker"]


def test_no_credential_is_in_user_data_arguments_or_output(host: Path, stack: Rendered) -> None:
    outputs = [act(host, "prepare")] + [
        act(host, "serve", name) for name in ("postgres", "server", "parents", "ecs-worker")
    ]
    password = (host / "data/password").read_text().strip()
    seen = "\n".join([*calls(host), *(done.stdout + done.stderr for done in outputs)])
    for credential in ("TOPSECRETAUTH", "ECRTOKEN", password):
        assert credential not in seen
    for name in ("LaunchTemplate", "ControlTemplate"):
        script = data(stack, name)["UserData"]
        assert "resolve:secretsmanager" not in script
        assert not re.search(r"(AUTH_STRING|PASSWORD)=(?!\$)", script)
    # Only root reads them, and what is under /run is gone with the power.
    for file in (host / "run/pdf-flows").glob("*.env"):
        assert file.stat().st_mode & 0o077 == 0
    assert (host / "data/password").stat().st_mode & 0o077 == 0


def test_its_services_are_tried_again_for_ever(stack: Rendered) -> None:
    script = data(stack, "ControlTemplate")["UserData"]
    prepare = heredoc(script, "/etc/systemd/system/pdf-flows-prepare.service")
    serve = heredoc(script, "/etc/systemd/system/pdf-flows@.service")
    assert "Restart=on-failure" in prepare and "Restart=always" in serve
    for unit in (prepare, serve):
        assert "StartLimitIntervalSec=0" in unit and "WantedBy=multi-user.target" in unit
    assert "Requires=" not in serve
    # systemd's patience is longer than Docker's.
    assert "docker stop --time 110" in serve and "TimeoutStopSec=120" in serve


# --- image


def test_the_build_needs_no_docker_of_ones_own(stack: Rendered) -> None:
    project = stack.properties("BuildProject")
    assert project["Environment"]["PrivilegedMode"] is True  # or there is no Docker in it
    assert project["Source"]["Type"] == "S3" and project["Source"]["Location"] == "sourcebucket/source.zip"
    variables = {item["Name"]: item["Value"] for item in project["Environment"]["EnvironmentVariables"]}
    assert variables == {"REPOSITORY": stack.outputs["RepositoryUri"], "IMAGE_TAG": "latest", "BUILD_ARGS": ""}
    spec = yaml.safe_load(project["Source"]["BuildSpec"])
    words = spec["phases"]["build"]["commands"]
    assert [" ".join(command.split()[:2]) for command in words] == ["aws ecr", "docker build", "docker push"]
    assert "worker_image/Dockerfile" in words[1]


# --- checkov


def test_each_justified_finding_names_a_resource_and_says_why(stack: Rendered) -> None:
    held = yaml.safe_load(CHECKOV.read_text(encoding="utf-8"))["findings"]
    for check, found in held.items():
        assert re.fullmatch(r"CKV2?_AWS_\d+", check)
        for resource, why in found.items():
            assert resource in stack.resources and len(why) > 8


@pytest.mark.slow
@pytest.mark.skipif(not (os.environ.get("CHECKOV") or shutil.which("checkov")), reason="checkov is not installed")
def test_checkov_finds_what_is_justified_and_no_more() -> None:
    program = os.environ.get("CHECKOV") or str(shutil.which("checkov"))
    words = [program, "-f", str(TEMPLATE), "--framework", "cloudformation", "--quiet", "--compact", "-o", "json"]
    found = json.loads(subprocess.run(words, capture_output=True, text=True).stdout)
    failed = {(item["check_id"], item["resource"].rsplit(".", 1)[1]) for item in found["results"]["failed_checks"]}
    held = yaml.safe_load(CHECKOV.read_text(encoding="utf-8"))["findings"]
    assert failed == {(check, resource) for check, items in held.items() for resource in items}


# --- moto

UNKNOWN_TO_MOTO = {
    "AWS::Budgets::Budget",
    "AWS::Budgets::BudgetsAction",
    "AWS::CodeBuild::Project",
    "AWS::ECS::CapacityProvider",
    "AWS::ECS::ClusterCapacityProviderAssociations",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::SecretsManager::ResourcePolicy",
    "AWS::SecretsManager::Secret",
}
"""moto accepts them and makes nothing: a stack there says nothing about these."""


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An account of moto's own, in this process."""
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.instances import Instance

    make = Instance.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]

    def with_image(cls: Any, name: str, item: Any, account_id: str, region: str, **more: Any) -> Any:
        # moto wants an instance's image beside its launch template.
        if "ImageId" not in item["Properties"]:
            wanted = item["Properties"]["LaunchTemplate"]
            template = ec2_backends[account_id][region].get_launch_template(wanted["LaunchTemplateId"])
            item["Properties"]["ImageId"] = template.get_version(int(wanted["Version"])).image_id
        return make(cls, name, item, account_id, region, **more)

    monkeypatch.setattr(Instance, "create_from_cloudformation_json", classmethod(with_image))
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield lambda service: boto3.client(service, region_name="us-east-1")


def test_the_stack_is_made_changed_and_deleted_in_an_existing_vpc(account: Any) -> None:
    cloudformation, ec2, groups = account("cloudformation"), account("ec2"), account("autoscaling")
    network = ec2.describe_subnets()["Subnets"][:3]
    given = {
        "ExistingVpcId": network[0]["VpcId"],
        "ExistingSubnetIds": ",".join(subnet["SubnetId"] for subnet in network),
        "ControlZone": network[0]["AvailabilityZone"],
        "NotificationEmail": "a@b.example",
    }

    def asked(**more: str) -> dict[str, Any]:
        parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in (given | more).items()]
        return {
            "StackName": "pdf-flows",
            "TemplateBody": TEMPLATE.read_text(encoding="utf-8"),
            "Parameters": parameters,
            "Capabilities": ["CAPABILITY_IAM"],
        }

    def state() -> tuple[str, dict[str, str]]:
        (found,) = cloudformation.describe_stacks(StackName="pdf-flows")["Stacks"]
        return found["StackStatus"], {item["OutputKey"]: item.get("OutputValue") for item in found["Outputs"]}

    cloudformation.create_stack(**asked())
    status, outputs = state()
    assert status == "CREATE_COMPLETE"
    made = {
        item["ResourceType"]
        for item in cloudformation.list_stack_resources(StackName="pdf-flows")["StackResourceSummaries"]
        if item.get("LogicalResourceId")
    }
    expected = {item["Type"] for item in Rendered(given).resources.values()}
    assert expected - made == UNKNOWN_TO_MOTO | {"AWS::SNS::Subscription"}
    assert set(OUTPUTS) - set(outputs) == {
        "CapacityProviderName",
        "OnDemandCapacityProviderName",
        "BuildProjectName",
        "ApiAuthSecretArn",
    }
    assert outputs["PrefectApiUrl"].endswith(":4200/api") and outputs["ControlInstanceId"].startswith("i-")
    for name in ("AutoScalingGroupName", "OnDemandAutoScalingGroupName"):
        (group,) = groups.describe_auto_scaling_groups(AutoScalingGroupNames=[outputs[name]])["AutoScalingGroups"]
        assert (group["MinSize"], group["MaxSize"], group["DesiredCapacity"]) == (0, 5, 0)

    before = {item["InstanceId"] for page in ec2.describe_instances()["Reservations"] for item in page["Instances"]}
    cloudformation.update_stack(**asked(Workers="7", MaxPrice="0.39"))
    assert state()[0] == "UPDATE_COMPLETE"
    (group,) = groups.describe_auto_scaling_groups(AutoScalingGroupNames=[outputs["AutoScalingGroupName"]])[
        "AutoScalingGroups"
    ]
    assert group["MaxSize"] == 7
    after = {item["InstanceId"] for page in ec2.describe_instances()["Reservations"] for item in page["Instances"]}
    assert before == after == {outputs["ControlInstanceId"]}

    cloudformation.delete_stack(StackName="pdf-flows")
    (deleted,) = cloudformation.list_stacks()["StackSummaries"]
    assert deleted["StackStatus"] == "DELETE_COMPLETE"
    assert groups.describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert account("iam").list_roles()["Roles"] == []
