"""The scripts in data/: download what is missing, check it, strip it, prepare it."""

from __future__ import annotations

import bz2
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from bertjobs.data.corpus import documents
from bertjobs.data.shards.manifest import DataManifest
from tests.data.corpus.test_pieces import HEAD, TAIL, page
from tests.data.website import Site

ROOT = Path(__file__).parents[3]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "of", ".", ",", *"abcdefghijklmnopqrstuvwxyz"]
VOCABULARY += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
PREPARE = ("--", "--phases", "1", "--duplicates", "1", "--processes", "1", "--max-unknown-share", "0.1")


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "the vocabulary.txt"
    path.write_text("\n".join(VOCABULARY) + "\n")
    return path


def run(script: str, *arguments: object, real: bool = False) -> subprocess.CompletedProcess[str]:
    """A finished script. Where preparing is not the point, ``echo`` stands in for bertjobs and shows its arguments."""
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {"BERTJOBS": str(ROOT / ".venv/bin/bertjobs") if real else "echo", "no_proxy": "*"}
    command = [str(ROOT / "data" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def sentences(seed: int, count: int = 40) -> str:
    return " ".join(f"The cat number {seed + place} of a dog saw it." for place in range(count))


# ---------------------------------------------------------------- Wikipedia

DUMP = "enwiki-20260101-pages-articles-multistream.xml.bz2"


@pytest.fixture
def wikipedia(site: Site) -> bytes:
    streams = [HEAD, *(page(number, sentences(number)) for number in range(12)), TAIL]
    dump = b"".join(bz2.compress(stream.encode()) for stream in streams)
    sums = f"{'0' * 40}  enwiki-20260101-pages-articles.xml.bz2\n{hashlib.sha1(dump).hexdigest()}  {DUMP}\n".encode()
    site.files = {
        "/enwiki/latest/enwiki-latest-sha1sums.txt": sums,
        "/enwiki/20260101/enwiki-20260101-sha1sums.txt": sums,
        f"/enwiki/20260101/{DUMP}": dump,
    }
    return dump


def test_wikipedia_is_downloaded_checked_and_prepared_then_offline(
    site: Site, wikipedia: bytes, vocabulary: Path, tmp_path: Path
) -> None:
    target = tmp_path / "the target"
    common = ("--vocab", vocabulary, "--target", target)
    done = run("wikipedia.sh", *common, "--mirror", site.url, "--output", tmp_path / "out", *PREPARE, real=True)
    assert done.returncode == 0, done.stderr
    assert (target / DUMP).read_bytes() == wikipedia
    manifest = DataManifest.read(tmp_path / "out")
    assert sum(manifest.documents.values()) == 12
    assert sorted(manifest.phases) == [1]
    site.asked.clear()
    again = run("wikipedia.sh", *common, "--offline", "--output", tmp_path / "o2")
    assert again.returncode == 0, again.stderr
    assert "is complete" in again.stdout
    assert f"--corpus mediawiki:{target}/{DUMP}" in again.stdout
    assert site.asked == []


@pytest.mark.parametrize(
    ("code", "passed"), [("th", "--language th --phases 1"), ("simple", "--output"), ("en", "--output")]
)
def test_the_language_of_a_wikipedia_splits_its_sentences(code: str, passed: str, tmp_path: Path) -> None:
    (tmp_path / "dump.xml").touch()
    given = ("--dump", tmp_path / "dump.xml", "--vocab", "v", "--output", tmp_path / "out", "--", "--phases", "1")
    done = run("wikipedia.sh", "--language", code, *given)
    assert done.returncode == 0, done.stderr
    assert passed in done.stdout
    assert ("--language" in done.stdout) == (code == "th")


@pytest.mark.parametrize("name", [DUMP, DUMP + ".part"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_off_download_resumes_where_it_stopped(
    site: Site, wikipedia: bytes, tmp_path: Path, name: str, ranges: bool
) -> None:
    site.ranges = ranges
    (tmp_path / name).write_bytes(wikipedia[:1000])
    done = run("wikipedia.sh", "--mirror", site.url, "--output", tmp_path / "out", "--vocab", "v")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / DUMP).read_bytes() == wikipedia
    if ranges:
        assert site.asked[-1] == (f"/enwiki/20260101/{DUMP}", 1000)
    assert not (tmp_path / f"{DUMP}.part").exists()


def test_a_partial_download_that_is_complete_is_only_checked(site: Site, wikipedia: bytes, tmp_path: Path) -> None:
    (tmp_path / f"{DUMP}.part").write_bytes(wikipedia)
    done = run("wikipedia.sh", "--mirror", site.url, "--output", tmp_path / "out", "--vocab", "v")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / DUMP).read_bytes() == wikipedia


def test_a_wrong_checksum_is_an_error_and_the_next_run_starts_over(
    site: Site, wikipedia: bytes, tmp_path: Path
) -> None:
    arguments = ("--date", "20260101", "--mirror", site.url, "--output", tmp_path / "out", "--vocab", "v")
    site.files[f"/enwiki/20260101/{DUMP}"] = wikipedia[:-1] + b"x"
    done = run("wikipedia.sh", *arguments)
    assert done.returncode == 64
    assert "is not what" in done.stderr
    assert "sha1 is not" in done.stderr
    assert not (tmp_path / DUMP).exists()
    site.files[f"/enwiki/20260101/{DUMP}"] = wikipedia
    assert run("wikipedia.sh", *arguments).returncode == 0
    (tmp_path / DUMP).write_bytes(wikipedia[:99])
    offline = run("wikipedia.sh", *arguments, "--offline")
    assert offline.returncode == 64
    assert "is incomplete or damaged" in offline.stderr


# ---------------------------------------------------------------- books

BOOK = """\ufeffThe Project Gutenberg eBook of Cats

This eBook is for the use of anyone anywhere.\r
*** START OF THE PROJECT GUTENBERG EBOOK CATS
AND DOGS ***

Chapter 1

{}

*** END OF THE PROJECT GUTENBERG EBOOK CATS ***

Updated editions will replace the previous one.
"""
OLD_BOOK = """Project Gutenberg's Old Cats
*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*
Caf\u00e9. {}
End of Project Gutenberg's Old Cats
"""


def test_books_are_stripped_and_prepared(vocabulary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my books"
    (folder / "old").mkdir(parents=True)
    (folder / "cats.txt").write_text(BOOK.format(sentences(1)), encoding="utf-8")
    (folder / "old" / "cats.txt").write_bytes(OLD_BOOK.format(sentences(2)).encode("latin-1"))
    (folder / "plain.txt").write_text(sentences(3))
    arguments = ("--folder", folder, "--vocab", vocabulary, "--offline", "--output", tmp_path / "out", *PREPARE)
    done = run("books.sh", *arguments, real=True)
    assert done.returncode == 0, done.stderr
    books = {document.id: document for document in documents(f"text:{tmp_path}/books")}
    assert books["cats.txt"].text.split() == ["Chapter", "1", *sentences(1).split()]
    assert books["old/cats.txt"].text.split() == ["Caf\u00e9.", *sentences(2).split()]
    assert books["plain.txt"].text.split() == sentences(3).split()
    assert sum(DataManifest.read(tmp_path / "out").documents.values()) == 3


@pytest.mark.parametrize("given", ["../raw/", "../raw", "../raw//", "../link"])
def test_books_are_copied_and_the_originals_stay(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "raw/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("raw")
    (tmp_path / "elsewhere.txt").write_text(BOOK.format("One."))
    (tmp_path / "raw/linked.txt").symlink_to("../elsewhere.txt")
    for name in ("raw/one.txt", "raw/deep/TWO.TXT", "raw/.hidden.txt"):
        (tmp_path / name).write_text(BOOK.format("One."))
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        done = run("books.sh", "--folder", given, "--output", "../shards", "--vocab", "v")
        assert done.returncode == 0, done.stderr
        assert "3 books in" in done.stdout
        books = {str(path.relative_to(tmp_path / "books")) for path in (tmp_path / "books").rglob("*.*")}
        assert books == {"one.txt", "deep/TWO.TXT", "linked.txt"}
    for name in ("one.txt", "deep/TWO.TXT", "linked.txt"):
        assert "Project" not in (tmp_path / "books" / name).read_text()
        assert (tmp_path / "raw" / name).read_bytes() == BOOK.format("One.").encode()


def test_books_below_the_folder_are_no_books_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "[raw]"
    folder.mkdir()
    (folder / "one.txt").write_text(BOOK.format("One."))
    for _ in range(2):
        done = run("books.sh", "--folder", folder, "--output", folder / "shards", "--vocab", "v")
        assert done.returncode == 0, done.stderr
        assert "1 books in" in done.stdout
    (folder / "books/one.txt").write_text(BOOK.format("One."))
    done = run("books.sh", "--folder", folder / "books", "--output", folder / "shards", "--vocab", "v")
    assert done.returncode == 64
    assert "one.txt would be replaced" in done.stderr
    assert (folder / "books/one.txt").read_bytes() == BOOK.format("One.").encode()


def test_books_from_urls_are_recorded_and_checked(site: Site, tmp_path: Path) -> None:
    site.files = {f"/{name}.txt": BOOK.format(sentences(name)).encode() for name in (1, 2)}
    urls = tmp_path / "urls.txt"
    urls.write_text(f"# books\n{site.url}/1.txt  # the first\n\n{site.url}/2.txt")
    arguments = ("--urls", urls, "--output", tmp_path / "out", "--vocab", "v")
    done = run("books.sh", *arguments)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "books").iterdir())) == 2
    sums = (tmp_path / "SHA256SUMS").read_text()
    assert hashlib.sha256(site.files["/1.txt"]).hexdigest() in sums
    check = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False)
    assert check.returncode == 0
    site.asked.clear()
    assert run("books.sh", *arguments, "--offline").returncode == 0
    assert site.asked == []
    book = next((tmp_path / "downloads").glob("*1.txt"))
    book.write_bytes(book.read_bytes()[:500])
    offline = run("books.sh", *arguments, "--offline")
    assert offline.returncode == 64
    assert "is incomplete or damaged" in offline.stderr
    done = run("books.sh", *arguments)
    assert done.returncode == 0, done.stderr
    assert book.read_bytes() == site.files["/1.txt"]
    assert (tmp_path / "SHA256SUMS").read_text() == sums
    assert [start for _, start in site.asked] == [500]


