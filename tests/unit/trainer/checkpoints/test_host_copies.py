"""Copies in host memory: equal, independent, and through a buffer of any size."""

import torch
from checkpoints import any_tensors, same_tensors
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.checkpoints.host_copies import clone_to_host, copy_through


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text("ab", min_size=1), any_tensors(), max_size=4))
def test_host_copies_are_equal_contiguous_and_share_nothing(source):
    source = {**source, "twin": torch.ones(2, requires_grad=True)}
    source["other twin"] = source["twin"]
    copies = clone_to_host(source)
    same_tensors(copies, {name: tensor.detach() for name, tensor in source.items()})
    assert all(copy.is_contiguous() and not copy.requires_grad for copy in copies.values())
    own = [copy.untyped_storage().data_ptr() for copy in copies.values() if copy.numel()]
    assert len(own) == len(set(own))
    assert not set(own) & {tensor.untyped_storage().data_ptr() for tensor in source.values()}
    copies["twin"].zero_()
    assert bool((source["twin"] == 1).all())
    assert bool((copies["other twin"] == 1).all())


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text("ab", min_size=1), any_tensors(), max_size=4), st.integers(2, 40))
def test_a_buffer_of_any_size_passes_every_bit_on(source, size):
    copies = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in source.items()}
    copy_through(torch.zeros(size, dtype=torch.uint8), source, copies)
    same_tensors(copies, source)
