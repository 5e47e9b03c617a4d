"""Where messages go: an SNS topic, a Prefect notification block. Each is looked at before a run begins."""

from __future__ import annotations

import asyncio
import inspect
import re
from typing import Any, Protocol

from tasks.corpus.failures import UsageError
from tasks.messages import Message

TIMEOUT_SECONDS = 10.0
"""For a connection to SNS, and again for its answer."""
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:([a-z0-9-]+):\d{12}:[A-Za-z0-9_-]{1,256}\Z")


class Channel(Protocol):
    """Somebody who can be told."""

    name: str
    """For people."""

    def send(self, message: Message) -> None:
        """Raises whatever the library behind it raises."""
        ...

    def lost(self, error: BaseException) -> bool:
        """Whether the message may have arrived all the same, and only the answer was lost."""
        ...


class Topic:
    """An SNS topic. Raises UsageError for what is none, and for one that is not there."""

    def __init__(self, arn: str) -> None:
        found = _TOPIC.match(arn)
        if found is None:
            raise UsageError(
                f"bad notify-topic {arn!r}: give an SNS topic's ARN, arn:aws:sns:<region>:<account>:<name>"
            )
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        self.name = f"SNS topic {arn}"
        self._arn = arn
        # One try each: botocore would repeat a call whose answer was lost, and people would be told twice.
        config = Config(
            connect_timeout=TIMEOUT_SECONDS, read_timeout=TIMEOUT_SECONDS, retries={"total_max_attempts": 1}
        )
        try:
            self._client = boto3.Session().client("sns", region_name=found[1], config=config)
            self._client.get_topic_attributes(TopicArn=arn)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("NotFound", "NotFoundException", "InvalidParameter"):
                raise UsageError(f"there is no SNS topic {arn}: make it, or leave --notify-topic out") from None
            # Whoever may publish need not be allowed to ask about it; and no run waits for a service that is ill.
        except BotoCoreError as error:
            raise UsageError(
                f"the SNS topic {arn} can't be reached ({' '.join(str(error).split())}): "
                "give credentials and a network, or leave --notify-topic out"
            ) from None

    def send(self, message: Message) -> None:
        self._client.publish(TopicArn=self._arn, Subject=message.subject, Message=message.text)

    def lost(self, error: BaseException) -> bool:
        from botocore.exceptions import ConnectionClosedError, ReadTimeoutError, ResponseStreamingError

        return isinstance(error, ConnectionClosedError | ReadTimeoutError | ResponseStreamingError)


class Block:
    """A Prefect notification block, read once: what becomes of it later is no matter. Raises UsageError for what is none."""

    def __init__(self, slug: str) -> None:
        import httpx
        import prefect.blocks.notifications  # noqa: F401 - makes Prefect's own known
        from prefect.blocks.abstract import NotificationBlock
        from prefect.blocks.core import Block as PrefectBlock
        from prefect.exceptions import PrefectException

        if not re.match(r"[^/\s]+/[^/\s]+\Z", slug):
            raise UsageError(f"bad notify-block {slug!r}: give its type and its name, for example slack-webhook/ops")
        self.name = f"block {slug}"
        try:
            block: Any = PrefectBlock.load(slug)
        except (httpx.HTTPError, PrefectException) as error:
            raise UsageError(f"the Prefect block {slug!r} can't be read: {_words(error)}") from None
        except (ValueError, KeyError) as error:
            known = "Unable to find" in str(error)
            why = "there is no such block" if known else f"it can't be used ({_words(error)})"
            raise UsageError(f"the Prefect block {slug!r}: {why}; make it in the Prefect UI (Blocks)") from None
        if not isinstance(block, NotificationBlock):
            raise UsageError(
                f"the Prefect block {slug!r} sends no notifications: name one of a type such as slack-webhook, "
                "microsoft-teams-webhook, custom-webhook or sendgrid-email"
            )
        self._block: Any = block

    def send(self, message: Message) -> None:
        # Else blocks that are told "no" by their service only log that.
        with self._block.raise_on_failure():
            answer = self._block.notify(message.text, message.subject)
            if inspect.isawaitable(answer):
                asyncio.run(_awaited(answer))

    def lost(self, error: BaseException) -> bool:
        import httpx

        return isinstance(error, httpx.ReadError | httpx.ReadTimeout | httpx.RemoteProtocolError)


async def _awaited(answer: Any) -> None:
    await answer


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def open_channels(topic: str | None, block: str | None) -> list[Channel]:
    """Those that are asked for. Raises UsageError with one clear line."""
    found: list[Channel] = []
    if topic is not None:
        found.append(Topic(topic))
    if block is not None:
        found.append(Block(block))
    return found
