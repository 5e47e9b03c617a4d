"""What a call may ask for: limits within reason, no empty addresses, passwords from where the reference points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.corpus.failure_file import replay_command
from tasks.corpus.failures import UsageError
from tasks.corpus.runs import Identity, difference
from tasks.options import Options, options_of
from tasks.passwords import read_passwords

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("name", ["document_timeout", "page_timeout"])
@pytest.mark.parametrize("value", [0, -1, INF, NAN, 1e300])
def test_time_limits_that_no_kernel_counts_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"bad {name.replace('_', '-')}: "):
        options_of(input="in", output="out", **{name: value})


@pytest.mark.parametrize("empty", [{"input": ""}, {"output": ""}, {"runs": ""}])
def test_an_empty_address_is_not_the_current_folder(empty: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="an address is empty"):
        options_of(**{"input": "in", "output": "out", **empty})


def test_passwords_of_any_editor(tmp_path: Path) -> None:
    file = tmp_path / "passwords.txt"
    file.write_bytes(b"\xef\xbb\xbffirst\r\n\r\n   \r\n two words \r\n")
    assert read_passwords(str(file)) == ["first", " two words "]


def test_a_replay_names_where_the_runs_are_if_that_is_elsewhere() -> None:
    assert replay_command("/out", "r", "a b.pdf", "/out/_runs") == "pdf-flows retry /out r --document='a b.pdf'"
    assert replay_command("/out/", "r", "a.pdf", "/out/_runs/") == "pdf-flows retry /out/ r --document=a.pdf"
    elsewhere = replay_command("s3://b/out", "r", "a.pdf", "s3://b/my runs")
    assert elsewhere == "pdf-flows retry s3://b/out r --runs='s3://b/my runs' --document=a.pdf"


# -- options of an engine --------------------------------------------------------------------------------------------

DOLPHIN: dict[str, tuple[Any, str]] = {
    "model": ("someone/else", "was ByteDance/Dolphin-1.5, now someone/else"),
    "revision": ("abc", "was None, now abc"),
    "generation": ("1.0", "was None, now 1.0"),
    "dtype": ("float16", "was None, now float16"),
    "images": ("fast", "was strict, now fast"),
    "markdown": ("upstream", "was clean, now upstream"),
    "stop_loops": (False, "was True, now False"),
    "marginalia": (False, "was True, now False"),
    "json_output": (True, "was False, now True"),
}
"""Another value of each, and how it is told."""


def dolphin(**more: Any) -> Options:
    return options_of(**{"input": "in", "output": "out", "engine": "dolphin"} | more)


@pytest.mark.parametrize("engine", ["layout", "dummy", None])
@pytest.mark.parametrize("name", [*(name for name in DOLPHIN if name != "marginalia"), "slots"])
def test_options_of_dolphin_are_refused_for_another_engine(engine: str | None, name: str) -> None:
    others = {} if engine is None else {"engine": engine}
    value = 8 if name == "slots" else DOLPHIN[name][0]
    with pytest.raises(UsageError) as caught:
        options_of(input="in", output="out", **others, **{name: value})
    assert str(caught.value) == f"--{name.replace('_', '-')} goes with --engine dolphin only"


def test_options_at_their_defaults_are_as_good_as_not_given() -> None:
    defaults = dolphin().dolphin
    assert defaults is not None
    found = options_of(
        input="in", output="out", engine="layout", slots=None, **defaults.model_dump(exclude={"marginalia"})
    )
    assert found.dolphin is None
    assert found.identity.engine_options == {}


@pytest.mark.parametrize("name", ["generation", "dtype", "images", "markdown"])
@pytest.mark.parametrize("engine", ["layout", "dolphin"])
def test_a_bad_option_of_dolphin_is_named(engine: str, name: str) -> None:
    with pytest.raises(UsageError, match=rf"\Abad {name}: .* \(given: 'nonsense'\)\Z"):
        options_of(input="in", output="out", engine=engine, **{name: "nonsense"})


def test_options_of_the_layout_engine() -> None:
    plain = options_of(input="in", output="out")
    assert plain.identity.engine_options == {}
    other = options_of(input="in", output="out", figures=False, marginalia=True)
    assert other.identity.engine_options == {"figures": False, "marginalia": True}
    assert difference(plain.identity, other.identity) == "figures was None, now False"
    with pytest.raises(UsageError, match="--no-figures goes with --engine layout only"):
        dolphin(figures=False)
    with pytest.raises(UsageError, match="--marginalia goes with --engine layout and dolphin only"):
        options_of(input="in", output="out", engine="dummy", marginalia=False)
    kept = dolphin(marginalia=None).dolphin
    assert kept is not None
    assert kept.marginalia


def test_upstreams_markdown_keeps_marginalia() -> None:
    with pytest.raises(UsageError, match=r"--no-marginalia goes with --markdown clean"):
        dolphin(marginalia=False, markdown="upstream")


@pytest.mark.parametrize("name", DOLPHIN)
def test_options_of_dolphin_are_part_of_the_identity(name: str) -> None:
    value, told = DOLPHIN[name]
    assert difference(dolphin().identity, dolphin().identity) is None
    what = difference(dolphin().identity, dolphin(**{name: value}).identity)
    assert what == f"{name.replace('_', '-')} {told}"


def test_how_many_sequences_are_read_at_a_time_is_no_part_of_it() -> None:
    assert difference(dolphin().identity, dolphin(slots=7).identity) is None


def test_a_changed_engine_is_named_before_its_options() -> None:
    what = difference(options_of(input="in", output="out", engine="layout").identity, dolphin().identity)
    assert what == "engine was layout, now dolphin"


@pytest.mark.parametrize("spelling", ["models/mine", "./models/mine", "models/../models/mine"])
def test_a_folder_of_a_model_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    options = dolphin(model=spelling)
    assert options.dolphin is not None
    assert Path(options.dolphin.model).is_absolute()
    assert Path(options.dolphin.model).samefile("models/mine")
    assert options.identity.engine_options["model"] == options.dolphin.model
    monkeypatch.chdir("/")
    assert dolphin(model=options.dolphin.model).identity.engine_options == options.identity.engine_options


@pytest.mark.parametrize("model", ["ByteDance/Dolphin-1.5", "s3://bucket/models/mine", "nobody/has-this"])
def test_what_is_no_folder_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(tmp_path)
    options = dolphin(model=model)
    assert options.dolphin is not None
    assert options.dolphin.model == model


@pytest.mark.parametrize(
    ("gpus", "call", "workers"),
    [
        (0, {}, 1),
        (1, {}, 1),
        (2, {}, 2),
        (1, {"workers": 8}, 1),
        (4, {"workers": 8}, 4),
        (1, {"launcher": "work-pool"}, 2),
        (1, {"launcher": "work-pool", "workers": 8}, 8),
        (0, {"engine": "layout"}, 2),
        (0, {"engine": "layout", "workers": 8}, 8),
    ],
)
def test_one_worker_a_device(monkeypatch: pytest.MonkeyPatch, gpus: int, call: dict[str, Any], workers: int) -> None:
    monkeypatch.setattr("tasks.options.gpus", lambda: gpus)
    assert dolphin(**call).workers == workers


def test_runs_from_before_engines_had_options_are_read() -> None:
    kept = options_of(input="in", output="out", engine="layout").identity.model_dump(mode="json")
    del kept["engine_options"]
    old = Identity.model_validate(kept)
    assert old.engine_options == {}
    assert difference(old, options_of(input="in", output="out", engine="layout").identity) is None
