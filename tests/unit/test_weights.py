"""Model files: from a folder, from S3, from a hub that plays Hugging Face; what is wrong with them is refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import MotoS3
from parity import kit

from tasks import weights
from tasks.corpus.store_s3 import S3Store
from tasks.engines.dolphin.settings import DEFAULT_MODEL
from tasks.weights import PINNED, RECORD, WeightsError, checkpoint_folder

PDF_FLOWS = Path(sys.executable).with_name("pdf-flows")
TINY = {path.name: path.read_bytes() for path in sorted(kit.checkpoint_folder("1.5").iterdir())}
MODEL = "tiny/Dolphin-1.5"
SHA = "5" * 40


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def flipped(data: bytes) -> bytes:
    """As long, and wrong in one byte."""
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where fetched models are kept: never the user's own."""
    folder = tmp_path / "models"
    monkeypatch.setenv("PDF_FLOWS_MODELS", str(folder))
    return folder


# -- folders --------------------------------------------------------------------------------------------------------


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(kit.checkpoint_folder("1.5"), tmp_path / "mine")
    assert checkpoint_folder(str(folder)) == folder
    assert checkpoint_folder(str(folder), verify=True) == folder  # it says nothing of its sums
    monkeypatch.chdir(tmp_path)
    assert checkpoint_folder("mine") == folder
    monkeypatch.setenv("HOME", str(tmp_path))
    assert checkpoint_folder("~/mine") == folder


@pytest.mark.parametrize("model", ["", "no/such/folder", "./none", "/nowhere", "two words", "org/name/..", "a/b\n"])
def test_what_is_neither_folder_nor_id_is_refused(model: str) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        checkpoint_folder(model)


def test_a_folder_that_tells_its_sums_is_held_to_them(tmp_path: Path) -> None:
    folder = shutil.copytree(kit.checkpoint_folder("1.5"), tmp_path / "mine")
    record = weights.Fetched(model="m", revision="r", files={name: sha256(data) for name, data in TINY.items()})
    (folder / RECORD).write_text(record.model_dump_json())
    assert checkpoint_folder(str(folder), verify=True) == folder
    (folder / "model.safetensors").write_bytes(flipped(TINY["model.safetensors"]))
    assert checkpoint_folder(str(folder)) == folder
    with pytest.raises(WeightsError, match=r"model\.safetensors is not what was fetched"):
        checkpoint_folder(str(folder), verify=True)


# -- S3 -------------------------------------------------------------------------------------------------------------


class Prefix:
    """A prefix in a bucket with the tiny model in it."""

    def __init__(self, moto: MotoS3) -> None:
        self.url = f"{moto.new_bucket()}/models/tiny 1.5"
        self._client, self._bucket = moto.client, self.url.split("/")[2]
        for name, data in TINY.items():
            self.put(name, data)

    def put(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"models/tiny 1.5/{name}", Body=data)

    def remove(self, name: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"models/tiny 1.5/{name}")


@pytest.fixture
def prefix(moto_s3: MotoS3) -> Prefix:
    return Prefix(moto_s3)


