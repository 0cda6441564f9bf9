"""Format `timm`: safetensors with timm's names. For plain ResNets these are the names of torchvision."""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from data_pipelines.errors import UserError
from trainer.checkpoints.tensor_files import save_tensors
from trainer.exports.format import Features, Format, Subject, require_plain


def model_arguments(subject: Subject) -> dict[str, Any]:
    """Return the arguments of `timm.create_model`, besides the name, for the network that the weights fit.

    Raises:
        UserError: timm has no such network.
    """
    import timm

    require_plain(subject, "timm")
    if not timm.is_model(subject.name):
        raise UserError(
            f"timm has no model {subject.name}", where="--format", fix="export as torchvision or safetensors"
        )
    fixed = not subject.is_torchvision and timm.get_pretrained_cfg(subject.name).fixed_input_size
    return {"num_classes": 0, **({"img_size": subject.recipe.image_size} if fixed else {})}


def _write(subject: Subject, path: Path) -> None:
    model_arguments(subject)
    save_tensors(subject.tensors(), path, {"format": "pt"})


def _load(subject: Subject, path: Path) -> Features:
    import timm

    network = timm.create_model(subject.name, pretrained=False, **model_arguments(subject))
    network.load_state_dict(load_file(path), strict=True)
    return network.eval()


def _loads_into(subject: Subject) -> str:
    given = "".join(f", {name}={value}" for name, value in model_arguments(subject).items())
    return f"load it strictly with timm.create_model({subject.name!r}{given}, checkpoint_path=FILE)"


FORMAT = Format((".safetensors",), _write, _load, _loads_into)
