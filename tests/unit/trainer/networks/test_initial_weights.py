"""Checkpoints of others, written as they write them, and what a backbone starts from."""

import pytest
import timm
import torch
import torchvision
from foreign_checkpoints import lightly, moco, solo_learn
from safetensors.torch import save_file
from torch import nn
from trained_runs import SMALL, make_run

from data_pipelines.errors import UserError
from trainer.config.schema import load_config
from trainer.exports.export import export_backbone
from trainer.networks.backbones import BackboneSettings, build_backbone
from trainer.networks.initial_weights import read_initial_weights
from trainer.runs.components import build_method

NARROW = {"name": "resnet18", "width": 8, "stem": "cifar"}
SIZE = 32


def trained(**settings):
    """A backbone whose tensors all differ from fresh ones."""
    torch.manual_seed(7)
    backbone = build_backbone(BackboneSettings(**settings), SIZE)
    with torch.no_grad():
        for value in backbone.state_dict().values():
            value.add_(torch.rand(value.shape) if value.is_floating_point() else 5)
    return backbone


def read(path, *, partial=False, **settings):
    return read_initial_weights(BackboneSettings(init=path, init_partial=partial, **settings), SIZE)


def assert_equal(found, backbone):
    wanted = backbone.state_dict()
    assert found.keys() == wanted.keys()
    assert all(found[name].equal(wanted[name]) for name in wanted)


