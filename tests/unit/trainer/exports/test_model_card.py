"""The folder of format `hf`: its card tells what the run recorded, and its snippet is executed as it stands."""

import json
import re

import pytest
import timm
import torch
import yaml
from PIL import Image
from trained_runs import make_run, sized

from data_pipelines.shards.shard_set import ShardSet
from trainer.exports.export import export_backbone
from trainer.inference.loaded_backbones import load_backbones
from trainer.runs.records import append_record

pytestmark = pytest.mark.slow

FOLDER = {
    "timm_resnet": ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=imagenet", *sized(64)),
    "timm_vit": ("backbone.name=test_vit", *sized(48)),
    "cifar": ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=cifar", *sized(32)),
    "half": ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=half", *sized(32)),
    "padded": ("backbone.name=resnet18", "backbone.width=64", "backbone.stem=padded", *sized(32)),
    "narrow": ("backbone.name=resnet18", "backbone.width=8", "backbone.stem=half", *sized(32)),
}


@pytest.mark.parametrize("kind", FOLDER)
def test_the_snippet_gives_the_run_s_features(tmp_path, monkeypatch, kind):
    run, method = make_run(tmp_path / "run", *FOLDER[kind])
    folder, _ = export_backbone(run.path, tmp_path / "hub", format_name="hf", momentum=True)
    size = load_backbones(run.path).recipe.image_size
    # of the size after resizing, so that no way of resizing has a part in it
    pixels = torch.randint(0, 256, (size + 8, size + 8, 3), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / "image.png")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(code.replace("image.jpg", "image.png"), names)

    recipe = load_backbones(run.path).recipe
    cut = pixels[4:-4, 4:-4].permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.data.mean, recipe.data.std))
    with torch.no_grad():
        wanted = method.evaluation_backbones()["momentum"]((cut - mean) / std)
    torch.testing.assert_close(names["features"], wanted, rtol=1e-5, atol=1e-5)


def test_timm_reads_sizes_and_normalization_from_the_folder(tmp_path):
    run, _ = make_run(tmp_path / "run", *FOLDER["timm_vit"], "data.mean=[0.4, 0.5, 0.6]")
    folder, said = export_backbone(run.path, tmp_path / "hub", format_name="hf", license="mit")
    network = timm.create_model(f"local-dir:{folder}", pretrained=True)
    config = timm.data.resolve_model_data_config(network)
    assert network.num_classes == 0
    assert (config["input_size"], config["interpolation"]) == ((3, 48, 48), "bicubic")
    assert list(config["mean"]) == [0.4, 0.5, 0.6]
    assert config["crop_pct"] == pytest.approx(48 / 56)
    assert "fill in" not in said


def test_the_card_says_what_the_run_recorded(tmp_path, some_digits):
    run, _ = make_run(
        tmp_path / "run", *FOLDER["narrow"], f"data.train={some_digits}", "optim.lr=0.25", step=8
    )
    for step, top1 in ((4, 0.25), (8, 0.625), (12, 0.875)):
        append_record(
            run.metrics, {"kind": "eval", "step": step, "knn_online": top1, "knn_momentum": top1 / 2}
        )
    evaluated = {"knn": {"top1": 0.75, "top5": 0.9375}, "linear": {"top1": 0.8125, "top5": 1.0}}
    found = {
        "checkpoint": f"elsewhere/{load_backbones(run.path).recipe.source.rpartition('/')[2]}",
        "validation": "sets/digits/validation",
        "backbones": {"online": evaluated, "momentum": {}},
    }
    (run.path / "eval.json").write_text(json.dumps(found))
    folder, said = export_backbone(run.path, tmp_path / "hub", format_name="hf")
    card = (folder / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert "license" not in yaml.safe_load(front)
    assert "Not chosen yet" in text
    assert "fill in" in said
    for line in (
        f"| data | {some_digits.parent.name}/{some_digits.name}, {len(ShardSet.open(some_digits))} images |",
        "| method | all4one |",
        "| learning rate | 0.25 for a batch of 256 images |",
        "| kNN during training | 62.50 |  | the validation set, after step 8 |",
        "| knn | 75.00 | 93.75 | digits/validation |",
        "| linear | 81.25 | 100.00 | digits/validation |",
    ):
        assert line in text
    assert "87.50" not in text  # of a later step than the checkpoint

    found["checkpoint"] = "step_00000004"
    (run.path / "eval.json").write_text(json.dumps(found))
    folder, _ = export_backbone(
        run.path, tmp_path / "other", format_name="hf", momentum=True, license="cc-by-4.0"
    )
    card = (folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "31.25" in card
    assert "75.00" not in card


def test_no_path_of_the_machine_is_in_the_folder_and_we_read_it_again(tmp_path):
    run, _ = make_run(tmp_path / "run", *FOLDER["narrow"], f"data.train={tmp_path}/private/set/train")
    folder, _ = export_backbone(run.path, tmp_path / "hub", format_name="hf")
    assert not [path for path in folder.iterdir() if str(tmp_path).encode() in path.read_bytes()]
    assert load_backbones(folder / "model.safetensors").recipe.source == "step_00000003"
    again, _ = export_backbone(folder / "model.safetensors", tmp_path / "again", format_name="hf")
    assert "None were recorded" in (again / "README.md").read_text()
