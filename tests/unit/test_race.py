"""Eight workers that want the same documents publish each of them once; a store with plain overwrites fails that check."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import MotoS3
from lives_kit import Case, Cases, cases, documents

from tasks.corpus.runs import RunSpec
from tasks.worker import Summary, Worker

WORKERS = 8


@pytest.fixture
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cases]:
    with cases(monkeypatch) as make:
        yield make


def race(case: Case, spec: RunSpec, workers: int = WORKERS) -> list[Summary]:
    """All workers have the same number, hence the same partitions, and begin at the same instant."""
    gate = threading.Barrier(workers)

    class AtOnce(Worker):
        def _work(self) -> None:
            gate.wait(60)
            super()._work()

    def life(_: int) -> Summary:
        return case.live(spec, gone=False, make=AtOnce, engine_options={"seconds": 0.01, "assets": 1})

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(life, range(workers)))


def check(case: Case, spec: RunSpec, lives: list[Summary]) -> None:
    """Once, by the stores' own evidence, by the audit's and by what the workers say."""
    account = case.check_published_once(spec)
    told = [(r.index, r.worker, r.attempt, str(r.outcome), str(r.published_by)) for r in case.records(spec)]
    assert sum(life.converted for life in lives) == account.documents, sorted(told)
    assert len({life.attempt for life in lives}) == len(lives)


@pytest.mark.parametrize("mutant", [False, True])
def test_folders(new_case: Cases, mutant: bool) -> None:
    """Real sandboxes, real processes for the engines; the mutant proves that this can fail."""
    case = new_case(documents(60 if not mutant else 24), real=not mutant, mutant=mutant)
    spec = case.plan(workers=4).spec
    lives = race(case, spec)
    if not mutant:
        check(case, spec, lives)
        assert sum(life.converted > 0 for life in lives) > 1
        return
    with pytest.raises(AssertionError, match="published twice"):
        check(case, spec, lives)
    assert case.account(spec).duplicates > 0
    assert not case.account(spec).closes


@pytest.mark.parametrize("mutant", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_s3(new_case: Cases, moto_s3: MotoS3, mutant: bool) -> None:
    case = new_case(documents(6), bucket=moto_s3.new_bucket(), mutant=mutant)
    spec = case.plan(workers=2).spec
    lives = race(case, spec)
    if not mutant:
        check(case, spec, lives)
        return
    # The lives of the mutant share numbers and so overwrite each other's ledgers: what the bucket saw is the evidence.
    with pytest.raises(AssertionError, match=r"published twice|created more than once"):
        check(case, spec, lives)


def test_stealing_shares_the_work_of_a_slow_worker(new_case: Cases) -> None:
    """Worker 1 of 2 has nothing to do but what worker 0 has not got to yet; nothing is done twice."""
    case = new_case(documents(30))
    spec = case.plan(workers=1).spec

    def life(worker: int) -> Summary:
        return case.live(spec, gone=False, worker=worker, workers=2, engine_options={"seconds": 0.02})

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(life, range(2))
    assert first.converted + second.converted == case.check_published_once(spec).documents
    assert second.converted > 5
    # "To do or done, as far as the life knows": each may end while the other one has its last documents in hand.
    assert 30 <= first.assigned + second.assigned <= 36


def test_without_stealing_a_worker_keeps_to_its_partitions(new_case: Cases) -> None:
    case = new_case(documents(9))
    spec = case.plan(workers=3).spec
    assert case.live(spec, worker=1, workers=3, steal=False).converted == 3
    assert {record.index % 3 for record in case.records(spec)} == {1}
    assert case.account(spec).remaining == 6
