"""The accounting: it always closes, and what it says is what a slow and simple model says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.audit import Account, reconcile, settled
from tasks.corpus.failures import Category, Failure, Phase
from tasks.corpus.ledger import Outcome, Publisher, Record
from tasks.corpus.manifest import Row
from tasks.corpus.partition import Bitmap, partition_of, partitions_of_worker
from tasks.corpus.runs import Identity, difference
from tasks.options import Options, one_spelling, options_of
from tasks.pulse import FIRST_OUTCOMES, IN_A_ROW, tripped
from tasks.quote import estimate
from tasks.report import RunState, judge

DOCUMENTS = 5


def failure(category: Category = Category.DAMAGED, retryable: bool | None = None) -> Failure:
    chosen = category.transient if retryable is None else retryable
    return Failure(category=category, phase=Phase.OPEN, message="m", retryable=chosen)


def record(index: int, outcome: Outcome, **more: object) -> Record:
    base = {
        "worker": 0,
        "attempt": 0,
        "epoch": 0,
        "index": index,
        "key": f"{index}.pdf",
        "name": f"{index}.md",
        "at": 0,
    }
    return Record.model_validate(base | {"outcome": outcome} | more)


hashes = st.sampled_from(["a" * 64, "b" * 64])


@st.composite
def records(draw: st.DrawFn) -> Record:
    outcome = draw(st.sampled_from(Outcome))
    more: dict[str, object] = {}
    if outcome in (Outcome.FAILED, Outcome.QUARANTINED):
        more["failure"] = failure(draw(st.sampled_from(Category)))
    if outcome in (Outcome.INTENT, Outcome.CONVERTED, Outcome.RECOVERED):
        more |= {"sha256": draw(hashes), "pages": draw(st.integers(0, 3)), "gaps": draw(st.sampled_from([[], [1]]))}
    if outcome is Outcome.RECOVERED:
        more["publisher"] = Publisher(draw(st.integers(0, 2)), 0)
    return record(
        draw(st.integers(0, DOCUMENTS - 1)),
        outcome,
        worker=draw(st.integers(0, 2)),
        claim=draw(st.integers(0, 3)),
        epoch=draw(st.integers(0, 2)),
        at=draw(st.floats(0, 10)),
        **more,
    )


rows_of = st.lists(
    st.tuples(st.booleans(), st.none() | st.sampled_from([failure(Category.NAME), failure(Category.DAMAGED)])),
    min_size=DOCUMENTS,
    max_size=DOCUMENTS,
).map(
    lambda given: [
        Row(i, f"{i}.pdf", f"{i}.md", 1, "e", done=done, failure=None if done else why)
        for i, (done, why) in enumerate(given)
    ]
)
ledgers = st.lists(records(), max_size=25)
outputs_of = st.sets(st.sampled_from([f"{i}.md" for i in range(DOCUMENTS)]))
contents = st.dictionaries(st.sampled_from([f"{i}.md" for i in range(DOCUMENTS)]), hashes)


def published_twice(ledger: Sequence[Record], index: int) -> bool:
    own = [r for r in ledger if r.index == index]
    first_hand = {(r.worker, r.attempt) for r in own if r.outcome is Outcome.CONVERTED}
    return len(first_hand) > 1 or len({r.sha256 for r in own if r.outcome.published}) > 1


@given(rows_of, ledgers, st.none() | outputs_of, contents)
def test_it_adds_up_whatever_the_ledger_says(
    rows: list[Row], ledger: list[Record], outputs: set[str] | None, content: dict[str, str]
) -> None:
    found = reconcile(rows, ledger, outputs, content.get)
    a = found.account
    assert a.documents == DOCUMENTS == a.converted + a.skipped + a.failed + a.quarantined + a.remaining
    assert a.partial <= a.converted
    assert a.duplicates <= a.converted
    assert a.lost <= a.converted
    assert a.recovered <= a.converted
    assert len(found.failures) == a.failed + a.quarantined == sum(a.categories.values())
    assert len(found.partial) == a.partial
    assert 0 <= a.failure_rate <= 1
    assert a.closes == (a.duplicates == 0 and a.lost == 0)
    assert a.duplicates == sum(published_twice(ledger, row.index) for row in rows)


@given(rows_of, ledgers, outputs_of, contents)
def test_what_was_published_is_converted_and_its_output_is_missed(
    rows: list[Row], ledger: list[Record], outputs: set[str], content: dict[str, str]
) -> None:
    published = {r.index for r in ledger if r.outcome.published}
    a = reconcile(rows, ledger, outputs, content.get).account
    assert a.lost == sum(rows[index].name not in outputs for index in published)
    own = {
        r.index
        for r in ledger
        if r.outcome is Outcome.INTENT and not rows[r.index].done and r.index not in published
        if r.name in outputs and content.get(r.name) == r.sha256
    }
    assert a.converted == len(published | own)


@given(rows_of, ledgers, outputs_of, contents, st.randoms())
def test_the_order_of_lives_does_not_matter_where_each_has_its_own_claim(
    rows: list[Row], ledger: list[Record], outputs: set[str], content: dict[str, str], random: object
) -> None:
    # A claim has one holder and a holder one outcome: keep the first final record of each claim.
    kept: dict[tuple[int, int, bool], Record] = {}
    for r in ledger:
        kept.setdefault((r.index, r.claim, r.outcome.final), r)
    some = [r for r in kept.values() if not r.outcome.published]
    shuffled = list(some)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert reconcile(rows, some, outputs, content.get) == reconcile(rows, shuffled, outputs, content.get)


def test_a_later_claim_outweighs_a_clock_that_is_ahead() -> None:
    rows = [Row(0, "0.pdf", "0.md", 1, "e")]
    ahead = record(0, Outcome.FAILED, at=9e9, claim=0, failure=failure(Category.STORE))
    later = record(0, Outcome.FAILED, at=1.0, claim=1, failure=failure(Category.DAMAGED))
    for ledger in ([ahead, later], [later, ahead]):
        assert reconcile(rows, ledger, set()).account.categories == {"DAMAGED": 1}


def test_a_recovery_by_inference_accuses_nobody() -> None:
    """B and A meant the same content; C, who found it, cannot tell whose it is, and B says so itself later."""
    rows = [Row(0, "0.pdf", "0.md", 1, "e")]
    guess = record(0, Outcome.RECOVERED, worker=2, claim=2, sha256="a" * 64, publisher=Publisher(0, 0))
    own = record(0, Outcome.CONVERTED, worker=1, claim=1, sha256="a" * 64)
    account = reconcile(rows, [guess, own], {"0.md"}).account
    assert (account.converted, account.duplicates, account.closes) == (1, 0, True)
    other = own.model_copy(update={"sha256": "b" * 64})
    assert reconcile(rows, [guess, other], {"0.md"}).account.duplicates == 1


@given(records(), st.integers(0, 3), st.booleans())
def test_settled(one: Record, epoch: int, retry_failed: bool) -> None:
    closed = settled(one, epoch, retry_failed)
    if one.outcome in (Outcome.INTENT, Outcome.RELEASED):
        assert not closed
    elif one.failure is None or one.epoch == epoch:
        assert closed
    else:
        assert closed == (not one.failure.retryable and not retry_failed)
    if settled(one, epoch, True):
        assert settled(one, epoch, False)


# -- the report ------------------------------------------------------------------------------------------------------

counts = st.integers(0, 50)


@given(counts, counts, counts, counts, counts, st.integers(0, 2), st.integers(0, 2), st.floats(0, 1), st.booleans())
def test_judge(
    converted: int,
    skipped: int,
    failed: int,
    quarantined: int,
    remaining: int,
    duplicates: int,
    lost: int,
    limit: float,
    stopped: bool,
) -> None:
    account = Account(
        documents=converted + skipped + failed + quarantined + remaining,
        converted=converted,
        skipped=skipped,
        failed=failed,
        quarantined=quarantined,
        remaining=remaining,
        partial=0,
        recovered=0,
        duplicates=min(duplicates, converted),
        lost=min(lost, converted),
        pages=0,
    )
    state, why = judge(account, "budget" if stopped else None, limit)
    clean = account.closes and not remaining and not failed and not quarantined
    assert (state is RunState.COMPLETED) == (clean and not stopped)
    assert (why is None) == (state is RunState.COMPLETED)
    if stopped:
        assert (state, why) == (RunState.STOPPED, "budget")
    elif not account.closes:
        assert state is RunState.FAILED
    elif remaining:
        assert state is RunState.STOPPED
    elif failed + quarantined:
        over = (failed + quarantined) / (converted + skipped + failed + quarantined) > limit
        assert state is (RunState.FAILED if over else RunState.COMPLETED_WITH_FAILURES)


# -- partitions, breaker, supervisor, quote --------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 10**9))
def test_every_document_begins_with_one_worker(workers: int, partitions: int, index: int) -> None:
    all_of_them = [partitions_of_worker(k, workers, partitions) for k in range(workers)]
    assert sorted(p for own in all_of_them for p in own) == list(range(partitions))
    sizes = [len(own) for own in all_of_them]
    assert max(sizes) - min(sizes) <= 1
    assert sum(partition_of(index, partitions) in own for own in all_of_them) == 1


@pytest.mark.parametrize(("worker", "workers"), [(-1, 2), (0, 0)])
def test_a_worker_beyond_their_number_is_an_error(worker: int, workers: int) -> None:
    with pytest.raises(ValueError, match=f"worker {worker} of {workers}"):
        partitions_of_worker(worker, workers, 4)


@given(st.integers(0, 200), st.lists(st.tuples(st.booleans(), st.integers(0, 200)), max_size=40))
def test_a_bitmap_is_a_set(size: int, steps: list[tuple[bool, int]]) -> None:
    bitmap, model = Bitmap(size), set()
    for put_in, raw in steps:
        if size:
            index = raw % size
            (bitmap.add if put_in else bitmap.discard)(index)
            (model.add if put_in else model.discard)(index)
    assert [i in bitmap for i in range(size)] == [i in model for i in range(size)]
    assert len(bitmap) == len(model)


@given(st.lists(st.none() | st.sampled_from(Category), max_size=80))
def test_the_breaker_trips_on_one_systemic_cause(outcomes: list[Category | None]) -> None:
    streak, last, tripped_at = 0, None, None
    for number, category in enumerate(outcomes, 1):
        streak = 0 if category is None else streak + 1 if category == last else 1
        last = category
        if tripped(number, streak, category) and tripped_at is None:
            tripped_at = number
    expected = None
    for number in range(1, len(outcomes) + 1):
        tail = outcomes[max(0, number - IN_A_ROW) : number]
        first = number == FIRST_OUTCOMES or (FIRST_OUTCOMES < number < IN_A_ROW)
        alike = len(set(tail)) == 1 and tail[0] is not None and tail[0].systemic
        if alike and (len(tail) == IN_A_ROW or (first and len(tail) == number)):
            expected = number
            break
    assert tripped_at == expected


@given(st.lists(st.integers(0, 5000), max_size=60), st.integers(0, 10_000))
def test_the_estimate(sample: list[int], more: int) -> None:
    population = len(sample) + more
    pages, error = estimate(sample, population)
    if not more or not sample:
        assert (pages, error) == (sum(sample), 0)
        return
    assert min(sample) * population - 1 <= pages <= max(sample) * population + 1
    assert error >= 0
    assert (error == 0) == (len(set(sample)) == 1)
    wider = estimate(sample, population + 1000)
    assert wider[1] >= error


# -- identity --------------------------------------------------------------------------------------------------------

CHANGES = {
    "input": "other",
    "output": "other",
    "engine": "layout",
    "limit": 7,
    "max_pages": 9,
    "page_timeout": 1.5,
    "document_timeout": 2.5,
    "page_markers": True,
    "front_matter": True,
}


def identity(**changes: object) -> Identity:
    return options_of(**({"input": "in", "output": "out", "engine": "dummy"} | changes)).identity


@given(st.sets(st.sampled_from(sorted(CHANGES))))
def test_the_difference_names_a_parameter_that_differs(changed: set[str]) -> None:
    what = difference(identity(), identity(**{name: CHANGES[name] for name in changed}))
    if not changed:
        assert what is None
        return
    assert what is not None
    name = what.split(" was ")[0].replace("-", "_")
    assert name in changed
    now = one_spelling(CHANGES[name]) if name in ("input", "output") else CHANGES[name]
    assert what.endswith(f"now {now}")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "workers": st.integers(1, 9),
            "retries": st.integers(0, 9),
            "retry_failed": st.booleans(),
            "steal": st.booleans(),
            "max_failure_rate": st.floats(0, 1),
            "overwrite": st.booleans(),
            "task_run_limit": st.integers(0, 9),
        },
    )
)
def test_what_may_change_between_starts_is_no_part_of_the_identity(changes: dict[str, object]) -> None:
    assert difference(identity(), identity(**changes)) is None


def test_runs_lie_below_the_output() -> None:
    assert Options(input="i", output="s3://b/out/").runs_url == "s3://b/out/_runs"
    assert Options(input="i", output="o", runs="elsewhere").runs_url == str(Path("elsewhere").absolute())
    assert Options(input="i", output="s3://b/out", runs="s3://b/elsewhere").runs_url == "s3://b/elsewhere"
