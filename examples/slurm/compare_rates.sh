#!/usr/bin/env bash
# Learning rates side by side, then by a search: compare_rates.sh RECIPE [OPTIONS OF SLURM AND KEY=VALUE]...
set -euo pipefail
recipe=$1
shift

# One job array with a run for each value. At most two run at a time.
all4one submit "$recipe" "$@" run.name=rates --sweep optim.lr=0.1,0.3 --array-parallelism 2
all4one logs runs/rates --follow
all4one status runs/rates
all4one eval runs/rates --knn

# A search draws the values by itself, learns from the trials before, and stops those that fall behind.
# It needs: pip install 'all4one[tune]'
all4one tune "$recipe" "$@" --search optim.lr=0.01..3.0:log --trials 3 --prune --submit --array-parallelism 2
all4one logs "searches/$recipe" --follow
all4one trials "searches/$recipe"
