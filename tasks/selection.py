"""Selection: which documents of earlier runs a retry converts again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from tasks.account import reconcile_run
from tasks.corpus.failures import Category, UsageError, bad_field
from tasks.corpus.outputs import existing_outputs
from tasks.corpus.runs import Identity, RunSpec, load_manifest, read_run, resolve, starts
from tasks.corpus.store import Store, open_store
from tasks.engines.dolphin.settings import DolphinOptions
from tasks.engines.layout.settings import LayoutOptions
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.options import LauncherName, Options, runs_url, terms_of
from tasks.plan import Selection
from tasks.report import read_report
from tasks.rounds import Chosen, Recorded, choose, rounds_before
from tasks.scratch import scratch_folder

LATEST = "latest"


class NothingToRetry(UsageError):
    """Nothing is left that a retry was asked for: bad news for a command, none for a schedule or an automation."""


def select(
    output: str,
    *,
    run_id: str | None,
    runs: str | None,
    category: str | None,
    partial: bool,
    documents: list[str] | None,
    workers: int,
    retries: int,
    password_file: str | None,
    launcher: str = LauncherName.LOCAL,
    prefix: str | None = None,
    retryable_only: bool = False,
    rounds: int | None = None,
    **more: Any,
) -> list[tuple[Options, Selection]]:
    """The retries to be made, one for each kind of run (input, output, engine, limits): their options, those of the runs where
    a retry has no say, and their documents.

    Args:
        run_id: of one run; None or "latest" for the latest.
        category: or several, with commas between them.
        prefix: all runs whose id begins so, instead of one; a "*" at its end means the same, alone it means all runs.
        rounds: how many retries may lead to a document's last failure; None for any number.
        more: money, time, machines and messages, as in `options_of`.

    Raises UsageError for bad input, NothingToRetry where there is nothing to convert again, naming what there is.
    """
    categories = _categories(category)
    if rounds is not None and rounds < 1:
        raise UsageError(f"bad rounds {rounds}: 1 or more")
    if prefix is not None and (run_id is not None or partial):
        raise UsageError("--prefix means several runs: leave the run id and --partial out")
    runs_store = open_store(runs_url(output, runs))
    known = _known_runs(runs_store)
    chosen = (
        _under(prefix, known) if prefix is not None else [resolve(runs_store, None if run_id == LATEST else run_id)]
    )
    found: list[tuple[Options, Selection]] = []
    none: list[str] = []
    decided: dict[str, frozenset[str]] = {}
    """Keys that newer runs told of, by input."""
    for specs in _kinds(chosen):
        options = _options_of(
            specs[0].identity,
            runs=runs,
            workers=workers,
            retries=retries,
            password_file=password_file,
            launcher=launcher,
            **more,
        )
        if partial:
            selection = _partial(runs_store, specs[0])
        else:
            recorded = _recorded(runs_store, specs, known)
            choice = choose(
                recorded,
                existing_outputs(open_store(options.output)),
                categories=categories,
                retryable=retryable_only,
                limit=rounds,
                decided=decided.get(options.input, ()),
            )
            decided[options.input] = choice.seen
            nothing = _nothing(specs, choice, categories, rounds)
            kept = Selection(run_id=choice.retry_of, documents=choice.documents)
            selection = kept if choice.documents else nothing
        if isinstance(selection, str):
            none.append(selection)
        else:
            found.append((options, selection))
    if documents:
        found = _only(documents, found, chosen[0])
    if not found:
        raise NothingToRetry(none[0])
    return found


def _categories(given: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",")) if given is not None else ()
    known = sorted(category.value for category in Category)
    for name in names:
        if name not in known:
            raise UsageError(f"unknown category {name!r}: one of {', '.join(known)}")
    return names


def _known_runs(runs: Store) -> dict[str, RunSpec]:
    """All runs that can be read, the one that was started last first."""
    found: dict[str, RunSpec] = {}
    for run_id in dict.fromkeys(start.run_id for _, start in reversed(starts(runs))):
        try:
            found[run_id] = read_run(runs, run_id)
        except UsageError:
            continue  # killed before it was written down, or of another version
    return found


def _under(prefix: str, known: dict[str, RunSpec]) -> list[RunSpec]:
    begin = prefix.removesuffix("*")
    if not begin and not prefix:
        raise UsageError("--prefix is empty: give the begin of run ids (20261128), or * for all runs")
    found = [spec for run_id, spec in known.items() if run_id.startswith(begin)]
    if not found:
        there = f"the latest is {next(iter(known))}" if known else "there are no runs there yet"
        raise UsageError(f"no run id begins with {begin!r}: {there}")
    return found


def _kinds(specs: list[RunSpec]) -> Iterator[list[RunSpec]]:
    """Runs that one retry can stand for, newest first."""
    groups: dict[str, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(spec.identity.model_copy(update={"limit": None}).model_dump_json(), []).append(spec)
    yield from groups.values()


def _options_of(identity: Identity, **more: Any) -> Options:
    """Raises UsageError naming what is bad."""
    terms = {name: more.pop(name, None) for name in ("budget", "budget_target", "deadline", "max_price")}
    try:
        return Options(
            input=identity.input,
            output=identity.output,
            engine=EngineName(identity.engine),
            limits=Limits.model_validate(identity.limits),
            rendering=Rendering.model_validate(identity.rendering),
            **_engine_options(identity),
            # A retry is meant to fail again here and there: its state says so without being Failed.
            max_failure_rate=1.0,
            terms=terms_of(terms),
            **more,
        )
    except ValidationError as error:
        name, why = bad_field(error)
        raise UsageError(f"bad {name.replace('_', '-') or 'parameters'}: {why}") from None


def _partial(runs: Store, spec: RunSpec) -> Selection | str:
    found = reconcile_run(runs, open_store(spec.identity.output), spec)
    names = _names(runs, spec, set(found.partial))
    if not names:
        return f"run {spec.run_id} recorded no partial documents: {_remedy(spec)}"
    return Selection(run_id=spec.run_id, documents=names, replace=frozenset(names))


def _recorded(runs: Store, specs: list[RunSpec], known: dict[str, RunSpec]) -> list[Recorded]:
    """The failures of runs of one kind, those that have any."""
    chain = {run_id: spec.retry_of for run_id, spec in known.items()}
    found = []
    for spec in specs:
        report = read_report(runs, spec.run_id)
        if report is not None and not report.remaining and not report.failed + report.quarantined:
            continue
        failures = reconcile_run(runs, open_store(spec.identity.output), spec).failures
        found.append(Recorded(run_id=spec.run_id, rounds=rounds_before(spec.run_id, chain), failures=failures))
    return found


def _only(keys: list[str], found: list[tuple[Options, Selection]], newest: RunSpec) -> list[tuple[Options, Selection]]:
    """Of what was found just these documents. Raises UsageError for one that is not there."""
    for key in keys:
        if not any(key in selection.documents for _, selection in found):
            raise UsageError(
                f"run {newest.run_id} recorded no such failure, or it is converted by now: {key!r} (see pdf-flows failures)"
            )
    kept = []
    for options, selection in found:
        documents = {key: name for key, name in selection.documents.items() if key in keys}
        replace = selection.replace & documents.keys()
        if documents:
            kept.append((options, selection.model_copy(update={"documents": documents, "replace": replace})))
    return kept


def _nothing(specs: list[RunSpec], chosen: Chosen, categories: tuple[str, ...], limit: int | None) -> str:
    who = f"run {specs[0].run_id}" if len(specs) == 1 else f"{len(specs)} runs, the newest {specs[0].run_id},"
    of = f" of category {', '.join(categories)}" if categories else ""
    if chosen.spent:
        return f"{who} recorded no failures{of} that were not tried in {limit} rounds already ({chosen.spent} were)"
    if chosen.hopeless:
        return f"{who} recorded no failures{of} that trying again may mend ({chosen.hopeless} others)"
    if chosen.done:
        return f"{who} recorded no failures{of} that are not converted by now"
    return f"{who} recorded no failures{of}: {_remedy(specs[0])}"


def _remedy(spec: RunSpec) -> str:
    if spec.retry_of is not None:
        return f"it tried only documents of run {spec.retry_of} again, so name that run for its others"
    return "there is nothing to convert again"


def _engine_options(identity: Identity) -> dict[str, DolphinOptions | LayoutOptions]:
    if identity.engine == EngineName.DOLPHIN.value:
        return {"dolphin": DolphinOptions.model_validate(identity.engine_options)}
    if identity.engine == EngineName.LAYOUT.value:
        return {"layout": LayoutOptions.model_validate(identity.engine_options)}
    return {}


def _names(runs: Store, spec: RunSpec, keys: set[str]) -> dict[str, str]:
    with scratch_folder() as folder:
        return {row.key: row.name for row in load_manifest(runs, spec, folder).rows() if row.key in keys}
