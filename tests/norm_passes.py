"""A training pass of a network on several ranks, and on the whole batch without ranks."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rank_processes import interpret_triton
from torch import Tensor, nn

from trainer.distributed import batch_norm
from trainer.distributed.batch_norm import forward_per_view, synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank
from trainer.distributed.fused_blocks import fuse_activations


def passed(
    network: nn.Module, views: list[Tensor], on_gpu: bool, group_size: int = 0, ranks: int = 2
) -> dict[str, Any]:
    """Outputs, gradients, buffers and number of messages of a training pass over this rank's rows of each view."""
    sent: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        plain = getattr(torch.distributed, name)

        def send(*args: Any, **kwargs: Any) -> Any:
            sent.append(name)
            return plain(*args, **kwargs)

        return send

    network = synchronize_batch_norm(copy.deepcopy(network), torch.device("cpu"), group_size)
    if on_gpu:
        fuse_activations(network)
    own = [view.chunk(ranks)[rank()].clone().requires_grad_() for view in views]
    with pytest.MonkeyPatch.context() as patch:
        if on_gpu:
            interpret_triton()
            patch.setattr(batch_norm, "_on_cuda", lambda x: True)
        for name in ("all_gather_single", "all_reduce"):
            patch.setattr(torch.distributed, name, counted(name))
        out = forward_per_view(network, own)
        loss = torch.stack([((n + 1) * (o.double() ** 3)).sum() for n, o in enumerate(out)]).sum()
        loss.backward()
    found: dict[str, Any] = {f"out {n}": o.detach() for n, o in enumerate(out)}
    found |= {f"input {n}": x.grad for n, x in enumerate(own)}
    found |= {name: all_reduce_sum(p.grad) for name, p in network.named_parameters() if p.grad is not None}
    return found | dict(network.named_buffers()) | {"messages": sent}


def whole(network: nn.Module, views: list[Tensor]) -> dict[str, Tensor]:
    """The same without ranks, by torch's batch norm."""
    network = copy.deepcopy(network)
    inputs = [view.clone().requires_grad_() for view in views]
    out = [network(x) for x in inputs]
    torch.stack([((n + 1) * (o.double() ** 3)).sum() for n, o in enumerate(out)]).sum().backward()
    found = {f"out {n}": o.detach() for n, o in enumerate(out)}
    found |= {f"input {n}": x.grad for n, x in enumerate(inputs) if x.grad is not None}
    found |= {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | dict(network.named_buffers())


def check(results: list[dict[str, Any]], expected: dict[str, Tensor], tolerance: float) -> None:
    close = {"rtol": tolerance, "atol": tolerance}
    for name, value in expected.items():
        if name.startswith(("out ", "input ")):
            torch.testing.assert_close(torch.cat([r[name] for r in results]), value, **close)
        else:
            for result in results:
                torch.testing.assert_close(result[name], value, **close)
