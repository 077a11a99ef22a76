# shellcheck shell=bash
# What the scripts beside this one share; sourced, not run.
#
# Options that all scripts which make shards take:
COMMON_OPTIONS="  --vocab FILE          vocab.txt or tokenizer.json (default: train one on this text, TARGET/vocab.txt;
                        an error if one of other text, or of another size or case, is there)
  --vocab-size TOKENS   size of the vocabulary to train (default: 30522)
  --cased               keep upper case and accents
  --target DIR          where downloads and their checksums go (default: the output's folder)
  --output DIR          where the shards go; required
  --offline             download nothing: use what is in the target
  -- OPTIONS            all that follows goes to \`bertjobs data prepare\`, for instance -- --phases 1, or
                        -- --slurm --nodes 4 --queue, which prints the job that \`bertjobs submit --after\` waits for
  --help                this text

A script that was stopped resumes where it was when the same command is run again."

# What the options above set:
vocab='' vocab_size=30522 cased='' target='' output='' offline='' prepare_options=()
words=()  # what is left of the command line
curl_options=()  # what a site wants to be sent besides

fail() {
  printf 'error: %s\n' "$1" >&2
  [[ $# -lt 2 ]] || printf '  hint:  %s\n' "$2" >&2
  exit 64
}

# Prints the script's own comment at its top as its help, then the common options.
show_help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
  printf '\nShared options:\n%s\n' "$COMMON_OPTIONS"
}

# Reads the common options; the script's own and its operands are left in `words`.
parse_common() {
  while (($#)); do
    case $1 in
      --help | -h) show_help; exit 0 ;;
      --offline) offline=yes ;;
      --cased) cased=--cased ;;
      --vocab | --vocab-size | --target | --output)
        (($# > 1)) || fail "$1 needs a value" "see --help"
        local name=${1#--}
        printf -v "${name//-/_}" %s "$2"
        shift
        ;;
      --) shift; prepare_options=("$@"); break ;;
      *) words+=("$1") ;;
    esac
    shift
  done
  [[ -n $output ]] || fail "--output is not given" "the folder that the shards go to"
  target=${target:-$(dirname "$output")}
  mkdir -p "$target"
}

bertjobs() {
  local here
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  if [[ -n ${BERTJOBS:-} ]]; then "$BERTJOBS" "$@"
  elif [[ -x $here/.venv/bin/bertjobs ]]; then "$here/.venv/bin/bertjobs" "$@"
  else command bertjobs "$@"
  fi
}

# resolved FOLDER: its absolute path, without links and without a slash at its end.
resolved() { (CDPATH='' cd -- "$1" && pwd -P); }

# hash_is FILE ALGORITHM HASH: whether the file has this hash. ALGORITHM is md5, sha1 or sha256.
hash_is() {
  local sum
  sum=$("${2}sum" <"$1")
  [[ ${sum%% *} == "$3" ]]
}

# get URL FILE [OPTIONS]: downloads with retries; prints the last HTTP status.
get() {
  curl --location --fail --silent --show-error --retry 5 --retry-delay 2 --connect-timeout 30 \
    --speed-limit 1 --speed-time 120 "${curl_options[@]}" --output "$2" --write-out '%{http_code}' "${@:3}" "$1"
}

# download URL FILE: makes FILE.part, or completes it from the byte where it ends.
download() {
  local part=$2.part status code=0
  status=$(get "$1" "$part" --continue-at -) || code=$?
  if ((code == 33)); then # the server cannot begin in the middle
    rm -f "$part"
    code=0
    status=$(get "$1" "$part") || code=$?
  fi
  ((code == 0)) || [[ $status == 416 && -s $part ]] || # 416: nothing was missing
    fail "cannot download $1" "run this again: it resumes at byte $(stat -c %s "$part" 2>/dev/null || echo 0)"
}

# fetch URL FILE ALGORITHM HASH: FILE, complete and with this hash; downloads what is missing of it.
fetch() {
  local file=$2
  if [[ -f $file ]]; then
    if hash_is "$file" "$3" "$4"; then echo "$file is complete"; return; fi
    [[ -z $offline ]] || fail "$file is incomplete or damaged: its $3 is not $4" "run this again without --offline"
    [[ -f $file.part ]] || mv "$file" "$file.part"
  fi
  [[ -z $offline ]] || fail "$file does not exist" "run this where there is a network, or put the file there"
  echo "downloading $1"
  download "$1" "$file"
  if ! hash_is "$file.part" "$3" "$4"; then
    mv "$file.part" "$file.bad"
    fail "$file.bad is not what $1 should be: its $3 is not $4" "run this again: it starts over"
  fi
  mv "$file.part" "$file"
}

# recorded_sum FILE: its sha256 in TARGET/SHA256SUMS, or nothing.
recorded_sum() {
  [[ ! -f $target/SHA256SUMS ]] ||
    awk -v name="${1#"$target"/}" 'substr($0, 67) == name { print $1 }' "$target/SHA256SUMS"
}

# record_sum FILE: its sha256, now, in TARGET/SHA256SUMS; an older one of this name is replaced.
record_sum() {
  local sums=$target/SHA256SUMS name=${1#"$target"/} sum
  sum=$(sha256sum <"$1")
  {
    [[ ! -f $sums ]] || awk -v name="$name" 'substr($0, 67) != name' "$sums"
    printf '%s  %s\n' "${sum%% *}" "$name"
  } >"$sums.part"
  mv "$sums.part" "$sums"
}

# fetch_recorded URL FILE: FILE, where no checksum is published: its sha256 is recorded in TARGET/SHA256SUMS
# once it is complete, and checked from then on.
fetch_recorded() {
  local recorded
  recorded=$(recorded_sum "$2")
  if [[ -n $recorded ]]; then
    fetch "$1" "$2" sha256 "$recorded"
    return
  fi
  [[ -z $offline ]] || fail "$2 is not complete" "run this where there is a network"
  echo "downloading $1"
  mkdir -p "$(dirname "$2")"
  [[ ! -f $2 ]] || mv "$2" "$2.part"
  download "$1" "$2"
  mv "$2.part" "$2"
  record_sum "$2"
}

# own_vocabulary SOURCE...: sets `vocab` to TARGET/vocab.txt, which is trained unless it is there. What it is made from
# is written beside it first, so that it is never taken for that of other text.
own_vocabulary() {
  local record before now corpora=() source
  vocab=$target/vocab.txt
  record=$vocab.made-from
  for source in "$@"; do corpora+=(--corpus "$source"); done
  now=$({ printf '%s tokens\n%s\n' "$vocab_size" "${cased:-uncased}"; printf '%s\n' "$@"; } | LC_ALL=C sort)
  if [[ ! -f $vocab ]]; then
    printf '%s\n' "$now" >"$record"
    bertjobs data vocab "${corpora[@]}" --size "$vocab_size" ${cased:+"$cased"} --output "$vocab"
  elif [[ ! -f $record ]]; then
    echo "note: $vocab exists, and nothing says what it was made from; if that was other text, give another --target"
  else
    before=$(<"$record")
    [[ $before == "$now" ]] || fail "$vocab was made from other text, or of another size or case
  only then: $(only_in "$before" "$now")
  only now:  $(only_in "$now" "$before")" "give another --target, or use it all the same: --vocab $(printf %q "$vocab")"
    echo "$vocab exists"
  fi
}

# only_in LINES OTHERS: the sorted lines that are not among the others, with commas between; a dash if there are none.
only_in() {
  local lines
  mapfile -t lines < <(LC_ALL=C comm -23 <(printf '%s\n' "$1") <(printf '%s\n' "$2"))
  ((${#lines[@]})) || lines=(-)
  printf %s "${lines[0]}"
  ((${#lines[@]} == 1)) || printf ', %s' "${lines[@]:1}"
}

# prepare SOURCE...: trains a vocabulary where none is given, then makes the shards.
prepare() {
  local source corpora=()
  for source in "$@"; do corpora+=(--corpus "$source"); done
  [[ -n $vocab ]] || own_vocabulary "$@"
  bertjobs data prepare "${corpora[@]}" --vocab "$vocab" ${cased:+"$cased"} --output "$output" "${prepare_options[@]}"
}
