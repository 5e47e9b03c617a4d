"""The mBART decoder over a static cache of slots. Parameters have transformers' names, so checkpoints load as they are.

Source: transformers 4.47.0 `modeling_mbart.py` (MBartForCausalLM: learned positions from 2, LayerNorm before each part,
one after the embeddings and one at the end, head tied to the embeddings). Each row of a batch has its own position; the
cross-attention's keys and values are computed once, when an image is admitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.engines.dolphin.checkpoint import DecoderConfig

_OFFSET = 2
"""MBartLearnedPositionalEmbedding: the first position's row."""


class Cache:
    """Keys and values of `rows` sequences of up to `length` tokens, and of the images that they read.

    Attributes:
        own: (layers, 2, rows, heads, length, head).
        image: (layers, 2, rows, heads, states, head).
    """

    def __init__(self, config: DecoderConfig, rows: int, length: int, states: int, like: Tensor) -> None:
        heads = config.decoder_attention_heads
        head = config.d_model // heads
        self.rows, self.length = rows, length
        # Zeros: what is masked is multiplied by nothing, and nothing times the NaN of used memory would be NaN.
        self.own = like.new_zeros((config.decoder_layers, 2, rows, heads, length, head))
        self.image = like.new_zeros((config.decoder_layers, 2, rows, heads, states, head))

    @staticmethod
    def bytes_a_row(config: DecoderConfig, length: int, states: int, item: int) -> int:
        """Memory of one row: `item` bytes a number."""
        return config.decoder_layers * 2 * config.d_model * (length + states) * item

    def copy_row(self, source: int, target: int, tokens: int, other: Cache | None = None) -> None:
        """Copy a row with its first `tokens` tokens, from another cache or within this one."""
        other = other or self
        self.own[:, :, target, :, :tokens] = other.own[:, :, source, :, :tokens]
        self.image[:, :, target] = other.image[:, :, source]


class Decoder(nn.Module):
    """The decoder's layers. `prefill` takes prompts, `step` one token a row."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.d_model
        self.embed_tokens = nn.Embedding(config.vocab_size, dim)
        self.embed_positions = nn.Embedding(config.max_position_embeddings + _OFFSET, dim)
        self.layernorm_embedding = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.decoder_layers))
        self.layer_norm = nn.LayerNorm(dim)
        self._scale = math.sqrt(dim) if config.scale_embedding else 1.0

    def prepare(self) -> None:
        """Once the weights are there: fuses products."""
        for layer in self.layers:
            layer.prepare()  # type: ignore[operator]

    def remember(self, states: Tensor, cache: Cache, rows: Sequence[int]) -> None:
        """Keys and values of images, states (n, states, d_model), into the cache's rows."""
        for number, layer in enumerate(self.layers):
            pair: Tensor = layer.encoder_attn.pair(states)  # type: ignore[union-attr, operator]
            for index, row in enumerate(rows):
                cache.image[number, :, row] = pair[:, index]

    def prefill(self, ids: Tensor, lengths: Tensor, cache: Cache, rows: Tensor) -> Tensor:
        """Prompts (n, longest), the shorter ones padded behind, into empty rows; logits (n, vocabulary) after each prompt's end.

        What padding leaves in the cache is overwritten before it is ever looked at.
        """
        count, longest = ids.shape
        places = torch.arange(longest, device=ids.device)
        hidden = self._embed(ids, places)
        for number, layer in enumerate(self.layers):
            hidden = layer.prefill(hidden, cache.own[number], cache.image[number], rows)  # type: ignore[operator]
        return self._logits(hidden[torch.arange(count, device=ids.device), lengths - 1])

    def step(self, tokens: Tensor, positions: Tensor, cache: Cache, window: int) -> Tensor:
        """One more token for rows 0 to n-1: tokens and their positions (n); logits (n, vocabulary) for the ones after.

        Args:
            window: how many positions of the cache to look at; more than all positions given.
        """
        count = len(tokens)
        hidden = self._embed(tokens, positions)[:, None]
        index = torch.arange(count, device=tokens.device)
        seen = torch.arange(window, device=tokens.device)[None] <= positions[:, None]
        mask = hidden.new_zeros(seen.shape).masked_fill_(~seen, -math.inf)[:, None, None]
        for number, layer in enumerate(self.layers):
            hidden = layer.step(hidden, cache.own[number], cache.image[number], index, positions, mask)  # type: ignore[operator]
        return self._logits(hidden[:, 0])

    def _embed(self, ids: Tensor, places: Tensor) -> Tensor:
        embedded: Tensor = self.layernorm_embedding(
            self.embed_tokens(ids) * self._scale + self.embed_positions(places + _OFFSET)
        )
        return embedded

    def _logits(self, hidden: Tensor) -> Tensor:
        return functional.linear(self.layer_norm(hidden), self.embed_tokens.weight).float()


