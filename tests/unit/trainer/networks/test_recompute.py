import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from trainer.networks.backbones import BackboneSettings, build_backbone
from trainer.networks.recompute import recompute_activations


def run(network: nn.Module, x: Tensor, lean: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Features, gradients by name, and bytes kept between the passes."""
    network = copy.deepcopy(network)
    x = x.clone().requires_grad_()
    context = recompute_activations() if lean else nullcontext()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, context:
        features = network(x)
    events = profiler.profiler.kineto_results.events()
    kept = sum(event.nbytes() for event in events if event.name() == "[memory]")
    features.square().sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return features, {**gradients, **dict(network.named_buffers()), "x": x.grad}, kept


@pytest.mark.parametrize(
    ("name", "most"), [("resnet18", 0.6), ("resnet50", 0.7), ("regnety_002", 1.01), ("resnet10t", 0.9)]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_and_moments_are_the_same_and_less_is_kept(
    name: str, most: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    settings = BackboneSettings(name=name, width=8 if name in ("resnet18", "resnet50") else 64)
    network = build_backbone(settings, 32).to(dtype)
    x = torch.randn(4, 3, 32, 32, dtype=dtype)
    features, expected, whole = run(network, x, lean=False)
    same, got, kept = run(network, x, lean=True)
    assert torch.equal(features, same)
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, **close, msg=key)
    assert kept <= most * whole
