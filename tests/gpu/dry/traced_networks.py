"""Traces networks as torch.compile does, on a device that does not exist, and prints graphs and breaks as JSON."""

import gc
import json
import sys

from dry_cases import CLASSES, WORLD_SIZE, config_of

from trainer.profiling.dry_run.step import trace

TRACED = (
    *("ResNet-50", "ViT-S", "ConvNeXt"),
    *("nnclr", "simclr", "byol", "moco_v3", "barlow_twins", "vicreg"),
    *("swav", "dino", "msf", "lejepa", "resa", "intl", "simsiam"),
)
"""Every kind of backbone, and every method. The first three are of the method all4one."""


def main() -> int:
    gc.freeze()  # Modules live as long as this process. Each collection would visit all of their objects.
    for case in sys.argv[1:] or TRACED:
        found = trace(config_of(case), WORLD_SIZE, CLASSES)
        print(json.dumps([case, found.number, dict(found.breaks)]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
