"""The tokenizer: prompts to ids, ids to text, as upstream's `chat` does it with transformers' PreTrainedTokenizerFast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer as _Tokenizer

from tasks.corpus.failures import UsageError
from tasks.engines.dolphin.grammar import Prompt

START, PAD, END, UNKNOWN, ANSWER = "<s>", "<pad>", "</s>", "<unk>", " <Answer/>"
_CLEANED: Final = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"),
    (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
"""transformers/tokenization_utils_base.py, `clean_up_tokenization`."""


class BadTokenizer(UsageError):
    """tokenizer.json is not the one of a Dolphin model."""


class Tokenizer:
    """tokenizer.json of a checkpoint folder. Raises BadTokenizer."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer: Any = _Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001 - the library raises plain Exception
            raise BadTokenizer(f"{folder / 'tokenizer.json'} cannot be read: {' '.join(str(error).split())}") from None
        # Upstream neither pads nor truncates; what the file says of either is for other callers.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._cleans = bool(_settings(folder).get("clean_up_tokenization_spaces", False))
        self.end = self._id(END)
        self.unknown = self._id(UNKNOWN)

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())

    def prompt(self, prompt: Prompt) -> list[int]:
        """The ids that the decoder is given before it writes."""
        return list(self._tokenizer.encode(_framed(prompt), add_special_tokens=False).ids)

    def text(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """What upstream makes of the ids that were written after a prompt: special tokens stay, but for the end and padding."""
        text = str(self._tokenizer.decode([*self.prompt(prompt), *ids, self.end], skip_special_tokens=False))
        if self._cleans:
            for found, put in _CLEANED:
                text = text.replace(found, put)
        return text.replace(_framed(prompt), "").replace(PAD, "").replace(END, "").strip()

    def encode(self, text: str) -> list[int]:
        """The ids of a text, e.g. to force an answer."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def check(self) -> None:
        """Raises BadTokenizer where prompts would not be framed as the model was trained."""
        start, answer = self._id(START), self._id(ANSWER)
        self._id(PAD)
        for prompt in Prompt:
            ids = self.prompt(prompt)
            if ids[0] != start or ids[-1] != answer or self.unknown in ids:
                raise BadTokenizer(
                    f"tokenizer.json does not read the prompt {prompt.value!r} as {START} ... {ANSWER.strip()}:"
                    " not a Dolphin tokenizer"
                )

    def _id(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise BadTokenizer(f"tokenizer.json has no token {token!r}: not a Dolphin tokenizer")
        return int(found)


def _framed(prompt: Prompt) -> str:
    return f"{START}{prompt.value}{ANSWER}"


def _settings(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "tokenizer_config.json").read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadTokenizer(f"{folder / 'tokenizer_config.json'} cannot be read as JSON: {error}") from None
    return found if isinstance(found, dict) else {}
