"""A compiled method computes what it computes otherwise. Barlow Twins has the fewest networks to compile."""

from typing import cast

import torch
from torch import nn

from trainer.contrast.embedding_health import gradient_shares
from trainer.contrast.losses import barlow_twins
from trainer.methods import Method
from trainer.methods.barlow_twins import BarlowTwinsSettings
from trainer.networks.backbones import Backbone

CLOSE = {"rtol": 1e-7, "atol": 1e-9}


def tiny() -> Method:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    network.feature_dim = 8
    return (
        BarlowTwinsSettings(projector_hidden=16, embedding_dim=8).build(cast(Backbone, network), 3).double()
    )


def test_a_compiled_method_has_the_same_loss_gradients_and_running_moments() -> None:
    plain, chosen = tiny(), tiny()
    chosen.compile_networks()
    batch = (
        [torch.randn(6, 3, 8, 8, dtype=torch.float64) for _ in range(2)],
        torch.arange(6) % 3,
        torch.arange(6),
    )
    results = [method(*batch) for method in (plain, chosen)]
    torch.testing.assert_close(results[1].loss, results[0].loss, **CLOSE)
    for out in results:
        out.loss.backward()
    buffers = dict(plain.named_buffers())
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(chosen.get_parameter(name).grad, weight.grad, **CLOSE, msg=name)
    for name, buffer in chosen.named_buffers():
        torch.testing.assert_close(buffer, buffers[name], **CLOSE, msg=name)
    # the shares of the losses go back through the graph once, and the backward pass again
    features = [chosen.backbone(view) for view in batch[0]]
    loss = barlow_twins(*(chosen.get_submodule("projector")(h) for h in features), redundancy=0.1)
    assert gradient_shares({"loss": loss}, features)["loss"] == 1
    loss.backward()
