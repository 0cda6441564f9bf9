"""What an operation costs on a device: launches, floating-point operations, and bytes of device memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

_VIEWS = {
    aten._reshape_alias.default,
    aten._unsafe_view.default,
    aten.alias.default,
    aten.as_strided.default,
    aten.detach.default,
    aten.lift_fresh.default,
}
_ALLOCATIONS = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.resize_.default,
    aten.set_.source_Storage_storage_offset,
}
_SEVERAL = {
    "all4one::view_statistics": 2,
    "all4one::gradient_sums": 2,
    "all4one::residual_gradient_sums": 2,
    "all4one::gradient_sums_of_two": 2,
    "all4one::layer_norm_gradients": 2,
    "aten::native_layer_norm_backward": 2,
}
"""Operations of more than one kernel. In our own the second one combines what chunks of rows gave. In torch's it
computes the gradients of weight and bias."""
_ONLY_WRITES = ("copy_", "fill_", "zero_")
_ASKS_FIRST_FOR_ITS_TYPE = {aten.batch_norm_gather_stats_with_counts.default}

# Limits of torch's kernels on lists of tensors (ATen/native/cuda/MultiTensorApply.cuh): tensors in a launch by the
# number of lists, thread blocks in a launch, and elements that a block handles.
_LIST_TENSORS = (110, 64, 48, 36, 30)
_LIST_BLOCKS = 320
_LIST_CHUNK = 65536


def device_tensors(values: Any) -> list[Tensor]:
    """Return the tensors on the device in nested values."""
    return [t for t in tree_leaves(values) if isinstance(t, Tensor) and t.device.type == "cuda"]


def launches_nothing(operation: Any) -> bool:
    """Return whether an operation only makes another view of memory, or allocates it."""
    return (
        operation.namespace in ("prim", "c10d")
        or operation in _VIEWS
        or operation in _ALLOCATIONS
        or (operation.is_view and not operation._schema.is_mutable)
    )


def kind(operation: Any, flops: int) -> str:
    """Return the kind of an operation, as `Kernel.kind` names it."""
    name = operation._schema.name
    if "convolution" in name:
        return "convolution"
    if "layer_norm" in name:
        return "layer norm"
    if "batch_norm" in name or name.startswith("all4one::"):
        return "batch norm"
    return "matrix product" if flops else "other"


def precision(operation: Any, tensors: Sequence[Tensor]) -> str:
    """Return the type in which an operation multiplies."""
    widths = {torch.bfloat16: "bf16", torch.float16: "bf16", torch.float64: "fp64"}
    dtype = tensors[-1].dtype if tensors else torch.float32
    if dtype in widths:
        return widths[dtype]
    convolution = "convolution" in operation._schema.name
    backend: Any = torch.backends.cudnn if convolution else torch.backends.cuda.matmul
    return "tf32" if backend.allow_tf32 else "fp32"


def flops(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Return the floating-point operations, as torch's own counter counts them."""
    count = flop_registry.get(operation._overloadpacket)
    return int(count(*args, **kwargs, out_val=out)) if count else 0


def moved_bytes(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Return the bytes that an operation reads and writes, if no cache helps."""
    read = args[1:] if operation in _ASKS_FIRST_FOR_ITS_TYPE else args
    touched = {
        (t.untyped_storage()._cdata, t.storage_offset(), tuple(t.shape)): _size(t)
        for t in device_tensors((read, kwargs, out))
    }
    size = sum(touched.values())
    name = operation._schema.name.split("::")[1]
    if operation._schema.is_mutable and not name.startswith(_ONLY_WRITES):
        size += sum(map(_size, device_tensors(_written(operation, args))))
    if name == "native_batch_norm" and args[5]:
        size += _size(args[0])  # one pass computes the statistics, another one normalizes
    if name in ("native_batch_norm_backward", "native_layer_norm_backward"):
        size += _size(args[0]) + _size(args[1])  # one pass computes the sums, another one the gradient
    return size


def _written(operation: Any, args: Sequence[Any]) -> list[Any]:
    declared = zip(args, operation._schema.arguments, strict=False)
    return [value for value, a in declared if a.alias_info is not None and a.alias_info.is_write]


def _size(tensor: Tensor) -> int:
    """Bytes of the elements of a tensor. An element that several indices share counts once."""
    elements = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= length if stride else 1
    return elements * tensor.element_size()


def launches(operation: Any, args: Sequence[Any]) -> tuple[int, bool]:
    """Return the number of kernels of an operation, and whether it handles a list of tensors one by one."""
    name = operation._schema.name.split("::")[1]
    if not name.startswith(("_foreach_", "_fused_")):
        return _SEVERAL.get(operation._schema.name, 1), False
    lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
    if not lists:
        return 1, False
    if name.startswith("_foreach_") and not _alike(lists, any_type=name == "_foreach_copy_"):
        return len(lists[0]), True
    return _list_launches([t.numel() for t in lists[0]], depth=len(lists)), False


def _alike(lists: Sequence[Sequence[Tensor]], *, any_type: bool) -> bool:
    """Return whether corresponding tensors agree, so that one kernel takes many of them."""
    first = lists[0]
    return all(
        len(other) == len(first)
        and all(
            a.shape == b.shape and a.stride() == b.stride() and (any_type or a.dtype == b.dtype)
            for a, b in zip(other, first, strict=True)
        )
        for other in lists
    )


def _list_launches(sizes: Sequence[int], depth: int) -> int:
    most = _LIST_TENSORS[min(depth, len(_LIST_TENSORS)) - 1]
    count = tensors = blocks = 0
    for size in sizes:
        if not size:
            continue
        chunks = -(-size // _LIST_CHUNK)
        tensors += 1
        for chunk in range(chunks):
            blocks += 1
            last = chunk == chunks - 1
            if blocks == _LIST_BLOCKS or (tensors == most and last):
                count, blocks = count + 1, 0
                tensors = 0 if last else 1
    return count + (blocks > 0)
