#!/usr/bin/env bash
# Debian packages for tests/slurm (SLURM) and for the tests of reports (Chromium), where they are missing and this user
# may install them.
set -euo pipefail
packages=(slurmctld slurmd slurm-client munge iproute2 util-linux)
present=true
for command in munged slurmctld slurmd sbatch ip unshare chromium; do
    command -v "$command" >/dev/null || present=false
done
if $present; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests of SLURM and of reports need a Debian-like system and root: apt-get install ${packages[*]} chromium" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
# the daemons run inside the tests' namespaces only: none is started here, whatever the system's policy is
RUNLEVEL=1 apt-get install --quiet=2 --yes --no-install-recommends "${packages[@]}" >/dev/null
# by itself: not every system has a package of this name
apt-get install --quiet=2 --yes --no-install-recommends chromium >/dev/null \
    || echo "there is no package chromium: tests of reports need Chromium in the PATH" >&2
