"""Whether the workers' network reaches the Prefect API: what an address says, what the security group lets out, who answers."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from deployments.aws.account import Account
from deployments.aws.errors import code_of
from deployments.aws.findings import Finding

NAME = "Prefect API"
ANSWER_SECONDS = 10.0
COMMAND_SECONDS = 60.0
DOCUMENT = "AWS-RunShellScript"


class Egress(BaseModel):
    """A rule of a security group for what goes out."""

    model_config = ConfigDict(frozen=True)

    protocol: str
    """"tcp", "-1" (all), ..."""
    first: int | None = None
    last: int | None = None
    """Ports; None: all."""
    ranges: tuple[str, ...] = ()
    """CIDR blocks."""
    groups: tuple[str, ...] = ()
    """Other security groups."""


class Network(BaseModel):
    """Where the workers are."""

    model_config = ConfigDict(frozen=True)

    group: str | None = None
    """Their security group."""
    egress: tuple[Egress, ...] = ()
    ranges: tuple[str, ...] = ()
    """CIDR blocks of their VPC."""


class Api(BaseModel):
    """The API's address as it is seen from here."""

    model_config = ConfigDict(frozen=True)

    url: str
    host: str
    port: int
    addresses: tuple[str, ...] = ()
    """What the host's name means, as far as this machine knows."""
    status: int | None = None
    """HTTP status of GET /health from here; 0: no answer; None: not asked."""


class Control(BaseModel):
    """The stack's own control host."""

    model_config = ConfigDict(frozen=True)

    instance: str
    state: str
    answer: str | None = None
    """What GET /health said on the host itself; None: could not be asked."""
    why: str = ""
    """Why not."""


def read_network(account: Account, group: str | None, vpc: str | None) -> Network:
    """The workers' security group and VPC. Raises boto3's errors."""
    ec2 = account.client("ec2")
    egress: list[Egress] = []
    ranges: list[str] = []
    if group is not None:
        found = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
        egress = [_egress(rule) for rule in found.get("IpPermissionsEgress", ())]
        vpc = vpc or found.get("VpcId")
    if vpc is not None:
        vpcs = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
        ranges = [block["CidrBlock"] for v in vpcs for block in v.get("CidrBlockAssociationSet", ())]
        ranges = ranges or [v["CidrBlock"] for v in vpcs]
    return Network(group=group, egress=tuple(egress), ranges=tuple(ranges))


def _egress(rule: dict[str, Any]) -> Egress:
    return Egress(
        protocol=rule["IpProtocol"],
        first=rule.get("FromPort"),
        last=rule.get("ToPort"),
        ranges=tuple(item["CidrIp"] for item in rule.get("IpRanges", ())),
        groups=tuple(item["GroupId"] for item in rule.get("UserIdGroupPairs", ()) if "GroupId" in item),
    )


def read_api(url: str, *, ask: bool = True) -> Api:
    """The API as this machine sees it. Raises ValueError where it is no address."""
    host, port = host_and_port(url)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(str(item[4][0]) for item in found))
    except (OSError, UnicodeError):
        addresses = ()  # UnicodeError: a part of the name is longer than names are
    return Api(
        url=url.rstrip("/"),
        host=host,
        port=port,
        addresses=addresses,
        status=health(url) if ask else None,
    )


def host_and_port(url: str) -> tuple[str, int]:
    """Where an API's address leads. Raises ValueError where it is none. Pure."""
    bad = f"{url!r} is no address of a Prefect API: give one like https://host/api"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(bad) from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or re.search(r"\s", url):
        raise ValueError(bad)
    return host, port or (443 if parts.scheme == "https" else 80)


def health(url: str) -> int:
    """HTTP status of GET <url>/health; 0: no answer."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=ANSWER_SECONDS) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        return 0  # HTTPException: something listens that speaks no HTTP, or the address holds a blank


def read_control(
    account: Account, instance: str, *, port: int = 4200, sleep: Callable[[float], None] = time.sleep
) -> Control:
    """Ask the control host, by SSM, whether its Prefect server answers. Raises boto3's errors but refusals of SSM."""
    from botocore.exceptions import ClientError

    found = account.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"]
    state = found[0]["Instances"][0]["State"]["Name"] if found else "missing"
    if state != "running":
        return Control(instance=instance, state=state)
    ssm = account.client("ssm")
    script = f"curl -sS -m 10 -o /dev/null -w '%{{http_code}}' http://127.0.0.1:{port}/api/health"
    try:
        sent = ssm.send_command(
            InstanceIds=[instance], DocumentName=DOCUMENT, Parameters={"commands": [script]}, TimeoutSeconds=30
        )
        until = time.monotonic() + COMMAND_SECONDS
        while True:
            sleep(1.0)
            try:
                answer = ssm.get_command_invocation(CommandId=sent["Command"]["CommandId"], InstanceId=instance)
            except ClientError as error:
                if code_of(error) != "InvocationDoesNotExist":
                    raise
                answer = {"Status": "Pending"}
            if answer["Status"] not in ("Pending", "InProgress", "Delayed"):
                said = (answer.get("StandardOutputContent") or answer.get("StandardErrorContent") or "").strip()
                return Control(instance=instance, state=state, answer=said or answer["Status"])
            if time.monotonic() >= until:
                return Control(instance=instance, state=state, why=f"SSM did not answer within {COMMAND_SECONDS:g} s")
    except ClientError as error:
        return Control(instance=instance, state=state, why=f"{error.operation_name}: {code_of(error)}")


