"""A checkpoint's weights in the encoder and the decoder, on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.engines.dolphin.checkpoint import BadCheckpoint, Checkpoint, ModelConfig
from tasks.engines.dolphin.images import normalisation_table
from tasks.engines.dolphin.mbart import Decoder
from tasks.engines.dolphin.swin import Swin

_ENCODER, _DECODER, _BRIDGE = "encoder.", "decoder.model.decoder.", "enc_to_dec_proj."
_HEAD = "decoder.lm_head.weight"
_UNUSED: Final = ("encoder.pooler.", "encoder.layernorm.", "decoder.final_logits_bias")
_INDEX = "relative_position_index"
"""Buffers that some versions of transformers saved; they follow from the window's size."""


class Model(nn.Module):
    """Encoder, decoder and the table that normalises pixels.

    Args:
        checkpoint: what to load.
        device: where to.
        dtype: what to compute in.
        weights: instead of the checkpoint's files, e.g. random ones.

    Raises:
        BadCheckpoint: weights are missing, or of other shapes than config.json says.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: torch.device,
        dtype: torch.dtype,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = checkpoint.config
        self.device, self.dtype = device, dtype
        if device.type == "cuda":
            # float32 means float32: parity with upstream is promised in it.
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        with torch.device("meta"):
            self.encoder = Swin(self.config.encoder)
            self.decoder = Decoder(self.config.decoder)
        found = dict(read_weights(checkpoint) if weights is None else weights)
        self._bridge = _bridge(self.config, found, device, dtype)
        for part, prefix in ((self.encoder, _ENCODER), (self.decoder, _DECODER)):
            _fill(part, prefix, found, device, dtype)
        found.clear()
        self.requires_grad_(False)
        self.eval()
        self.encoder.prepare()
        self.decoder.prepare()
        processor = checkpoint.processor
        table = normalisation_table(processor.image_mean, processor.image_std, processor.rescale_factor)
        self._table = torch.from_numpy(table).to(device=device, dtype=dtype)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (n, side, side, 3) to what the encoder takes, (n, 3, side, side), by table: exactly the processor's floats."""
        wanted = images.permute(0, 3, 1, 2).int()
        return torch.stack([self._table[channel][wanted[:, channel]] for channel in range(3)], dim=1)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 images (n, side, side, 3) to what the decoder reads, (n, states, d_model)."""
        states: Tensor = self.encoder(self.normalise(images))
        return states if self._bridge is None else nn.functional.linear(states, *self._bridge)


def read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors of the checkpoint's safetensors. Raises BadCheckpoint."""
    found: dict[str, Tensor] = {}
    for path in checkpoint.weights:
        try:
            found |= load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadCheckpoint(f"{path} is damaged or incomplete: {error} (fetch it again)") from None
    return found


def _bridge(
    config: ModelConfig, weights: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None] | None:
    """transformers puts a linear layer between encoder and decoder of different widths."""
    wanted, width = (config.decoder.d_model, config.encoder.width), config.encoder.width
    if width == config.decoder.d_model:
        return None
    weight = weights.get(f"{_BRIDGE}weight")
    if weight is None or tuple(weight.shape) != wanted:
        raise BadCheckpoint(f"the encoder is {width} wide, the decoder {wanted[0]}, and no {_BRIDGE}weight joins them")
    bias = weights.get(f"{_BRIDGE}bias")
    return weight.to(device, dtype), bias.to(device, dtype) if bias is not None else None


def _fill(part: nn.Module, prefix: str, weights: dict[str, Tensor], device: torch.device, dtype: torch.dtype) -> None:
    wanted = part.state_dict()
    if prefix == _DECODER and f"{prefix}embed_tokens.weight" not in weights and _HEAD in weights:
        weights[f"{prefix}embed_tokens.weight"] = weights[_HEAD]
    found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    found = {
        name: value
        for name, value in found.items()
        if not name.endswith(_INDEX) and not f"{prefix}{name}".startswith(_UNUSED)
    }
    if missing := sorted(wanted.keys() - found.keys()):
        raise BadCheckpoint(
            f"the weights lack {prefix}{missing[0]} and {len(missing) - 1} more: not a Dolphin 1.0 or 1.5"
        )
    if surplus := sorted(found.keys() - wanted.keys()):
        raise BadCheckpoint(
            f"the weights have {prefix}{surplus[0]} and {len(surplus) - 1} more that config.json does not tell of"
        )
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise BadCheckpoint(
                f"{prefix}{name} is {tuple(value.shape)}; by config.json it should be {tuple(wanted[name].shape)}"
            )
    part.load_state_dict({name: value.to(device, dtype) for name, value in found.items()}, assign=True)
