"""One step of MSF and of LeJEPA in float64, against numbers that their authors' code computed from the same inputs.

`before/` holds weights and queue, `grad/` gradients, and `after/` what the step has moved. The inputs are features.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.contrast.losses import sigreg
from trainer.contrast.queue import QueueSettings
from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import all_reduce_sum, rank, world_size
from trainer.methods import Method
from trainer.methods.lejepa import LeJEPASettings
from trainer.methods.msf import MSFSettings
from trainer.networks import ema
from trainer.networks.backbones import Backbone

FOLDER = Path(__file__).with_name("methods")
TOLERANCE = 1e-12
TOTAL_STEPS = 10


class Step(NamedTuple):
    loss: Tensor
    """Mean over the ranks."""
    parts: dict[str, Tensor]
    """Scalars for the log, as means over the ranks."""
    gradients: dict[str, Tensor]
    """By parameter, means over the ranks."""
    state: dict[str, Tensor]
    """After the step."""


class Identity(nn.Identity):
    """A backbone for inputs that are features."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim


def load(name: str) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in np.load(FOLDER / f"{name}.npz").items()}


def within(golden: Mapping[str, Tensor], folder: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{folder}/"): v for k, v in golden.items() if k.startswith(f"{folder}/")}


def step(method: Method, views: list[Tensor], labels: Tensor) -> Step:
    """A step on this rank's rows of the whole batch."""
    synchronize_batch_norm(method, torch.device("cpu"))
    rows = len(labels) // world_size()
    own = slice(rank() * rows, (rank() + 1) * rows)
    out = method([view[own] for view in views], labels[own], torch.arange(len(labels))[own])
    out.loss.backward()
    method.after_backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}

    def mean(value: Tensor) -> Tensor:
        return all_reduce_sum(value.detach().clone()) / world_size()

    parts = {name: mean(value) for name, value in out.parts.items()}
    return Step(mean(out.loss), parts, {n: mean(g) for n, g in gradients.items()}, method.state_dict())


def msf() -> Step:
    golden = load("msf")
    settings = MSFSettings(
        projector_hidden=48, predictor_hidden=48, embedding_dim=6, queue=QueueSettings(size=40)
    )
    method = settings.build(cast(Backbone, Identity(24)), 0).double()
    missing, unknown = method.load_state_dict(within(golden, "before"), strict=False)
    assert (missing, unknown) == (["queue.ids"], [])
    # The authors update the target encoder at the start of a step. The backbone here has no weights.
    copies, (start, end) = method.ema_pairs()[1:], (method.momentum.start, method.momentum.end)
    ema.update(copies, 5, TOTAL_STEPS, start, end=end)
    return step(method, [golden["query"], golden["target"]], golden["labels"])


def lejepa() -> Step:
    golden = load("lejepa")
    settings = LeJEPASettings(
        projector_hidden=20, embedding_dim=6, global_views=4, integration_points=33, integration_limit=3
    )
    method = settings.build(cast(Backbone, Identity(12)), 0).double()
    missing, unknown = method.load_state_dict(within(golden, "before"), strict=False)
    assert not unknown
    assert not [name for name in missing if not name.endswith(("running_mean", "running_var", "tracked"))]
    method._directions = lambda: golden["directions"]
    return step(method, list(golden["features"]), torch.full((golden["features"].shape[1],), -1))


def assert_same(found: Mapping[str, Tensor], golden: Mapping[str, Tensor]) -> None:
    assert golden
    for name, wanted in golden.items():
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_of_msf_is_that_of_its_authors(run_ranks, ranks: int) -> None:
    golden = load("msf")
    for found in run_ranks(msf, ranks):
        assert_same({"loss": found.loss}, {"loss": golden["loss"]})
        assert_same(found.gradients, within(golden, "grad"))
        assert_same(found.state, within(golden, "after"))
        assert found.gradients.keys() == within(golden, "grad").keys()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_of_lejepa_is_that_of_its_authors(run_ranks, ranks: int) -> None:
    golden = load("lejepa")
    for found in run_ranks(lejepa, ranks):
        assert_same(found.parts, {name: golden[name] for name in ("loss", "prediction", "sigreg")})
        assert_same(found.gradients, within(golden, "grad"))
        assert found.gradients.keys() == within(golden, "grad").keys()


def test_sigreg_over_the_papers_interval_is_that_of_its_authors() -> None:
    golden = load("lejepa")
    z = golden["embeddings"].requires_grad_()
    loss = sigreg(list(z), golden["directions"], points=17, limit=5)
    loss.backward()
    wanted = within(golden, "interval_5")
    assert_same({"sigreg": loss.detach(), "grad": z.grad}, wanted)
