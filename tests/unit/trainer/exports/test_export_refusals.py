"""Exports that cannot be: one message, and nothing is left of them."""

from pathlib import Path

import pytest
import torch
from trained_runs import make_run, sized

from data_pipelines.errors import UserError
from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.exports.export import FORMATS, export_backbone

pytestmark = pytest.mark.slow

CIFAR = ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=cifar")
NARROW = ("backbone.name=resnet18", "backbone.width=8", "backbone.stem=half")
VIT = ("backbone.name=test_vit", *sized(48))


@pytest.mark.parametrize(
    ("overrides", "given", "message"),
    [
        (
            CIFAR,
            {"format_name": "torchvision"},
            "torchvision has no resnet18 with the cifar stem and width 64",
        ),
        (NARROW, {"format_name": "timm"}, "timm has no resnet18 with the half stem and width 8"),
        (VIT, {"format_name": "torchvision"}, "test_vit is a timm model"),
        (NARROW, {"format_name": "safetensors", "out": "net.onnx"}, "add --format onnx"),
        (NARROW, {"format_name": "torchscript", "out": "net.pth"}, "add --format torchvision"),
        (NARROW, {"format_name": "hf", "out": "run"}, "already exists"),
    ],
)
def test_wrong_use_is_one_message_and_leaves_nothing(tmp_path, overrides, given, message):
    run, _ = make_run(tmp_path / "run", *overrides)
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / given.pop("out", "new")
    with pytest.raises(UserError, match=message):
        export_backbone(run.path, out, **given)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("format_name", "out", "message"),
    [
        ("safetensors", ".", "is not a valid name of a file"),
        ("safetensors", "", "is not a valid name of a file"),
        ("hf", ".", "is not a valid name of a folder"),
        ("hf", "..", "is not a valid name of a folder"),
        ("onnx", "there", "is a folder\n  fix: give a file with --out, such as there/backbone.onnx"),
        ("hf", "full", "already exists"),
        ("safetensors", "file/net.safetensors", "its folder cannot be created"),
        ("hf", "file/net", "its folder cannot be created"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_backbone_is_read(
    tmp_path, monkeypatch, format_name, out, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        export_backbone(tmp_path / "no_such_run", Path(out), format_name=format_name)


def test_a_method_without_an_averaged_copy_has_none_to_export(tmp_path):
    run, method = make_run(tmp_path / "run", *NARROW)
    online = {k: v for k, v in method.state_dict().items() if not k.startswith("momentum.")}
    CheckpointStore(run.checkpoints, attempt=2).write(Snapshot(4, online, {}, {"step": 4}))
    with pytest.raises(UserError, match=r"has no momentum backbone\. Available: online"):
        export_backbone(run.path, tmp_path / "net.safetensors", momentum=True)


def test_a_file_that_gives_other_features_is_not_left(tmp_path, monkeypatch):
    run, _ = make_run(tmp_path / "run", *NARROW)
    form = FORMATS["safetensors"]
    broken = form._replace(load=lambda subject, path: lambda images: 1.01 * form.load(subject, path)(images))
    monkeypatch.setitem(FORMATS, "safetensors", broken)
    (tmp_path / "net.safetensors").write_bytes(b"before")
    with pytest.raises(UserError, match="different features than the backbone"):
        export_backbone(run.path, tmp_path / "net.safetensors")
    assert (tmp_path / "net.safetensors").read_bytes() == b"before"


def test_a_network_that_an_exporter_does_not_take_is_one_message(tmp_path, monkeypatch):
    run, _ = make_run(tmp_path / "run", *NARROW)

    def fail(*arguments, **options):
        raise RuntimeError("no such operator\nand a long story")

    monkeypatch.setattr(torch.jit, "trace", fail)
    with pytest.raises(UserError, match="resnet18 cannot be written as torchscript: no such operator\n  fix"):
        export_backbone(run.path, tmp_path / "net.pt", format_name="torchscript")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_missing_packages_of_onnx_are_named(tmp_path, monkeypatch):
    run, _ = make_run(tmp_path / "run", *NARROW)
    monkeypatch.setattr(
        "trainer.exports.onnx.find_spec", lambda name: None if name == "onnxruntime" else True
    )
    with pytest.raises(UserError, match=r"onnxruntime, which is not installed[\s\S]*pip install onnxruntime"):
        export_backbone(run.path, tmp_path / "net.onnx", format_name="onnx")
