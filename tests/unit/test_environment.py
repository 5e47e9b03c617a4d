"""The environment contract: what a worker without Prefect makes of its environment, and how many of them share one run."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from chaos.processes import wait_for
from conftest import MotoS3
from contract_kit import ENTRYPOINT, ROOT, Contract
from hypothesis import given
from hypothesis import strategies as st
from memory_store import MemoryStore

import tasks.joining
from deployments.rehearsal.container import can_isolate
from tasks.corpus import paths
from tasks.corpus.claims import Holder
from tasks.corpus.failure_file import FailedDocument, FailedDocuments
from tasks.corpus.failures import Category, Failure, Phase, UsageError
from tasks.corpus.ledger import Outcome
from tasks.corpus.lives import Heartbeat, Life, Process, Stage, read_fence, this_life, this_process
from tasks.corpus.runs import Identity, RunSpec, Start
from tasks.corpus.store import ObjectInfo
from tasks.environment import Contract as Variables
from tasks.environment import read_contract
from tasks.failure_mirror import FailureMirror
from tasks.joining import Living, RunHash, join_run, who_lives
from tasks.options import Options, options_of
from tasks.plan import open_stores, plan_run
from tasks.share import Predecessors
from tasks.weights import checkpoint_folder

GOOD = {
    "WORKER_ID": "0",
    "TOTAL_WORKERS": "5",
    "S3_INPUT_BUCKET": "pdfs",
    "S3_OUTPUT_BUCKET": "markdown",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Variables]:
    """Reads the contract from an environment that is good but for what is given; None: not set."""

    def read(**changes: str | None) -> Variables:
        for name in [field.upper() for field in Variables.model_fields] + ["AWS_REGION"]:
            monkeypatch.delenv(name, raising=False)
        for name, value in (GOOD | changes).items():
            if value is not None:
                monkeypatch.setenv(name, value)
        return read_contract()

    return read


# -- variables ------------------------------------------------------------------------------------------------------


def test_the_contract(setting: Callable[..., Variables]) -> None:
    found = setting(
        S3_INPUT_PREFIX="/pdfs/2025/", S3_OUTPUT_PREFIX="", MAX_RETRIES="7", OPTIONS='{"page_timeout": 300}'
    )
    assert (found.input, found.output) == ("s3://pdfs/pdfs/2025", "s3://markdown")
    options = found.run_options()
    assert (options.workers, options.retries, options.steal, options.engine) == (5, 7, False, "dolphin")
    assert options.limits.page_timeout == 300
    assert options.runs_url == "s3://markdown/_runs"
    assert setting(AWS_DEFAULT_REGION=None, AWS_REGION="eu-west-1").aws_default_region == "eu-west-1"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"WORKER_ID": None, "S3_OUTPUT_BUCKET": ""}, r"not set: WORKER_ID, S3_OUTPUT_BUCKET \(docs/image.md"),
        ({"AWS_DEFAULT_REGION": None}, r"not set: AWS_DEFAULT_REGION"),
        ({"WORKER_ID": "5"}, r"WORKER_ID=5 with TOTAL_WORKERS=5: workers are numbered from 0 to 4"),
        ({"WORKER_ID": "-1"}, r"WORKER_ID=-1: input should be greater"),
        ({"WORKER_ID": "one"}, r"WORKER_ID=one: input should be a valid integer"),
        ({"TOTAL_WORKERS": "0"}, r"TOTAL_WORKERS=0: "),
        ({"MAX_RETRIES": "-2"}, r"MAX_RETRIES=-2: "),
        ({"ENGINE": "magic"}, r"ENGINE=magic: input should be 'layout', 'dolphin' or 'dummy'"),
        ({"S3_INPUT_BUCKET": "s3://pdfs/x"}, r"S3_INPUT_BUCKET=s3://pdfs/x: only the bucket's name"),
        ({"OPTIONS": "fast"}, r"OPTIONS is no JSON object"),
        ({"OPTIONS": "[1]"}, r"OPTIONS"),
        ({"OPTIONS": '{"workers": 3}'}, r"OPTIONS: there is no option 'workers'"),
        ({"OPTIONS": '{"page_timeout": -1}'}, r"page-timeout"),
        ({"RUN_ID": "../x"}, r"bad run id"),
        (
            {"PASSWORD_FILE": "secret:mine"},
            r"PASSWORD_FILE=secret:mine: a Prefect Secret needs Prefect: a mounted file's path, or secretsmanager:NAME$",
        ),
        ({"S3_OUTPUT_BUCKET": "Capital_"}, r"not an S3 address"),
        ({"S3_OUTPUT_BUCKET": "pdfs", "S3_OUTPUT_PREFIX": "out"}, r"is inside the input"),
        ({"MAX_RETRIES": "many"}, r"MAX_RETRIES=many: input should be a valid integer"),
        ({"MAX_RETRIES": "1e3"}, r"MAX_RETRIES=1e3: "),
        ({"RUN_ID": "a/b/c"}, r"bad run id 'a/b/c'"),
        ({"OPTIONS": '{"page_timeout": NaN}'}, r"bad page-timeout"),
        ({"BEAT_SECONDS": "nan"}, r"BEAT_SECONDS=nan: "),
        ({"S3_INPUT_BUCKET": ".."}, r"not an S3 address"),
    ],
)
def test_odd_values_are_one_line(setting: Callable[..., Variables], changes: dict[str, str | None], line: str) -> None:
    with pytest.raises(UsageError, match=line) as found:
        open_stores(setting(**{"ENGINE": "dummy"} | changes).run_options())
    assert "\n" not in str(found.value)


# -- the run's id ---------------------------------------------------------------------------------------------------

IDENTITY = Identity(input="s3://a/in", output="s3://b", engine="dummy", limits={"max_pages": 3}, rendering={})
LISTING = st.lists(
    st.builds(ObjectInfo, st.text(min_size=1), st.integers(0, 1 << 40), st.text(alphabet="0123456789abcdef-")),
    max_size=6,
)


def run_id(listing: list[ObjectInfo], identity: Identity = IDENTITY, workers: int = 5) -> str:
    found = RunHash(identity, workers)
    assert list(found.through(listing)) == listing
    return found.run_id


@given(LISTING, LISTING)
def test_one_listing_one_run(one: list[ObjectInfo], other: list[ObjectInfo]) -> None:
    assert (run_id(one) == run_id(other)) == (one == other)
    assert paths.check_run_id(run_id(one)) == run_id(one)


def test_other_parameters_another_run() -> None:
    listing = [ObjectInfo("a.pdf", 1, "e")]
    others = [
        run_id(listing),
        run_id(listing, workers=6),
        run_id(listing, IDENTITY.model_copy(update={"engine": "layout"})),
        run_id(listing, IDENTITY.model_copy(update={"limits": {"max_pages": 4}})),
    ]
    assert len(set(others)) == len(others)


def folders(tmp_path: Path, documents: int = 6) -> Options:
    (tmp_path / "in").mkdir()
    for number in range(documents):
        (tmp_path / "in" / f"{number}.pdf").write_text(f"%PDF-dummy\n{number}\n")
    return options_of(
        input=str(tmp_path / "in"), output=str(tmp_path / "out"), workers=3, engine="dummy", launcher="work-pool"
    )


def test_planners_at_the_same_time_make_one_run(tmp_path: Path) -> None:
    options = folders(tmp_path)
    barrier = threading.Barrier(8)

    def join(_: int) -> RunSpec:
        stores = open_stores(options)
        barrier.wait()
        return join_run(
            options, stores, logging.getLogger("test"), sleep=lambda seconds: pytest.fail("nobody to wait for")
        )

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(join, range(8)))
    assert all(spec == found[0] for spec in found)
    assert found[0].documents == 6
    objects = [info.key for info in open_stores(options)[2].list()]
    assert objects == sorted(["_starts/000000000.json", f"{found[0].run_id}/run.json", found[0].manifest])


def test_an_input_that_changes_while_it_is_listed_is_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = folders(tmp_path)
    listed = tasks.joining._hash_of

    def hash_of(options: Options, source: Any) -> str:
        found = listed(options, source)
        if not (tmp_path / "in" / "late.pdf").exists():
            (tmp_path / "in" / "late.pdf").write_text("%PDF-dummy\n")
        return found

    monkeypatch.setattr(tasks.joining, "_hash_of", hash_of)
    spec = join_run(
        options, open_stores(options), logging.getLogger("test"), sleep=lambda seconds: pytest.fail("waits")
    )
    assert spec.documents == 7
    assert spec.run_id == listed(options, open_stores(options)[0])


# -- who lives ------------------------------------------------------------------------------------------------------

ELSEWHERE = Process(host="another-boot/pid:[1]", pid=1, started=1)
BESIDE = Process(host=f"{this_process().host.partition('/')[0]}/pid:[1]", pid=1, started=1)
"""Another container of this machine."""


ORIGINAL = "failures/worker-3-failures.json"


class World:
    """A store and a clock; what happens while somebody sleeps."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 0.0
        self.beating: set[str] = set()
        self.counter = 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.counter += 1
        for prefix in self.beating:
            self.beat(prefix, counter=self.counter)

    def beat(self, prefix: str, **more: Any) -> None:
        self.store.put(f"{prefix}heartbeat.json", Heartbeat(**more).model_dump_json().encode())

    def live(self, prefix: str, name: str, process: Process, *, beating: bool = False, **more: Any) -> str:
        life = Life(process=process, hostname="there")
        self.store.create(f"{prefix}{name}", life.model_dump_json().encode())
        self.beat(prefix, **more)
        if beating:
            self.beating.add(prefix)
        return prefix

    def worker(self, worker: int, attempt: int = 0, process: Process = ELSEWHERE, **more: Any) -> str:
        return self.live(paths.life("r", worker, attempt), "start.json", process, **more)

    def who(self, process: Process = ELSEWHERE) -> Living:
        start = Start(run_id="r", at="now", life=Life(process=process, hostname="there"))
        return who_lives(self.store, start, self.sleep, self.clock)


