"""A checkpoint folder, read and checked: configuration, image processor, generation settings, tokenizer, weights.

Whatever is not the architecture that the engine implements is refused here, in one line, before anything is loaded. Facts:
transformers 4.47.0 (`configuration_donut_swin.py`, `configuration_mbart.py`), upstream's `demo_page.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import textwrap
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from tasks.corpus.failures import UsageError, bad_field
from tasks.engines.dolphin.grammar import Generation, Prompt
from tasks.engines.dolphin.tokenizer import Tokenizer

MOST_TOKENS: Final = 4096
"""Upstream's max_length: prompt and answer together."""
REAL_VOCABULARY: Final = 73_921
REAL_SIDE: Final = 896
GOLDEN_PROMPTS: Final = {
    Prompt.LAYOUT: (0, 47928, 286, 7996, 1160, 299, 495, 5262, 36, 73920),
    Prompt.TEXT: (0, 17657, 3360, 301, 286, 1990, 36, 73920),
    Prompt.TABLE: (0, 47928, 286, 4345, 301, 286, 1990, 36, 73920),
    Prompt.FORMULA: (0, 17657, 3914, 301, 286, 1990, 36, 73920),
    Prompt.CODE: (0, 17657, 3355, 301, 286, 1990, 36, 73920),
}
"""The prompts as the published tokenizer has them (asserted by spark-nlp's annotator against the real files)."""
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
FILES: Final = ("config.json", "preprocessor_config.json", "tokenizer.json")
OPTIONAL_FILES: Final = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "README.md")


class BadCheckpoint(UsageError):
    """The model is not one that this engine runs. The message names file, value and remedy."""


def _pair(value: Any) -> Any:
    return [value, value] if isinstance(value, int) else value


def _square(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] != value[1]:
        raise ValueError("only square images are supported")
    return value


