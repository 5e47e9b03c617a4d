"""Whole runs on a real Prefect server: what their states say, who is told of them, and retries until two rounds were made."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import MotoS3
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect_kit import prefect_server
from test_notifier import Subscribed

from flows.convert_corpus import convert_corpus
from flows.retry_failures import retry_failures
from tasks.channels import open_channels
from tasks.conversion import Conversion
from tasks.corpus.failures import UsageError
from tasks.corpus.runs import latest, read_run
from tasks.corpus.store import open_store
from tasks.entry import HOOKS, ROUNDS, Hooks
from tasks.live_page import LivePage
from tasks.messages import Message
from tasks.notifier import Notifier
from tasks.report import Report

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Hook:
    """A webhook's receiver on the loopback. Answers 500 as often as it is told to."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.failures = 0
        self.then: Callable[[str], None] = lambda subject: None
        """Called with each subject."""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status = 500 if hook.failures else 204
                hook.failures = max(0, hook.failures - 1)
                if status == 204:
                    # Before the answer: the test looks as soon as that is there.
                    hook.received.append(body)
                    hook.then(body["subject"])
                self.send_response(status)
                self.end_headers()

            def log_message(self, *words: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def taken(self) -> list[str]:
        """Subjects since the last call."""
        found, self.received = [one["subject"] for one in self.received], []
        return found

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def prefect_api(moto_s3: MotoS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server that this process's flows use; AWS is moto's."""
    with (
        prefect_server(tmp_path_factory.mktemp("reruns")) as url,
        pytest.MonkeyPatch.context() as patch,
        temporary_settings({PREFECT_API_URL: url}),
    ):
        patch.setenv("PREFECT_API_URL", url)
        yield url


@pytest.fixture(scope="module")
def hook(prefect_api: str) -> Iterator[Hook]:
    """A webhook, and a notification block that calls it: custom-webhook/ops."""
    found = Hook()
    block = CustomWebhookNotificationBlock(
        name="ops", url=found.url, json_data={"subject": "{{subject}}", "text": "{{body}}"}
    )
    block.save("ops", overwrite=True)
    yield found
    found.close()


def outcome(state: Any) -> tuple[str, str]:
    """As the server keeps it: type and name."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        kept = client.read_flow_run(state.state_details.flow_run_id).state
    assert kept is not None
    return kept.type.value, kept.name or ""


def test_states_messages_and_two_rounds(prefect_api: str, hook: Hook, moto_s3: MotoS3, tmp_path: Path) -> None:
    topic = Subscribed()
    told = {"notify_topic": topic.arn, "notify_block": "custom-webhook/ops"}
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name, script in {"fine": "", "bad": "fail=DAMAGED", "busy": "fail=STORE retryable=yes"}.items():
        (source / f"{name}.pdf").write_text(f"%PDF-dummy {script}\n")
    runs = open_store(str(output / "_runs"), writable=True)
    place = {"output": str(output), "workers": 1, "retries": 0}

    failed = convert_corpus(input=str(source), engine="dummy", **place, **told, return_state=True)
    assert outcome(failed) == ("FAILED", "Failed")
    assert failed.message == "failure rate 66.7 % over the limit of 5 % (2 documents)"
    first = latest(runs)
    assert first is not None
    subject = f"pdf-flows {first}: Failed"
    ((by_topic, text),) = topic.messages()
    assert (by_topic, hook.received[-1]["text"]) == (subject, text)
    assert hook.taken() == [subject]
    assert f"{prefect_api.removesuffix('/api')}/runs/flow-run/{failed.state_details.flow_run_id}" in text
    assert text.splitlines()[3] == "Failure rate 66.7 % over the limit of 5 % (2 documents)."

    # As the automation asks, with a webhook that answers 500 at first.
    hook.failures = 1
    automatic = {"retryable_only": True, "rounds": ROUNDS}
    for _ in range(ROUNDS):
        again = retry_failures(run_id=latest(runs), **place, **automatic, **told, return_state=True)
        assert outcome(again) == ("COMPLETED", "Completed with failures")
        run_id = latest(runs)
        assert hook.taken() == [f"pdf-flows {run_id}: Completed with failures"]
        assert run_id is not None
        assert read_run(runs, run_id).documents == 1, "the damaged one is beyond another try"
    assert len(topic.messages()) == 2
    nothing = retry_failures(run_id=latest(runs), **place, **automatic, **told, return_state=True)
    assert outcome(nothing) == ("COMPLETED", "Nothing to retry")
    assert "were not tried in 2 rounds already" in (nothing.message or "")
    assert (hook.taken(), topic.messages()) == ([], [])


def test_failures_over_the_limit_are_told_while_the_run_goes_on(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.conversion.LivePage", partial(LivePage, seconds=0.2))
    monkeypatch.setattr("tasks.conversion.Notifier", partial(Notifier, seconds=0.2))
    (tmp_path / "in").mkdir()
    # The heavier comes first. The other would take ten minutes: it is still in hand when somebody has been told.
    (tmp_path / "in" / "bad.pdf").write_text("%PDF-dummy fail=DAMAGED\n" + 1000 * "x")
    (tmp_path / "in" / "long.pdf").write_text("%PDF-dummy pages=1000 seconds=0.6\n")
    started: list[Conversion] = []
    hook.then = lambda subject: started[0].stop("interrupted")
    token = HOOKS.set(Hooks(on_start=started.append))
    try:
        stopped = convert_corpus(
            input=str(tmp_path / "in"),
            output=str(tmp_path / "out"),
            engine="dummy",
            workers=1,
            notify_block="custom-webhook/ops",
            return_state=True,
        )
    finally:
        HOOKS.reset(token)
        hook.then = lambda subject: None
    assert outcome(stopped) == ("FAILED", "Stopped: interrupted")
    told = [subject.partition(": ")[2] for subject in hook.taken()]
    assert told == ["failure rate 100 %, the limit is 5 %", "Stopped: interrupted"]


def test_a_budget_that_starts_no_machine_and_a_run_with_nothing_to_do(hook: Hook, tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "in" / "a.pdf").write_text("%PDF-dummy\n")
    call: dict[str, Any] = dict(input=str(tmp_path / "in"), output=str(tmp_path / "out"), engine="dummy", workers=1)
    call["notify_block"] = "custom-webhook/ops"
    stopped = convert_corpus(**call, budget=0.01, price=100.0, return_state=True)
    assert outcome(stopped) == ("FAILED", "Stopped: budget")
    (subject,) = hook.taken()
    assert subject.endswith(": Stopped: budget")
    # The same once more is the same end: nobody is told again.
    assert outcome(convert_corpus(**call, budget=0.01, price=100.0, return_state=True))[1] == "Stopped: budget"
    assert hook.taken() == []
    (tmp_path / "out" / "a.md").write_text("somebody else's\n")
    reports: list[Report] = []
    token = HOOKS.set(Hooks(reports=reports))
    try:
        done = convert_corpus(**call, return_state=True)
    finally:
        HOOKS.reset(token)
    assert outcome(done) == ("COMPLETED", "Completed")
    assert [(report.skipped, report.remaining) for report in reports] == [(1, 0)]
    assert hook.taken() == [f"pdf-flows {reports[0].run_id}: Completed"]


def test_what_cannot_be_told_is_refused_before_the_run_begins(hook: Hook, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.pdf").write_text("%PDF-dummy\n")
    Secret(value="x").save("no-channel", overwrite=True)
    for slug, why in (
        ("custom-webhook/nobody", "there is no such block"),
        ("no-such-type/ops", "there is no such block"),
        ("secret/no-channel", "sends no notifications: name one of a type such as"),
        ("ops", "bad notify-block 'ops'"),
        ("", "bad notify-block ''"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            open_channels(None, slug)
        assert "\n" not in str(caught.value)
    refused = convert_corpus(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), notify_block="slack-webhook/ops", return_state=True
    )
    assert outcome(refused) == ("FAILED", "Refused")
    assert "slack-webhook/ops" in (refused.message or "")
    assert not (tmp_path / "out").exists()


def test_a_block_that_is_deleted_later_still_tells(hook: Hook) -> None:
    copy = CustomWebhookNotificationBlock(name="x", url=hook.url, json_data={"subject": "{{subject}}"})
    copy.save("short-lived", overwrite=True)
    (channel,) = open_channels(None, "custom-webhook/short-lived")
    CustomWebhookNotificationBlock.delete("short-lived")
    channel.send(Message(name="n", subject="still here", text="text"))
    assert hook.taken() == ["still here"]
