#!/usr/bin/env bash
# Makes FOLDER, an environment in which LDDL 0.1.0's preprocessor and balancer run: Python 3.8, the versions of
# requirements.txt, and NLTK's Punkt data in FOLDER/nltk_data.
#   benchmarks/lddl/setup.sh FOLDER
# MPI (Debian: libopenmpi-dev, openmpi-bin) is used where mpicc is installed; without it LDDL's local scheduler runs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [[ $# != 1 ]]; then
  echo "usage: $0 FOLDER" >&2
  exit 64
fi
folder=$1

python=
pyenv=$(pyenv root 2>/dev/null || true)
for candidate in python3.8 ${pyenv:+"$pyenv"/versions/3.8*/bin/python3.8}; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 8))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  echo "error: no Python 3.8 was found, on PATH or among pyenv's; LDDL's preprocessor needs it" >&2
  exit 64
fi

"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip -q --disable-pip-version-check)
"${pip[@]}" install --requirement "$here/requirements.txt"
"${pip[@]}" install --no-deps lddl==0.1.0
if command -v mpicc >/dev/null; then
  "${pip[@]}" install mpi4py==3.1.3
else
  echo "lddl: no mpicc, so no MPI: only the local scheduler, and no balancer" >&2
fi

# LDDL downloads Punkt's data when it starts; a wheel that carries it needs no other site than the package index.
wheel=$(mktemp -d)
trap 'rm -rf "$wheel"' EXIT
"${pip[@]}" download --no-deps --only-binary=:all: --python-version 3.11 --dest "$wheel" llama-index-core==0.14.25
"$folder/bin/python" - "$wheel" "$folder/nltk_data/tokenizers/punkt_tab/english" <<'PYTHON'
import pathlib
import sys
import zipfile

wheel, target = map(pathlib.Path, sys.argv[1:])
target.mkdir(parents=True, exist_ok=True)
with zipfile.ZipFile(next(wheel.glob("*.whl"))) as archive:
    for name in archive.namelist():
        if "/punkt_tab/english/" in name and not name.endswith("/"):
            (target / name.rpartition("/")[2]).write_bytes(archive.read(name))
PYTHON
NLTK_DATA="$folder/nltk_data" "$folder/bin/python" -c 'import nltk; nltk.sent_tokenize("It is here.")'
"$folder/bin/preprocess_bert_pretrain" --help >/dev/null
echo "lddl: ready in $folder"
