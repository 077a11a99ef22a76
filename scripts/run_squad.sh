#!/usr/bin/env bash
# NVIDIA's run_squad.sh by bertjobs: the same positional arguments; prints each command that they become, and runs it.
#
#     scripts/run_squad.sh [--dry-run] [init_checkpoint [epochs [batch_size [learning_rate [warmup_proportion [precision
#         [num_gpu [seed [squad_dir [vocab_file [OUT_DIR [mode [CONFIG_FILE [max_steps]]]]]]]]]]]]]]
#
# init_checkpoint is a run, or the folder of a BERT with config.json, weights and tokenizer: vocab_file and CONFIG_FILE
# are taken from there. batch_size is per GPU; num_gpu 0 trains on the CPU. mode is train, eval, prediction or "train
# eval". The run is the folder OUT_DIR; eval and prediction write predictions.json or predictions.jsonl there.
# --dry-run, or DRY_RUN=1, prints only. BACKEND is that of bertjobs finetune (local), RECIPE the recipe (squad), TASK
# squad1 or squad2, BERTJOBS the command (bertjobs). Exit code: that of the command that failed; 64 for bad arguments.
set -euo pipefail

refuse() {
  echo "error: $1" >&2
  exit 64
}

dry_run=${DRY_RUN:-}
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
(($# <= 14)) || refuse "$# arguments; run_squad.sh takes at most 14"
init_checkpoint=${1:-checkpoints/bert_uncased}
epochs=${2:-2.0}
batch_size=${3:-4}
learning_rate=${4:-3e-5}
warmup_proportion=${5:-0.1}
precision=${6:-fp16}
num_gpu=${7:-8}
seed=${8:-1}
squad_dir=${9:-${BERT_PREP_WORKING_DIR:-data}/download/squad/v1.1}
vocab_file=${10:-}
out_dir=${11:-results/SQuAD}
mode=${12:-train eval}
config_file=${13:-}
max_steps=${14:--1}

[[ $batch_size =~ ^[1-9][0-9]{0,5}$ ]] || refuse "batch_size is not a whole number above 0: $batch_size"
[[ $num_gpu =~ ^(0|[1-9][0-9]{0,5})$ ]] || refuse "num_gpu is not a whole number: $num_gpu"
[[ $max_steps =~ ^(-1|[1-9][0-9]{0,8})$ ]] || refuse "max_steps is neither -1 nor a whole number above 0: $max_steps"
case $mode in
  train | eval | prediction | "train eval") ;;
  *) refuse "mode is not train, eval, prediction or \"train eval\": $mode" ;;
esac
case ${TASK:=squad1} in
  squad1) dev="dev-v1.1.json" ;;
  squad2) dev="dev-v2.0.json" ;;
  *) refuse "TASK is not squad1 or squad2: $TASK" ;;
esac
[[ -z $vocab_file$config_file ]] ||
  echo "note: vocabulary and shape of the model are those in $init_checkpoint, not ${vocab_file:-none}" \
    "and ${config_file:-none}" >&2

run() {
  printf '%q ' "${BERTJOBS:-bertjobs}" "$@"
  echo
  [[ -n $dry_run ]] || "${BERTJOBS:-bertjobs}" "$@"
}

results=(--results "$(dirname -- "$out_dir")")
name=$(basename -- "$out_dir")
if [[ $mode == train* ]]; then
  global_batch=$((batch_size * (num_gpu > 0 ? num_gpu : 1)))
  length=(--set "phase1.epochs=$epochs")
  ((max_steps < 0)) || length=(--set "phase1.steps=$max_steps")
  run finetune --task "$TASK" --from "$init_checkpoint" --data "$squad_dir" --recipe "${RECIPE:-squad}" \
    --backend "${BACKEND:-local}" "${results[@]}" --run "$name" --precision "$precision" --gpus "$num_gpu" \
    --set "seed=$seed" --set "phase1.global_batch=$global_batch" --set "phase1.micro_batch=$batch_size" \
    --set "phase1.lr=$learning_rate" --set "phase1.warmup=$warmup_proportion" "${length[@]}"
fi
case $mode in
  *eval) run evaluate "$out_dir" --data "$squad_dir" --split dev --submission "$out_dir" ;;
  prediction) run predict "$out_dir" --input "$squad_dir/$dev" --output "$out_dir/predictions.jsonl" ;;
esac
