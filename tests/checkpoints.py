"""Snapshots that can be told by their step, and whether one came back whole."""

import torch
from hypothesis import strategies as st

from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def snapshot(step, *, size=4):
    model = {"backbone.weight": torch.full((size, 3), float(step)), "queue.head": torch.tensor(step)}
    optimizer = {"momentum/backbone.weight": torch.full((size, 3), -float(step))}
    return Snapshot(step, model, optimizer, {"step": step, "epoch": step / 7, "seed": 1})


def is_whole(loaded):
    wanted = snapshot(loaded.step, size=len(loaded.model["backbone.weight"]))
    assert loaded.state == wanted.state
    for name in ("model", "optimizer"):
        same_tensors(getattr(loaded, name), getattr(wanted, name))


def same_tensors(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        raw = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor)]
        assert torch.equal(*raw), name


def store_at(folder, *, attempt=1, keep_last=3, keep_every=0):
    return CheckpointStore(folder, attempt=attempt, keep_last=keep_last, keep_every=keep_every)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@st.composite
def any_tensors(draw):
    """Tensors of any type, shape and bits, with the first and the last dimension swapped or not."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    if dtype is torch.bool:
        tensor = torch.rand(shape, generator=generator) < 0.5
    else:  # any bits at all, NaN payloads and denormals among them
        size = max(1, torch.tensor(shape).prod().item()) * dtype.itemsize
        raw = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator).view(dtype)
        tensor = raw[: torch.Size(shape).numel()].reshape(shape)
    return tensor.transpose(0, -1) if shape and draw(st.booleans()) else tensor
