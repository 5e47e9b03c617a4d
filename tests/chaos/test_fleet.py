"""A fleet under way: notices, signals, suspects, scaling, budget, deadline, canary, two parents (DESIGN section 4, 3 to 6 and 8).

Seconds are measured where the objects of the run tell them, printed, and asserted with room for a busy machine.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.api import Api
from chaos.harness import Command, Place, can_unshare, make_documents, wrong_outputs
from chaos.notices import Notices
from chaos.processes import LAUNCH_SECONDS, documents_in_hand, kill, wait_for
from chaos.seen import RunView, SeenLife

MakePlace = Callable[..., Place]
NOTICE_SECONDS = 90.0
"""A worker has left by then, of the two minutes that its machine has."""
SIGTERM_SECONDS = 30.0
"""What Prefect leaves a worker."""
HAND_OVER_SECONDS = 60.0
"""From the end of a worker to its successor's first page, on a machine that has other things to do."""


def life(view: RunView, worker: int, launch: int, beaten: Callable[[SeenLife], bool] = lambda life: True) -> SeenLife:
    """Wait for a launch's life to say something."""

    def look() -> SeenLife | None:
        found = view.life(worker, launch)
        return found if found is not None and found.beat and beaten(found) else None

    return wait_for(f"worker {worker}, launch {launch}", look, LAUNCH_SECONDS, pause=0.1)


def at_work(view: RunView, count: int, command: Command) -> None:
    """Wait until so many documents are published."""
    wait_for(
        f"{count} documents",
        lambda: sum(r["outcome"] == "intent" for r in view.records()) >= count or not command.running,
        pause=0.1,
    )
    assert command.running, command.said


def all_once(place: Place, command: Command, documents: int, assets: int) -> None:
    """Everything is there once, the accounts close, nothing is left."""
    result = command.result()
    assert (result["documents"], result["remaining"], result["duplicates"]) == (documents, 0, 0), result
    assert (result["failed"], result["quarantined"]) == (0, 0), result
    assert "Traceback" not in command.said, command.said
    assert wrong_outputs(place.input, place.output, assets) == []
    account = place.audit()
    assert account["converted"] + account["skipped"] == documents
    published = [r["index"] for r in place.view().records() if r["outcome"] in ("converted", "recovered")]
    assert len(published) == len(set(published)) == documents
    assert place.left_over() == {}


# -- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_seconds_from_the_loss_of_a_worker_to_its_successors_first_page(
    place: Place, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # More than a slow machine's workers convert while another one starts.
    make_documents(place.input, 240, "seconds=0.4 assets=1")
    notices = Notices(place.folder / "notices")
    command = place.convert(**notices.environment)
    view = place.view()
    at_work(view, 4, command)
    figures: dict[str, list[float]] = {"notice": [], "SIGKILL": []}

    for launch in range(2):
        lost = life(view, 0, launch, lambda life: life.beat["converted"] > 0)
        notices.give(0, launch)
        told = time.time()
        drained = life(view, 0, launch, lambda life: bool(life.ended))
        assert drained.ended.startswith("notice: "), drained
        assert time.time() - told < NOTICE_SECONDS
        assert drained.fence is None
        figures["notice"].append(first_page(view, 0, launch + 1) - told)
        assert lost.name != drained.name or lost.beat["counter"] < drained.beat["counter"]

        victim = life(view, 1, launch, lambda life: life.beat["converted"] > 0)
        assert kill(victim.start["process"]["pid"])
        killed = time.time()
        figures["SIGKILL"].append(first_page(view, 1, launch + 1) - killed)
        fence = view.life(1, launch)
        assert fence is not None
        assert fence.fence is not None
        assert fence.fence["blame"]

    assert command.wait() == 0, command.said
    with capsys.disabled():
        for what, seconds in figures.items():
            print(f"\nfrom {what} to the successor's first page: {', '.join(f'{s:.1f}' for s in seconds)} s", end="")
        print()
    assert max(figures["notice"] + figures["SIGKILL"]) < HAND_OVER_SECONDS, figures
    all_once(place, command, 240, 1)
    states = {run["name"].partition("-worker-")[2]: run["state_name"] for run in Api(home).workers(view.run_id or "")}
    # A launch's number stands behind its worker's, but for the first one.
    assert [states.pop(name) for name in ("0", "0-launch-1")] == ["Drained"] * 2
    assert [states.pop(name) for name in ("1", "1-launch-1")] == ["Crashed"] * 2
    assert set(states.values()) == {"Completed"}


