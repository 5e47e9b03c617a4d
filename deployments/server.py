"""The Prefect API of a command: the one that is configured, or a local server of our own, shared by all who need it.

Our server lives in `PDF_FLOWS_HOME` (default `~/.pdf-flows`), listens on the loopback only, keeps its history there, and
ends a few seconds after its last user (see :mod:`deployments.keeper`).

Call :meth:`PrefectServer.start` before `prefect` is imported where you can: Prefect reads its settings at import, and its
own threads see those only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from deployments import keeper
from deployments.say import tell
from tasks.corpus.failures import UsageError, bad_field

FIRST_LOOK_SECONDS = 2.0
"""How long `start` waits for the keeper to say its port; it takes a tenth of that."""
SPAWNS = 3
QUIET_SECONDS = 3.0
"""How long `wait` says nothing: the first start in a home takes seconds on a free core, half a minute on a busy machine."""
_NO_ANSWER = 0


class ServerSettings(BaseSettings):
    """Where the local server lives and how patient it is. From the environment, prefix `PDF_FLOWS_`."""

    model_config = SettingsConfigDict(env_prefix="PDF_FLOWS_", extra="ignore", env_ignore_empty=True)

    home: Path = Field(default=Path("~/.pdf-flows"), description="The folder of the local server and its history.")
    server_linger: float = Field(default=10.0, ge=0.0, description="Seconds that the server outlives its last user.")
    server_start_timeout: float = Field(default=180.0, gt=0.0, description="Seconds that it may take to start.")

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


def server_settings() -> ServerSettings:
    """From the environment. Raises UsageError naming the variable that is bad."""
    try:
        return ServerSettings()
    except ValidationError as error:
        name, why = bad_field(error)
        raise UsageError(f"bad PDF_FLOWS_{name.upper()}: {why}") from None


class Configured(BaseModel):
    """An API that somebody configured."""

    url: str
    by: str
    """Where: for the message when it does not answer."""


class ServerState(BaseModel):
    """What the keeper says about its server (`server.json`)."""

    pid: int
    """The keeper's."""
    server_pid: int | None
    port: int
    url: str
    started: float
    """Seconds since the epoch."""
    ready: bool
    error: str | None = None


