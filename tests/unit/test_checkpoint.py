"""Checkpoints that are not Dolphin 1.0 or 1.5 are refused: in one line that names the file and what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.kit import checkpoint_folder
from safetensors.torch import load_file, save_file
from torch import Tensor

from tasks.corpus.failures import UsageError
from tasks.engines.dolphin.checkpoint import GOLDEN_PROMPTS, BadCheckpoint, Checkpoint, check_config, recognise
from tasks.engines.dolphin.grammar import Generation, Prompt
from tasks.engines.dolphin.model import Model, read_weights
from tasks.engines.dolphin.tokenizer import BadTokenizer, Tokenizer

ORIGINAL = checkpoint_folder("1.5")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
REMOVED = object()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to change; the weights are a link: `put` replaces it."""
    copied = tmp_path / "model"
    copied.mkdir()
    for file in ORIGINAL.iterdir():
        if file.name == WEIGHTS:
            (copied / file.name).symlink_to(file)
        else:
            (copied / file.name).write_bytes(file.read_bytes())
    return copied


def put(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def change(path: Path, where: str, value: Any) -> None:
    """One value of a JSON file, by its dotted path; REMOVED takes it out."""
    whole = json.loads(path.read_bytes())
    *parts, last = where.split(".")
    inner = whole
    for part in parts:
        inner = inner[part]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    put(path, json.dumps(whole).encode())


def refusal(read: Callable[[], object], kind: type[UsageError] = BadCheckpoint) -> str:
    with pytest.raises(kind) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600, message
    return message


def test_the_copy_is_a_checkpoint(folder: Path) -> None:
    checkpoint = Checkpoint(folder)
    assert (checkpoint.side, checkpoint.most_tokens, checkpoint.ends_forced) == (224, 4096, True)
    assert checkpoint.weights == [folder / WEIGHTS]
    assert checkpoint.fingerprint() == Checkpoint(ORIGINAL).fingerprint()
    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    assert not Checkpoint(folder).ends_forced
    # Whether the end is forced, and texts are cleaned up, decides what comes out.
    assert checkpoint.fingerprint() != Checkpoint(ORIGINAL).fingerprint()


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_a_file_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = refusal(lambda: Checkpoint(folder))
    assert message.startswith(f"{folder} is no Dolphin 1.0 or 1.5 checkpoint: {name} missing")
    assert "pdf-flows weights fetch" in message


def test_all_missing_files_are_named(tmp_path: Path) -> None:
    assert "config.json, preprocessor_config.json, tokenizer.json missing" in refusal(lambda: Checkpoint(tmp_path))
    assert "missing" in refusal(lambda: Checkpoint(tmp_path / "nowhere"))


def test_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert refusal(lambda: Checkpoint(folder)) == f"{folder} has no complete safetensors: {WEIGHTS} missing"


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    for name in ("pytorch_model.bin", "dolphin.pt"):
        (folder / name).write_bytes(b"")
    message = refusal(lambda: Checkpoint(folder))
    assert message.endswith("; dolphin.pt, pytorch_model.bin is not read, because unpickling runs code")


@pytest.mark.parametrize("broken", [b"", b"{", b'{"a": \n oops}', b"\xff\xfe\x00", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "generation_config.json"])
def test_broken_json(folder: Path, name: str, broken: bytes) -> None:
    put(folder / name, broken)
    assert refusal(lambda: Checkpoint(folder)).startswith(f"{folder / name} cannot be read as JSON: ")


@pytest.mark.parametrize("broken", [b"", b"{", b"[" * 100_000])
def test_broken_tokenizer_settings(folder: Path, broken: bytes) -> None:
    put(folder / "tokenizer_config.json", broken)
    message = refusal(lambda: Checkpoint(folder), BadTokenizer)
    assert message.startswith(f"{folder / 'tokenizer_config.json'} cannot be read as JSON: ")


@pytest.mark.parametrize("broken", [b"", b"{", b"{}", b'{"a": \n oops}', b"\xff\xfe\x00"])
def test_a_broken_tokenizer(folder: Path, broken: bytes) -> None:
    put(folder / "tokenizer.json", broken)
    message = refusal(lambda: Checkpoint(folder), BadTokenizer)
    assert message.startswith(f"{folder / 'tokenizer.json'} cannot be read: ")


# -- values ----------------------------------------------------------------------------------------------------------

VALUES: list[tuple[str, str, Any, str]] = [
    ("config.json", "model_type", "qwen2_5_vl", "'qwen2_5_vl' is Dolphin 2, which this engine does not run"),
    ("config.json", "model_type", "llama", "(given: 'llama')"),
    ("config.json", "encoder.model_type", "swin", "encoder.model_type: Input should be 'donut-swin' (given: 'swin')"),
    ("config.json", "encoder.image_size", [224, 112], "only square images are supported (given: [224, 112])"),
    ("config.json", "encoder.image_size", "large", "(given: 'large')"),
    ("config.json", "encoder.num_channels", 1, "encoder.num_channels: Input should be 3 (given: 1)"),
    ("config.json", "encoder.hidden_act", "relu", "encoder.hidden_act: Input should be 'gelu' (given: 'relu')"),
    ("config.json", "encoder.use_absolute_embeddings", True, "encoder.use_absolute_embeddings: "),
    ("config.json", "encoder.depths", REMOVED, "encoder.depths: Field required"),
    ("config.json", "encoder", REMOVED, "config.json: encoder: Field required"),
    ("config.json", "decoder.model_type", "bart", "decoder.model_type: Input should be 'mbart' (given: 'bart')"),
    ("config.json", "decoder.activation_function", "relu", "(given: 'relu')"),
    ("config.json", "decoder.add_cross_attention", False, "decoder.add_cross_attention: "),
    ("config.json", "decoder.vocab_size", REMOVED, "decoder.vocab_size: Field required"),
    ("config.json", "decoder.decoder_layers", 0, "(given: 0)"),
    ("config.json", "encoder.depths", [2, 2], "config.json: encoder: depths and num_heads differ in length"),
    ("config.json", "encoder.window_size", 8, "config.json: encoder: windows of 8 are larger than the last stage"),
    ("config.json", "decoder.d_model", 130, "config.json: decoder: d_model is no multiple of decoder_attention_heads"),
    (
        "config.json", "decoder.vocab_size", 428, "tokenizer.json has 429 tokens, config.json's decoder only 428",
    ),
    (
        "config.json", "encoder.image_size", 256,
        "preprocessor_config.json makes images of 224 x 224, config.json's encoder takes 256 x 256",
    ),
    (
        "preprocessor_config.json", "size.height", 112,
        "preprocessor_config.json makes images of 224 x 112, config.json's encoder takes 224 x 224",
    ),
    ("preprocessor_config.json", "size", {"shortest_edge": 224}, "size.height: Field required"),
    ("preprocessor_config.json", "resample", 3, "resample: Input should be 2 (given: 3)"),
    ("preprocessor_config.json", "do_crop_margin", True, "do_crop_margin: Input should be False (given: True)"),
    ("preprocessor_config.json", "do_pad", False, "do_pad: Input should be True (given: False)"),
    ("preprocessor_config.json", "image_mean", [0.5, 0.5], "image_mean"),
    ("generation_config.json", "no_repeat_ngram_size", 3, "no_repeat_ngram_size: "),
    ("generation_config.json", "suppress_tokens", [7], "(given: [7])"),
    ("generation_config.json", "begin_suppress_tokens", [7], "(given: [7])"),
    ("generation_config.json", "forced_bos_token_id", 5, "(given: 5)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "where", "value", "says"), VALUES)
def test_a_value_of_another_model(folder: Path, name: str, where: str, value: Any, says: str) -> None:
    change(folder / name, where, value)
    message = refusal(lambda: Checkpoint(folder))
    assert says in message
    assert name in message


@pytest.mark.parametrize("whole", [[], None, 3, "text"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "generation_config.json"])
def test_json_of_something_else(folder: Path, name: str, whole: Any) -> None:
    put(folder / name, json.dumps(whole).encode())
    message = refusal(lambda: Checkpoint(folder))
    assert name in message
    assert f"(given: {whole!r})" in message


def test_a_config_alone_is_checked(folder: Path) -> None:
    assert check_config(folder).decoder.d_model == 128
    change(folder / "config.json", "model_type", "qwen2_5_vl")
    assert "ByteDance/Dolphin-1.5" in refusal(lambda: check_config(folder))


@pytest.mark.parametrize(
    "settings", [{"encoder.image_size": 224}, {"decoder.vocab_size": 500}, {"encoder.something_new": 1}]
)
def test_what_is_as_good(folder: Path, settings: dict[str, Any]) -> None:
    for where, value in settings.items():
        change(folder / "config.json", where, value)
    assert Checkpoint(folder).side == 224


# -- tokenizer -------------------------------------------------------------------------------------------------------


def without(folder: Path, token: str) -> None:
    whole = json.loads((folder / "tokenizer.json").read_bytes())
    whole["added_tokens"] = [added for added in whole["added_tokens"] if added["content"] != token]
    whole["model"]["vocab"].pop(token, None)
    put(folder / "tokenizer.json", json.dumps(whole).encode())


@pytest.mark.parametrize("token", ["<s>", "<pad>", "</s>", " <Answer/>"])
def test_a_token_is_missing(folder: Path, token: str) -> None:
    without(folder, token)
    message = refusal(lambda: Checkpoint(folder), BadTokenizer)
    assert message == f"tokenizer.json has no token {token!r}: not a Dolphin tokenizer"


def test_a_prompt_that_cannot_be_read(folder: Path) -> None:
    whole = json.loads((folder / "tokenizer.json").read_bytes())
    whole["model"]["vocab"] = {token: number for token, number in whole["model"]["vocab"].items() if "P" not in token}
    whole["model"]["merges"] = [pair for pair in whole["model"]["merges"] if "P" not in str(pair)]
    whole["model"]["unk_token"] = "<unk>"
    put(folder / "tokenizer.json", json.dumps(whole).encode())
    message = refusal(lambda: Checkpoint(folder), BadTokenizer)
    assert message.startswith(f"tokenizer.json does not read the prompt {Prompt.LAYOUT.value!r} as <s> ... <Answer/>")


def as_the_real_one(folder: Path) -> None:
    """The sizes by which the published models are known."""
    change(folder / "config.json", "encoder.image_size", [896, 896])
    change(folder / "preprocessor_config.json", "size", {"height": 896, "width": 896})
    change(folder / "config.json", "decoder.vocab_size", 73_921)


def test_prompts_of_the_real_vocabulary(folder: Path) -> None:
    as_the_real_one(folder)
    message = refusal(lambda: Checkpoint(folder))
    assert message.startswith(f"tokenizer.json is not Dolphin's: {Prompt.LAYOUT.value!r} is (0, ")
    assert message.endswith(f", not {GOLDEN_PROMPTS[Prompt.LAYOUT]}")
    change(folder / "config.json", "decoder.vocab_size", 73_920)
    Checkpoint(folder)  # another model of the same make has a vocabulary of its own


def test_the_real_prompts_are_accepted(folder: Path) -> None:
    as_the_real_one(folder)
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, " <Answer/>": 73_920}
    for prompt, ids in GOLDEN_PROMPTS.items():
        vocabulary |= zip([*prompt.value.removesuffix(".").split(), "."], ids[1:-1], strict=True)
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None, "decoder": None,
        "added_tokens": [{"id": vocabulary[token], "content": token} | plain for token in vocabulary if "<" in token],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    }  # fmt: skip
    put(folder / "tokenizer.json", json.dumps(whole).encode())
    assert Checkpoint(folder).side == 896


def test_ids_to_text(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    ids = tokenizer.encode("<table><tr><td>a</td></tr></table>")
    assert tokenizer.text(Prompt.TABLE, ids) == "<table><tr><td>a</td></tr></table>"
    assert tokenizer.text(Prompt.TEXT, []) == ""
    written = tokenizer.encode("Yes , it is .")
    assert tokenizer.text(Prompt.TEXT, written) == "Yes , it is ."
    change(folder / "tokenizer_config.json", "clean_up_tokenization_spaces", True)
    assert Tokenizer(folder).text(Prompt.TEXT, written) == "Yes, it is."


def test_padding_and_truncation_of_the_file_are_for_others(folder: Path) -> None:
    expected = [Tokenizer(folder).prompt(prompt) for prompt in Prompt]
    change(
        folder / "tokenizer.json", "truncation",
        {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    )  # fmt: skip
    change(
        folder / "tokenizer.json", "padding",
        {
            "strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1, "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    )  # fmt: skip
    assert [Tokenizer(folder).prompt(prompt) for prompt in Prompt] == expected


# -- weights ---------------------------------------------------------------------------------------------------------


def split(folder: Path) -> tuple[str, str]:
    """The weights in two files and an index, as large models are published."""
    found = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    middle = len(found) // 2
    halves = {first: dict(list(found.items())[:middle]), second: dict(list(found.items())[middle:])}
    for name, half in halves.items():
        save_file(half, folder / name)
    weight_map = {tensor: name for name, half in halves.items() for tensor in half}
    put(folder / INDEX, json.dumps({"weight_map": weight_map}).encode())
    return first, second


def test_parameters_are_counted(folder: Path) -> None:
    expected = sum(math.prod(tensor.shape) for tensor in load_file(folder / WEIGHTS).values())
    assert Checkpoint(folder).parameters() == expected
    names = split(folder)
    checkpoint = Checkpoint(folder)
    assert [path.name for path in checkpoint.weights] == list(names)
    assert checkpoint.parameters() == expected
    assert read_weights(checkpoint).keys() == load_file(ORIGINAL / WEIGHTS).keys()


def test_a_part_of_the_weights_is_missing(folder: Path) -> None:
    _, second = split(folder)
    (folder / second).unlink()
    assert refusal(lambda: Checkpoint(folder)) == f"{folder} has no complete safetensors: {second} missing"


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", ".", 7, ["a"], None])
def test_an_index_that_names_no_file_of_the_folder(folder: Path, name: Any) -> None:
    put(folder.parent / WEIGHTS, b"")
    put(folder / INDEX, json.dumps({"weight_map": {"a": WEIGHTS, "b": name}}).encode())
    assert refusal(lambda: Checkpoint(folder)) == f"{INDEX} names files outside of the folder: {name!r}"


@pytest.mark.parametrize("name", ["..", ""])
def test_an_index_that_names_a_folder(folder: Path, name: str) -> None:
    put(folder / INDEX, json.dumps({"weight_map": {"a": name}}).encode())
    assert "has no complete safetensors" in refusal(lambda: Checkpoint(folder))


@pytest.mark.parametrize("whole", [{}, {"weight_map": {}}, {"weight_map": None}, {"weight_map": [WEIGHTS]}, [], None])
def test_an_index_that_names_nothing(folder: Path, whole: Any) -> None:
    put(folder / INDEX, json.dumps(whole).encode())
    message = refusal(lambda: Checkpoint(folder))
    assert message.startswith(f"{folder} has no complete safetensors: ")


def test_a_broken_index(folder: Path) -> None:
    put(folder / INDEX, b"{")
    assert refusal(lambda: Checkpoint(folder)).startswith(f"{folder / INDEX} cannot be read as JSON: ")


def header(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x02",
        (ORIGINAL / WEIGHTS).read_bytes()[:1000],
        header(b"{}", 1000),
        header(b"", (1 << 64) - 1),
        header(b"oops"),
        header(b"[]"),
        header(b'{"a": []}'),
        header(b'{"a": {"dtype": "F16"}}'),
        header(b'{"a": {"shape": 3}}'),
        header(b'{"a": {"shape": ["x"]}}'),
        header(b"[" * 100_000),
    ],
    ids=range(12),
)
def test_damaged_weights(folder: Path, data: bytes) -> None:
    put(folder / WEIGHTS, data)
    checkpoint = Checkpoint(folder)
    path = folder / WEIGHTS
    expected = f"{path} is damaged or incomplete: its header and its size do not fit (fetch it again)"
    assert refusal(checkpoint.parameters) == expected
    assert refusal(lambda: read_weights(checkpoint)).startswith(f"{path} is damaged or incomplete: ")


def test_weights_that_end_too_early(folder: Path) -> None:
    put(folder / WEIGHTS, (ORIGINAL / WEIGHTS).read_bytes()[:-1])
    checkpoint = Checkpoint(folder)
    assert refusal(checkpoint.parameters).startswith(f"{folder / WEIGHTS} is damaged or incomplete: ")
    message = refusal(lambda: Model(checkpoint, torch.device("cpu"), torch.float32))
    assert message.startswith(f"{folder / WEIGHTS} is damaged or incomplete: ")
    assert message.endswith(" (fetch it again)")


# -- the model -------------------------------------------------------------------------------------------------------

NORM, TABLE = "encoder.embeddings.norm.weight", "decoder.model.decoder.embed_tokens.weight"
PROJECTION = "decoder.model.decoder.layers.1.fc1.bias"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return load_file(ORIGINAL / WEIGHTS)


def made(weights: dict[str, Tensor], folder: Path = ORIGINAL) -> Model:
    return Model(Checkpoint(folder), torch.device("cpu"), torch.float32, weights)


def test_the_weights_of_the_checkpoint_fit(weights: dict[str, Tensor]) -> None:
    given = set(weights)
    found = made(weights)
    assert found.encode(torch.zeros(1, 224, 224, 3, dtype=torch.uint8)).shape == (1, 49, 128)
    assert set(weights) == given, "who gave them still has them"


@pytest.mark.parametrize("name", [NORM, TABLE, PROJECTION])
def test_a_tensor_is_missing(weights: dict[str, Tensor], name: str) -> None:
    del weights[name]
    assert refusal(lambda: made(weights)) == f"the weights lack {name} and 0 more: not a Dolphin 1.0 or 1.5"


def test_of_many_missing_tensors_one_is_named(weights: dict[str, Tensor]) -> None:
    kept = {name: value for name, value in weights.items() if not name.startswith("decoder.model.decoder.layers.1.")}
    message = refusal(lambda: made(kept))
    assert message.startswith("the weights lack decoder.model.decoder.layers.1.")
    assert " and 25 more: " in message


@pytest.mark.parametrize(
    "name", ["encoder.encoder.layers.0.blocks.2.output.dense.bias", "decoder.model.decoder.layers.2.fc1.bias"]
)
def test_a_tensor_too_many(weights: dict[str, Tensor], name: str) -> None:
    weights[name] = torch.zeros(3)
    assert refusal(lambda: made(weights)) == f"the weights have {name} and 0 more that config.json does not tell of"


@pytest.mark.parametrize(
    "name",
    [
        "encoder.pooler.dense.weight",
        "encoder.layernorm.weight",
        "decoder.final_logits_bias",
        "encoder.encoder.layers.0.blocks.0.attention.self.relative_position_index",
    ],
)
def test_tensors_that_do_nothing_may_be_there(weights: dict[str, Tensor], name: str) -> None:
    weights[name] = torch.zeros(3)
    made(weights)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"), [(NORM, (33,), (32,)), (TABLE, (430, 128), (429, 128)), (PROJECTION, (1, 192), (192,))]
)
def test_a_tensor_of_another_shape(
    weights: dict[str, Tensor], name: str, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    weights[name] = torch.zeros(shape)
    assert refusal(lambda: made(weights)) == f"{name} is {shape}; by config.json it should be {wanted}"


def test_the_embeddings_may_be_saved_as_the_head(weights: dict[str, Tensor]) -> None:
    weights["decoder.lm_head.weight"] = weights.pop(TABLE)
    made(weights)


def test_nothing_joins_encoder_and_decoder(folder: Path, weights: dict[str, Tensor]) -> None:
    change(folder / "config.json", "decoder.d_model", 64)
    message = refusal(lambda: made(weights, folder))
    assert message == "the encoder is 128 wide, the decoder 64, and no enc_to_dec_proj.weight joins them"


# -- generation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        ("ByteDance/Dolphin", Generation.V1_0),
        ("bytedance/dolphin", Generation.V1_0),
        ("https://github.com/bytedance/Dolphin.git", Generation.V1_0),
        ("ByteDance/Dolphin-1.5", Generation.V1_5),
        ("ByteDance--Dolphin-1.5", Generation.V1_5),
        ("Dolphin-1.5, see https://github.com/bytedance/Dolphin", Generation.V1_5),
        ("ByteDance/Dolphin-1.0", Generation.V1_0),
        ("dolphin_v1_5", Generation.V1_5),
        ("dolphin-v1.0", Generation.V1_0),
        ("dolphin15", Generation.V1_5),
        ("dolphin10", Generation.V1_0),
        ("Dolphin v1.5 is here", Generation.V1_5),
        ("1.5", Generation.V1_5),
        ("1.0", Generation.V1_0),
        ("weights-v1.5-final", Generation.V1_5),
        ("my-v15", Generation.V1_5),
        ("my_V10", Generation.V1_0),
        ("ByteDance/Dolphin-v2", None),
        ("dolphin", None),
        ("Dolphin-1.5 supersedes Dolphin-1.0", None),
        ("dolphin-150m", None),
        ("dolphin-1000-steps", None),
        ("version 2.1.5", None),
        ("11.5", None),
        ("1.50", None),
        ("v151", None),
        ("", None),
    ],
)
def test_recognise(name: str, generation: Generation | None) -> None:
    assert recognise(name) is generation


@pytest.mark.parametrize(
    ("path", "card", "generation"),
    [
        ("model", None, None),
        ("model", "# Dolphin-1.5\n", Generation.V1_5),
        ("1.0", "# Dolphin-1.5\n", Generation.V1_5),  # a card knows more than who named the folder
        ("1.0", "# A model\n", Generation.V1_0),
        ("dolphin-1.5/snapshot", None, Generation.V1_5),
        ("model", "x" * 3000 + "Dolphin-1.5", None),
        ("model", "\ud800Dolphin-1.5", Generation.V1_5),
    ],
)
def test_what_tells_the_generation(
    folder: Path, path: str, card: str | None, generation: Generation | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    here = tmp_path_factory.mktemp("any") / path
    here.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(here)
    if card is not None:
        (here / "README.md").write_bytes(card.encode("utf-8", "surrogatepass"))
    assert Checkpoint(here).recognised() is generation
