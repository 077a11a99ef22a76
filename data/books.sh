#!/usr/bin/env bash
# Books to shards: public-domain books in plain text, from a folder or from a list of URLs, without Project Gutenberg's
# licence at their beginning and end. One file is one document.
#
#   data/books.sh --output DIR (--folder DIR | --urls FILE) [OPTIONS] [-- PREPARE OPTIONS]
#
#   --folder DIR          the books, *.txt in it and below it, also behind links; they are not changed
#   --urls FILE           a list of URLs, one per line; # begins a comment. A book's SHA-256 is recorded in
#                         TARGET/SHA256SUMS once it is downloaded, and checked from then on.
#
# The stripped books go to TARGET/books. Books that are not UTF-8 are taken to be Latin-1, as Gutenberg's old ones are.
# For many of Gutenberg's books use one of its mirrors (https://www.gutenberg.org/MIRRORS.ALL), not its web site.
set -euo pipefail
# shellcheck source=data/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

folder='' urls=''
parse_common "$@"
set -- "${words[@]}"
while (($#)); do
  (($# > 1)) || fail "$1 is not an option, or needs a value" "see --help"
  case $1 in
    --folder) folder=$2 ;;
    --urls) urls=$2 ;;
    *) fail "unknown option $1" "see --help" ;;
  esac
  shift 2
done
[[ -n $folder || -n $urls ]] || fail "neither --folder nor --urls is given" "see --help"
[[ -z $folder || -z $urls ]] || fail "both --folder and --urls are given" "run it once for each"

# without_licence: a book on standard input without what surrounds it; a book without the marks is not changed.
without_licence() {
  awk '
    { sub(/\r$/, "") }
    in_mark { if (/\*\*\* *$/) in_mark = 0; next }
    /^ *\*\*\* ?START OF (THE|THIS) PROJECT GUTENBERG/ || /^\*END\*? ?THE SMALL PRINT/ {
      count = 0; in_mark = /START OF/ && !/\*\*\* *$/; next
    }
    /^ *\*\*\* ?END OF (THE|THIS) PROJECT GUTENBERG/ || /^End of (The |the )?Project Gutenberg/ { exit }
    { lines[++count] = $0 }
    END { for (line = 1; line <= count; line++) print lines[line] }
  '
}

if [[ -n $urls ]]; then
  [[ -r $urls ]] || fail "$urls cannot be read" "a text file of URLs, one per line"
  folder=$target/downloads
  mkdir -p "$folder"
  while read -r url || [[ -n $url ]]; do
    url=${url%%[[:space:]#]*}
    [[ -n $url ]] || continue
    # Two books of the same name on different sites are two files.
    name=$(printf %s "${url#*://}" | tr -c 'A-Za-z0-9._-' _)
    fetch_recorded "$url" "$folder/${name%.txt}.txt"
  done <"$urls"
fi
[[ -d $folder ]] || fail "$folder is not a folder" "--folder DIR"

mkdir -p "$target/books"
folder=$(resolved "$folder")
books=$(resolved "$target/books")
count=0
while IFS= read -r -d '' file; do
  count=$((count + 1))
  book=$books/${file#"$folder"/}
  [[ ! $book -ef $file ]] || fail "$file would be replaced by the book without its licence" "choose another --target"
  [[ ! $book -nt $file ]] || continue
  mkdir -p "$(dirname "$book")"
  if iconv -f UTF-8 -t UTF-8 "$file" >/dev/null 2>&1; then encoding=UTF-8; else encoding=ISO-8859-1; fi
  iconv -f "$encoding" -t UTF-8 "$file" | without_licence >"$book.part"
  mv "$book.part" "$book"
done < <(find -L "$folder" -mindepth 1 \( -samefile "$books" -o -name '.*' \) -prune \
  -o -type f -iname '*.txt' -print0 | LC_ALL=C sort -z)
((count)) || fail "$folder holds no *.txt file" "books in plain text"
echo "$count books in $books"
prepare "text:$books"
