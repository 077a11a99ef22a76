#!/usr/bin/env bash
# Installs MLflow (with its server) and wandb for the tests of `bertjobs sync`, in an environment of their own: their
# dependencies contradict those of bertjobs' tests, and nothing else needs them.
#
# If it cannot install, it says so in one line and exits 0, since those tests are then skipped; with
# BERTJOBS_REQUIRE_TRACKERS=1 it exits 1 instead.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=.venv/trackers wanted=tests/track/requirements.txt
if cmp -s "$wanted" "$folder/installed"; then exit 0; fi
echo "install_trackers: installing MLflow and wandb for the tests (a minute or two)"
rm -rf "$folder"
if .venv/bin/python -m venv "$folder" &&
  "$folder/bin/python" -m pip -qq --disable-pip-version-check install --requirement "$wanted"; then
  cp "$wanted" "$folder/installed"
  exit 0
fi
rm -rf "$folder"
echo "install_trackers: not installed: pip failed" >&2
[[ ${BERTJOBS_REQUIRE_TRACKERS:-} != 1 ]]
