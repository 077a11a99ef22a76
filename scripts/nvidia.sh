# shellcheck shell=bash
# What run_pretraining.sh, run_squad.sh and run_glue.sh share: NVIDIA's arguments are checked and become commands of
# bertjobs, each of which is printed and run; sourced, not run. Options before NVIDIA's arguments:
#
#     --mode MODE     in place of NVIDIA's argument of that name (not of run_pretraining.sh)
#     --dry-run       print the commands only; DRY_RUN=1 does the same
#
# Of run_squad.sh and run_glue.sh:
# init_checkpoint is a run, or the folder of a BERT with config.json, weights and tokenizer: the vocabulary file and the
# model's config that NVIDIA's scripts ask for are taken from there. batch_size is per GPU, num_gpu 0 trains on the CPU.
# MODE is one or more of train, eval and prediction, such as "train eval prediction". What is trained is the run in the
# folder OUT_DIR; eval and prediction are of that run, or without train of init_checkpoint, and of the dev data.
#
# From the environment: BACKEND, as of bertjobs finetune (local); RECIPE; BERTJOBS, the command (bertjobs). The exit code
# is that of the command that failed; 64 for bad arguments.
bertjobs=${BERTJOBS:-bertjobs} backend=${BACKEND:-local} dry_run=${DRY_RUN:-}
chosen_mode='' given=()

refuse() {
  echo "error: $*" >&2
  exit 64
}

# take_arguments MOST WORD...: sets dry_run, chosen_mode, and the positional arguments: given.
take_arguments() {
  local most=$1
  shift
  while [[ ${1:-} == --* ]]; do
    case $1 in
      --dry-run) dry_run=1 ;;
      --mode)
        [[ -n ${2:-} ]] || refuse "--mode has no value"
        chosen_mode=$2
        shift
        ;;
      *) refuse "there is no option $1: --mode MODE and --dry-run" ;;
    esac
    shift
  done
  (($# <= most)) || refuse "$# arguments; ${0##*/} takes at most $most"
  # shellcheck disable=SC2034 # by the script that sources this
  given=("$@")
}

# whole NAME VALUE [0]: refuses what is not a whole number above 0, or with 0 one that is at least that.
whole() {
  local above=" above 0"
  [[ ${3:-} != 0 ]] || above=""
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || [[ -n $above && $2 == 0 ]]; then
    refuse "$1 is not a whole number$above: $2"
  fi
}

# run WORD...: prints the command of bertjobs, and runs it.
run() {
  printf '%q ' "$bertjobs" "$@"
  echo
  [[ -n $dry_run ]] || "$bertjobs" "$@"
}

# become TASK RECIPE MODE [OPTION...]: the commands that the arguments become. The options are those of evaluate. What
# the caller has set besides: init_checkpoint, data_dir, vocab_file, config_file, out_dir, num_gpu, batch_size,
# gradient_steps, learning_rate, warmup_proportion, epochs, max_steps, precision, seed.
# shellcheck disable=SC2154
become() {
  local task=$1 recipe=$2 mode=${chosen_mode:-$3} model=$init_checkpoint
  shift 3
  whole batch_size "$batch_size"
  whole gradient_accumulation_steps "$gradient_steps"
  whole num_gpu "$num_gpu" 0
  ((batch_size % gradient_steps == 0)) ||
    refuse "batch_size $batch_size is not a multiple of gradient_accumulation_steps $gradient_steps"
  [[ $max_steps =~ ^(-1|[1-9][0-9]{0,8})(\.0)?$ ]] ||
    refuse "max_steps is neither -1 nor a whole number above 0: $max_steps"
  [[ $mode =~ ^(train|eval|prediction)(\ (train|eval|prediction))*$ ]] ||
    refuse "mode is not one or more of train, eval and prediction: $mode"
  [[ $mode == train || $mode != *train* || $backend == local ]] ||
    refuse "BACKEND=$backend only queues the training: mode train first, the others when it has ended"
  [[ -z $vocab_file$config_file ]] ||
    echo "note: vocabulary and shape of the model are those in $init_checkpoint, not ${vocab_file:-none}" \
      "and ${config_file:-none}" >&2
  if [[ $mode == *train* ]]; then
    train "$task" "$recipe"
    model=$out_dir
  elif [[ -z $dry_run ]]; then
    mkdir -p "$out_dir"
  fi
  [[ $mode != *eval* ]] || run evaluate "$model" --data "$data_dir" --split dev "$@"
  [[ $mode != *prediction* ]] ||
    run predict "$model" --input "$data_dir" --split dev --output "$out_dir/predictions.jsonl"
}

# train TASK RECIPE: fine-tunes init_checkpoint; the run is the folder out_dir.
# shellcheck disable=SC2154
train() {
  local length=(--set "phase1.epochs=$epochs")
  ((${max_steps%.0} < 0)) || length=(--set "phase1.steps=${max_steps%.0}")
  run finetune --task "$1" --from "$init_checkpoint" --data "$data_dir" --recipe "$2" --backend "$backend" \
    --results "$(dirname -- "$out_dir")" --run "$(basename -- "$out_dir")" --precision "$precision" \
    --gpus "$num_gpu" --set "seed=$seed" --set "phase1.global_batch=$((batch_size * (num_gpu > 0 ? num_gpu : 1)))" \
    --set "phase1.micro_batch=$((batch_size / gradient_steps))" --set "phase1.lr=$learning_rate" \
    --set "phase1.warmup=$warmup_proportion" "${length[@]}"
}
