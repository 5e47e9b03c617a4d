"""The script that a machine of `pdf-flows aws launch` runs at its first boot: pull the image, run it, switch off. Pure.

It holds no credential: the machine's instance profile is what the container and the log driver use.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tasks.corpus.failures import UsageError
from tasks.passwords import SECRETS_MANAGER

LARGEST_BYTES = 16_384
"""EC2's limit, before encoding (AWS documentation, user data)."""
PULL_TRIES = 5
PULL_PAUSE = 10
"""Seconds before the second try; doubled with each further one."""
STOP_SECONDS = 110
"""What the container gets between SIGTERM and SIGKILL when the machine goes down: inside Spot's two minutes."""
LOG_GROUP = "/aws/ec2/pdf-workers/"
ENVIRONMENT = (
    "WORKER_ID",
    "TOTAL_WORKERS",
    "S3_INPUT_BUCKET",
    "S3_INPUT_PREFIX",
    "S3_OUTPUT_BUCKET",
    "S3_OUTPUT_PREFIX",
    "AWS_DEFAULT_REGION",
    "MAX_RETRIES",
    "RUN_ID",
)
"""The image's contract. Whatever else is passed on goes by the same rules."""
_OPTIONS = {
    "WORKER_ID": "--workers",
    "TOTAL_WORKERS": "--workers",
    "AWS_DEFAULT_REGION": "--region",
    "MAX_RETRIES": "--retries",
    "RUN_ID": "--run-id",
}
_SECRET = re.compile(
    r"SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|AUTH|(ACCESS|API|PRIVATE)_?KEY"
    r"|(^|_)(KEY|PASS|PAT|PSK|PWD|DSN|CREDS?)(_|$)",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"  # GitHub, GitLab
    r"|\bhf_\w{16,}|\bpn[ub]_\w{16,}|\bxox[a-z]-[\w-]{8,}|\bsk-[\w-]{16,}|\bAIza[\w-]{30,}"  # Hugging Face, Prefect, Slack, ...
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/?#\s@]*:[^/?#\s@]+@"  # user:password in an address
)
"""What credentials look like, whatever their variable is called."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Boot(BaseModel):
    """What one machine is to do."""

    model_config = ConfigDict(frozen=True)

    worker: int = Field(ge=0)
    image: str = Field(min_length=1)
    region: str
    registry: str | None = None
    """ECR registry to log in to; None: the image needs no login."""
    environment: dict[str, str]
    max_minutes: int = Field(gt=0)
    log_group: str = LOG_GROUP
    shm: str = "2g"

    @field_validator("environment")
    @classmethod
    def _no_secret(cls, given: dict[str, str]) -> dict[str, str]:
        refuse_secrets(given)
        return given

    @property
    def stream(self) -> str:
        """The log stream."""
        return f"worker-{self.worker}"


def refuse_secrets(environment: Mapping[str, str]) -> None:
    """Raises UsageError where something looks like a credential: whoever may describe instances can read user data."""
    for name, value in environment.items():
        if _NAME.fullmatch(name) is None:
            raise UsageError(f"bad environment variable {name!r}: letters, digits and '_'")
        # The name of a secret is none.
        named = name == "PASSWORD_FILE" and value.startswith(SECRETS_MANAGER)
        if (_SECRET.search(name) and not named) or _SECRETS.search(value):
            raise UsageError(
                f"{name} looks like a credential, and user data is no place for one: "
                "give the machine's instance profile what it needs"
            )


def contract(
    *,
    worker: int,
    workers: int,
    source: tuple[str, str],
    output: tuple[str, str],
    region: str,
    retries: int,
    run_id: str | None = None,
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The image's environment.

    Args:
        source: bucket and prefix of the PDFs.
        output: bucket and prefix of the Markdown.
        run_id: None lets the workers agree on one by listing and options.
        more: further variables, of the engine for instance.

    Raises UsageError where one of them is the contract's own: two workers with one number would share one part.
    """
    for name in more or ():
        if name in ENVIRONMENT:
            option = _OPTIONS.get(name, "--input" if "INPUT" in name else "--output")
            raise UsageError(f"--env {name} would replace what launch itself sets: give {option}")
    found = {
        "WORKER_ID": str(worker),
        "TOTAL_WORKERS": str(workers),
        "S3_INPUT_BUCKET": source[0],
        "S3_INPUT_PREFIX": source[1],
        "S3_OUTPUT_BUCKET": output[0],
        "S3_OUTPUT_PREFIX": output[1],
        "AWS_DEFAULT_REGION": region,
        "MAX_RETRIES": str(retries),
    }
    return found | ({"RUN_ID": run_id} if run_id is not None else {}) | dict(more or {})


def render(boot: Boot) -> str:
    """The script. Raises UsageError where it would be too large for EC2."""
    q = shlex.quote
    run = [
        "docker run --detach --name pdf-worker --gpus all --network host --init",
        f"--shm-size {q(boot.shm)} --stop-timeout {STOP_SECONDS}",
        f"--log-driver awslogs --log-opt awslogs-region={q(boot.region)}",
        f"--log-opt awslogs-group={q(boot.log_group)} --log-opt awslogs-stream={q(boot.stream)}",
        "--log-opt mode=non-blocking --log-opt max-buffer-size=8m",
        *(f"-e {q(f'{name}={value}')}" for name, value in boot.environment.items()),
        q(boot.image),
    ]
    login = ""
    if boot.registry is not None:
        login = LOGIN.format(region=q(boot.region), registry=q(boot.registry))
    script = SCRIPT.format(
        worker=boot.worker,
        minutes=boot.max_minutes,
        login=login or "login() { :; }\n",
        image=q(boot.image),
        tries=PULL_TRIES,
        pause=PULL_PAUSE,
        run=" \\\n  ".join(run),
    )
    if len(script.encode()) > LARGEST_BYTES:
        raise UsageError(
            "the machine's start script is larger than the 16 KB that EC2 takes: give fewer variables with --env"
        )
    return script


# Amazon Linux 2023's minimal image, which the ECS one stands on, has no AWS CLI.
LOGIN = """\
login() {{
  command -v aws > /dev/null || dnf -q -y install awscli-2 || return 1
  aws ecr get-login-password --region {region} | docker login --username AWS --password-stdin {registry}
}}
"""

SCRIPT = """\
#!/bin/bash
# pdf-flows worker {worker}: one container, then this machine ends itself.
# First of all: whatever happens below, the machine is gone after its longest time (it terminates on shutdown).
# A reboot would forget that time, and start no container: it ends the machine.
shutdown -h +{minutes}
cat > /etc/systemd/system/once.service << 'E'
[Service]
Type=oneshot
ExecStart=/usr/bin/systemctl poweroff
[Install]
WantedBy=multi-user.target
E
systemctl enable once.service
trap 'shutdown -h now' EXIT
set -u
say() {{ echo "pdf-flows: $*"; }}
# The machine image is made for ECS; its agent would look for a cluster.
systemctl disable --now --no-block ecs > /dev/null 2>&1 || true
{login}
pull() {{
  local pause={pause} try
  for try in $(seq {tries}); do
    if login && docker pull {image}; then return 0; fi
    say "pulling the image failed (try $try of {tries})"
    if [ "$try" -lt {tries} ]; then sleep "$pause"; pause=$((pause * 2)); fi
  done
  return 1
}}
if ! pull; then say "the image cannot be pulled: ending"; exit 1; fi
if ! {run}; then say "the container cannot be started: ending"; exit 1; fi
status=$(docker wait pdf-worker)
say "worker {worker} ended with status $status"
exit "$status"
"""
