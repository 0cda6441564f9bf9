"""Sees every operation of a step on FakeTensors and records it."""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.distributed._tools.fake_collectives import collective_ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.distributed.message_kinds import GRADIENTS, OTHER_MESSAGES, message_kind
from trainer.profiling.dry_run import kernels
from trainer.profiling.dry_run.record import BusCopy, DeviceMix, HostWait, Kernel, SentMessage, StepRecord
from trainer.profiling.instruments import OTHER

aten = torch.ops.aten

WEIGHTS = "weights"
"""Content of the messages in which DeepSpeed's stages 1 and 2 send updated weights."""
_OWN = ("trainer.", "data_pipelines.", "launch.")
_EXPLICIT_WAITS = {
    "device": (torch.cuda, "synchronize"),
    "event": (torch.cuda.Event, "synchronize"),
    "stream": (torch.cuda.Stream, "synchronize"),
}
# They copy values of Python to the device, and wait for it. A dispatch mode does not see the copy.
_FROM_PYTHON = {"tensor": torch, "new_tensor": Tensor}
_MASKS = (torch.bool, torch.uint8)


def _columns(x: Tensor) -> Tensor:
    return torch.empty(x.shape[1], dtype=torch.float32, device=x.device)


# Operations without an implementation for FakeTensors, which would run them for real, with empty results.
_RESULTS: dict[Any, Callable[..., Any]] = {
    aten.batch_norm_stats.default: lambda x, eps: (_columns(x), _columns(x)),
    aten.batch_norm_gather_stats_with_counts.default: lambda x, *_: (_columns(x), _columns(x)),
    aten.batch_norm_elemt.default: lambda x, *_: torch.empty_like(x),
    aten.batch_norm_backward_reduce.default: lambda dy, x, *_: tuple(_columns(x) for _ in range(4)),
    aten.batch_norm_backward_elemt.default: lambda dy, x, *_: torch.empty_like(x),
}


