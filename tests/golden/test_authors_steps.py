"""Steps against numbers of the authors' code: losses, gradients, and the state after some steps, on 1 and 2 ranks."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank, world_size
from trainer.engine.optimizers import OptimSettings, build_optimizer, freeze, parameter_groups
from trainer.methods import Method, available
from trainer.networks import ema
from trainer.networks.backbones import Backbone

HERE = Path(__file__).with_name("authors")
CASES = sorted(path.stem for path in HERE.glob("*.npz"))
NOT_THEIRS = (
    *("center", "running_mean", "running_var", "num_batches_tracked"),
    *("projector.0.bias", "projector.3.bias", "projector.6.bias"),  # A batch norm removes them.
    "predictor.0.bias",
)
"""Ends of the names of what a file may leave out."""


class Features(nn.Module):
    """A backbone for rows instead of images."""

    def __init__(self, linear: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.linear, self.feature_dim = linear, feature_dim

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.linear(rows)
        return out.tanh()


class Rows(nn.Identity):
    """A backbone without weights."""

    feature_dim = 7


def make(about: dict[str, Any]) -> Method:
    settings = available()[about["method"]["name"]](**about["method"])
    backbone = Rows() if settings.name == "swav" else Features(nn.Linear(9, 7), 7)
    method = settings.build(cast(Backbone, backbone), 0)
    if "a linear layer as projector" in about["source"]:
        method.projector = nn.Linear(7, 6)
        if method.momentum is not None:
            method.momentum["projector"] = ema.frozen_copy(method.projector)
    return method.double()


def replay(about: dict[str, Any], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What our code makes of the images from the same weights, by the names of the file."""
    method, found = make(about), {}
    synchronize_batch_norm(method, torch.device("cpu"))
    before = {name.removeprefix("before/"): t for name, t in values.items() if name.startswith("before/")}
    missing = method.load_state_dict(before, strict=False).missing_keys
    assert not [name for name in missing if not name.endswith(NOT_THEIRS)]
    for name in method.unit_rows:
        method.get_parameter(name).data = nn.functional.normalize(before[name], dim=1)
    optim, rows = OptimSettings(**about["optim"]), values["images"].shape[2]
    groups = parameter_groups(method.named_parameters(), optim, optim.reference_batch, method.freeze_steps)
    optimizer = build_optimizer(groups, optim)
    own = slice(rank() * rows // world_size(), (rank() + 1) * rows // world_size())
    moves_first = about["method"]["name"] == "resa"  # its authors update the EMA encoder when a step begins
    losses, centers = [], []
    for step, views in enumerate(values["images"]):
        method.step, method.total_steps = step, about["total_steps"]
        freeze(optimizer, step)
        optimizer.zero_grad()
        if moves_first:
            ema.update(method.ema_pairs(), step + 1, about["total_steps"], method.momentum.start)
        ids = torch.arange(rows)[own]
        out = method([view[own] for view in views], torch.full_like(ids, -1), ids)
        out.loss.backward()
        for name, parameter in method.named_parameters():
            if parameter.grad is not None:
                parameter.grad = all_reduce_sum(parameter.grad) / world_size()  # as the engine does
                found[f"gradient/{step}/{name}"] = parameter.grad.clone()
        optimizer.step()
        if not moves_first:
            method.after_step(step + 1, about["total_steps"])
        losses.append(all_reduce_sum(out.loss.detach()) / world_size())
        centers += [method.center.clone()] if hasattr(method, "center") else []
    found |= {f"after/{name}": parameter.detach() for name, parameter in method.named_parameters()}
    return found | {"losses": torch.stack(losses)} | ({"center": torch.stack(centers)} if centers else {})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_gradients_and_weights_are_those_of_the_authors_code(run_ranks, ranks: int, case: str) -> None:
    values = {name: torch.from_numpy(v) for name, v in np.load(HERE / f"{case}.npz").items()}
    compared = [name for name in values if not name.startswith(("before/", "images"))]
    assert len(compared) >= 10
    worst = 0.0
    for found in run_ranks(replay, ranks, json.loads((HERE / f"{case}.json").read_text()), values):
        for name in compared:
            wanted = values[name]
            if (
                case == "swav" and name == "after/prototypes.weight"
            ):  # normalized before the next forward pass there
                wanted = nn.functional.normalize(wanted, dim=1)
            worst = max(worst, float((found[name] - wanted).abs().max()))
            torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-10, msg=f"{name}: {worst}")
    print(f"{case}: {len(compared)} tensors, largest difference {worst:.1e}")
