"""What AWS refuses, in one line: what was asked, AWS's code, and the remedy. No traceback reaches the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.corpus.failures import PdfFlowsError, UsageError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "Forbidden",
        "403",
        "UnauthorizedOperation",
        "NotAuthorized",
        "UnauthorizedAccess",
    }
)
"""AWS's several words for: these credentials may not do this."""
BAD_CREDENTIALS = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "SignatureDoesNotMatch",
        "AuthFailure",
        "InvalidAccessKeyId",
        "IncompleteSignature",
        "MissingAuthenticationToken",
    }
)
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
THROTTLED = frozenset(
    {
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "ServiceUnavailable",
        "InternalError",
        "InternalFailure",
        "500",
        "503",
    }
)
NEW_ACCOUNT = frozenset({"OptInRequired", "SubscriptionRequiredException", "PendingVerification"})
QUOTA = frozenset(
    {
        "MaxSpotInstanceCountExceeded",
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "LimitExceeded",
        "LimitExceededException",
        "ServiceQuotaExceededException",
    }
)


class AwsError(PdfFlowsError):
    """AWS refused or did not answer, and no other input would have helped; the exit status is 3."""


class Explained(BaseModel):
    """An error of boto3 in words."""

    model_config = ConfigDict(frozen=True)

    line: str
    """What was asked, AWS's code and words. No secret: AWS repeats none."""
    remedy: str
    code: str = ""
    """AWS's own; "" where AWS was not reached."""
    usage: bool
    """Whether the caller can mend it: credentials, region, permissions, quota."""

    @property
    def text(self) -> str:
        """One line."""
        return f"{self.line}: {self.remedy}"

    @property
    def error(self) -> PdfFlowsError:
        """To be raised."""
        return UsageError(self.text) if self.usage else AwsError(self.text)


def code_of(error: Exception) -> str:
    """AWS's error code; "" where AWS was not reached."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def message_of(error: Exception) -> str:
    """AWS's own words, on one line, without the encoded part that only `sts decode-authorization-message` reads."""
    response = getattr(error, "response", None) or {}
    text = str(response.get("Error", {}).get("Message") or error)
    if text.lstrip().startswith("<"):
        return "the answer is a web page, no message of AWS"
    return " ".join(text.split("Encoded authorization failure message:", 1)[0].split()).rstrip(". ")


def boto_errors() -> tuple[type[Exception], ...]:
    """All that boto3 raises: no common base has them all."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return (BotoCoreError, ClientError, ResponseParserError)


def explain(error: Exception) -> Explained:
    """One of `boto_errors` as one line and its remedy. Pure."""
    from botocore.exceptions import ClientError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        return _refused(error)
    if isinstance(error, ResponseParserError):
        # A proxy's or a portal's page, most likely.
        remedy = "look whether a proxy or AWS_ENDPOINT_URL stands in between, and run the same command again"
        return Explained(line="what answers is not AWS: no AWS message came back", remedy=remedy, usage=False)
    return _not_asked(error)


def _refused(error: ClientError) -> Explained:
    code, words = code_of(error), message_of(error)
    line = f"AWS refused {error.operation_name} ({code}): {words}"
    if code in DENIED:
        remedy = f"allow {error.operation_name} to these credentials (docs/aws-commands.md lists the permissions)"
        return Explained(line=line, remedy=remedy, code=code, usage=True)
    if code in EXPIRED:
        return Explained(line=line, remedy="the credentials have expired: log in again", code=code, usage=True)
    if code in BAD_CREDENTIALS:
        remedy = "the credentials are not valid: check AWS_PROFILE, or run `aws configure`"
        return Explained(line=line, remedy=remedy, code=code, usage=True)
    if code in NEW_ACCOUNT:
        remedy = "the account may not use this service or region yet: finish its sign-up, or enable the region"
        return Explained(line=line, remedy=remedy, code=code, usage=True)
    if code in QUOTA:
        remedy = "ask for more in the Service Quotas console, or use fewer workers (`pdf-flows aws preflight` says how)"
        return Explained(line=line, remedy=remedy, code=code, usage=True)
    if code == "TargetNotConnected":
        remedy = "the machine is off, or still starting: `pdf-flows aws status` shows it, and in a minute it may answer"
        return Explained(line=line, remedy=remedy, code=code, usage=False)
    if code in THROTTLED:
        return Explained(line=line, remedy="run the same command again in a minute", code=code, usage=False)
    return Explained(line=line, remedy="mend that and run the same command again", code=code, usage=False)


def _not_asked(error: Exception) -> Explained:
    from botocore import exceptions as e

    words = " ".join(str(error).split()).rstrip(". ")
    login: tuple[type[Exception], ...] = (e.SSOError, e.TokenRetrievalError, e.CredentialRetrievalError)
    if isinstance(error, e.NoCredentialsError):
        remedy = "run `aws configure` or `aws sso login`, or set AWS_PROFILE"
        return Explained(line="no AWS credentials were found", remedy=remedy, usage=True)
    if isinstance(error, e.PartialCredentialsError):
        return Explained(line=words, remedy="set both the key and the secret, or AWS_PROFILE", usage=True)
    if isinstance(error, e.ProfileNotFound):
        return Explained(line=words, remedy="name one of ~/.aws/config with --profile or AWS_PROFILE", usage=True)
    if isinstance(error, e.NoRegionError):
        return Explained(line="no AWS region is set", remedy="give --region, or set AWS_REGION", usage=True)
    if isinstance(error, login):
        return Explained(line=words, remedy="log in again (`aws sso login`)", usage=True)
    if isinstance(error, e.ParamValidationError):
        return Explained(line=f"a value is not one that AWS takes: {words}", remedy="correct it", usage=True)
    if isinstance(error, (e.HTTPClientError, e.ConnectionError)):
        remedy = "check the network, proxy and region, and run the same command again"
        return Explained(line=f"AWS does not answer: {words}", remedy=remedy, usage=False)
    return Explained(line=words, remedy="mend that and run the same command again", usage=False)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Whatever boto3 raises within becomes a UsageError or an AwsError of one line."""
    try:
        yield
    except boto_errors() as error:
        raise explain(error).error from error
