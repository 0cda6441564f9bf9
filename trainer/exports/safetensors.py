"""Format `safetensors`: the library's weight names, with the metadata that `all4one eval` needs."""

from pathlib import Path

from trainer.checkpoints.tensor_files import save_tensors
from trainer.exports.format import Features, Format, Subject
from trainer.inference.loaded_backbones import METADATA_KEY, load_backbones


def _write(subject: Subject, path: Path) -> None:
    save_tensors(subject.tensors(), path, {METADATA_KEY: subject.recipe.model_dump_json()})


def _load(_: Subject, path: Path) -> Features:
    return load_backbones(path).backbones["exported"].cpu()


def _loads_into(subject: Subject) -> str:
    names = "torchvision's" if subject.is_torchvision else "timm's"
    return f"`all4one eval`, `all4one embed` and backbone.init load it; its weights have {names} names"


FORMAT = Format((".safetensors",), _write, _load, _loads_into)
