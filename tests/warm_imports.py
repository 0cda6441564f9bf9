"""Imports, in the process that tests fork, what commands of `all4one` and their ranks import."""

import importlib
import pkgutil

from launch.local.imports import collector_paused
from launch.local.rank_processes import allow_forks, prepare

allow_forks()

with collector_paused():
    prepare("launch.local.worker")
    prepare("launch.evaluate.worker")

    import hypothesis  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pytest  # noqa: F401
    import timm  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import trainer.checkpoints.store
    import trainer.contrast.losses
    import trainer.contrast.queue
    import trainer.methods

    # Every command that reads a recipe imports all methods. Those of other packages depend on its environment.
    for module in pkgutil.iter_modules(trainer.methods.__path__):
        importlib.import_module(f"{trainer.methods.__name__}.{module.name}")
