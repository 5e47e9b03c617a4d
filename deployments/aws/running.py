"""The last line of `up`, `status`, `stop` and `down`: what still costs money, by the hour."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from deployments.aws import rates
from deployments.aws.account import Account
from deployments.aws.fleet_state import FleetState, Instance
from deployments.aws.showing import plain
from tasks.fleet.machine import Lifecycle
from tasks.fleet.prices import AwsPrices, Prices, PriceUnknown

HourlyPrice = Callable[[Instance], float | None]
"""USD an hour of an instance's compute; None where no price is known."""


class Item(BaseModel):
    """One thing that costs money."""

    model_config = ConfigDict(frozen=True)

    kind: str
    id: str
    words: str
    usd_per_hour: float | None
    """None: not known."""


class Running(BaseModel):
    """All that costs money by the hour."""

    model_config = ConfigDict(frozen=True)

    items: tuple[Item, ...] = ()
    unseen: tuple[str, ...] = ()
    """What could not be looked at."""

    @property
    def usd_per_hour(self) -> float:
        """As far as prices are known."""
        return sum(item.usd_per_hour or 0.0 for item in self.items)

    def line(self) -> str:
        """`still running: nothing, $0.00/h`, or what it is."""
        unseen = f" (not looked at: {', '.join(self.unseen)})" if self.unseen else ""
        if not self.items:
            return f"still running: nothing, $0.00/h{unseen}"
        kinds = dict.fromkeys(item.kind for item in self.items)
        parts = [self._kind(kind) for kind in kinds]
        unknown = [item for item in self.items if item.usd_per_hour is None]
        more = f" and {len(unknown)} whose price is not known" if unknown else ""
        return f"still running: {', '.join(parts)}, {usd(self.usd_per_hour)}/h{more}{unseen}"

    def _kind(self, kind: str) -> str:
        items = [item for item in self.items if item.kind == kind]
        named = ", ".join(item.words for item in items[:5]) + (f", {len(items) - 5} more" if len(items) > 5 else "")
        plural = "" if len(items) == 1 else "es" if kind.endswith("s") else "s"
        return f"{len(items)} {kind}{plural} ({named})"


def usd(amount: float) -> str:
    """Two digits, and as many more as a small amount needs not to read as nothing."""
    return f"${amount:.2f}" if amount == 0 or amount >= 0.005 else f"${amount:.4f}"


def running(state: FleetState, price: HourlyPrice) -> Running:
    """What of it costs money. Pure but for `price`."""
    items: list[Item] = []
    for instance in state.living:
        if not instance.billed:
            items.append(Item(kind="instance", id=instance.id, words=instance.words(), usd_per_hour=0.0))
            continue
        cost = price(instance)
        words = f"{instance.id} {instance.type} {instance.lifecycle}"
        if instance.name:
            words += f" {plain(instance.name)}"
        items.append(Item(kind="instance", id=instance.id, words=words, usd_per_hour=cost))
    for volume in state.volumes:
        cost = rates.volume_per_hour(volume.kind, volume.gigabytes, volume.iops, volume.mbps)
        words = f"{volume.id} {volume.gigabytes:g} GB" + ("" if volume.attached else " unattached")
        items.append(Item(kind="volume", id=volume.id, words=words, usd_per_hour=cost))
    elastic = {address.ip for address in state.addresses}
    for address in state.addresses:
        items.append(Item(kind="address", id=address.id, words=address.ip, usd_per_hour=rates.ADDRESS))
    for instance in state.living:
        if instance.billed and instance.public_ip and instance.public_ip not in elastic:
            ip = instance.public_ip
            items.append(Item(kind="address", id=ip, words=ip, usd_per_hour=rates.ADDRESS))
    for gateway in state.gateways:
        items.append(Item(kind="NAT gateway", id=gateway, words=gateway, usd_per_hour=rates.NAT_GATEWAY))
    for endpoint, zones in state.endpoints:
        cost = rates.INTERFACE_ENDPOINT * zones
        items.append(Item(kind="interface endpoint", id=endpoint, words=endpoint, usd_per_hour=cost))
    return Running(items=tuple(items), unseen=state.unseen)


def price_of(prices: Prices, region: str) -> HourlyPrice:
    """Prices of instances now: Spot from EC2's history (else its ceiling), on-demand from the tables."""

    def price(instance: Instance) -> float | None:
        if instance.lifecycle is Lifecycle.ON_DEMAND and instance.type in rates.CONTROL:
            return rates.CONTROL[instance.type]
        try:
            return prices.hourly(instance.machine(region)).usd_per_hour
        except PriceUnknown:
            return None

    return price


def spent(state: FleetState, price: HourlyPrice, now: datetime) -> float:
    """USD of the instances that EC2 still knows, compute, disk and address, from their start until `now`. Pure but for `price`.

    At today's price: what a Spot instance cost an hour ago EC2 would tell, and the run's own ledger counts it.
    """
    total = 0.0
    for instance in state.instances:
        end = instance.ended or now
        hours = max(0.0, (end - instance.launched).total_seconds()) / 3600
        total += hours * ((price(instance) or 0.0) + rates.ADDRESS * bool(instance.public_ip))
    for volume in state.volumes:
        owner = next((i for i in state.instances if i.id == volume.attached), None)
        hours = (now - owner.launched).total_seconds() / 3600 if owner is not None else 0.0
        total += max(0.0, hours) * rates.volume_per_hour(volume.kind, volume.gigabytes, volume.iops, volume.mbps)
    return total


def account_prices(account: Account) -> Prices:
    """AWS's prices, asked with the account's credentials."""
    return AwsPrices(lambda region: account.client("ec2", region))
