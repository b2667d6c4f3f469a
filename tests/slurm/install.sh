#!/bin/sh
# Slurm for the tests that start one, where packages may be installed without asking: by root, or by sudo in hosted CI.
# What does not work is said, and those tests are skipped.
command -v slurmctld > /dev/null || [ -x /usr/sbin/slurmctld ] && exit 0
command -v apt-get > /dev/null || { echo "no Slurm here, and no apt-get to install it: its tests are skipped"; exit 0; }
if [ "$(id -u)" = 0 ]; then as_root=
elif [ -n "$CI" ] && sudo -n true 2> /dev/null; then as_root="sudo -n"
else echo "no Slurm here (apt-get install slurm-wlm munge): its tests are skipped"; exit 0
fi
export DEBIAN_FRONTEND=noninteractive
install() { $as_root apt-get install -qq -y --no-install-recommends slurm-wlm munge > /dev/null; }
install 2> /dev/null || { $as_root apt-get update -qq && install; } ||
  echo "slurm-wlm and munge could not be installed: the tests on Slurm are skipped"
exit 0
