"""The run forms of the UI: what each flow's parameters say of themselves, since nobody who fills one in reads code."""

from __future__ import annotations

import inspect
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from prefect import Flow
from pydantic import BaseModel

from deployments.cli import convert, retry, scale
from flows.convert_corpus import convert_corpus
from flows.convert_partition import convert_partition
from flows.retry_failures import retry_failures
from flows.scale_run import scale_run
from tasks.engines.dolphin.settings import DolphinOptions
from tasks.engines.layout.settings import LayoutOptions
from tasks.engines.protocol import Limits, Rendering
from tasks.final_artifacts import CARRIED
from tasks.fleet.budget import Terms
from tasks.options import Options
from tasks.worker import WorkerSettings

FLOWS: dict[str, Flow[..., Any]] = {
    flow.name: flow for flow in (convert_corpus, retry_failures, scale_run, convert_partition)
}
REQUIRED = {
    "convert-corpus": ["input", "output"],
    "retry-failures": ["output"],
    "scale-run": ["output", "workers"],
    "convert-partition": ["runs", "run_id", "worker", "workers"],
}
FIRST = {
    "convert-corpus": ["input", "output", "engine", "workers", "limit", "dry_run"],
    "retry-failures": ["output", "run_id"],
    "scale-run": ["output", "workers", "run_id"],
}
DOLPHIN = {*DolphinOptions.model_fields, "slots"} - {"marginalia"}
AWS = {"max_price", "machine_types", "region", "on_demand", "notify_topic"}
OTHERWISE = {"marginalia", "page_markers"}
"""Defaults that are not the model's: both engines have the one, each its own, and runs without the other have no markers."""
OTHERWISE_NAMED = {"budget_target": "target", "batch": "", "prefix": ""}
ROOT = Path(__file__).resolve().parents[2]


def form(name: str) -> dict[str, dict[str, Any]]:
    """Parameters in the order of the form, and what it knows of each."""
    schema = FLOWS[name].parameters.model_dump()
    return dict(sorted(schema["properties"].items(), key=lambda item: item[1]["position"]))


def choices(annotation: object) -> list[str]:
    """Of an enum, or of an enum or None; [] of anything else."""
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return [str(one.value) for kind in kinds if issubclass(kind, StrEnum) for one in kind]


COMMANDS = {"convert-corpus": convert, "retry-failures": retry, "scale-run": scale}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_form_has_the_defaults_of_the_command(name: str) -> None:
    commands, same = inspect.signature(COMMANDS[name]).parameters, 0
    for parameter, known in form(name).items():
        if parameter in commands and commands[parameter].default is not inspect.Parameter.empty:
            same += 1
            default = commands[parameter].default
            assert known.get("default") == (0.05 if default == "5%" else default), parameter
    assert same >= len(form(name)) // 3


def models_of(flow: str) -> list[type[BaseModel]]:
    return (
        [WorkerSettings]
        if flow == "convert-partition"
        else [Options, Limits, Rendering, DolphinOptions, LayoutOptions, Terms]
    )


@pytest.mark.parametrize("name", FLOWS)
def test_each_parameter_says_what_it_is(name: str) -> None:
    shown = form(name)
    assert list(shown) == list(inspect.signature(FLOWS[name].fn).parameters)
    assert FLOWS[name].parameters.model_dump()["required"] == REQUIRED[name]
    for parameter, known in shown.items():
        assert len(known["description"]) > 10, parameter
        assert known["title"] == parameter
        assert parameter in REQUIRED[name] or "default" in known


@pytest.mark.parametrize("name", FLOWS)
def test_what_a_form_offers_is_what_the_code_takes(name: str) -> None:
    checked = 0
    for parameter, known in form(name).items():
        for model in models_of(name):
            field = model.model_fields.get(OTHERWISE_NAMED.get(parameter, parameter))
            if field is None:
                continue
            checked += 1
            offered = known.get("enum") or next((kind["enum"] for kind in known.get("anyOf", []) if "enum" in kind), [])
            assert sorted(offered) == sorted(choices(field.annotation)), parameter
            if not field.is_required() and parameter not in OTHERWISE and "default" in known:
                default = field.get_default(call_default_factory=True)
                assert known["default"] in (default, None if default in ((), []) else default), parameter
            break
    assert checked >= len(form(name)) // 2


@pytest.mark.parametrize("name", FIRST)
def test_what_people_need_comes_first(name: str) -> None:
    assert list(form(name))[: len(FIRST[name])] == FIRST[name]


@pytest.mark.parametrize(("word", "group"), [("dolphin: ", DOLPHIN), ("AWS: ", AWS)])
@pytest.mark.parametrize("name", ["convert-corpus", "retry-failures"])
def test_what_only_some_need_is_together_and_says_so(name: str, word: str, group: set[str]) -> None:
    shown = form(name)
    places = [place for place, parameter in enumerate(shown) if parameter in group]
    assert places == list(range(min(places, default=0), min(places, default=0) + len(places)))
    said = {parameter for parameter, known in shown.items() if known["description"].startswith(word)}
    assert said == group & set(shown)
    assert not group & set(list(shown)[:6])


def test_all_that_is_deployed_is_looked_at_here() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert {one["name"] for one in deployed} == set(FLOWS)
    assert all(len(one["description"]) > 20 for one in deployed)


def test_a_retry_is_offered_with_what_the_automation_gives_it() -> None:
    deployed = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (retry,) = [one for one in deployed if one["name"] == "retry-failures"]
    given = set(retry["triggers"][0]["parameters"]) - {"retryable_only", "rounds", "run_id", "output", "runs"}
    assert given == set(CARRIED)
    assert set(CARRIED) <= set(form("retry-failures"))
