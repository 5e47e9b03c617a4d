"""What to compute on, in what, and how much at a time. Decisions are pure; `find` asks torch what there is."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final, NamedTuple

from tasks.corpus.failures import UsageError
from tasks.engines.dolphin.checkpoint import Checkpoint, ModelConfig
from tasks.engines.dolphin.sequences import LONG_ROWS, SHORT
from tasks.engines.dolphin.settings import DType, ReadingSettings

_MIB: Final = 1 << 20
_RESERVE: Final = 700 * _MIB
"""CUDA's own, and what its allocator does not give back."""
_STATES_PER_PIXEL: Final = 160
"""Numbers that the encoder's widest layer holds at a time, a pixel of the input: counted, not measured on a GPU."""
_MOST_ON_CUDA, _MOST_ON_CPU = 128, 16
_IMAGES_ON_CUDA: Final = 8


class Device(NamedTuple):
    """A device: `capability` is CUDA's (7.5 is a T4's), None for the CPU."""

    kind: str
    name: str
    memory: int
    """Bytes that are free."""
    capability: tuple[int, int] | None


class Plan(NamedTuple):
    """What was chosen."""

    dtype: DType
    slots: int
    images: int
    """Encoded at a time."""
    needs: int
    """Bytes."""

    def line(self, device: Device) -> str:
        """For the log."""
        return (
            f"{device.name}: {self.dtype}, {self.slots} sequences and {self.images} images at a time,"
            f" about {self.needs / _MIB / 1024:.1f} of {device.memory / _MIB / 1024:.1f} GiB free"
        )


class DoesNotFit(UsageError):
    """The model cannot run here. The message says why, and what would."""


def plan(config: ModelConfig, device: Device, parameters: int, dtype: DType | None, slots: int | None) -> Plan:
    """Choose what was not asked for; refuse what cannot be.

    Args:
        parameters: of the model.
        dtype: asked for; None: float32 on the CPU, as upstream float16 on CUDA.
        slots: asked for; None: as many as there is memory for, 128 (CPU: 16) at most.

    Raises:
        DoesNotFit: with the reason.
    """
    cuda = device.capability is not None
    dtype = dtype or (DType.FLOAT16 if cuda else DType.FLOAT32)
    if not cuda and dtype is not DType.FLOAT32:
        raise DoesNotFit(f"--dtype {dtype} needs a GPU: on the CPU it is float32")
    if cuda and dtype is DType.BFLOAT16 and device.capability is not None and device.capability < (8, 0):
        raise DoesNotFit(f"--dtype bfloat16: {device.name} cannot compute in it; leave --dtype out for float16")
    images = min(_IMAGES_ON_CUDA, slots or _IMAGES_ON_CUDA) if cuda else 1
    fixed = parameters * dtype.size + (_RESERVE if cuda else 300 * _MIB)
    an_image = config.encoder.side**2 * _STATES_PER_PIXEL * dtype.size // (config.encoder.patch_size // 4 or 1)
    row, long_row = (_row(config, dtype, length) for length in (SHORT, config.decoder.max_position_embeddings))
    most = _MOST_ON_CUDA if cuda else _MOST_ON_CPU
    wanted = slots or most

    def needs(count: int) -> int:
        return count * row + min(count, LONG_ROWS) * long_row

    # Sequences come before images: all that were asked for, else four for each image.
    while images > 1 and fixed + images * an_image + needs(slots or 4 * images) > device.memory:
        images -= 1
    left = device.memory - fixed - images * an_image
    fitting = max((count for count in range(1, wanted + 1) if needs(count) <= left), default=0)
    if not fitting or (slots and fitting < slots):
        total = fixed + images * an_image + needs(slots if slots and fitting else 1)
        what = f"--slots {slots}" if slots and fitting else "the model"
        remedy = f"; --slots {fitting} fits" if fitting else "; use a device with more, or stop what else uses it"
        raise DoesNotFit(
            f"{what} needs about {total / _MIB / 1024:.1f} GiB,"
            f" {device.name} has {device.memory / _MIB / 1024:.1f} GiB free{remedy}"
        )
    return Plan(dtype, fitting, min(images, fitting), fixed + images * an_image + needs(fitting))


def _row(config: ModelConfig, dtype: DType, length: int) -> int:
    """Bytes of one sequence: keys and values of its tokens and of its image, and its logits in float32."""
    decoder = config.decoder
    cache = decoder.decoder_layers * 2 * decoder.d_model * (length + config.encoder.states) * dtype.size
    return cache + 3 * decoder.vocab_size * 4


def find(wanted: str | None = None) -> Device:
    """The device to use: the first GPU where there is one, or the one asked for (`cpu`, `cuda`). Raises DoesNotFit."""
    import torch

    if wanted != "cpu" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Device("cuda", torch.cuda.get_device_name(), free, torch.cuda.get_device_capability())
    if wanted == "cuda":
        raise DoesNotFit(
            "no GPU that this PyTorch can use: is the driver there, and was torch installed with CUDA"
            " (make setup EXTRAS=dolphin)?"
        )
    return Device("cpu", f"CPU ({torch.get_num_threads()} threads)", _free_memory(), None)


def _free_memory() -> int:
    """Bytes that this process may still use: the machine's, or its control group's."""
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, free)


def main(settings: ReadingSettings) -> int:
    """`python -m tasks.engines.dolphin.device SETTINGS`: does the model fit here? 2 and one line on stderr if not."""
    try:
        checkpoint = Checkpoint(settings.folder)
        device = find(settings.device)
        chosen = plan(checkpoint.config, device, checkpoint.parameters(), settings.dtype, settings.slots)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{chosen.line(device)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(ReadingSettings.model_validate_json(sys.argv[1])))
