"""The dolphin engine from the command line to published files, with a model small enough to read on one core."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos.conftest import home
from chaos.harness import environment
from parity import kit
from PIL import Image

__all__ = ["home"]

PDF_FLOWS = Path(sys.executable).with_name("pdf-flows")
MODEL = str(kit.checkpoint_folder("1.5"))
ASKED = ("--engine", "dolphin", "--model", MODEL, "--json-output", "--json")
FIGURE = re.compile(r"!\[([^\]]*)\]\(([^)]*)\)")


class Command:
    """`pdf-flows` in a place of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        # Sandboxes run as nobody under root; pytest's folders are its own.
        for parent in (folder, folder.parent, folder.parent.parent):
            parent.chmod(0o755)
        self.folder = folder
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir()
        self.environment = environment(home, folder / "tmp", HF_HOME=str(folder / "hf"), NO_PROXY="127.0.0.1,localhost")
        self.environment["PDF_FLOWS_MODELS"] = str(folder / "models")

    def __call__(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        env = self.environment | more
        return subprocess.run([PDF_FLOWS, *words], env=env, capture_output=True, text=True, timeout=240, check=False)

    def convert(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return self("convert", str(self.input), str(self.output), *words, **more)


@pytest.fixture
def pdf_flows(tmp_path: Path, home: Path) -> Command:
    return Command(tmp_path, home)


def found(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one JSON object on stdout."""
    assert done.returncode == 0, done.stdout + done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """What it said, which is one line."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("pdf-flows: ")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def links(text: str) -> list[str]:
    return [match[2] for match in FIGURE.finditer(text)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_convert_again_audit_and_other_options(pdf_flows: Command) -> None:
    """What is published is upstream's, figures and all; a second time there is nothing to do, and that is seen at once."""
    for document in kit.DOCUMENTS:
        shutil.copy(kit.FIXTURES / f"{document}.pdf", pdf_flows.input)
    asked = (*ASKED, "--markdown", "upstream", "--no-stop-loops")
    first = found(pdf_flows.convert(*asked))
    assert (first["converted"], first["failed"], first["remaining"], first["engine"]) == (2, 0, 0, "dolphin")
    output = pdf_flows.output
    expected = json.loads(kit.golden("1.5", "figures.json").read_text())
    for document in kit.DOCUMENTS:
        text = (output / f"{document}.md").read_text("utf-8")
        golden = kit.golden("1.5", "markdown", f"{document}.md").read_text("utf-8")
        # Figures have other places here.
        assert FIGURE.sub(r"![\1]()", text) == FIGURE.sub(r"![\1]()", golden)
        for link, original in zip(links(text), links(golden), strict=True):
            pixels = np.asarray(Image.open(output / link))
            assert hashlib.sha256(pixels.tobytes()).hexdigest() == expected[Path(original).name]["sha256"]
        (file,) = (output / f"{document}.assets").glob("*.json")
        assert file.read_bytes() == kit.golden("1.5", "recognition_json", f"{document}.json").read_bytes()
        others = {f"{document}.assets/{path.name}" for path in (output / f"{document}.assets").iterdir()}
        assert others == {*links(text), f"{document}.assets/{file.name}"}
    before = {path: path.stat().st_mtime_ns for path in output.glob("*.*/*")}

    began = time.monotonic()
    again = found(pdf_flows.convert(*asked))
    assert time.monotonic() - began < 30
    assert (again["converted"], again["skipped"], again["pages"]) == (0, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.*/*")} == before

    accounts = found(pdf_flows("audit", str(output), "--json"))
    assert (accounts["skipped"], accounts["closes"], accounts["finished"]) == (2, True, True)
    assert found(pdf_flows("audit", str(output), first["run_id"], "--json"))["converted"] == 2

    # Another output under the name of a run that has one is refused, and so is another model.
    said = refused(pdf_flows.convert(*ASKED, "--markdown", "clean", "--no-stop-loops", "--run-id", first["run_id"]))
    assert "markdown" in said
    said = refused(
        pdf_flows.convert(*asked[:3], str(kit.checkpoint_folder("1.0")), *asked[4:], "--run-id", first["run_id"])
    )
    assert "model" in said
    assert [path for path in (pdf_flows.folder / "tmp").iterdir() if "pdf-flows" in path.name] == []


@pytest.mark.slow
def test_without_model_and_network_nothing_is_started(pdf_flows: Command) -> None:
    shutil.copy(kit.FIXTURES / "letters.pdf", pdf_flows.input)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        own = str(pdf_flows.folder / "own")
        said = refused(pdf_flows.convert("--engine", "dolphin", HF_ENDPOINT=endpoint, PDF_FLOWS_HOME=own))
        assert "the model ByteDance/Dolphin-1.5 is not on this machine and cannot be fetched (no connection)" in said
        assert "pdf-flows weights fetch ByteDance/Dolphin-1.5 --to FOLDER" in said
        said = refused(pdf_flows("gpu-check", HF_ENDPOINT=endpoint))
        assert "is not on this machine" in said
    assert not Path(own).exists()
    assert not (pdf_flows.output / "_runs").exists()


def test_a_folder_without_a_model_is_refused(pdf_flows: Command) -> None:
    shutil.copy(kit.FIXTURES / "letters.pdf", pdf_flows.input)
    said = refused(pdf_flows.convert("--engine", "dolphin", "--model", str(pdf_flows.input)))
    assert "config.json, preprocessor_config.json, tokenizer.json missing" in said
    assert not (pdf_flows.output / "_runs").exists()


@pytest.mark.slow
def test_gpu_check_without_a_gpu(pdf_flows: Command) -> None:
    """It is the same check, and says whether ways of reading agree."""
    pdf = str(kit.FIXTURES / "letters.pdf")
    facts = found(pdf_flows("gpu-check", "--device", "cpu", "--model", MODEL, "--pdf", pdf, "--json"))
    assert facts["passed"] is True
    assert "cannot be rendered" in refused(
        pdf_flows("gpu-check", "--model", MODEL, "--pdf", str(pdf_flows.input / "no"))
    )