def configured_api() -> Configured | None:
    """The API URL that the environment or the active profile sets, by Prefect's own precedence; None where neither does.

    Reads the profiles file itself: importing prefect for it would cost more than a second.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return _checked(url, "PREFECT_API_URL")
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    path = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").expanduser()
    ours, shipped = _profiles(path), _profiles(_shipped_profiles())
    name = os.environ.get("PREFECT_PROFILE") or ours.get("active") or shipped.get("active")
    profiles = {**shipped.get("profiles", {}), **ours.get("profiles", {})}
    url = profiles.get(name, {}).get("PREFECT_API_URL")
    return _checked(str(url), f"the Prefect profile {name!r}") if url else None


def _checked(url: str, by: str) -> Configured:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"{url!r} ({by}) is no address of a Prefect API: give one like http://127.0.0.1:4200/api")
    return Configured(url=url.rstrip("/"), by=by)


def _shipped_profiles() -> Path | None:
    spec = find_spec("prefect")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) / "settings" / "profiles.toml" if places else None


def _profiles(path: Path | None) -> dict[str, Any]:
    if path is None or not path.is_file():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the Prefect profiles file {path} cannot be read ({error}): mend or remove it") from error
    profiles = found.get("profiles", {})
    if not isinstance(profiles, dict) or not all(isinstance(profile, dict) for profile in profiles.values()):
        raise UsageError(f"the Prefect profiles file {path} holds no table of profiles: mend or remove it")
    return found


class PrefectServer:
    """A Prefect API to work with. A context manager: entering starts and waits, leaving releases.

    Use::

        server = PrefectServer.obtain(server_settings())
        server.start()            # returns at once; the server starts while you do something else
        try:
            api = server.wait()   # "http://127.0.0.1:40123/api"; this process uses it from now on
            ...
        finally:
            server.release()
    """

    def __init__(self, settings: ServerSettings, configured: Configured | None) -> None:
        self._settings = settings
        self._configured = configured
        self._users: IO[str] | None = None
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._former: dict[str, str | None] = {}
        self._contexts = contextlib.ExitStack()
        self._url = configured.url if configured is not None else None

    @classmethod
    def obtain(cls, settings: ServerSettings) -> PrefectServer:
        """The configured API, or the local server of the settings' home. Starts nothing. Raises UsageError."""
        return cls(settings, configured_api())

    @property
    def own(self) -> bool:
        """Whether it is a server of ours, not a configured API."""
        return self._configured is None

    @property
    def ui_url(self) -> str:
        """Where a browser finds the UI. Call after `wait`."""
        url = self._url or ""
        return url.removesuffix("/api")

    @property
    def log(self) -> Path:
        """The local server's log."""
        return self._settings.home / keeper.LOG

    def start(self) -> None:
        """Become a user, and start the server if it does not run. Does not wait until it answers. Raises UsageError."""
        if self._configured is not None:
            self._set(self.environment())
            return
        try:
            (self._settings.home / "prefect").mkdir(mode=0o700, parents=True, exist_ok=True)
            self._users = (self._settings.home / keeper.USERS_LOCK).open("a")
        except OSError as error:
            raise UsageError(
                f"the home {self._settings.home} cannot be used ({error.strerror}): name another with PDF_FLOWS_HOME"
            ) from error
        until = time.monotonic() + FIRST_LOOK_SECONDS
        while self._state() is None and time.monotonic() < until:
            time.sleep(0.02)
        self._set(self.environment())

    def wait(self) -> str:
        """Wait until the API answers, and make it this process's. Returns its URL, ending in `/api` for our own.

        Raises:
            UsageError: it does not answer; the message says what to do.
        """
        if self._configured is not None:
            self._check_configured(self._configured)
        elif self._users is None:
            self.start()
        if self._configured is None:
            self._url = self._wait_for_own()
        self._set(self.environment())
        self._apply()
        assert self._url is not None
        return self._url

    def environment(self) -> dict[str, str]:
        """The settings that make a process use this API; for `Popen`, over the environment of the caller.

        With a configured API that is its URL alone: the rest of the user's Prefect settings stay theirs.
        """
        url = {"PREFECT_API_URL": self._url} if self._url is not None else {}
        if self._configured is not None:
            return url
        return url | {
            "PREFECT_HOME": str(self._settings.home / "prefect"),
            "PREFECT_PROFILE": "ephemeral",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
            "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
            "DO_NOT_TRACK": "1",
        }

    def release(self) -> None:
        """Stop being a user; the last one's leaving ends the server a little later. May be called more than once."""
        self._contexts.close()
        for name, value in self._former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._former.clear()
        if self._users is not None:
            self._users.close()
            self._users = None
        for process in self._spawned:
            process.poll()

    def __enter__(self) -> PrefectServer:
        self.start()
        try:
            self.wait()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _wait_for_own(self) -> str:
        began = time.monotonic()
        until = began + self._settings.server_start_timeout
        told = False
        while time.monotonic() < until:
            state = self._state()
            if state is not None and state.ready and keeper.healthy(state.url):
                return state.url
            if not told and time.monotonic() - began >= QUIET_SECONDS:
                told = True
                tell(
                    f"pdf-flows: starting the local Prefect server, for {self._settings.server_start_timeout:g} s at most ..."
                )
            time.sleep(0.05)
        raise UsageError(
            f"the local Prefect server did not answer within {self._settings.server_start_timeout:g} s: "
            f"see {self.log}, or allow more with PDF_FLOWS_SERVER_START_TIMEOUT"
        )

    def _state(self) -> ServerState | None:
        """One step towards a server: be counted as a user, have a keeper, read what it says."""
        assert self._users is not None
        if not _try(self._users, fcntl.LOCK_SH):
            return None  # the keeper is closing, with the lock in its hand
        if not self._kept():
            state = self._read()
            if state is not None and state.error is not None and self._spawned:
                raise UsageError(f"the local Prefect server does not start ({state.error}): see {self.log}")
            if len(self._spawned) >= SPAWNS:
                raise UsageError(f"the local Prefect server does not stay up: see {self.log}")
            self._spawn()
            return None
        state = self._read()
        if state is not None:
            self._url = state.url
        return state

    def _kept(self) -> bool:
        if self._spawned and self._spawned[-1].poll() is None:
            return True
        with (self._settings.home / keeper.KEEPER_LOCK).open("a") as lock:
            return not _try(lock, fcntl.LOCK_SH)

    def _read(self) -> ServerState | None:
        try:
            return ServerState.model_validate_json((self._settings.home / keeper.STATE).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._spawned.append(
                subprocess.Popen(
                    keeper.command("keep", str(self._settings.home), str(self._settings.server_linger)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._settings.home,
                    env=keeper.base_environment(),
                    start_new_session=True,
                )
            )

    def _check_configured(self, configured: Configured) -> None:
        status = _NO_ANSWER
        for pause in (0.0, 0.5, 1.0):
            time.sleep(pause)
            status, reason = _health(configured.url)
            # 401 and 403: it is there, and wants the key that Prefect's client will send.
            if status in (200, 401, 403):
                return
        raise UsageError(
            f"the Prefect API at {configured.url} (set by {configured.by}) does not answer ({reason}): "
            "start it, or unset it to use a local server"
        )

    def _set(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            self._former.setdefault(name, os.environ.get(name))
            os.environ[name] = value

    def _apply(self) -> None:
        """Where prefect was imported before the URL was known, give this thread's context settings that know it."""
        if "prefect" not in sys.modules:
            return
        from prefect.context import SettingsContext, get_settings_context
        from prefect.settings import Settings

        context = get_settings_context()
        if context.settings.api.url != self._url:
            self._contexts.enter_context(SettingsContext(profile=context.profile, settings=Settings()))


def _try(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _health(api: str) -> tuple[int, str]:
    """The status of GET /health (0: no answer) and the reason in words."""
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=10) as answer:  # noqa: S310 - the user's own URL
            return answer.status, "ok"
    except urllib.error.HTTPError as error:
        return error.code, f"HTTP {error.code}"
    except urllib.error.URLError as error:
        return _NO_ANSWER, str(error.reason)
    except (OSError, ValueError) as error:
        return _NO_ANSWER, str(error) or type(error).__name__
