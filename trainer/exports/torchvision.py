"""Format `torchvision`: a state_dict with torchvision's names, without the classifier, which was never trained."""

from pathlib import Path

import torch
import torchvision
from torch import nn

from data_pipelines.errors import UserError
from trainer.exports.format import Features, Format, Subject, require_plain


def _write(subject: Subject, path: Path) -> None:
    if not subject.is_torchvision:
        raise UserError(
            f"{subject.name} is a timm model, and torchvision does not know its names",
            where="--format",
            fix="export as timm, hf, safetensors, torchscript or onnx",
        )
    require_plain(subject, "torchvision")
    torch.save(subject.tensors(), path)


def _load(subject: Subject, path: Path) -> Features:
    network = torchvision.models.get_model(subject.name, weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return network.eval()


def _loads_into(subject: Subject) -> str:
    return (
        f"it loads strictly into torchvision.models.{subject.name}() with fc = nn.Identity(); "
        "it contains no classifier"
    )


FORMAT = Format((".pth", ".pt"), _write, _load, _loads_into)
