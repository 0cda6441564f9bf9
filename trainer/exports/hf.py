"""Format `hf`: a folder for model hubs, with config.json, model.safetensors and a model card.

If timm has the network, config.json is in timm's format, so `timm.create_model("local-dir:FOLDER")` loads it. A ResNet
with another stem or width has the same files, and its model card shows how to build it.
"""

import json
import math
from pathlib import Path
from typing import Any

import torchvision
from safetensors.torch import load_file
from torch import nn

from data_pipelines.settings import DataSettings
from trainer.checkpoints.tensor_files import save_tensors
from trainer.exports.format import Features, Format, Subject
from trainer.exports.model_card import model_card
from trainer.exports.timm import model_arguments
from trainer.inference.loaded_backbones import METADATA_KEY, Recipe, load_backbones
from trainer.networks.backbones import stem_geometry

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def _write(subject: Subject, path: Path) -> None:
    (path / CONFIG).write_text(json.dumps(_config(subject), indent=2) + "\n")
    metadata = {"format": "pt", METADATA_KEY: _shared(subject).model_dump_json()}
    save_tensors(subject.tensors(), path / WEIGHTS, metadata)
    (path / CARD).write_text(model_card(subject))


def _load(subject: Subject, path: Path) -> Features:
    if subject.is_plain:
        import timm

        arguments = model_arguments(subject)
        return timm.create_model(f"local-dir:{path.resolve()}", pretrained=True, **arguments).eval()
    if subject.recipe.backbone.width != 64:
        return load_backbones(path / WEIGHTS).backbones["exported"].cpu()
    network = torchvision.models.get_model(subject.name, weights=None)
    stride, padding = stem_geometry(subject.stem)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=stride, padding=padding, bias=False)
    network.maxpool = network.fc = nn.Identity()
    network.load_state_dict(load_file(path / WEIGHTS), strict=True)
    return network.eval()


def _config(subject: Subject) -> dict[str, Any]:
    """Return timm's config.json. If timm has no such network, `architecture` is left out, so that timm does not use its
    own."""
    size, data = subject.recipe.image_size, subject.recipe.data
    images = {
        "input_size": [3, size, size],
        "interpolation": "bicubic",
        "crop_mode": "center",
        "crop_pct": crop_share(size, data.eval_resize),
        "mean": data.mean,
        "std": data.std,
        "num_classes": 0,
    }
    shared = {"num_classes": 0, "num_features": subject.backbone.feature_dim}
    if not subject.is_plain:
        ours = {"torchvision": subject.name, "stem": subject.stem, "width": subject.recipe.backbone.width}
        return {**ours, **shared, "images": images}
    import timm

    # a tag would refer to weights of timm
    architecture = subject.name.partition(".")[0]
    theirs = timm.get_pretrained_cfg(architecture).to_dict()
    network = {key: theirs[key] for key in ("first_conv", "classifier") if key in theirs}
    network["fixed_input_size"] = not subject.is_torchvision and theirs.get("fixed_input_size", False)
    arguments = {k: v for k, v in model_arguments(subject).items() if k != "num_classes"}
    license = {"license": subject.license} if subject.license else {}
    return {
        "architecture": architecture,
        **shared,
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {**images, **network, **license},
    }


def crop_share(size: int, resize: int) -> float:
    """Return the fraction of the resized image that the crop covers. timm resizes to the floor of size / fraction."""
    share = size / resize
    while math.floor(size / share) < resize:
        share = math.nextafter(share, 0)
    return share


def _shared(subject: Subject) -> Recipe:
    """Return the recipe without the datasets and the executor of this machine, which should not be published."""
    fields = DataSettings.model_fields
    names = ("train", "classes", "min_side", "max_samples", "validation", "cache", "executor")
    unset = {name: fields[name].default for name in names}
    data = subject.recipe.data.model_copy(update=unset)
    checkpoint = Path(subject.recipe.source).name
    backbone = subject.recipe.backbone.model_copy(update={"init": None, "init_partial": False})
    return subject.recipe.model_copy(update={"backbone": backbone, "data": data, "source": checkpoint})


def _loads_into(subject: Subject) -> str:
    by_timm = 'timm.create_model("local-dir:FOLDER", pretrained=True)'
    loader = by_timm if subject.is_plain else "the snippet in its README.md"
    license = "" if subject.license else "; fill in its license in the model card, or set --license"
    return f"load it with {loader}{license}"


FORMAT = Format((), _write, _load, _loads_into)
