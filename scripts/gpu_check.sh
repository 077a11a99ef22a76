#!/usr/bin/env bash
# Checks and measures what only a GPU can show, in two halves of less than 330 seconds each.
#
#     scripts/gpu_check.sh [--wheels DIR] [--half 1|2] FOLDER
#     scripts/gpu_check.sh --list [--half 1|2]
#
# Half 1: the device's limits, a real run that stops and resumes, NCCL, throughput and profile of BERT-large. Half 2:
# Hugging Face's model, other settings, the GPU tests, file by file. Without --half both, one after the other.
#
# FOLDER gets check.log, results.jsonl, to which each part appends what it has measured as soon as it has, and
# summary.json, renewed after each part; a table comes last. Each part has its seconds (--list shows them), and what
# earlier parts have not used; then it is interrupted, and killed three seconds later. The later parts run nevertheless,
# as long as the half's time lasts.
# PYTHON names an interpreter with PyTorch for the GPU (python3); packages that it lacks are installed from DIR
# (scripts/gpu_wheels.sh) into a venv that is deleted at the end. Nothing needs a network.
# Exit code: 0; 70 if a part failed or had no time left; 64 without a GPU that this PyTorch has code for.
set -euo pipefail

# What is compared with the recipe as it is, in both phases: SECONDS KEY=VALUE[,KEY=VALUE...]. One that is not known
# fails alone. Those of "late" come after the tests, with all the time that is left.
settings=(
  "18 fused_layers=inductor"
  "18 attention=triton"
)
late=(
  "22 compile_mode=max-autotune"
)

# SECONDS of the GPU tests' files, in this order; others come after them, with those of "other". NCCL's is in half 1.
tests=(test_packed:22 test_triton_attention:18 test_finetune:10 test_optimizer:10 other:12 test_batches:10 test_model:12
  test_snapshot:10 test_worker:18)

half_seconds=322 # of which the parts' seconds are no more in all
grace=3          # until a part that was interrupted is killed
shortest=5       # a part with less time is not started

refuse() {
  echo "error: $1" >&2
  exit 64
}