def lets_out(egress: Sequence[Egress], port: int, address: str | None) -> bool:
    """Whether the rules let TCP to the port of an address out; None: of some address that is not known. Pure.

    Rules that name security groups count as letting out: whose address is in them this machine can't know.
    """
    for rule in egress:
        if rule.protocol not in ("tcp", "6", "-1"):
            continue
        some_ports = rule.protocol != "-1" and rule.first is not None and rule.first != -1
        if some_ports and not (rule.first or 0) <= port <= (rule.last if rule.last is not None else 65535):
            continue
        if rule.groups or (address is None and rule.ranges):
            return True
        if address is not None and any(_within(address, block) for block in rule.ranges):
            return True
    return False


def _within(address: str, block: str) -> bool:
    ip, network = ipaddress.ip_address(address), ipaddress.ip_network(block, strict=False)
    return ip.version == network.version and ip in network


def judge(api: Api, network: Network) -> Finding:
    """Whether machines in the workers' network can reach an API that is not the stack's own. Pure."""
    known = list(api.addresses)
    with contextlib.suppress(ValueError):
        known = [str(ipaddress.ip_address(api.host))]
    ips = [ipaddress.ip_address(address.split("%", 1)[0]) for address in known]
    elsewhere = "give one that they reach: Prefect Cloud's, or the stack's own control host (--control-host)"
    if any(ip.is_loopback or ip.is_unspecified for ip in ips) or api.host == "localhost":
        words = f"{api.url} means each worker's own machine: nobody answers there"
        return Finding.fail(NAME, words, elsewhere)
    v4 = [ip for ip in ips if ip.version == 4]
    private = [ip for ip in v4 if ip.is_private or ip.is_link_local]
    if private and not any(_within(str(ip), block) for ip in private for block in network.ranges):
        vpc = ", ".join(network.ranges) or "not known yet"
        words = f"{api.url} is a private address ({private[0]}) outside the workers' network ({vpc})"
        return Finding.fail(NAME, words, f"{elsewhere}; or peer the networks")
    if network.group is not None:
        target = str(v4[0]) if v4 else None
        if not lets_out(network.egress, api.port, target):
            words = f"the workers' security group {network.group} lets nothing out to port {api.port} of {api.host}"
            return Finding.fail(NAME, words, f"add a rule: TCP {api.port} to {target or api.host}")
    if not ips:
        words = f"{api.host} is no name that this machine knows"
        return Finding.fail(NAME, words, "check the address, and that the workers' network resolves it")
    return _answered(api, network, inside=bool(private))


def _answered(api: Api, network: Network, *, inside: bool) -> Finding:
    where = f"the security group {network.group} lets workers out to it" if network.group else "a public address"
    if api.status is None:
        return Finding.warn(NAME, f"{api.url}: {where}; whether it answers was not asked", "")
    if api.status in (200, 401, 403):
        note = "" if api.status == 200 else f" (HTTP {api.status}: it wants a key)"
        return Finding.ok(NAME, f"{api.url} answers from here{note}; {where}")
    if inside:
        words = f"{api.url} is inside the workers' network and can't be asked from here; {where}"
        return Finding.warn(NAME, words, "make sure that its own security group lets the workers' in")
    said = f"HTTP {api.status}" if api.status else "no answer"
    return Finding.fail(NAME, f"{api.url} does not answer ({said})", "start it, or correct the address")


def judge_control(control: Control) -> Finding:
    """The stack's own control host. Pure."""
    host = f"the control host {control.instance}"
    if control.state != "running":
        remedy = "start it (aws ec2 start-instances), or pdf-flows aws up to bring it back"
        return Finding.fail(NAME, f"{host} is {control.state}: no worker reaches the API", remedy)
    if control.answer == "200":
        return Finding.ok(NAME, f"{host} answers; workers reach it inside their network")
    if control.answer is not None:
        remedy = "it may be starting still (some 5 minutes); else look at it with pdf-flows aws ui, or SSM"
        return Finding.fail(NAME, f"{host} runs, and its Prefect server does not answer ({control.answer})", remedy)
    words = f"it is {host}'s own, inside the workers' network; whether it answers could not be asked ({control.why})"
    return Finding.warn(NAME, words, "allow ssm:SendCommand, or look: pdf-flows aws ui")
