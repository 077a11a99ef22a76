#!/usr/bin/env bash
# NVIDIA's run_glue.sh by bertjobs: the same positional arguments; prints each command that they become, and runs it.
#
#     scripts/run_glue.sh [--mode MODE] [--dry-run] [init_checkpoint [data_dir [vocab_file [config_file [out_dir
#         [task_name [num_gpu [batch_size [gradient_accumulation_steps [learning_rate [warmup_proportion [epochs
#         [max_steps [precision [seed [mode]]]]]]]]]]]]]]]]
#
# Their meaning, the options and the environment are in scripts/nvidia.sh. RECIPE is finetune where it is not set.
# task_name is a task of GLUE in any case, such as mrpc or SST-2; data_dir and out_dir are by default of that task. A
# batch is computed in gradient_accumulation_steps parts. prediction writes predictions.jsonl into out_dir.
set -euo pipefail
# shellcheck source=scripts/nvidia.sh
source "$(dirname "${BASH_SOURCE[0]}")/nvidia.sh"

# published_name TASK: as GLUE writes it, and its folder is called.
published_name() {
  local name plain=${1//-/} tasks=(CoLA SST-2 MRPC QQP STS-B MNLI QNLI RTE WNLI)
  for name in "${tasks[@]}"; do
    [[ ${plain,,} != "$(tr -d - <<<"${name,,}")" ]] || { echo "$name"; return; }
  done
  local find='import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1, 0.5))'
  name=$(python3 -c "$find" "${1,,}" "${tasks[@],,}" 2>/dev/null) || true
  refuse "GLUE has no task $1: ${name:+"did you mean $name? "}one of ${tasks[*],,}"
}

take_arguments 16 "$@"
set -- "${given[@]}"
task=$(published_name "${6:-mrpc}")
# shellcheck disable=SC2034 # used by become
{
  init_checkpoint=${1:-checkpoints/bert_uncased}
  data_dir=${2:-${BERT_PREP_WORKING_DIR:-data}/download/glue/$task}
  vocab_file=${3:-}
  config_file=${4:-}
  out_dir=${5:-results/$task}
  num_gpu=${7:-8}
  batch_size=${8:-16}
  gradient_steps=${9:-1}
  learning_rate=${10:-2.4e-5}
  warmup_proportion=${11:-0.1}
  epochs=${12:-3}
  max_steps=${13:--1.0}
  precision=${14:-fp16}
  seed=${15:-2}
}
task=${task,,}
become "${task//-/}" "${RECIPE:-finetune}" "${16:-train eval}"
