"""Recomputation of batch norms, ReLUs and sums in the backward pass instead of keeping their outputs.

About half of a ResNet's activations are outputs of these operations, which cost little compared to a convolution. In
this context, if an operation would keep such an output for its backward pass, it keeps a `Recomputation` instead, which
rebuilds the output from the result of a convolution. Running statistics are not updated again. All other tensors are
kept as usual.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Recomputation:
    """How to recompute one activation. Its value is kept from its first use to its last."""

    def __init__(self, make: Callable[[], Tensor], *sources: Any) -> None:
        self._make = make
        self._uses = 0
        self._value: Tensor | None = None
        for source in sources:
            if isinstance(source, Recomputation):
                source.expect_use()

    def expect_use(self) -> None:
        """Announce one more call of `value`."""
        self._uses += 1

    def value(self) -> Tensor:
        """Return the activation."""
        with torch.no_grad():
            value = self._value if self._value is not None else self._make()
        self._uses -= 1
        self._value = value if self._uses > 0 else None
        return value


def _value(source: Any) -> Tensor:
    value: Tensor = source.value() if isinstance(source, Recomputation) else source
    return value


class RecomputeMode(TorchFunctionMode):
    """Records how to recompute the outputs of batch norms, ReLUs and additions."""

    def __init__(self) -> None:
        super().__init__()
        # By address and version of the tensor, which must be alive so that no other tensor has its address
        self._recomputations: dict[tuple[int, int], tuple[weakref.ref[Tensor], Recomputation]] = {}
        self._own_result: Recomputation | None = None  # of the running ReLU, which keeps only its own result

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if (
            func in (torch.Tensor.__iadd__, torch.Tensor.add_, torch.Tensor.add, torch.add)
            and len(args) == 2
            and not kwargs
        ):
            sources = [self._source(x) for x in args]
            out = func(*args)
            if any(isinstance(source, Recomputation) for source in sources):
                self._write(out, Recomputation(lambda: torch.add(*map(_value, sources)), *sources))
        elif func in (F.relu, torch.relu, torch.relu_):
            source = self._source(args[0])
            if isinstance(source, Recomputation):
                self._own_result = Recomputation(lambda: torch.relu(_value(source)), source)
            out = func(*args, **kwargs)
            if self._own_result is not None:
                self._write(out, self._own_result)
                self._own_result = None
        else:
            out = func(*args, **kwargs)
            if func is F.batch_norm:
                self._write_norm(out, *args, **kwargs)
        return out

    def _write_norm(
        self,
        out: Tensor,
        x: Tensor,
        running_mean: Any,
        running_var: Any,
        weight: Any = None,
        bias: Any = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        node: Any = out.grad_fn
        if not training or node is None or not hasattr(node, "_saved_result2"):
            return
        mean, invstd = node._saved_result1, node._saved_result2

        def make() -> Tensor:
            variance = invstd.double().pow(-2).sub(eps).to(invstd.dtype)
            return F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)

        self._write(out, Recomputation(make))

    def _write(self, out: Tensor, recomputation: Recomputation) -> None:
        self._recomputations[out.data_ptr(), out._version] = weakref.ref(out), recomputation

    def _source(self, x: Any) -> Any:
        """Return the recomputation of a tensor, or the tensor itself."""
        if not isinstance(x, Tensor):
            return x
        made, recomputation = self._recomputations.get((x.data_ptr(), x._version), (None, None))
        alive = made() if made is not None else None
        if alive is None or (alive.shape, alive.stride(), alive.dtype) != (x.shape, x.stride(), x.dtype):
            return x
        return recomputation

    def pack(self, x: Tensor) -> Any:
        """Return what is kept for the backward pass in place of a tensor."""
        source = self._own_result or self._source(x)
        if isinstance(source, Recomputation):
            source.expect_use()
        return source


@contextmanager
def recompute_activations() -> Iterator[None]:
    """Recompute outputs of batch norms, ReLUs and sums in the backward pass instead of keeping them.

    Gradients are the same up to rounding. Only one backward pass is possible through what was computed in this context.
    """
    book = RecomputeMode()
    with book, torch.autograd.graph.saved_tensors_hooks(book.pack, _value):
        yield
