import pytest
import torch

from data_pipelines.errors import UserError
from trainer.config.schema import load_config
from trainer.methods import Method
from trainer.runs.components import build_method

SMALL = (
    "backbone.stem=half",
    "backbone.width=8",
    "method.projector_hidden=16",
    "method.predictor_hidden=16",
    "method.embedding_dim=16",
    "method.queue.size=50",
    "train.precision=fp32",
)


def build(*overrides: str) -> Method:
    return build_method(load_config("digits_demo", [*SMALL, *overrides]), 3, torch.device("cpu"))


def compiled(method: Method) -> set[str]:
    return {name for name, module in method.named_modules() if module._compiled_call_impl is not None}


@pytest.mark.slow
def test_compiling_is_a_choice_that_spares_queue_and_classifier_and_keeps_every_name() -> None:
    plain, chosen = build(), build("parallel.compile=true")
    assert compiled(plain) == set()
    assert compiled(chosen) == {
        "backbone",
        "projector",
        "neighbor_predictor",
        "centroid_predictor",
        "transformer",
        "momentum.backbone",
        "momentum.projector",
    }
    assert list(chosen.state_dict()) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.equal(chosen.state_dict()[name], value)


@pytest.mark.slow
def test_a_missing_compiler_is_said_before_anything_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    build()
    with pytest.raises(UserError, match=r"no-such-compiler.*\n*.*parallel.compile"):
        build("parallel.compile=true")


@pytest.mark.slow
def test_recomputing_is_a_choice_that_compiled_networks_have_no_use_for() -> None:
    assert not build().recompute
    assert build("backbone.activation_checkpointing=true").recompute
    with pytest.raises(UserError, match=r"backbone.activation_checkpointing"):
        build("backbone.activation_checkpointing=true", "parallel.compile=true")
