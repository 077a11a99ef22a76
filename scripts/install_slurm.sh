#!/usr/bin/env bash
# Installs what tests/cluster boots: Slurm with accounting, munge, MariaDB. Debian or Ubuntu, as root.
#
# Does nothing when everything is installed. Starts no service, now or at the next boot: the tests start their own
# copies with private keys, sockets and ports. If it cannot install, it says why in one line and exits 0,
# since the cluster tests are then skipped; with BERTJOBS_REQUIRE_CLUSTER=1 it exits 1 instead.
set -euo pipefail

packages=(slurm-wlm slurm-client slurmdbd munge mariadb-server)
policy=/usr/sbin/policy-rc.d

cannot() {
    echo "install_slurm: $1" >&2
    if [[ ${BERTJOBS_REQUIRE_CLUSTER:-} == 1 ]]; then exit 1; fi
    exit 0
}

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

command -v apt-get >/dev/null || cannot "Slurm not installed: no apt here"
missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done
if ((${#missing[@]} == 0)); then exit 0; fi
[[ $(id -u) == 0 ]] || cannot "Slurm not installed: apt needs root (missing: ${missing[*]})"

log=$(mktemp -t install_slurm.XXXXXX)
saved=$(mktemp -d)
restore() {
    if [[ -e $saved/policy-rc.d || -L $saved/policy-rc.d ]]; then
        mv -f "$saved/policy-rc.d" "$policy"
    else
        rm -f "$policy"
    fi
    rmdir "$saved" 2>/dev/null || true
}
if [[ -e $policy || -L $policy ]]; then mv "$policy" "$saved/policy-rc.d"; fi
trap restore EXIT
trap 'exit 130' INT TERM
printf '#!/bin/sh\nexit 101\n' >"$policy" # 101: the action is forbidden by policy
chmod 755 "$policy"

echo "install_slurm: installing ${missing[*]} (log: $log)"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o DPkg::Lock::Timeout=120)
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    cannot "Slurm not installed: apt failed (log: $log)"
fi

# Packages enable their services for the next boot; those that were not here before stay off.
if [[ -d /run/systemd/system ]]; then
    declare -A services=([slurm-wlm]="slurmctld slurmd" [slurmdbd]=slurmdbd [munge]=munge [mariadb-server]=mariadb)
    for package in "${missing[@]}"; do
        for service in ${services[$package]:-}; do
            systemctl --quiet disable "$service" >>"$log" 2>&1 || true
        done
    done
fi
rm -f "$log"