wheels='' half='' list=''
while [[ ${1:-} == --* ]]; do
  case $1 in
    --wheels) wheels=${2:-} ;;
    --half) half=${2:-} ;;
    --list) list=yes ;;
    *) break ;;
  esac
  [[ $1 == --list ]] || { [[ $# -gt 1 ]] && shift; }
  shift
done
usage="usage: scripts/gpu_check.sh [--wheels DIR] [--half 1|2] FOLDER, or --list"
[[ $# == "$([[ $list ]] && echo 0 || echo 1)" && ${1:-} != -* && $half =~ ^[12]?$ ]] || refuse "$usage"
if [[ ! $list ]]; then
  nvidia-smi -L >/dev/null 2>&1 || refuse "no NVIDIA GPU here (nvidia-smi -L finds none): nothing was checked"
  [[ -z $wheels || -d $wheels ]] || refuse "there is no folder $wheels: make it with scripts/gpu_wheels.sh"
  mkdir -p "$1"
  folder=$(cd "$1" && pwd)
  [[ -z $wheels ]] || wheels=$(cd "$wheels" && pwd)
else
  folder=FOLDER
fi
cd "$(dirname "$0")/.."
base=${PYTHON:-python3}
if [[ ! $list ]]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
else
  work=WORK
fi
python=$work/venv/bin/python
export work folder wheels base python
export PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
export TORCHINDUCTOR_CACHE_DIR=$work/inductor TRITON_CACHE_DIR=$work/triton # shared by the parts: compiled once

# Where this script is run in the background, its parts would ignore INT, if env cannot help.
interruptible=()
if env --default-signal=INT true 2>/dev/null; then interruptible=(env --default-signal=INT); fi

# A venv over the packages that $base has, this repository's and those of the wheels that $base lacks.
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
  [[ $wheels ]] || return 0
  "$base" - "$wheels" >"$work/lacking" <<'END'
import importlib.metadata, re, sys
from pathlib import Path

has = {re.sub(r"[-_.]+", "-", package.name or "").lower() for package in importlib.metadata.distributions()}
for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
    if re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() not in has:
        print(wheel)
END
  mapfile -t lacking <"$work/lacking"
  [[ ${#lacking[@]} == 0 ]] || "$python" -m pip -q install --no-index --no-deps --no-compile "${lacking[@]}"
}
export -f set_up

# NAME SECONDS COMMAND...: runs one part; the next follows even if it fails.
part() {
  local name=$1 own=$2 code=0 elapsed left began
  shift 2
  planned=$((planned + own))
  if [[ $list ]]; then
    printf '%4d  %-26s %s\n' "$own" "$name" "$*"
    return
  fi
  elapsed=$((SECONDS - started))
  left=$((planned - elapsed > own ? planned - elapsed : own)) # what all before it have left; late or not, its own
  left=$(((left < half_seconds - elapsed ? left : half_seconds - elapsed) - grace))
  if ((left < shortest)); then
    failed=70
    printf '\n== %s: no time is left\n' "$name"
    record "$name" null 0 0
    return
  fi
  printf '\n== %s (%d s): %s\n' "$name" "$left" "$*"
  began=$SECONDS
  timeout --signal=INT --kill-after=$grace "$left" "${interruptible[@]}" "$@" || code=$?
  ((code == 0)) || failed=70
  ((code != 124 && code != 137)) || echo "== $name was ended: its $left s are over"
  record "$name" "$code" "$((SECONDS - began))" "$left"
}

# NAME CODE SECONDS LIMIT: adds a part's line to the results, and renews the summary.
record() {
  printf '{"what": "part", "name": "%s", "exit_code": %s, "seconds": %d, "limit_s": %d}\n' "$@" >>"$folder/results.jsonl"
  timeout 10 "$base" benchmarks/gpu_summary.py "$folder" || true
}

bench=("$python" -m bertjobs bench --recipe h200 --gpus 1 --results "$work/results" --data "$work/none"
  --lines "$folder/results.jsonl" --seconds 3 --repeats 3)
pytest=("$python" -m pytest -q -p no:cacheprovider -o faulthandler_timeout=60 --durations=5)

# "SECONDS KEY=VALUE,..." ...: a part for each, both phases with these settings.
changed() {
  local setting word words options
  for setting in "$@"; do
    IFS=, read -ra words <<<"${setting#* }"
    options=()
    for word in "${words[@]}"; do options+=(--set "$word"); done
    part "${setting#* }" "${setting%% *}" "${bench[@]}" --micro-batches recipe "${options[@]}"
  done
}

first_half() {
  part setup 28 bash -euo pipefail -c set_up
  part limits 22 "$python" benchmarks/gpu_limits.py --lines "$folder/results.jsonl"
  part worker 45 "$python" benchmarks/gpu_worker.py --lines "$folder/results.jsonl"
  part bench-1 50 "${bench[@]}" --phase 1 --micro-batches recipe
  part bench-2 35 "${bench[@]}" --phase 2 --micro-batches recipe
  part nccl 27 "${pytest[@]}" tests/gpu/test_nccl.py
  part profile 35 "${bench[@]}" --profile
  part attention 20 "$python" benchmarks/attention.py --lines "$folder/results.jsonl"
  part eager 28 "${bench[@]}" --micro-batches recipe --set compile=false
  part bench-1-half 20 "${bench[@]}" --phase 1 --micro-batches 256
  part lamb 12 "$python" benchmarks/worker.py --only lamb --rounds 20 --lines "$folder/results.jsonl"
}

second_half() {
  local name file
  part setup 28 bash -euo pipefail -c set_up
  part compare-1 36 "${bench[@]}" --compare --phase 1 --sequences 2048 --repeats 2 --ways sdpa,padded,nvidia
  part compare-2 30 "${bench[@]}" --compare --phase 2 --sequences 256 --repeats 2 --ways sdpa,padded,nvidia
  part as-it-is 24 "${bench[@]}" --micro-batches recipe
  changed "${settings[@]}"
  for name in "${tests[@]}"; do
    if [[ $name != other:* ]]; then
      part "${name%:*}" "${name#*:}" "${pytest[@]}" "tests/gpu/${name%:*}.py"
      continue
    fi
    for file in tests/gpu/test_*.py; do
      file=$(basename "$file" .py)
      [[ $file == test_nccl || " ${tests[*]}" == *" $file:"* ]] ||
        part "$file" "${name#*:}" "${pytest[@]}" "tests/gpu/$file.py"
    done
  done
  changed "${late[@]}"
}

check() {
  local number
  for number in ${half:-1 2}; do
    planned=0
    [[ $number == "${half:-1}" ]] || started=$SECONDS # the machine's check counts in the first
    [[ ! $list ]] || echo "half $number:"
    if [[ $number == 1 ]]; then first_half; else second_half; fi
    [[ ! $list ]] || printf '%4d  in all, of %d\n' "$planned" "$half_seconds"
  done
  [[ ! $list ]] || return 0
  "$base" benchmarks/gpu_summary.py --table "$folder"
  return "$failed"
}

started=0 failed=0
if [[ $list ]]; then
  check
else
  timeout 60 "$base" benchmarks/gpu_machine.py "$folder/results.jsonl" || refuse "nothing was checked"
  check 2>&1 | tee -a "$folder/check.log"
fi
