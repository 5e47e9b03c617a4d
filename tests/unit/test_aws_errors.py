"""What boto3 raises, in one line each; links, prices of what runs, and the build of the image."""

from __future__ import annotations

import io
import subprocess
import zipfile
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from aws_kit import REGION, call, stubbed
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from deployments.aws import image_build, links, rates, running
from deployments.aws.account import Account
from deployments.aws.errors import AwsError, boto_errors, explain, explained
from deployments.aws.fleet_state import FleetState, Instance, Volume, ended_at
from deployments.aws.running import usd
from tasks.corpus.failures import PdfFlowsError, UsageError
from tasks.fleet.machine import Lifecycle

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def refused(code: str, message: str = "because", operation: str = "RunInstances") -> boto.ClientError:
    return boto.ClientError({"Error": {"Code": code, "Message": message}}, operation)


@pytest.mark.parametrize(
    ("error", "line", "usage"),
    [
        (
            refused("UnauthorizedOperation", "You may not. Encoded authorization failure message: 4wcXJ"),
            "AWS refused RunInstances (UnauthorizedOperation): You may not: allow RunInstances to these credentials "
            "(docs/aws-commands.md lists the permissions)",
            True,
        ),
        (
            refused("ExpiredToken"),
            "AWS refused RunInstances (ExpiredToken): because: the credentials have expired: log in again",
            True,
        ),
        (
            refused("InvalidClientTokenId"),
            "AWS refused RunInstances (InvalidClientTokenId): because: the credentials are not valid: check AWS_PROFILE, or "
            "run `aws configure`",
            True,
        ),
        (
            refused("OptInRequired"),
            "AWS refused RunInstances (OptInRequired): because: the account may not use this service or region yet: finish "
            "its sign-up, or enable the region",
            True,
        ),
        (
            refused("MaxSpotInstanceCountExceeded"),
            "AWS refused RunInstances (MaxSpotInstanceCountExceeded): because: ask for more in the Service Quotas console, or "
            "use fewer workers (`pdf-flows aws preflight` says how)",
            True,
        ),
        (
            refused("RequestLimitExceeded"),
            "AWS refused RunInstances (RequestLimitExceeded): because: run the same command again in a minute",
            False,
        ),
        (
            refused("Odd", "two\nlines."),
            "AWS refused RunInstances (Odd): two lines: mend that and run the same command again",
            False,
        ),
        (
            refused("500", "<!doctype html>\n<title>500"),
            "AWS refused RunInstances (500): the answer is a web page, no message of AWS: run the same command again in a minute",
            False,
        ),
        (
            boto.NoCredentialsError(),
            "no AWS credentials were found: run `aws configure` or `aws sso login`, or set AWS_PROFILE",
            True,
        ),
        (
            boto.PartialCredentialsError(provider="env", cred_var="aws_secret_access_key"),
            "Partial credentials found in env, missing: aws_secret_access_key: set both the key and the secret, or "
            "AWS_PROFILE",
            True,
        ),
        (
            boto.ProfileNotFound(profile="ada"),
            "The config profile (ada) could not be found: name one of ~/.aws/config with --profile or AWS_PROFILE",
            True,
        ),
        (boto.NoRegionError(), "no AWS region is set: give --region, or set AWS_REGION", True),
        (
            boto.EndpointConnectionError(endpoint_url="https://ec2"),
            'AWS does not answer: Could not connect to the endpoint URL: "https://ec2": check the network, proxy and region, '
            "and run the same command again",
            False,
        ),
        (
            boto.ConnectTimeoutError(endpoint_url="https://ec2"),
            'AWS does not answer: Connect timeout on endpoint URL: "https://ec2": check the network, proxy and region, and '
            "run the same command again",
            False,
        ),
        (
            boto.UnauthorizedSSOTokenError(),
            "The SSO session associated with this profile has expired or is otherwise invalid. To refresh this SSO session "
            "run aws sso login with the corresponding profile: log in again (`aws sso login`)",
            True,
        ),
        (
            ResponseParserError("invalid XML"),
            "what answers is not AWS: no AWS message came back: look whether a proxy or AWS_ENDPOINT_URL stands in between, "
            "and run the same command again",
            False,
        ),
    ],
)
def test_one_line_with_code_and_remedy(error: Exception, line: str, usage: bool) -> None:
    assert isinstance(error, boto_errors())
    assert explain(error).text == line
    with pytest.raises(UsageError if usage else AwsError) as raised, explained():
        raise error
    assert str(raised.value) == line