# ---------------------------------------------------------------- your own text


def test_the_kind_of_your_own_text_is_recognised_by_file_names(site: Site, tmp_path: Path) -> None:
    for name in ("t/a.txt", "j/a.jsonl.gz", "p/a.parquet", "h/state.json", "x.xml.bz2", "w/AA/wiki_00", "wiki_1/A.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "l").mkdir()
    (tmp_path / "l" / "linked").symlink_to(tmp_path / "w")
    (tmp_path / "l" / "circle").symlink_to(tmp_path / "l")
    site.files = {"/d/b.jsonl": b'{"text": "x"}', "/d/c.jsonl.gz?download=true": b"x"}
    names = ("t", "j", "p", "h", "x.xml.bz2", "w", "l", "wiki_1")
    urls = [site.url + path for path in site.files]
    words = [*(tmp_path / name for name in names), *urls, "lddl:/y@2"]
    done = run("text.sh", *words, "--output", tmp_path / "out", "--vocab", "v", "--", "--seed", 7)
    assert done.returncode == 0, done.stderr
    arguments = done.stdout.splitlines()[-1].split()
    sources = [arguments[place + 1] for place, word in enumerate(arguments) if word == "--corpus"]
    kinds = [source.partition(":")[0] for source in sources]
    assert kinds == [
        "text", "jsonl", "parquet", "hf", "mediawiki", "wikiextractor", "wikiextractor", "text", "jsonl", "jsonl",
        "lddl",
    ]  # fmt: skip
    assert sources[-2].endswith("c.jsonl.gz")
    assert sources[-1] == "lddl:/y@2"
    assert arguments[-2:] == ["--seed", "7"]


def test_a_vocabulary_is_trained_if_none_is_given(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for name in range(4):
        (tmp_path / "t" / f"{name}.txt").write_text(sentences(name * 100))
    arguments = (
        tmp_path / "t",
        "--vocab-size",
        90,
        "--target",
        tmp_path / "raw",
        "--output",
        tmp_path / "out",
        *PREPARE,
    )
    done = run("text.sh", *arguments, real=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "raw/vocab.txt").read_text() == (tmp_path / "out/vocab.txt").read_text()
    assert sum(DataManifest.read(tmp_path / "out").documents.values()) == 4


def test_a_vocabulary_of_other_text_is_not_reused(tmp_path: Path) -> None:
    for name in ("de.xml", "en.xml"):
        (tmp_path / name).touch()
    vocabulary, common = tmp_path / "vocab.txt", ("--target", tmp_path, "--output", tmp_path / "out")

    def wikipedia(language: str, *more: object) -> subprocess.CompletedProcess[str]:
        return run("wikipedia.sh", "--language", language, "--dump", tmp_path / f"{language}.xml", *common, *more)

    assert f"data vocab --corpus mediawiki:{tmp_path}/en.xml --size 30522 --output" in wikipedia("en").stdout
    vocabulary.touch()  # what echo has not done
    again = wikipedia("en")
    assert again.returncode == 0, again.stderr
    assert f"{vocabulary} exists\n" in again.stdout
    assert "data vocab" not in again.stdout
    for words, says in (
        (("de",), f"only then: mediawiki:{tmp_path}/en.xml\n  only now:  mediawiki:{tmp_path}/de.xml\n"),
        (("en", "--cased"), "only then: uncased\n  only now:  --cased\n"),
        (("en", "--cased", "--vocab-size", 9), "only then: 30522 tokens, uncased\n  only now:  --cased, 9 tokens\n"),
    ):
        done = wikipedia(*words)
        assert done.returncode == 64
        assert says in done.stderr
        assert f"give another --target, or use it all the same: --vocab {vocabulary}" in done.stderr
        assert wikipedia(*words, "--vocab", vocabulary).returncode == 0
    more = run("text.sh", f"mediawiki:{tmp_path}/en.xml", f"text:{tmp_path}", *common)
    assert f"only then: -\n  only now:  text:{tmp_path}\n" in more.stderr
    (tmp_path / "vocab.txt.made-from").unlink()  # as an older version left it
    older = wikipedia("de")
    assert older.returncode == 0, older.stderr
    assert "nothing says what it was made from" in older.stdout


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("script", ["wikipedia.sh", "books.sh", "text.sh"])
def test_a_script_explains_itself(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0
    assert f"data/{script} --output DIR" in done.stdout
    assert "--offline" in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("wikipedia.sh", [], "--output is not given"),
        ("wikipedia.sh", ["--output"], "--output needs a value"),
        ("wikipedia.sh", ["--output", "o", "--langage", "en"], "unknown option --langage"),
        ("wikipedia.sh", ["--output", "o", "--offline"], "cannot find a dump of enwiki"),
        ("wikipedia.sh", ["--output", "o", "--offline", "--date", "20260101"], "sha1sums.txt does not exist"),
        ("wikipedia.sh", ["--output", "o", "--dump", "gone"], "gone does not exist"),
        ("books.sh", ["--output", "o"], "neither --folder nor --urls"),
        ("books.sh", ["--output", "o", "--folder", "gone"], "gone is not a folder"),
        ("books.sh", ["--output", "o", "--folder", "."], "holds no *.txt file"),
        ("text.sh", ["--output", "o"], "no text is given"),
        ("text.sh", ["--output", "o", "gone"], "gone does not exist"),
    ],
)
def test_what_is_wrong_is_named(
    script: str, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(script, *arguments)
    assert done.returncode == 64
    assert says in done.stderr


def test_a_site_that_does_not_answer_is_an_error(site: Site, tmp_path: Path) -> None:
    done = run("text.sh", f"{site.url}/gone.txt", "--output", tmp_path / "out", "--vocab", "v")
    assert done.returncode == 64
    assert "cannot download" in done.stderr
