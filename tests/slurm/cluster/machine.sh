#!/usr/bin/env bash
# One machine of the cluster: process 1 of its own namespace, so that killing it is a power cut.
set -euo pipefail
name=$1
read -r pid _ </proc/self/stat # as the head sees it: its /proc is still the one that is mounted
echo "$pid" >"/run/$name.pid"
mount -t proc proc /proc
umount -l /sys 2>/dev/null || true
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
hostname "$name"
slurmd -D -N "$name" &
while :; do wait -n 2>/dev/null || sleep 1; done
