"""`pdf-flows aws preflight`: every state of every check, with its message."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aws_kit import REGION, Cloud, call, json_of, own_account, stubbed, template
from conftest import MotoS3
from hypothesis import given
from hypothesis import strategies as st

from deployments.aws import (
    buckets,
    forecast,
    images,
    notifications,
    permissions,
    pool_prices,
    preflight,
    quota,
    reach,
)
from deployments.aws.account import Account, Identity
from deployments.aws.findings import Finding, State, refused, table, verdict
from deployments.aws.forecast import Forecast
from deployments.aws.planned_run import PlannedRun, capped_price, planned_run
from deployments.aws.pool_prices import Pool, Ranked
from deployments.aws.rates import GPUS
from deployments.aws.reach import Api, Control, Egress, Network
from tasks.corpus.failures import UsageError

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
T4 = ("g4dn.xlarge",)
IMAGE = f"123456789012.dkr.ecr.{REGION}.amazonaws.com/pdf-flows/worker:latest"


@pytest.fixture
def cloud(moto_s3: MotoS3) -> Iterator[Cloud]:
    with own_account() as found:
        yield found


def account(**clients: Any) -> Account:
    return Account(region=REGION, clients={name.replace("_", "-"): client for name, client in clients.items()})


def said(finding: Finding) -> tuple[State, str, str]:
    return finding.state, finding.words, finding.remedy


# ------------------------------------------------------------------------------------------------ credentials and permissions


def test_identity() -> None:
    user = Identity(account="1", arn="arn:aws:iam::1:user/ada")
    assert said(permissions.judge_identity(user, REGION)) == (
        State.OK,
        "account 1 as arn:aws:iam::1:user/ada, region us-east-1",
        "",
    )
    root = permissions.judge_identity(Identity(account="1", arn="arn:aws:iam::1:root"), REGION)
    assert (root.state, root.remedy) == (State.WARN, "this is the root user: make an IAM user or role for daily work")
    role = Identity(account="1", arn="arn:aws-us-gov:sts::1:assumed-role/Ops/ada")
    assert (role.role_name, role.partition) == ("Ops", "aws-us-gov")


def caller(arn: str) -> tuple[str, Any, None]:
    return "get_caller_identity", {"Account": "1", "Arn": arn, "UserId": "x"}, None


def decisions(**found: str) -> dict[str, Any]:
    results = [{"EvalActionName": name.replace("_", ":"), "EvalDecision": said} for name, said in found.items()]
    return {"EvaluationResults": results, "IsTruncated": False}


def test_missing_permissions_are_named() -> None:
    # Of an assumed role IAM is asked by the role's own ARN, whose path the session's does not have.
    role = "arn:aws:iam::1:role/aws-reserved/Ops"
    got = {
        "Role": {
            "Path": "/aws-reserved/",
            "RoleName": "Ops",
            "RoleId": "AROA1234567890123456",
            "Arn": role,
            "CreateDate": NOON,
        }
    }
    found = decisions(ec2_RunInstances="explicitDeny", iam_PassRole="implicitDeny", ecs_StopTask="allowed")
    with (
        stubbed("sts", caller("arn:aws:sts::1:assumed-role/Ops/ada")) as sts,
        stubbed(
            "iam",
            ("get_role", got, {"RoleName": "Ops"}),
            (
                "simulate_principal_policy",
                found,
                {"PolicySourceArn": role, "ActionNames": list(permissions.MANAGED)},
            ),
        ) as iam,
    ):
        rights = permissions.read(account(sts=sts, iam=iam))
    assert said(permissions.judge(rights)) == (
        State.FAIL,
        "missing: ec2:RunInstances, iam:PassRole (simulated by IAM)",
        "let an administrator allow them (deployments/aws/permissions.py has the list), or use other credentials",
    )


@pytest.mark.parametrize(
    ("code", "state", "words"),
    [
        (
            "DryRunOperation",
            State.WARN,
            "ec2:RunInstances is allowed (dry run); the other permissions could not be asked for",
        ),
        ("UnauthorizedOperation", State.FAIL, "missing: ec2:RunInstances (dry run)"),
        (
            "InvalidAMIID.NotFound",
            State.WARN,
            "not known (SimulatePrincipalPolicy: AccessDenied; InvalidAMIID.NotFound: no run_instances)",
        ),
    ],
)
def test_without_the_simulator_ec2_checks_a_run_that_it_does_not_do(code: str, state: State, words: str) -> None:
    with (
        stubbed("sts", caller("arn:aws:iam::1:user/ada")) as sts,
        stubbed("iam", ("simulate_principal_policy", "AccessDenied", None)) as iam,
        stubbed("ec2", ("run_instances", code, None)) as ec2,
    ):
        finding = permissions.judge(permissions.read(account(sts=sts, iam=iam, ec2=ec2)))
    assert (finding.state, finding.words) == (state, words)


def test_root_may_everything() -> None:
    with stubbed("sts", caller("arn:aws:iam::123456789012:root")) as sts:
        finding = permissions.judge(permissions.read(account(sts=sts)))
    assert finding.state is State.OK


# --------------------------------------------------------------------------------------------------------------- region, stack


def test_region() -> None:
    assert said(preflight.judge_region("sa-east-1", T4, {})) == (
        State.FAIL,
        "sa-east-1 offers none of g4dn.xlarge",
        "choose another with --region: us-east-1, us-east-2, us-west-2 and eu-west-1 have all of them",
    )
    some = preflight.judge_region(REGION, ("g4dn.xlarge", "g6.xlarge"), {"g4dn.xlarge": 5})
    assert said(some) == (State.WARN, "us-east-1: g4dn.xlarge in 5 zones", "it does not offer g6.xlarge")


# ---------------------------------------------------------------------------------------------------------------------- quota


def a_quota(value: float, *requests: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any] | None]]:
    which = {"ServiceCode": "ec2", "QuotaCode": "L-3819A6DF"}
    return [
        ("get_service_quota", {"Quota": {"Value": value}}, which),
        ("list_requested_service_quota_change_history_by_quota", {"RequestedQuotas": list(requests)}, which),
    ]


def instances(*found: dict[str, Any]) -> tuple[str, Any, None]:
    return "describe_instances", {"Reservations": [{"Instances": list(found)}]}, None


def test_quota_0_says_how_to_ask() -> None:
    with stubbed("service-quotas", *a_quota(0.0)) as quotas, stubbed("ec2", instances()) as ec2:
        found = quota.read(account(service_quotas=quotas, ec2=ec2))
    assert said(quota.judge(found, 5, T4, REGION)) == (
        State.FAIL,
        "0 vCPU for G and VT Spot instances in us-east-1; 5 workers need 20 (g4dn.xlarge has 4)",
        "ask: aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-3819A6DF "
        "--desired-value 20 --region us-east-1 (hours to days; new accounts are often refused at first: name your use, "
        "ask again for less)",
    )


def test_quota_that_nobody_changed_is_the_default_and_an_open_request_is_named() -> None:
    answers = [
        ("get_service_quota", "NoSuchResourceException", None),
        ("get_aws_default_service_quota", {"Quota": {"Value": 0.0}}, None),
        (
            "list_requested_service_quota_change_history_by_quota",
            {
                "RequestedQuotas": [
                    {"DesiredValue": 40.0, "Status": "CASE_OPENED"},
                    {"DesiredValue": 99.0, "Status": "DENIED"},
                ]
            },
            None,
        ),
    ]
    with stubbed("service-quotas", *answers) as quotas, stubbed("ec2", instances()) as ec2:
        finding = quota.judge(quota.read(account(service_quotas=quotas, ec2=ec2)), 5, T4, REGION)
    assert finding.state is State.FAIL
    assert finding.remedy.startswith("a request for 40 is open: wait for it (hours to days)")


def test_quota_that_others_use_counts_less() -> None:
    others = {"InstanceId": "i-1", "CpuOptions": {"CoreCount": 2, "ThreadsPerCore": 2}}
    own = {**others, "InstanceId": "i-2", "Tags": [{"Key": "Project", "Value": "pdf-flows"}]}
    with stubbed("service-quotas", *a_quota(12.0)) as quotas, stubbed("ec2", instances(others, own)) as ec2:
        found = quota.read(account(service_quotas=quotas, ec2=ec2))
    assert found.used == 4
    finding = quota.judge(found, 5, T4, REGION)
    assert finding.words == (
        "12 vCPU for G and VT Spot instances in us-east-1, 4 of them used by others; 5 workers need 20 (g4dn.xlarge has 4)"
    )
    assert finding.remedy.startswith("--workers 2, or ask: aws service-quotas")


def test_quota_enough() -> None:
    enough = quota.judge(quota.Quota(vcpus=20), 5, ("g4dn.xlarge", "g4dn.2xlarge"), REGION)
    assert (enough.state, enough.remedy) == (State.OK, "40 would let larger types start, too")
    assert quota.judge(quota.Quota(vcpus=64), 5, T4, REGION).remedy == ""


@given(st.integers(0, 400), st.integers(0, 100), st.integers(1, 60))
def test_quota_says_a_number_of_workers_that_would_fit(vcpus: int, used: int, workers: int) -> None:
    finding = quota.judge(quota.Quota(vcpus=vcpus, used=used), workers, T4, REGION)
    assert (finding.state is State.OK) == (workers * 4 <= vcpus - used)
    if finding.remedy.startswith("--workers "):
        assert (
            quota.judge(
                quota.Quota(vcpus=vcpus, used=used), int(finding.remedy.split()[1].rstrip(",")), T4, REGION
            ).state
            is State.OK
        )


# --------------------------------------------------------------------------------------------------------------------- prices


def pool(type_: str, zone: str, usd: float, at: datetime = NOON) -> Pool:
    return Pool(type=type_, zone=zone, usd_per_hour=usd, at=at)


PLAN = PlannedRun(workers=5, types=("g4dn.xlarge", "g5.xlarge"), pages=72_000)


def test_ranked_by_what_a_thousand_pages_cost() -> None:
    found = pool_prices.rank(
        [pool("g4dn.xlarge", "a", 0.20), pool("g5.xlarge", "a", 0.43), pool("g5.xlarge", "b", 0.60)], PLAN
    )
    # The A10G costs twice as much an hour and reads 2.5 times as fast: cheaper by the page, unless its price is up.
    assert [(p.type, p.zone) for p in found] == [("g5.xlarge", "a"), ("g4dn.xlarge", "a"), ("g5.xlarge", "b")]
    assert found[0].usd_per_1000_pages == pytest.approx((0.43 + 0.0228) / 3600 / 0.58 * 1000)
    # Measured rates take the place of planning values.
    measured = PLAN.model_copy(update={"rates": {"g5.xlarge": 0.3}})
    assert (
        pool_prices.rank([pool("g4dn.xlarge", "a", 0.20), pool("g5.xlarge", "a", 0.43)], measured)[0].type
        == "g4dn.xlarge"
    )


def test_prices_say_the_best_pool() -> None:
    finding, ranked = pool_prices.judge(
        [pool("g4dn.xlarge", "us-east-1a", 0.20), pool("g5.xlarge", "us-east-1b", 0.43)], PLAN, REGION, NOON
    )
    assert said(finding) == (
        State.OK,
        "2 of 2 pools; best g5.xlarge in us-east-1b: $0.4300/h, $0.217 per 1,000 pages at 0.58 pages/s (planning value)",
        "",
    )
    assert ranked[0].line() == "g5.xlarge     us-east-1b       $0.4300/h   0.58 pages/s  $0.217 per 1,000 pages"
    only, _ = pool_prices.judge([pool("g5.xlarge", "us-east-1b", 0.43)], PLAN, REGION, NOON)
    assert (only.state, only.remedy) == (State.WARN, "no pool of g4dn.xlarge here")


def test_no_price_and_implausible_prices_are_refused() -> None:
    none, _ = pool_prices.judge([], PLAN, REGION, NOON)
    assert said(none) == (
        State.FAIL,
        "EC2 has no Spot price of g4dn.xlarge, g5.xlarge in us-east-1",
        "name types of this region with --machine-types, or another --region",
    )
    odd, ranked = pool_prices.judge(
        [pool("g4dn.xlarge", "us-east-1a", 0.00001, datetime(2006, 1, 2, tzinfo=UTC))], PLAN, REGION, NOON
    )
    assert (odd.state, ranked) == (State.FAIL, [])
    assert (
        odd.words == "EC2 gives no plausible Spot price in us-east-1: g4dn.xlarge in us-east-1a $1e-05/h of 2006-01-02"
    )
    # Old alone is enough, cheap alone, too.
    assert not pool_prices.plausible(pool("g4dn.xlarge", "a", 0.2, NOON - timedelta(days=91)), REGION, NOON)
    assert not pool_prices.plausible(pool("g4dn.xlarge", "a", 0.01), REGION, NOON)
    assert pool_prices.plausible(pool("g4dn.xlarge", "a", 0.011), REGION, NOON)
    capped = PLAN.model_copy(update={"max_price": 0.15})
    dear, _ = pool_prices.judge([pool("g4dn.xlarge", "us-east-1a", 0.2)], capped, REGION, NOON)
    assert dear.words.startswith("every pool costs more than --max-price $0.15/h: the cheapest is g4dn.xlarge")
    assert dear.remedy == "raise --max-price to $0.20 or more"


def test_motos_prices_are_asked_for_and_refused(cloud: Cloud) -> None:
    found = pool_prices.read(cloud.account, T4)
    assert found
    assert pool_prices.judge(found, PLAN, REGION, NOON)[0].state is State.FAIL


def test_newest_price_of_each_pool_counts() -> None:
    def item(usd: str, at: datetime) -> dict[str, Any]:
        return {"InstanceType": "g4dn.xlarge", "AvailabilityZone": "us-east-1a", "SpotPrice": usd, "Timestamp": at}

    history = [item("0.3", NOON - timedelta(hours=2)), item("0.2", NOON), item("0.4", NOON - timedelta(hours=1))]
    with stubbed("ec2", ("describe_spot_price_history", {"SpotPriceHistory": history}, None)) as ec2:
        assert [p.usd_per_hour for p in pool_prices.read(account(ec2=ec2), T4)] == [0.2]


def test_price_that_makes_the_budget_hold_by_arithmetic() -> None:
    assert capped_price(100, 5, 48) == 0.39


# ------------------------------------------------------------------------------------------------------------- cost and hours


def ranked(*pools: Pool, plan: PlannedRun = PLAN) -> list[Ranked]:
    return pool_prices.rank(pools, plan)


BOTH = (pool("g4dn.xlarge", "us-east-1a", 0.20), pool("g5.xlarge", "us-east-1b", 0.43))


def test_cost_and_hours_within() -> None:
    finding, found = forecast.judge(PLAN, ranked(*BOTH), REGION)
    assert said(finding) == (
        State.OK,
        "72,000 pages on 5 workers: $18.61 to $22.02 and 7.8 to 19.4 h (budget $100.00, deadline 48 h)",
        "",
    )
    assert [f.type for f in found] == ["g5.xlarge", "g4dn.xlarge"]
    # The work itself: pages / rate / 3600 x price x tails; besides it what starting and tearing down costs.
    g4dn = next(f for f in found if f.type == "g4dn.xlarge")
    assert g4dn.usd == pytest.approx((72_000 / 0.23 * 1.1 + 5 * (900 + 180 + 1200)) / 3600 * 0.2228)
    assert g4dn.hours == pytest.approx(72_000 / 0.23 / 5 * 1.1 / 3600 + 0.25)


def test_budget_too_small() -> None:
    finding, _ = forecast.judge(PLAN.model_copy(update={"budget": 10.0}), ranked(*BOTH), REGION)
    assert finding.state is State.FAIL
    assert finding.words == (
        "budget too small: 72,000 pages on 5 workers: $18.61 to $22.02 and 7.8 to 19.4 h (budget $10.00, deadline 48 h)"
    )
    assert finding.remedy.startswith("raise --budget to $21 or more, or convert less at a time")


def test_budget_too_small_to_start_anything() -> None:
    """Cheap work, but each machine is reckoned at its ceiling until it can be gone."""
    plan = PLAN.model_copy(update={"budget": 0.3, "pages": 10, "workers": 1})
    finding, _ = forecast.judge(plan, ranked(BOTH[0], plan=plan), REGION)
    assert finding.state is State.FAIL
    assert finding.words.startswith("budget too small to start one machine: 10 pages")
    few = PLAN.model_copy(update={"budget": 2.0, "pages": 10})
    some, found = forecast.judge(few, ranked(BOTH[0], plan=few), REGION)
    assert (some.state, some.remedy) == (State.WARN, f"the budget lets {found[0].starts} of 5 machines start at once")
    assert found[0].starts in (1, 2, 3, 4)


def test_too_slow_for_the_deadline() -> None:
    plan = PLAN.model_copy(update={"deadline": 4 * 3600.0})
    finding, _ = forecast.judge(plan, ranked(*BOTH), REGION)
    assert finding.words.startswith("too slow for the deadline: 72,000 pages on 5 workers:")
    assert finding.remedy == "raise --deadline, or --workers to 11 or more"
    more = plan.model_copy(update={"workers": 11})
    assert forecast.judge(more, ranked(BOTH[1]), REGION)[0].state is State.OK
    slow = PLAN.model_copy(update={"deadline": 10 * 3600.0})
    assert forecast.judge(slow, ranked(*BOTH), REGION)[0].remedy == (
        "on g4dn.xlarge alone it would miss the deadline: leave it out, or more workers"
    )


def test_nothing_to_reckon_with() -> None:
    unknown = PLAN.model_copy(update={"pages": None})
    assert said(forecast.judge(unknown, ranked(*BOTH), REGION)[0]) == (
        State.SKIPPED,
        "how much there is to convert is not known",
        "give --pages (pdf-flows plan counts them), --documents or --input",
    )
    assert forecast.judge(PLAN, [], REGION)[0].words == "no Spot price to reckon with"
    assert PlannedRun(documents=4000).page_count == 72_000


@given(st.floats(0.05, 1.0), st.integers(1, 2_000_000), st.integers(1, 50))
def test_more_pages_never_cost_less(usd: float, pages: int, workers: int) -> None:
    plan = PlannedRun(workers=workers, types=T4, pages=pages)
    one = pool_prices.rank([pool("g4dn.xlarge", "a", usd)], plan)[0]
    less, more = (forecast.forecast(plan, n, one, REGION) for n in (pages, pages * 2))
    assert isinstance(less, Forecast)
    assert more.usd > less.usd
    assert more.hours > less.hours


def test_plans_that_are_none() -> None:
    for words, message in (
        ({"types": "p5.48xlarge"}, "how fast p5.48xlarge reads is not known"),
        ({"rates": ["g4dn.xlarge"]}, "bad --pages-per-second 'g4dn.xlarge': give TYPE=RATE"),
        ({"deadline": "soon"}, "bad --deadline: 'soon' is no duration"),
        ({"workers": 0}, "bad --workers"),
    ):
        with pytest.raises(UsageError) as raised:
            planned_run(**{"workers": 5, **words})  # type: ignore[arg-type]
        assert message in str(raised.value)
    assert planned_run(workers=1, types="p5.48xlarge", rates=["p5.48xlarge=9"]).rate("p5.48xlarge") == 9
    assert all(gpu.source for gpu in GPUS.values())


# --------------------------------------------------------------------------------------------------------------------- images


def test_no_image() -> None:
    image = images.parse(IMAGE)
    for code in ("ImageNotFoundException", "RepositoryNotFoundException"):
        with stubbed("ecr", ("describe_images", code, None)) as ecr:
            assert images.read(account(ecr=ecr), image) is None
    assert said(images.judge(image, None, REGION)) == (
        State.FAIL,
        "no image pdf-flows/worker:latest in ECR of us-east-1",
        "build it there: pdf-flows aws up --build (some 20 minutes), or name another with --image",
    )


def test_image_and_its_size() -> None:
    digest = "sha256:" + "ab" * 32
    detail = {"imageDigest": digest, "imageSizeInBytes": 7_400_000_000, "imagePushedAt": NOON}
    expected = {
        "registryId": "123456789012",
        "repositoryName": "pdf-flows/worker",
        "imageIds": [{"imageTag": "latest"}],
    }
    with stubbed("ecr", ("describe_images", {"imageDetails": [detail]}, expected)) as ecr:
        stored = images.read(account(ecr=ecr), images.parse(IMAGE))
    assert stored is not None
    assert said(images.judge(images.parse(IMAGE), stored, REGION)) == (
        State.OK,
        "pdf-flows/worker:latest: 7.4 GB compressed, pushed 2026-11-25 12:00, sha256:abababababab",
        "",
    )
    large = stored.model_copy(update={"bytes": 25_000_000_000})
    assert images.judge(images.parse(IMAGE), large, REGION).remedy.startswith("large: each new machine pulls it first")
    assert images.judge(images.parse(IMAGE), stored, "eu-west-1").remedy.startswith(
        "it is in us-east-1, not in eu-west-1"
    )
    elsewhere = images.judge(images.parse("ghcr.io/x/y:1"), None, REGION)
    assert (elsewhere.state, elsewhere.words) == (
        State.WARN,
        "ghcr.io/x/y:1 is not in ECR: whether it is there, and how large, is not known",
    )
    by_digest = images.parse(IMAGE.replace(":latest", f"@{digest}"))
    assert (by_digest.digest, by_digest.registry) == (digest, IMAGE.split("/")[0])


def test_machine_image_from_its_parameter(cloud: Cloud) -> None:
    ami = images.read_ami(cloud.account)
    device, gigabytes = images.read_root_gigabytes(cloud.account, ami)
    assert ami.startswith("ami-")
    assert images.judge_ami(ami, gigabytes, REGION).words.startswith(f"{ami} in us-east-1")
    assert device.startswith("/dev/")


# -------------------------------------------------------------------------------------------------------------------- buckets


def test_buckets(cloud: Cloud) -> None:
    s3 = cloud.client("s3")
    name = f"in-{cloud.number}"
    s3.create_bucket(Bucket=name)
    for key in ("input/a.pdf", "input/b.PDF", "input/c.txt", "other/d.pdf"):
        s3.put_object(Bucket=name, Key=key, Body=b"x")
    found = buckets.read(cloud.account, name, "input/", count=True)
    assert said(buckets.judge("input", found, REGION, counted=True)) == (
        State.OK,
        f"s3://{name}/input/ in us-east-1, 2 PDFs",
        "",
    )
    empty = buckets.read(cloud.account, name, "nothing/", count=True)
    assert buckets.judge("input", empty, REGION, counted=True).remedy == (
        f"upload some: aws s3 sync <folder> s3://{name}/nothing/"
    )
    missing = buckets.judge("input", buckets.read(cloud.account, "there-is-none-of-it"), REGION)
    assert said(missing) == (State.FAIL, "there is no bucket there-is-none-of-it", "make it, or name another")
    far = f"far-{cloud.number}"
    s3.create_bucket(Bucket=far, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert said(buckets.judge("output", buckets.read(cloud.account, far), REGION)) == (
        State.FAIL,
        f"s3://{far}/ is in eu-west-1, not in us-east-1",
        "use --region eu-west-1, or a bucket of us-east-1: between regions every byte is paid for",
    )


def test_bucket_that_may_not_be_listed() -> None:
    head = {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": REGION}}}
    with stubbed("s3", ("head_bucket", head, None), ("list_objects_v2", "AccessDenied", None)) as s3:
        found = buckets.read(account(s3=s3), "b", "p/")
    assert said(buckets.judge("output", found, REGION)) == (
        State.FAIL,
        "s3://b/p/ cannot be listed (ListObjectsV2: AccessDenied)",
        "allow s3:ListBucket on it",
    )
    with pytest.raises(UsageError, match="bad address 'pdfs'"):
        buckets.split_url("pdfs")


# -------------------------------------------------------------------------------------------------------- mails and cost tag


def test_subscription() -> None:
    def one(endpoint: str, arn: str) -> dict[str, str]:
        return {"Protocol": "email", "Endpoint": endpoint, "SubscriptionArn": arn, "TopicArn": "arn:t", "Owner": "1"}

    def judged(*found: dict[str, str]) -> tuple[State, str, str]:
        with stubbed("sns", ("list_subscriptions_by_topic", {"Subscriptions": list(found)}, None)) as sns:
            return said(notifications.judge_subscriptions(notifications.read_subscriptions(account(sns=sns), "arn:t")))

    assert judged(one("ada@example.com", "PendingConfirmation")) == (
        State.WARN,
        "not confirmed: ada@example.com",
        "click the link in the mail from AWS Notifications (look into spam); budget alerts come by mail without it",
    )
    assert judged(one("ada@example.com", "arn:aws:sns:x")) == (State.OK, "confirmed: ada@example.com", "")
    assert judged() == (State.WARN, "nobody is subscribed", "pdf-flows aws up --email you@example.com")
    assert notifications.judge_subscriptions(None).words == "there is no topic yet"


@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (
            {"CostAllocationTags": [{"TagKey": "Project", "Type": "UserDefined", "Status": "Active"}]},
            State.OK,
            "Project is active: costs are reported by it, and --budget-by-tag works",
        ),
        (
            {"CostAllocationTags": [{"TagKey": "Project", "Type": "UserDefined", "Status": "Inactive"}]},
            State.WARN,
            "Project is not active",
        ),
        ({"CostAllocationTags": []}, State.WARN, "billing does not know Project yet"),
        ("AccessDeniedException", State.WARN, "whether Project is active can't be asked with these credentials"),
    ],
)
def test_cost_tag(answer: Any, state: State, words: str) -> None:
    with stubbed("ce", ("list_cost_allocation_tags", answer, None)) as ce:
        finding = notifications.judge_cost_tag(notifications.read_cost_tag(account(ce=ce)))
    assert (finding.state, finding.words) == (state, words)
    assert finding.remedy or state is State.OK


# ------------------------------------------------------------------------------------------------------------------ Prefect API

HTTPS_ONLY = Network(
    group="sg-1",
    egress=(Egress(protocol="tcp", first=443, last=443, ranges=("0.0.0.0/0",)),),
    ranges=("10.42.0.0/16",),
)


def api(url: str, *addresses: str, status: int | None = 200) -> Api:
    return reach.read_api(url, ask=False).model_copy(update={"addresses": addresses, "status": status})


@pytest.mark.parametrize(
    ("url", "addresses", "status", "state", "words"),
    [
        (
            "http://127.0.0.1:4200/api",
            ("127.0.0.1",),
            200,
            State.FAIL,
            "http://127.0.0.1:4200/api means each worker's own machine: nobody answers there",
        ),
        (
            "http://localhost:4200/api",
            (),
            200,
            State.FAIL,
            "http://localhost:4200/api means each worker's own machine: nobody answers there",
        ),
        (
            "http://192.168.1.5:4200/api",
            ("192.168.1.5",),
            200,
            State.FAIL,
            "http://192.168.1.5:4200/api is a private address (192.168.1.5) outside the workers' network (10.42.0.0/16)",
        ),
        (
            "http://10.42.3.4:4200/api",
            ("10.42.3.4",),
            0,
            State.FAIL,
            "the workers' security group sg-1 lets nothing out to port 4200 of 10.42.3.4",
        ),
        (
            "https://10.42.3.4/api",
            ("10.42.3.4",),
            0,
            State.WARN,
            "https://10.42.3.4/api is inside the workers' network and can't be asked from here; the security group sg-1 "
            "lets workers out to it",
        ),
        (
            "https://api.prefect.cloud/api",
            ("34.1.2.3",),
            401,
            State.OK,
            "https://api.prefect.cloud/api answers from here (HTTP 401: it wants a key); the security group sg-1 lets "
            "workers out to it",
        ),
        (
            "https://prefect.example/api",
            ("34.1.2.3",),
            0,
            State.FAIL,
            "https://prefect.example/api does not answer (no answer)",
        ),
        ("https://nowhere.invalid/api", (), 0, State.FAIL, "nowhere.invalid is no name that this machine knows"),
    ],
)
def test_api_from_the_workers_network(
    url: str, addresses: tuple[str, ...], status: int, state: State, words: str
) -> None:
    finding = reach.judge(api(url, *addresses, status=status), HTTPS_ONLY)
    assert (finding.state, finding.words) == (state, words)
    assert finding.remedy or state is State.OK


def test_what_security_groups_let_out() -> None:
    rule = Egress(protocol="tcp", first=4200, last=4200, groups=("sg-2",))
    assert reach.lets_out([rule], 4200, "10.0.0.1")
    assert not reach.lets_out([rule], 443, "10.0.0.1")
    assert not reach.lets_out([Egress(protocol="udp", ranges=("0.0.0.0/0",))], 443, "1.2.3.4")
    assert reach.lets_out([Egress(protocol="-1", ranges=("0.0.0.0/0",))], 443, "1.2.3.4")
    assert not reach.lets_out([Egress(protocol="-1", ranges=("10.0.0.0/8",))], 443, "1.2.3.4")
    assert not reach.lets_out([], 443, None)


def test_network_is_read(cloud: Cloud) -> None:
    vpc, _ = cloud.network()
    group = cloud.client("ec2").create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
    found = reach.read_network(cloud.account, group, vpc)
    assert found.ranges == ("10.9.0.0/16",)
    assert reach.lets_out(found.egress, 443, "1.2.3.4")


def test_api_that_nobody_serves() -> None:
    assert reach.read_api("http://127.0.0.1:9/api").status == 0
    with pytest.raises(ValueError, match="is no address of a Prefect API"):
        reach.read_api("prefect")


@pytest.mark.parametrize(
    ("control", "state", "words"),
    [
        (
            Control(instance="i-1", state="stopped"),
            State.FAIL,
            "the control host i-1 is stopped: no worker reaches the API",
        ),
        (
            Control(instance="i-1", state="running", answer="200"),
            State.OK,
            "the control host i-1 answers; workers reach it inside their network",
        ),
        (
            Control(instance="i-1", state="running", answer="000"),
            State.FAIL,
            "the control host i-1 runs, and its Prefect server does not answer (000)",
        ),
        (
            Control(instance="i-1", state="running", why="SendCommand: AccessDeniedException"),
            State.WARN,
            "it is the control host i-1's own, inside the workers' network; whether it answers could not be asked "
            "(SendCommand: AccessDeniedException)",
        ),
    ],
)
def test_control_host(control: Control, state: State, words: str) -> None:
    finding = reach.judge_control(control)
    assert (finding.state, finding.words) == (state, words)


def test_control_host_is_asked_through_ssm() -> None:
    running = {"Reservations": [{"Instances": [{"InstanceId": "i-1", "State": {"Name": "running"}}]}]}
    sent = {"Command": {"CommandId": "00000000-0000-0000-0000-000000000000"}}
    answers = [
        ("send_command", sent, None),
        ("get_command_invocation", "InvocationDoesNotExist", None),
        ("get_command_invocation", {"Status": "Success", "StandardOutputContent": "200"}, None),
    ]
    with stubbed("ec2", ("describe_instances", running, None)) as ec2, stubbed("ssm", *answers) as ssm:
        found = reach.read_control(account(ec2=ec2, ssm=ssm), "i-1", sleep=lambda seconds: None)
    assert found.answer == "200"
    refused_ = [("send_command", "AccessDeniedException", None)]
    with stubbed("ec2", ("describe_instances", running, None)) as ec2, stubbed("ssm", *refused_) as ssm:
        found = reach.read_control(account(ec2=ec2, ssm=ssm), "i-1", sleep=lambda seconds: None)
    assert (found.answer, found.why) == (None, "SendCommand: AccessDeniedException")


# ------------------------------------------------------------------------------------------------------------- all together


def test_no_credentials_and_everything_else_is_skipped(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    assert call("preflight") == 2
    out = capsys.readouterr().out
    assert "no AWS credentials were found" in out
    assert out.count("needs credentials") == 13
    assert out.splitlines()[-1] == "1 FAIL, 13 SKIPPED: mend what failed first"


def test_all_of_it_against_a_stack(cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """moto has no quotas and no prices: refused, and each other check has its say."""
    path = tmp_path / "template.yaml"
    path.write_text(template(cloud))
    vpc, subnets = cloud.network()
    words = ["--vpc", vpc, "--subnets", ",".join(subnets), "--email", "ada@example.com", "--no-deployments"]
    assert call("up", "--template", str(path), *words, "--api-url", "http://127.0.0.1:4200/api") == 0
    capsys.readouterr()
    assert call("preflight", "--json") == 2
    found = json_of(capsys)
    assert found["refused"] is True
    states = {f["name"]: (f["state"], f["words"]) for f in found["findings"]}
    assert states["stack"] == ("OK", "pdf-flows is CREATE_COMPLETE")
    assert states["container image"] == ("FAIL", "no image pdf-flows/worker:latest in ECR of us-east-1")
    assert states["input bucket"][0] == "WARN"
    assert states["output bucket"][0] == "OK"
    assert states["notifications"] == ("WARN", "nobody is subscribed")
    assert states["Prefect API"][1].endswith("nobody answers there")
    assert states["Spot prices"][1].startswith("EC2 gives no plausible Spot price")
    assert states["Spot quota"][0] == "FAIL"
    assert states["permissions"][0] == "WARN"


def test_table_and_verdict() -> None:
    found = [Finding.ok("a", "fine"), Finding.fail("b", "[red]not[/red] fine", "mend"), Finding.skipped("c", "later")]
    lines = table(found, width=100).splitlines()
    assert lines[2].split() == ["FAIL", "b", "[red]not[/red]", "fine", "mend"]
    assert verdict(found) == "1 OK, 1 FAIL, 1 SKIPPED: mend what failed first"
    assert verdict(found[:1]) == "1 OK: ready"
    assert refused(found)
    assert not refused([found[0], found[2]])
