"""The stack's parameters, from the options of `pdf-flows aws up`."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.aws import images
from deployments.aws.account import Account
from deployments.aws.errors import code_of
from deployments.aws.reach import host_and_port
from deployments.aws.user_data import LOG_GROUP
from tasks.corpus.failures import UsageError, bad_field


class StackOptions(BaseModel):
    """What was asked for; None leaves a parameter as it is, or at the template's default."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    workers: int | None = Field(None, alias="Workers", ge=1, le=100)
    max_price: float | None = Field(None, alias="MaxPrice", gt=0)
    # The machines' scripts reckon with it: a fraction would break the timer that ends them.
    max_hours: int | None = Field(None, alias="MaxHours", ge=1, le=720)
    image: str | None = Field(None, alias="ImageUri", pattern=images.ADDRESS)
    vpc: str | None = Field(None, alias="ExistingVpcId", pattern=r"^vpc-[0-9a-f]+$")
    subnets: tuple[str, ...] | None = Field(None, alias="ExistingSubnetIds", min_length=1)
    input_bucket: str | None = Field(None, alias="ExistingInputBucket", min_length=1)
    output_bucket: str | None = Field(None, alias="ExistingOutputBucket", min_length=1)
    input_prefix: str | None = Field(None, alias="InputPrefix")
    output_prefix: str | None = Field(None, alias="OutputPrefix")
    email: str | None = Field(None, alias="NotificationEmail", pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")
    budget: float | None = Field(None, alias="BudgetUsd", ge=1, le=1_000_000_000)
    budget_by_tag: bool | None = Field(None, alias="BudgetByTag")
    control_host: bool | None = Field(None, alias="ControlHost")
    control_type: str | None = Field(None, alias="ControlInstanceType", min_length=1)
    api_url: str | None = Field(None, alias="PrefectApiUrl", pattern=r"^https?://\S+$")
    api_secret: str | None = Field(None, alias="PrefectSecretName", min_length=1)
    more: dict[str, str] = {}
    """Of the template's parameters that have no option, by their names."""

    def given(self) -> dict[str, str]:
        """As CloudFormation takes them: those that were asked for."""
        found = {
            field.alias: _text(value)
            for name, field in type(self).model_fields.items()
            if field.alias is not None and (value := getattr(self, name)) is not None
        }
        return found | self.more


def stack_options(**given: object) -> StackOptions:
    """From the command line. Raises UsageError naming what is bad."""
    try:
        found = StackOptions.model_validate(given)
    except ValidationError as error:
        name, why = bad_field(error)
        by_alias = {field.alias: key for key, field in StackOptions.model_fields.items()}
        option = by_alias.get(name.split(".")[0], name.split(".")[0])
        raise UsageError(f"bad --{option.replace('_', '-')}: {why}") from None
    if "ProjectName" in found.more:
        # By that name nothing would find the stack again, and nobody stop it.
        raise UsageError("--parameter ProjectName is not for you to give: --project NAME names the stack and all in it")
    for url in (found.api_url, found.more.get("PrefectApiUrl")):
        if url:
            try:
                host_and_port(url)
            except ValueError as error:
                raise UsageError(f"bad --api-url: {error}") from None
    if (found.vpc is None) is not (found.subnets is None):
        raise UsageError("--vpc and --subnets go together: the network, and public subnets of it")
    if found.control_host is False and found.api_url is None and "PrefectApiUrl" not in found.more:
        raise UsageError(
            "--no-control-host needs --api-url: workers have to reach some Prefect API (Prefect Cloud's, say)"
        )
    return found


def option_names() -> dict[str, str]:
    """What the command line calls the template's parameters, by their names there. Pure."""
    return {
        field.alias: f"--{name.replace('_', '-')}" for name, field in StackOptions.model_fields.items() if field.alias
    }


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """KEY=VALUE texts. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"bad {option} {text!r}: give KEY=VALUE")
        found[key] = value
    return found


def complete(
    account: Account, given: Mapping[str, str], known: Mapping[str, str | None], *, new: bool
) -> dict[str, str]:
    """Add what follows from what was given and from the account. Raises UsageError, boto3's errors.

    Args:
        known: the template's parameters.
        new: whether the stack is to be made.
    """
    found = {"ProjectName": account.project} | dict(given)
    if (url := given.get("PrefectApiUrl")) and "PrefectApiPort" in known and "PrefectApiPort" not in given:
        found["PrefectApiPort"] = str(host_and_port(url)[1])
    subnets = [name for name in given.get("ExistingSubnetIds", "").split(",") if name]
    if subnets and "ControlZone" in known and "ControlZone" not in given:
        first = account.client("ec2").describe_subnets(SubnetIds=subnets[:1])["Subnets"][0]
        found["ControlZone"] = first["AvailabilityZone"]
    if (image := given.get("ImageUri")) and "ImageRepositoryArn" in known and "ImageRepositoryArn" not in given:
        parsed = images.parse(image)
        if parsed.account is not None and parsed.name != f"{account.project}/worker":
            partition = account.identity.partition
            found["ImageRepositoryArn"] = (
                f"arn:{partition}:ecr:{parsed.region}:{parsed.account}:repository/{parsed.name}"
            )
    if new and "CreateLogGroup" in known and "CreateLogGroup" not in given and log_group_there(account):
        found["CreateLogGroup"] = "false"
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise UsageError(f"the template has no parameter {unknown[0]}: it has {', '.join(sorted(known))}")
    return found


def log_group_there(account: Account) -> bool:
    """Whether the workers' log group exists (`launch` makes it, too). Raises boto3's errors."""
    from botocore.exceptions import ClientError

    try:
        groups = account.client("logs").describe_log_groups(logGroupNamePrefix=LOG_GROUP)["logGroups"]
    except ClientError as error:
        if code_of(error) == "ResourceNotFoundException":
            return False
        raise
    return any(group["logGroupName"] == LOG_GROUP for group in groups)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What would change, for people. Pure."""
    return [
        f"{name}: {before.get(name, '(new)') or '(empty)'} -> {value or '(empty)'}"
        for name, value in after.items()
        if before.get(name) != value
    ]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    # Not as 1e-05, nor rounded to six digits: CloudFormation takes digits and a point.
    return f"{Decimal(str(value)):f}".removesuffix(".0") if isinstance(value, float) else str(value)
