import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.distributed.collectives import rank, world_size
from trainer.engine.partition import Partition

SHAPES = [torch.Size(s) for s in [(2, 3), (), (5,), (1, 1), (4, 2), (0,)]]


def partition_of(shapes: list[torch.Size], place: int, ranks: int) -> Partition:
    total = sum(shape.numel() for shape in shapes)
    return Partition(shapes, -(-total // ranks), place, ranks)


@settings(max_examples=60, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6),
    ranks=st.integers(1, 9),
)
def test_shares_put_together_are_the_tensors_laid_end_to_end(shapes: list[list[int]], ranks: int) -> None:
    sizes = [torch.Size(shape) for shape in shapes]
    tensors = [torch.randn(size) for size in sizes]
    whole = torch.cat([t.flatten() for t in tensors])
    partitions = [partition_of(sizes, place, ranks) for place in range(ranks)]
    shares = [p.cut(tensors, like=torch.ones(p.size)) for p in partitions]
    joined = torch.cat(shares)
    assert torch.equal(joined[: len(whole)], whole)
    assert not joined[len(whole) :].any()
    for partition, share in zip(partitions, shares, strict=True):
        assert torch.equal(partition.join(partition.pieces(share), like=share), share)
        for piece, values in zip(partition.layout, partition.pieces(share), strict=True):
            assert torch.equal(values, tensors[piece.member].flatten()[piece.there])


def test_a_missing_tensor_counts_as_zeros() -> None:
    partition = partition_of(SHAPES, 0, 1)
    tensors = [torch.ones(shape) for shape in SHAPES]
    share = partition.cut([None, *tensors[1:]], like=torch.empty(partition.size))
    assert share.tolist() == [0.0] * 6 + [1.0] * 15


def norms_and_gathered(tensors: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    partition = partition_of(SHAPES, rank(), world_size())
    share = partition.cut(tensors, like=torch.empty(partition.size))
    norms, twice = partition.norms(share, 2 * share)
    return norms, twice, partition.gather(share)


def test_norms_and_gathered_tensors_are_those_of_the_whole(run_ranks) -> None:
    tensors = [torch.randn(shape) for shape in SHAPES]
    expected = torch.stack([t.norm() for t in tensors])
    for ranks in (1, 4):
        results = run_ranks(norms_and_gathered, ranks, tensors)
        for place, (norms, twice, gathered) in enumerate(results):
            torch.testing.assert_close(norms, expected)
            torch.testing.assert_close(twice, 2 * expected)
            assert len(gathered) == (0 if place else len(tensors))
            assert all(torch.equal(a, b) for a, b in zip(gathered, tensors, strict=place == 0))
