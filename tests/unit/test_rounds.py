"""Which failures a retry takes, over one run or many, and in how many rounds."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from lives_kit import Case, Cases, cases, documents
from prefect.states import Completed, Failed
from test_plan import whole

from flows.retry_failures import retry_failures
from tasks.corpus.audit import Failed as FailedDocument
from tasks.corpus.failures import Category, Failure, Phase, UsageError
from tasks.corpus.ledger import Outcome
from tasks.corpus.runs import RunSpec
from tasks.engines.protocol import Limits
from tasks.entry import _of_all, unattended
from tasks.plan import Selection
from tasks.rounds import Recorded, choose, rounds_before
from tasks.selection import NothingToRetry, select


def failed(
    key: str, category: Category = Category.STORE, *, retryable: bool = True, outcome: Outcome = Outcome.FAILED
) -> FailedDocument:
    failure = Failure(category=category, phase=Phase.CONVERT, message="", retryable=retryable)
    return FailedDocument(index=0, key=key, name=f"{key}.md", outcome=outcome, failure=failure)


def run(run_id: str, rounds: int, *failures: FailedDocument) -> Recorded:
    return Recorded(run_id=run_id, rounds=rounds, failures=list(failures))


def test_rounds_are_counted_along_the_chain() -> None:
    chain: dict[str, str | None] = {"a": None, "b": "a", "c": "b", "lost": "deleted", "x": "y", "y": "x", "me": "me"}
    assert [rounds_before(one, chain) for one in ("a", "b", "c", "lost", "nobody")] == [0, 1, 2, 1, 0]
    # Nobody writes circles; whoever reads one must end all the same.
    assert [rounds_before(one, chain) for one in ("x", "me")] == [1, 0]


def test_the_newest_record_of_a_document_counts() -> None:
    old = run("old", 0, failed("a"), failed("b"), failed("c", Category.DAMAGED, retryable=False))
    new = run("new", 1, failed("a", Category.TIMEOUT))
    chosen = choose([new, old], {"b.md"})
    assert (chosen.documents, chosen.retry_of, chosen.done) == ({"a": "a.md", "c": "c.md"}, "new", 1)
    assert choose([new, old], {"b.md"}, categories=["STORE"]).documents == {}, "its newest failure is another one"
    assert choose([new, old], set(), categories=["STORE", "DAMAGED"]).retry_of == "old"


def test_what_cannot_be_mended_and_what_was_tried_enough_is_left_out() -> None:
    third = run("third", 2, failed("a"))
    first = run("first", 0, failed("a"), failed("b"), failed("c", retryable=False))
    killer = run("killer", 0, failed("d", Category.CRASHED, outcome=Outcome.QUARANTINED))
    chosen = choose([killer, third, first], set(), retryable=True, limit=2)
    assert (chosen.documents, chosen.spent, chosen.hopeless) == ({"b": "b.md"}, 1, 2)
    assert set(choose([killer, third, first], set()).documents) == set("abcd")


def test_a_retry_that_a_schedule_made_has_the_same_limits() -> None:
    by_hand = {"output": "out", "retryable_only": False, "rounds": None}
    assert unattended(by_hand) == {"output": "out", "retryable_only": True, "rounds": 2}
    assert unattended(by_hand | {"rounds": 1})["rounds"] == 1
    declared = yaml.safe_load((Path(__file__).resolve().parents[2] / "prefect.yaml").read_text())
    (retry,) = [one for one in declared["deployments"] if one["name"] == "retry-failures"]
    (trigger,) = retry["triggers"]
    assert {name: trigger["parameters"][name] for name in AUTOMATIC} == AUTOMATIC
    assert (trigger["enabled"], [one["active"] for one in retry["schedules"]]) == (False, [False])
    # Whatever the automation hands on is a parameter of the flow.
    assert set(trigger["parameters"]) <= set(signature(retry_failures.fn).parameters)


def test_several_retries_have_one_state() -> None:
    good, bad = Completed(name="Completed"), Completed(name="Completed with failures")
    stopped = Failed(name="Stopped: budget", message="budget: spent")
    assert (_of_all([good, good]).name, _of_all([good, good]).message) == ("Completed", "2 Completed")
    # Another name than that of a run with failures: there is no run that the automation could ask for.
    mixed = _of_all([bad, good, bad])
    assert (mixed.name, mixed.message) == (
        "Completed with failures in 2 of 3 runs",
        "2 Completed with failures, 1 Completed",
    )
    end = _of_all([good, stopped])
    assert (end.name, end.type.value) == ("Stopped: budget", "FAILED")
    assert end.message == "1 Completed, 1 Stopped: budget; budget: spent"


outcomes = st.sampled_from([Outcome.FAILED, Outcome.QUARANTINED])
recorded = st.builds(
    run,
    st.sampled_from("rstu"),
    st.integers(0, 4),
    st.builds(
        failed, st.sampled_from("abc"), st.sampled_from(list(Category)), retryable=st.booleans(), outcome=outcomes
    ),
)


@given(
    st.lists(recorded, max_size=4, unique_by=lambda one: one.run_id),
    st.sets(st.sampled_from(["a.md", "b.md"])),
    st.integers(1, 4),
)
def test_an_automation_never_goes_round_for_ever(some: list[Recorded], there: set[str], limit: int) -> None:
    """However often it is asked: a document that fails each time is tried so many times and no more."""
    chain = list(some)
    tried: dict[str, int] = {}
    for _ in range(limit + 1):
        chosen = choose(chain, there, retryable=True, limit=limit)
        if not chosen.documents:
            break
        deepest = max(one.rounds for one in chain if one.run_id == chosen.retry_of)
        assert deepest < limit
        for key in chosen.documents:
            tried[key] = tried.get(key, 0) + 1
        chain.insert(0, run(f"again-{len(chain)}", deepest + 1, *[failed(key) for key in chosen.documents]))
    assert not choose(chain, there, retryable=True, limit=limit).documents
    assert all(count <= limit for count in tried.values())


# -- on real runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cases]:
    with cases(monkeypatch) as make:
        yield make


def asked(case: Case, run_id: str | None = None, **more: object) -> list[Selection]:
    given = dict(run_id=run_id, runs=None, category=None, partial=False, documents=None, workers=1, retries=0)
    return [selection for _, selection in select(case.options.output, password_file=None, **(given | more))]  # type: ignore[arg-type]


MIXED = documents(1, bad="fail=DAMAGED", busy="fail=STORE retryable=yes", odd="fail=TIMEOUT retryable=yes")
AUTOMATIC = {"retryable_only": True, "rounds": 2}


def again(case: Case, spec: RunSpec, **more: object) -> RunSpec:
    (selection,) = asked(case, spec.run_id, **more)
    return whole(case, selection=selection)


def test_two_rounds_of_what_may_be_mended_and_then_no_more(new_case: Cases) -> None:
    case = new_case(MIXED)
    first = whole(case)
    second = again(case, first, **AUTOMATIC)
    third = again(case, second, **AUTOMATIC)
    assert (second.retry_of, third.retry_of) == (first.run_id, second.run_id)
    assert case.account(third).documents == 2, "the damaged one was never tried again"
    with pytest.raises(NothingToRetry, match=r"not tried in 2 rounds already \(2 were\)"):
        again(case, third, **AUTOMATIC)
    # By hand there is no limit.
    assert set(asked(case, third.run_id)[0].documents) == {"busy.pdf", "odd.pdf"}
    with pytest.raises(
        NothingToRetry, match=rf"run {first.run_id} recorded no failures of category DAMAGED that trying"
    ):
        asked(case, first.run_id, category="DAMAGED", **AUTOMATIC)


def test_all_runs_under_a_prefix(new_case: Cases) -> None:
    case = new_case(MIXED)
    first = whole(case)
    second = again(case, first, category="STORE, DAMAGED")
    case.put({"bad.pdf": b"%PDF-dummy pages=2\nmended\n"})
    third = again(case, second, documents=["bad.pdf"])
    assert case.account(third).converted == 1
    (all_,) = asked(case, prefix="*")
    assert (set(all_.documents), all_.run_id) == ({"busy.pdf", "odd.pdf"}, second.run_id)
    assert set(asked(case, prefix="*", documents=["odd.pdf"])[0].documents) == {"odd.pdf"}
    with pytest.raises(UsageError, match=r"no such failure, or it is converted by now: 'bad.pdf'"):
        asked(case, prefix="*", documents=["odd.pdf", "bad.pdf"])
    assert asked(case, prefix=first.run_id[:8] + "*") == asked(case, prefix=first.run_id[:8]) == [all_]
    assert set(asked(case, prefix="*", rounds=1)[0].documents) == {"odd.pdf"}, "the other was tried once"
    with pytest.raises(UsageError, match="no run id begins with 'x': the latest is"):
        asked(case, prefix="x")
    with pytest.raises(UsageError, match="--prefix is empty"):
        asked(case, prefix="")
    with pytest.raises(UsageError, match="leave the run id and --partial out"):
        asked(case, first.run_id, prefix="*")


def test_runs_of_other_limits_are_retried_as_such(new_case: Cases) -> None:
    case = new_case(MIXED)
    old = whole(case)
    new = whole(case, limits=Limits(memory_mb=2048), limit=1)
    given = dict(run_id=None, runs=None, category=None, partial=False, documents=None, workers=1, retries=0)
    pairs = select(case.options.output, password_file=None, prefix="*", **given)  # type: ignore[arg-type]
    memory = [options.limits.memory_mb for options, _ in pairs]
    assert memory == [2048, case.options.limits.memory_mb]
    # Of the document that failed in both, the newer limits decide.
    assert [(selection.run_id, set(selection.documents)) for _, selection in pairs] == [
        (new.run_id, {"bad.pdf"}),
        (old.run_id, {"busy.pdf", "odd.pdf"}),
    ]
    (one,) = select(case.options.output, password_file=None, prefix="*", **(given | {"documents": ["odd.pdf"]}))  # type: ignore[arg-type]
    assert set(one[1].documents) == {"odd.pdf"}


def test_the_latest_and_categories(new_case: Cases) -> None:
    case = new_case(MIXED)
    first = whole(case)
    assert asked(case, "latest") == asked(case) == asked(case, first.run_id)
    assert set(asked(case, category="DAMAGED,TIMEOUT")[0].documents) == {"bad.pdf", "odd.pdf"}
    with pytest.raises(UsageError, match="unknown category 'TYPO': one of BLOCKED"):
        asked(case, category="DAMAGED,TYPO")
    with pytest.raises(UsageError, match="bad rounds 0: 1 or more"):
        asked(case, rounds=0)
