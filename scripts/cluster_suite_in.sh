#!/usr/bin/env bash
# Runs the tests of the cluster with the Slurm and the Python of another Debian release, in a folder of its own.
#
#   scripts/cluster_suite_in.sh trixie [TEST ...]     Debian 13: Slurm 24.11, Python 3.13
#
# Needs root and debootstrap. The folder is kept, 8 GB: a second call only copies the code anew. TESTs are pytest's
# arguments (default: tests/cluster). Environment:
#   FOLDER  where the system is made (default: /var/tmp/RELEASE)
#   MIRROR  of Debian (default: http://deb.debian.org/debian)
#   SHARE   further folders of this machine that are seen inside, such as certificates or a store of wheels; PIP_*
#           variables are passed on as well
set -euo pipefail

release=${1:-}
[[ $release =~ ^[a-z]+$ ]] || { echo "error: usage: scripts/cluster_suite_in.sh RELEASE [TEST ...]" >&2; exit 64; }
shift
here=$(cd "$(dirname "$0")/.." && pwd)
folder=${FOLDER:-/var/tmp/$release}
[[ $(id -u) == 0 ]] || { echo "error: making a system in a folder needs root" >&2; exit 64; }
command -v debootstrap >/dev/null || { echo "error: debootstrap is missing: apt-get install debootstrap" >&2; exit 64; }

pip_settings=()
while IFS= read -r name; do pip_settings+=("$name=${!name}"); done < <(compgen -e PIP_)
inside() {
  chroot "$folder" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    DEBIAN_FRONTEND=noninteractive "${pip_settings[@]}" "$@"
}

if [[ ! -e $folder/made ]]; then
  debootstrap --variant=minbase --include=ca-certificates "$release" "$folder" "${MIRROR:-http://deb.debian.org/debian}"
  touch "$folder/made"
fi

places=()
leave() { for place in "${places[@]}"; do umount --lazy --recursive "$folder$place"; done; }
trap leave EXIT
for place in /proc /sys /dev ${SHARE:-}; do
  mkdir -p "$folder$place"
  mount --rbind "$place" "$folder$place"
  mount --make-rslave "$folder$place"
  places=("$place" "${places[@]}")
done
cp /etc/resolv.conf /etc/hosts "$folder/etc/"

mkdir -p "$folder/bertjobs"
git -C "$here" ls-files -z | tar --directory="$here" --null --files-from=- --create |
  tar --directory="$folder/bertjobs" --extract
if [[ ! -e $folder/bertjobs/.venv/ready ]]; then
  inside apt-get -qq update
  inside apt-get -qq install -y --no-install-recommends python3 python3-venv git iproute2 procps >/dev/null
  inside env BERTJOBS_REQUIRE_CLUSTER=1 bash /bertjobs/scripts/install_slurm.sh
  inside bash /bertjobs/scripts/setup.sh
fi

inside slurmctld -V
(($#)) || set -- tests/cluster
inside bash -c 'cd /bertjobs && exec "$@"' bash env BERTJOBS_REQUIRE_CLUSTER=1 .venv/bin/python -m pytest -n0 -q "$@"
