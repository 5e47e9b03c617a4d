"""The metadata service, the machine it describes, and notices that it is about to be taken away."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from imds_server import ACTION, REBALANCE, ImdsServer, imds_server

from tasks.fleet.imds import RETRY_SECONDS, TRIES, Imds
from tasks.fleet.machine import Lifecycle, Machine, this_machine, uptime
from tasks.fleet.notice import Notice, NoticeKind, NoticeWatch, notice_file

ID = "/meta-data/instance-id"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def server() -> Iterator[ImdsServer]:
    with imds_server() as fake:
        yield fake


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_token_is_reused_and_renewed(server: ImdsServer) -> None:
    now = [0.0]
    imds = Imds(server.url + "/", clock=lambda: now[0])
    assert [imds.get(ID) for _ in range(3)] == ["i-0123456789abcdef0"] * 3
    assert server.issued == 1
    server.tokens.clear()  # 401
    assert imds.get(ID) == "i-0123456789abcdef0"
    assert server.issued == 2
    now[0] += 21600
    assert imds.get(ID) == "i-0123456789abcdef0"
    assert server.issued == 3
    assert imds.get("/meta-data/nothing") is None


def test_a_proxy_is_not_asked(server: ImdsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", nobody())
    assert Imds.from_env({"AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}).get(ID)


def test_disabled_is_not_asked(server: ImdsServer) -> None:
    imds = Imds.from_env({"AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url, "AWS_EC2_METADATA_DISABLED": "True"})
    assert imds.get(ID) is None
    assert imds.absent
    assert server.requests == []


def test_a_laptop_waits_a_second_once(server: ImdsServer) -> None:
    server.hang = 5.0
    now = [0.0]
    imds = Imds(server.url, timeout=0.2, clock=lambda: now[0])
    start = time.monotonic()
    for _ in range(10):
        assert imds.get(ID) is None
    assert time.monotonic() - start < 1
    assert len(server.requests) == 1
    for _ in range(10):
        now[0] += RETRY_SECONDS
        assert imds.get(ID) is None
    assert len(server.requests) == TRIES
    assert imds.absent


def test_what_says_that_it_is_an_instance_waits_longer(server: ImdsServer, tmp_path: Path) -> None:
    vendor, env = tmp_path / "sys_vendor", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}
    server.hang = 1.2
    assert Imds.from_env(env, vendor=vendor).get(ID) is None
    vendor.write_text("Amazon EC2\n")
    assert Imds.from_env(env, vendor=vendor).get(ID) == "i-0123456789abcdef0"


@pytest.mark.parametrize(
    "endpoint",
    ["", "no address", "http://", "ftp://127.0.0.1", nobody()],
    ids=["none", "words", "no host", "another scheme", "nobody there"],
)
def test_nobody_there(endpoint: str) -> None:
    assert Imds(endpoint).get(ID) is None


def test_what_answered_once_is_asked_again(server: ImdsServer) -> None:
    imds = Imds(server.url, timeout=0.2)
    assert imds.get(ID)
    for garbage in (b"", b"\x00\xff\n\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut"):
        server.garbage = garbage
        assert imds.get(ID) is None
    server.garbage = None
    for status in (401, 403, 429, 500):
        server.status = status
        assert imds.get(ID) is None
    server.status, server.hang = None, 0.5
    assert imds.get(ID) is None
    server.hang = 0.0
    assert imds.get(ID)


def test_this_machine(server: ImdsServer) -> None:
    machine = this_machine(Imds(server.url), {})
    assert machine == Machine(
        id="i-0123456789abcdef0",
        type="g4dn.xlarge",
        zone="us-east-1b",
        region="us-east-1",
        lifecycle=Lifecycle.SPOT,
        uptime=machine.uptime,
    )
    server.paths["/latest/meta-data/instance-life-cycle"] = "on-demand"
    del server.paths["/latest/meta-data/instance-type"]
    again = this_machine(Imds(server.url), {})
    assert (again.lifecycle, again.type) == (Lifecycle.ON_DEMAND, None)


def test_machines_off_ec2(server: ImdsServer) -> None:
    machine = this_machine(Imds(nobody()), {})
    assert machine.lifecycle is Lifecycle.OWN
    assert machine.id == socket.gethostname()
    server.paths["/latest/meta-data/instance-id"] = "<html>please log in</html>"
    assert this_machine(Imds(server.url), {}).lifecycle is Lifecycle.OWN


def test_machine_from_the_environment() -> None:
    given = Machine(id="i-9", type="g5.xlarge", lifecycle=Lifecycle.SPOT, uptime=5.0)
    assert this_machine(env={"PDF_FLOWS_MACHINE": given.model_dump_json()}) == given
    assert this_machine(env={"PDF_FLOWS_MACHINE": '{"id": "x"}'}).uptime == pytest.approx(uptime() or 0, abs=5)
    with pytest.raises(ValueError, match="PDF_FLOWS_MACHINE is no machine"):
        this_machine(env={"PDF_FLOWS_MACHINE": "{"})


def test_uptime(tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("350735.47 234388.90\n")
    assert uptime(tmp_path / "uptime") == 350735.47
    (tmp_path / "uptime").write_text("")
    assert uptime(tmp_path / "uptime") is None
    assert uptime(tmp_path / "none") is None


class Heard:
    """What a watch told."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self.new = threading.Condition()

    def __call__(self, notice: Notice) -> None:
        with self.new:
            self.notices.append(notice)
            self.new.notify_all()

    def wait(self, count: int) -> list[Notice]:
        with self.new:
            assert self.new.wait_for(lambda: len(self.notices) >= count, timeout=10)
        return self.notices


