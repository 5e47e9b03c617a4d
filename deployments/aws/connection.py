"""Which Prefect API the commands talk to, and how they get there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from deployments.aws import tunnel
from deployments.aws.account import Account
from deployments.aws.errors import AwsError, code_of
from deployments.aws.reach import health
from deployments.aws.stack import Stack
from deployments.server import configured_api
from tasks.corpus.failures import UsageError

LOCAL_PORT = 4200
ANSWERS = (200, 401, 403)


class Connection(BaseModel):
    """An API that answers."""

    model_config = ConfigDict(frozen=True)

    url: str
    auth: str | None = None
    """"user:password"; None: Prefect's own settings say."""

    def environment(self) -> dict[str, str]:
        """What makes Prefect's own programs use it."""
        found = {"PREFECT_API_URL": self.url}
        return found | ({"PREFECT_API_AUTH_STRING": self.auth} if self.auth is not None else {})


@contextlib.contextmanager
def connected(
    account: Account, stack: Stack | None, url: str | None = None, *, seconds: float = tunnel.OPEN_SECONDS
) -> Iterator[Connection | str]:
    """The API to use, or, in words, why none can be reached.

    In this order: the one named; the one that Prefect's settings on this machine name; the control host's, through a tunnel that
    lasts as long as the context.

    Args:
        seconds: how long a control host that is starting is waited for.

    Raises boto3's errors where AWS does not answer at all.
    """
    if url is not None:
        yield Connection(url=url) if health(url) in ANSWERS else f"{url} does not answer"
        return
    configured = configured_api()
    if configured is not None and health(configured.url) in ANSWERS:
        yield Connection(url=configured.url)
        return
    why = f"{configured.url} ({configured.by}) does not answer" if configured is not None else "no Prefect API is set"
    control = stack.output("ControlInstanceId") if stack is not None else None
    if control is None:
        yield f"{why}: set PREFECT_API_URL, or give --api-url"
        return
    with contextlib.ExitStack() as opened:
        found = _through(account, stack, control, opened, seconds)
        yield found if isinstance(found, Connection) else f"{why}, and the control host's is out of reach: {found}"


def _through(
    account: Account, stack: Stack | None, control: str, opened: contextlib.ExitStack, seconds: float
) -> Connection | str:
    from botocore.exceptions import ClientError

    try:
        process = opened.enter_context(tunnel.opened(account, control, LOCAL_PORT))
        return Connection(url=tunnel.wait_open(process, LOCAL_PORT, seconds=seconds), auth=auth_string(account, stack))
    except ClientError as error:
        return f"{error.operation_name}: {code_of(error)}"
    except (UsageError, AwsError) as error:
        return str(error)


def auth_string(account: Account, stack: Stack | None) -> str | None:
    """The control host's "user:password", from its secret; None where the stack names none. Raises boto3's errors."""
    if (given := os.environ.get("PREFECT_API_AUTH_STRING")) is not None:
        return given
    secret = stack.output("ApiAuthSecretArn") if stack is not None else None
    if secret is None:
        return None
    return str(account.client("secretsmanager").get_secret_value(SecretId=secret)["SecretString"])
