"""Runs forward and backward passes on a device that does not exist, and prints types of layer norms as JSON.

Each line has the case, and for each layer norm its operation, the type of its input and the type of its result.
"""

import json
import sys
from typing import Any

from dry_cases import CLASSES, WORLD_SIZE, config_of
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.profiling.dry_run.fake_device import fake_device
from trainer.profiling.dry_run.observer import Observer
from trainer.profiling.dry_run.step import _batch
from trainer.runs.components import build_method

TYPED = ("all4one", "ViT-S", "ConvNeXt")


class LayerNorms(TorchDispatchMode):
    """Notes every layer norm and every gradient of one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str, str]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        name = func._schema.name
        if "layer_norm" in name:
            # The first argument of a gradient is that of the result.
            x = args[1 if "gradients" in name or "backward" in name else 0]
            self.seen.add((name, str(x.dtype), str(out[0].dtype)))
        return out


def main() -> int:
    for case in TYPED:
        config = config_of(case)
        with fake_device(WORLD_SIZE) as device:
            with Observer():  # which gives the values that are read while a network is made
                method = build_method(config, CLASSES, device)
            batch = _batch(config, WORLD_SIZE, device)
            with LayerNorms() as norms:
                method(batch.views, batch.labels, batch.ids).loss.backward()
        print(json.dumps([case, sorted(norms.seen)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