class _Layer(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        dim = config.d_model
        self.self_attn = _Attention(dim, config.decoder_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.encoder_attn = _Attention(dim, config.decoder_attention_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def prepare(self) -> None:
        self.self_attn.fuse(("q_proj", "k_proj", "v_proj"))
        self.encoder_attn.fuse(("k_proj", "v_proj"))

    def prefill(self, hidden: Tensor, own: Tensor, image: Tensor, rows: Tensor) -> Tensor:
        query, key, value = self.self_attn.parts(self.self_attn_layer_norm(hidden), 3)
        longest = hidden.shape[1]
        own[0, rows, :, :longest] = key
        own[1, rows, :, :longest] = value
        found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.self_attn.merge(found)
        return self._read(hidden, image[0, rows], image[1, rows])

    def step(
        self, hidden: Tensor, own: Tensor, image: Tensor, index: Tensor, positions: Tensor, mask: Tensor
    ) -> Tensor:
        count, window = len(index), mask.shape[-1]
        query, key, value = self.self_attn.parts(self.self_attn_layer_norm(hidden), 3)
        own[0][index, :, positions] = key[:, :, 0]
        own[1][index, :, positions] = value[:, :, 0]
        found = functional.scaled_dot_product_attention(
            query, own[0, :count, :, :window], own[1, :count, :, :window], attn_mask=mask
        )
        hidden = hidden + self.self_attn.merge(found)
        return self._read(hidden, image[0, :count], image[1, :count])

    def _read(self, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The cross-attention and the feed-forward part."""
        query = self.encoder_attn.query(self.encoder_attn_layer_norm(hidden))
        found = functional.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.encoder_attn.merge(found)
        added: Tensor = hidden + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(hidden))))
        return added


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(dim, dim))
        self._fused: nn.Linear

    def fuse(self, names: Sequence[str]) -> None:
        parts: list[nn.Linear] = [getattr(self, name) for name in names]
        fused = nn.Linear(1, 1, device="meta")
        fused.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        fused.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
        self._fused = fused
        for name in names:
            delattr(self, name)

    def parts(self, states: Tensor, count: int) -> Tensor:
        """(count, n, heads, places, head) by the fused product."""
        rows, places, _ = states.shape
        projected: Tensor = self._fused(states)
        return projected.view(rows, places, count, self._heads, -1).permute(2, 0, 3, 1, 4)

    def pair(self, states: Tensor) -> Tensor:
        """Keys and values of an image's states."""
        return self.parts(states, 2)

    def query(self, states: Tensor) -> Tensor:
        rows, places, _ = states.shape
        projected: Tensor = self.q_proj(states)  # type: ignore[operator]
        return projected.view(rows, places, self._heads, -1).transpose(1, 2)

    def merge(self, found: Tensor) -> Tensor:
        rows, _, places, _ = found.shape
        merged: Tensor = self.out_proj(found.transpose(1, 2).reshape(rows, places, -1))  # type: ignore[operator]
        return merged
