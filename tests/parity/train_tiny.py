"""Trains a tiny checkpoint of Dolphin's real architecture until it reads the fixture pages without a mistake.

It learns what upstream's own code cuts out of the pages, which is imported from a checkout; that code itself is not part of
this project. Needs torch, transformers 4.47.0, opencv and PyMuPDF, none of the project's packages.

OMP_NUM_THREADS=1 PYTHONPATH=tests python tests/parity/train_tiny.py 1.5 ../upstream-1.5 tests/parity/checkpoints/1.5
OMP_NUM_THREADS=1 PYTHONPATH=tests python tests/parity/train_tiny.py 1.0 ../upstream-1.0 tests/parity/checkpoints/1.0
OMP_NUM_THREADS=1 PYTHONPATH=tests python tests/parity/train_tiny.py 1.5 ../upstream-1.5 tests/parity/checkpoints/loop --loop
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    DonutImageProcessor,
    DonutProcessor,
    DonutSwinConfig,
    GenerationConfig,
    MBartConfig,
    PreTrainedTokenizerFast,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)
from transformers.utils import logging as transformers_log

from parity import fixture_pages
from parity.fixture_pages import PROMPTS, Generation

IMAGE = 224
POSITIONS = 4096
END = 2
PENALTY = {"1.0": 1.1, "1.5": 1.0}
REPEATS = 150
"""Units of an endless answer that are trained."""
MARGIN = 3.0
"""By how much every token is to win against the next best one, so that no rounding changes an answer."""
CLOSE_MARGIN = 0.4
"""The same for answers that a penalty on repetition changes: it has to make up for it."""
SPECIAL = ("[PAIR_SEP]", "[RELATION_SEP]", "<table>", "</table>", "<tr>", "</tr>", "<td>", "</td>", " <Answer/>")


@dataclass(frozen=True)
class Sample:
    """A question about an image, and the answer to learn."""

    image: Image.Image
    prompt: str
    text: str
    endless: bool = False
    penalised: bool = True
    """Whether the penalty on repetition applies when this answer is given."""
    margin: float = MARGIN


def samples(names: Iterable[str], generation: Generation, utils: Any) -> Iterator[Sample]:
    """What upstream will ask about the documents."""
    for name in names:
        images = utils.convert_pdf_to_images(str(fixture_pages.FIXTURES / f"{name}.pdf"))
        for image, page in zip(images, fixture_pages.DOCUMENTS[name], strict=True):
            layout = page.layout(generation)
            yield Sample(image.convert("RGB"), PROMPTS["layout"], layout)
            padded, dims = utils.prepare_image(image)
            before = None
            # A page with an answer of its own has no entries.
            for (box, _), element in zip(utils.parse_layout_string(layout), page.elements, strict=page.answer is None):
                x1, y1, x2, y2, *_, before = utils.process_coordinates(box, padded, dims, before)
                prompt = element.prompt(generation)
                if prompt is None or min(x2 - x1, y2 - y1) <= 3:
                    continue
                crop = Image.fromarray(cv2.cvtColor(padded[y1:y2, x1:x2], cv2.COLOR_BGR2RGB))
                endless = element.unit is not None
                text = (
                    element.text.removesuffix("</tr></table>") + (element.unit or "") * REPEATS
                    if endless
                    else element.text
                )
                found = Sample(crop, prompt, text, endless)
                if generation == "1.0" and element.decoy:
                    found = replace(found, margin=CLOSE_MARGIN)
                    yield replace(found, text=element.decoy, penalised=False)
                yield found


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the real one's rules; separators, table tags and the answer's mark are special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        min_frequency=2,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )


def make_model(vocabulary: int) -> VisionEncoderDecoderModel:
    """The real architecture, small; two stages have shifted windows."""
    encoder = DonutSwinConfig(
        image_size=[IMAGE, IMAGE],
        patch_size=8,
        embed_dim=32,
        depths=[2, 2, 1],
        num_heads=[2, 4, 8],
        window_size=7,
        mlp_ratio=1.5,
        drop_path_rate=0.0,
    )
    special = {
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": END,
        "decoder_start_token_id": 0,
        "forced_eos_token_id": END,
    }
    decoder = MBartConfig(
        vocab_size=vocabulary,
        d_model=128,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=192,
        encoder_layers=2,  # transformers 5 takes the number of caches from it
        encoder_attention_heads=4,
        encoder_ffn_dim=192,
        max_position_embeddings=POSITIONS,
        is_decoder=True,
        add_cross_attention=True,
        is_encoder_decoder=False,
        scale_embedding=True,
        add_final_layer_norm=True,
        dropout=0.0,
        attention_dropout=0.0,
        **special,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 1, END
    model = VisionEncoderDecoderModel(config=config)
    model.generation_config = GenerationConfig(**special)
    return model


@dataclass
class Batch:
    """Samples of similar length, padded."""

    rows: list[int]
    pixels: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    mask: torch.Tensor
    penalty: torch.Tensor
    margins: torch.Tensor

    def logits(self, model: VisionEncoderDecoderModel, noise: float) -> torch.Tensor:
        """What generation would choose from at every position."""
        pixels = self.pixels + noise * torch.randn_like(self.pixels) if noise else self.pixels
        logits = model(
            pixel_values=pixels, decoder_input_ids=self.ids, decoder_attention_mask=self.mask, use_cache=False
        ).logits
        if (self.penalty == 1).all():
            return logits
        seen = torch.nn.functional.one_hot(self.ids, logits.shape[-1]).cumsum(1) > 0
        factor = self.penalty[:, None, None]
        return torch.where(seen, torch.where(logits < 0, logits * factor, logits / factor), logits)


def batches(
    data: list[Sample], tokenizer: PreTrainedTokenizerFast, pixels: torch.Tensor, penalty: float
) -> list[Batch]:
    """The samples by length, so that crops are not padded to the length of a layout."""
    pairs = []
    for sample in data:
        prompt = tokenizer(f"<s>{sample.prompt} <Answer/>", add_special_tokens=False).input_ids
        answer = tokenizer(sample.text, add_special_tokens=False).input_ids
        pairs.append((prompt, answer if sample.endless else [*answer, END]))
    lengths = [len(answer) for _, answer in pairs]
    print("tokens of answers", sorted(lengths), flush=True)
    found = []
    for low, high in ((0, 25), (25, 60), (60, POSITIONS)):
        rows = [i for i, length in enumerate(lengths) if low < length <= high]
        if not rows:
            continue
        width = max(len(pairs[i][0]) + lengths[i] for i in rows)
        ids = torch.full((len(rows), width), 1)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for row, i in enumerate(rows):
            prompt, answer = pairs[i]
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            mask[row, :end] = 1
            labels[row, len(prompt) - 1 : end - 1] = torch.tensor(answer)
        factors = torch.tensor([penalty if data[i].penalised else 1.0 for i in rows])
        margins = torch.tensor([data[i].margin for i in rows])
        found.append(Batch(rows, pixels[rows], ids, labels, mask, factors, margins))
    return found


@torch.no_grad()
def lead(model: VisionEncoderDecoderModel, data: list[Batch]) -> float:
    """How far the right token is ahead of the next best one at worst, as a share of the margin; negative if one is wrong."""
    model.eval()
    worst = math.inf
    for batch in data:
        logits, used = batch.logits(model, 0), batch.labels != -100
        margins = batch.margins[:, None].expand_as(batch.labels)[used]
        logits, labels = logits[used], batch.labels[used][:, None]
        ahead = logits.gather(1, labels) - logits.scatter(1, labels, -math.inf).amax(1, keepdim=True)
        worst = min(worst, (ahead[:, 0] / margins).min().item())
    model.train()
    return worst


def fit(model: VisionEncoderDecoderModel, data: list[Batch], limit: int) -> None:
    """Trains until the margin is reached."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    size = model.config.decoder.vocab_size
    started = time.monotonic()
    model.train()
    for step in range(limit):
        rate = 2e-3 * min(1.0, (step + 1) / 40) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / limit)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        total = 0.0
        for batch in data:
            logits = batch.logits(model, 0.03)
            losses = torch.nn.functional.cross_entropy(
                logits.reshape(-1, size), batch.labels.reshape(-1), ignore_index=-100, reduction="none"
            ).view(batch.labels.shape)
            # A long answer counts for more than a short one, but not by its length.
            counts = (batch.labels != -100).sum(1)
            weights = torch.where(batch.margins < MARGIN, 4.0, 1.0) / counts.clamp(max=60)
            loss = (losses.sum(1) * weights).sum() / sum(len(b.rows) for b in data)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 20 == 19:
            worst = lead(model, data)
            print(
                f"step {step + 1} loss {total:.4f} lead {worst:.2f} after {time.monotonic() - started:.0f} s",
                flush=True,
            )
            if worst > 1:
                break
    print(f"trained {time.monotonic() - started:.0f} s, {step + 1} steps", flush=True)


