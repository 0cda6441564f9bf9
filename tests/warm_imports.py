"""Imports, in the process that tests fork, what commands of `all4one` and their ranks import."""

from launch.local.rank_processes import allow_forks, prepare

allow_forks()

prepare("launch.local.worker")
prepare("launch.evaluate.worker")

import launch.cli  # noqa: E402
import launch.evaluate.evaluation  # noqa: E402
import launch.local.runs  # noqa: E402, F401
