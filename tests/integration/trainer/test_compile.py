"""A compiled method computes what it computes otherwise. Barlow Twins has the fewest networks to compile."""

from typing import cast

import pytest
import torch
from rank_processes import interpret_triton
from torch import Tensor, nn
from torch._dynamo.utils import counters

from trainer.contrast.embedding_health import gradient_shares
from trainer.contrast.losses import barlow_twins
from trainer.distributed import batch_norm
from trainer.distributed.batch_norm import synchronize_batch_norm
from trainer.distributed.collectives import rank
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


def trained(on_gpu: bool, backend: str | None) -> tuple[dict[str, Tensor], int]:
    """State after two steps of this rank, with batch norm over both ranks, and the number of graph breaks."""
    method = synchronize_batch_norm(tiny(), torch.device("cpu"))
    assert isinstance(method, Method)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(method.parameters(), 0.1)
    counters.clear()
    with pytest.MonkeyPatch.context() as patch:
        if on_gpu:
            interpret_triton()
            patch.setattr(batch_norm, "_on_cuda", lambda x: True)
        if backend is not None:
            method.compile_networks(backend)
        for _ in range(2):
            views = [torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2)]
            own = [view.chunk(2)[rank()] for view in views]
            optimizer.zero_grad()
            method(own, torch.arange(4) % 3, torch.arange(4)).loss.backward()
            for parameter in method.parameters():
                torch.distributed.all_reduce(parameter.grad)
            optimizer.step()
    return {name: tensor.detach() for name, tensor in method.state_dict().items()}, sum(
        counters["graph_break"].values()
    )


@pytest.mark.slow
@pytest.mark.parametrize(("on_gpu", "backend"), [(False, "inductor"), (True, "aot_eager")])
def test_batch_norm_across_ranks_compiles_into_whole_graphs(run_ranks, on_gpu: bool, backend: str) -> None:
    """The batch norm of CUDA devices runs in Triton's interpreter, so only its graph can be compiled."""
    plain = run_ranks(trained, 2, on_gpu, None)
    compiled = run_ranks(trained, 2, on_gpu, backend)
    for (expected, _), (found, breaks) in zip(plain, compiled, strict=True):
        assert breaks == 0
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, **CLOSE, msg=name)
    assert not torch.equal(plain[0][0]["backbone.1.running_mean"], torch.zeros(8, dtype=torch.float64))
