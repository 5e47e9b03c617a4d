"""What a conversion is asked to do: the parameters of the parent flow and of the command line, checked once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tasks.cores import gpus
from tasks.corpus.failures import UsageError, bad_field
from tasks.corpus.names import RUNS
from tasks.corpus.paths import check_run_id
from tasks.corpus.runs import Identity
from tasks.engines.dolphin.settings import DolphinOptions, MarkdownMode
from tasks.engines.layout.settings import LayoutOptions
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.fleet.budget import Terms, parse_duration, parse_usd

CANARY_DOCUMENTS = 20
MACHINE_TYPES = ("g4dn.xlarge", "g4dn.2xlarge", "g6.xlarge", "g5.xlarge")
"""What the work pool's template starts, unless others are named."""
DEPLOYMENT = "convert-partition/convert-partition"


class LauncherName(StrEnum):
    """Where workers run."""

    LOCAL = "local"
    """Processes of the machine that runs the parent."""
    WORK_POOL = "work-pool"
    """Flow runs of the deployment convert-partition, on its work pool."""


def one_spelling(url: str) -> str:
    """Folders as absolute paths: however a folder is written, it is the same. Addresses as they are."""
    if not url:
        # An empty shell variable, most likely: as a path it would mean the current folder.
        raise UsageError("an address is empty: name a folder or s3://bucket/prefix")
    return url if "://" in url else str(Path(url).expanduser().absolute())


def runs_url(output: str, runs: str | None = None) -> str:
    """`<runs>`: below the output, unless another place is named."""
    return one_spelling(runs) if runs is not None else f"{one_spelling(output).rstrip('/')}/{RUNS}"


class Options(BaseModel):
    """One call."""

    model_config = ConfigDict(frozen=True)

    input: str
    output: str
    runs: str | None = None
    run_id: str | None = None
    workers: int = Field(2, ge=1, le=1000)
    engine: EngineName = EngineName.LAYOUT
    limits: Limits = Limits()
    rendering: Rendering = Rendering()
    limit: int | None = Field(None, ge=1)
    retries: int = Field(2, ge=0, le=20)
    retry_failed: bool = False
    max_failure_rate: float = Field(0.05, ge=0, le=1)
    password_file: str | None = None
    overwrite: bool = False
    steal: bool = True
    launcher: LauncherName = LauncherName.LOCAL
    dolphin: DolphinOptions | None = None
    """Of the dolphin engine only."""
    layout: LayoutOptions | None = None
    """Of the layout engine only; None: its defaults."""
    slots: int | None = Field(None, ge=1, le=4096)
    """Sequences that the dolphin engine reads at a time."""
    task_run_limit: int = Field(10_000, ge=0)
    terms: Terms = Terms()
    """Budget, deadline and prices."""
    on_demand: str | None = None
    """Where launches go when the deadline is at risk: the capacity provider with on-demand machines."""
    canary: int | None = Field(None, ge=0, le=1000)
    """Documents that one worker converts before the others are launched; None: some on a work pool, none on this machine."""
    price: float | None = Field(None, ge=0, allow_inf_nan=False)
    """USD an hour of a machine, where AWS's prices don't apply."""
    machine_types: tuple[str, ...] = ()
    """EC2 instance types that the work pool may start: the dearest bounds what a launch may cost."""
    region: str | None = None
    """AWS region of the work pool's machines; on-demand prices are taken from it."""
    notify_topic: str | None = None
    """ARN of an SNS topic that is told of the run."""
    notify_block: str | None = None
    """Slug of a Prefect notification block that is told of it."""
    deployment: str = DEPLOYMENT
    """What a work pool's workers are runs of."""

    @field_validator("machine_types", mode="before")
    @classmethod
    def _listed(cls, given: object) -> object:
        if isinstance(given, str):
            return tuple(name for name in given.replace(",", " ").split() if name)
        return () if given is None else given

    @property
    def types_started(self) -> tuple[str, ...]:
        """What a launch may start; () where nothing is rented."""
        if self.launcher is LauncherName.LOCAL or self.price is not None:
            return ()
        return self.machine_types or (MACHINE_TYPES if self.terms.budget is not None else ())

    @property
    def lasting_terms(self) -> Terms:
        """The terms as they hold where the workers run."""
        if self.launcher is LauncherName.LOCAL:
            # Nothing is started, and nothing has to be torn down: this machine is here before the run and after it.
            return self.terms.model_copy(
                update={"teardown_seconds": 0.0, "start_seconds": 30.0, "worth_seconds": 0.0, "drain_seconds": 60.0}
            )
        return self.terms

    @property
    def canary_documents(self) -> int:
        """How many documents the first worker converts alone; 0 for none."""
        if self.canary is not None:
            return self.canary
        return CANARY_DOCUMENTS if self.launcher is LauncherName.WORK_POOL and self.workers > 1 else 0

    @field_validator("input", "output", "runs")
    @classmethod
    def _one_spelling(cls, url: str | None) -> str | None:
        return one_spelling(url) if url is not None else None

    @property
    def runs_url(self) -> str:
        """`<runs>`: defaults to `<output>/_runs`."""
        return runs_url(self.output, self.runs)

    @property
    def _engine_options(self) -> dict[str, Any]:
        if self.dolphin is not None:
            return self.dolphin.model_dump(mode="json")
        # Runs from before the layout engine had options are of its defaults.
        return self.layout.model_dump(mode="json", exclude_defaults=True) if self.layout is not None else {}

    @property
    def identity(self) -> Identity:
        """What a resumed run has to have in common with this call."""
        return Identity(
            input=self.input,
            output=self.output,
            engine=self.engine.value,
            limits=self.limits.model_dump(),
            rendering=self.rendering.model_dump(),
            engine_options=self._engine_options,
            limit=self.limit,
        )