Square = Annotated[tuple[int, int], BeforeValidator(_pair), AfterValidator(_square)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class EncoderConfig(_Part):
    """The Swin encoder."""

    model_type: Literal["donut-swin"]
    image_size: Square
    patch_size: int = Field(4, ge=1)
    num_channels: Literal[3] = 3
    embed_dim: int = Field(96, ge=1)
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: int = Field(7, ge=2)
    mlp_ratio: float = Field(4.0, gt=0)
    qkv_bias: bool = True
    use_absolute_embeddings: Literal[False] = False
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: float = 1e-5

    @property
    def side(self) -> int:
        """Pixels a side of the input."""
        return self.image_size[0]

    @property
    def width(self) -> int:
        """Of the states that come out."""
        return int(self.embed_dim * 2 ** (len(self.depths) - 1))

    @property
    def resolutions(self) -> list[int]:
        """Patches a side, stage by stage."""
        sides = [-(-self.side // self.patch_size)]
        for _ in self.depths[1:]:
            sides.append(-(-sides[-1] // 2))
        return sides

    @property
    def states(self) -> int:
        """How many states an image gives: 784 for 896 pixels."""
        return self.resolutions[-1] ** 2


class DecoderConfig(_Part):
    """The mBART decoder."""

    model_type: Literal["mbart"]
    vocab_size: int = Field(ge=8)
    d_model: int = Field(ge=8)
    decoder_layers: int = Field(ge=1)
    decoder_attention_heads: int = Field(16, ge=1)
    decoder_ffn_dim: int = Field(4096, ge=1)
    max_position_embeddings: int = Field(1024, ge=32)
    activation_function: Literal["gelu"] = "gelu"
    scale_embedding: bool = False
    tie_word_embeddings: Literal[True] = True
    add_cross_attention: Literal[True] = True


class ModelConfig(_Part):
    """config.json."""

    model_type: Literal["vision-encoder-decoder"]
    encoder: EncoderConfig
    decoder: DecoderConfig


class _Size(_Part):
    height: int
    width: int


class ProcessorConfig(_Part):
    """preprocessor_config.json: the image processor's."""

    size: _Size
    do_resize: Literal[True] = True
    do_thumbnail: Literal[True] = True
    do_pad: Literal[True] = True
    do_align_long_axis: bool = False
    """Has no effect on a square."""
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    do_crop_margin: Literal[False] = False
    rescale_factor: float = 1 / 255
    resample: Literal[2] = 2
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]


class GenerationConfig(_Part):
    """generation_config.json, as far as greedy decoding by upstream's call depends on it."""

    forced_eos_token_id: int | None = None
    forced_bos_token_id: None = None
    no_repeat_ngram_size: Literal[0, None] = None
    suppress_tokens: None = None
    begin_suppress_tokens: None = None


class Checkpoint:
    """A folder with a model. Reading it checks everything but the weights' values.

    Args:
        folder: with config.json, preprocessor_config.json, tokenizer.json and *.safetensors.

    Raises:
        BadCheckpoint: naming what is wrong, and what to do.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise BadCheckpoint(
                f"{folder} is no Dolphin 1.0 or 1.5 checkpoint: {', '.join(missing)} missing (give a folder that"
                " `pdf-flows weights fetch` made, or a Hugging Face model id)"
            )
        self.config = check_config(folder)
        self.processor = _read(folder / "preprocessor_config.json", ProcessorConfig)
        present = (folder / "generation_config.json").is_file()
        self.generation_config = (
            _read(folder / "generation_config.json", GenerationConfig) if present else GenerationConfig()
        )
        self.tokenizer = Tokenizer(folder)
        self.weights = self._weight_files()
        self._check()

    @property
    def side(self) -> int:
        """Pixels a side of the model's input."""
        return self.config.encoder.side

    @property
    def most_tokens(self) -> int:
        """Prompt and answer together at most: upstream's limit, or what the model has positions for."""
        return min(MOST_TOKENS, self.config.decoder.max_position_embeddings)

    @property
    def ends_forced(self) -> bool:
        """Whether the last token that fits is the end, whatever the model says."""
        return self.generation_config.forced_eos_token_id is not None

    def recognised(self) -> Generation | None:
        """The generation that a name in the path or the model card tells; the architecture is the same for both."""
        card = self.folder / "README.md"
        # Hugging Face's cache has the model's name three folders up.
        texts = [folder.name for folder in (self.folder, *self.folder.parents[:2])]
        if card.is_file():
            texts.insert(0, card.read_text(encoding="utf-8", errors="replace")[:2000])
        for text in texts:
            if found := recognise(text):
                return found
        return None

    def parameters(self) -> int:
        """How many numbers the weights are, by the safetensors' headers. Raises BadCheckpoint."""
        count = 0
        for path in self.weights:
            try:
                with path.open("rb") as file:
                    length = int.from_bytes(file.read(8), "little")
                    if length > path.stat().st_size - 8:
                        raise ValueError  # noqa: TRY301
                    header = json.loads(file.read(length))
                tensors = [entry for name, entry in header.items() if name != "__metadata__"]
                if path.stat().st_size < 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0):
                    raise ValueError  # noqa: TRY301
                count += sum(math.prod(entry["shape"]) for entry in tensors)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise BadCheckpoint(
                    f"{path} is damaged or incomplete: its header and its size do not fit (fetch it again)"
                ) from None
        return count

    def fingerprint(self) -> str:
        """sha256 over the files that decide the output: part of a page's identity. Reads all weights."""
        whole = hashlib.sha256()
        deciding = [self.folder / name for name in (*FILES, "generation_config.json", "tokenizer_config.json")]
        for path in sorted([*(path for path in deciding if path.is_file()), *self.weights]):
            with path.open("rb") as file:
                whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return whole.hexdigest()

    def _weight_files(self) -> list[Path]:
        if (self.folder / INDEX).is_file():
            index = _json(self.folder / INDEX)
            weight_map = index.get("weight_map") if isinstance(index, dict) else None
            names = list(weight_map.values()) if isinstance(weight_map, dict) else []
            for name in names:
                if not isinstance(name, str) or Path(name).name != name:
                    raise BadCheckpoint(f"{INDEX} names files outside of the folder: {name!r}")
            files = [self.folder / name for name in sorted(set(names))]
        else:
            files = [self.folder / WEIGHTS]
        missing = [file.name for file in files if not file.is_file()]
        if missing or not files:
            others = [path.name for path in self.folder.glob("*.bin")] + [
                path.name for path in self.folder.glob("*.pt")
            ]
            why = f"; {', '.join(sorted(others))} is not read, because unpickling runs code" if others else ""
            raise BadCheckpoint(
                f"{self.folder} has no complete safetensors: {', '.join(missing or [WEIGHTS])} missing{why}"
            )
        return files

    def _check(self) -> None:
        encoder, decoder = self.config.encoder, self.config.decoder
        size = self.processor.size
        if (size.height, size.width) != encoder.image_size:
            raise BadCheckpoint(
                f"preprocessor_config.json makes images of {size.width} x {size.height},"
                f" config.json's encoder takes {encoder.side} x {encoder.side}"
            )
        if len(encoder.depths) != len(encoder.num_heads):
            raise BadCheckpoint("config.json: encoder: depths and num_heads differ in length")
        if min(encoder.resolutions) < encoder.window_size:
            raise BadCheckpoint(
                f"config.json: encoder: windows of {encoder.window_size} are larger than the last stage"
            )
        if decoder.d_model % decoder.decoder_attention_heads:
            raise BadCheckpoint("config.json: decoder: d_model is no multiple of decoder_attention_heads")
        if len(self.tokenizer) > decoder.vocab_size:
            raise BadCheckpoint(
                f"tokenizer.json has {len(self.tokenizer)} tokens, config.json's decoder only {decoder.vocab_size}"
            )
        self.tokenizer.check()
        if (decoder.vocab_size, encoder.side) == (REAL_VOCABULARY, REAL_SIDE):
            for prompt, golden in GOLDEN_PROMPTS.items():
                if (found := tuple(self.tokenizer.prompt(prompt))) != golden:
                    raise BadCheckpoint(f"tokenizer.json is not Dolphin's: {prompt.value!r} is {found}, not {golden}")


_Model = TypeVar("_Model", bound=_Part)


def check_config(folder: Path) -> ModelConfig:
    """config.json of a folder. Raises BadCheckpoint where it is another model's."""
    return _read(folder / "config.json", ModelConfig)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BadCheckpoint(f"{path} cannot be read as JSON: {error}") from None


def _read(path: Path, model: type[_Model]) -> _Model:
    found = _json(path)
    if isinstance(found, dict) and "qwen" in str(found.get("model_type")).lower():
        raise BadCheckpoint(
            f"{path}: model_type {found['model_type']!r} is Dolphin 2, which this engine does not run"
            " (and whose licence allows no commercial use); Dolphin 1.5 is ByteDance/Dolphin-1.5"
        )
    try:
        return model.model_validate(found)
    except ValidationError as error:
        where, why = bad_field(error)
        why = textwrap.shorten(why, 160, placeholder=" ...")  # a missing field is shown with all that surrounds it
        raise BadCheckpoint(
            f"not a Dolphin 1.0 or 1.5 checkpoint: {path}: {f'{where}: ' if where else ''}{why}"
        ) from None


_SIGNS: Final = (
    (Generation.V1_5, re.compile(r"dolphin[-_ ]?v?1[._]?5(?!\d)|(?<![\d.])v?1[._]5(?![\da-z.])|(?<![a-z\d])v15(?!\d)", re.I)),
    (Generation.V1_0, re.compile(r"dolphin[-_ ]?v?1[._]?0(?!\d)|(?<![\d.])v?1[._]0(?![\da-z.])|(?<![a-z\d])v10(?!\d)", re.I)),
)  # fmt: skip


def recognise(name: str) -> Generation | None:
    """The generation that a model id, a folder's name or a model card speaks of; None if it speaks of none or of both."""
    found = [generation for generation, sign in _SIGNS if sign.search(name)]
    if not found and re.search(r"bytedance/dolphin(?![-\w])", name, re.IGNORECASE):
        return Generation.V1_0
    return found[0] if len(found) == 1 else None
