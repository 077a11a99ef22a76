#!/usr/bin/env bash
# NVIDIA's run_squad.sh by bertjobs: the same positional arguments; prints each command that they become, and runs it.
#
#     scripts/run_squad.sh [--mode MODE] [--dry-run] [init_checkpoint [epochs [batch_size [learning_rate
#         [warmup_proportion [precision [num_gpu [seed [squad_dir [vocab_file [OUT_DIR [mode [CONFIG_FILE
#         [max_steps]]]]]]]]]]]]]]
#
# Their meaning, the options and the environment are in scripts/nvidia.sh. RECIPE is squad where it is not set; TASK
# squad1 or squad2. eval writes predictions.json, prediction predictions.jsonl into OUT_DIR.
set -euo pipefail
# shellcheck source=scripts/nvidia.sh
source "$(dirname "${BASH_SOURCE[0]}")/nvidia.sh"

take_arguments 14 "$@"
set -- "${given[@]}"
# shellcheck disable=SC2034 # used by become
{
  init_checkpoint=${1:-checkpoints/bert_uncased}
  epochs=${2:-2.0}
  batch_size=${3:-4}
  gradient_steps=1
  learning_rate=${4:-3e-5}
  warmup_proportion=${5:-0.1}
  precision=${6:-fp16}
  num_gpu=${7:-8}
  seed=${8:-1}
  data_dir=${9:-${BERT_PREP_WORKING_DIR:-data}/download/squad/v1.1}
  vocab_file=${10:-}
  out_dir=${11:-results/SQuAD}
  mode=${12:-train eval}
  config_file=${13:-}
  max_steps=${14:--1}
}

case ${TASK:=squad1} in
  squad1 | squad2) ;;
  *) refuse "TASK is not squad1 or squad2: $TASK" ;;
esac
become "$TASK" "${RECIPE:-squad}" "$mode" --submission "$out_dir"
