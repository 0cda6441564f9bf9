"""Steps of SwAV and DINO against numbers of their authors' code: losses, gradients, and the state after some steps."""

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.engine.optimizers import OptimSettings, build_optimizer, freeze, parameter_groups
from trainer.methods import Method, available
from trainer.networks.backbones import Backbone

HERE = Path(__file__).with_name("authors")
CASES = sorted(path.stem for path in HERE.glob("*.npz"))


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
    if settings.name == "dino":
        return settings.build(cast(Backbone, Features(nn.Linear(9, 7), 7)), 0).double()
    method = settings.build(cast(Backbone, Rows()), 0).double()
    method.projector = nn.Linear(7, 6).double()
    return method


def replay(about: dict[str, Any], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What our code makes of the images from the same weights, by the names of the file."""
    method, found = make(about), {}
    before = {name.removeprefix("before/"): t for name, t in values.items() if name.startswith("before/")}
    missing = method.load_state_dict(before, strict=False).missing_keys
    assert set(missing) <= {"center"}
    for name in method.unit_rows:
        method.get_parameter(name).data = nn.functional.normalize(before[name], dim=1)
    optim, rows = OptimSettings(**about["optim"]), values["images"].shape[2]
    groups = parameter_groups(method.named_parameters(), optim, optim.reference_batch, method.freeze_steps)
    optimizer = build_optimizer(groups, optim)
    losses, centers = [], []
    for step, views in enumerate(values["images"]):
        method.step, method.total_steps = step, about["total_steps"]
        freeze(optimizer, step)
        optimizer.zero_grad()
        out = method(list(views), torch.full((rows,), -1), torch.arange(rows))
        out.loss.backward()
        found |= {
            f"gradient/{step}/{n}": p.grad.clone() for n, p in method.named_parameters() if p.grad is not None
        }
        optimizer.step()
        method.after_step(step + 1, about["total_steps"])
        losses.append(out.loss.detach())
        centers += [method.center.clone()] if hasattr(method, "center") else []
    found |= {f"after/{name}": parameter.detach() for name, parameter in method.named_parameters()}
    return found | {"losses": torch.stack(losses)} | ({"center": torch.stack(centers)} if centers else {})


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_weights_are_those_of_the_authors_code(case: str) -> None:
    values = {name: torch.from_numpy(v) for name, v in np.load(HERE / f"{case}.npz").items()}
    found = replay(json.loads((HERE / f"{case}.json").read_text()), values)
    compared = [name for name in values if not name.startswith(("before/", "images"))]
    assert len(compared) >= 10
    worst = 0.0
    for name in compared:
        wanted = values[name]
        if (
            case == "swav" and name == "after/prototypes.weight"
        ):  # normalized before the next forward pass there
            wanted = nn.functional.normalize(wanted, dim=1)
        worst = max(worst, float((found[name] - wanted).abs().max()))
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-10, msg=f"{name}: {worst}")
    print(f"{case}: {len(compared)} tensors, largest difference {worst:.1e}")
