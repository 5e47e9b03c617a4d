"""What the commands of `pdf-flows aws` share: options, and what they say at their beginning and end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from deployments.aws.account import PROJECT, Account
from deployments.say import tell
from tasks.corpus.failures import PdfFlowsError, UsageError

if TYPE_CHECKING:
    from deployments.aws.connection import Connection
    from deployments.aws.fleet_state import FleetState
    from deployments.aws.orchestration import Orchestration
    from deployments.aws.running import Running
    from deployments.aws.steps import Steps
    from deployments.aws.stop import Patience

DryRun = Annotated[bool, Parameter(name="--dry-run", negative="", help="Show what would be done, and change nothing.")]
ApiUrl = Annotated[
    str | None,
    Parameter(
        help="Prefect's API. Default: the stack's: its control host's, or the one that it and this machine's settings name."
    ),
]
Types = Annotated[str | None, Parameter(name="--machine-types", help="EC2 instance types, with commas.")]
MaxPrice = Annotated[str | None, Parameter(help="USD an hour that a Spot machine may cost.")]
Image = Annotated[str | None, Parameter(help="The workers' image. Default: the stack's.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Which project, where, and with whose credentials."""

    project: Annotated[
        str, Parameter(env_var="PDF_FLOWS_AWS_PROJECT", help="Name of the stack, and value of the tag Project.")
    ] = PROJECT
    region: Annotated[str | None, Parameter(help="AWS region. Default: AWS_REGION, or the profile's.")] = None
    profile: Annotated[str | None, Parameter(help="Profile of ~/.aws/config. Default: AWS_PROFILE.")] = None

    def account(self) -> Account:
        """The account. Raises UsageError."""
        return Account(self.project, region=self.region, profile=self.profile)


MOST_DRAIN = 86_400
"""Seconds."""
HERE = Where()
"""As the environment says."""


def who(account: Account) -> None:
    """Whose account, before anything is done: also what tells bad credentials from everything else."""
    tell(f"account {account.identity.account} as {account.identity.arn}, region {account.region}")


def orchestration(found: Connection | str | None) -> Orchestration | str | None:
    """Prefect at the end of a connection, or why there is none."""
    from deployments.aws.orchestration import PrefectApi

    return PrefectApi(found.url, found.auth) if found is not None and not isinstance(found, str) else found


def of_stack(found: Connection | str | None) -> bool:
    """Whether what was reached is the stack's own Prefect beyond doubt."""
    return found is not None and not isinstance(found, str) and found.of_stack


@contextlib.contextmanager
def accounted(account: Account) -> Iterator[None]:
    """Where a command breaks off, what costs money is said all the same: that is when it matters most."""
    from deployments.aws.errors import boto_errors

    try:
        yield
    except (PdfFlowsError, KeyboardInterrupt, *boto_errors()) as error:
        if isinstance(error, KeyboardInterrupt):
            tell("interrupted: what AWS was told to do it goes on with; what costs money (Ctrl-C again: do not look):")
        try:
            tell(look(account).line())
        except (PdfFlowsError, *boto_errors()):
            tell("still running: not known")
        raise


def patience(drain: float) -> Patience:
    """How long `stop` waits. Raises UsageError."""
    from deployments.aws.stop import Patience

    if not 0 <= drain <= MOST_DRAIN:
        raise UsageError(f"bad --drain {drain:g}: give seconds, 0 to {MOST_DRAIN}")
    return Patience(drain=drain)


def look(account: Account, state: FleetState | None = None) -> Running:
    """What costs money now, by tag: the last line of most commands. Raises boto3's errors."""
    from deployments.aws import fleet_state, running

    found = state if state is not None else fleet_state.look(account)
    return running.running(found, running.price_of(running.account_prices(account), account.region))


def left_of(left: Running) -> dict[str, Any]:
    """The same for --json."""
    return {"still_running": left.line(), "usd_per_hour": round(left.usd_per_hour, 6)}


def steps_of(steps: Steps) -> list[dict[str, Any]]:
    """What was done, for --json."""
    return [step.model_dump(mode="json") for step in steps.done]
