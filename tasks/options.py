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
from tasks.engines.protocol import EngineName, Limits, Rendering


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
    slots: int | None = Field(None, ge=1, le=4096)
    """Sequences that the dolphin engine reads at a time."""
    task_run_limit: int = Field(10_000, ge=0)

    @field_validator("input", "output", "runs")
    @classmethod
    def _one_spelling(cls, url: str | None) -> str | None:
        return one_spelling(url) if url is not None else None

    @property
    def runs_url(self) -> str:
        """`<runs>`: defaults to `<output>/_runs`."""
        return runs_url(self.output, self.runs)

    @property
    def identity(self) -> Identity:
        """What a resumed run has to have in common with this call."""
        return Identity(
            input=self.input,
            output=self.output,
            engine=self.engine.value,
            limits=self.limits.model_dump(),
            rendering=self.rendering.model_dump(),
            engine_options=self.dolphin.model_dump(mode="json") if self.dolphin is not None else {},
            limit=self.limit,
        )


def options_of(**parameters: Any) -> Options:
    """The options that the parameters of the flow (or of the command line) mean. Raises UsageError naming the bad one."""
    limits = {name: parameters.pop(name) for name in list(parameters) if name in Limits.model_fields}
    rendering = {name: parameters.pop(name) for name in list(parameters) if name in Rendering.model_fields}
    dolphin = {name: parameters.pop(name) for name in list(parameters) if name in DolphinOptions.model_fields}
    if parameters.get("run_id") is not None:
        check_run_id(parameters["run_id"])
    try:
        parameters["dolphin"] = _dolphin(parameters.get("engine"), dolphin, parameters.get("slots"))
        options = Options(limits=Limits(**limits), rendering=Rendering(**rendering), **parameters)
    except ValidationError as error:
        name, why = bad_field(error)
        raise UsageError(f"bad {name.replace('_', '-') or 'parameters'}: {why}") from None
    if options.dolphin is not None and options.launcher is LauncherName.LOCAL:
        # Two workers on one device would only load the model twice.
        return options.model_copy(update={"workers": min(options.workers, max(1, gpus()))})
    return options


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
