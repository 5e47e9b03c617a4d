"""The CloudFormation stack: made, brought up to date, deleted, and what it consists of."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import TAG, Account
from deployments.aws.errors import AwsError, code_of, message_of
from deployments.aws.showing import plain
from tasks.corpus.failures import UsageError

TEMPLATE = Path(__file__).parent / "infrastructure.yaml"
INLINE_BYTES = 51_200
"""CloudFormation takes larger templates from S3 only (AWS documentation, quotas)."""
LARGEST_BYTES = 1_000_000
CAPABILITIES = ["CAPABILITY_NAMED_IAM"]
POLL_SECONDS = 5.0
STACK_SECONDS = 3600.0
DEAD = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS")
"""States that no update leads out of: the stack has to be deleted first."""
STUCK = "UPDATE_ROLLBACK_FAILED"
"""No update leads out of it either, but CloudFormation can be told to go on; what the stack made is all there."""
_BEGINNINGS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")
"""The stack's own first event of an operation. Rolling back belongs to the operation before it."""


class Stack(BaseModel):
    """A stack that is there."""

    model_config = ConfigDict(frozen=True)

    name: str
    id: str
    status: str
    reason: str = ""
    outputs: dict[str, str] = {}
    parameters: dict[str, str] = {}
    tags: dict[str, str] = {}

    @property
    def busy(self) -> bool:
        """Whether CloudFormation is at work on it."""
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"

    def output(self, name: str) -> str | None:
        """An output, None where the stack has none (also where it is empty)."""
        return self.outputs.get(name) or None

    def belongs_to(self, project: str) -> bool:
        """Whether `pdf-flows aws up` made it: its tag, and the parameter by which the template names everything.

        Both: others tag by project, too.
        """
        return self.tags.get(TAG) == project and self.parameters.get("ProjectName") == project


class Resource(BaseModel):
    """One of a stack's resources."""

    model_config = ConfigDict(frozen=True)

    logical: str
    physical: str
    type: str
    status: str
    reason: str = ""


