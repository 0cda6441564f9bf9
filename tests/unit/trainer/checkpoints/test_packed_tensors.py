import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.checkpoints.packed_tensors import PackedTensors

TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8)
shapes = st.lists(st.integers(0, 5), max_size=3)


@st.composite
def named_tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    kinds = draw(st.lists(st.tuples(st.sampled_from(TYPES), shapes), max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 100)))
    return {
        f"tensor {i}": torch.randint(0, 200, shape, generator=generator).to(dtype)
        for i, (dtype, shape) in enumerate(kinds)
    }


@given(named_tensors())
def test_tensors_survive_as_bytes(tensors: dict[str, Tensor]) -> None:
    packed, other = PackedTensors(tensors), PackedTensors(tensors)
    packed.fill(tensors)
    other.content.copy_(packed.content)
    assert other.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(other.tensors[name], tensor)
        assert other.tensors[name].dtype is tensor.dtype


def test_memory_is_used_again_only_for_tensors_that_fit() -> None:
    packed = PackedTensors({"a": torch.zeros(2, 3), "step": torch.zeros(())})
    assert packed.fits({"a": torch.ones(2, 3), "step": torch.ones(())})
    assert not packed.fits({"a": torch.ones(2, 3)})
    assert not packed.fits({"a": torch.ones(3, 2), "step": torch.ones(())})
    assert not packed.fits({"a": torch.ones(2, 3, dtype=torch.float64), "step": torch.ones(())})


def test_channels_last_tensors_are_kept_by_value() -> None:
    tensor = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    packed = PackedTensors({"a": tensor})
    packed.fill({"a": tensor})
    assert torch.equal(packed.tensors["a"], tensor)