@pytest.fixture
def world() -> World:
    return World()


def test_nobody_lives_where_all_ended_in_order(world: World) -> None:
    world.worker(0, ended="complete")
    world.worker(1, attempt=3, ended="terminated")
    assert (world.who(), world.now) == (Living.NOBODY, 0)


def test_who_beats_lives(world: World) -> None:
    world.worker(0, ended="complete")
    world.worker(1, beating=True)
    assert world.who() is Living.WORKERS
    assert world.now < 10
    world.live(paths.parent("r", 0), "lease.json", ELSEWHERE, beating=True)
    assert world.who() is Living.PARENT


def test_who_says_nothing_for_a_minute_is_gone(world: World) -> None:
    world.worker(0)
    assert world.who() is Living.NOBODY
    assert 60 <= world.now <= 80


def test_a_process_of_this_host_needs_no_watching(world: World) -> None:
    world.worker(0, process=this_process())
    assert (world.who(), world.now) == (Living.WORKERS, 0)
    assert World().who(this_process()) is Living.WORKERS, "it is planning"
    assert World().who(this_life().process.model_copy(update={"started": 1})) is Living.NOBODY


# -- who was there before -------------------------------------------------------------------------------------------


def predecessors(world: World) -> Predecessors:
    spec = RunSpec(run_id="r", created="now", identity=IDENTITY, manifest="m", documents=10, partitions=5)
    return Predecessors(world.store, spec, sleep=world.sleep, clock=world.clock)


