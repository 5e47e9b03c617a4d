"""Where a model's files are kept: whole or not at all, the revision that was asked for, and never over what is somebody's.

Fetching as such: test_weights.py. The hub is a small server here that talks as Hugging Face's does; S3 is moto.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from conftest import MotoS3
from huggingface_hub import constants
from parity.kit import checkpoint_folder as tiny

from tasks.corpus.failures import UsageError
from tasks.engines.dolphin.checkpoint import Checkpoint
from tasks.engines.dolphin.settings import DEFAULT_MODEL, DolphinOptions
from tasks.weights import (
    MODELS_VARIABLE,
    PINNED,
    RECORD,
    Fetched,
    check_model,
    checkpoint_folder,
)

ORIGINAL = tiny("1.5")
WEIGHTS = "model.safetensors"
NEWEST = "a" * 40
OTHER = "b" * 40
MODEL = "someone/Dolphin-1.5"


class Hub:
    """What the server has, and what it was asked for."""

    def __init__(self) -> None:
        self.files = {file.name: file.read_bytes() for file in ORIGINAL.iterdir()}
        self.files |= {
            "pytorch_model.bin": b"a pickle",
            "modeling_evil.py": b"import os",
            "sub/model.safetensors": b"x",
        }
        self.told: dict[str, bytes] = {}
        """Name to the content whose sums are told, where they are not those of what is sent."""
        self.commits = {"main": NEWEST, NEWEST: NEWEST, OTHER: OTHER, PINNED[DEFAULT_MODEL]: PINNED[DEFAULT_MODEL]}
        self.models = {MODEL, DEFAULT_MODEL}
        self.gated = False
        self.asked: list[str] = []

    @property
    def fetched(self) -> list[str]:
        """Names of the files that were sent."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET") and "/resolve/" in line]

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        parts = unquote(path).strip("/").split("/")
        if parts[0] == "api":
            model, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
        else:
            model, revision = "/".join(parts[:2]), parts[3]
        if model not in self.models:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        commit = self.commits.get(revision)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if parts[0] == "api":
            facts = {"id": model, "sha": commit, "siblings": [self._sibling(name) for name in self.files]}
            return 200, {"Content-Type": "application/json"}, json.dumps(facts).encode()
        content = self.files["/".join(parts[4:])]
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}, content

    def _sibling(self, name: str) -> dict[str, Any]:
        content = self.told.get(name, self.files[name])
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        found: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob}
        if name.endswith(".safetensors"):
            found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return found


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched models are kept; nothing of the user's is seen."""
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    return tmp_path / "models"


