#!/usr/bin/env bash
# The head machine: process 1 of a namespace that holds the whole cluster, so that its end is the end of all of it.
# usage: head.sh FOLDER NET
set -euo pipefail
folder=$1 net=$2
here=$(cd "$(dirname "$0")" && pwd)

mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/munge /run/gpus /etc/slurm
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mknod /run/gpus/gpu0 c 1 3
mknod /run/gpus/gpu1 c 1 3
mount --bind "$folder/etc/hosts" /etc/hosts
mount --bind "$folder/etc" /etc/slurm
hostname head

ip link set lo up
ip link add bridge0 type bridge forward_delay 0
ip addr add "$net.1/24" dev bridge0
ip link set bridge0 up

munged --foreground --force --key-file="$folder/etc/munge.key" --log-file="$folder/log/munged.log" \
    --seed-file="$folder/state/munge.seed" >"$folder/log/munged.out" 2>&1 &
until [ -S /run/munge/munge.socket.2 ]; do sleep 0.02; done
slurmctld -D >"$folder/log/slurmctld.out" 2>&1 &
for number in 1 2 3; do
    "$here/power_on.sh" "$folder" "$net" "node$number"
done
while :; do wait -n 2>/dev/null || sleep 1; done # take in orphans for ever
