#!/usr/bin/env bash
# A run from its job to its evaluation: train_and_evaluate.sh RECIPE [OPTIONS OF SLURM AND KEY=VALUE]...
set -euo pipefail
recipe=$1
shift
run=runs/walkthrough

# What would be queued, without queueing it. Problems with the settings, the sets or the cluster are all listed here.
all4one submit "$recipe" "$@" run.name=walkthrough --dry-run

# The job. --follow prints the output of rank 0 until the run has ended. Ctrl-C stops only the printing.
all4one submit "$recipe" "$@" run.name=walkthrough --follow

# Where it stands: steps, speed, attempts and what was lost. --json is for programs.
all4one status "$run"

# Frozen features: nearest neighbors and logistic regression. This runs where you start it, so use a node for large sets.
all4one eval "$run" --knn --linear-fast

# One page with curves and pictures, and the backbone in a folder with a model card.
all4one report "$run"
all4one export "$run" --format hf --out "$run/backbone"
