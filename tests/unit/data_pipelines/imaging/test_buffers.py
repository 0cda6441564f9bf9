import torch

from data_pipelines.imaging.buffers import Buffers


def test_memory_is_used_again_once_nobody_holds_it() -> None:
    buffers = Buffers()
    first = buffers.take(4, 5)
    address = first.data_ptr()
    second = buffers.take(4, 5)
    assert second.data_ptr() != address
    del first
    assert buffers.take(4, 5).data_ptr() == address


def test_a_view_or_a_graph_keeps_its_memory() -> None:
    buffers = Buffers()
    whole = buffers.take(4, 5).fill_(3)
    address = whole.data_ptr()
    row = whole.permute(1, 0)[2]
    del whole
    assert buffers.take(4, 5).data_ptr() != address
    weight = torch.ones(4, requires_grad=True)
    loss = (row * weight).sum()
    del row
    other = buffers.take(4, 5)
    assert other.data_ptr() != address
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [3] * 4


def test_shapes_do_not_mix() -> None:
    buffers = Buffers()
    buffers.take(4, 5)
    assert buffers.take(5, 4).shape == (5, 4)
    assert buffers.take(4, 5).dtype == torch.float32


def test_what_is_kept_is_bounded() -> None:
    buffers = Buffers()
    held = [buffers.take(2, 2) for _ in range(30)]
    addresses = {tensor.data_ptr() for tensor in held}
    del held
    again = [buffers.take(2, 2) for _ in range(8)]
    assert {tensor.data_ptr() for tensor in again} <= addresses
    assert sum(map(len, buffers._free.values())) == 0
