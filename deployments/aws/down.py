"""`pdf-flows aws down`: everything is deleted, buckets only when asked; what is left is named."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from deployments.aws import kept_buckets, scale_in, stop
from deployments.aws.account import Account
from deployments.aws.errors import DENIED, code_of
from deployments.aws.fleet_state import FleetState, look
from deployments.aws.orchestration import Orchestration
from deployments.aws.stack import Resource, Stacks
from deployments.aws.steps import Steps

IMAGES_AT_ONCE = 100
BUCKET, REPOSITORY = "AWS::S3::Bucket", "AWS::ECR::Repository"


class Gone(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True)

    left: tuple[str, ...] = ()
    """In words: instances that are still there."""
    kept: tuple[str, ...] = ()
    """Buckets that were kept."""
    notes: tuple[str, ...] = ()


def down(
    account: Account,
    stacks: Stacks,
    prefect: Orchestration | str | None,
    steps: Steps,
    *,
    sure: bool = True,
    delete_buckets: bool = False,
    patience: stop.Patience = stop.PATIENCE,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Gone, FleetState | None]:
    """Stop everything, delete the stack, and look by tag what is left (None in a dry run).

    Raises AwsError naming what CloudFormation could not delete, boto3's errors.
    """
    stack = stacks.find() if steps.dry_run else stacks.settle()
    stopped = stop.stop(account, stack, prefect, steps, sure=sure, patience=patience, sleep=sleep)
    for group in scale_in.find_groups(account):
        if group.maximum:
            # While the stack is being deleted nobody may start a machine again.
            steps.do(f"close {group.name}", lambda group=group: scale_in.to_zero(account, group, closed=True))
    kept: list[str] = []
    notes = list(stopped.notes)
    if stack is None:
        steps.note(f"there is no stack {stacks.name}")
    else:
        kept = _delete_stack(account, stacks, steps, delete_buckets=delete_buckets)
    if delete_buckets:
        _delete_kept(account, steps, notes)
    if steps.dry_run:
        return Gone(kept=tuple(kept), notes=tuple(notes)), None
    state = _look(account, patience, sleep)
    left = tuple(instance.words() for instance in state.living)
    return Gone(left=left, kept=tuple(kept), notes=tuple(notes)), state


def _look(account: Account, patience: stop.Patience, sleep: Callable[[float], None]) -> FleetState:
    """What is left, when what went with the machines has had time to go."""
    until = time.monotonic() + patience.vanish
    while True:
        state = look(account)
        if state.living or not state.others or time.monotonic() >= until:
            return state
        sleep(patience.poll)


def _delete_stack(account: Account, stacks: Stacks, steps: Steps, *, delete_buckets: bool) -> list[str]:
    resources = [r for r in stacks.resources() if r.status != "DELETE_COMPLETE" and r.physical]
    own = {r.logical: r.physical for r in resources if r.type == BUCKET and r.logical in kept_buckets.BUCKETS}
    # The stack cannot delete what is not empty; buckets with documents it leaves where they are (DeletionPolicy).
    doomed = {logical: name for logical, name in own.items() if delete_buckets or logical not in kept_buckets.DOCUMENTS}
    for name in doomed.values():
        steps.do(f"empty the bucket {name}", lambda name=name: empty_bucket(account, name))
    for resource in resources:
        if resource.type == REPOSITORY and resource.logical == "Repository":
            steps.do(f"delete the images of {resource.physical}", lambda r=resource: _empty_repository(account, r))
        if resource.type == "AWS::IAM::ManagedPolicy":
            _free_policy(account, resource, {r.physical for r in resources if r.type == "AWS::IAM::Role"}, steps)
    steps.do(f"delete the stack {stacks.name}", lambda: _deleted(stacks))
    for logical, name in doomed.items():
        if logical in kept_buckets.DOCUMENTS:
            steps.do(f"delete the bucket {name}", lambda name=name: _delete_bucket(account, name))
    kept = [name for logical, name in own.items() if logical not in doomed]
    if kept:
        steps.note(f"kept: {', '.join('s3://' + name for name in kept)} (--delete-buckets deletes them, too)")
    return kept


def _delete_kept(account: Account, steps: Steps, notes: list[str]) -> None:
    """Also those that an earlier `down`, without the option, left behind."""
    from botocore.exceptions import ClientError

    done = {step.what for step in steps.done}
    try:
        found = [name for name in kept_buckets.find(account) if f"empty the bucket {name}" not in done]
    except ClientError as error:
        if code_of(error) not in DENIED:
            raise
        why = f"{error.operation_name}: {code_of(error)}"
        notes.append(f"buckets that an earlier down kept were not looked for ({why})")
        return
    for name in found:
        steps.do(f"empty the bucket {name}, which an earlier down kept", lambda name=name: empty_bucket(account, name))
        steps.do(f"delete the bucket {name}", lambda name=name: _delete_bucket(account, name))


def _deleted(stacks: Stacks) -> str:
    stacks.delete()
    return "deleted"


def empty_bucket(account: Account, name: str) -> str:
    """Delete every object and every version in the bucket. Raises boto3's errors but that it is gone."""
    from botocore.exceptions import ClientError

    s3 = account.client("s3")
    deleted = 0
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=name, PaginationConfig={"PageSize": 1000}):
            found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            objects: list[dict[str, Any]] = [{"Key": v["Key"], "VersionId": v["VersionId"]} for v in found]
            if objects:
                answer = s3.delete_objects(Bucket=name, Delete={"Objects": objects, "Quiet": True})
                deleted += len(objects) - len(answer.get("Errors", ()))
        for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=name):
            for upload in page.get("Uploads", ()):
                s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    except ClientError as error:
        if code_of(error) not in ("NoSuchBucket", "404"):
            raise
        return "it is gone already"
    return f"{deleted:,} objects and versions deleted"


