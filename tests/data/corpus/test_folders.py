"""Which files of a folder are read: through links, in either case of their suffix, each once."""

from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import pytest

from bertjobs.data.corpus import Source, UnreadFiles, documents, scan
from bertjobs.data.corpus.folders import files_below
from bertjobs.errors import InputError
from tests.data.corpus.test_bad_input import refused
from tests.data.corpus.test_sources import COMPRESS, texts


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}")


def below(root: Path) -> list[str]:
    return sorted(path.removeprefix(f"{root}/") for path in files_below(str(root)))


def test_folders_behind_links_are_read(tmp_path: Path) -> None:
    make(tmp_path, "disk/a/x.txt", "disk/b.txt", "corpus/c.txt")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "disk")
    assert [name for name, _ in texts(f"text:{tmp_path}/corpus")] == ["c.txt", "linked/a/x.txt", "linked/b.txt"]
    (tmp_path / "corpora").symlink_to("corpus")
    assert [name for name, _ in texts(f"text:{tmp_path}/corpora")] == ["c.txt", "linked/a/x.txt", "linked/b.txt"]


def test_a_folder_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    make(tmp_path, "disk/deep/x.txt", "disk/y.txt", "corpus/2023/a.txt")
    corpus = tmp_path / "corpus"
    (corpus / "latest").symlink_to("2023")  # also where it really is
    (corpus / "z").symlink_to(tmp_path / "disk")
    (corpus / "one").symlink_to(tmp_path / "disk" / "deep")  # before z by name, and inside it
    assert below(corpus) == ["2023/a.txt", "one/x.txt", "z/y.txt"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    make(tmp_path, "corpus/a.txt", "corpus/sub/b.txt", "beside/c.txt")
    corpus = tmp_path / "corpus"
    (corpus / "sub" / "up").symlink_to("..")
    (corpus / "around").symlink_to(tmp_path)
    (corpus / "beside").symlink_to(tmp_path / "beside")
    (tmp_path / "beside" / "back").symlink_to(corpus)
    assert below(corpus) == ["a.txt", "beside/c.txt", "sub/b.txt"]


@pytest.mark.parametrize("name", ["gone.txt", "books"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, name: str) -> None:
    """Whatever its name: it may stand for a folder of text on a disk that is not mounted."""
    make(tmp_path, "a.txt")
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    assert f"{str(tmp_path / name)!r} is a link to nothing" in refused(f"text:{tmp_path}")
    assert f"{str(tmp_path / name)!r} is a link to nothing" in refused(f"text:{tmp_path / name}")
    assert f"it leads to {tmp_path / 'nowhere'}" in refused(f"text:{tmp_path}")
    (tmp_path / name).rename(tmp_path / ".hidden")
    assert [one for one, _ in texts(f"text:{tmp_path}")] == ["a.txt"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_the_case_of_a_suffix_does_not_matter(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, "a.TXT", "b.Txt")
    (tmp_path / f"c.TXT{suffix.upper()}").write_bytes(COMPRESS[suffix](b"text of c"))
    assert texts(f"text:{tmp_path}") == [
        ("a.TXT", "text of a.TXT"), ("b.Txt", "text of b.Txt"), (f"c.TXT{suffix.upper()}", "text of c"),
    ]  # fmt: skip
    (tmp_path / "d.JSONL").write_text('{"text": "D"}')
    assert [document.text for document in documents(f"jsonl:{tmp_path}")] == ["D"]


def test_a_file_is_compressed_once(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "b.txt.bz2.gz")
    assert [name for name, _ in texts(f"text:{tmp_path}")] == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wiki_00", "--corpus wikiextractor:{}"),
        ("a.jsonl.gz", "--corpus jsonl:{}"),
        ("a.PARQUET", "--corpus parquet:{}"),
        ("a_training_0.hdf5", "bertjobs data adopt --from hdf5 {} --vocab FILE --output DIR"),
        ("a.doc", "also compressed: .gz .bz2 .xz .zst"),
    ],
)
def test_a_folder_of_another_kind_is_recognised(tmp_path: Path, name: str, says: str) -> None:
    make(tmp_path, name)
    message = refused(f"text:{tmp_path}")
    assert "holds no *.txt file" in message
    assert says.format(tmp_path) in message


def test_what_to_type_for_a_folder_of_another_kind_is_quoted(tmp_path: Path) -> None:
    for name, says in (("a.parquet", "--corpus 'parquet:{}'?"), ("a.hdf5", "adopt --from hdf5 '{}'")):
        folder = tmp_path / f"two words of {name}"
        folder.mkdir()
        make(folder, name)
        assert says.format(folder) in refused(f"text:{folder}")


@pytest.mark.parametrize("where", ["{}", "memory://{}"])
def test_files_with_other_names_are_counted(tmp_path: Path, where: str) -> None:
    names = ["a.txt", "b.TXT.gz", "sub/c.md", "sub/d.md", "e", "f.text", "g.rst", ".h.md", ".i/j.md"]
    folder = where.format(tmp_path)
    for name in names:
        with fsspec.open(f"{folder}/{name}", "wb", auto_mkdir=True) as file:
            file.write(gzip.compress(b"text") if name.endswith(".gz") else b"text")
    unread = UnreadFiles()
    pieces = scan([Source("text", folder)], unread=unread)
    assert sum(len(piece.paths) for piece in pieces) == 2
    assert unread.count == 5
    assert unread.words() == "5 files with other names were not read, such as 'e', 'sub/c.md', 'g.rst'"
    with pytest.raises(InputError, match=r"holds no \*.txt file") as caught:
        scan([Source("text", f"{folder}/sub")])
    assert str(caught.value.hint).startswith("it holds 2 files, such as 'c.md': rename them")
