#!/usr/bin/env bash
# Rewrites requirements.lock from the packages in .venv, after an upgrade there that passed the tests.
# Build tags such as +cpu are dropped: which build of a version is taken is the installer's choice.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# Every version that bertjobs is developed and tested with; written by scripts/lock.sh (make lock)."
  echo "# A constraints file: pip install --constraint requirements.lock bertjobs"
  .venv/bin/python -m pip freeze --exclude-editable --exclude pip | sed 's/+[a-z0-9.]*$//'
} >requirements.lock.new
mv requirements.lock.new requirements.lock
