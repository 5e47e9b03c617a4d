"""Publishing survives everything: deaths, failures, lost responses and full disks at every single call to a store."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from conftest import MotoS3
from lives_kit import Case, Cases, Death, Faults, Kind, cases, documents, ends_somehow, fence_all

from tasks.corpus.failures import StoreError
from tasks.corpus.ledger import Outcome
from tasks.corpus.runs import RunSpec

TWO = documents(1, "pages=2", figures="assets=2")
"""One document with assets and one without."""


@pytest.fixture
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cases]:
    with cases(monkeypatch) as make:
        yield make


def finish(case: Case, spec: RunSpec, epoch: int = 1) -> None:
    """The run's next start: whoever is left is fenced, then a fresh life without faults."""
    fence_all(case, spec)
    case.live(spec, epoch=epoch)


def dangling_links(case: Case, name: str) -> list[str]:
    """Links of the Markdown at `name` to assets that are not there."""
    linked = re.findall(r"[\w.]+\.assets/[0-9a-f]{64}\.txt", case.output.read(name).decode())
    assert linked or name != "figures.md"
    return [key for key in linked if case.output.head(key) is None]


@pytest.mark.parametrize(
    ("kind", "width"),
    [
        *((kind, 1) for kind in Kind),
        *(pytest.param(kind, 3, marks=pytest.mark.slow) for kind in (Kind.FAIL, Kind.LOST, Kind.FULL)),
    ],
)
def test_whatever_happens_at_any_call_the_next_life_completes_the_run(new_case: Cases, kind: Kind, width: int) -> None:
    at, recovered = 0, 0
    while True:
        case = new_case(TWO)
        spec = case.plan().spec
        faults = Faults(at=at, kind=kind, width=width)
        ends_somehow(lambda case=case, spec=spec, faults=faults: case.live(spec, faults=faults))
        if not faults.hit:
            break
        between = case.account(spec)
        assert between.duplicates == 0, (at, faults.calls[-1])
        assert between.converted + between.failed + between.remaining == between.documents, (at, faults.calls[at])
        finish(case, spec)
        account = case.check_published_once(spec)
        recovered += account.recovered
        for name in case.publications.by_name:
            assert dangling_links(case, name) == []
        at += 1
    assert at >= 20
    if kind is Kind.DIE_AFTER:
        assert recovered > 0


@pytest.mark.parametrize("kind", [Kind.FAIL, Kind.LOST, Kind.FULL, Kind.UNHEARD])
def test_a_passing_failure_of_the_store_needs_no_second_life_while_documents_are_in_hand(
    new_case: Cases, kind: Kind
) -> None:
    def published(store: str, method: str, key: str) -> bool:
        return store == "output" and method == "create"

    for at in range(4):
        case = new_case(TWO)
        spec = case.plan().spec
        case.live(spec, faults=Faults(at=at, kind=kind, match=published))
        account = case.check_published_once(spec)
        assert account.converted == 2


@pytest.mark.parametrize("at", range(6))
def test_the_store_fails_for_good_and_recovers(new_case: Cases, at: int) -> None:
    """Longer than all retries: some lives end with StoreError, documents fail as STORE; the next start mends all of it."""
    case = new_case(documents(4))
    spec = case.plan().spec
    error = ends_somehow(lambda: case.live(spec, faults=Faults(at=10 * at, kind=Kind.FAIL, width=10**6)))
    assert error is None or isinstance(error, StoreError)
    finish(case, spec)
    case.check_published_once(spec)


@pytest.mark.parametrize(
    ("point", "kind", "recovered"),
    [
        ("assets are there, no intent", Kind.DIE_BEFORE, 0),
        ("the intent is there, no Markdown", Kind.DIE_AFTER, 0),
        ("before the Markdown", Kind.DIE_BEFORE, 0),
        ("after the Markdown, no outcome", Kind.DIE_AFTER, 1),
    ],
)
def test_deaths_around_the_markdown(new_case: Cases, point: str, kind: Kind, recovered: int) -> None:
    def match(store: str, method: str, key: str) -> bool:
        if "Markdown" in point and "intent" not in point:
            return store == "output" and method == "create" and key.endswith(".md")
        return store == "runs" and method == "create" and "ledger-" in key

    case = new_case({"one.pdf": b"%PDF-dummy assets=1\n"})
    spec = case.plan().spec
    faults = Faults(at=0, kind=kind, match=match)
    assert isinstance(ends_somehow(lambda: case.live(spec, faults=faults)), Death)
    assert any(".assets/" in info.key for info in case.output.list(skip="_runs/"))
    assert [info.key for info in case.output.list() if info.key.endswith(".md")] == ["one.md"] * recovered
    # The audit knows before any other life looked.
    assert (case.account(spec).converted, case.account(spec).recovered) == (recovered, recovered)
    finish(case, spec)
    account = case.check_published_once(spec)
    assert account.recovered == recovered
    if recovered:
        last = case.records(spec)[-1]
        assert last.outcome is Outcome.RECOVERED
        assert last.published_by == (0, 0)
        assert last.pages == 1


