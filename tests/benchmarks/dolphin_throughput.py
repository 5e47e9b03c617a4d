"""The batched reader against upstream's schedule: the same weights, pages and tokens, in one run.

    .venv/bin/python tests/benchmarks/dolphin_throughput.py [--pages 10] [--slots 48] [--json] --corpus FOLDER

Full-size random weights. What the models "write" is forced, token by token, on both sides: for every page about 300
layout tokens and its text blocks' own lengths (real pages of the corpus; four characters a token, 20 to 400 tokens an
element). Upstream's schedule is transformers' generate() page by page: the layout alone, then elements in batches of at
most 16 of one prompt. Encoding is measured by itself on some of the crops, and its states are given to both decoders,
so that decoding times compare decoding.

Runs unchanged on a GPU (in float16), and then also tells pages/s, the share of the time that the device was busy, and
USD per 1,000 pages for --usd-per-hour.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pymupdf
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import (
    DonutSwinConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MBartConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from transformers.modeling_outputs import BaseModelOutput

from tasks.engines.dolphin.checkpoint import Checkpoint
from tasks.engines.dolphin.device import find, plan
from tasks.engines.dolphin.grammar import Prompt
from tasks.engines.dolphin.images import canvas, prepare
from tasks.engines.dolphin.model import Model
from tasks.engines.dolphin.picker import Picker
from tasks.engines.dolphin.pool import pages_in_flight
from tasks.engines.dolphin.reader import Reader, Request

HERE = Path(__file__).resolve().parent
DONOR = HERE.parent / "parity" / "checkpoints" / "1.5"
VOCABULARY = 73_920
"""One less than the real one, whose prompts' ids are checked; the tokenizer is the tiny checkpoint's."""
LAYOUT_TOKENS_AN_ELEMENT = 18
LEAST, MOST = 20, 400
NEAR_TIE = 1e-4
UPSTREAM_BATCH = 16


@dataclass
class Script:
    """One request: what is forced, and what either side would have written there."""

    key: int
    page: int
    prompt: Prompt
    ids: list[int]
    chosen: dict[str, list[int]] = field(default_factory=dict)
    margins: dict[str, list[float]] = field(default_factory=dict)


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    pages = read_pages(arguments.corpus, arguments.pages)
    scripts = make_scripts(pages)
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours, checkpoint, device = build(Path(folder), tiny=arguments.tiny)
        slots = arguments.slots or device["plan"].slots
        crops = [crop for page in pages for crop in page["crops"]][: arguments.encode]
        images = np.stack([canvas(prepare(crop, checkpoint.side), checkpoint.side) for crop in crops])
        encoded = measure_encoding(theirs, ours, torch.from_numpy(images), device)
        states = encoded.pop("states")
        upstream = run_upstream(theirs, checkpoint, scripts, states)
        own = run_own(ours, checkpoint, scripts, states, slots, device["plan"].images)
    report = compare(scripts, upstream, own, encoded, len(pages), slots, device, arguments.usd_per_hour)
    if arguments.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        for name, value in report.items():
            sys.stdout.write(f"{name:<28} {value}\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with PDFs")
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--slots", type=int, help="default: by the device's memory")
    parser.add_argument("--encode", type=int, default=6, help="images that are encoded by both sides")
    parser.add_argument("--usd-per-hour", type=float, default=0.2)
    parser.add_argument(
        "--tiny", action="store_true", help="the tiny checkpoint's sizes: tries the program, measures nothing"
    )
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


# -- pages --------------------------------------------------------------------------------------------------------------


def read_pages(corpus: Path, count: int) -> list[dict[str, Any]]:
    """Pages of 15 to 20 text blocks, mixed documents, the same in every run."""
    found: list[dict[str, Any]] = []
    files = sorted(corpus.rglob("*.pdf"))
    random.Random(1).shuffle(files)
    for file in files:
        if len(found) == count:
            break
        if "hostile" in file.parts:
            continue
        try:
            with pymupdf.open(file) as document:
                page = next((page for page in list(document)[:40] if 15 <= len(blocks(page)) <= 20), None)
                if page is None:
                    continue
                scale = 896 / max(page.rect.width, page.rect.height)
                pixmap = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale))
                pixels = np.frombuffer(pixmap.samples, np.uint8).reshape(pixmap.height, pixmap.width, 3)
                texts = blocks(page)
        except (RuntimeError, ValueError):
            continue
        crops = [pixels]
        for box, _ in texts:
            x1, y1, x2, y2 = (int(value * scale) for value in box)
            crop = pixels[max(0, y1) : y2 + 1, max(0, x1) : x2 + 1]
            crops.append(crop if min(crop.shape[:2]) > 3 else pixels)
        found.append({"name": file.name, "texts": [text for _, text in texts], "crops": crops})
    if len(found) < count:
        raise SystemExit(f"only {len(found)} pages of 15 to 20 blocks in {corpus}")
    return found


def blocks(page: Any) -> list[tuple[tuple[float, ...], str]]:
    return [(block[:4], block[4]) for block in page.get_text("blocks") if block[6] == 0 and block[4].strip()]


def make_scripts(pages: list[dict[str, Any]]) -> list[Script]:
    """The layout of each page, then its elements: one a table, one a formula, the rest text."""
    scripts: list[Script] = []
    for number, page in enumerate(pages):
        count = len(page["texts"])
        layout = "".join(page["texts"])[: 4 * LAYOUT_TOKENS_AN_ELEMENT * count].ljust(
            4 * LAYOUT_TOKENS_AN_ELEMENT * count
        )
        scripts.append(Script(len(scripts), number, Prompt.LAYOUT, forced(layout)))
        for index, text in enumerate(page["texts"]):
            prompt = {1: Prompt.TABLE, 2: Prompt.FORMULA}.get(index, Prompt.TEXT)
            scripts.append(Script(len(scripts), number, prompt, forced(text[: 4 * MOST].ljust(4 * LEAST))))
    return scripts


def forced(text: str) -> list[int]:
    pieces = (text[at : at + 4] for at in range(0, len(text), 4))
    return [10 + zlib.crc32(piece.encode()) % (VOCABULARY - 20) for piece in pieces]


# -- models -------------------------------------------------------------------------------------------------------------


def build(folder: Path, *, tiny: bool) -> tuple[Any, Model, Checkpoint, dict[str, Any]]:
    """transformers' model and ours, with the same random weights."""
    sizes = (
        dict(image_size=[224, 224], patch_size=8, embed_dim=32, depths=[1, 2, 1], num_heads=[2, 4, 8])
        if tiny
        else dict(image_size=[896, 896], patch_size=4, embed_dim=128, depths=[2, 2, 14, 2], num_heads=[4, 8, 16, 32])
    )
    decoder_sizes = (
        dict(d_model=128, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=256)
        if tiny
        else dict(d_model=1024, decoder_layers=10, decoder_attention_heads=16, decoder_ffn_dim=4096)
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        DonutSwinConfig(window_size=7, **sizes),
        MBartConfig(
            vocab_size=VOCABULARY, max_position_embeddings=4096, is_decoder=True, add_cross_attention=True,
            is_encoder_decoder=False, scale_embedding=True, bos_token_id=0, pad_token_id=1, eos_token_id=2,
            decoder_start_token_id=0, forced_eos_token_id=2, **decoder_sizes,
        ),
    )  # fmt: skip
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 1, 2
    theirs = VisionEncoderDecoderModel(config=config).eval()
    side = sizes["image_size"][0]  # type: ignore[index]
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(DONOR / name, folder / name)
    processor = json.loads((DONOR / "preprocessor_config.json").read_text())
    processor["size"] = {"height": side, "width": side}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    (folder / "config.json").write_text(config.to_json_string(use_diff=False))
    save_file({"none": torch.zeros(1)}, str(folder / "model.safetensors"))
    checkpoint = Checkpoint(folder)
    device = find()
    chosen = plan(checkpoint.config, device, sum(weight.numel() for weight in theirs.parameters()), None, None)
    dtype, where = getattr(torch, chosen.dtype), torch.device(device.kind)
    ours = Model(checkpoint, where, dtype, weights=theirs.state_dict())
    return theirs.to(where, dtype), ours, checkpoint, {"device": device, "plan": chosen}


