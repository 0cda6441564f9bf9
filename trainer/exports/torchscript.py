"""Format `torchscript`: a traced network that runs without Python, with normalization included."""

import json
import warnings
from pathlib import Path

import torch

from trainer.exports.format import Features, Format, Normalized, Subject, input_facts

FACTS = "all4one.json"
"""Name of the facts inside the archive. `torch.jit.load(FILE, _extra_files={"all4one.json": ""})` returns them."""


def _write(subject: Subject, path: Path) -> None:
    size = subject.recipe.image_size
    with warnings.catch_warnings(), torch.no_grad():
        # ignores that torch.jit is no longer developed, and that shapes become constants; the check after writing uses
        # another batch size
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Normalized(subject), (torch.rand(2, 3, size, size),), check_trace=False)
        traced.save(str(path), _extra_files={FACTS: json.dumps(input_facts(subject))})


def _load(_: Subject, path: Path) -> Features:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path), map_location="cpu")


def _loads_into(subject: Subject) -> str:
    size = subject.recipe.image_size
    return f"load it with torch.jit.load; images are RGB in [0, 1], [B, 3, {size}, {size}], normalized by the network"


FORMAT = Format((".pt", ".ts"), _write, _load, _loads_into, normalizes=True)
