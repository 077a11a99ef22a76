#!/usr/bin/env bash
# Wikipedia to shards: downloads a dump of all articles, checks it against its published SHA-1, and prepares it.
#
#   data/wikipedia.sh --output DIR [--language CODE] [--date YYYYMMDD] [--dump FILE] [OPTIONS] [-- PREPARE OPTIONS]
#
#   --language CODE       of the Wikipedia: en, de, simple, ... (default: en); sentences are split by one of two letters
#   --date YYYYMMDD       of the dump (default: the newest, or with --offline the newest in the target)
#   --dump FILE           a dump that exists already: nothing is downloaded
#   --mirror URL          where dumps are (default: https://dumps.wikimedia.org)
#
# The English dump is about 25 GB and is read as it is, compressed.
set -euo pipefail
# shellcheck source=data/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

language=en date='' dump='' mirror=https://dumps.wikimedia.org
parse_common "$@"
set -- "${words[@]}"
while (($#)); do
  (($# > 1)) || fail "$1 is not an option, or needs a value" "see --help"
  case $1 in
    --language) language=$2 ;;
    --date) date=$2 ;;
    --dump) dump=$2 ;;
    --mirror) mirror=${2%/} ;;
    *) fail "unknown option $1" "see --help" ;;
  esac
  shift 2
done

wiki=${language//-/_}wiki
ending=pages-articles-multistream.xml.bz2

# newest_here: the newest date whose checksums are in the target.
newest_here() {
  local sums newest=''
  for sums in "$target/$wiki"-*-sha1sums.txt; do
    [[ ! -f $sums ]] || newest=$sums
  done
  newest=${newest##*/"$wiki"-}
  echo "${newest%-sha1sums.txt}"
}

# newest_there: the date of the newest dump, read from its list of checksums.
newest_there() {
  local sums=$target/$wiki-latest-sha1sums.part
  get "$mirror/$wiki/latest/$wiki-latest-sha1sums.txt" "$sums" >/dev/null ||
    fail "cannot read the list of $wiki's dumps at $mirror" "is $language the code of a Wikipedia? is there a network?"
  sed -n "s/^[0-9a-f]*  $wiki-\([0-9]*\)-$ending\$/\1/p" "$sums"
  rm -f "$sums"
}

if [[ -z $dump ]]; then
  if [[ -z $date ]]; then
    if [[ -n $offline ]]; then date=$(newest_here); else date=$(newest_there); fi
    [[ -n $date ]] || fail "cannot find a dump of $wiki" "give --date YYYYMMDD or --dump FILE"
  fi
  sums=$target/$wiki-$date-sha1sums.txt
  dump=$target/$wiki-$date-$ending
  if [[ ! -s $sums ]]; then
    [[ -z $offline ]] || fail "$sums does not exist" "run this where there is a network, or give --dump FILE"
    get "$mirror/$wiki/$date/$wiki-$date-sha1sums.txt" "$sums.part" >/dev/null || fail "there is no dump of $wiki of $date" "see $mirror/$wiki/"
    mv "$sums.part" "$sums"
  fi
  sha1=$(awk -v name="${dump##*/}" '$2 == name { print $1 }' "$sums")
  [[ -n $sha1 ]] || fail "$sums does not name ${dump##*/}" "the dump may still be being made: give an older --date"
  fetch "$mirror/$wiki/$date/${dump##*/}" "$dump" sha1 "$sha1"
fi
[[ -f $dump ]] || fail "$dump does not exist" "see --help"
[[ ! $language =~ ^[a-z]{2}$ || $language == en ]] || prepare_options=(--language "$language" "${prepare_options[@]}")
prepare "mediawiki:$dump"