Watching = Callable[..., Heard]


@pytest.fixture
def watching() -> Iterator[Watching]:
    watches: list[NoticeWatch] = []

    def watch(file: Path | None = None, imds: Imds | None = None, wall: float = NOON) -> Heard:
        heard = Heard()
        watches.append(NoticeWatch(heard, file=file, imds=imds, poll_seconds=0.02, wall=lambda: wall))
        watches[-1].start()
        return heard

    yield watch
    for each in watches:
        each.stop()


def test_notices_from_the_metadata_service_each_once(server: ImdsServer, watching: Watching) -> None:
    heard = watching(imds=Imds(server.url))
    server.paths[REBALANCE] = '{"noticeTime": "2026-11-23T11:59:00Z"}'
    heard.wait(1)
    server.tokens.clear()
    time.sleep(0.1)
    server.paths[ACTION] = '{"action": "hibernate", "time": "2026-11-23T12:01:30Z"}'
    heard.wait(2)
    time.sleep(0.1)
    assert [(n.kind, n.seconds, n.action) for n in heard.notices] == [
        (NoticeKind.REBALANCE, None, ""),
        (NoticeKind.INTERRUPTION, 90.0, "hibernate"),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('{"action":"terminate","time":"2026-11-23T12:02:00Z"}', 120.0),
        ('{"action":"stop","time":"2026-11-23T12:00:10Z"}', 10.0),
        ('{"action":"terminate","time":"2026-11-23T11:00:00Z"}', 0.0),
        ('{"action":"terminate","time":"2026-11-24T12:00:00Z"}', 120.0),
        ('{"action":"terminate","time":"2026-11-23T12:00:20"}', 20.0),
        ('{"action":"terminate"}', None),
        ('{"action":"terminate","time":"soon"}', None),
        ('{"action":"termi', None),
        ("[]", None),
        ("", None),
        ("\x00\x01", None),
    ],
)
def test_notices_from_the_file(text: str, seconds: float | None, tmp_path: Path, watching: Watching) -> None:
    file = tmp_path / "instance-action"
    heard = watching(file)
    time.sleep(0.05)
    assert heard.notices == []
    file.write_text(text)
    (notice,) = heard.wait(1)
    assert notice.kind is NoticeKind.INTERRUPTION
    # A look may come between the file's creation and its content: then it has no time.
    assert notice.seconds in (seconds, None)
    assert notice.source == str(file)


def test_a_notice_that_was_there_before(tmp_path: Path, watching: Watching) -> None:
    (tmp_path / "instance-action").write_text(json.dumps({"action": "terminate", "time": "2026-11-23T12:01:00Z"}))
    assert watching(tmp_path / "instance-action").wait(1)[0].seconds == 60.0


def test_the_rebalance_file_is_a_recommendation(tmp_path: Path, watching: Watching) -> None:
    heard = watching(tmp_path / "instance-action")
    (tmp_path / "rebalance").write_text("")
    assert heard.wait(1)[0].kind is NoticeKind.REBALANCE


def test_what_is_no_notice(tmp_path: Path, server: ImdsServer, watching: Watching) -> None:
    (tmp_path / "instance-action").mkdir()
    server.status = 500
    heard = [watching(tmp_path / "instance-action", Imds(server.url)), watching(tmp_path / "none" / "x"), watching()]
    time.sleep(0.2)
    assert not any(each.notices for each in heard)


def test_a_service_that_hangs_does_not_hide_the_file(server: ImdsServer, tmp_path: Path, watching: Watching) -> None:
    server.hang = 30.0
    heard = watching(tmp_path / "instance-action", Imds(server.url, timeout=0.1))
    time.sleep(0.05)
    (tmp_path / "instance-action").write_text("{}")
    heard.wait(1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_raises_ends_nothing(tmp_path: Path) -> None:
    kinds: list[NoticeKind] = []

    def fail(notice: Notice) -> None:
        kinds.append(notice.kind)
        raise RuntimeError("the worker's own trouble")

    watch = NoticeWatch(fail, file=tmp_path / "instance-action", imds=None, poll_seconds=0.02)
    (tmp_path / "rebalance").write_text("")
    watch.start()
    time.sleep(0.1)
    (tmp_path / "instance-action").write_text("{}")
    time.sleep(0.2)
    watch.stop()
    assert kinds == [NoticeKind.REBALANCE, NoticeKind.INTERRUPTION]


def test_stop_before_start_and_soon(tmp_path: Path) -> None:
    NoticeWatch(lambda notice: None, file=tmp_path / "x", imds=None).stop()
    watch = NoticeWatch(lambda notice: None, file=tmp_path / "x", imds=None, poll_seconds=60)
    watch.start()
    start = time.monotonic()
    watch.stop()
    assert time.monotonic() - start < 1


def test_where_the_file_is(tmp_path: Path) -> None:
    assert notice_file({"PDF_FLOWS_SPOT_NOTICE_FILE": str(tmp_path / "n")}) == tmp_path / "n"
    usual = Path("/run/spot-notice")
    assert notice_file({}) == (usual / "instance-action" if usual.is_dir() else None)
