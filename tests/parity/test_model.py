"""Encoder and decoder against transformers 4.47.0 on random weights of many shapes, and the way a checkpoint is recognised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    DonutSwinConfig,
    GenerationConfig,
    MBartConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
)

from parity import kit
from tasks.engines.dolphin.checkpoint import BadCheckpoint, Checkpoint
from tasks.engines.dolphin.grammar import Generation, Prompt
from tasks.engines.dolphin.model import Model
from tasks.engines.dolphin.probe import generation_of
from tasks.engines.dolphin.reader import Reader, Request
from tasks.engines.dolphin.steps import window_of

SHAPES = {
    "as the real one, small": ({}, {}),
    "windows that do not fit": ({"image_size": [160, 160], "patch_size": 4}, {}),
    "an odd number of patches": ({"image_size": [180, 180], "patch_size": 4, "depths": [2, 1, 2]}, {}),
    "a side that is no multiple of a patch": ({"image_size": [130, 130], "patch_size": 4}, {}),
    "no bias, another window": ({"qkv_bias": False, "window_size": 4, "mlp_ratio": 2.0}, {}),
    "widths joined by a layer": ({}, {"d_model": 96}),
    "no scaled embeddings": ({}, {"scale_embedding": False, "decoder_layers": 3, "encoder_layers": 3}),
}


def build(folder: Path, encoder: dict[str, Any], decoder: dict[str, Any]) -> tuple[Any, Checkpoint]:
    """transformers' model with random weights, saved; and what we read of it."""
    torch.manual_seed(0)
    swin = {"image_size": [112, 112], "patch_size": 2, "embed_dim": 16, "depths": [2, 2, 1], "num_heads": [1, 2, 4]}
    mbart = {
        "d_model": 64,
        "decoder_layers": 2,
        "encoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 80,
    }
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        DonutSwinConfig(**({"window_size": 7} | swin | encoder)),
        MBartConfig(
            **(
                {"vocab_size": 440, "max_position_embeddings": 96, "scale_embedding": True, "encoder_ffn_dim": 8}
                | {"add_cross_attention": True, "is_decoder": True, "is_encoder_decoder": False, "init_std": 0.6}
                | mbart
                | decoder
            )
        ),
    )
    model = VisionEncoderDecoderModel(config=config).eval()
    model.generation_config = GenerationConfig(
        bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=0, forced_eos_token_id=2
    )
    model.save_pretrained(folder)
    donor = kit.checkpoint_folder("1.5")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(donor / name, folder / name)
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    side = config.encoder.image_size[0]
    processor["size"] = {"height": side, "width": side}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model, Checkpoint(folder)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_states_and_tokens_are_transformers(shape: str, penalty: float, tmp_path: Path) -> None:
    """The same states, and by upstream's call of generate() the same tokens, to the last one that fits."""
    theirs, checkpoint = build(tmp_path, *SHAPES[shape])
    ours = Model(checkpoint, torch.device("cpu"), torch.float32)
    side = checkpoint.side
    images = np.random.default_rng(1).integers(0, 256, (6, side, side, 3), dtype=np.uint8)
    prompts = [Prompt.LAYOUT, Prompt.TEXT, Prompt.TABLE, Prompt.TEXT, Prompt.FORMULA, Prompt.CODE]
    with torch.inference_mode():
        pixels = ours.normalise(torch.from_numpy(images))
        states = theirs.encoder(pixels).last_hidden_state
        if (
            getattr(theirs, "enc_to_dec_proj", None) is not None
            and checkpoint.config.decoder.d_model != states.shape[-1]
        ):
            states = theirs.enc_to_dec_proj(states)
        torch.testing.assert_close(ours.encode(torch.from_numpy(images)), states, rtol=1e-4, atol=1e-4)
        wanted = []
        for pixel, prompt in zip(pixels, prompts, strict=True):
            ids = torch.tensor([checkpoint.tokenizer.prompt(prompt)])
            found = theirs.generate(
                pixel_values=pixel[None],
                decoder_input_ids=ids,
                decoder_attention_mask=torch.ones_like(ids),
                min_length=1,
                max_length=96,
                pad_token_id=1,
                eos_token_id=2,
                use_cache=True,
                bad_words_ids=[[3]],
                do_sample=False,
                num_beams=1,
                repetition_penalty=penalty,
            )
            wanted.append([int(token) for token in found[0][ids.shape[1] :] if token not in (1, 2)])
    reader = Reader(ours, checkpoint, slots=4, images=3, penalty=penalty, stop_loops=False, short=48)
    for key, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        reader.submit(Request(key, prompt, image, 0, 0))
    answers: dict[int, list[int]] = {}
    while not reader.idle:
        answers |= {answer.key: answer.ids for answer in reader.advance()}
    assert [[token for token in answers[key] if token not in (1, 2)] for key in range(6)] == wanted
    assert max(map(len, wanted)) > 40


@pytest.mark.parametrize("name", ["1.0", "1.5"])
def test_an_unnamed_checkpoint_is_recognised_by_its_layouts(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "unnamed"
    shutil.copytree(kit.checkpoint_folder(name), folder)
    checkpoint = Checkpoint(folder)
    assert checkpoint.recognised() is None
    model = Model(checkpoint, torch.device("cpu"), torch.float32)
    assert generation_of(model, checkpoint, None) == name
    assert generation_of(model, checkpoint, Generation.V1_5) is Generation.V1_5


def test_a_model_that_writes_no_layout_has_to_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "unnamed"
    folder.mkdir()
    _, checkpoint = build(folder, {}, {})
    with pytest.raises(BadCheckpoint, match="give --generation"):
        generation_of(Model(checkpoint, torch.device("cpu"), torch.float32), checkpoint, None)


def test_windows_hold_what_is_asked_for() -> None:
    for length in range(1, 4097):
        assert length <= window_of(length, 4096) <= max(64, 2 * length)
    assert len({window_of(length, 4096) for length in range(1, 4097)}) < 20
    assert window_of(1000, 1024) == 1024
    assert window_of(90, 96) == 96
