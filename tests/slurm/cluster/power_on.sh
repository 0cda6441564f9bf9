#!/usr/bin/env bash
# Starts a machine, in the head's namespaces, and plugs its cable in: power_on.sh FOLDER NET NAME
set -euo pipefail
folder=$1 net=$2 name=$3
here=$(cd "$(dirname "$0")" && pwd)

if [ ! -e "/run/netns/$name" ]; then
    ip netns add "$name"
    ip link add "to-$name" type veth peer name eth0 netns "$name"
    ip link set "to-$name" master bridge0
    ip -n "$name" link set lo up
    ip -n "$name" addr add "$net.1${name#node}/24" dev eth0
fi
ip link set "to-$name" up
ip -n "$name" link set eth0 up
setsid nsenter --net="/run/netns/$name" \
    unshare --mount --uts --ipc --pid --fork --kill-child=SIGKILL --propagation private \
    "$here/machine.sh" "$name" </dev/null >>"$folder/log/$name.out" 2>&1 &
