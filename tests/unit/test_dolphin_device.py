"""What is chosen for a device: no more than it has, and a refusal that says what would fit. Needs `tokenizers`, not torch."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.engines.dolphin.checkpoint import DecoderConfig, EncoderConfig, ModelConfig
from tasks.engines.dolphin.device import Device, DoesNotFit, Plan, plan
from tasks.engines.dolphin.sequences import LONG_ROWS, SHORT
from tasks.engines.dolphin.settings import DType

GIB, MIB = 1 << 30, 1 << 20
PARAMETERS = 322_000_000


def config(positions: int = 4096) -> ModelConfig:
    """Dolphin 1.0's and 1.5's sizes."""
    encoder = EncoderConfig(
        model_type="donut-swin", image_size=896, patch_size=4, embed_dim=128, depths=(2, 2, 14, 2),
        num_heads=(4, 8, 16, 32), window_size=7,
    )  # fmt: skip
    decoder = DecoderConfig(
        model_type="mbart", vocab_size=73_921, d_model=1024, decoder_layers=10, max_position_embeddings=positions
    )
    return ModelConfig(model_type="vision-encoder-decoder", encoder=encoder, decoder=decoder)


def gpu(memory: float, capability: tuple[int, int] = (7, 5), name: str = "Tesla T4") -> Device:
    return Device("cuda", name, int(memory * GIB), capability)


def cpu(memory: float) -> Device:
    return Device("cpu", "CPU (4 threads)", int(memory * GIB), None)


def planned(device: Device, dtype: DType | None = None, slots: int | None = None) -> Plan:
    return plan(config(), device, PARAMETERS, dtype, slots)


def refused(device: Device, dtype: DType | None = None, slots: int | None = None) -> str:
    with pytest.raises(DoesNotFit) as caught:
        planned(device, dtype, slots)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_t4_reads_in_half_precision_many_at_a_time() -> None:
    found = planned(gpu(15))
    assert found.dtype is DType.FLOAT16
    assert found.slots >= 48
    assert found.images == 8
    assert found.needs <= 15 * GIB


def test_the_line_for_the_log() -> None:
    device = gpu(15)
    found = planned(device)
    assert found.line(device) == (
        f"Tesla T4: float16, {found.slots} sequences and 8 images at a time,"
        f" about {found.needs / GIB:.1f} of 15.0 GiB free"
    )


def test_a_large_gpu_is_not_filled_for_nothing() -> None:
    assert planned(gpu(78, (9, 0), "H100")).slots == 128
    assert planned(gpu(78, (9, 0), "H100"), slots=300).slots == 300


def test_a_cpu_reads_few_at_a_time_in_full_precision() -> None:
    found = planned(cpu(32))
    assert found[:3] == (DType.FLOAT32, 16, 1)
    assert planned(cpu(32), DType.FLOAT32, 3)[:3] == (DType.FLOAT32, 3, 1)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
def test_the_cpu_computes_in_float32_only(dtype: DType) -> None:
    assert refused(cpu(32), dtype) == f"--dtype {dtype} needs a GPU: on the CPU it is float32"


@pytest.mark.parametrize("capability", [(7, 0), (7, 5)])
def test_bfloat16_needs_a_gpu_that_has_it(capability: tuple[int, int]) -> None:
    message = refused(gpu(15, capability), DType.BFLOAT16)
    assert message == "--dtype bfloat16: Tesla T4 cannot compute in it; leave --dtype out for float16"


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0)])
def test_what_was_asked_for_is_done(capability: tuple[int, int]) -> None:
    assert planned(gpu(20, capability), DType.BFLOAT16).dtype is DType.BFLOAT16
    assert planned(gpu(20, capability), DType.FLOAT32).dtype is DType.FLOAT32


def test_too_many_slots_say_how_many_fit() -> None:
    message = refused(gpu(8), slots=128)
    said = re.fullmatch(
        r"--slots 128 needs about (\d+\.\d) GiB, Tesla T4 has 8\.0 GiB free; --slots (\d+) fits", message
    )
    assert said is not None, message
    assert float(said[1]) > 8
    fits = int(said[2])
    assert planned(gpu(8), slots=fits)[1] == fits
    with pytest.raises(DoesNotFit, match=f"; --slots {fits} fits"):
        planned(gpu(8), slots=fits + 1)


@pytest.mark.parametrize("slots", [None, 1, 64])
@pytest.mark.parametrize("device", [gpu(1), cpu(1)], ids=["gpu", "cpu"])
def test_where_not_even_one_fits(device: Device, slots: int | None) -> None:
    message = refused(device, slots=slots)
    assert message.startswith("the model needs about ")
    assert f"{device.name} has 1.0 GiB free" in message
    assert message.endswith("; use a device with more, or stop what else uses it")
    assert message == refused(device), "what the model needs, not what the slots would"


def test_fewer_images_at_a_time_where_there_is_little_memory() -> None:
    found = [planned(gpu(memory)) for memory in (2, 3, 3.5, 4, 5, 8)]
    assert [plan.images for plan in found] == sorted(plan.images for plan in found)
    assert found[0].images == 1
    assert found[-1].images == 8
    # An image that is encoded must not take the room of the sequences that read it.
    assert all(plan.images == 1 or plan.slots >= 4 * plan.images for plan in found)


def test_no_more_images_than_slots() -> None:
    assert planned(gpu(15), slots=1)[1:3] == (1, 1)
    assert planned(gpu(15), slots=3)[1:3] == (3, 3)


def test_what_a_plan_needs_covers_weights_and_caches() -> None:
    a_token = 10 * 2 * 1024 * 2  # layers, key and value, width, bytes
    for slots in (1, 3, 4, 5, 128):
        caches = slots * (SHORT + 784) * a_token + min(slots, LONG_ROWS) * (4096 + 784) * a_token
        assert planned(gpu(78), slots=slots).needs > PARAMETERS * 2 + caches


DEVICES = st.builds(
    lambda memory, capability: Device("cpu" if capability is None else "cuda", "it", memory * MIB, capability),
    st.integers(0, 24 * 1024),
    st.sampled_from([None, (7, 5), (8, 0), (9, 0)]),
)


@given(
    device=DEVICES,
    dtype=st.sampled_from([None, *DType]),
    slots=st.none() | st.integers(1, 300),
    positions=st.sampled_from([1024, 4096]),
)
@settings(max_examples=300, deadline=None)
def test_a_plan_is_what_was_asked_for_and_fits(
    device: Device, dtype: DType | None, slots: int | None, positions: int
) -> None:
    try:
        found = plan(config(positions), device, PARAMETERS, dtype, slots)
    except DoesNotFit as error:
        assert "\n" not in str(error)
        if "--slots" in (remedy := str(error).rpartition("; ")[2]):
            fits = int(remedy.split()[1])
            assert slots is not None
            assert 1 <= fits < slots
            # ... and it does, and is the most that does.
            assert plan(config(positions), device, PARAMETERS, dtype, fits).slots == fits
            with pytest.raises(DoesNotFit):
                plan(config(positions), device, PARAMETERS, dtype, fits + 1)
        return
    assert found.needs <= device.memory
    assert found.dtype is (dtype or (DType.FLOAT32 if device.capability is None else DType.FLOAT16))
    assert found.slots == (slots or found.slots)
    assert 1 <= found.slots <= (slots or (16 if device.capability is None else 128))
    assert 1 <= found.images <= min(8, found.slots)
    assert found.needs >= PARAMETERS * found.dtype.size


@given(memory=st.integers(2048, 16 * 1024), dtype=st.sampled_from(list(DType)))
@settings(max_examples=100, deadline=None)
def test_more_memory_never_means_less(memory: int, dtype: DType) -> None:
    def most(free: int) -> int:
        try:
            return planned(Device("cuda", "it", free * MIB, (8, 0)), dtype).slots
        except DoesNotFit:
            return 0

    assert most(memory) <= most(memory + 1024)
