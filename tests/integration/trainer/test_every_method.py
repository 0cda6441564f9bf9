"""Every method as runs have it: in two DeepSpeed processes at each ZeRO stage, saved and taken over, and compiled."""

from typing import Any, NamedTuple, cast

import pytest
import torch
import torch.distributed as dist
from deepspeed_ranks import engine_of, everything, train
from rank_processes import run_as_ranks
from small_methods import SMALL
from torch import Tensor, nn

from trainer.config.schema import Config, load_config
from trainer.methods import Method, MethodSettings, available
from trainer.methods.all4one import All4OneSettings
from trainer.networks.backbones import Backbone

Tensors = dict[str, Tensor]
NAMES = sorted(available())
SETTINGS = (
    "backbone.stem=half",
    "backbone.width=8",
    "train.global_batch=24",
    "train.precision=bf16",
    "optim.name=sgd",
    "optim.lr=0.01",
)


class Results(NamedTuple):
    """What two processes found, by rank 0."""

    norms: list[list[float]]
    """Gradient norms of three steps, by stage."""
    saved: Tensors
    """A checkpoint of stage 1 after two steps."""
    taken_over: Tensors
    """The same once an engine of stage 2 had loaded it."""
    norm_after: float
    """Gradient norm of the third step there."""


def without_dropout(name: str) -> MethodSettings:
    settings = SMALL[name]
    if isinstance(settings, All4OneSettings):
        return settings.model_copy(update={"transformer_dropout": 0.0})
    return settings


def small(name: str, zero: int) -> Config:
    config = load_config("digits_demo", [*SETTINGS, f"parallel.zero_stage={zero}"])
    return config.model_copy(update={"method": without_dropout(name)})


def results_of(name: str) -> Results:
    norms: list[list[float]] = []
    sent: list[Any] = [None]
    for zero in (0, 1, 2):
        config = small(name, zero)
        with engine_of(config) as engine:
            norms.append(train(engine, config, range(2)))
            if zero == 1:
                sent = [everything(engine)]
                dist.broadcast_object_list(sent)
            norms[-1] += train(engine, config, range(2, 3))
            if zero < 2:
                continue
            # this engine is a step further: there is other state to replace
            optimizer = {k.removeprefix("optimizer/"): t for k, t in sent[0].items() if "/" in k}
            engine.load_state({k: t for k, t in sent[0].items() if "/" not in k}, optimizer)
            loaded = everything(engine)
            norm_after = train(engine, config, range(2, 3))[0]
    return Results(norms, sent[0], loaded, norm_after)


def on_two_ranks() -> dict[str, Results]:
    return {name: results_of(name) for name in NAMES}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    return run_as_ranks(on_two_ranks, 2, tmp_path_factory.mktemp("ranks"), ())[0]


@pytest.mark.parametrize("name", NAMES)
def test_all_stages_train_the_same_in_bf16(results: dict[str, Results], name: str) -> None:
    for norms in results[name].norms:
        assert norms[0] > 0
        assert norms == pytest.approx(results[name].norms[0], rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_is_taken_over_whole_and_trained_on(results: dict[str, Results], name: str) -> None:
    result = results[name]
    assert result.taken_over.keys() == result.saved.keys()
    assert not [
        key for key, tensor in result.saved.items() if not torch.equal(result.taken_over[key], tensor)
    ]
    assert result.norm_after == pytest.approx(result.norms[1][2], rel=0.02)


def tiny(name: str) -> Method:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8), nn.ReLU())
    network.feature_dim = 8
    method = without_dropout(name).build(cast(Backbone, network), 3).double()
    method.log_diagnostics = True
    return method


@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_method_traces_to_the_same_loss_and_gradients(name: str) -> None:
    torch._dynamo.reset()  # which gives up compiling where too many have been
    views = [torch.randn(6, 3, 4, 4, dtype=torch.float64) for _ in range(2)]
    plain, compiled = tiny(name), tiny(name)
    # what torch makes of the networks, without the minutes that it takes to make machine code of that
    compiled.compile_networks(backend="aot_eager")
    found = [method(views, torch.arange(6) % 3, torch.arange(6)) for method in (plain, compiled)]
    for out in found:
        out.loss.backward()
    assert found[0].parts.keys() == found[1].parts.keys()
    torch.testing.assert_close(found[1].loss, found[0].loss)
    for weight, parameter in plain.named_parameters():
        torch.testing.assert_close(compiled.get_parameter(weight).grad, parameter.grad, msg=weight)
