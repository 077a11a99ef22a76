#!/usr/bin/env bash
# Installs Chromium for the tests of the page of `bertjobs serve`. Debian or Ubuntu, as root.
#
# Does nothing where there is a browser. If it cannot install, it says why in one line and exits 0, since those tests are
# then skipped; with BERTJOBS_REQUIRE_BROWSER=1 it exits 1 instead.
set -euo pipefail

cannot() {
    echo "install_chromium: not installed: $1" >&2
    if [[ ${BERTJOBS_REQUIRE_BROWSER:-} == 1 ]]; then exit 1; fi
    exit 0
}

for program in chromium chromium-browser google-chrome chrome; do
    if command -v "$program" >/dev/null; then exit 0; fi
done
command -v apt-get >/dev/null || cannot "no apt here"
[[ $(id -u) == 0 ]] || cannot "apt needs root (missing: chromium)"

echo "install_chromium: installing chromium for the tests (a minute or two)"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -o DPkg::Lock::Timeout=120)
log=$(mktemp -t install_chromium.XXXXXX)
if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends chromium; } >"$log" 2>&1 </dev/null; then
    tail -n 15 "$log" >&2
    cannot "apt failed (log: $log)"
fi
rm -f "$log"
