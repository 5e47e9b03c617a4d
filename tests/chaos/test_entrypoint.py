"""The image's entrypoint told to stop, with Prefect and without: by SIGTERM, by the host's notice file, by the metadata service.

It has to drain: keep the pages that are done, give its documents back, and end in time, with the status and the state that
whoever started it needs. Seconds are those from the signal (or notice) to the end of the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from contract_kit import COMMAND, ENTRYPOINT, ROOT, SECRET, Container, Contract
from unit.imds_server import ACTION, imds_server

from chaos.api import Api
from chaos.notices import VARIABLE, write_notice
from chaos.processes import children_of, command_of, parent_of, pids, wait_for
from chaos.seen import SeenLife

NOTICE_SECONDS = 90.0
SIGTERM_SECONDS = 30.0
LONG = "pages=1500 seconds=0.2 assets=1"
"""Minutes, whatever number of sandbox children share it out."""
"""80 s of work: its pages are kept."""


@pytest.fixture
def contract(moto_s3: Any, tmp_path: Path) -> Iterator[Contract]:
    found = Contract(moto_s3, tmp_path / "contract", workers=1)
    yield found
    found.close()


def at_page(place: Contract, container: Container, attempt: int, page: int) -> SeenLife:
    """Wait until a life has so many pages of its document behind it."""

    def look() -> SeenLife | None:
        assert container.process.poll() is None, container.said
        lives = [life for life in place.view().lives(0) if life.attempt == attempt]
        return lives[0] if lives and (lives[0].beat.get("page") or 0) >= page else None

    return wait_for(f"page {page}", look, pause=0.1)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    parents = {child: parent_of(child) for child in pids()}
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def worker_of(container: Container) -> int:
    """The process that the sandbox children are of."""
    return parent_of(next(pid for pid in descendants(container.pid) if b"tasks.engines.child" in command_of(pid)))


def other_thread_gets(number: int, pid: int) -> None:
    """A signal as the kernel gives it while the main thread is busy with others: to a thread beside it."""
    other = max(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir())
    assert other != pid
    tgkill = {"x86_64": 234, "aarch64": 131}[os.uname().machine]
    assert ctypes.CDLL(None).syscall(tgkill, pid, other, int(number)) == 0


def gave_back(place: Contract, container: Container, page: int) -> None:
    """The document was given back with its pages, and nothing of it is left."""
    view = place.view()
    newest = max((claim for claim in view.claims() if claim.index == 0), key=lambda claim: claim.n)
    assert newest.released, container.said
    assert len(view.keys("checkpoints/")) >= 1, container.said
    assert "doc-000.md" not in place.markdown()
    life = view.lives(0)[-1]
    assert life.ended, life
    assert life.fence is None
    assert (life.beat["page"] or page) >= page


def no_secret(place: Contract, container: Container) -> None:
    """Nor in the log, nor in what a sandbox child can see of its surroundings."""
    children = [pid for pid in descendants(container.pid) if b"tasks.engines.child" in command_of(pid)]
    worker = worker_of(container)
    assert f"AWS_SECRET_ACCESS_KEY={SECRET}".encode() in Path(f"/proc/{worker}/environ").read_bytes(), (
        "no test otherwise"
    )
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes()
        assert b"PATH=" in environment
        assert SECRET.encode() not in environment
        assert b"AWS_" not in environment
        assert SECRET.encode() not in command_of(child)


@pytest.mark.parametrize(
    "how",
    [
        "SIGTERM",
        "notice file",
        # The metadata service has a second to answer in: what a busy machine makes of that is no matter for CI.
        *(pytest.param(how, marks=pytest.mark.soak) for how in ("SIGINT", "SIGTERM to a thread", "metadata service")),
    ],
)
def test_told_to_stop_without_prefect(contract: Contract, tmp_path: Path, how: str) -> None:
    contract.fill(1, LONG)
    contract.fill(3, "seconds=0.2", start=1)
    notice = tmp_path / "notice" / "instance-action"
    with imds_server() as imds:
        container = contract.start(
            0,
            BEAT_SECONDS="0.3",
            AWS_EC2_METADATA_DISABLED="false",
            AWS_EC2_METADATA_SERVICE_ENDPOINT=imds.url,
            **{VARIABLE: str(notice)},
        )
        at_page(contract, container, 0, 5)
        no_secret(contract, container)
        told = time.monotonic()
        if how == "SIGTERM to a thread":
            other_thread_gets(signal.SIGTERM, worker_of(container))
        elif how.startswith("SIG"):
            container.process.send_signal(signal.Signals[how])
        elif how == "notice file":
            write_notice(notice)
        else:
            imds.paths[ACTION] = '{"action": "terminate", "time": "' + soon() + '"}'
        # With two minutes left 75 s are for work: the rest of the document does not fit into them, so it is not waited for.
        assert container.wait() == 3, container.said
        seconds = time.monotonic() - told
    assert seconds < (SIGTERM_SECONDS if how.startswith("SIG") else NOTICE_SECONDS), container.said
    gave_back(contract, container, 5)
    life = contract.view().lives(0)[-1]
    assert life.ended.startswith("terminated" if how.startswith("SIG") else "notice: ")
    if how == "metadata service":
        assert life.start["machine"]["id"] == "i-0123456789abcdef0"
    assert "start WORKER_ID=0 again to go on" in container.said
    assert SECRET not in container.said
    assert "Traceback" not in container.said
    assert descendants(container.pid) == []


def soon() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_before_it_has_loaded_what_it_needs(contract: Contract, number: signal.Signals) -> None:
    container = contract.start(0)
    wait_for("the worker", lambda: children_of(container.pid, b"tasks.environment"), 20, pause=0.005)
    container.process.send_signal(number)
    assert container.wait() == 3, container.said
    assert "Terminated before any document was in hand" in container.said
    assert "Traceback" not in container.said
    assert len(container.said.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_long_document_goes_on_after_a_signal_a_notice_and_a_kill(
    contract: Contract, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contract.fill(1, "pages=160 seconds=0.4 assets=1")
    contract.fill(2, start=1)
    leaving, page = [], 0
    for attempt, how in enumerate(("SIGTERM", "notice", "SIGKILL")):
        notice = tmp_path / str(attempt) / "instance-action"
        container = contract.start(0, BEAT_SECONDS="0.3", **{VARIABLE: str(notice)})
        page = at_page(contract, container, attempt, page + 10).beat["page"]
        told = time.monotonic()
        if how == "SIGKILL":
            container.kill()
            continue
        if how == "SIGTERM":
            container.process.send_signal(signal.SIGTERM)
        else:
            write_notice(notice, seconds=40)
        assert container.wait() == 3, container.said
        leaving.append(time.monotonic() - told)
        gave_back(contract, container, page)
    last = contract.start(0)
    assert last.wait(200) == 0, last.said
    assert contract.published() == {0: 1, 1: 1, 2: 1}
    record = next(r for r in contract.view().records() if r["index"] == 0 and r["outcome"] == "converted")
    with capsys.disabled():
        print(
            f"\nleft after {leaving[0]:.1f} s (SIGTERM) and {leaving[1]:.1f} s (notice); {record['resumed']} of 160 pages resumed"
        )
    assert leaving[0] < SIGTERM_SECONDS and leaving[1] < NOTICE_SECONDS
    assert record["resumed"] >= 20
    status, account = contract.audit(contract.view().run_id or "")
    assert (status, account["converted"], account["duplicates"]) == (0, 3, 0)


# -- what else is run -----------------------------------------------------------------------------------------------


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env=dict(os.environ) | env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_commands_are_run_as_they_are(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), sys.argv[1:]); import flows; sys.exit(7)"
    done = run(sys.executable, "-c", code, "a b", "$HOME")
    assert done.returncode == 7
    assert done.stdout.strip() == f"{ROOT} ['a b', '$HOME']"
    assert run("sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert run("no-such-command").returncode == 127
    assert run(str(ROOT / "README.md")).returncode == 126


def test_a_home_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    done = run("sh", "-c", "echo $PREFECT_HOME", PREFECT_HOME=str(file / "of-the-prefect-worker"), HOME=str(tmp_path))
    assert done.stdout.strip() == "/tmp/prefect"
    assert "cannot be written: /tmp/prefect instead" in done.stderr


@pytest.mark.parametrize("home", ["~nobody-of-this-name/x", "~/x"])
def test_a_home_of_nobody_is_replaced(home: str) -> None:
    done = run("sh", "-c", "echo $HOME", HOME=home)
    assert done.stdout.strip() == "/tmp"
    assert done.stderr == f"pdf-flows: HOME={home} cannot be written: /tmp instead\n"


def test_orphans_are_waited_for_and_signals_reach_the_command(tmp_path: Path) -> None:
    """As the first process of a container, as far as a subreaper is one."""
    script = "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen([*COMMAND, "bash", "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 5
        assert process.stdout.read() == "told\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_as_the_first_process_of_a_container(tmp_path: Path) -> None:
    """No init: signals have no default action for it, and orphans are its own."""
    marks = tmp_path / "marks"
    script = f"(setsid sleep 0.3 &) ; trap 'exit 5' TERM; echo up > {marks}; while :; do sleep 0.1; done"
    arguments = ["entrypoint", "bash", "-c", script]
    code = f"import runpy, sys; sys.argv[:] = {arguments}; runpy.run_path({str(ENTRYPOINT)!r}, run_name='__main__')"
    with subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", code]
    ) as process:
        try:
            wait_for("the command", marks.exists, 20)
            first = wait_for("the first process", lambda: children_of(process.pid, b"entrypoint"), 10)[0]
            time.sleep(0.6)
            zombies = [pid for pid in pids() if Path(f"/proc/{pid}/stat").exists() and parent_of(pid) == first]
            assert len(zombies) == 1, "the command only: the orphan was waited for"
            os.kill(first, signal.SIGTERM)
            assert process.wait(20) == 5
        finally:
            process.kill()


# -- with Prefect ---------------------------------------------------------------------------------------------------


class Flow:
    """A flow run of convert-partition on a real server, as the ECS worker would have it executed."""

    def __init__(self, api: Api, parameters: dict[str, Any]) -> None:
        self.api = api
        flow = api.post("flows/", name="convert-partition")
        deployment = api.post(
            "deployments/",
            name="image-test",
            flow_id=flow["id"],
            entrypoint="flows/convert_partition.py:convert_partition",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
            enforce_parameter_schema=False,
        )
        created = api.post(
            f"deployments/{deployment['id']}/create_flow_run", parameters=parameters, state={"type": "PENDING"}
        )
        self.id = str(created["id"])

    @property
    def state(self) -> tuple[str, str]:
        found = self.api.run(self.id)
        return found["state_type"], found["state_name"]


@pytest.fixture
def flow(contract: Contract, home: Path) -> Callable[..., Flow]:
    """Plans a run over the contract's input and makes worker 0's flow run."""

    def make() -> Flow:
        from tasks.options import options_of
        from tasks.plan import plan_run

        options = options_of(
            input=f"s3://{contract.bucket}/in",
            output=contract.output_url,
            engine="dummy",
            workers=1,
            launcher="work-pool",
        )
        spec = plan_run(options).spec
        parameters = {"runs": options.runs_url, "run_id": spec.run_id, "worker": 0, "workers": 1, "beat_seconds": 0.3}
        return Flow(Api(home), parameters)

    return make


def execute(contract: Contract, flow: Flow, **more: str) -> Container:
    """What the ECS worker puts into RunTask: the command and the variables."""
    variables = {"PREFECT_API_URL": flow.api.url, "PREFECT__FLOW_RUN_ID": flow.id, "DO_NOT_TRACK": "1"}
    # The worker hands its own PREFECT_HOME on, which no container has.
    return contract.start(
        None,
        "prefect", "flow-run", "execute",
        PREFECT_HOME=str(contract.folder / "home"), PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **variables, **more,
    )  # fmt: skip


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "how",
    [
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("twice", "notice file")),
        *(pytest.param(how, marks=pytest.mark.soak) for how in ("SIGTERM", "to a thread")),
    ],
)
def test_told_to_stop_in_a_flow_run(
    contract: Contract, flow: Callable[..., Flow], tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    contract.fill(1, LONG)
    notice = tmp_path / "notice" / "instance-action"
    made = flow()
    container = execute(contract, made, **{VARIABLE: str(notice)})
    at_page(contract, container, 0, 5)
    assert made.state == ("RUNNING", "Running")
    no_secret(contract, container)
    told = time.monotonic()
    if how == "notice file":
        write_notice(notice)
    elif how == "to a thread":
        other_thread_gets(signal.SIGTERM, worker_of(container))
    else:
        container.process.send_signal(signal.SIGTERM)
        if how == "twice":  # the host's watcher, and then ECS
            time.sleep(0.3)
            container.process.send_signal(signal.SIGTERM)
    # Exit status 0 and a final state: Prefect's observer has nothing to repair, and the supervisor launches the successor.
    assert container.wait() == 0, container.said
    seconds = time.monotonic() - told
    with capsys.disabled():
        print(f"\n{how}: the flow run was Drained and its process gone after {seconds:.1f} s")
    assert seconds < (NOTICE_SECONDS if how == "notice file" else SIGTERM_SECONDS)
    assert made.state == ("COMPLETED", "Drained")
    gave_back(contract, container, 5)
    assert SECRET not in container.said
    assert descendants(container.pid) == []
    logs = made.api.post("logs/filter", logs={"flow_run_id": {"any_": [made.id]}})
    assert logs
    assert not [line for line in logs if SECRET in line["message"]]
    assert SECRET not in str(made.api.run(made.id)["parameters"])


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_flow_run_to_its_end(contract: Contract, flow: Callable[..., Flow]) -> None:
    contract.fill(3)
    made = flow()
    container = execute(contract, made)
    assert container.wait() == 0, container.said
    assert made.state == ("COMPLETED", "Completed")
    assert len(contract.markdown()) == 3


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_terminated_before_there_is_a_flow_it_ends_at_once_and_not_with_0(
    contract: Contract, flow: Callable[..., Flow]
) -> None:
    """So that Prefect's observer marks the run Crashed, and the supervisor launches the worker again."""
    contract.fill(1)
    made = flow()
    container = execute(contract, made)
    wait_for("the command", lambda: children_of(container.pid, b"flow-run"), 20)
    container.process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    assert container.wait() not in (0, None)
    assert time.monotonic() - told < 10
    assert made.state[0] in ("PENDING", "RUNNING", "CRASHED")
    with httpx.Client() as client:
        assert client.get(f"{made.api.url}/health").status_code == 200