class Stacks:
    """The project's stack.

    Args:
        account: whose.
        say: where the events of the stack go.
        poll_seconds: between two looks.
    """

    def __init__(
        self,
        account: Account,
        *,
        say: Callable[[str], None] = lambda text: None,
        poll_seconds: float = POLL_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._account = account
        self._cfn = account.client("cloudformation")
        self._say = say
        self._poll = poll_seconds
        self._sleep = sleep
        self.name = account.project

    def find(self) -> Stack | None:
        """The stack, None where there is none. Raises UsageError where it is somebody else's, boto3's errors."""
        found = self._read(self.name)
        if found is not None and not found.belongs_to(self.name):
            raise UsageError(
                f"the stack {self.name} in {self._account.region} was not made by pdf-flows (it lacks the tag {TAG}={self.name} "
                f"or the parameter ProjectName={self.name}): it is left alone; choose another name with --project"
            )
        return found

    def _read(self, name: str) -> Stack | None:
        """By name or id: a deleted one only by its id."""
        from botocore.exceptions import ClientError

        try:
            found = self._cfn.describe_stacks(StackName=name)["Stacks"]
        except ClientError as error:
            if code_of(error) == "ValidationError" and "does not exist" in message_of(error):
                return None
            raise
        if not found:
            return None
        item = found[0]
        return Stack(
            name=item["StackName"],
            id=item["StackId"],
            status=item["StackStatus"],
            reason=item.get("StackStatusReason", ""),
            outputs={output["OutputKey"]: output.get("OutputValue", "") for output in item.get("Outputs", ())},
            parameters={p["ParameterKey"]: p.get("ParameterValue", "") for p in item.get("Parameters", ())},
            tags={tag["Key"]: tag["Value"] for tag in item.get("Tags", ())},
        )

    def resources(self) -> list[Resource]:
        """What it consists of. Raises boto3's errors."""
        pages = self._cfn.get_paginator("list_stack_resources").paginate(StackName=self.name)
        return [
            Resource(
                logical=item["LogicalResourceId"],
                physical=item.get("PhysicalResourceId", ""),
                type=item["ResourceType"],
                status=item["ResourceStatus"],
                reason=item.get("ResourceStatusReason", ""),
            )
            for page in pages
            for item in page["StackResourceSummaries"]
            if item.get("LogicalResourceId")
        ]

    def current_template(self) -> str | None:
        """The template of the stack as it is, as text. None where it can't be had as such."""
        body = self._cfn.get_template(StackName=self.name, TemplateStage="Original")["TemplateBody"]
        return body if isinstance(body, str) else None

    def settle(self) -> Stack | None:
        """Wait until nobody is at work on it (an earlier call of ours that was interrupted, say); None where it is gone then."""
        found = self.find()
        if found is not None and found.busy:
            self._say(f"  the stack is {found.status}: waiting")
            ended = self._wait(found.id)
            return None if ended is None or ended.status == "DELETE_COMPLETE" else ended
        return found

    def create(self, template: Mapping[str, str], parameters: Mapping[str, str]) -> Stack | None:
        """Make it; None where somebody else began to, meanwhile. Raises AwsError naming the resource that failed."""
        from botocore.exceptions import ClientError

        try:
            made = self._cfn.create_stack(
                StackName=self.name,
                Parameters=_parameters(parameters),
                Capabilities=CAPABILITIES,
                Tags=self._account.tags,
                OnFailure="ROLLBACK",
                **template,
            )
        except ClientError as error:
            if code_of(error) != "AlreadyExistsException":
                raise
            return None
        return self._came(self._wait(made["StackId"]), "CREATE_COMPLETE")

    def update(self, template: Mapping[str, str], parameters: Mapping[str, str], keep: list[str]) -> Stack | None:
        """Bring it up to date; None where there was nothing to do.

        Args:
            keep: parameters that keep their values.
        """
        from botocore.exceptions import ClientError

        kept = [{"ParameterKey": name, "UsePreviousValue": True} for name in keep]
        try:
            self._cfn.update_stack(
                StackName=self.name,
                Parameters=[*_parameters(parameters), *kept],
                Capabilities=CAPABILITIES,
                Tags=self._account.tags,
                **template,
            )
        except ClientError as error:
            if code_of(error) == "ValidationError" and "No updates are to be performed" in message_of(error):
                return None
            if code_of(error) == "ValidationError" and "_IN_PROGRESS state" in message_of(error):
                raise AwsError(
                    f"somebody else is at work on the stack {self.name} ({message_of(error)}): pdf-flows aws up again, "
                    "which waits for it"
                ) from error
            raise
        return self._came(self._wait(self.name), "UPDATE_COMPLETE")

    def refuse_stuck(self, stack: Stack) -> None:
        """Raises AwsError with the cause and the way out where an update and its rolling back both failed."""
        if stack.status == STUCK:
            raise self._failed(stack)

    def delete(self) -> None:
        """Delete it and wait. Raises AwsError naming what could not be deleted."""
        found = self.find()
        if found is None:
            return
        self._cfn.delete_stack(StackName=self.name)
        # By its id: a deleted stack has no name any more.
        ended = self._wait(found.id)
        if ended is not None and ended.status == "DELETE_FAILED":
            stuck = [r for r in self.resources() if r.status == "DELETE_FAILED"]
            named = "; ".join(f"{r.logical} ({r.physical}): {plain(r.reason)}" for r in stuck) or plain(ended.reason)
            raise AwsError(
                f"the stack {self.name} could not be deleted: {named}: remove that by hand, then pdf-flows aws down again"
            )

    def _came(self, stack: Stack | None, good: str) -> Stack:
        if stack is not None and stack.status == good:
            return stack
        raise self._failed(stack)

    def _failed(self, stack: Stack | None) -> AwsError:
        if stack is None or stack.status == "DELETE_COMPLETE":
            return AwsError(f"the stack {self.name} is gone: somebody deleted it meanwhile: pdf-flows aws up again")
        words = f"the stack {self.name} is {stack.status}: {self._first_failure(stack)}"
        if stack.status == STUCK:
            return AwsError(
                f"{words}: mend that and have CloudFormation go on (aws cloudformation continue-update-rollback --stack-name "
                f"{self.name} --region {self._account.region}), then pdf-flows aws up again; or pdf-flows aws down"
            )
        return AwsError(f"{words}: mend that, and pdf-flows aws up again")

    def _first_failure(self, stack: Stack) -> str:
        """The earliest failed event is the cause; those after it were cancelled because of it."""
        failed = [e for e in self._events(stack) if e["ResourceStatus"].endswith("FAILED")]
        caused = [e for e in failed if "cancelled" not in e.get("ResourceStatusReason", "").lower()] or failed
        if not caused:
            return plain(stack.reason) or "CloudFormation gives no reason"
        # The last one of those that come newest first: a stack's own state is not its cause.
        first = next((e for e in reversed(caused) if e["LogicalResourceId"] != stack.name), caused[-1])
        return f"{first['LogicalResourceId']} {first['ResourceStatus']}: {plain(first.get('ResourceStatusReason', ''))}"

    def _events(self, stack: Stack) -> Iterator[dict[str, Any]]:
        """Those of the operation that is going on, or was the last: newest first, back to the stack's own event that began it.

        Of a stack that could not be rolled back only those of rolling back: what stood in its way is what has to be mended.
        """
        beginnings = ("UPDATE_ROLLBACK_IN_PROGRESS",) if stack.status == STUCK else _BEGINNINGS
        for page in self._cfn.get_paginator("describe_stack_events").paginate(StackName=stack.id):
            for event in page["StackEvents"]:
                yield event
                if event.get("PhysicalResourceId") == stack.id and event["ResourceStatus"] in beginnings:
                    return

    def _wait(self, name: str) -> Stack | None:
        """Until nobody is at work on it; its events are said as they come."""
        seen: set[str] = set()
        until = time.monotonic() + STACK_SECONDS
        while True:
            found = self._read(name)
            if found is None:
                return None
            self._say_events(found, seen)
            if not found.busy:
                return found
            if time.monotonic() >= until:
                raise AwsError(
                    f"the stack {self.name} is {found.status} since {STACK_SECONDS / 60:.0f} minutes: look at it"
                )
            self._sleep(self._poll)

    def _say_events(self, stack: Stack, seen: set[str]) -> None:
        from botocore.exceptions import ClientError

        try:
            new = list(itertools.takewhile(lambda event: event["EventId"] not in seen, self._events(stack)))
        except ClientError:
            return  # of a stack that is just gone; what became of it the next look says
        for event in reversed(new):
            seen.add(event["EventId"])
            if event["ResourceStatus"].endswith(("COMPLETE", "FAILED")):
                failed = event["ResourceStatus"].endswith("FAILED")
                why = f": {plain(event.get('ResourceStatusReason', ''))}" if failed else ""
                self._say(f"  {event['ResourceStatus']:<18} {event['LogicalResourceId']}{why}")


def read_template(path: Path = TEMPLATE) -> str:
    """The template's text. Raises UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the template {path} cannot be read ({error}): check --template") from None
    if len(text.encode()) > LARGEST_BYTES:
        raise UsageError(f"the template {path} is larger than CloudFormation's 1 MB")
    return text


def _parameters(parameters: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
