#!/usr/bin/env bash
# A run on a partition that takes nodes away: preempted_partition.sh RECIPE [OPTIONS OF SLURM AND KEY=VALUE]...
set -euo pipefail
recipe=$1
shift
run=runs/preempted

# A spare node takes the place of one that fails, within seconds. The job does not wait for it. Every five minutes, a
# checkpoint limits what a sudden end costs. The signal before the time limit leaves a minute for the last checkpoint.
all4one submit "$recipe" "$@" run.name=preempted --spares 1 \
    checkpoint.every_minutes=5 slurm.signal_lead_seconds=60 slurm.max_requeues=50

# Preemption, time limits and lost nodes need no command. Anything else does not hide: the ledger names each end.
all4one status "$run"

# A pause: the run saves the step that it is at, and its job ends.
all4one cancel "$run"

# The same run again, exactly where it was. Options change only this job, such as its length or its nodes.
all4one resume "$run" --follow
all4one status "$run"
