"""Format `onnx`: a graph for any ONNX runtime, with free batch size and normalization included."""

import json
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from data_pipelines.errors import UserError
from trainer.exports.format import Features, Format, Normalized, Subject, input_facts

MAX_BYTES = 2**31
"""Maximum size of a protobuf file, and so of a single ONNX file."""


def _write(subject: Subject, path: Path) -> None:
    _require_packages()
    if (weights := sum(value.nbytes for value in subject.tensors().values())) >= MAX_BYTES:
        raise UserError(
            f"an ONNX file is limited to 2 GB, but {subject.name} has {weights / 1e9:.1f} GB",
            where="--format",
            fix="export as safetensors, hf or torchscript",
        )
    size = subject.recipe.image_size
    images = torch.rand(2, 3, size, size)  # a batch of 1 would become a constant
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # warnings of the exporter about itself
        program = torch.onnx.export(
            Normalized(subject),
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        )
    assert program is not None
    program.model.metadata_props["all4one"] = json.dumps(input_facts(subject))
    program.save(str(path), external_data=False)


def _load(_: Subject, path: Path) -> Features:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def features(images: Tensor) -> Tensor:
        (found,) = session.run(["features"], {"images": images.numpy()})
        return torch.from_numpy(found)

    return features


def _loads_into(subject: Subject) -> str:
    size = subject.recipe.image_size
    return (
        f"input `images`, RGB in [0, 1], [B, 3, {size}, {size}], normalized by the graph; output `features` "
        f"[B, {subject.backbone.feature_dim}]; checked with onnxruntime"
    )


def _require_packages() -> None:
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"writing and checking ONNX files needs {', '.join(missing)}, which is not installed",
            where="--format",
            fix=f"run: pip install {' '.join(missing)}",
        )


FORMAT = Format((".onnx",), _write, _load, _loads_into, normalizes=True)
