"""The Swin encoder with fused attention. Parameters have transformers' names, so checkpoints load as they are.

Source: Liu et al. 2021 (arXiv 2103.14030); transformers 4.47.0 `modeling_donut_swin.py`: no final LayerNorm, the shift
mask is -100. Differs in how it computes, not in what: query, key and value in one product, scaled_dot_product_attention
with the relative-position bias (and the shift mask) as its additive mask, laid out so that one mask serves all images
of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.engines.dolphin.checkpoint import EncoderConfig

_MASKED = -100.0


class Swin(nn.Module):
    """Images (n, 3, side, side), normalised, to states (n, states, width)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = nn.Module()
        dims = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        last = len(dims) - 1
        self.encoder.layers = nn.ModuleList(
            _Stage(config, dim, depth, heads, side, downsample=stage < last)
            for stage, (dim, depth, heads, side) in enumerate(
                zip(dims, config.depths, config.num_heads, config.resolutions, strict=True)
            )
        )

    def forward(self, pixels: Tensor) -> Tensor:
        states = self.embeddings(pixels)
        for stage in self.encoder.layers:  # type: ignore[union-attr]
            states = stage(states)
        flat: Tensor = states.flatten(1, 2)
        return flat

    def prepare(self) -> None:
        """Once the weights are there, on their device: fuses products and lays out the masks."""
        for stage in self.encoder.layers:  # type: ignore[union-attr]
            stage.prepare()


class _Embeddings(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.patch_embeddings = nn.Module()
        self.patch_embeddings.projection = nn.Conv2d(3, config.embed_dim, config.patch_size, config.patch_size)
        self.norm = nn.LayerNorm(config.embed_dim)
        self._patch = config.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        short = -pixels.shape[-1] % self._patch
        if short:
            pixels = functional.pad(pixels, (0, short, 0, short))
        patches: Tensor = self.patch_embeddings.projection(pixels)  # type: ignore[operator]
        normed: Tensor = self.norm(patches.permute(0, 2, 3, 1))
        return normed


class _Stage(nn.Module):
    def __init__(self, config: EncoderConfig, dim: int, depth: int, heads: int, side: int, *, downsample: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(config, dim, heads, side, shifted=index % 2 == 1 and side > config.window_size)
            for index in range(depth)
        )
        self.downsample = _Merging(dim) if downsample else None

    def forward(self, states: Tensor) -> Tensor:
        for block in self.blocks:
            states = block(states)
        return states if self.downsample is None else self.downsample(states)

    def prepare(self) -> None:
        for block in self.blocks:
            block.prepare()  # type: ignore[operator]


class _Merging(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        if states.shape[1] % 2:
            states = functional.pad(states, (0, 0, 0, 1, 0, 1))
        quarters = [states[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(quarters, dim=-1)))
        return merged


class _Block(nn.Module):
    def __init__(self, config: EncoderConfig, dim: int, heads: int, side: int, *, shifted: bool) -> None:
        super().__init__()
        self._heads, self._window, self._side = heads, config.window_size, side
        self._shift = config.window_size // 2 if shifted else 0
        self.layernorm_before = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.attention = _Attention(config, dim, heads)
        self.layernorm_after = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(dim, int(config.mlp_ratio * dim))
        self.output = nn.Module()
        self.output.dense = nn.Linear(int(config.mlp_ratio * dim), dim)
        self._mask = torch.empty(0)

    def prepare(self) -> None:
        self.attention.prepare()
        bias = self.attention.bias(self._window)
        if self._shift:
            shifts = _shift_mask(self._side + -self._side % self._window, self._window, self._shift).to(bias)
            mask = (bias[None] + shifts[:, None]).flatten(0, 1)[None]
        else:
            mask = bias[None]
        self._mask = mask.contiguous()

    def forward(self, states: Tensor) -> Tensor:
        count, side, _, dim = states.shape
        window, heads = self._window, self._heads
        normed = self.layernorm_before(states)
        if pad := -side % window:
            normed = functional.pad(normed, (0, 0, 0, pad, 0, pad))
        padded, a_side = side + pad, (side + pad) // window
        if self._shift:
            normed = torch.roll(normed, (-self._shift, -self._shift), (1, 2))
        windows = normed.view(count, a_side, window, a_side, window, dim).transpose(2, 3)
        parts: Tensor = self.attention.project(windows.reshape(count, a_side**2, window**2, dim))
        # (3, images, windows, heads, places, head): with a shift, windows count as heads, so that one mask serves all images.
        query, key, value = parts.view(count, a_side**2, window**2, 3, heads, dim // heads).permute(3, 0, 1, 4, 2, 5)
        first = (count,) if self._shift else (count * a_side**2,)
        query, key, value = (part.reshape(*first, -1, window**2, dim // heads) for part in (query, key, value))
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=self._mask)
        found = found.view(count, a_side**2, heads, window**2, dim // heads).transpose(2, 3)
        found = self.attention.output.dense(found.reshape(count, a_side**2, window**2, dim))  # type: ignore[operator]
        found = found.view(count, a_side, a_side, window, window, dim).transpose(2, 3)
        found = found.reshape(count, padded, padded, dim)
        if self._shift:
            found = torch.roll(found, (self._shift, self._shift), (1, 2))
        states = states + found[:, :side, :side]
        inner = functional.gelu(self.intermediate.dense(self.layernorm_after(states)))  # type: ignore[operator]
        added: Tensor = states + self.output.dense(inner)  # type: ignore[operator]
        return added


class _Attention(nn.Module):
    def __init__(self, config: EncoderConfig, dim: int, heads: int) -> None:
        super().__init__()
        window = config.window_size
        self.self = nn.Module()
        self.self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        for name in ("query", "key", "value"):
            setattr(self.self, name, nn.Linear(dim, dim, bias=config.qkv_bias))
        self.output = nn.Module()
        self.output.dense = nn.Linear(dim, dim)
        self._weight: Tensor = torch.empty(0)
        self._bias: Tensor | None = None

    def prepare(self) -> None:
        parts: list[nn.Linear] = [getattr(self.self, name) for name in ("query", "key", "value")]
        self._weight = torch.cat([part.weight for part in parts])
        self._bias = _cat(part.bias for part in parts)
        for name in ("query", "key", "value"):
            delattr(self.self, name)

    def project(self, states: Tensor) -> Tensor:
        return functional.linear(states, self._weight, self._bias)

    def bias(self, window: int) -> Tensor:
        """(heads, places, places): what is added to the scores for how far apart two places of a window are."""
        table: Tensor = self.self.relative_position_bias_table  # type: ignore[assignment]
        places = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + window - 1
        index = (apart[0] * (2 * window - 1) + apart[1]).to(table.device)
        return table[index.flatten()].view(window**2, window**2, -1).permute(2, 0, 1)


def _cat(parts: Iterable[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _shift_mask(side: int, window: int, shift: int) -> Tensor:
    """(windows, places, places): -100 between places that the cyclic shift brought together, else 0."""
    region = torch.zeros(side)
    region[-window:-shift] = 1
    region[-shift:] = 2
    regions = (region[:, None] * 3 + region[None, :]).view(side // window, window, side // window, window)
    regions = regions.transpose(1, 2).reshape(-1, window**2)
    return torch.where(regions[:, :, None] == regions[:, None, :], 0.0, _MASKED)
