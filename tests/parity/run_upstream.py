"""Runs upstream's own demo on the fixture documents with a tiny checkpoint and keeps all that came out.

Upstream's code is imported from a checkout and not changed; what it asks its model and what it gets is noted from outside.

PYTHONPATH=tests python tests/parity/run_upstream.py 1.5 ../upstream-1.5
PYTHONPATH=tests python tests/parity/run_upstream.py 1.0 ../upstream-1.0
PYTHONPATH=tests python tests/parity/run_upstream.py loop ../upstream-1.5

``requests.json`` has, by document, the calls in their order, each a list of requests: the prompt, the crop's size and the
SHA-256 of its RGB bytes, the text, and the generated tokens, from the prompt's end to the first ``</s>`` and with it.
``figures.json`` has the sizes and hashes of the figures' RGB bytes by file name.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image
from transformers import VisionEncoderDecoderModel

from parity import fixture_pages
from parity.fixture_pages import PROMPTS, Generation

HERE = Path(__file__).parent
RUNS: dict[str, tuple[Generation, str, tuple[str, ...]]] = {
    "1.0": ("1.0", "demo_page_hf.py", ("articles", "letters")),
    "1.5": ("1.5", "demo_page.py", ("articles", "letters")),
    "loop": ("1.5", "demo_page.py", ("letters", "loop")),
}
END = 2


def digest(image: Image.Image) -> dict[str, Any]:
    """An image's size and content."""
    rgb = image.convert("RGB")
    return {"sha256": hashlib.sha256(rgb.tobytes()).hexdigest(), "width": rgb.width, "height": rgb.height}


class Notes:
    """What upstream asks its model, and what it gets."""

    def __init__(self) -> None:
        self.calls: dict[str, list[list[dict[str, Any]]]] = {}
        self._document = ""
        self._ids: list[list[int]] = []

    def watch(self, demo: ModuleType) -> None:
        """Puts itself around upstream's functions."""
        process, chat, generate = demo.process_document, demo.DOLPHIN.chat, VisionEncoderDecoderModel.generate

        def watched_process(document_path: str, **options: Any) -> Any:
            self._document = Path(document_path).stem
            self.calls[self._document] = []
            return process(document_path=document_path, **options)

        def watched_generate(model: VisionEncoderDecoderModel, **options: Any) -> Any:
            result = generate(model, **options)
            self._ids = []
            for row in result.sequences[:, options["decoder_input_ids"].shape[1] :].tolist():
                self._ids.append(row[: row.index(END) + 1] if END in row else row)
            return result

        def watched_chat(model: Any, prompt: str | list[str], image: Any) -> Any:
            answers = chat(model, prompt, image)
            many = isinstance(image, list)
            self.calls[self._document].append(
                [
                    {"prompt": asked, **digest(crop), "output": answer, "ids": ids}
                    for asked, crop, answer, ids in zip(
                        prompt if many else [prompt],
                        image if many else [image],
                        answers if many else [answers],
                        self._ids,
                        strict=True,
                    )
                ]
            )
            return answers

        demo.process_document, demo.DOLPHIN.chat = watched_process, watched_chat
        VisionEncoderDecoderModel.generate = watched_generate


def load(script: Path) -> ModuleType:
    """Upstream's script as a module."""
    sys.path.insert(0, str(script.parent))
    spec = importlib.util.spec_from_file_location("upstream_demo", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines(values: list[Any]) -> str:
    """JSON with a line for each value."""
    return "[\n" + ",\n".join(json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values) + "\n]"


def keep(work: Path, notes: Notes, goldens: Path) -> None:
    """Copies upstream's output to where the tests find it."""
    shutil.rmtree(goldens, ignore_errors=True)
    for folder in ("recognition_json", "markdown"):
        (goldens / folder).mkdir(parents=True)
    for file in sorted(work.glob("recognition_json/*.json")):
        document = json.loads(file.read_text(encoding="utf-8"))
        document["source_file"] = Path(document["source_file"]).name
        text = json.dumps(document, ensure_ascii=False, indent=2)
        (goldens / "recognition_json" / file.name).write_text(text, encoding="utf-8")
    for file in sorted(work.glob("markdown/*.md")):
        shutil.copyfile(file, goldens / "markdown" / file.name)
    figures = {}
    for file in sorted(work.glob("markdown/figures/*")):
        with Image.open(file) as image:
            figures[file.name] = digest(image)
    (goldens / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    calls = ",\n".join(f"{json.dumps(name)}: {lines(found)}" for name, found in notes.calls.items())
    (goldens / "requests.json").write_text(f"{{\n{calls}\n}}\n", encoding="utf-8")


def differences(name: str, generation: Generation, goldens: Path, calls: list[list[dict[str, Any]]]) -> list[str]:
    """Where the result is not what the document says."""
    found = []
    answers = [request["output"] for call in calls for request in call if request["prompt"] == PROMPTS["layout"]]
    pages = json.loads((goldens / "recognition_json" / f"{name}.json").read_text(encoding="utf-8"))["pages"]
    for number, page in enumerate(fixture_pages.DOCUMENTS[name]):
        if answers[number] != page.layout(generation):
            found.append(f"page {number + 1}: another layout")
        elements = {element["reading_order"]: element for element in pages[number]["elements"]}
        wanted = page.elements if page.answer is None else ()
        for order, element in enumerate(wanted):
            got = elements.pop(order, None)
            where = f"{name}, page {number + 1}, element {order} ({element.name(generation)})"
            if got is None:
                found.append(f"{where}: lost")
            elif got["label"] != element.name(generation) or (element.picture is None and got["text"] != element.text):
                found.append(f"{where}: {got['label']} {got['text'][:60]!r} ({len(got['text'])} characters)")
        found.extend(f"{name}, page {number + 1}: unexpected {element}" for element in elements.values())
    return found


def main(run: str, upstream: Path) -> None:
    generation, script, names = RUNS[run]
    torch.set_num_threads(1)
    if generation == "1.0":
        # Upstream gives half-precision pixels to a single-precision model when there is no GPU.
        torch.Tensor.half = torch.Tensor.float  # type: ignore[method-assign]
    demo = load(upstream.resolve() / script)
    notes = Notes()
    notes.watch(demo)
    goldens = HERE / "goldens" / f"upstream-{run}"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in names:
            shutil.copyfile(fixture_pages.FIXTURES / f"{name}.pdf", work / f"{name}.pdf")
        sys.argv = [script, "--model_path", str(HERE / "checkpoints" / run), "--input_path", str(work)]
        demo.main()
        keep(work, notes, goldens)
    for name in names:
        print("\n".join(differences(name, generation, goldens, notes.calls[name])) or f"{name}: as drawn")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", choices=tuple(RUNS))
    parser.add_argument("upstream", type=Path)
    given = parser.parse_args()
    main(given.run, given.upstream)