def synchronise(where: torch.device) -> float:
    if where.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


@torch.inference_mode()
def measure_encoding(theirs: Any, ours: Model, images: torch.Tensor, device: dict[str, Any]) -> dict[str, Any]:
    """Seconds an image: ours in the batches that the plan chose, theirs alone and eight at a time (the better counts)."""
    images = images.to(ours.device)
    pixels = ours.normalise(images)
    seconds: dict[str, list[float]] = {"own": [], "upstream_1": [], "upstream_8": []}
    size = device["plan"].images
    ours.encode(images[:1])
    theirs.encoder(pixels[:1])
    found, other = [], []
    for at in range(0, len(images), size):
        # In turn, so that whatever else the machine does meets both.
        began = synchronise(ours.device)
        found.append(ours.encode(images[at : at + size]))
        seconds["own"].append((synchronise(ours.device) - began) / len(found[-1]))
        for image in pixels[at : at + size]:
            began = synchronise(ours.device)
            other.append(theirs.encoder(image[None]).last_hidden_state)
            seconds["upstream_1"].append(synchronise(ours.device) - began)
    states = torch.cat(found)
    began = synchronise(ours.device)
    theirs.encoder(pixels[:8])
    seconds["upstream_8"].append((synchronise(ours.device) - began) / len(pixels[:8]))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    apart = (states - torch.cat(other)).abs().max().item()
    return {"states": states, "apart": apart, **medians}