def test_former_lives_that_ended_are_nothing_to_wait_for(world: World) -> None:
    prefix = world.worker(2, ended="notice: going")
    assert (predecessors(world).of_worker(2), world.now) == (1, 0)
    assert read_fence(world.store, prefix) is None
    assert predecessors(world).of_worker(3) == 0


@pytest.mark.parametrize(
    ("process", "beat", "blamed"),
    [
        (ELSEWHERE, {"stage": Stage.WORKING, "in_hand": ["a.pdf"]}, False),
        (BESIDE, {"stage": Stage.WORKING, "in_hand": ["a.pdf"]}, True),
        (BESIDE, {"stage": Stage.DRAINING, "in_hand": ["a.pdf"]}, False),
        (BESIDE, {"stage": Stage.LOADING}, False),
    ],
    ids=["its machine is lost", "its machine is here", "it drained", "it had nothing in hand"],
)
def test_a_life_that_died_is_fenced_and_its_documents_blamed_only_if_it_may_be_theirs(
    world: World, process: Process, beat: dict[str, Any], blamed: bool
) -> None:
    prefix = world.worker(2, process=process, **beat)
    assert predecessors(world).of_worker(2) == 1
    assert 60 <= world.now <= 70
    fence = read_fence(world.store, prefix)
    assert fence is not None
    assert fence.blame == blamed


