"""Passwords for encrypted PDFs: read from where a reference points, never parameters, never logged."""

from __future__ import annotations

from pathlib import Path

from tasks.corpus.failures import UsageError

SECRETS_MANAGER = "secretsmanager:"
PREFECT_SECRET = "secret:"  # noqa: S105 - a prefix


def read_passwords(reference: str | None) -> list[str]:
    """The candidates, one a line, tried in order.

    Args:
        reference: a path, `secretsmanager:<name or ARN>`, or `secret:<name>` of a Prefect Secret block.

    Raises UsageError where it points at nothing.
    """
    if reference is None:
        return []
    if reference.startswith(SECRETS_MANAGER):
        text = _from_secrets_manager(reference.removeprefix(SECRETS_MANAGER))
    elif reference.startswith(PREFECT_SECRET):
        text = _from_prefect(reference.removeprefix(PREFECT_SECRET))
    else:
        try:
            text = Path(reference).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"the password file {reference} can't be read: {reason}") from None
    return [line for line in text.splitlines() if line.strip()]


def _from_secrets_manager(name: str) -> str:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return str(boto3.Session().client("secretsmanager").get_secret_value(SecretId=name)["SecretString"])
    except (BotoCoreError, ClientError, KeyError) as error:
        raise UsageError(f"the secret {SECRETS_MANAGER}{name} can't be read: {type(error).__name__}") from None


def _from_prefect(name: str) -> str:
    import httpx
    from prefect.blocks.system import Secret

    try:
        return str(Secret.load(name).get())  # type: ignore[union-attr]
    except ValueError:
        raise UsageError(f"there is no Prefect Secret {name!r}: make it in the Prefect UI (Blocks, Secret)") from None
    except httpx.HTTPError as error:
        raise UsageError(f"the Prefect Secret {name!r} can't be read: {type(error).__name__}") from None
