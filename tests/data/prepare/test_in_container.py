"""What the tasks of a prepare must see in a container."""

from __future__ import annotations

from pathlib import Path

from bertjobs.data.prepare.in_container import folders_of


def test_folders_of_the_corpus_and_of_what_its_links_lead_to(tmp_path: Path) -> None:
    real, corpus = tmp_path / "real", tmp_path / "corpus"
    for folder in (real, corpus / "part"):
        folder.mkdir(parents=True)
    (real / "a.txt").touch()
    (corpus / "a.txt").symlink_to(real / "a.txt")
    paths = [str(corpus / "a.txt"), str(corpus / "part" / "b.txt"), "s3://bucket/c.txt"]
    assert folders_of(paths) == [str(corpus), str(real)]


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folders_of(["wiki/a.txt", "wiki/b.txt"]) == [str(tmp_path / "wiki")]
    assert folders_of([]) == []
