"""A pretended Spot market: EC2's price history, on the rehearsal's clock. moto's own is $0.00001 of 2006: nobody believes it.

Prices are made up, between 30 and 45 % of the on-demand price: about where Spot prices of these types were noted (us-east-1).
Each hour of the rehearsal's clock has its own.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from deployments.rehearsal.clock import here
from deployments.rehearsal.quiet_server import Served
from tasks.fleet.price_table import ON_DEMAND

LOWEST, HIGHEST = 0.30, 0.45
"""Of the on-demand price."""
HOUR = here(3600.0)
MOST = 1000
"""Points in one answer, as EC2 has it."""


def price(type_: str, zone: str, hour: int) -> float:
    """USD an hour in one hour of the rehearsal's clock, counted from 1970. Pure. Raises KeyError for types without a price."""
    drawn = hashlib.sha256(f"{type_}/{zone}/{hour}".encode()).digest()[0] / 255
    return round(ON_DEMAND[type_] * (LOWEST + (HIGHEST - LOWEST) * drawn), 4)


def history(type_: str, zone: str, since: float, until: float) -> list[tuple[float, float]]:
    """When (seconds since 1970) the price became what, newest first, with the last change before `since`. Pure."""
    if type_ not in ON_DEMAND:
        return []
    hours = range(int(until // HOUR), int(since // HOUR) - 1, -1)[:MOST]
    return [(hour * HOUR, price(type_, zone, hour)) for hour in hours]


class Market(Served):
    """EC2's endpoint for those who ask for Spot prices; everything else is refused. A context manager."""

    def __init__(self, region: str, wall: Callable[[], float] = time.time) -> None:
        self._region, self._wall = region, wall
        market = self

        class Handler(BaseHTTPRequestHandler):
            """One request."""

            def log_message(self, *args: object) -> None: ...

            def do_POST(self) -> None:
                asked = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
                status, text = market.answer({name: values[0] for name, values in asked.items()})
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        super().__init__(Handler, 0.2)

    def answer(self, asked: dict[str, str]) -> tuple[int, str]:
        """Status and body of a request of EC2's query protocol."""
        if asked.get("Action") != "DescribeSpotPriceHistory":
            what = escape(asked.get("Action", "nothing"))
            error = f"<Code>InvalidAction</Code><Message>the rehearsal's market knows no {what}</Message>"
            return 400, f"<Response><Errors><Error>{error}</Error></Errors><RequestID>0</RequestID></Response>"
        zone = asked.get("AvailabilityZone", f"{self._region}a")
        now = self._wall()
        since = now
        if "StartTime" in asked:
            since = datetime.fromisoformat(asked["StartTime"]).astimezone(UTC).timestamp()
        types = [value for name, value in sorted(asked.items()) if name.startswith("InstanceType.")]
        items = "".join(
            f"<item><instanceType>{escape(type_)}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{usd:.6f}</spotPrice><timestamp>{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.000Z}</timestamp>"
            f"<availabilityZone>{escape(zone)}</availabilityZone></item>"
            for type_ in types
            for at, usd in history(type_, zone, since, now)
        )
        name = "DescribeSpotPriceHistoryResponse"
        return 200, (
            f'<{name} xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>0</requestId>'
            f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken></nextToken></{name}>"
        )
