"""Imports, in the process that tests fork, what commands of `all4one` and their ranks import."""

from launch.local.imports import collector_paused
from launch.local.rank_processes import allow_forks, prepare

allow_forks()

with collector_paused():
    prepare("launch.local.worker")
    prepare("launch.evaluate.worker")

    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import timm  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import trainer.checkpoints.store
    import trainer.contrast.losses
    import trainer.contrast.queue  # noqa: F401