def test_a_worker_runs_once_at_a_time(world: World) -> None:
    world.worker(2, beating=True, stage=Stage.WORKING)
    with pytest.raises(UsageError, match=r"worker 2 of run r is at work already on there"):
        predecessors(world).of_worker(2)
    assert world.now < 10


def test_a_life_that_drains_is_waited_for(world: World) -> None:
    prefix = world.worker(2, stage=Stage.DRAINING, counter=1)
    former, ends_at = world.sleep, 50.0

    def sleep(seconds: float) -> None:
        former(seconds)
        world.beat(
            prefix, counter=world.counter, stage=Stage.DRAINING, ended="notice: x" if world.now > ends_at else None
        )

    world.sleep = sleep  # type: ignore[method-assign]
    assert predecessors(world).of_worker(2) == 1
    assert ends_at < world.now < ends_at + 10


def test_documents_in_the_hands_of_the_dead_come_free_and_of_the_living_do_not(world: World) -> None:
    dead, living = world.worker(0, process=ELSEWHERE), world.worker(1, beating=True)
    for index, worker in ((2, 0), (7, 1)):
        claim = Holder(worker=worker, attempt=0).model_dump_json().encode()
        world.store.create(paths.claim("r", 2, index, 0), claim)
    assert predecessors(world).of_documents([2, 7]) == {Holder(worker=1, attempt=0)}
    assert read_fence(world.store, dead) is not None
    assert read_fence(world.store, living) is None
    assert predecessors(world).of_documents([]) == set()


# -- the original place of failures ---------------------------------------------------------------------------------


def test_no_run_takes_another_ones_failures_away() -> None:
    place = MemoryStore("s3://b")

    def work(prefix: str, run_id: str, *failed: int) -> None:
        runs = MemoryStore(f"s3://b/{prefix}/_runs")
        spec = RunSpec(run_id=run_id, created="now", identity=IDENTITY, manifest="m", documents=10, partitions=5)
        failure = Failure(category=Category.DAMAGED, phase=Phase.CONVERT, message="x", retryable=False, attempts=1)
        entries = [
            FailedDocument(
                index=index, key="k", name="n", outcome=Outcome.FAILED, failure=failure, attempt=0, replay="r"
            )
            for index in failed
        ]
        with FailureMirror(runs, spec, 3, place, prefix, logging.getLogger("test")):
            assert FailedDocuments.model_validate_json(place.read(ORIGINAL)).failures == []
            if failed:
                file = FailedDocuments(run_id=run_id, worker=3, failures=entries)
                runs.put(paths.failures(run_id, 3), file.model_dump_json().encode())

    work("out", "a", 2, 7)
    assert len(FailedDocuments.model_validate_json(place.read(ORIGINAL)).failures) == 2
    work("out/2025", "a", 2)
    work("", "a", 2)
    work("out", "b")
    assert {info.key: len(json.loads(place.read(info.key))["failures"]) for info in place.list()} == {
        ORIGINAL: 0,
        "failures/worker-3/a.json": 1,
        "failures/worker-3/out/2025/a.json": 1,
        "failures/worker-3/out/a.json": 2,
    }


