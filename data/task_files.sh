# shellcheck shell=bash
# What squad.sh, glue.sh and msmarco.sh share: the files of task_files.txt, complete and checked; sourced, not run.
HERE=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=data/common.sh
source "$HERE/common.sh"

COMMON_OPTIONS="  --mirror URL          another site with the same paths
  --offline             download nothing: check what is there, unpack it, and list what is missing, with its address
                        and where it belongs; exits 64 if anything is missing or damaged
  --help                this text

Complete files are not downloaded again; an interrupted download resumes where it stopped. A download whose checksum is
wrong is kept as FILE.bad, and the next run starts over. Archives are kept in FOLDER/downloads and may be deleted once
they are unpacked: what was in them is checked against FOLDER/SHA256SUMS, which this script writes."

mirror=''
folder=''

# parse_task_options ARGUMENTS: reads the options above; the script's own and its operands are left in `words`.
parse_task_options() {
  while (($#)); do
    case $1 in
      --help | -h) show_help; exit 0 ;;
      --offline) offline=yes ;;
      --mirror)
        (($# > 1)) || fail "$1 needs a value" "see --help"
        mirror=$2
        shift
        ;;
      *) words+=("$1") ;;
    esac
    shift
  done
}

# take_folder WORD: the word as the folder; options and a second folder are refused.
take_folder() {
  [[ $1 != -* ]] || fail "unknown option $1" "see --help"
  [[ -n $1 ]] || fail "the folder's name is empty" "see --help"
  [[ -z $folder ]] || fail "two folders are given: $folder and $1" "see --help"
  folder=${1%/}
  folder=${folder:-/}
}

# read_row ROW: a row of task_files.txt, in the caller's variables.
read_row() {
  read -r _ _ path bytes unpacked sum files <<<"$1"
  algorithm=${sum%%:*} sum=${sum#*:}
  files=${files//,/ }
  case $path in
    *.zip | *.tar.gz) place=$folder/downloads/${path##*/} ;;
    *) place=$folder/$files unpacked=0 ;;
  esac
}

is_archive() { [[ $place == "$folder/downloads/"* ]]; }

# is_complete: whether what the row becomes is in the folder, unchanged.
is_complete() {
  local file recorded
  if ! is_archive; then
    [[ -f $place ]] && hash_is "$place" "$algorithm" "$sum"
    return
  fi
  for file in $files; do
    recorded=$(recorded_sum "$folder/$file")
    [[ -n $recorded && -f $folder/$file ]] && hash_is "$folder/$file" sha256 "$recorded" || return
  done
}

# readable BYTES: as people write it.
readable() {
  awk -v bytes="$1" 'BEGIN {
    split("bytes kB MB GB TB", units, " ")
    for (unit = 1; bytes >= 999.95 && unit < 5; unit++) bytes /= 1000
    printf((unit == 1 ? "%d %s" : "%.1f %s"), bytes, units[unit])
  }'
}

# size_of FILE: its bytes; 0 if there is none.
size_of() { stat -c %s "$1" 2>/dev/null || echo 0; }

# unpack: the row's files out of its archive; all of them, or none.
unpack() {
  local file inside=$place.unpacked
  echo "unpacking $place"
  rm -rf "$inside"
  mkdir -p "$inside"
  case $place in
    *.zip) python3 -m zipfile -e "$place" "$inside" ;;
    *) tar -xzf "$place" -C "$inside" --no-same-owner ;;
  esac || fail "$place cannot be unpacked" "is the disk full? is python3 installed?"
  for file in $files; do
    [[ -f $inside/$file ]] || fail "$place holds no $file" "see what it holds in $inside"
  done
  for file in $files; do
    mkdir -p "$(dirname "$folder/$file")"
    mv "$inside/$file" "$folder/$file"
    record_sum "$folder/$file"
  done
  rm -rf "$inside"
}

# name_sizes ROW...: what is going to be downloaded, and whether the disk holds it.
name_sizes() {
  local row path bytes unpacked algorithm sum files place total=0 needed=0 free here
  for row in "$@"; do
    read_row "$row"
    printf '  %-28s %9s' "${path##*/}" "$(readable "$bytes")"
    if [[ $unpacked == - ]]; then unpacked=0; fi
    if ((unpacked)); then printf ', %s unpacked' "$(readable "$unpacked")"; fi
    printf '\n'
    here=$(size_of "$place")
    ((here)) || here=$(size_of "$place.part")
    total=$((total + (bytes > here ? bytes - here : 0)))
    needed=$((needed + unpacked))
  done
  needed=$((needed + total))
  free=$(df --output=avail -B1 "$folder" | tail -n 1)
  echo "$(readable "$total") to download; $(readable "$free") are free in $folder"
  ((needed <= free)) ||
    fail "$(readable "$needed") are needed in $folder, and $(readable "$free") are free" "give a folder on a larger disk"
}

# take_what_is_here ROW...: without a network: unpacks what is complete, and fails with a list of what is not.
take_what_is_here() {
  local row path bytes unpacked algorithm sum files place state missing=''
  for row in "$@"; do
    read_row "$row"
    state=missing
    if [[ -f $place ]]; then
      state=damaged
      if hash_is "$place" "$algorithm" "$sum"; then unpack; continue; fi
    elif [[ -s $place.part ]]; then
      state=incomplete
    fi
    missing+=$'\n'"  $state: $mirror/$path ($(readable "$bytes"))"$'\n'"    belongs at $place"
  done
  [[ -z $missing ]] || fail "not all files are here:$missing" \
    "run this without --offline, or fetch them on another machine, put them there, and run it with --offline again"
}

# bring SET PART...: these parts of the data set, complete and checked, in the folder.
bring() {
  local row rows=() path bytes unpacked algorithm sum files place
  mirror=${mirror%/}
  target=$folder
  mkdir -p "$folder" 2>/dev/null || fail "$folder is not a folder, and cannot be made" "see --help"
  while read -r row; do
    read_row "$row"
    if is_complete; then echo "${path##*/} is complete"; else rows+=("$row"); fi
  done < <(awk -v set="$1" -v parts=" ${*:2} " '$1 == set && index(parts, " " $2 " ")' "$HERE/task_files.txt")
  if [[ -n $offline ]]; then
    take_what_is_here "${rows[@]}"
  elif ((${#rows[@]})); then
    name_sizes "${rows[@]}"
    for row in "${rows[@]}"; do
      read_row "$row"
      mkdir -p "$(dirname "$place")"
      fetch "$mirror/$path" "$place" "$algorithm" "$sum"
      if is_archive; then unpack; fi
    done
  fi
  echo "$1: all of ${*:2} in $folder"
}