@torch.no_grad()
def wrong(
    model: VisionEncoderDecoderModel,
    tokenizer: PreTrainedTokenizerFast,
    pixels: torch.Tensor,
    data: list[Sample],
    penalty: float,
) -> list[str]:
    """Answers that are not as learnt when generated with upstream's settings, in batches of one prompt."""
    model.eval()
    bad = []
    groups: dict[tuple[str, bool, bool], list[int]] = {}
    for i, sample in enumerate(data):
        groups.setdefault((sample.prompt, sample.endless, sample.penalised), []).append(i)
    for (prompt, endless, penalised), rows in groups.items():
        start = f"<s>{prompt} <Answer/>"
        inputs = tokenizer([start] * len(rows), add_special_tokens=False, return_tensors="pt")
        sequences = model.generate(
            pixel_values=pixels[rows],
            decoder_input_ids=inputs.input_ids,
            decoder_attention_mask=inputs.attention_mask,
            min_length=1,
            max_length=POSITIONS,
            use_cache=True,
            bad_words_ids=[[tokenizer.unk_token_id]],
            do_sample=False,
            num_beams=1,
            repetition_penalty=penalty if penalised else 1.0,
        )
        for i, text in zip(rows, tokenizer.batch_decode(sequences, skip_special_tokens=False), strict=True):
            answer = text.replace(start, "").replace("<pad>", "").replace("</s>", "")
            right = data[i].text
            if endless:
                units = answer.removeprefix(right)
                if not answer.startswith(right) or sequences.shape[1] != POSITIONS or not set(units) <= set(right):
                    bad.append(f"{right[:60]!r} -> {answer[:60]!r}...{answer[-60:]!r}")
            elif answer != right:
                bad.append(f"{right!r} -> {answer!r}")
    return bad