def without_counters(backbone):
    return {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("written", [solo_learn, lightly, moco, lambda backbone: backbone.state_dict()])
def test_checkpoints_of_others_are_found_behind_their_prefix(tmp_path, written):
    backbone = trained(**NARROW)
    torch.save(written(backbone), tmp_path / "file.ckpt")
    found = read(tmp_path / "file.ckpt", **NARROW)
    assert_equal(found.tensors, backbone)
    assert "100 of 100 tensors of the backbone match" in found.report


def test_the_report_says_where_and_what_else(tmp_path):
    torch.save(solo_learn(trained(**NARROW)), tmp_path / "file.ckpt")
    report = read(tmp_path / "file.ckpt", **NARROW).report
    assert f"match those of {tmp_path}/file.ckpt under state_dict behind backbone.\n" in report
    assert "not used: classifier (2), momentum_backbone (100), projector (1)" in report
    assert "match as well: under state_dict behind momentum_backbone." in report
    assert "missing" not in report


def test_torchvision_and_timm_files_of_a_whole_resnet(tmp_path):
    plain = {"name": "resnet18", "stem": "imagenet"}
    network = torchvision.models.resnet18()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    found = read(tmp_path / "resnet18.pth", **plain)
    assert "not used: fc (2)" in found.report
    network.fc = nn.Identity()
    assert_equal(found.tensors, network)
    theirs = timm.create_model("resnet18")
    save_file(theirs.state_dict(), str(tmp_path / "model.safetensors"))
    found = read(tmp_path / "model.safetensors", **plain)
    theirs.fc = nn.Identity()
    assert_equal(found.tensors, theirs)
    vit = timm.create_model("test_vit", img_size=SIZE)
    torch.save({"model": vit.state_dict(), "epoch": 1}, tmp_path / "vit.pth")
    found = read(tmp_path / "vit.pth", name="test_vit")
    assert "not used: head (2)" in found.report
    assert found.tensors["pos_embed"].equal(vit.state_dict()["pos_embed"])


def test_old_files_have_no_counters_and_may_be_of_another_precision(tmp_path):
    backbone = trained(**NARROW)
    halves = {k: v.half() for k, v in without_counters(backbone).items()}
    torch.save(halves, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = read(tmp_path / "old.pth", **NARROW)
    assert "100 of 100" in found.report
    assert "missing" not in found.report
    fresh = build_backbone(BackboneSettings(**NARROW), SIZE)
    fresh.load_state_dict(found.tensors, strict=False)
    assert fresh.conv1.weight.dtype == torch.float32
    assert fresh.conv1.weight.equal(halves["conv1.weight"].float())


@pytest.mark.parametrize(
    "file", ["safetensors/net.safetensors", "torchvision/net.pth", "timm/net.safetensors"]
)
def test_our_own_exports_and_checkpoints(tmp_path, file):
    settings = ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=imagenet")
    run, method = make_run(tmp_path / "run", *settings)
    path, _ = export_backbone(run.path, tmp_path / file, format_name=file.partition("/")[0])
    plain = {"name": "resnet18", "stem": "imagenet"}
    assert_equal(read(path, **plain).tensors, method.backbone)
    checkpoint = read(run.checkpoints / "step_00000003" / "model.safetensors", **plain)
    assert_equal(checkpoint.tensors, method.backbone)
    assert "match as well: behind momentum.backbone." in checkpoint.report


def test_the_other_stem_needs_consent(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError) as caught:
        read(tmp_path / "resnet18.pth", name="resnet18", stem="cifar")
    said = str(caught.value)
    assert "99 of 100 tensors" in said
    assert (
        "of another shape in the file: conv1.weight [64, 3, 7, 7] where the backbone has [64, 3, 3, 3]"
        in said
    )
    assert "backbone.init_partial=true" in said
    found = read(tmp_path / "resnet18.pth", name="resnet18", stem="cifar", partial=True)
    assert "conv1.weight" not in found.tensors
    assert len(found.tensors) == 119  # with the counters
    assert "99 of 100" in found.report


def test_what_is_missing_is_listed(tmp_path):
    backbone = trained(**NARROW)
    torch.save({k: v for k, v in backbone.state_dict().items() if "layer4" not in k}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"missing in the file: layer4.0.conv1.weight, .* and 20 more"):
        read(tmp_path / "part.pth", **NARROW)


def test_numbers_alone_are_taken_only_where_all_fits(tmp_path):
    content = lightly(trained(**NARROW))
    del content["state_dict"]["backbone.7.1.conv2.weight"]
    torch.save(content, tmp_path / "part.pth")
    with pytest.raises(UserError, match="another network: 4 of 100 tensors of the backbone match") as caught:
        read(tmp_path / "part.pth", partial=True, **NARROW)
    assert "backbone.0.weight" in str(caught.value)


@pytest.mark.parametrize("content", [{"other.weight": torch.rand(3)}, {"epoch": 3}, [torch.rand(3)]])
def test_nothing_that_matches_is_refused_even_in_part(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match="another network: 0 of 100 tensors of the backbone match"):
        read(tmp_path / "other.pth", partial=True, **NARROW)


def test_the_averaged_copy_starts_from_the_same_weights_and_heads_as_without(tmp_path):
    backbone = trained(**NARROW)
    torch.save(backbone.state_dict(), tmp_path / "net.pth")
    overrides = [*SMALL, "backbone.name=resnet18", "backbone.width=8", "backbone.stem=cifar"]
    config = load_config("digits_demo", [*overrides, f"backbone.init={tmp_path}/net.pth"])
    found = read_initial_weights(config.backbone, SIZE)
    started = build_method(config, 10, torch.device("cpu"), initial=found.tensors)
    for copy in started.evaluation_backbones().values():
        assert_equal(copy.state_dict(), backbone)
    fresh = build_method(load_config("digits_demo", overrides), 10, torch.device("cpu")).state_dict()
    own = started.state_dict()
    assert own.keys() == fresh.keys()
    rest = [name for name in own if "backbone." not in name]
    assert rest
    assert all(own[name].equal(fresh[name]) for name in rest)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "a.pth", "pretrained": True}, "pretrained and init cannot be combined"),
        ({"init_partial": True}, "init_partial needs init"),
    ],
)
def test_settings_that_contradict_each_other(settings, message):
    with pytest.raises(ValueError, match=message):
        BackboneSettings(**settings)
