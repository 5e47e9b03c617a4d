"""Mails and cost reports that work only after somebody clicked something: the subscription, the cost-allocation tag."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import TAG, Account
from deployments.aws.findings import Finding

SUBSCRIPTION = "notifications"
COST_TAG = "cost tag"
COST_REGION = "us-east-1"
"""Cost Explorer answers there only."""


class Subscription(BaseModel):
    """One of a topic."""

    model_config = ConfigDict(frozen=True)

    protocol: str
    endpoint: str
    confirmed: bool


class TagState(StrEnum):
    """Of the cost-allocation tag."""

    ACTIVE = "Active"
    INACTIVE = "Inactive"
    UNSEEN = "unseen"
    """Billing has not met it yet: nothing with the tag was paid for a day ago."""
    UNKNOWN = "unknown"
    """These credentials may not ask."""


def read_subscriptions(account: Account, topic: str) -> list[Subscription]:
    """The topic's. Raises boto3's errors."""
    pages = account.client("sns").get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic)
    return [
        Subscription(
            protocol=item["Protocol"], endpoint=item["Endpoint"], confirmed=item["SubscriptionArn"].startswith("arn:")
        )
        for page in pages
        for item in page["Subscriptions"]
    ]


def judge_subscriptions(found: list[Subscription] | None) -> Finding:
    """Whether somebody is told. Pure. None: there is no topic yet."""
    if found is None:
        return Finding.skipped(
            SUBSCRIPTION, "there is no topic yet", "pdf-flows aws up --email you@example.com makes it"
        )
    if not found:
        return Finding.warn(SUBSCRIPTION, "nobody is subscribed", "pdf-flows aws up --email you@example.com")
    waiting = [s.endpoint for s in found if not s.confirmed]
    if waiting:
        remedy = (
            "click the link in the mail from AWS Notifications (look into spam); budget alerts come by mail without it"
        )
        return Finding.warn(SUBSCRIPTION, f"not confirmed: {', '.join(waiting)}", remedy)
    return Finding.ok(SUBSCRIPTION, "confirmed: " + ", ".join(s.endpoint for s in found))


def read_cost_tag(account: Account) -> TagState:
    """Whether costs are reported by the tag. Raises boto3's errors where AWS does not answer."""
    from botocore.exceptions import ClientError

    try:
        client = account.client("ce", COST_REGION)
        found = client.list_cost_allocation_tags(TagKeys=[TAG])["CostAllocationTags"]
    except ClientError:
        # Denied, or a member account of an organisation, or whatever else: no run waits for this answer.
        return TagState.UNKNOWN
    return TagState(found[0]["Status"]) if found else TagState.UNSEEN


def judge_cost_tag(state: TagState) -> Finding:
    """What it means for budgets that filter by the tag. Pure."""
    where = "Billing console, Cost allocation tags"
    match state:
        case TagState.ACTIVE:
            return Finding.ok(COST_TAG, f"{TAG} is active: costs are reported by it, and --budget-by-tag works")
        case TagState.INACTIVE:
            remedy = f"activate it ({where}; takes up to 24 h, not retroactive); a budget by tag reads $0 until then"
            return Finding.warn(COST_TAG, f"{TAG} is not active", remedy)
        case TagState.UNSEEN:
            remedy = f"some 24 h after the first machine with it, activate it ({where}); the whole account's budget works now"
            return Finding.warn(COST_TAG, f"billing does not know {TAG} yet", remedy)
        case TagState.UNKNOWN:
            remedy = f"look yourself ({where}), or allow ce:ListCostAllocationTags; in an organisation ask its payer"
            return Finding.warn(COST_TAG, f"whether {TAG} is active can't be asked with these credentials", remedy)
