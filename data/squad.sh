#!/usr/bin/env bash
# SQuAD, questions about paragraphs of Wikipedia: train-v1.1.json, dev-v1.1.json and the same of 2.0.
#
#   data/squad.sh [--version 1.1|2.0|both] [OPTIONS] [FOLDER]
#
#   FOLDER                where the files go (default: squad)
#   --version VERSION     which SQuAD (default: both, 82 MB); 2.0 also has questions without an answer
#
# SQUAD_MIRROR in the environment names another site too. SQuAD's licence is CC BY-SA 4.0.
set -euo pipefail
# shellcheck source=data/task_files.sh
source "$(dirname "${BASH_SOURCE[0]}")/task_files.sh"

version=both
mirror=${SQUAD_MIRROR:-https://rajpurkar.github.io/SQuAD-explorer/dataset}
parse_task_options "$@"
set -- "${words[@]}"
while (($#)); do
  case $1 in
    --version)
      (($# > 1)) || fail "$1 needs a value" "1.1, 2.0 or both"
      version=$2
      shift
      ;;
    *) take_folder "$1" ;;
  esac
  shift
done
case $version in
  1.1 | 2.0) versions=("$version") ;;
  both) versions=(1.1 2.0) ;;
  *) fail "$version is not a version of SQuAD" "1.1, 2.0 or both" ;;
esac
folder=${folder:-squad}
bring squad "${versions[@]}"
