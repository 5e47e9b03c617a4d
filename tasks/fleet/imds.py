"""EC2's instance metadata service, version 2, by the standard library: what an instance can ask about itself.

AWS documentation: a session token (PUT, at most 6 hours) goes with every question; 404 says that there is no such thing (no
notice, say). The service is local: what does not answer within a second is not there, unless the firmware says that this is
an instance (its vendor is "Amazon EC2" on Nitro): there it is waited for, since a crowded machine is slow to take an answer.
"""

from __future__ import annotations

import http.client
import logging
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

ENDPOINT = "http://169.254.169.254"
ENDPOINT_VARIABLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
DISABLED_VARIABLE = "AWS_EC2_METADATA_DISABLED"
"""Both as the AWS SDKs read them."""
TOKEN_SECONDS = 21600
TRIES = 3
RETRY_SECONDS = 60.0
"""A service that never answered is asked so many times, so far apart, and then no more: this is no EC2 instance."""
SECONDS, INSTANCE_SECONDS = 1.0, 5.0
"""For an answer: anywhere, and on what says that it is an instance."""
VENDOR = Path("/sys/class/dmi/id/sys_vendor")
_LARGEST = 65536
_FAILURES = (OSError, http.client.HTTPException, ValueError)
"""Nobody there, a refusal, an answer that is no HTTP or no text, an endpoint that is no address."""

_log = logging.getLogger("pdf_flows.imds")


class Imds:
    """The metadata service. Thread-safe; no method raises."""

    def __init__(
        self,
        endpoint: str = ENDPOINT,
        *,
        disabled: bool = False,
        timeout: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base = endpoint.rstrip("/") + "/latest"
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._token_until = 0.0
        self._reached = False
        self._tries = TRIES if disabled else 0
        self._retry_at = 0.0
        # It is on the link itself: a proxy could only answer for another host.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, vendor: Path = VENDOR) -> Imds:
        """As the AWS SDKs would find it.

        Args:
            vendor: the file in which the kernel shows the firmware's vendor; a container sees its host's.
        """
        disabled = env.get(DISABLED_VARIABLE, "").strip().lower() == "true"
        timeout = INSTANCE_SECONDS if _is_instance(vendor) else SECONDS
        return cls(env.get(ENDPOINT_VARIABLE) or ENDPOINT, disabled=disabled, timeout=timeout)

    @property
    def absent(self) -> bool:
        """Switched off, or never there: it will not be asked any more."""
        return not self._reached and self._tries >= TRIES

    def get(self, path: str) -> str | None:
        """The text at a path ("/meta-data/..."), None where there is none or nobody answers."""
        with self._lock:
            if self.absent or (not self._reached and self._tries and self._clock() < self._retry_at):
                return None
            try:
                return self._get(path)
            except _FAILURES as failure:
                _log.debug("%s: %s", path, failure)
                if not self._reached:
                    self._tries += 1
                    self._retry_at = self._clock() + RETRY_SECONDS
                return None

    def _get(self, path: str) -> str | None:
        for attempt in (1, 2):
            if self._clock() >= self._token_until:
                ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                self._token = self._call("PUT", "/api/token", ttl).strip()
                # Renewed well before it ends: the two clocks need not agree.
                self._token_until = self._clock() + 0.9 * TOKEN_SECONDS
                self._reached = True
            try:
                return self._call("GET", path, {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or attempt == 2:
                    raise
                self._token_until = 0.0
        return None

    def _call(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._base + path, method=method, headers=headers)  # noqa: S310 - http, or refused
        with self._opener.open(request, timeout=self._timeout) as answer:
            data: bytes = answer.read(_LARGEST)
            if answer.length:  # bytes still to come: cut short, or far too long
                raise http.client.IncompleteRead(data, answer.length)
        return data.decode()


def _is_instance(vendor: Path) -> bool:
    try:
        return vendor.read_text(errors="replace").strip() == "Amazon EC2"
    except OSError:
        return False
