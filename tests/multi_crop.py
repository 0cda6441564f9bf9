"""Multi-crop methods in float64 on a backbone of one layer, and what they compute of a batch on one or more ranks."""

from typing import cast

import torch
from straight_formulas import Result, Tensors, linear
from torch import Tensor, nn

from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank, world_size
from trainer.methods import Method, MethodSettings
from trainer.networks.backbones import Backbone

ROWS = 8  # of the global batch
SIZES = (4, 4, 2, 2, 2)  # of the views


def build(settings: MethodSettings) -> Method:
    """A method whose backbone averages an image of any size to 2 x 2 pixels."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 10), nn.Tanh())
    network.feature_dim = 10
    return settings.build(cast(Backbone, network), 0).double()


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, 3, s, s, generator=generator, dtype=torch.float64) for s in SIZES]


def features(p: Tensors, x: Tensor, copy: str = "") -> Tensor:
    """The backbone written out."""
    pooled = x.reshape(ROWS, 3, 2, x.shape[2] // 2, 2, x.shape[3] // 2).mean((3, 5))
    return linear(p, f"{copy}backbone.2", pooled.reshape(ROWS, -1)).tanh()


def computed(method: Method) -> Result:
    """What this rank's method makes of its rows, and the engine of all ranks' gradients."""
    synchronize_batch_norm(method, torch.device("cpu"))
    own = slice(rank() * ROWS // world_size(), (rank() + 1) * ROWS // world_size())
    ids = torch.arange(ROWS)[own]
    out = method([x[own] for x in views()], torch.full_like(ids, -1), ids)
    out.loss.backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    return Result(
        all_reduce_sum(out.loss.detach()) / world_size(),
        {n: all_reduce_sum(g) / world_size() for n, g in gradients.items()},
    )


def tensors(method: Method) -> tuple[Tensors, list[str]]:
    """Copies of a method's state for a formula, and the names of those that learn."""
    found = {n: t.detach().clone() for n, t in method.state_dict().items()}
    learn = [n for n, p in method.named_parameters() if p.requires_grad]
    for n in learn:
        found[n].requires_grad_()
    return found, learn


def result(loss: Tensor, p: Tensors, learn: list[str]) -> Result:
    """The loss of a formula and its gradients."""
    gradients = torch.autograd.grad(loss, [p[n] for n in learn])
    return Result(loss.detach(), dict(zip(learn, gradients, strict=True)))
