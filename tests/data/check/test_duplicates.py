"""Duplicates among stretches of real speeches, planted and not, against the similarity of all pairs in full."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bertjobs.data.check.document_table import DocumentTable, DocumentTableWriter
from bertjobs.data.check.duplicates import Duplicates, band_width, equal_documents, join, near_documents
from bertjobs.data.check.fingerprints import PLACES
from tests.conftest import SPEECHES
from tests.data.check.test_fingerprints import runs_by_hand

WORDS = 300  # of a document
EACH = 40  # planted duplicates of a kind


def tables_of(texts: Sequence[str], folder: Path, words: int = 0, in_table: int = 100) -> list[Path]:
    paths = []
    for start in range(0, len(texts), in_table):
        writer = DocumentTableWriter(words)
        part = texts[start : start + in_table]
        writer.add([str(start + place) for place in range(len(part))], part)
        paths.append(folder / f"{start:06}.safetensors")
        writer.finish().write(paths[-1])
    return paths


def found(duplicates: Duplicates) -> dict[int, int]:
    return dict(zip(duplicates.later.tolist(), duplicates.first.tolist(), strict=True))


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Stretches of speeches, each with a footer of its own kind; and some again: the first with other line breaks,
    the second with another footer, the third with every tenth word changed."""
    draw = random.Random(5)
    originals = []
    for path in sorted(SPEECHES.glob("*.txt"))[::3]:
        words = path.read_text(encoding="utf-8").split()
        originals += [
            " ".join(words[start : start + WORDS]) + " Printed in Washington by order of the House of Representatives."
            for start in range(0, len(words) - WORDS, 2 * WORDS)
        ]
    draw.shuffle(originals)
    originals = originals[:600]
    vocabulary = " ".join(originals[-50:]).split()
    planted = []
    for place in range(EACH):
        planted.append(originals[place].replace(" ", "\n  ", 7) + "\n")
        other = originals[EACH + place].removesuffix(" Printed in Washington by order of the House of Representatives.")
        planted.append(other + " All rights reserved. Reproduced with the permission of the owner of the archive.")
        words = originals[2 * EACH + place].split()
        for at in draw.sample(range(len(words)), len(words) // 10):
            words[at] = draw.choice(vocabulary)
        planted.append(" ".join(words))
    return originals + planted


def similar_pairs(texts: Sequence[str], least: float) -> dict[tuple[int, int], float]:
    """The similarity of all pairs that have ``least`` or more, by an index of all word runs."""
    runs = [runs_by_hand(text, 5) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = {}
    common: Counter[tuple[int, int]] = Counter()
    for number, one in enumerate(runs):
        for run in one:
            earlier = holders.setdefault(run, [])
            if len(earlier) < 50:  # more hold only a few phrases and the footer
                common.update((other, number) for other in earlier)
                earlier.append(number)
    shares = {(a, b): count / (len(runs[a]) + len(runs[b]) - count) for (a, b), count in common.items()}
    return {pair: share for pair, share in shares.items() if share >= least}


def test_equal_documents_are_those_of_the_same_words(documents: list[str], tmp_path: Path) -> None:
    expected, first = {}, {}
    for number, text in enumerate(documents):
        key = "".join(text.split())
        if key in first:
            expected[number] = first[key]
        first.setdefault(key, number)
    assert len(expected) >= EACH
    assert found(equal_documents(tables_of(documents, tmp_path), tmp_path)) == expected


def test_a_share_of_the_hashes_at_a_time_finds_the_same(
    documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = documents + documents[::-1] + documents[:5]
    tables = tables_of(texts, tmp_path)
    together = found(equal_documents(tables, tmp_path))
    monkeypatch.setattr("bertjobs.data.check.duplicates.HASHES_AT_A_TIME", 100)
    assert found(equal_documents(tables, tmp_path)) == together
    assert len(together) > len(documents)


@pytest.mark.parametrize("threshold", [0.8, 0.3])
def test_near_documents_are_those_above_the_threshold(documents: list[str], tmp_path: Path, threshold: float) -> None:
    """Five standard deviations of the estimate from the threshold, all are found and none is invented; and by far the
    most of those nearer to it are judged rightly too."""
    seen = near_documents(tables_of(documents, tmp_path, words=5), threshold, tmp_path)
    similar = similar_pairs(documents, 0.02)
    margin = 5 * np.sqrt(threshold * (1 - threshold) / 128)
    twins = {later for (_, later), share in similar.items() if share >= threshold}
    sure = {later for (_, later), share in similar.items() if share >= threshold + margin}
    later = set(seen.later.tolist())
    assert sure <= later
    closest = {number: max((share for pair, share in similar.items() if number in pair), default=0) for number in later}
    assert min(closest.values()) >= threshold - margin
    kinds = [set(range(600 + kind, len(documents), 3)) for kind in range(3)]
    assert kinds[0] | kinds[1] <= later  # equal but for white space; another footer
    assert len(kinds[2] & later) >= (0 if threshold > 0.5 else 0.95 * EACH)  # every tenth word: 0.42 alike
    assert (len(kinds[2] & later) == 0) == (threshold > 0.5)
    assert len(later & twins) >= 0.97 * len(twins)  # recall
    assert len(later & twins) >= 0.97 * len(later)  # precision


def test_near_documents_do_not_depend_on_how_the_corpus_is_cut(documents: list[str], tmp_path: Path) -> None:
    cuts = []
    for in_table in (7, 1000):
        folder = tmp_path / str(in_table)
        folder.mkdir()
        cuts.append(found(near_documents(tables_of(documents, folder, 5, in_table), 0.8, folder)))
        assert not [path for path in folder.iterdir() if path.suffix != ".safetensors"]
    assert cuts[0] == cuts[1]


def test_texts_of_few_words_are_compared_word_for_word(tmp_path: Path) -> None:
    texts = ["one two", "three", "four five six", "one  two", "...", "!!!", "...\n"]
    assert found(near_documents(tables_of(texts, tmp_path, 5), 0.5, tmp_path)) == {3: 0, 6: 4}


def test_many_alike_in_few_places_are_told_apart(tmp_path: Path) -> None:
    """A hundred texts share half of their words, ten of them are twins: a band holds texts of several kinds."""
    draw = random.Random(1)
    words = [f"word{number}" for number in range(5000)]
    common = " ".join(draw.choices(words, k=400))
    texts = [common + " " + " ".join(draw.choices(words, k=400)) for _ in range(100)]
    texts += [text + " the end" for text in texts[:10]]
    assert found(near_documents(tables_of(texts, tmp_path, 5), 0.8, tmp_path)) == {100 + n: n for n in range(10)}


def test_joined_documents_have_the_least_number_of_their_chain() -> None:
    draw = np.random.default_rng(4)
    a, b = draw.integers(0, 3000, (2, 2000))
    labels = np.arange(3000)
    for part in np.array_split(np.arange(2000), 7):
        join(labels, a[part], b[part])
    group = {number: {number} for number in range(3000)}
    for one, other in zip(a.tolist(), b.tolist(), strict=True):
        if group[one] is not group[other]:
            group[one] |= group[other]
            for number in group[other]:
                group[number] = group[one]
    assert labels.tolist() == [min(group[number]) for number in range(3000)]


def random_tables(count: int, folder: Path) -> list[Path]:
    """Tables of random fingerprints, of which a tenth is of fifty kinds."""
    draw = np.random.default_rng(count)
    kinds = draw.integers(0, 1 << 32, (50, PLACES), dtype=np.uint32)
    empty = DocumentTableWriter().finish()
    folder.mkdir()
    paths = []
    for start in range(0, count, 1000):
        rows = draw.integers(0, 1 << 32, (1000, PLACES), dtype=np.uint32)
        rows[:100] = kinds[draw.integers(0, 50, 100)]
        hashes = draw.integers(0, 1 << 63, (1000, 2), dtype=np.uint64)
        paths.append(folder / f"{start:06}.safetensors")
        replace(empty, hashes=hashes, signatures=rows, runs=np.full(1000, 300)).write(paths[-1])
    return paths


def peak(function: Callable[[], Duplicates]) -> int:
    """Bytes that Python and numpy hold at most while a function runs; mapped files are not among them."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_per_document_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertjobs.data.check.duplicates._PAIRS", 256)
    monkeypatch.setattr("bertjobs.data.check.duplicates.HASHES_AT_A_TIME", 4000)
    few, many = (random_tables(count, tmp_path / str(count)) for count in (20_000, 60_000))
    near = [peak(partial(near_documents, tables, 0.8, tmp_path)) for tables in (few, many)]
    exact = [peak(partial(equal_documents, tables, tmp_path)) for tables in (few, many)]
    assert near[1] - near[0] < 80 * 40_000
    assert exact[1] < 1.2 * exact[0] < 2_000_000


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_a_pair_at_the_threshold_is_compared_almost_always(threshold: float) -> None:
    """Simulated: signatures that agree at each place with the threshold's chance."""
    width = band_width(threshold)
    agree = np.random.default_rng(0).random((4000, 128)) < threshold
    bands = agree[:, : 128 // width * width].reshape(4000, -1, width)
    assert bands.all(axis=2).any(axis=1).mean() >= 0.98


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    writer = DocumentTableWriter(excerpts=2)
    names = ["a", "b\udcff/ü", "", "d"]
    texts = ["x" * 10_000 + "middle" + "y" * 10_000, "short", "other", "last"]
    writer.add(names[:3], texts[:3])
    writer.add(names[3:], texts[3:])
    writer.finish().write(tmp_path / "table.safetensors")
    table = DocumentTable.read(tmp_path / "table.safetensors")
    assert [table.name(row) for row in range(len(table))] == names
    hashes = [bytes(row) for row in table.hashes]
    lowest = sorted(range(4), key=lambda place: hashes[place])[:2]
    excerpts = [texts[place] if place else texts[0][9753:10_253] for place in lowest]
    assert table.all_excerpts() == excerpts


# ---------------------------------------------------------------- disks


def duplicates_of(corpus: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    """`bertjobs data duplicates --near`, its files in ``temporary``."""
    command = [sys.executable, "-m", "bertjobs", "data", "duplicates", "--near", "--corpus", f"lddl:{corpus}",
               "--processes", "1"]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TMPDIR": str(temporary)})


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{line} the people of nation {line} are at peace today\n" for line in range(2000)))
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_is_an_error_that_names_the_folder(lines: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    # Enough for the table of documents, 1.2 MB, and not for what is mapped.
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    try:
        done = duplicates_of(lines, small)
        assert done.returncode == 70, done.stderr
        assert f"error: cannot write '{small}': No space left on device" in done.stderr
        assert "where: TMPDIR" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_allocate_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    tables = tables_of(["One two three four five six."] * 3, tmp_path, 5)
    monkeypatch.setattr("os.posix_fallocate", refuse)
    assert found(near_documents(tables, 0.8, tmp_path)) == {1: 0, 2: 0}