# -- upstream's schedule ------------------------------------------------------------------------------------------------


class Forcing(LogitsProcessor):
    """Notes what would have been picked, and forces what the scripts say."""

    def __init__(self, scripts: list[Script], prompt: int, unknown: int, end: int) -> None:
        self._scripts, self._prompt, self._unknown, self._end = scripts, prompt, unknown, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        at = input_ids.shape[1] - self._prompt
        scores[:, self._unknown] = -torch.inf
        best = scores.topk(2, dim=-1)
        wanted = []
        for row, script in enumerate(self._scripts):
            if at <= len(script.ids):
                script.chosen.setdefault("upstream", []).append(int(best.indices[row, 0]))
                script.margins.setdefault("upstream", []).append(float(best.values[row, 0] - best.values[row, 1]))
            wanted.append(script.ids[at] if at < len(script.ids) else self._end)
        only = torch.full_like(scores, -torch.inf)
        only[torch.arange(len(wanted)), torch.tensor(wanted)] = 0
        return only


@torch.inference_mode()
def run_upstream(theirs: Any, checkpoint: Checkpoint, scripts: list[Script], states: torch.Tensor) -> dict[str, float]:
    steps, tokenizer = 0, checkpoint.tokenizer
    began = synchronise(theirs.device)
    for page in range(max(script.page for script in scripts) + 1):
        on_page = [script for script in scripts if script.page == page]
        for prompt in (Prompt.LAYOUT, Prompt.TABLE, Prompt.FORMULA, Prompt.CODE, Prompt.TEXT):
            alike = [script for script in on_page if script.prompt is prompt]
            for at in range(0, len(alike), UPSTREAM_BATCH):
                batch = alike[at : at + UPSTREAM_BATCH]
                ids = torch.tensor([tokenizer.prompt(prompt)] * len(batch), device=theirs.device)
                encoded = states[[script.key % len(states) for script in batch]]
                theirs.generate(
                    encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
                    decoder_input_ids=ids,
                    decoder_attention_mask=torch.ones_like(ids),
                    min_length=1,
                    max_length=4096,
                    pad_token_id=1,
                    eos_token_id=2,
                    use_cache=True,
                    do_sample=False,
                    num_beams=1,
                    logits_processor=LogitsProcessorList(
                        [Forcing(batch, ids.shape[1], tokenizer.unknown, tokenizer.end)]
                    ),
                )
                steps += max(len(script.ids) for script in batch) + 1
    return {"steps": steps, "seconds": synchronise(theirs.device) - began}


