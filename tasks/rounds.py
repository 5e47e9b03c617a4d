"""Which failures are converted again, over one run or many, and how often that was done already. Pure."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from tasks.corpus.audit import Failed
from tasks.corpus.ledger import Outcome


def rounds_before(run_id: str, retry_of: Mapping[str, str | None]) -> int:
    """How many retries led to a run: 0 for one that is no retry.

    Args:
        retry_of: of each known run; a run that is not known is taken for the chain's beginning.
    """
    seen = {run_id}
    count = 0
    while (before := retry_of.get(run_id)) is not None and before not in seen:
        seen.add(before)
        run_id, count = before, count + 1
    return count


class Recorded(BaseModel):
    """What a run recorded as failed."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    rounds: int
    """Retries that led to it."""
    failures: list[Failed]


class Chosen(BaseModel):
    """What is to be converted again."""

    model_config = ConfigDict(frozen=True)

    documents: dict[str, str] = {}
    """key -> name of its Markdown."""
    retry_of: str = ""
    """The run that the retry counts from: of those with a chosen document the one with the most rounds behind it."""
    done: int = 0
    """Left out: converted by now."""
    spent: int = 0
    """Left out: in as many rounds as are allowed."""
    hopeless: int = 0
    """Left out: trying again can't help, as their records say, or they are quarantined."""
    seen: frozenset[str] = frozenset()
    """Keys of all that were recorded."""


def choose(
    newest_first: Sequence[Recorded],
    there: Container[str],
    *,
    categories: Collection[str] = (),
    retryable: bool = False,
    limit: int | None = None,
    decided: Collection[str] = (),
) -> Chosen:
    """The failures of runs on the same input and output that are still to be mended. The newest record of a document counts.

    Args:
        there: names of outputs that exist.
        categories: only of these; () for all.
        retryable: only where trying again may help.
        limit: rounds at most; None for any number.
        decided: keys that newer runs with other limits or another engine tell of.
    """
    documents: dict[str, str] = {}
    seen = set(decided)
    deepest: Recorded | None = None
    done = spent = hopeless = 0
    for run in newest_first:
        for failed in run.failures:
            if failed.key in seen:
                continue
            seen.add(failed.key)
            if failed.name in there:
                done += 1
            elif categories and failed.failure.category.value not in categories:
                continue
            elif retryable and (not failed.failure.retryable or failed.outcome is Outcome.QUARANTINED):
                hopeless += 1
            elif limit is not None and run.rounds >= limit:
                spent += 1
            else:
                documents[failed.key] = failed.name
                if deepest is None or run.rounds > deepest.rounds:
                    deepest = run
    return Chosen(
        documents=documents,
        retry_of=deepest.run_id if deepest is not None else "",
        done=done,
        spent=spent,
        hopeless=hopeless,
        seen=frozenset(seen),
    )