def test_s3_is_fetched_once(prefix: Prefix, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is a model's; a second time nothing but the listing."""
    prefix.put("pytorch_model.bin", b"a pickle")
    prefix.put("modeling.py", b"raise SystemExit")
    prefix.put("older/model-1.safetensors", b"of another one")
    folder = checkpoint_folder(prefix.url)
    assert folder.parent == models
    assert contents(folder) == TINY
    assert [path.name for path in models.iterdir()] == [folder.name]
    monkeypatch.setattr(S3Store, "fetch", lambda *_: pytest.fail("fetched again"))
    assert checkpoint_folder(prefix.url) == folder
    assert checkpoint_folder(f"{prefix.url}/", verify=True) == folder


def test_a_changed_object_is_fetched_anew(prefix: Prefix) -> None:
    folder = checkpoint_folder(prefix.url)
    changed = TINY["generation_config.json"] + b"\n"
    prefix.put("generation_config.json", changed)
    prefix.remove("special_tokens_map.json")
    assert checkpoint_folder(prefix.url) == folder
    expected = TINY | {"generation_config.json": changed}
    del expected["special_tokens_map.json"]
    assert contents(folder) == expected


def test_what_was_fetched_from_s3_and_changed_here_is_refused(prefix: Prefix) -> None:
    folder = checkpoint_folder(prefix.url)
    (folder / "tokenizer.json").write_bytes(flipped(TINY["tokenizer.json"]))
    with pytest.raises(WeightsError, match=r"remove .* and fetch it again"):
        checkpoint_folder(prefix.url, verify=True)


def test_sums_beside_the_objects_are_held_to(prefix: Prefix, models: Path) -> None:
    """A folder that was fetched can be put into a bucket as it is, `.pdf-flows.json` and all."""
    sums = {name: sha256(data) for name, data in TINY.items()}
    prefix.put(RECORD, weights.Fetched(model=MODEL, revision=SHA, files=sums).model_dump_json().encode())
    folder = checkpoint_folder(prefix.url)
    assert contents(folder) == TINY
    shutil.rmtree(models)
    prefix.put("model.safetensors", flipped(TINY["model.safetensors"]))
    with pytest.raises(WeightsError, match=r"/model\.safetensors is not the file that \.pdf-flows\.json beside it"):
        checkpoint_folder(prefix.url)
    assert list(models.iterdir()) == []
    prefix.put(RECORD, b"{")
    with pytest.raises(WeightsError, match="cannot be fetched"):
        checkpoint_folder(prefix.url)


def test_without_safetensors_nothing_is_fetched(prefix: Prefix, models: Path) -> None:
    prefix.remove("model.safetensors")
    prefix.put("pytorch_model.bin", b"a pickle")
    with pytest.raises(WeightsError, match=r"has no model\.safetensors; .* can run code"):
        checkpoint_folder(prefix.url)
    assert not models.exists()


def test_an_empty_prefix_and_a_missing_bucket(moto_s3: MotoS3) -> None:
    with pytest.raises(WeightsError, match="there is nothing"):
        checkpoint_folder(f"{moto_s3.new_bucket()}/empty")
    with pytest.raises(WeightsError, match="no-such-bucket-at-all") as error:
        checkpoint_folder("s3://no-such-bucket-at-all/model")
    assert "\n" not in str(error.value)


def test_to_names_the_folder_and_removes_nothing_of_others(prefix: Prefix, tmp_path: Path, models: Path) -> None:
    to = tmp_path / "deep" / "mine"
    assert checkpoint_folder(prefix.url, to=to) == to
    assert contents(to) == TINY
    assert not models.exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(WeightsError, match=r"other files in it \('thesis.tex'\)"):
        checkpoint_folder(prefix.url, to=other)
    assert (other / "thesis.tex").read_text() == "years of work"


# -- the hub --------------------------------------------------------------------------------------------------------


class Hub:
    """As much of Hugging Face as fetching a model needs: large files are elsewhere, as there."""

    def __init__(self) -> None:
        self.model, self.sha = MODEL, SHA
        self.files = dict(TINY)
        self.served: dict[str, bytes] = {}
        """Contents that are sent instead of those that were told of."""
        self.requests: list[str] = []
        self.trouble: tuple[int, str] | None = None
        """Status and X-Error-Code of all answers."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.requests.append(f"HEAD {urlsplit(self.path).path}")
                self._answer(*hub.answer(urlsplit(self.path).path))

            def do_GET(self) -> None:
                hub.requests.append(f"GET {urlsplit(self.path).path}")
                self._answer(*hub.answer(urlsplit(self.path).path))

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        if self.trouble is not None:
            return self.trouble[0], {"X-Error-Code": self.trouble[1]}, b""
        if path.startswith("/cdn/"):
            name = path.removeprefix("/cdn/")
            return 200, {"ETag": '"of-the-cdn"'}, self.served.get(name, self.files[name])
        if path in (f"/api/models/{self.model}", f"/api/models/{self.model}/revision/main"):
            return self._info()
        if path.startswith(f"/api/models/{self.model}/revision/"):
            return self._info() if path.endswith(self.sha) else (404, {"X-Error-Code": "RevisionNotFound"}, b"")
        if path.startswith(f"/{self.model}/resolve/{self.sha}/"):
            name = path.rpartition("/")[2]
            told, data = self.files[name], self.served.get(name, self.files[name])
            headers = {"X-Repo-Commit": self.sha, "ETag": f'"{git_blob(told)}"'}
            if not name.endswith(".safetensors"):
                return 200, headers, data
            linked = {"X-Linked-ETag": f'"{sha256(told)}"', "X-Linked-Size": str(len(told))}
            return 302, headers | linked | {"Location": f"{self.url}/cdn/{name}"}, b""
        return 401, {"X-Error-Code": "RepoNotFound"}, b""

    def _info(self) -> tuple[int, dict[str, str], bytes]:
        siblings = []
        for name, data in self.files.items():
            sibling: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_blob(data)}
            if name.endswith(".safetensors"):
                sibling["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
            siblings.append(sibling)
        info = {"_id": "1", "id": self.model, "modelId": self.model, "sha": self.sha, "siblings": siblings}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    def asked(self, text: str) -> list[str]:
        return [request for request in self.requests if text in request]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = Hub()
    yield found
    found.close()


def call(tmp_path: Path, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`pdf-flows weights fetch`, as a user of that hub with nothing fetched before."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [PDF_FLOWS, "weights", "fetch", *words],
        env=kept | own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What it said, which is one line."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("pdf-flows: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_a_model_is_fetched_from_the_hub_verified_and_kept(hub: Hub, tmp_path: Path, models: Path) -> None:
    hub.files |= {"pytorch_model.bin": b"a pickle", "modeling.py": b"raise SystemExit", "README.md": b"# Dolphin-1.5"}
    hub.files |= {"onnx/model-1.safetensors": b"of another kind"}
    done = call(tmp_path, hub.url, MODEL, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    folder = Path(facts["folder"])
    assert folder.parent == models
    assert contents(folder) == TINY | {"README.md": b"# Dolphin-1.5"}
    assert facts["generation"] == "1.5"
    assert facts["parameters"] > 100_000
    assert [path.name for path in models.iterdir()] == [folder.name]
    # A second time the network is not needed.
    hub.requests.clear()
    again = call(tmp_path, hub.url, MODEL, "--json")
    assert json.loads(again.stdout) == facts
    assert hub.requests == []
    # And what was damaged since then is seen.
    (folder / "model.safetensors").write_bytes(flipped(TINY["model.safetensors"]))
    assert f"remove {folder} and fetch it again" in refused(call(tmp_path, hub.url, MODEL))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_file_that_comes_damaged_is_refused(name: str, hub: Hub, tmp_path: Path, models: Path) -> None:
    """By its sha256 where the hub tells one, else by git's."""
    hub.served[name] = flipped(TINY[name])
    assert f"{name} came with another checksum than the hub tells" in refused(call(tmp_path, hub.url, MODEL))
    assert list(models.iterdir()) == []


def test_a_file_that_comes_cut_is_refused(hub: Hub, tmp_path: Path, models: Path) -> None:
    hub.served["model.safetensors"] = TINY["model.safetensors"][:100_000]
    said = refused(call(tmp_path, hub.url, MODEL))
    assert f"the model {MODEL} is not on this machine and cannot be fetched (" in said
    assert "100000" in said
    assert list(models.iterdir()) == []


def test_a_model_without_a_configuration_is_refused(hub: Hub, tmp_path: Path) -> None:
    del hub.files["config.json"]
    assert "has no config.json" in refused(call(tmp_path, hub.url, MODEL))
    assert hub.asked("/resolve/") == []


def test_dolphin_2_is_refused_before_its_weights_are_fetched(hub: Hub, tmp_path: Path, models: Path) -> None:
    hub.files["config.json"] = json.dumps({"model_type": "qwen2_5_vl"}).encode()
    assert "is Dolphin 2, which this engine does not run" in refused(call(tmp_path, hub.url, MODEL))
    assert hub.asked("config.json") != []
    assert hub.asked("safetensors") == []
    assert list(models.iterdir()) == []


def test_pickles_are_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    assert "has no model.safetensors" in refused(call(tmp_path, hub.url, MODEL))
    assert hub.asked("/resolve/") == []


def test_unknown_models_and_revisions(hub: Hub, tmp_path: Path) -> None:
    said = refused(call(tmp_path, hub.url, "tiny/other"))
    assert said == "pdf-flows: no model tiny/other on Hugging Face, and no such folder"
    said = refused(call(tmp_path, hub.url, MODEL, "--revision", "v7"))
    assert said == f"pdf-flows: {MODEL} has no revision v7"


def test_a_model_behind_a_gate_and_a_hub_in_trouble(hub: Hub, tmp_path: Path) -> None:
    hub.trouble = 403, "GatedRepo"
    assert "wants you to log in and to accept its terms first" in refused(call(tmp_path, hub.url, MODEL))
    hub.trouble = 500, ""
    said = refused(call(tmp_path, hub.url, MODEL))
    assert "cannot be fetched (" in said
    assert "500" in said


def test_the_pinned_revision_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.model, hub.sha = DEFAULT_MODEL, PINNED[DEFAULT_MODEL]
    to = tmp_path / "mine"
    done = call(tmp_path, hub.url, "--to", str(to), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(to)
    assert contents(to) == TINY
    assert hub.requests[0] == f"GET /api/models/{DEFAULT_MODEL}/revision/{PINNED[DEFAULT_MODEL]}"
    assert weights.Fetched.model_validate_json((to / RECORD).read_bytes()).revision == PINNED[DEFAULT_MODEL]


def test_without_a_network_one_line_tells_what_to_do(hub: Hub, tmp_path: Path, models: Path) -> None:
    hub.close()
    done = call(tmp_path, hub.url)
    said = refused(done)
    assert done.stderr == said + "\n"
    assert "the model ByteDance/Dolphin-1.5 is not on this machine and cannot be fetched (no connection)" in said
    assert "pdf-flows weights fetch ByteDance/Dolphin-1.5 --to FOLDER" in said
    assert "give --model FOLDER" in said
    assert not models.exists()


def test_what_another_program_has_fetched_is_used(hub: Hub, tmp_path: Path, models: Path) -> None:
    """Hugging Face's own cache: blobs by their sums, and links to them."""
    place = tmp_path / "hf" / "hub" / "models--tiny--Dolphin-1.5"
    snapshot = place / "snapshots" / SHA
    for folder in (snapshot, place / "refs", place / "blobs"):
        folder.mkdir(parents=True)
    (place / "refs" / "main").write_text(SHA)
    for name, data in TINY.items():
        blob = place / "blobs" / (sha256(data) if name.endswith(".safetensors") else git_blob(data))
        blob.write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
    done = call(tmp_path, hub.url, MODEL, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(snapshot)
    assert hub.requests == []
    assert not models.exists()
    blob = (snapshot / "model.safetensors").resolve()
    blob.write_bytes(flipped(TINY["model.safetensors"]))
    assert "is not what was fetched" in refused(call(tmp_path, hub.url, MODEL))