# -- whole workers --------------------------------------------------------------------------------------------------


@pytest.fixture
def contract(moto_s3: Any, tmp_path: Path) -> Iterator[Callable[..., Contract]]:
    made: list[Contract] = []

    def make(**more: Any) -> Contract:
        made.append(Contract(moto_s3, tmp_path / f"contract-{len(made)}", **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_partition_0_of_5_over_10_documents_converts_exactly_0_and_5(contract: Callable[..., Contract]) -> None:
    place = contract(workers=5)
    place.fill(10)
    first = place.start(0)
    assert first.wait() == 0, first.said
    assert place.markdown() == ["doc-000.md", "doc-005.md"]
    assert "2 documents = 2 converted + 0 skipped + 0 failed + 0 quarantined + 0 remaining" in first.said
    view = place.view()
    assert view.run_id is not None and view.run_id.startswith("env-")
    assert {claim.index for claim in view.claims()} == {0, 5}
    assert place.json("failures/worker-0-failures.json") == {
        "schema_version": 1, "run_id": view.run_id, "worker": 0, "failures": [],
    }  # fmt: skip
    # Skips what exists, ends by itself; the run is the same one, and has not come to its end.
    again = place.start(0)
    assert again.wait() == 0, again.said
    assert place.published() == {0: 1, 5: 1}
    status, account = place.audit(view.run_id)
    assert (status, account["converted"], account["remaining"], account["duplicates"]) == (1, 2, 8, 0)


@pytest.mark.soak
def test_workers_started_at_the_same_time_join_one_run_and_convert_everything_once(
    contract: Callable[..., Contract],
) -> None:
    place = contract(workers=4)
    place.fill(14, "seconds=0.1 assets=1")
    started = [place.start(worker) for worker in range(4)]
    for each in started:
        assert each.wait() == 0, each.said
    view = place.view()
    runs = {key.split("/")[2] for key in place.keys("out/_runs/") if "_starts" not in key}
    assert runs == {view.run_id}
    assert place.published() == dict.fromkeys(range(14), 1)
    assert len(place.markdown()) == 14
    assert {(life.worker, life.attempt) for life in view.lives()} == {(worker, 0) for worker in range(4)}
    assert all(claim.index % 4 == int(claim.life.partition("/")[0]) for claim in view.claims()), "nobody steals"
    status, account = place.audit(view.run_id or "")
    assert (status, account["converted"], account["remaining"], account["duplicates"]) == (0, 14, 0, 0)
    report = view.json("report.json")
    assert (report["state"], report["converted"], report["documents"]) == ("Completed", 14, 14)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_two_that_are_started_at_the_same_moment_one_works(contract: Callable[..., Contract]) -> None:
    place = contract(workers=1)
    place.fill(8, "seconds=0.5")
    twins = [place.start(0, BEAT_SECONDS="0.3") for _ in range(3)]
    statuses = sorted(twin.wait() for twin in twins)
    assert statuses == [0, 2, 2], [twin.said for twin in twins]
    for twin in twins:
        assert twin.process.returncode == 0 or "worker 0 of run" in twin.said.splitlines()[-1]
        assert twin.process.returncode == 0 or "is at work already" in twin.said.splitlines()[-1]
    assert place.published() == dict.fromkeys(range(8), 1)
    assert place.view().json("report.json")["state"] == "Completed"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_failures_are_reported_where_the_original_design_had_them(contract: Callable[..., Contract]) -> None:
    place = contract(workers=1)
    place.fill(1)
    place.fill(1, "fail=DAMAGED", start=1)
    place.fill(1, "fail=STORE retryable=yes", start=2)
    first = place.start(0, MAX_RETRIES="1")
    assert first.wait() == 1, first.said
    found = place.json("failures/worker-0-failures.json")
    run_id = place.view().run_id
    assert found["run_id"] == run_id
    assert [(each["key"], each["failure"]["category"]) for each in found["failures"]] == [
        ("doc-001.pdf", "DAMAGED"),
        ("doc-002.pdf", "STORE"),
    ]
    assert found["failures"][1]["failure"]["attempts"] == 2
    assert place.json(f"out/_runs/{run_id}/failures/worker-0-failures.json")["failures"] == found["failures"]
    assert place.audit(run_id or "")[0] == 0
    # Started again: what may pass is tried again, what is for good is not, and the status is the same.
    again = place.start(0, MAX_RETRIES="0")
    assert again.wait() == 1, again.said
    tried = [(r["index"], r["attempt"]) for r in place.view().records() if r["outcome"] == "failed"]
    assert sorted(tried) == [(1, 0), (2, 0), (2, 1)]
    asked = place.start(0, MAX_RETRIES="0", RETRY_FAILED="true")
    assert asked.wait() == 1, asked.said
    assert (1, 2) in [(r["index"], r["attempt"]) for r in place.view().records() if r["outcome"] == "failed"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_that_is_named_and_one_that_is_another(contract: Callable[..., Contract]) -> None:
    place = contract(workers=2)
    place.fill(3)
    named = place.start(0, RUN_ID="monday")
    assert named.wait() == 0, named.said
    assert place.view().run_id == "monday"
    other = place.start(1, RUN_ID="monday", TOTAL_WORKERS="3")
    assert other.wait() == 2, other.said
    assert "run monday can't be joined with other parameters: TOTAL_WORKERS was 2, now 3" in other.said
    assert "Traceback" not in other.said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_joins_the_living_though_the_input_changed_meanwhile(contract: Callable[..., Contract]) -> None:
    place = contract(workers=2)
    place.fill(8, "seconds=6")
    first = place.start(0)
    wait_for("a document", place.markdown)
    place.fill(1, start=8)
    second, twin = place.start(1), place.start(0)
    assert twin.wait() == 2, twin.said
    assert "is at work already" in twin.said
    assert first.wait() == 0, first.said
    assert second.wait() == 0, second.said
    assert "The input changed since run" in second.said
    assert place.published() == dict.fromkeys(range(8), 1)
    status, account = place.audit(place.view().run_id or "")
    assert (status, account["documents"]) == (0, 8)
    # Started once more: the new document, and nothing else.
    for worker in range(2):
        later = place.start(worker)
        assert later.wait() == 0, later.said
    assert len(place.markdown()) == 9
    assert place.published() == {8: 1}


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.skipif(not can_isolate(), reason="no pid namespaces here")
def test_a_parent_does_not_begin_beside_a_worker_of_another_machine(contract: Callable[..., Contract]) -> None:
    """Who made the run has ended, and was of this machine: what goes on is only seen by its heartbeat."""
    place = contract(workers=2)
    place.fill(1)
    place.fill(1, "seconds=30", start=1)
    first = place.start(0)
    assert first.wait() == 0, first.said
    second = place.start(1, elsewhere=True)
    wait_for("its heartbeat", lambda: [life for life in place.view().lives() if life.worker == 1 and life.beat])
    run_id = place.view().run_id
    options = options_of(input=f"s3://{place.bucket}/in", output=place.output_url, engine="dummy", workers=1)
    with pytest.raises(
        UsageError, match=r"another run \(env-\w+\) is converting into this output .* \(its worker 1, on "
    ):
        plan_run(options)
    assert second.wait() == 0, second.said
    assert plan_run(options).spec.run_id != run_id, "nobody is left to wait for"


def test_nothing_to_do_is_one_line(contract: Callable[..., Contract]) -> None:
    place = contract(workers=2)
    for worker, more, line in (
        (2, {}, "WORKER_ID=2 with TOTAL_WORKERS=2: workers are numbered from 0 to 1"),
        (None, {}, "nothing to do: give a command"),
        (0, {}, "no PDFs (*.pdf) in s3://"),
    ):
        done = place.start(worker, **more)
        assert done.wait() == 2
        assert len(done.said.splitlines()) == 1, done.said
        assert line in done.said


# -- the image ------------------------------------------------------------------------------------------------------

DOCKERFILE = ROOT / "worker_image" / "Dockerfile"


def instructions() -> list[str]:
    """The Dockerfile's, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_weights_are_fetched_with_only_what_the_image_copies_before_the_project(tmp_path: Path) -> None:
    copied = [
        line.split()[1:]
        for line in instructions()
        if line.startswith("COPY") and line.split()[-1].startswith("/opt/fetch/")
    ]
    for *sources, target in copied:
        folder = tmp_path / target.removeprefix("/opt/fetch/")
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copy(ROOT / source, folder)
    done = subprocess.run(
        [sys.executable, "fetch_weights.py", str(tmp_path / "nowhere")],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "PYTHONSAFEPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no such folder, and neither a Hugging Face id nor s3://bucket/prefix" in done.stderr


def test_a_model_from_s3_is_fetched_where_the_images_own_folder_cannot_be_written(
    moto_s3: MotoS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the image $PDF_FLOWS_MODELS is root's: whoever works there keeps what is fetched in its cache, and finds it again."""
    bucket = moto_s3.new_bucket().removeprefix("s3://")
    for name, data in (("config.json", b"{}"), ("model.safetensors", b"weights")):
        moto_s3.client.put_object(Bucket=bucket, Key=f"tiny/{name}", Body=data)
    (tmp_path / "file").touch()
    monkeypatch.setenv("PDF_FLOWS_MODELS", str(tmp_path / "file" / "models"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = checkpoint_folder(f"s3://{bucket}/tiny")
    assert found.parent == tmp_path / "cache" / "pdf-flows" / "models"
    assert (found / "model.safetensors").read_bytes() == b"weights"
    assert checkpoint_folder(f"s3://{bucket}/tiny", verify=True) == found
    # What is there already is taken from the first folder that has it, and new ones go there if they can.
    monkeypatch.setenv("PDF_FLOWS_MODELS", str(tmp_path / "own"))
    assert checkpoint_folder(f"s3://{bucket}/tiny") == found
    moto_s3.client.put_object(Bucket=bucket, Key="tiny/model.safetensors", Body=b"newer")
    newer = checkpoint_folder(f"s3://{bucket}/tiny")
    assert (newer.parent, (newer / "model.safetensors").read_bytes()) == (tmp_path / "own", b"newer")


def test_what_the_image_promises() -> None:
    found = instructions()
    last = max(i for i, line in enumerate(found) if line.startswith("FROM"))
    assert "USER 10001:10001" in found[last:]
    assert {"STOPSIGNAL SIGTERM", "HEALTHCHECK NONE", 'VOLUME ["/tmp"]'} <= set(found[last:])
    entry = next(line for line in found if line.startswith("ENTRYPOINT"))
    assert json.loads(entry.removeprefix("ENTRYPOINT "))[-1] == f"/opt/pdf-flows/{ENTRYPOINT.relative_to(ROOT)}"
    copies = [line for line in found if line.startswith(("COPY", "ADD"))]
    # The project comes last, behind everything that takes long to make; nothing copies the whole context.
    assert found.index("COPY tasks tasks") > max(i for i, line in enumerate(found) if "install.sh extras" in line)
    assert not [line for line in copies if line.split()[1] in (".", "./")]
    names = re.findall(r"\b([A-Z][A-Z0-9_]+)=", " ".join(line for line in found if line.startswith(("ARG", "ENV"))))
    assert not [name for name in names if re.search(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|API_KEY|AUTH", name)]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored, "what nobody thought of is not sent"