def options_of(**parameters: Any) -> Options:
    """The options that the parameters of the flow (or of the command line) mean. Raises UsageError naming the bad one."""
    limits = {name: parameters.pop(name) for name in list(parameters) if name in Limits.model_fields}
    rendering = {name: parameters.pop(name) for name in list(parameters) if name in Rendering.model_fields}
    marginalia, figures = parameters.pop("marginalia", None), parameters.pop("figures", True)
    dolphin = {name: parameters.pop(name) for name in list(parameters) if name in DolphinOptions.model_fields}
    if parameters.get("engine", EngineName.LAYOUT) == EngineName.DOLPHIN and marginalia is not None:
        dolphin["marginalia"] = marginalia
    terms = {name: parameters.pop(name, None) for name in ("budget", "budget_target", "deadline", "max_price")}
    if parameters.get("run_id") is not None:
        check_run_id(parameters["run_id"])
    try:
        parameters["dolphin"] = _dolphin(parameters.get("engine"), dolphin, parameters.get("slots"))
        parameters["layout"] = _layout(parameters.get("engine", EngineName.LAYOUT), marginalia, figures)
        parameters["terms"] = terms_of(terms, parameters.get("on_demand"))
        options = Options(limits=Limits(**limits), rendering=Rendering(**rendering), **parameters)
    except ValidationError as error:
        name, why = bad_field(error)
        raise UsageError(f"bad {name.replace('_', '-') or 'parameters'}: {why}") from None
    if options.dolphin is not None and options.launcher is LauncherName.LOCAL:
        # Two workers on one device would only load the model twice.
        return options.model_copy(update={"workers": min(options.workers, max(1, gpus()))})
    return options


def terms_of(given: dict[str, Any], on_demand: str | None = None) -> Terms:
    """Budget and deadline as the command line or the form gives them. Raises UsageError naming the bad one, ValidationError."""
    parsed: dict[str, Any] = {}
    for name, parse in (
        ("budget", parse_usd),
        ("budget_target", parse_usd),
        ("max_price", parse_usd),
        ("deadline", parse_duration),
    ):
        value = given[name] if given[name] != "" else None
        try:
            parsed[name] = parse(value) if isinstance(value, str) else value
        except ValueError as error:
            raise UsageError(f"bad {name.replace('_', '-')}: {error}") from None
    parsed["target"] = parsed.pop("budget_target")
    if on_demand is not None and parsed["deadline"] is None:
        raise UsageError("--on-demand goes with --deadline: it is for a deadline that Spot machines would miss")
    return Terms(**parsed, on_demand=on_demand is not None)


def _layout(engine: object, marginalia: bool | None, figures: bool) -> LayoutOptions | None:
    """The engine's own options. Raises UsageError where they are given for another engine, ValidationError."""
    if engine == EngineName.LAYOUT:
        kept = {} if marginalia is None else {"marginalia": marginalia}
        return LayoutOptions(figures=figures, **kept)
    if not figures:
        raise UsageError("--no-figures goes with --engine layout only")
    if marginalia is not None and engine != EngineName.DOLPHIN:
        raise UsageError("--marginalia goes with --engine layout and dolphin only")
    return None


def _dolphin(engine: object, given: dict[str, Any], slots: int | None) -> DolphinOptions | None:
    """The engine's own options. Raises UsageError where they are given for another engine, ValidationError."""
    options = DolphinOptions(**given)
    if engine == EngineName.DOLPHIN:
        if options.marginalia is False and options.markdown is MarkdownMode.UPSTREAM:
            raise UsageError("--no-marginalia goes with --markdown clean: upstream keeps page headers and footers")
        if not options.model.startswith("s3://") and Path(options.model).expanduser().exists():
            options = options.model_copy(update={"model": one_spelling(options.model)})
        return options
    changed = [name for name, value in given.items() if value != DolphinOptions.model_fields[name].default]
    if slots is not None:
        changed.append("slots")
    if changed:
        raise UsageError(f"--{changed[0].replace('_', '-')} goes with --engine dolphin only")
    return None
