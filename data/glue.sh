#!/usr/bin/env bash
# GLUE, nine tasks of sentences and pairs of sentences, in GLUE's own files: FOLDER/CoLA/train.tsv and so on. MRPC is as
# Microsoft ships it, msr_paraphrase_train.txt and msr_paraphrase_test.txt, with dev_ids.tsv, which names the pairs of
# train that are GLUE's dev.
#
#   data/glue.sh [TASK ...] [OPTIONS] [FOLDER]
#
#   TASK                  CoLA, SST-2, MRPC, QQP, STS-B, MNLI, QNLI, RTE or WNLI, in any case (default: all; 376 MB, of
#                         which MNLI is 313 MB)
#   FOLDER                where the tasks' folders go (default: glue): a folder that exists, or a path with a slash
#
# GLUE_MIRROR in the environment names another site too. Each task has its own licence.
set -euo pipefail
# shellcheck source=data/task_files.sh
source "$(dirname "${BASH_SOURCE[0]}")/task_files.sh"

all=(CoLA SST-2 MRPC QQP STS-B MNLI QNLI RTE WNLI)
mirror=${GLUE_MIRROR:-https://dl.fbaipublicfiles.com}
tasks=()

# take_task WORD: adds the task of this name, if there is one. "sst2" is SST-2.
take_task() {
  local task name=${1//-/}
  for task in "${all[@]}"; do
    if [[ ${name,,} == "$(tr -d - <<<"${task,,}")" ]]; then tasks+=("$task"); return; fi
  done
  return 1
}

parse_task_options "$@"
for word in "${words[@]}"; do
  if take_task "$word"; then continue; fi
  [[ $word == -* || $word == */* || -d $word || -z $word ]] ||
    fail "$word is not a task of GLUE" "one of ${all[*]}; a new folder of this name is ./$word"
  take_folder "$word"
done
((${#tasks[@]})) || tasks=("${all[@]}")
folder=${folder:-glue}
bring glue "${tasks[@]}"
