#!/usr/bin/env bash
# What a container does before its command: inside.sh IMAGE FOLDER NUMBER_OF_BINDS BIND... COMMAND...
set -euo pipefail
mapfile -t image <"$1"
folder=$2 binds=("${@:4:$3}")
shift $((3 + $3))

stage=$(mktemp -d)
mount -t tmpfs tmpfs "$stage"
for number in "${!binds[@]}"; do
    IFS=: read -r source _ <<<"${binds[$number]}"
    if [ -d "$source" ]; then mkdir "$stage/$number"; else touch "$stage/$number"; fi
    mount --bind "$source" "$stage/$number"
done
for hidden in "${image[@]:1}"; do mount -t tmpfs tmpfs "$hidden"; done
for number in "${!binds[@]}"; do
    IFS=: read -r _ target flags <<<"${binds[$number]}"
    if [ -d "$stage/$number" ]; then
        mkdir -p "$target"
    else
        mkdir -p "$(dirname "$target")"
        touch "$target"
    fi
    mount --bind "$stage/$number" "$target"
    if [ "$flags" = ro ]; then mount -o remount,bind,ro "$target"; fi
done
for command in scontrol scancel squeue sbatch sinfo sacct srun; do
    mount --bind /dev/null "$(PATH=/usr/bin command -v "$command")"
done
mount -t tmpfs tmpfs /run/munge
mount -t tmpfs tmpfs /etc/slurm
export PATH="${image[0]}:/usr/bin:/bin"
cd "$folder"
exec "$@"
