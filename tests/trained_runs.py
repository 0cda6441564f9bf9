"""Runs of a method that nothing has trained: a folder with a configuration and a checkpoint, within a second."""

from collections.abc import Sequence
from pathlib import Path

import torch

from trainer.checkpoints.format import Snapshot
from trainer.checkpoints.store import CheckpointStore
from trainer.config.schema import load_config
from trainer.methods import Method
from trainer.runs.components import build_method
from trainer.runs.run_folder import RunFolder, create_run

SMALL = (
    "data.executor=opencv",
    "data.decode_threads=1",
    "method.projector_hidden=16",
    "method.predictor_hidden=16",
    "method.embedding_dim=8",
    "method.queue.size=32",
)
NARROW = ("backbone.name=resnet18", "backbone.width=8", "backbone.stem=half")
"""A network whose forward pass takes a millisecond."""


def make_run(folder: Path, *overrides: str, step: int = 3) -> tuple[RunFolder, Method]:
    """A run in `folder`, and its method; all moments and both backbones differ from fresh ones and from each other."""
    # Another method has other settings than the recipe's.
    small = [
        s for s in SMALL if not (s.startswith("method.") and any(o.startswith("method=") for o in overrides))
    ]
    config = load_config(
        "digits_demo", [*small, f"run.folder={folder.parent}", f"run.name={folder.name}", *overrides]
    )
    method = build_method(config, 10, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in method.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.1 * torch.rand(value.shape, generator=generator))
    run = create_run(config, folder.name)
    CheckpointStore(run.checkpoints, attempt=1).write(Snapshot(step, method.state_dict(), {}, {"step": step}))
    return run, method.eval()


def sized(size: int) -> Sequence[str]:
    """Overrides for views of `size` pixels."""
    return (f"data.views.0.size={size}", f"data.views.1.size={size}", f"data.eval_resize={size + 8}")
