"""The local Prefect server's life, with real servers: who starts it, who shares it, who ends it; and `pdf-flows up`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deployments import keeper
from deployments.server import PrefectServer, ServerSettings, configured_api, server_settings
from tasks.corpus.failures import UsageError

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0

USER = """
import sys
from deployments.server import PrefectServer, ServerSettings
server = PrefectServer.obtain(ServerSettings())
server.start()
print(server.wait(), flush=True)
sys.stdin.readline()
server.release()
"""


def alive(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() != "" and not done.stdout.strip().startswith("Z")


def until(true: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return bool(true())


class Home:
    """A home of local servers, and the processes that use it."""

    def __init__(self, path: Path, linger: float = 2.0) -> None:
        self.path = path
        self.processes: list[subprocess.Popen[str]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "PDF_FLOWS"))}
        self.environment = kept | {
            # Nobody's own profile gets in.
            "HOME": str(path.parent),
            "PDF_FLOWS_HOME": str(path),
            "PDF_FLOWS_SERVER_LINGER": str(linger),
        }

    @property
    def state(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.path / keeper.STATE).read_text()))
        except FileNotFoundError:
            return None

    def run(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=self.environment,
            cwd=self.path.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.path.parent / "stderr").open("a"),
            text=True,
        )
        self.processes.append(process)
        return process

    def user(self) -> subprocess.Popen[str]:
        return self.run("-c", USER)

    def url(self, user: subprocess.Popen[str]) -> str:
        assert user.stdout is not None
        line = user.stdout.readline().strip()
        assert line, (self.path.parent / "stderr").read_text()
        return line

    def pids(self) -> tuple[int, int]:
        state = self.state
        assert state is not None
        return state["pid"], state["server_pid"]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        state = self.state
        if state is not None:
            assert until(lambda: not alive(state["pid"]) and not alive(state["server_pid"]), 60), "something was left"


def leave(user: subprocess.Popen[str]) -> None:
    assert user.stdin is not None
    user.stdin.write("\n")
    user.stdin.flush()
    assert user.wait(20) == 0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A server that runs as long as this module, and its home; its log was too long before it began."""
    home = Home(tmp_path_factory.mktemp("running") / "home")
    home.path.mkdir()
    (home.path / keeper.LOG).write_bytes(b"x" * (keeper.LOG_BYTES + 1))
    home.url(home.user())
    yield home
    home.close()


