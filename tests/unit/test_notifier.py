"""Messages that are sent: once whatever becomes of the parent, to a real SNS topic, and never at the run's expense."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from conftest import MotoS3
from lives_kit import Faults, FaultyStore, Kind, Publications

from tasks.channels import Channel, Topic, open_channels
from tasks.corpus.failures import UsageError
from tasks.corpus.store import Store, open_store
from tasks.fleet.money import Money
from tasks.messages import About, Message, Standing
from tasks.notifier import WAITS, Notifier, Told
from tasks.report import Report, RunState

ABOUT = About(run_id="r1", input="in", output="out", engine="dummy", page="out/_runs/r1/report.html")
HALF = Standing(documents=10, money=Money(spent=5.0, budget=10.0))
LOG = logging.getLogger("test.notifier")


class Box:
    """A channel that keeps what it is given, and fails as often as it is told to."""

    name = "box"

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.tried = 0
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.tried += 1
        if self.errors:
            raise self.errors.pop(0)
        self.messages.append(message)

    def lost(self, error: BaseException) -> bool:
        return isinstance(error, TimeoutError)


@pytest.fixture
def runs(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"), writable=True)


def notifier(
    runs: Store,
    *channels: Channel,
    look: Callable[[], Standing | None] = lambda: HALF,
    epoch: int = 0,
    sleep: Callable[[float], None] = lambda seconds: None,
    ours: Callable[[], bool] = lambda: True,
) -> Notifier:
    return Notifier(runs, epoch, ABOUT, channels, look, LOG, seconds=0.01, ours=ours, sleep=sleep)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def report(**changes: object) -> Report:
    values = dict.fromkeys(
        ("converted", "skipped", "partial", "failed", "quarantined", "remaining", "duplicates", "pages"), 0
    ) | dict(run_id="r1", input="in", output="out", engine="dummy", report="", seconds=1.0, pages_per_second=0.0)
    return Report.model_validate(values | {"state": RunState.COMPLETED, "documents": 10, "converted": 10} | changes)


def test_a_parent_that_is_started_again_tells_nobody_twice(runs: Store) -> None:
    first, second = Box(), Box()
    looks: list[int] = []

    def look() -> Standing:
        looks.append(1)
        return HALF

    with notifier(runs, first, look=look):
        until(lambda: len(looks) > 3)
    assert [message.name for message in first.messages] == ["budget-50-of-10.00"]
    with notifier(runs, second, look=look, epoch=1) as again:
        until(lambda: len(looks) > 8)
        again.conclude(report())
        again.conclude(report())
    assert [message.name for message in second.messages] == ["end-completed-10-0"]
    told = Told.model_validate_json(runs.read("r1/told/budget-50-of-10.00.json"))
    assert (told.epoch, told.channels, told.subject) == (0, ["box"], first.messages[0].subject)


def test_of_parents_that_work_at_the_same_time_one_tells(store: Store) -> None:
    box = Box()
    parents = [notifier(store, box, epoch=epoch) for epoch in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda parent: parent.conclude(report()), parents))
    assert len(box.messages) == 1


def test_an_overtaken_parent_and_one_that_knows_nothing_yet_are_silent(runs: Store) -> None:
    box, looks = Box(), [0]

    def look() -> Standing | None:
        looks[0] += 1
        return HALF if looks[0] > 3 else None

    with notifier(runs, box, look=look, ours=lambda: looks[0] > 6):
        until(lambda: box.messages)
    assert looks[0] > 6


def test_without_a_channel_nothing_is_written_down(runs: Store) -> None:
    with notifier(runs) as nobody:
        nobody.conclude(report())
    assert list(runs.list("")) == []


def test_a_message_that_fails_is_tried_again_and_then_a_warning(runs: Store, caplog: pytest.LogCaptureFixture) -> None:
    waited: list[float] = []
    twice, never, other = Box(*[OSError("no route")] * 2), Box(*[OSError("no\nroute")] * 3), Box()
    notifier(runs, twice, never, other, sleep=waited.append).conclude(report())
    assert (len(twice.messages), len(never.messages), len(other.messages)) == (1, 0, 1)
    assert (never.tried, waited) == (3, [*WAITS, *WAITS])
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning == "box was not told 'pdf-flows r1: Completed': no route"


def test_a_message_whose_answer_is_lost_may_have_come(runs: Store) -> None:
    """At most once rather than twice."""
    box = Box(TimeoutError("no answer"))
    notifier(runs, box).conclude(report())
    assert (box.tried, box.messages) == (1, [])


def test_what_cannot_be_written_down_is_not_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    box = Box()
    inner = open_store(str(tmp_path / "runs"), writable=True)
    for kind in (Kind.FAIL, Kind.LOST):
        faults = Faults(at=0, kind=kind, match=lambda store, method, key: method == "create")
        notifier(FaultyStore(inner, "runs", faults, Publications()), box).conclude(report())
        assert (faults.hit, box.tried, "is not sent" in caplog.text) == (True, 0, True)
        caplog.clear()
    # Its record was created after all, though nobody said so: another parent holds it for sent.
    notifier(inner, box, epoch=1).conclude(report())
    assert box.tried == 0


def test_a_run_does_not_wait_for_a_message_for_ever(
    runs: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = threading.Event()

    class Held(Box):
        def send(self, message: Message) -> None:
            held.wait(20)

    monkeypatch.setattr("tasks.notifier.END_SECONDS", 0.1)
    notifier(runs, Held()).conclude(report())
    held.set()
    assert "A message was not sent" in caplog.text


# -- SNS -------------------------------------------------------------------------------------------------------------


class Subscribed:
    """A topic on moto's server, and a queue that is subscribed to it."""

    def __init__(self) -> None:
        session = boto3.Session(region_name="us-east-1")
        name = f"t-{uuid.uuid4().hex[:8]}"
        self._sqs = session.client("sqs")
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        queue = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]
        sns = session.client("sns")
        self.arn: str = sns.create_topic(Name=name)["TopicArn"]
        sns.subscribe(TopicArn=self.arn, Protocol="sqs", Endpoint=queue["QueueArn"])

    def messages(self) -> list[tuple[str, str]]:
        """Subjects and texts since the last call."""
        found: list[dict[str, Any]] = []
        while some := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            for message in some:
                found.append(json.loads(message["Body"]))
                # Else it would come again after its 30 s.
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return [(one["Subject"], one["Message"]) for one in found]


