#!/usr/bin/env bash
# NVIDIA's run_pretraining.sh by bertjobs: the same positional arguments; prints each command that they become, and runs
# it.
#
#     scripts/run_pretraining.sh [--dry-run] [train_batch_size [learning_rate [precision [num_gpus [warmup_proportion
#         [train_steps [save_checkpoint_steps [resume_training [create_logfile [accumulate_gradients
#         [gradient_accumulation_steps [seed [job_name [allreduce_post_accumulation [allreduce_post_accumulation_fp16
#         [train_batch_size_phase2 [learning_rate_phase2 [warmup_proportion_phase2 [train_steps_phase2
#         [gradient_accumulation_steps_phase2 [DATA_DIR_PHASE1 [DATA_DIR_PHASE2 [CODEDIR [init_checkpoint
#         [wikipedia_source [num_dask_workers [num_shards_per_worker [num_workers [sample_ratio [phase2_bin_size
#         [masking [BERT_CONFIG]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]
#
# docs/from-nvidia.md says what becomes of each. The run is called job_name, in CODEDIR/results (CODEDIR: .). The data
# directories hold LDDL's Parquet or the HDF5 files of NVIDIA's and HetSeq's earlier converters, which are adopted first;
# or the first of them is a folder of `bertjobs data`. Where they are missing, wikipedia_source (LDDL's) is prepared. An
# init_checkpoint that is a file (ckpt_7038.pt, bert_model.ckpt) is imported first. num_gpus 0 trains on the CPU.
#
# From the environment: BERT_PREP_WORKING_DIR (data); VOCAB_FILE (vocab/vocab); DATADIR, the data folder that is made
# (CODEDIR/results/job_name-data); MODEL, the name of a model instead of BERT_CONFIG; RECIPE, for the kind of node
# (dgxa100-80g); BACKEND, BERTJOBS and DRY_RUN as in scripts/nvidia.sh.
set -euo pipefail
# shellcheck source=scripts/nvidia.sh
source "$(dirname "${BASH_SOURCE[0]}")/nvidia.sh"

take_arguments 32 "$@"
[[ -z $chosen_mode ]] || refuse "there is no option --mode: --dry-run"
set -- "${given[@]}"
work=${BERT_PREP_WORKING_DIR:-data}
train_batch_size=${1:-8192}
learning_rate=${2:-6e-3}
precision=${3:-fp16}
num_gpus=${4:-$(nvidia-smi -L 2>/dev/null | wc -l || true)}
warmup_proportion=${5:-0.2843}
train_steps=${6:-7038}
save_checkpoint_steps=${7:-200}
resume_training=${8:-false}
create_logfile=${9:-true}
accumulate_gradients=${10:-true}
gradient_accumulation_steps=${11:-128}
seed=${12:-12439}
job_name=${13:-bert_lamb_pretraining}
allreduce_post_accumulation=${14:-true}
allreduce_post_accumulation_fp16=${15:-true}
train_batch_size_phase2=${16:-4096}
learning_rate_phase2=${17:-4e-3}
warmup_proportion_phase2=${18:-0.128}
train_steps_phase2=${19:-1563}
gradient_accumulation_steps_phase2=${20:-512}
data_dir_phase1=${21:-$work/pretrain/phase1/unbinned/parquet/}
data_dir_phase2=${22:-$work/pretrain/phase2/bin_size_64/parquet/}
codedir=${23:-.}
init_checkpoint=${24:-None}
wikipedia_source=${25:-$work/wikipedia/source/}
num_dask_workers=${26:-}
num_shards_per_worker=${27:-}
num_workers=${28:-}
sample_ratio=${29:-0.9}
phase2_bin_size=${30:-64}
masking_given=${31:-}
masking=${31:-static}
bert_config=${32:-bert_configs/large.json}

recipe=${RECIPE:-dgxa100-80g} vocab_file=${VOCAB_FILE:-vocab/vocab}
results=$codedir/results
data=${DATADIR:-$results/$job_name-data}

# is_one_of NAME VALUE CHOICE...: refuses any other value.
is_one_of() {
  local name=$1 value=$2 choice
  shift 2
  for choice in "$@"; do [[ $value != "$choice" ]] || return 0; done
  refuse "$name is not one of $*: $value"
}

note() { echo "note: $*" >&2; }

# check_batch NAME BATCH STEPS: a batch must be whole micro-batches.
check_batch() {
  whole "train_batch_size$1" "$2"
  whole "gradient_accumulation_steps$1" "$3"
  (($2 % $3 == 0)) || refuse "train_batch_size$1 $2 is not a multiple of gradient_accumulation_steps$1 $3"
}

# model_of CONFIG: the name of the model that a bert_config.json describes.
model_of() {
  local layers hidden
  if [[ ! -f $1 ]]; then
    case $(basename "$1") in
      *large* | bert_config.json) echo bert-large ;;
      *base*) echo bert-base ;;
      *) refuse "there is no file $1; MODEL=bert-large names a model without one" ;;
    esac
    return
  fi
  layers=$(grep -o '"num_hidden_layers" *: *[0-9]*' "$1" | grep -o '[0-9]*$') || true
  hidden=$(grep -o '"hidden_size" *: *[0-9]*' "$1" | grep -o '[0-9]*$') || true
  case $layers-$hidden in
    24-1024) echo bert-large ;;
    12-768) echo bert-base ;;
    *) refuse "$1 has ${layers:-no} layers of ${hidden:-no} hidden units: put this model into a recipe file of your" \
      "own, under models, and give its name with MODEL" ;;
  esac
}