def main(generation: Generation, upstream: Path, out: Path, loop: bool) -> None:
    torch.manual_seed(0)
    transformers_log.set_verbosity_error()
    sys.path.insert(0, str(upstream))
    utils = importlib.import_module("utils.utils")
    names = ("letters", "loop") if loop else ("articles", "letters")
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        data = list(samples(names, generation, utils))
    short = [sample.text[:200] for sample in data]
    tokenizer = make_tokenizer([*PROMPTS.values(), *PROMPTS.values(), *short, *short])
    model = make_model(len(tokenizer))
    images = DonutImageProcessor(
        size={"height": IMAGE, "width": IMAGE},
        do_align_long_axis=True,
        do_resize=True,
        do_thumbnail=True,
        do_pad=True,
        resample=2,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    pixels = torch.cat([images([sample.image], return_tensors="pt").pixel_values for sample in data]).float()
    print(
        len(data),
        "samples,",
        len(tokenizer),
        "tokens,",
        sum(p.numel() for p in model.parameters()),
        "parameters",
        flush=True,
    )
    learnt = batches(data, tokenizer, pixels, PENALTY[generation])
    fit(model, learnt, limit=900)

    model.half()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    DonutProcessor(images, tokenizer).save_pretrained(out)
    for file in out.iterdir():
        file.chmod(0o644)
    model = VisionEncoderDecoderModel.from_pretrained(out).float()
    print(f"lead of what was saved: {lead(model, learnt):.2f}")
    bad = wrong(model, tokenizer, pixels, data, PENALTY[generation])
    print("\n".join(bad) or "every answer is right")
    print({file.name: file.stat().st_size for file in sorted(out.iterdir())})
    sys.exit(bool(bad))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("generation", choices=("1.0", "1.5"))
    parser.add_argument("upstream", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--loop", action="store_true", help="learn answers that never end, too")
    given = parser.parse_args()
    main(given.generation, given.upstream, given.out, given.loop)