def test_every_error_of_boto_has_a_line() -> None:
    """Also those that nobody thought of: none becomes a traceback, and none has two lines."""
    for name in dir(boto):
        kind = getattr(boto, name)
        if not (isinstance(kind, type) and issubclass(kind, boto.BotoCoreError)):
            continue
        error = kind.__new__(kind)
        Exception.__init__(error, "some\nwords")
        error.kwargs = {}
        text = explain(error).text
        assert text
        assert "\n" not in text


@pytest.mark.parametrize("command", ["status", "stop", "down", "up", "launch", "logs", "ui"])
def test_no_command_ends_in_a_traceback(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials, and where nobody answers."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(UsageError, match="no AWS region is set"):
        call(command)
    with pytest.raises(UsageError, match="no AWS credentials were found"):
        call(command, "--region", REGION)
    with pytest.raises(UsageError, match=r"The config profile \(ada\) could not be found"):
        call(command, "--profile", "ada")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    # boto3 would wait between its tries.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(PdfFlowsError, match="AWS does not answer"):
        call(command, "--region", REGION)


def test_links() -> None:
    assert links.logs(REGION, "/aws/ec2/pdf-workers/", "worker-0") == (
        "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#logsV2:log-groups/log-group/"
        "$252Faws$252Fec2$252Fpdf-workers$252F/log-events/worker-0"
    )
    assert links.console("cn-north-1", "x", "aws-cn") == "https://cn-north-1.console.amazonaws.cn/x"


# -------------------------------------------------------------------------------------------------------------- what runs


def an_instance(**more: Any) -> Instance:
    given = {"id": "i-1", "type": "g4dn.xlarge", "zone": "us-east-1a", "state": "running", "lifecycle": Lifecycle.SPOT}
    return Instance(**{**given, "launched": NOON, **more})


def test_nothing_runs() -> None:
    assert running.running(FleetState(), lambda instance: 1.0).line() == "still running: nothing, $0.00/h"
    gone = FleetState(instances=(an_instance(state="terminated"), an_instance(id="i-2", state="shutting-down")))
    assert running.running(gone, lambda instance: 1.0).line() == "still running: nothing, $0.00/h"


def test_what_runs_and_what_it_costs() -> None:
    state = FleetState(
        instances=(an_instance(public_ip="1.2.3.4"), an_instance(id="i-2", type="odd.xlarge")),
        volumes=(Volume(id="vol-1", gigabytes=100, kind="gp3", iops=3000, mbps=250, attached="i-1"),),
    )
    found = running.running(state, lambda instance: 0.21 if instance.id == "i-1" else None)
    assert found.line() == (
        "still running: 2 instances (i-1 g4dn.xlarge spot, i-2 odd.xlarge spot), 1 volume (vol-1 100 GB), "
        "1 address (1.2.3.4), $0.23/h and 1 whose price is not known"
    )
    # The same as the extras that the run's own ledger reckons with.
    assert found.usd_per_hour == pytest.approx(0.21 + 0.0228, abs=1e-4)


def test_prices_of_what_runs() -> None:
    class Ec2:
        def describe_spot_price_history(self, **asked: Any) -> dict[str, Any]:
            return {"SpotPriceHistory": [{"Timestamp": NOON, "SpotPrice": "0.2"}]}

    from tasks.fleet.prices import AwsPrices

    price = running.price_of(AwsPrices(lambda region: Ec2(), wall=lambda: NOON), REGION)
    assert price(an_instance()) == 0.2
    assert price(an_instance(lifecycle=Lifecycle.ON_DEMAND)) == 0.526
    assert price(an_instance(type="t3.medium", lifecycle=Lifecycle.ON_DEMAND)) == rates.CONTROL["t3.medium"]
    assert price(an_instance(type="odd.xlarge", lifecycle=Lifecycle.ON_DEMAND)) is None


def test_spent_until_the_end_that_aws_names() -> None:
    assert ended_at("User initiated (2026-11-25 13:00:00 GMT)") == NOON + timedelta(hours=1)
    assert ended_at("Server.SpotInstanceTermination: Spot instance termination") is None
    ended = an_instance(state="terminated", ended=NOON + timedelta(hours=1))
    state = FleetState(
        instances=(ended, an_instance(id="i-2")), volumes=(Volume(id="v", gigabytes=100, kind="gp3", attached="i-2"),)
    )
    assert running.spent(state, lambda instance: 0.2, NOON + timedelta(hours=3)) == pytest.approx(
        0.2 + 3 * (0.2 + 8 / 730)
    )


def test_amounts() -> None:
    assert (usd(0), usd(0.0001), usd(1.234)) == ("$0.00", "$0.0001", "$1.23")
    assert rates.volume_per_hour("gp3", 100, 3000, 250) == pytest.approx(0.0178, abs=1e-4)
    assert rates.volume_per_hour("io9", 100) == rates.volume_per_hour("io1", 100)


# ------------------------------------------------------------------------------------------------------------------- image


def test_source_is_what_the_image_needs_and_always_the_same(tmp_path: Path) -> None:
    for name in (
        "tasks/a.py",
        "tests/test_a.py",
        ".env",
        "worker_image/Dockerfile",
        "tasks/ignored.pyc",
        "pyproject.toml",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    (tmp_path / "tasks" / "credentials.csv").write_text("mine")
    data = image_build.source_zip(tmp_path)
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert names == ["pyproject.toml", "tasks/a.py", "worker_image/Dockerfile"]
    assert image_build.source_zip(tmp_path) == data
    with pytest.raises(UsageError, match="is no git clone"):
        image_build.source_zip(tmp_path / "nowhere")


def test_source_has_all_that_the_dockerfile_copies() -> None:
    """From the context, that is: not from other stages."""
    names = zipfile.ZipFile(io.BytesIO(image_build.source_zip())).namelist()
    text = (image_build.ROOT / "worker_image" / "Dockerfile").read_text().replace("\\\n", " ")
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert len(copied) > 8
    for source in (name for words in copied for name in words):
        assert any(fnmatch(name, source) or name.startswith(f"{source}/") for name in names), source


def build_answers(*states: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any] | None]]:
    started = (
        "start_build",
        {"build": {"id": "pdf-flows-image:1"}},
        {
            "projectName": "pdf-flows-image",
            "sourceTypeOverride": "S3",
            "sourceLocationOverride": "source/source.zip",
            "environmentVariablesOverride": [{"name": "IMAGE_TAG", "value": "latest", "type": "PLAINTEXT"}],
        },
    )
    return [started, *(("batch_get_builds", {"builds": [state]}, None) for state in states)]