# form_of FOLDER: bertjobs, lddl, hdf5, or nothing where there are no data.
form_of() {
  if [[ -f $1/MANIFEST.json ]]; then
    echo bertjobs
  elif [[ -n $(find -L "$1" \( -name '*.hdf5' -o -name '*.h5' \) -print -quit 2>/dev/null) ]]; then
    echo hdf5
  elif [[ -n $(find -L "$1" -name '*.parquet*' -print -quit 2>/dev/null) ]]; then
    echo lddl
  fi
}

# make_data: the data folder, unless it is there.
make_data() {
  local form bin_size=$phase2_bin_size
  form=$(form_of "$data_dir_phase1")
  if [[ $form == bertjobs ]]; then
    data=$data_dir_phase1
    [[ $masking_given ]] || ! grep -q '"masking": *"dynamic"' "$data/MANIFEST.json" || masking=dynamic
    return
  fi
  [[ ! -f $data/MANIFEST.json ]] || return 0
  if [[ -n $form ]]; then
    [[ $(form_of "$data_dir_phase2") == "$form" ]] ||
      refuse "DATA_DIR_PHASE2 does not hold files of the same kind ($form) as DATA_DIR_PHASE1: $data_dir_phase2"
    [[ $form == lddl || $masking == static ]] ||
      refuse "masking is $masking, but the masks of HDF5 files are stored in them: static"
    run data adopt --from "$form" --phase "1=$data_dir_phase1" --phase "2=$data_dir_phase2" --vocab "$vocab_file" \
      --output "$data"
    return
  fi
  [[ -d $wikipedia_source ]] || refuse "there are no data in $data_dir_phase1, and wikipedia_source, of which they" \
    "could be made, does not exist: $wikipedia_source"
  if ! [[ $bin_size =~ ^(32|64|128)$ ]]; then
    note "phase2_bin_size $bin_size: bins of 128 tokens, since both phases have the same here"
    bin_size=128
  fi
  [[ -z $num_dask_workers$num_shards_per_worker ]] ||
    note "num_dask_workers and num_shards_per_worker: left to bertjobs data prepare (a process per core)"
  run data prepare --corpus "lddl:$wikipedia_source" --vocab "$vocab_file" --output "$data" \
    --sample-ratio "$sample_ratio" --bin-size "$bin_size" --masking "$masking" --seed "$seed"
}

for name in resume_training create_logfile accumulate_gradients allreduce_post_accumulation \
  allreduce_post_accumulation_fp16; do
  is_one_of "$name" "${!name}" true false
done
is_one_of precision "$precision" fp16 bf16 tf32 fp32
is_one_of phase2_bin_size "$phase2_bin_size" none 32 64 128 256 512
is_one_of masking "$masking" static dynamic
whole num_gpus "$num_gpus" 0
whole train_steps "$train_steps"
whole train_steps_phase2 "$train_steps_phase2"
whole save_checkpoint_steps "$save_checkpoint_steps"
if [[ $accumulate_gradients == false ]]; then gradient_accumulation_steps=1 gradient_accumulation_steps_phase2=1; fi
check_batch "" "$train_batch_size" "$gradient_accumulation_steps"
check_batch _phase2 "$train_batch_size_phase2" "$gradient_accumulation_steps_phase2"
[[ $create_logfile == true ]] || note "create_logfile: logs are always kept, in $results/$job_name/phase1/logs"
[[ $allreduce_post_accumulation == true ]] ||
  note "allreduce_post_accumulation: gradients are always exchanged once per optimizer step"

if [[ $resume_training == true ]]; then
  run resume "$job_name" --results "$results" --backend "$backend"
  exit
fi

model=${MODEL:-$(model_of "$bert_config")}
make_data
options=()
if [[ $init_checkpoint != None ]]; then
  if [[ ! -f $init_checkpoint/config.json ]]; then
    imported=$results/$job_name-init
    [[ -d $imported ]] || run import "$init_checkpoint" --config "$bert_config" --vocab "$vocab_file" --output "$imported"
    init_checkpoint=$imported
  fi
  options+=(--init-checkpoint "$init_checkpoint")
fi
[[ -z $num_workers ]] || options+=(--set "num_workers=$num_workers")
[[ $precision != fp16 || $allreduce_post_accumulation_fp16 == false ]] || options+=(--set gradient_compression=fp16)

ranks=$((num_gpus > 0 ? num_gpus : 1))
run submit --recipe "$recipe" --backend "$backend" --results "$results" --run "$job_name" --data "$data" \
  --precision "$precision" --gpus "$num_gpus" --set "model=$model" --set vocabulary=any --set "seed=$seed" \
  --set "masking=$masking" "${options[@]}" \
  --set "phase1.global_batch=$((train_batch_size * ranks))" \
  --set "phase1.gradient_steps=$gradient_accumulation_steps" --set "phase1.lr=$learning_rate" \
  --set "phase1.warmup=$warmup_proportion" --set "phase1.steps=$train_steps" \
  --set "phase1.checkpoint_every=$save_checkpoint_steps" \
  --set "phase2.global_batch=$((train_batch_size_phase2 * ranks))" \
  --set "phase2.gradient_steps=$gradient_accumulation_steps_phase2" --set "phase2.lr=$learning_rate_phase2" \
  --set "phase2.warmup=$warmup_proportion_phase2" --set "phase2.steps=$train_steps_phase2" \
  --set "phase2.checkpoint_every=$save_checkpoint_steps"
