"""Every format is loaded here as its users do, without our own loaders, and gives the backbone's features."""

import json
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from trained_runs import make_run, sized

from launch.commands.models import ExportFormat
from trainer.exports.export import FORMATS, export_backbone
from trainer.inference.loaded_backbones import load_backbones
from trainer.networks.backbones import torchvision_resnets

pytestmark = pytest.mark.slow

RESNET = ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=imagenet", *sized(64))
CIFAR = ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=cifar")
NARROW = ("backbone.name=resnet18", "backbone.width=8", "backbone.stem=half")
VIT = ("backbone.name=test_vit", *sized(48))


@pytest.fixture
def exported(tmp_path, images_for):
    """Export a run of these settings; the file, real normalized images, and the features [12, F] of the run's own
    network on them."""

    def export(format_name, *overrides, momentum=False, out="out", **given):
        run, method = make_run(tmp_path / "run", *overrides)
        path, said = export_backbone(
            run.path, tmp_path / out, format_name=format_name, momentum=momentum, **given
        )
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
        recipe = load_backbones(run.path).recipe
        images = images_for(recipe)
        with torch.no_grad():
            features = method.evaluation_backbones()["momentum" if momentum else "online"](images)
        assert features.std(0).max() > 1e-3  # the images differ, and so must what is made of them
        return path, said, images, features, recipe

    return export


def assert_same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def in_unit_range(images, recipe):
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.data.mean, recipe.data.std))
    return images * std + mean


@pytest.mark.parametrize("momentum", [False, True])
def test_torchvision_loads_strictly_without_its_classifier(exported, momentum):
    path, said, images, features, _ = exported("torchvision", *RESNET, momentum=momentum, out="net.pth")
    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    with torch.no_grad():
        assert_same(network.eval()(images), features)
    assert "torchvision.models.resnet18() with fc = nn.Identity()" in said


@pytest.mark.parametrize(
    ("overrides", "name", "options"), [(RESNET, "resnet18", {}), (VIT, "test_vit", {"img_size": 48})]
)
def test_timm_loads_strictly(exported, overrides, name, options):
    path, _, images, features, _ = exported("timm", *overrides, out="net.safetensors")
    network = timm.create_model(name, num_classes=0, **options)
    network.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        assert_same(network.eval()(images), features)
    again = timm.create_model(name, num_classes=0, checkpoint_path=str(path), **options)
    with torch.no_grad():
        assert_same(again.eval()(images), features)


@pytest.mark.parametrize("name", torchvision_resnets())
def test_torchvision_s_resnets_have_timm_s_names(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0).state_dict()
        ours = torchvision.models.get_model(name, weights=None).state_dict()
    ours = {k: v.shape for k, v in ours.items() if not k.startswith("fc.")}
    assert ours == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_torchvision_s_resnets_have_timm_s_features(name):
    torch.manual_seed(0)
    ours = torchvision.models.get_model(name, weights=None)
    ours.fc = nn.Identity()
    theirs = timm.create_model(name, num_classes=0)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        wanted = ours.eval()(images)
        assert_same(theirs.eval()(images) / wanted.abs().max(), wanted / wanted.abs().max())


@pytest.mark.parametrize("overrides", [CIFAR, VIT])
def test_torchscript_runs_in_a_process_that_knows_nothing_of_us(exported, tmp_path, overrides):
    _, said, images, features, recipe = exported("torchscript", *overrides, out="net.pt", momentum=True)
    torch.save(in_unit_range(images, recipe), tmp_path / "images")
    code = (
        "import sys, json, torch\n"
        "facts = {'all4one.json': ''}\n"
        "network = torch.jit.load('net.pt', _extra_files=facts)\n"
        "assert json.loads(facts['all4one.json'])['backbone'] == 'momentum'\n"
        "torch.save(network(torch.load('images')).detach(), 'features')\n"
        "assert 'trainer' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert_same(torch.load(tmp_path / "features"), features)
    assert "RGB in [0, 1]" in said


@pytest.mark.parametrize("overrides", [CIFAR, VIT])
def test_onnx_takes_any_batch(exported, overrides):
    path, _, images, features, recipe = exported("onnx", *overrides, out="net.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pixels = in_unit_range(images, recipe).numpy()
    for rows in (slice(0, 1), slice(1, 12)):
        (found,) = session.run(None, {"images": np.ascontiguousarray(pixels[rows])})
        assert_same(torch.from_numpy(found), features[rows])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["all4one"])
    assert facts["checkpoint"] == "step_00000003"
    assert not path.with_name("net.onnx.data").exists()


def test_safetensors_is_read_again_and_its_averaged_copy_is_another(exported, tmp_path):
    path, _, images, features, recipe = exported("safetensors", *NARROW, out="net.safetensors", momentum=True)
    again = load_backbones(path)
    assert again.recipe == recipe
    with torch.no_grad():
        assert_same(again.backbones["exported"].cpu()(images), features)
    online = load_backbones(tmp_path / "run").backbones["online"].cpu()
    with torch.no_grad():
        assert (online(images) - features).abs().max() > 1e-3
    with safe_open(str(path), framework="pt") as opened:
        assert "layer1.0.conv1.weight" in opened.keys()  # noqa: SIM118


def test_what_was_exported_is_exported_again(exported, tmp_path):
    path, _, images, features, recipe = exported("safetensors", *NARROW, out="net.safetensors")
    onnx, _ = export_backbone(path, tmp_path / "net.onnx", format_name="onnx")
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": in_unit_range(images, recipe).numpy()})
    assert_same(torch.from_numpy(found), features)


def test_the_command_offers_every_format():
    assert [name.value for name in ExportFormat] == list(FORMATS)