# -- our schedule -------------------------------------------------------------------------------------------------------


class ScriptedPicker(Picker):
    """The same for our reader: all in tensors, so that it can be part of a CUDA graph."""

    def __init__(
        self, rows: int, unknown: int, end: int, scripts: list[Script], prompts: dict[Prompt, int], where: Any
    ) -> None:
        super().__init__(rows, VOCABULARY, unknown, where)
        longest = max(len(script.ids) for script in scripts) + 3  # the last column is for rows that nobody is in
        self._scripts, self._prompts = {script.key: script for script in scripts}, prompts
        self._forced = torch.full((rows, longest), end, device=where)
        self._chosen = torch.zeros((rows, longest), dtype=torch.long, device=where)
        self._margins = torch.zeros((rows, longest), device=where)
        self._starts = torch.zeros(rows, dtype=torch.long, device=where)
        self._keys: list[int | None] = [None] * rows
        self._end = end

    def admit(self, rows: Any, prompts: Any, keys: Any) -> None:
        for row, prompt, key in zip(rows, prompts, keys, strict=True):
            self.keep(row)
            script = self._scripts[key]
            self._forced[row] = self._end
            self._forced[row, : len(script.ids)] = torch.tensor(script.ids, device=self._forced.device)
            self._starts[row], self._keys[row] = len(prompt), key

    def keep(self, row: int) -> None:
        """What the row's sequence would have written, to its script."""
        key = self._keys[row]
        if key is not None:
            script = self._scripts[key]
            script.chosen["own"] = self._chosen[row, : len(script.ids) + 1].tolist()
            script.margins["own"] = self._margins[row, : len(script.ids) + 1].tolist()
            self._keys[row] = None

    def keep_all(self) -> None:
        for row in range(len(self._keys)):
            self.keep(row)

    def copy_row(self, source: int, target: int, other: Picker) -> None:
        assert isinstance(other, ScriptedPicker)
        self.keep(target)
        for mine, its in zip(self._tensors(), other._tensors(), strict=True):
            mine[target] = its[source]
        self._keys[target], other._keys[source] = other._keys[source], None

    def pick(self, logits: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits[:, self._unknown] = -torch.inf
        best = logits.topk(2, dim=-1)
        at = positions + 1 - self._starts[rows]
        last = self._forced.shape[1] - 1
        at = torch.where((at < 0) | (at > last), last, at)
        self._chosen[rows, at] = best.indices[:, 0]
        self._margins[rows, at] = (best.values[:, 0] - best.values[:, 1]).float()
        return self._forced[rows, at]

    def _tensors(self) -> tuple[torch.Tensor, ...]:
        return self._forced, self._chosen, self._margins, self._starts


class GivenStates:
    """Our model, with the encoder's states given: the first pixels of an image say which."""

    def __init__(self, model: Model, states: torch.Tensor) -> None:
        self._model, self._states = model, states

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return self._states[images[:, 0, 0, 0].long()]


def run_own(
    ours: Model, checkpoint: Checkpoint, scripts: list[Script], states: torch.Tensor, slots: int, images: int
) -> dict[str, Any]:
    """All layouts and elements through one reader.

    The elements of a page come when its layout was read; as many pages at a time as the pool keeps in flight.
    """
    tokenizer = checkpoint.tokenizer
    prompts = {prompt: len(tokenizer.prompt(prompt)) for prompt in Prompt}
    pickers: list[ScriptedPicker] = []

    def make(rows: int) -> ScriptedPicker:
        pickers.append(ScriptedPicker(rows, tokenizer.unknown, tokenizer.end, scripts, prompts, ours.device))
        return pickers[-1]

    reader = Reader(
        GivenStates(ours, states),  # type: ignore[arg-type]
        checkpoint, slots=slots, images=images, stop_loops=False, picker=make,
    )  # fmt: skip
    in_flight = pages_in_flight(slots)
    pages = max(script.page for script in scripts) + 1
    left = {page: sum(script.page == page for script in scripts) for page in range(pages)}
    waiting = list(range(pages))
    by_key = {script.key: script for script in scripts}

    def submit(script: Script) -> None:
        pixels: NDArray[np.uint8] = np.full((1, 1, 3), script.key % len(states), np.uint8)
        reader.submit(Request(script.key, script.prompt, pixels, 0, 0))

    began = synchronise(ours.device)
    for page in waiting[:in_flight]:
        submit(next(script for script in scripts if script.page == page))
    del waiting[:in_flight]
    texts: dict[int, list[int]] = {}
    while not reader.idle:
        for answer in reader.advance():
            texts[answer.key] = answer.ids
            script = by_key[answer.key]
            left[script.page] -= 1
            if script.prompt is Prompt.LAYOUT:
                for element in scripts:
                    if element.page == script.page and element.prompt is not Prompt.LAYOUT:
                        submit(element)
            if not left[script.page] and waiting:
                submit(next(element for element in scripts if element.page == waiting[0]))
                del waiting[0]
    seconds = synchronise(ours.device) - began
    for picker in pickers:
        picker.keep_all()
    stats = reader.stats
    forced_right = all(texts.get(script.key) == script.ids for script in scripts)
    return {"steps": stats.steps, "rows": stats.rows, "seconds": seconds, "complete": forced_right}


# -- the report ---------------------------------------------------------------------------------------------------------


def compare(
    scripts: list[Script], upstream: dict[str, float], own: dict[str, Any], encoded: dict[str, Any], pages: int, slots: int,
    device: dict[str, Any], usd_per_hour: float,
) -> dict[str, Any]:  # fmt: skip
    tokens = different = 0
    near: list[dict[str, Any]] = []
    for script in scripts:
        for at, (one, other) in enumerate(zip(script.chosen["upstream"], script.chosen["own"], strict=True)):
            tokens += 1
            if one != other:
                margin = min(script.margins["upstream"][at], script.margins["own"][at])
                if margin < NEAR_TIE:
                    near.append({"request": script.key, "token": at, "margin": margin})
                else:
                    different += 1
    images = len(scripts) / pages
    best = min(encoded["upstream_1"], encoded["upstream_8"])
    report = {
        "pages": pages,
        "requests": len(scripts),
        "tokens": tokens,
        "slots": slots,
        "steps_ratio": round(own["steps"] / upstream["steps"], 4),
        "decode_time_ratio": round(own["seconds"] / upstream["seconds"], 4),
        "encode_time_ratio": round(encoded["own"] / best, 4),
        "tokens_identical": different == 0 and own["complete"],
        "tokens_different": different,
        "near_ties": near,
        "steps_a_page": {"own": round(own["steps"] / pages, 1), "upstream": round(upstream["steps"] / pages, 1)},
        "decode_seconds_a_page": {
            name: round(side["seconds"] / pages, 2) for name, side in (("own", own), ("upstream", upstream))
        },
        "rows_a_step": round(own["rows"] / own["steps"], 1),
        "encode_seconds_an_image": {name: round(encoded[name], 3) for name in ("own", "upstream_1", "upstream_8")},
        "states_apart": encoded["apart"],
        "device": device["device"].name,
        "dtype": device["plan"].dtype.value,
    }
    if device["device"].kind == "cuda":
        a_page = own["seconds"] / pages + images * encoded["own"]
        report |= {
            "pages_per_second": round(1 / a_page, 3),
            "device_busy_seconds_a_page": round(a_page, 4),
            "usd_per_1000_pages": round(1000 * a_page / 3600 * usd_per_hour, 4),
        }
    return report


if __name__ == "__main__":
    main()