def test_deaths_again_and_again_complete_the_run_in_the_end(new_case: Cases) -> None:
    case = new_case(documents(12, "assets=1"))
    spec = case.plan().spec
    lives = 0
    while case.account(spec).remaining:
        # Each life dies a little later than it takes to get anything done at all.
        faults = Faults(at=40 + 25 * lives, kind=list(Kind)[lives % 2])
        ends_somehow(lambda faults=faults: case.live(spec, faults=faults))
        lives += 1
        assert lives < 40
    assert lives > 2
    case.check_published_once(spec)


SLOW_ON_S3 = (Kind.DIE_BEFORE, Kind.FAIL, Kind.FULL, Kind.LOST)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW_ON_S3 else []) for kind in Kind]
)
def test_s3_whatever_happens_while_publishing(new_case: Cases, moto_s3: MotoS3, kind: Kind) -> None:
    def match(store: str, method: str, key: str) -> bool:
        return store == "output" and method in ("create", "metadata")

    case = new_case({}, bucket=moto_s3.new_bucket())
    at = 0
    while True:
        case.put({f"{at}.pdf": b"%PDF-dummy assets=1\n"})
        spec = case.plan().spec
        faults = Faults(at=at, kind=kind, match=match)
        ends_somehow(lambda spec=spec, faults=faults: case.live(spec, faults=faults))
        if not faults.hit:
            break
        finish(case, spec)
        case.check_published_once(spec)
        for info in [*case.source.list()]:
            case.source.delete(info.key)
        for name in case.publications.by_name:
            case.output.delete(name)
        case.publications.by_name.clear()
        at += 1
    assert at >= 2


def test_s3_knows_its_own_object_by_its_metadata(new_case: Cases, moto_s3: MotoS3) -> None:
    """The backend's own retry met its own object: the life says converted, nobody needs to recover anything."""
    case = new_case(documents(1), bucket=moto_s3.new_bucket())
    spec = case.plan().spec
    faults = Faults(at=0, kind=Kind.UNHEARD, match=lambda store, method, key: store == "output" and key.endswith(".md"))
    # The first call on the Markdown's key is the look whether it exists; the second puts it.
    faults.at = 1
    assert case.live(spec, faults=faults).converted == 1
    assert faults.calls.count(("output", "metadata", "d000.md")) == 1
    assert case.check_published_once(spec).recovered == 0


def test_somebody_elses_output_is_skipped(new_case: Cases) -> None:
    """It came after planning, before publishing: another program's, not this run's."""
    case = new_case(documents(2))
    spec = case.plan().spec

    def intrude(store: str, method: str, key: str) -> None:
        if (store, method, key) == ("output", "create", "d001.md"):
            case.output.put("d001.md", b"by hand")

    summary = case.live(spec, faults=Faults(on_call=intrude))
    assert (summary.converted, summary.skipped) == (1, 1)
    account = case.account(spec)
    assert (account.converted, account.skipped, account.closes) == (1, 1, True)
    assert case.output.read("d001.md") == b"by hand"


def test_a_zombies_publication_is_its_own_and_no_duplicate(new_case: Cases) -> None:
    """The zombie's PUT fails before it arrives, a successor publishes the same content, the zombie tries again."""
    case = new_case(documents(1))
    spec = case.plan().spec
    puts: list[str] = []

    def before_second_put(store: str, method: str, key: str) -> None:
        if (store, method, key) == ("output", "create", "d000.md"):
            puts.append(key)
            if len(puts) == 2:
                fence_all(case, spec)
                # In the zombie's own thread, which has stores without faults.
                case.live(spec, worker=1, workers=2)

    zombie = Faults(
        at=0,
        kind=Kind.FAIL,
        match=lambda store, method, key: method == "create" and key == "d000.md",
        on_call=before_second_put,
    )
    case.live(spec, faults=zombie, gone=False)
    assert len(puts) == 2
    account = case.check_published_once(spec)
    assert account.converted == 1
    converted = [record for record in case.records(spec) if record.outcome is Outcome.CONVERTED]
    assert [record.worker for record in converted] == [1]


def test_every_link_leads_to_its_asset(new_case: Cases) -> None:
    """Placeholders that begin others (asset-1, asset-10), and a document whose name is one."""
    case = new_case({"asset-1.pdf": b"%PDF-dummy assets=12\n"})
    spec = case.plan().spec
    case.live(spec)
    case.check_published_once(spec)
    text = case.output.read("asset-1.md").decode()
    linked = re.findall(r"!\[\]\((.*)\)", text)
    assert [case.output.read(key).split()[:2] for key in linked] == [[b"asset", b"%d" % i] for i in range(12)]