def built(*states: dict[str, Any]) -> list[str]:
    said: list[str] = []
    identity = ("get_caller_identity", {"Account": "1", "Arn": "arn:aws:iam::1:user/ada", "UserId": "x"}, None)
    with stubbed("codebuild", *build_answers(*states)) as codebuild, stubbed("sts", identity) as sts:
        account = Account(region=REGION, clients={"codebuild": codebuild, "sts": sts})
        image_build.build(account, "pdf-flows-image", "source", tag="latest", say=said.append, sleep=lambda s: None)
    return said


def test_build_is_waited_for() -> None:
    said = built(
        {"buildStatus": "IN_PROGRESS", "currentPhase": "BUILD"},
        {"buildStatus": "IN_PROGRESS", "currentPhase": "BUILD"},
        {"buildStatus": "SUCCEEDED", "currentPhase": "COMPLETED"},
    )
    assert said[1:] == ["  BUILD", "  COMPLETED"]
    assert said[0].startswith(
        "  log: https://us-east-1.console.aws.amazon.com/codesuite/codebuild/projects/pdf-flows-image/"
    )


def test_build_that_fails_names_its_phase() -> None:
    phases = [
        {"phaseType": "INSTALL", "phaseStatus": "SUCCEEDED"},
        {"phaseType": "BUILD", "phaseStatus": "FAILED", "contexts": [{"message": "docker build: exit status 1"}]},
    ]
    with pytest.raises(
        AwsError, match=r"the image was not built \(FAILED\): BUILD FAILED: docker build: exit status 1; log: "
    ):
        built({"buildStatus": "FAILED", "phases": phases})