def point_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that answers."""
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.reply(body=False)

        def do_GET(self) -> None:
            self.reply(body=True)

        def reply(self, *, body: bool) -> None:
            path = urlsplit(self.path).path
            state.asked.append(f"{self.command} {path}")
            status, headers, content = state.answer(path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are refused."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    point_to(monkeypatch, f"http://127.0.0.1:{port}")


def refusal(call: Callable[[], object]) -> str:
    """The one line that it is refused with."""
    with pytest.raises(UsageError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def record(folder: Path) -> Fetched:
    return Fetched.model_validate_json((folder / RECORD).read_bytes())


def nothing_is_left(folder: Path) -> bool:
    return not folder.is_dir() or not list(folder.iterdir())


# -- the first time --------------------------------------------------------------------------------------------------


def test_a_folder_beats_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / MODEL).mkdir(parents=True)
    assert checkpoint_folder(MODEL) == tmp_path / MODEL


def test_fetched_once_and_only_what_is_wanted(hub: Hub, models: Path) -> None:
    folder = checkpoint_folder(MODEL)
    assert folder == models / "someone--Dolphin-1.5@main"
    names = {file.name for file in ORIGINAL.iterdir()}
    assert {file.name for file in folder.iterdir()} == {*names, RECORD}
    assert all((folder / name).read_bytes() == hub.files[name] for name in names)
    assert sorted(hub.fetched) == sorted(names)
    assert record(folder).revision == NEWEST
    assert [file.name for file in models.iterdir()] == [folder.name], "nothing temporary is left"
    Checkpoint(folder)
    hub.asked.clear()
    assert checkpoint_folder(MODEL, verify=True) == folder
    assert not hub.asked


def test_another_revision_is_another_folder(hub: Hub) -> None:
    first, second = checkpoint_folder(DEFAULT_MODEL), checkpoint_folder(DEFAULT_MODEL, OTHER)
    assert first != second
    assert record(second).revision == OTHER


def test_a_model_without_a_configuration(hub: Hub, models: Path) -> None:
    del hub.files["config.json"]
    message = refusal(lambda: checkpoint_folder(MODEL))
    assert "config.json" in message
    assert ".fetching-" not in message, "it names the model, not a folder that is gone"
    assert nothing_is_left(models)


def test_a_run_is_refused_with_the_same_line(no_network: None) -> None:
    message = refusal(lambda: check_model(DolphinOptions()))
    assert message.startswith(f"the model {DEFAULT_MODEL} is not on this machine and cannot be fetched (no connection)")


def test_a_download_that_breaks_off(hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Hub.answer

    def breaks(self: Hub, path: str) -> tuple[int, dict[str, str], bytes]:
        gone = path.endswith("tokenizer.json")  # by then: a 500 is tried again for long
        return (404, {"X-Error-Code": "EntryNotFound"}, b"") if gone else real(self, path)

    monkeypatch.setattr(Hub, "answer", breaks)
    assert f"the model {MODEL} is not on this machine and cannot be fetched (" in refusal(
        lambda: checkpoint_folder(MODEL)
    )
    assert nothing_is_left(models)


# -- the hub's own cache ---------------------------------------------------------------------------------------------


def cached(tmp_path: Path, commit: str = NEWEST) -> Path:
    """As huggingface_hub keeps what another program fetched: links to blobs that are named by their sums."""
    repository = tmp_path / "hub-cache" / "models--someone--Dolphin-1.5"
    snapshot, blobs = repository / "snapshots" / commit, repository / "blobs"
    for folder in (snapshot, blobs, repository / "refs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in ORIGINAL.iterdir():
        content = file.read_bytes()
        name = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if file.name == WEIGHTS:
            name = hashlib.sha256(content).hexdigest()
        (blobs / name).write_bytes(content)
        (snapshot / file.name).symlink_to(blobs / name)
    return snapshot


def test_what_another_program_has_fetched_is_taken(tmp_path: Path, no_network: None) -> None:
    snapshot = cached(tmp_path)
    assert checkpoint_folder(MODEL) == snapshot
    assert checkpoint_folder(MODEL, NEWEST, verify=True) == snapshot


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_it_is_verified_as_well(tmp_path: Path, no_network: None, name: str) -> None:
    snapshot = cached(tmp_path)
    (snapshot / name).resolve().write_bytes(b"damaged")
    message = refusal(lambda: checkpoint_folder(MODEL, verify=True))
    assert str(snapshot / name) in message


def test_a_part_of_it_is_not_enough(tmp_path: Path, hub: Hub, models: Path) -> None:
    snapshot = cached(tmp_path)
    (snapshot / WEIGHTS).rename(snapshot / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert checkpoint_folder(MODEL).parent == models


# -- a folder of one's own -------------------------------------------------------------------------------------------


def test_kept_where_it_was_asked_for(hub: Hub, tmp_path: Path) -> None:
    to = tmp_path / "new" / "place"
    assert checkpoint_folder(MODEL, to=to) == to
    assert checkpoint_folder(str(to), verify=True) == to
    hub.asked.clear()
    assert checkpoint_folder(MODEL, to=to) == to
    assert not hub.asked


def test_an_empty_folder_will_do(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert record(checkpoint_folder(MODEL, to=tmp_path / "empty")).model == MODEL


def test_a_folder_with_somebodys_files_is_not_replaced(hub: Hub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "letters").mkdir(parents=True)
    (home / "letters" / "dear.txt").write_text("dear")
    message = refusal(lambda: checkpoint_folder(MODEL, to=home))
    assert str(home) in message
    assert (home / "letters" / "dear.txt").read_text() == "dear"
    assert not hub.fetched, "refused before anything is fetched"


def test_what_somebody_put_beside_a_fetched_model_stays(hub: Hub, tmp_path: Path) -> None:
    to = checkpoint_folder(MODEL, to=tmp_path / "place")
    (to / "notes.txt").write_text("mine")
    refusal(lambda: checkpoint_folder(DEFAULT_MODEL, to=to))
    assert (to / "notes.txt").read_text() == "mine"
    assert record(to).model == MODEL


def test_another_model_or_revision_takes_the_place_of_a_fetched_one(hub: Hub, tmp_path: Path) -> None:
    to = tmp_path / "place"
    checkpoint_folder(MODEL, to=to)
    assert record(checkpoint_folder(MODEL, OTHER, to=to)).revision == OTHER
    assert record(checkpoint_folder(DEFAULT_MODEL, to=to)).model == DEFAULT_MODEL
    assert record(checkpoint_folder(MODEL, "main", to=to)).revision == NEWEST


# -- S3 --------------------------------------------------------------------------------------------------------------


class Bucket:
    """A prefix with a model."""

    def __init__(self, moto: MotoS3) -> None:
        self._moto = moto
        self.bucket = moto.new_bucket().removeprefix("s3://")
        self.url = f"s3://{self.bucket}/models/mine"
        for file in ORIGINAL.iterdir():
            self.put(file.name, file.read_bytes())

    def put(self, name: str, content: bytes) -> None:
        self._moto.client.put_object(Bucket=self.bucket, Key=f"models/mine/{name}", Body=content)

    def remove(self, name: str) -> None:
        self._moto.client.delete_object(Bucket=self.bucket, Key=f"models/mine/{name}")


@pytest.fixture
def bucket(moto_s3: MotoS3) -> Bucket:
    return Bucket(moto_s3)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is fetched from S3."""
    from tasks.corpus.store_s3 import S3Store

    names: list[str] = []
    real = S3Store.fetch

    def fetch(self: S3Store, name: str, *arguments: Any, **more: Any) -> Any:
        names.append(name)
        return real(self, name, *arguments, **more)

    monkeypatch.setattr(S3Store, "fetch", fetch)
    return names