class Observer(TorchDispatchMode):
    """Records what happens on the device while it is `on`. It also gives values that the host reads: 1, or false.

    It has the method `span` of a `Timeline`, by which `instrument` tells it the part of the step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.record = StepRecord()
        self._parts = [OTHER]
        self._sizes: dict[int, int] = {}
        self._live = 0
        self._plain: list[tuple[Any, str, Any]] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Count what happens in the block to this part of the step."""
        self._parts.append(name)
        try:
            yield
        finally:
            self._parts.pop()

    def begin(self) -> None:
        """Record from here on. What is on the device now is the state of training."""
        self.record.state_bytes = self.record.peak_bytes = self._live
        self.on = True

    def __enter__(self) -> "Observer":
        for kind, (owner, name) in _EXPLICIT_WAITS.items():
            self._replace(owner, name, self._waiting(getattr(owner, name), kind))
        for name, owner in _FROM_PYTHON.items():
            self._replace(owner, name, self._filling(getattr(owner, name), name))
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        for owner, name, plain in self._plain:
            setattr(owner, name, plain)

    def _replace(self, owner: Any, name: str, other: Any) -> None:
        self._plain.append((owner, name, getattr(owner, name)))
        setattr(owner, name, other)

    def _waiting(self, plain: Callable[..., Any], kind: str) -> Callable[..., Any]:
        @wraps(plain)
        def wait(*args: Any, **kwargs: Any) -> Any:
            self._wait(f"{kind} synchronized", "synchronize")
            return plain(*args, **kwargs)

        return wait

    def _filling(self, plain: Callable[..., Any], name: str) -> Callable[..., Any]:
        @wraps(plain)
        def fill(*args: Any, **kwargs: Any) -> Any:
            made = plain(*args, **kwargs)
            if made.device.type == "cuda":
                self._wait("Python values copied", name)
            return made

        return fill

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        devices = {t.device.type for t in given}
        on_device = "cuda" in devices
        if func is aten._local_scalar_dense.default:
            if on_device:
                self._wait("value read", "item")
            return _value(args[0].dtype)
        if func in (aten.nonzero.default, aten.masked_select.default) and on_device:
            self._wait("size depends on values", func._schema.name)
        if func is aten.nonzero.default:
            return torch.empty((args[0].numel(), args[0].dim()), dtype=torch.int64, device=args[0].device)
        if func is aten.masked_select.default:
            return args[0].flatten().clone()
        if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default):
            args = self._without_masks(func, args, on_device)
        if self.on:
            self._note_devices(func, args, kwargs, given)
        out = _RESULTS[func](*args) if func in _RESULTS else func(*args, **kwargs)
        for t in kernels.device_tensors(out):
            self._hold(t)
        if self.on and (on_device or kernels.device_tensors(out)):
            self._note_kernel(func, args, kwargs, out)
        return out

    def _without_masks(self, func: Any, args: Any, on_device: bool) -> Any:
        """Return the arguments of an index with masks replaced, as if every value were true. It waits for the
        device."""
        indices: list[Any] = []
        for index in args[1]:
            if not (isinstance(index, Tensor) and index.dtype in _MASKS):
                indices.append(index)
                continue
            if on_device:
                self._wait("size depends on values", "boolean index")
            rows = torch.zeros(index.numel(), dtype=torch.int64, device=index.device)
            indices += [rows] * index.dim()
        return (args[0], indices, *args[2:])

    def _note_devices(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> None:
        """Record copies over the bus, messages, and operations on tensors of both devices."""
        if func in collective_ops or func.namespace == "c10d":
            self._note_message(func, args, kwargs, given)
        elif func in (aten._to_copy.default, aten.copy_.default):
            into = args[0].device if func is aten.copy_.default else kwargs.get("device") or args[0].device
            source = args[1] if func is aten.copy_.default else args[0]
            if {source.device.type, torch.device(into).type} == {"cpu", "cuda"}:
                direction = "device to host" if source.device.type == "cuda" else "host to device"
                self.record.copies[
                    BusCopy(direction, source.numel() * source.element_size(), _place(sys._getframe()))
                ] += 1
                if not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
                    self._wait(f"copy {direction}", func._schema.name)
        elif {t.device.type for t in given} == {"cpu", "cuda"} and any(
            t.device.type == "cpu" and t.dim() for t in given
        ):
            self.record.mixes[DeviceMix(str(func), _place(sys._getframe()))] += 1

    def _note_message(self, func: Any, args: Any, kwargs: Any, given: list[Tensor]) -> None:
        name = func._schema.name.split("::")[1]
        sizes = [t.numel() * t.element_size() for t in given]
        if not sizes:
            return
        declared = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        gathers = "gather" in name
        kind = next(filter(None, map(message_kind, _frames(sys._getframe()))), None)
        if kind is None and any(
            f.f_globals["__name__"].startswith("deepspeed") for f in _frames(sys._getframe())
        ):
            kind = WEIGHTS if gathers else GRADIENTS
        self.record.messages[
            SentMessage(
                kind or OTHER_MESSAGES,
                name,
                min(sizes) if gathers else max(sizes),
                "/".join(sorted({t.device.type for t in given})),
                bool(declared.get("async_op", declared.get("asyncOp", False))),
            )
        ] += 1

    def _note_kernel(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if kernels.launches_nothing(func):
            return
        flops = kernels.flops(func, args, kwargs, out)
        count, one_by_one = kernels.launches(func, args)
        if one_by_one:
            self.record.slow_lists[f"{func._schema.name} at {_place(sys._getframe())}"] += count
        if "convolution" in func._schema.name:
            self.record.layouts[_layout(func, args)] += 1
        tensors = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
        self.record.kernels[
            Kernel(
                self._parts[-1],
                kernels.kind(func, flops),
                kernels.precision(func, tensors),
                flops,
                kernels.moved_bytes(func, args, kwargs, out),
                count,
            )
        ] += 1

    def _wait(self, kind: str, operation: str) -> None:
        if self.on:
            self.record.waits[HostWait(kind, operation, _place(sys._getframe()))] += 1

    def _hold(self, tensor: Tensor) -> None:
        """Count the memory of a tensor until no tensor uses it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self._live += storage.nbytes()
        self.record.peak_bytes = max(self.record.peak_bytes, self._live)
        weakref.finalize(storage, self._release, key)

    def _release(self, key: int) -> None:
        self._live -= self._sizes.pop(key, 0)


def _value(dtype: torch.dtype) -> bool | float | int:
    """Return the value that the host reads in place of one that does not exist."""
    if dtype == torch.bool:
        return False
    return 1.0 if dtype.is_floating_point else 1


def _layout(func: Any, args: Any) -> str:
    """Return the type and memory format of the input and the weight of a convolution."""
    first = 1 if func is aten.convolution_backward.default else 0
    described = [
        f"{str(t.dtype).removeprefix('torch.')} "
        + ("channels-last" if t.is_contiguous(memory_format=torch.channels_last) else "channels-first")
        for t in args[first : first + 2]
    ]
    return f"input {described[0]}, weight {described[1]}"


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    """Return the innermost line of the project on the stack, or the innermost line of a library other than torch's core
    if autograd called it."""
    for f in _frames(frame):
        module = f.f_globals.get("__name__", "")
        if module.startswith(_OWN) and not module.startswith("trainer.profiling."):
            return f"{module}:{f.f_code.co_qualname}, line {f.f_lineno}"
    for f in _frames(frame):
        module = f.f_globals.get("__name__", "")
        if module.startswith(("deepspeed", "torch.nn", "timm", "torchvision")):
            return f"{module}:{f.f_code.co_qualname}, line {f.f_lineno}"
    return "unknown"