@pytest.fixture
def topic(moto_s3: MotoS3) -> Subscribed:
    return Subscribed()


def test_a_topic_is_told(topic: Subscribed, runs: Store) -> None:
    (channel,) = open_channels(topic.arn, None)
    notifier(runs, channel).conclude(report(state=RunState.STOPPED, why="budget: spent", remaining=1))
    ((subject, text),) = topic.messages()
    assert subject == "pdf-flows r1: Stopped: budget"
    assert "Report: out/_runs/r1/report.html" in text


@pytest.mark.parametrize(
    "bad", ["", "pdf-flows-notifications", "arn:aws:sns:us-east-1:1:x", "arn:aws:sqs:us-east-1:123456789012:x"]
)
def test_what_is_no_topic_is_refused_in_a_line(bad: str) -> None:
    with pytest.raises(UsageError, match=r"\Abad notify-topic .*arn:aws:sns:<region>") as caught:
        Topic(bad)
    assert "\n" not in str(caught.value)


def test_a_topic_that_is_not_there_is_refused_before_the_run(topic: Subscribed) -> None:
    with pytest.raises(UsageError, match="there is no SNS topic"):
        Topic(topic.arn + "-gone")


def test_a_topic_out_of_reach_is_refused_in_a_line(topic: Subscribed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"can't be reached \(Could not connect to the endpoint URL"):
        Topic(topic.arn)


def test_who_may_publish_need_not_be_allowed_to_ask(topic: Subscribed, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the role of the parents on AWS; AWS's answer, AWS documentation, "Common errors" of SNS."""
    error = b"<Error><Type>Sender</Type><Code>AuthorizationError</Code><Message>no</Message></Error>"
    refusal = b"<ErrorResponse>" + error + b"</ErrorResponse>"
    asked: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(403)
            self.send_header("Content-Length", str(len(refusal)))
            self.end_headers()
            self.wfile.write(refusal)

        def log_message(self, *words: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        assert Topic(topic.arn).name == f"SNS topic {topic.arn}"
        server.shutdown()
    assert [b"Action=GetTopicAttributes" in one for one in asked] == [True]


def test_an_answer_of_sns_that_is_lost_is_no_reason_to_tell_again(topic: Subscribed) -> None:
    channel = Topic(topic.arn)
    assert channel.lost(ReadTimeoutError(endpoint_url="x"))
    assert not channel.lost(OSError("no route"))


def test_a_topic_that_goes_away_in_the_middle_costs_the_run_a_warning(
    topic: Subscribed, runs: Store, caplog: pytest.LogCaptureFixture
) -> None:
    channel = Topic(topic.arn)
    boto3.Session(region_name="us-east-1").client("sns").delete_topic(TopicArn=topic.arn)
    notifier(runs, channel).conclude(report())
    assert f"SNS topic {topic.arn} was not told 'pdf-flows r1: Completed'" in caplog.text