@pytest.fixture
def home(running: Home, tmp_path: Path) -> Iterator[Home]:
    """A home of its own, whose database is made already."""
    home = Home(tmp_path / "home")
    (home.path / "prefect").mkdir(parents=True)
    for file in (running.path / "prefect").glob("prefect.db*"):
        shutil.copy(file, home.path / "prefect")
    yield home
    home.close()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No Prefect configured; PREFECT_HOME is the folder returned."""
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "PDF_FLOWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    return tmp_path


def test_nothing_configured(plain: Path) -> None:
    assert configured_api() is None


def test_environment_comes_before_the_profile(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plain / "profiles.toml").write_text(
        'active = "a"\n[profiles.a]\nPREFECT_API_URL = "http://a/api/"\n[profiles.b]\n'
    )
    found = configured_api()
    assert found is not None
    assert found.url == "http://a/api"
    monkeypatch.setenv("PREFECT_PROFILE", "b")
    assert configured_api() is None
    monkeypatch.setenv("PREFECT_PROFILE", "local")  # of those that ship with Prefect
    found = configured_api()
    assert found is not None
    assert ":4200/" in found.url
    monkeypatch.setenv("PREFECT_API_URL", "http://c/api")
    found = configured_api()
    assert found is not None
    assert found.url == "http://c/api"


@pytest.mark.parametrize("text", ["profiles = 4", "[profiles]\na = 4"])
def test_a_profiles_file_without_profiles_is_named(plain: Path, text: str) -> None:
    (plain / "profiles.toml").write_text(text)
    with pytest.raises(UsageError, match=r"profiles\.toml holds no table of profiles"):
        configured_api()


@pytest.mark.parametrize("url", ["http://[::1", "localhost:4200", "http://", "http://host:99999/api"])
def test_a_bad_address_of_an_api_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(UsageError, match="is no address of a Prefect API"):
        configured_api()


@pytest.mark.parametrize("value", ["abc", "-1"])
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("PDF_FLOWS_SERVER_LINGER", value)
    with pytest.raises(UsageError, match="bad PDF_FLOWS_SERVER_LINGER"):
        server_settings()


def test_an_empty_home_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDF_FLOWS_HOME", "")
    assert server_settings().home.name == ".pdf-flows"


def test_a_broken_profiles_file_is_named(plain: Path) -> None:
    (plain / "profiles.toml").write_text("active = ")
    with pytest.raises(UsageError, match=r"profiles\.toml"):
        configured_api()


def test_a_configured_api_that_is_down_is_refused_in_a_line(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((keeper.HOST, 0))  # and does not listen
        url = f"http://{keeper.HOST}:{taken.getsockname()[1]}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        server = PrefectServer.obtain(ServerSettings(home=plain / "home"))
        server.start()
        with pytest.raises(UsageError) as caught:
            server.wait()
        server.release()
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (plain / "home").exists()


def test_a_configured_api_is_used_and_nothing_is_started(
    running: Home, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = running.state
    assert state is not None
    (plain / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{state["url"]}"\n')
    with PrefectServer.obtain(ServerSettings(home=plain / "home")) as server:
        assert not server.own
        assert os.environ["PREFECT_API_URL"] == state["url"]
        assert os.environ["PREFECT_HOME"] == str(plain)
    assert not (plain / "home").exists()


def test_this_process_uses_the_server_until_it_releases_it(running: Home, plain: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import get_current_settings

    before = get_current_settings().api.url
    server = PrefectServer.obtain(ServerSettings(home=running.path))
    began = time.monotonic()
    server.start()
    url = server.wait()
    assert time.monotonic() - began < 2.0  # it was running
    with get_client(sync_client=True) as client:
        assert str(client.api_url).rstrip("/") == url
        client.hello().raise_for_status()
    assert server.environment()["PREFECT_API_URL"] == url
    server.release()
    assert get_current_settings().api.url == before
    assert os.environ["PREFECT_HOME"] == str(plain)
    assert "PREFECT_API_URL" not in os.environ


def test_the_ui_asks_the_port_that_serves_it(running: Home) -> None:
    state = running.state
    assert state is not None
    base = state["url"].removesuffix("/api")
    assert httpx.get(f"{base}/ui-settings").json()["api_url"] == state["url"]
    assert "<html" in httpx.get(base, follow_redirects=True).text
    assert socket.gethostbyname(state["url"].split("/")[2].split(":")[0]).startswith("127.")


def test_the_log_is_bounded(running: Home) -> None:
    assert (running.path / f"{keeper.LOG}.1").stat().st_size == keeper.LOG_BYTES + 1
    assert (running.path / keeper.LOG).stat().st_size < keeper.LOG_BYTES


def test_a_start_that_takes_long_says_so_once(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deployments.server.QUIET_SECONDS", 0.0)
    monkeypatch.setattr("deployments.server.FIRST_LOOK_SECONDS", 0.0)
    home = plain / "home"
    home.mkdir()
    with (home / keeper.KEEPER_LOCK).open("a") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)  # a keeper whose server never answers
        server = PrefectServer.obtain(ServerSettings(home=home, server_start_timeout=0.3))
        with pytest.raises(UsageError, match=r"did not answer within 0\.3 s"):
            server.wait()
        server.release()
    assert capsys.readouterr().err == "pdf-flows: starting the local Prefect server, for 0.3 s at most ...\n"


def test_a_home_that_cannot_be_made_is_refused_in_a_line(plain: Path) -> None:
    (plain / "file").touch()
    server = PrefectServer.obtain(ServerSettings(home=plain / "file" / "home"))
    with pytest.raises(UsageError, match="PDF_FLOWS_HOME"):
        server.start()


def test_a_guarded_command_and_its_children_end_with_the_guards_parent(tmp_path: Path) -> None:
    drained = tmp_path / "drained"
    # The child drains at SIGTERM; the command itself would kill it by ending.
    child = f"trap 'sleep 1; touch {drained}; exit' TERM; while :; do sleep 0.1; done"
    command = ["sh", "-c", 'sh -c "$0" & echo $$ $!; wait', child]
    script = (
        "import os, subprocess, sys; from deployments import keeper; "
        "subprocess.Popen(keeper.command('guard', str(os.getpid()), *sys.argv[1:])); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.kill()
    assert until(lambda: not any(map(alive, pids)), 20)
    assert drained.exists()
    parent.communicate()


def test_deployments_name_what_exists_and_no_path_of_a_machine() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    declared = yaml.safe_load(text)
    pools = {}
    for deployment in declared["deployments"]:
        file, flow = deployment["entrypoint"].split(":")
        assert f"def {flow}(" in (ROOT / file).read_text()
        assert deployment["work_pool"]["job_variables"]["env"]["PYTHONPATH"] == "{{ $PDF_FLOWS_ROOT }}"
        pools[deployment["name"]] = deployment["work_pool"]["name"]
    assert pools["convert-partition"] not in (pools["convert-corpus"], pools["retry-failures"])
    assert [list(step) for step in declared["pull"]] == [["prefect.deployments.steps.set_working_directory"]]
    assert str(ROOT) not in text


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_last_user_ends_the_server_even_by_sigkill(home: Home) -> None:
    first, second = home.user(), home.user()
    assert home.url(first) == home.url(second)
    pids = home.pids()
    leave(first)
    time.sleep(6)  # three times the linger
    assert all(map(alive, pids))
    second.kill()
    assert until(lambda: not any(map(alive, pids)), 20)
    assert home.state is None


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_with_the_default_linger_nothing_is_left_after_20_seconds(home: Home) -> None:
    del home.environment["PDF_FLOWS_SERVER_LINGER"]
    user = home.user()
    home.url(user)
    pids = home.pids()
    user.kill()
    assert until(lambda: not any(map(alive, pids)), 20)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_four_that_start_at_once_share_a_server(home: Home) -> None:
    users = [home.user() for _ in range(4)]
    assert len({home.url(user) for user in users}) == 1
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "command="], capture_output=True, text=True, check=True).stdout
    assert sum("deployments.keeper keep" in line and str(home.path) in line for line in listed.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_comes_back_and_remembers(home: Home) -> None:
    user = home.user()
    url = home.url(user)
    httpx.post(f"{url}/flows/", json={"name": "remembered"}).raise_for_status()
    state = home.state
    assert state is not None
    os.kill(state["server_pid"], signal.SIGKILL)
    assert until(lambda: (home.state or state)["server_pid"] != state["server_pid"], 20)
    assert until(lambda: keeper.healthy(url), START_SECONDS)
    assert httpx.get(f"{url}/flows/name/remembered").status_code == 200


def bound(listener: socket.socket, port: int) -> bool:
    with contextlib.suppress(OSError):
        listener.bind((keeper.HOST, port))
        return True
    return False


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_after_the_keeper_is_killed_the_next_user_gets_a_server_that_remembers(home: Home) -> None:
    user = home.user()
    url = home.url(user)
    httpx.post(f"{url}/flows/", json={"name": "remembered"}).raise_for_status()
    kept, served = home.pids()
    os.kill(kept, signal.SIGKILL)
    assert until(lambda: not alive(served), 20)
    assert home.state is not None  # stale
    port = int(url.split(":")[2].split("/")[0])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The dying server's last file descriptor, or an outgoing connection of this machine, may hold the port a little longer.
        assert until(lambda: bound(taken, port), 60)
        taken.listen()  # somebody else has the port now
        again = home.url(home.user())
    assert again != url
    assert httpx.get(f"{again}/flows/name/remembered").status_code == 200


def runs_of(api: str, **filters: Any) -> list[dict[str, Any]]:
    answer = httpx.post(f"{api}/flow_runs/filter", json=filters, timeout=30)
    answer.raise_for_status()
    return list(answer.json())


UP = "import sys; from deployments.up import up; sys.exit(up(workers_limit=2))"


def served(home: Home) -> bool:
    return "Ctrl-C" in (home.path.parent / "stderr").read_text()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_up_makes_runs_triggerable_and_ends_with_all_it_started(home: Home, tmp_path: Path) -> None:
    up = home.run("-c", UP)
    assert until(lambda: served(home) or up.poll() is not None, START_SECONDS), (tmp_path / "stderr").read_text()
    assert up.poll() is None, (tmp_path / "stderr").read_text()
    state = home.state
    assert state is not None
    api = state["url"]
    refused = home.run("-c", UP)
    assert refused.wait(30) != 0  # one a home

    pools = {pool["name"]: pool for pool in httpx.post(f"{api}/work_pools/filter", json={}).json()}
    assert pools["pdf-flows-workers"]["concurrency_limit"] == 2
    assert pools["pdf-flows-parents"]["concurrency_limit"] is None
    deployments = {one["name"]: one for one in httpx.post(f"{api}/deployments/filter", json={}).json()}
    assert set(deployments) == {"convert-corpus", "convert-partition", "retry-failures", "scale-run"}
    assert deployments["convert-corpus"]["parameters"] == {"launcher": "work-pool"}

    output = tmp_path / "output"
    parameters = {"input": str(ROOT / "samples"), "output": str(output), "engine": "dummy"}
    run = httpx.post(
        f"{api}/deployments/{deployments['convert-corpus']['id']}/create_flow_run", json={"parameters": parameters}
    ).json()
    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    assert until(lambda: httpx.get(f"{api}/flow_runs/{run['id']}").json()["state_type"] in final, 180)
    assert httpx.get(f"{api}/flow_runs/{run['id']}").json()["state_type"] == "COMPLETED"
    pdfs = {path.stem for path in (ROOT / "samples").glob("*.pdf")}
    assert pdfs and {path.stem for path in output.glob("*.md")} == pdfs

    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,command="], capture_output=True, text=True, check=True
    ).stdout
    guards = [int(line.split()[0]) for line in listed.splitlines() if f"keeper guard {up.pid} " in line]
    assert len(guards) == 2
    everything = [*guards, *home.pids()]
    up.kill()  # the worst way: no handler of ours runs
    assert until(lambda: not any(map(alive, everything)), 90)
