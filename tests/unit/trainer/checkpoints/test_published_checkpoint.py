"""Checkpoints of the published code, written in their layout, as state of our methods and optimizers."""

from pathlib import Path

import pytest
import torch
from foreign_checkpoints import published
from small_methods import SMALL
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.checkpoints.published import METHODS, PublishedCheckpoint
from trainer.engine.optimizer_state import load_optimizer_tensors, optimizer_tensors
from trainer.engine.optimizers import OptimSettings, build_optimizer, parameter_groups
from trainer.methods import Method
from trainer.networks.backbones import BackboneSettings, build_backbone

STEP = 70


def make(name: str, seed: int) -> tuple[Method, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    method = SMALL[name].build(build_backbone(BackboneSettings(width=8, stem="padded"), 16), 3)
    settings = OptimSettings()
    return method, build_optimizer(parameter_groups(method.named_parameters(), settings, 256), settings)


def trained(name: str) -> tuple[Method, torch.optim.Optimizer]:
    method, optimizer = make(name, seed=1)
    views = [torch.randn(6, 3, 16, 16) for _ in range(2)]
    method(views, torch.arange(6) % 3, torch.arange(6)).loss.backward()
    method.after_backward()
    optimizer.step()
    method.after_step(1, 10)
    return method, optimizer


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert not [name for name in wanted if not torch.equal(found[name], wanted[name])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.ckpt"


@pytest.mark.parametrize("name", METHODS)
def test_the_whole_state_comes_back(name: str, path: Path) -> None:
    method, optimizer = trained(name)
    torch.save(published(method, optimizer, STEP), path)
    found = PublishedCheckpoint.read(path)
    fresh, empty = make(name, seed=2)
    model, momentum = (state(fresh, torch.float32) for state in (found.model_state, found.optimizer_state))
    wanted = method.state_dict()
    if name == "nnclr":
        wanted["queue.ids"] = torch.full_like(wanted["queue.ids"], -1)
    assert found.step == STEP
    assert_equal(model, wanted)
    fresh.load_state_dict(model)
    load_optimizer_tensors(empty, fresh.named_parameters(), momentum)
    assert_equal(
        optimizer_tensors(empty, fresh.named_parameters()),
        optimizer_tensors(optimizer, method.named_parameters()),
    )


def test_a_file_of_another_network_is_refused(path: Path) -> None:
    method, optimizer = trained("all4one")
    torch.save(published(method, optimizer, STEP), path)
    wide = SMALL["all4one"].model_copy(update={"embedding_dim": 16}).build(method.backbone, 3)
    with pytest.raises(UserError, match=r"projector.6.weight is \[8, 16\], expected \[16, 16\]"):
        PublishedCheckpoint.read(path).model_state(wide, torch.float32)


def test_a_file_whose_optimizer_has_other_parameters_is_refused(path: Path) -> None:
    content = published(*trained("all4one"), STEP)
    del content["state_dict"]["predictor2.0.weight"]
    torch.save(content, path)
    with pytest.raises(UserError, match="parameters are not the"):
        PublishedCheckpoint.read(path)


def test_a_file_without_the_optimizer_is_refused_and_the_error_names_backbone_init(path: Path) -> None:
    content = published(*trained("nnclr"), STEP)
    torch.save({"state_dict": content["state_dict"]}, path)
    with pytest.raises(UserError, match=r"lacks optimizer_states, global_step[\s\S]*backbone.init"):
        PublishedCheckpoint.read(path)


def test_a_file_that_is_none_is_refused(path: Path) -> None:
    path.write_text("nothing")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        PublishedCheckpoint.read(path)
