#!/usr/bin/env bash
# MS MARCO's passage ranking: queries of a search engine, and passages that answer them or don't.
#
#   data/msmarco.sh [--what PART,...] [OPTIONS] [FOLDER]
#
#   FOLDER                where the files go (default: msmarco)
#   --what PART,...       what is wanted, or all (default: triples,top1000,qrels):
#       triples           triples.train.small.tsv: query, a passage that answers it, one that does not; 7.9 GB, 27.1 GB
#                         unpacked
#       top1000           top1000.dev: up to 1,000 passages for each of 6,980 queries, to be ranked anew; 0.7 GB, 2.5 GB
#                         unpacked
#       qrels             qrels.dev.small.tsv: which of them answer these queries
#       collection        collection.tsv: all 8.8 million passages; 1.0 GB, 2.9 GB unpacked
#       queries           queries.train.tsv, queries.dev.tsv, queries.eval.tsv; 19 MB, 42 MB unpacked
#       idtriples         qidpidtriples.train.full.2.tsv.gz: 398 million triples of ids, whose texts are in collection
#                         and queries; 1.8 GB, read as it is
#
# The sizes are named, and compared with the free space, before anything is downloaded. MSMARCO_MIRROR in the
# environment names another site too. Microsoft allows non-commercial research (https://microsoft.github.io/msmarco/).
set -euo pipefail
# shellcheck source=data/task_files.sh
source "$(dirname "${BASH_SOURCE[0]}")/task_files.sh"

all=(triples top1000 qrels collection queries idtriples)
what=triples,top1000,qrels
mirror=${MSMARCO_MIRROR:-https://msmarco.z22.web.core.windows.net/msmarcoranking}
# Azure's blob storage (Microsoft's older address, msmarco.blob.core.windows.net) treats a client that names no version
# as one of 2009.
curl_options=(--header 'X-Ms-Version: 2019-12-12')

parse_task_options "$@"
set -- "${words[@]}"
while (($#)); do
  case $1 in
    --what)
      (($# > 1)) || fail "$1 needs a value" "one or more of ${all[*]}, separated by commas"
      what=$2
      shift
      ;;
    *) take_folder "$1" ;;
  esac
  shift
done
[[ $what != all ]] || what=$(IFS=,; echo "${all[*]}")
IFS=, read -r -a parts <<<"$what"
((${#parts[@]})) || fail "--what is empty" "one or more of ${all[*]}, separated by commas"
for part in "${parts[@]}"; do
  [[ " ${all[*]} " == *" $part "* ]] || fail "$part is not a part of MS MARCO" "one or more of ${all[*]}, or all"
done
folder=${folder:-msmarco}
bring msmarco "${parts[@]}"