def _delete_bucket(account: Account, name: str) -> str:
    from botocore.exceptions import ClientError

    try:
        account.client("s3").delete_bucket(Bucket=name)
    except ClientError as error:
        if code_of(error) not in ("NoSuchBucket", "404"):
            raise
        return "it is gone already"
    return "deleted"


def _empty_repository(account: Account, repository: Resource) -> str:
    from botocore.exceptions import ClientError

    ecr = account.client("ecr")
    deleted = 0
    try:
        pages = ecr.get_paginator("list_images").paginate(repositoryName=repository.physical)
        ids = list({i["imageDigest"]: {"imageDigest": i["imageDigest"]} for p in pages for i in p["imageIds"]}.values())
        for start in range(0, len(ids), IMAGES_AT_ONCE):
            some = ids[start : start + IMAGES_AT_ONCE]
            deleted += len(ecr.batch_delete_image(repositoryName=repository.physical, imageIds=some)["imageIds"])
    except ClientError as error:
        if code_of(error) != "RepositoryNotFoundException":
            raise
        return "it is gone already"
    return f"{deleted} deleted"


def _free_policy(account: Account, policy: Resource, own_roles: set[str], steps: Steps) -> None:
    """Take the policy off users, groups and roles that are not the stack's own attachments: with them it can't be deleted.

    AWS Budgets attaches one at 100 %, and people may attach others to themselves. CloudFormation takes off only what it put on.
    """
    from botocore.exceptions import ClientError

    iam = account.client("iam")
    try:
        pages = list(iam.get_paginator("list_entities_for_policy").paginate(PolicyArn=policy.physical))
    except ClientError as error:
        if code_of(error) != "NoSuchEntity":
            raise
        return
    for page in pages:
        for user in page["PolicyUsers"]:
            name = user["UserName"]
            steps.do(
                f"take {policy.logical} off the user {name}",
                lambda name=name: iam.detach_user_policy(UserName=name, PolicyArn=policy.physical) and None,
            )
        for group in page["PolicyGroups"]:
            name = group["GroupName"]
            steps.do(
                f"take {policy.logical} off the group {name}",
                lambda name=name: iam.detach_group_policy(GroupName=name, PolicyArn=policy.physical) and None,
            )
        for role in page["PolicyRoles"]:
            name = role["RoleName"]
            # Detached from the stack's own roles, too, where Budgets did it: taking it off twice is no error for CloudFormation.
            if name in own_roles and not _by_budgets(policy):
                continue
            steps.do(
                f"take {policy.logical} off the role {name}",
                lambda name=name: iam.detach_role_policy(RoleName=name, PolicyArn=policy.physical) and None,
            )


def _by_budgets(policy: Resource) -> bool:
    return "deny" in policy.logical.lower() or "stop" in policy.logical.lower()