def first_page(view: RunView, worker: int, launch: int) -> float:
    """When the launch's first page was done, seconds since 1970."""
    found = life(view, worker, launch)
    return wait_for(f"the first page of {found.name}", lambda: view.first_page(found.name), pause=0.1)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_long_document_survives_two_notices_and_a_sigterm(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    # Over a minute of work, so that its pages are kept; it is the heaviest by its script's length, and so the first.
    make_documents(place.input, 1, "pages=124 seconds=0.5 assets=1")
    make_documents(place.input, 5, "seconds=0.2 assets=1", start=1)
    notices = Notices(place.folder / "notices")
    command = place.convert("--workers", "1", **notices.environment)
    view = place.view()
    page, leaving = 0, []
    for launch in range(3):
        found = life(view, 0, launch, lambda life, page=page: (life.beat["page"] or 0) >= page + 8)
        assert (found.beat["page"] or 0) >= page, "it began anew"
        page = found.beat["page"]
        told = time.monotonic()
        if launch < 2:
            # With 35 s to go 5 s are for work: the rest of the document does not fit into them.
            notices.give(0, launch, seconds=35)
        else:
            assert kill(found.start["process"]["pid"], signal.SIGTERM)
        drained = life(view, 0, launch, lambda life: bool(life.ended))
        leaving.append(time.monotonic() - told)
        assert drained.ended.startswith("notice: " if launch < 2 else "terminated"), drained
        assert drained.fence is None
        assert leaving[-1] < (NOTICE_SECONDS if launch < 2 else SIGTERM_SECONDS)
    # Never a suspect: nobody died.
    assert command.wait() == 0, command.said
    all_once(place, command, 6, 1)
    claims = [claim for claim in view.claims() if claim.index == 0]
    assert [(claim.released, claim.alone) for claim in claims] == [(True, False)] * 3 + [(False, False)]
    record = next(r for r in view.records() if r["index"] == 0 and r["outcome"] == "converted")
    assert record["resumed"] >= page
    assert record["pages"] == 124
    assert view.keys("checkpoints/") == []
    with capsys.disabled():
        print(
            f"\nleft after {', '.join(f'{s:.1f}' for s in leaving)} s (notice, notice, SIGTERM); {record['resumed']} of 124"
            f" pages resumed, the last life worked {record['seconds']['engine']:.1f} s"
        )


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_killed_workers_long_document_goes_on_at_the_first_missing_page(
    place: Place, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pages, seconds = 220, 0.5
    make_documents(place.input, 1, f"pages={pages} seconds={seconds} assets=1")
    command = place.convert("--workers", "1")
    view = place.view()
    wait_for("a checkpoint", lambda: view.keys("checkpoints/") or not command.running, 240, pause=0.2)
    time.sleep(random.Random(seed).uniform(1, 25))
    killed = life(view, 0, 0)
    assert kill(killed.start["process"]["pid"])
    begun = killed.beat["page"]
    assert command.wait() == 0, command.said
    all_once(place, command, 1, 1)
    record = next(r for r in view.records() if r["outcome"] == "converted")
    # The page that the last heartbeat named was in hand; the next heartbeat would have come 2 s later.
    repeated = begun - 1 - record["resumed"]
    with capsys.disabled():
        print(
            f"\nkilled on page {begun} of {pages}: {record['resumed']} resumed, {repeated} ({repeated * seconds:.0f} s) and the"
            f" page in hand repeated; the last life worked {record['seconds']['engine']:.1f} s"
        )
    assert 0 <= repeated * seconds <= 60
    assert record["seconds"]["engine"] < (pages - record["resumed"]) * seconds + 15


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_after_a_rebalance_recommendation_no_long_document_is_begun(place: Place) -> None:
    make_documents(place.input, 20, "seconds=0.3 assets=1")
    make_documents(place.input, 3, "seconds=0.3 assets=1", start=20)
    for number in range(20, 23):
        with (place.input / f"doc-{number:03}.pdf").open("a") as file:
            file.write("x" * 2_000_000)  # at the pace of the others: hours
    notices = Notices(place.folder / "notices")
    notices.rebalance(0, 0)
    # The sample is of the light ones, so that the worker has a pace before it comes to the heavy ones.
    command = place.convert("--workers", "1", "--canary", "3", **notices.environment)
    assert command.wait() == 0, command.said
    view = place.view()
    first, second = view.life(0, 0), view.life(0, 1)
    assert first is not None and second is not None, view.lives()
    assert "long documents left to others" in first.ended
    holders = {claim.index: claim.life for claim in view.claims()}
    assert [holders[index] for index in range(20, 23)] == [second.name] * 3
    assert {holders[index] for index in range(20)} == {first.name}
    all_once(place, command, 23, 1)


# -- poison ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_document_that_workers_die_with_runs_alone_and_is_quarantined_if_it_kills_that_one_too(place: Place) -> None:
    # Heaviest first: the victim, then the others.
    make_documents(place.input, 2, "seconds=2.5 assets=1 text_bytes=100")
    make_documents(place.input, 6, "seconds=0.3 assets=1", start=2)
    victim = (place.input / "doc-000.pdf").read_text()
    command = place.convert("--workers", "1")
    view = place.view()
    for death in range(3):
        found = life(view, 0, death)

        def in_hand(found: SeenLife = found) -> bool:
            children = [child for child in command.sandboxes() if victim in documents_in_hand(child)]
            return bool(children) and view.life(0, found.launch or 0) is not None

        wait_for("the victim in hand", in_hand, pause=0.02)
        if death == 2:
            newest = max((claim for claim in view.claims() if claim.index == 0), key=lambda claim: claim.n)
            assert (newest.n, newest.alone) == (2, True)
            others = [claim for claim in view.claims() if claim.life == newest.life and claim.index != 0]
            settled = {r["index"] for r in view.records(newest.life) if r["outcome"] != "intent"}
            assert {claim.index for claim in others} <= settled, "it does not run alone"
        assert kill(found.start["process"]["pid"])
    assert command.wait() == 1, command.said
    result = command.result()
    assert (result["converted"], result["quarantined"], result["remaining"]) == (7, 1, 0), result
    assert "workers died with it in hand, the last one with nothing else" in command.said
    claims = view.claims()
    # A life that begins with it has nothing else in hand: nobody was taken for a suspect with it.
    assert {claim.index for claim in claims if claim.alone} == {0}, claims
    outcomes = {r["index"]: r["outcome"] for r in view.records() if r["outcome"] not in ("intent", "released")}
    assert outcomes == {0: "quarantined"} | dict.fromkeys(range(1, 8), "converted")
    assert place.audit()["quarantined"] == 1
    assert place.left_over() == {}


# -- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_scaled_up_down_to_nothing_and_up_again(place: Place) -> None:
    make_documents(place.input, 200, "seconds=0.5 assets=1")
    command = place.convert("--workers", "1")
    view = place.view()
    at_work(view, 2, command)

    def scale(workers: int) -> None:
        asked = place.call("scale", place.output_url, str(workers))
        assert asked.returncode == 0, asked.stderr
        wait_for(f"{workers} workers", lambda: len(command.workers()) == workers, 60)

    scale(3)
    wait_for("three lives", lambda: len([life for life in view.lives() if life.beat.get("converted")]) == 3)
    scale(1)
    scale(0)
    done = len(list(place.output.glob("*.md")))
    time.sleep(5)
    assert command.running, command.said
    assert len(list(place.output.glob("*.md"))) == done < 200
    assert all(not life.ended or "scaled to" in life.ended or "the parent stops" in life.ended for life in view.lives())
    scale(3)
    assert command.wait() == 0, command.said
    assert {life.worker for life in view.lives()} == {0, 1, 2}
    assert all(life.fence is None for life in view.lives())
    all_once(place, command, 200, 1)
    late = place.call("scale", place.output_url, "2")
    assert late.returncode == 2
    assert "is over" in late.stderr


# -- money, time, canary --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_budget_stops_the_run_before_it_is_spent_and_a_larger_one_goes_on(place: Place) -> None:
    make_documents(place.input, 20, "seconds=0.5 assets=1")
    # A dollar a second. What cannot be called back is a stop's way to the worker, its patience and its drain: 301 s; and a
    # machine costs a minute at least. So this is enough to begin with, and at the first look not to go on with.
    first = place.convert("--workers", "1", "--price", "3600", "--budget", "350")
    assert first.wait() == 3, first.said
    result = first.result()
    assert result["converted"] < 20, result
    assert "stopped: budget: $" in first.said
    # On a busy machine the first look may come before the first document, whose pace it takes to tell.
    assert "what is left would cost about $" in first.said or not result["converted"]
    assert "a larger --budget goes on" in first.said
    view = place.view()
    spend = view.json("spend/spend.json")
    assert spend is not None
    report = view.json("report.json")
    assert report["state"] == "Stopped"
    assert 0 < report["money"]["spent"] <= report["money"]["budget"] == 350
    assert place.audit()["remaining"] == result["remaining"]

    again = place.convert("--workers", "2", "--price", "3600", "--budget", "2000")
    assert again.wait() == 0, again.said
    all_once(place, again, 20, 1)
    assert len(place.run_ids()) == 1
    money = view.json("report.json")["money"]
    assert report["money"]["spent"] < money["spent"] <= 2000, "what was spent before counts"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_deadline_that_is_too_near_starts_nobody(place: Place) -> None:
    make_documents(place.input, 10, "seconds=0.2 assets=1")
    near = place.convert("--deadline", "5s")
    assert near.wait() == 3, near.said
    assert "deadline" in near.said
    assert near.result()["converted"] == 0
    assert place.view().lives() == []
    without = place.convert()
    assert without.wait() == 0, without.said
    all_once(place, without, 10, 1)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_deadline_stops_claiming(place: Place) -> None:
    make_documents(place.input, 60, "seconds=1 assets=1")
    begun = time.monotonic()
    first = place.convert("--workers", "1", "--deadline", "36s")
    assert first.wait() == 3, first.said
    assert "the deadline of" in first.said
    assert time.monotonic() - begun < 36 + 40
    assert 0 < first.result()["converted"] < 60
    without = place.convert("--workers", "3")
    assert without.wait() == 0, without.said
    all_once(place, without, 60, 1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_canary_that_fails_stops_the_run_with_its_figures(place: Place) -> None:
    make_documents(place.input, 20, "fail=DAMAGED retryable=yes")  # tried again: it takes seconds
    command = place.convert("--workers", "3", "--canary", "5")
    assert command.wait() == 3, command.said
    assert "stopped: canary: " in command.said
    assert "failed" in command.said.splitlines()[-1]
    view = place.view()
    assert {life.worker for life in view.lives()} == {0}
    report = view.json("report.json")
    assert report["state"] == "Stopped"
    assert report["why"].startswith("canary: ")
    assert report["remaining"] > 0
    assert place.left_over() == {}


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_canary_that_sings_lets_the_others_in(place: Place) -> None:
    make_documents(place.input, 30, "seconds=0.4 assets=1")
    command = place.convert("--workers", "3", "--canary", "5")
    view = place.view()
    wait_for("the canary", lambda: "canary passed: " in command.said or not command.running)
    before = {life.worker for life in view.lives()}
    assert command.wait() == 0, command.said
    assert before == {0}
    assert {life.worker for life in view.lives()} == {0, 1, 2}
    all_once(place, command, 30, 1)


# -- two parents ----------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_parent_that_was_frozen_leaves_the_run_to_the_one_that_took_it_over(
    place: Place, home: Path, seed: int
) -> None:
    """On one host a frozen parent is seen to live: so the second one comes from another, as far as pids can tell."""
    if not can_unshare():
        pytest.skip("no pid namespace can be made here")
    make_documents(place.input, 60, "seconds=4 assets=1")
    first = place.convert()
    view = place.view()
    at_work(view, 4, first)
    # Wherever it is in its loop.
    time.sleep(random.Random(seed).uniform(0, 2))
    assert kill(first.pid, signal.SIGSTOP)
    api = json.loads((home / "server.json").read_bytes())["url"]
    second = place.convert(elsewhere=True, PREFECT_API_URL=api)
    frozen = time.monotonic()
    wait_for("another parent", lambda: "1/lease.json" in view.keys("parent/") or not second.running, 120, pause=0.5)
    assert second.running, second.said
    assert time.monotonic() - frozen > 55
    wait_for(
        "lives of the second", lambda: [x for x in view.lives() if x.start["epoch"] == 1 and x.beat], 60, pause=0.5
    )
    assert kill(first.pid, signal.SIGCONT)
    assert first.wait(60) == 3, first.said
    assert "another parent took the run over" in first.said
    assert second.wait(240) == 0, second.said
    fenced = {x.start["epoch"] for x in view.lives() if x.fence is not None}
    assert fenced <= {0}, view.lives()
    assert second.result()["documents"] == 60
    assert place.audit()["converted"] == 60
    assert wrong_outputs(place.input, place.output, 1) == []
    assert place.left_over() == {}