def test_s3_is_fetched_once(bucket: Bucket, fetches: list[str], models: Path) -> None:
    for name in ("pytorch_model.bin", "modeling_evil.py", "model-old/model.safetensors"):
        bucket.put(name, b"x")
    folder = checkpoint_folder(bucket.url)
    assert folder.parent == models
    assert sorted(fetches) == sorted(file.name for file in ORIGINAL.iterdir())
    assert all((folder / file.name).read_bytes() == file.read_bytes() for file in ORIGINAL.iterdir())
    assert [file.name for file in models.iterdir()] == [folder.name]
    Checkpoint(folder)
    fetches.clear()
    assert checkpoint_folder(f"{bucket.url}/", verify=True) == folder
    assert fetches == []


def test_a_model_that_was_fetched_to_a_folder_can_be_put_on_s3(bucket: Bucket, hub: Hub, tmp_path: Path) -> None:
    """With its record: the sums are then checked against it."""
    folder = checkpoint_folder(MODEL, to=tmp_path / "place")
    bucket.put(RECORD, (folder / RECORD).read_bytes())
    fetched = checkpoint_folder(bucket.url)
    assert record(fetched).model == bucket.url
    bucket.put(WEIGHTS, b"something else")
    message = refusal(lambda: checkpoint_folder(bucket.url))
    assert message == f"{bucket.url}/{WEIGHTS} is not the file that {RECORD} beside it tells of: put it there again"
    assert (fetched / WEIGHTS).read_bytes() == (ORIGINAL / WEIGHTS).read_bytes(), "what was here is still there"


def test_a_record_on_s3_that_is_none(bucket: Bucket, models: Path) -> None:
    bucket.put(RECORD, b"{")
    assert refusal(lambda: checkpoint_folder(bucket.url)).startswith(f"--model {bucket.url} cannot be fetched: ")
    assert nothing_is_left(models)


def test_s3_into_a_folder_with_somebodys_files(bucket: Bucket, tmp_path: Path, fetches: list[str]) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dear.txt").write_text("dear")
    assert str(tmp_path / "home") in refusal(lambda: checkpoint_folder(bucket.url, to=tmp_path / "home"))
    assert (tmp_path / "home" / "dear.txt").read_text() == "dear"
    assert fetches == []


def test_who_fetches_at_the_same_time_gets_the_same(bucket: Bucket) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(checkpoint_folder(bucket.url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(folders) == 4
    assert len(set(folders)) == 1
    Checkpoint(folders[0])


# -- the command -----------------------------------------------------------------------------------------------------


def fetch(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    from deployments.cli import _run

    monkeypatch.setattr("sys.argv", ["pdf-flows", "weights", "fetch", *arguments])
    return _run()


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_the_command_fetches_and_tells(
    hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(monkeypatch, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    folder = models / f"ByteDance--Dolphin-1.5@{PINNED[DEFAULT_MODEL]}"
    found = Checkpoint(folder)
    assert facts == {
        "folder": str(folder), "generation": "1.5", "parameters": found.parameters(), "sha256": found.fingerprint()
    }  # fmt: skip
    assert fetch(monkeypatch) == 0
    assert f"folder:      {folder}" in capsys.readouterr().out


def test_the_command_refuses_in_one_line(
    no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nothing").mkdir()
    damaged = tmp_path / "damaged"
    shutil.copytree(ORIGINAL, damaged)
    (damaged / WEIGHTS).write_bytes(b"short")
    for arguments in ([], [str(tmp_path / "nothing")], [str(damaged)], ["no-such-folder"]):
        assert fetch(monkeypatch, *arguments) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("pdf-flows: ")
        assert said.err.count("\n") == 1


def test_a_folder_cannot_be_fetched_to_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would not be there afterwards, and nothing would say so."""
    assert fetch(monkeypatch, str(ORIGINAL), "--to", str(tmp_path / "place")) == 2
    assert "--to" in capsys.readouterr().err
