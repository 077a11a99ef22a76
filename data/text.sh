#!/usr/bin/env bash
# Your own text to shards: files and folders on this machine, and URLs, which are downloaded.
#
#   data/text.sh --output DIR SOURCE... [OPTIONS] [-- PREPARE OPTIONS]
#
# A SOURCE is
#   KIND:PATH             as `bertjobs data prepare --corpus` takes it, with its options and weight
#   PATH                  a file or folder; its kind is recognised by the names in it: *.jsonl (one JSON object per line, text in
#                         "text"), *.parquet (column "text"), *.xml (MediaWiki), wiki_00 (WikiExtractor), state.json or
#                         dataset_dict.json (Hugging Face datasets), else *.txt, one document per file
#   https://...           a file, downloaded to TARGET/downloads. Its SHA-256 is recorded in TARGET/SHA256SUMS once it
#                         is complete, and checked from then on. Then as PATH.
set -euo pipefail
# shellcheck source=data/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

parse_common "$@"
((${#words[@]})) || fail "no text is given" "data/text.sh --output DIR PATH..."

# kind_of PATH: the kind that the names of its files show.
kind_of() {
  local names=$1
  if [[ -d $1 ]]; then
    if [[ -f $1/state.json || -f $1/dataset_dict.json ]]; then echo hf; return; fi
    # A link in a circle is not a reason to stop: prepare reads each folder once.
    names=$({ find -L "$1" -type f \( -iname '*.jsonl*' -o -iname '*.parquet' -o -iname '*.xml*' -o -iname '*.txt*' \
      -o -name 'wiki_[0-9]*' \) 2>/dev/null || true; } | LC_ALL=C sort)
    names=${names%%$'\n'*}
  fi
  names=${names##*/}
  case ${names,,} in
    wiki_[0-9]*) echo wikiextractor ;;
    *.jsonl | *.jsonl.*) echo jsonl ;;
    *.parquet) echo parquet ;;
    *.xml | *.xml.*) echo mediawiki ;;
    *) echo text ;;
  esac
}

sources=()
for word in "${words[@]}"; do
  case $word in
    -*) fail "unknown option $word" "see --help" ;;
    http://* | https://*)
      # What follows ? or # tells files apart, and their kind is at the end of the name before it.
      url=${word%%[?#]*}
      name=$(printf %s "${url#*://}" | tr -c 'A-Za-z0-9._-' _)
      query=$(printf %s "${word#"$url"}" | tr -c 'A-Za-z0-9._-' _)
      name=${query:+$query-}$name
      mkdir -p "$target/downloads"
      fetch_recorded "$word" "$target/downloads/$name"
      sources+=("$(kind_of "$target/downloads/$name"):$target/downloads/$name")
      ;;
    *)
      if [[ -e $word ]]; then sources+=("$(kind_of "$word"):$word")
      elif [[ $word == *:* ]]; then sources+=("$word")
      else fail "$word does not exist" "a file, a folder, a URL or KIND:PATH"
      fi
      ;;
  esac
done
prepare "${sources[@]}"
