"""Selection: which documents of an earlier run a retry converts again."""

from __future__ import annotations

from tasks.account import reconcile_run
from tasks.corpus.failures import Category, UsageError
from tasks.corpus.runs import Identity, RunSpec, load_manifest, resolve
from tasks.corpus.store import Store, open_store
from tasks.engines.dolphin.settings import DolphinOptions
from tasks.engines.layout.settings import LayoutOptions
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.options import LauncherName, Options, runs_url
from tasks.plan import Selection
from tasks.scratch import scratch_folder


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
) -> tuple[Options, Selection]:
    """The retry's options (those of the run, where a retry has no say) and its documents.

    Raises UsageError where there is nothing to convert again, naming what there is.
    """
    if category is not None and category not in {known.value for known in Category}:
        known = ", ".join(sorted(known.value for known in Category))
        raise UsageError(f"unknown category {category!r}: one of {known}")
    runs_store = open_store(runs_url(output, runs))
    spec = resolve(runs_store, run_id)
    identity = spec.identity
    options = Options(
        input=identity.input,
        output=identity.output,
        runs=runs,
        workers=workers,
        engine=EngineName(identity.engine),
        limits=Limits.model_validate(identity.limits),
        rendering=Rendering.model_validate(identity.rendering),
        **_engine_options(identity),
        retries=retries,
        password_file=password_file,
        launcher=LauncherName(launcher),
        # A retry is meant to fail again here and there: its state says so without being Failed.
        max_failure_rate=1.0,
    )
    found = reconcile_run(runs_store, open_store(options.output), spec)
    if partial:
        chosen = _names(runs_store, spec, set(found.partial))
    else:
        chosen = {f.key: f.name for f in found.failures if category is None or f.failure.category.value == category}
    if documents:
        for key in documents:
            if key not in chosen:
                raise UsageError(f"run {spec.run_id} recorded no such failure: {key!r} (see pdf-flows failures)")
        chosen = {key: chosen[key] for key in documents}
    if not chosen:
        what = "partial documents" if partial else "failures"
        of = f" of category {category}" if category is not None else ""
        remedy = "there is nothing to convert again"
        if spec.retry_of is not None:
            remedy = f"it tried only documents of run {spec.retry_of} again, so name that run for its others"
        raise UsageError(f"run {spec.run_id} recorded no {what}{of}: {remedy}")
    replace = frozenset(chosen) if partial else frozenset()
    return options, Selection(run_id=spec.run_id, documents=chosen, replace=replace)


def _engine_options(identity: Identity) -> dict[str, DolphinOptions | LayoutOptions]:
    if identity.engine == EngineName.DOLPHIN.value:
        return {"dolphin": DolphinOptions.model_validate(identity.engine_options)}
    if identity.engine == EngineName.LAYOUT.value:
        return {"layout": LayoutOptions.model_validate(identity.engine_options)}
    return {}


def _names(runs: Store, spec: RunSpec, keys: set[str]) -> dict[str, str]:
    with scratch_folder() as folder:
        return {row.key: row.name for row in load_manifest(runs, spec, folder).rows() if row.key in keys}
