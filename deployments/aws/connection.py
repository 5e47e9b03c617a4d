"""Which Prefect API the commands talk to, and how they get there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from deployments.aws import tunnel
from deployments.aws.account import Account
from deployments.aws.errors import DENIED, AwsError, boto_errors, code_of, explain
from deployments.aws.reach import health
from deployments.aws.stack import Stack
from deployments.server import Configured, configured_api
from tasks.corpus.failures import UsageError

ANSWERS = (200, 401, 403)


class Connection(BaseModel):
    """An API that answers."""

    model_config = ConfigDict(frozen=True)

    url: str
    auth: str | None = None
    """"user:password"; None: Prefect's own settings say."""
    of_stack: bool = False
    """Whether it is the stack's beyond doubt: its control host's, or the one that the stack names."""

    def environment(self) -> dict[str, str]:
        """What makes Prefect's own programs use it."""
        found = {"PREFECT_API_URL": self.url}
        return found | ({"PREFECT_API_AUTH_STRING": self.auth} if self.auth is not None else {})


@contextlib.contextmanager
def connected(
    account: Account, stack: Stack | None, url: str | None = None, *, seconds: float = tunnel.OPEN_SECONDS
) -> Iterator[Connection | str | None]:
    """The API to use; in words, why it can't be reached; None where there is none: no stack, or one that names none.

    In this order: the one named; the one that Prefect's settings on this machine name, if it is the stack's (mostly they name
    another: the local server of `pdf-flows up`); without a control host, the one that the stack names; with one, the control
    host's, through a tunnel that lasts as long as the context.

    Args:
        seconds: how long a control host that is starting is waited for.

    Whatever keeps it from being reached is told in the words: machines have to be ended all the same.
    """
    own = stack.output("PrefectApiUrl") if stack is not None else None
    if url is not None:
        yield Connection(url=url, of_stack=_same(url, own)) if health(url) in ANSWERS else f"{url} does not answer"
        return
    control = stack.output("ControlInstanceId") if stack is not None else None
    if stack is None or (own is None and control is None):
        yield None
        return
    try:
        configured = configured_api()
    except UsageError as error:
        if control is None:
            yield str(error)
            return
        configured = None
    if configured is not None and _same(configured.url, own) and health(configured.url) in ANSWERS:
        yield Connection(url=configured.url, of_stack=True)
        return
    if control is None:
        answers = health(str(own)) in ANSWERS
        yield Connection(url=str(own), of_stack=True) if answers else _why_not(str(own), configured)
        return
    with contextlib.ExitStack() as opened:
        found = _through(account, stack, control, opened, seconds)
        yield found if isinstance(found, Connection) else f"the control host's API is out of reach: {found}"


def _same(url: str, own: str | None) -> bool:
    return own is not None and url.rstrip("/") == own.rstrip("/")


def _why_not(own: str, configured: Configured | None) -> str:
    other = (
        f", and {configured.url} ({configured.by}) is another" if configured and not _same(configured.url, own) else ""
    )
    return f"the stack's Prefect API {own} does not answer from here{other}: give --api-url if this machine reaches it elsewhere"


def _through(
    account: Account, stack: Stack, control: str, opened: contextlib.ExitStack, seconds: float
) -> Connection | str:
    # Any port: on 4200 a local Prefect server may listen, or `pdf-flows aws ui`.
    port = tunnel.free_port()
    try:
        process = opened.enter_context(tunnel.opened(account, control, port))
        url = tunnel.wait_open(process, port, seconds=seconds)
        return Connection(url=url, auth=auth_string(account, stack), of_stack=True)
    except boto_errors() as error:
        return explain(error).line
    except (UsageError, AwsError) as error:
        return str(error)


def auth_string(account: Account, stack: Stack) -> str | None:
    """The control host's "user:password": its secret's, else what this machine's settings say. Raises boto3's errors."""
    from botocore.exceptions import ClientError

    given = os.environ.get("PREFECT_API_AUTH_STRING")
    secret = stack.output("ApiAuthSecretArn")
    if secret is None:
        return given
    try:
        return str(account.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"])
    except ClientError as error:
        if given is None or code_of(error) not in DENIED:
            raise
        return given
