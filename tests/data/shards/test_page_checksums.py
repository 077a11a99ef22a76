"""Parquet files that have checksums of their pages: a changed page is refused, whoever reads it."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjobs.data.corpus import documents
from bertjobs.data.prepare.adopt import LddlFile, count_file
from bertjobs.data.shards.lddl_shard import read_lddl_shard
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError


def change_one_letter(path: Path, table: pa.Table, word: bytes, other: bytes) -> None:
    """Write a table with checksums, and then one word of it as another, which only the checksum can tell."""
    pq.write_table(table, path, compression="NONE", use_dictionary=False, write_page_checksum=True)
    raw = path.read_bytes()
    places = [match.start() for match in re.finditer(word, raw)]
    place = places[len(places) // 2]  # the first and the last may be in statistics, which no checksum is of
    path.write_bytes(raw[:place] + other + raw[place + len(other) :])
    assert pq.ParquetFile(path).read().num_rows == table.num_rows  # read without the checksums nothing is wrong


def test_a_document_of_a_changed_page_is_not_read(tmp_path: Path) -> None:
    table = pa.table({"text": [f"The people of the union, number {number}." for number in range(50)]})
    change_one_letter(tmp_path / "a.parquet", table, b"union", b"onion")
    with pytest.raises(InputError) as caught:
        list(documents(f"parquet:{tmp_path}"))
    assert "a.parquet" in str(caught.value)
    pq.write_table(table, tmp_path / "a.parquet", write_page_checksum=True)
    assert len(list(documents(f"parquet:{tmp_path}"))) == 50


def test_a_shard_of_a_changed_page_is_not_read(dynamic: DataManifest, vocabulary: Vocabulary, tmp_path: Path) -> None:
    original = dynamic.phase(1).train.folder / "shard-0.parquet_1"
    tokens = pa.array(vocabulary.tokens)
    path = tmp_path / original.name
    table = pq.ParquetFile(original).read()
    pq.write_table(table, path, write_page_checksum=True)
    assert (read_lddl_shard(path, tokens, 128).ids == read_lddl_shard(original, tokens, 128).ids).all()
    change_one_letter(path, table, b" was ", b" war ")
    with pytest.raises((ValueError, OSError), match=r"(?i)crc checksum"):
        read_lddl_shard(path, tokens, 128)
    with pytest.raises(InputError, match=r"(?i)crc checksum"):
        count_file(LddlFile(path, 0, 1), vocabulary)
