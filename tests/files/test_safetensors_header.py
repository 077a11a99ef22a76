"""The header of a safetensors file, compared with what the safetensors package writes and reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from bertjobs.files.safetensors_header import Header, TensorEntry, header_bytes, read_header

TENSORS = {
    "half": torch.zeros(3, dtype=torch.bfloat16),
    "nothing": torch.zeros(0, 4),
    "scalar": torch.zeros((), dtype=torch.int64),
    "table": torch.zeros(2, 5),
}

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
bytes_tensors = st.dictionaries(st.text("ab/.", min_size=1, max_size=4), shapes, max_size=5).map(
    lambda shaped: {name: TensorEntry("U8", shape, torch.Size(shape).numel()) for name, shape in shaped.items()}
)


def written(path: Path, content: object, data: int = 0) -> Path:
    """A file with this header, as JSON, followed by ``data`` bytes."""
    text = json.dumps(content).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def test_what_the_package_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    header = read_header(path)
    assert dict(header.tensors) == {
        "half": TensorEntry("BF16", (3,), 6),
        "nothing": TensorEntry("F32", (0, 4), 0),
        "scalar": TensorEntry("I64", (), 8),
        "table": TensorEntry("F32", (2, 5), 40),
    }
    assert header.metadata == {"format": "pt"}
    assert header.file_size == path.stat().st_size
    assert header.places()["table"] + 40 <= header.file_size


@settings(deadline=None)
@given(tensors=bytes_tensors, metadata=st.none() | st.just({"seed": "7"}), alignment=st.sampled_from([1, 8, 64]))
def test_what_is_written_is_read_by_both(
    tmp_path_factory: pytest.TempPathFactory,
    tensors: dict[str, TensorEntry],
    metadata: dict[str, str] | None,
    alignment: int,
) -> None:
    path = tmp_path_factory.mktemp("header") / "some.safetensors"
    start = header_bytes(tensors, metadata, alignment=alignment)
    path.write_bytes(start + bytes(sum(entry.size for entry in tensors.values())))
    header = read_header(path)
    assert header == Header(tensors, metadata or {}, len(start))
    assert list(header.tensors) == list(tensors)
    assert len(start) % alignment == 0
    assert header.file_size == path.stat().st_size
    with safe_open(path, "pt") as file:
        assert file.metadata() == metadata
        assert set(file.keys()) == set(tensors)
        for name, entry in tensors.items():
            assert tuple(file.get_slice(name).get_shape()) == entry.shape


def at(start: int, end: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "content",
    [
        {"a": at(1, 4)},
        {"a": at(0, 2), "b": at(3, 4)},
        {"a": at(0, 3), "b": at(2, 4)},
        {"a": {"dtype": "U8", "shape": [4]}},
        {"a": {"shape": [4], "data_offsets": [0, 4]}},
        {"a": {"dtype": "U8", "shape": ["4"], "data_offsets": [0, 4]}},
        {"a": {"dtype": "U8", "shape": [-2, -2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4.0]}},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 2, 4]}},
        {"a": at(0, 4), "__metadata__": ["text"]},
        {"a": 4},
        [],
        "text",
    ],
    ids=[
        "late",
        "hole",
        "overlap",
        "no place",
        "no type",
        "shape of text",
        "negative shape",
        "place of floats",
        "three places",
        "metadata",
        "number",
        "list",
        "text",
    ],
)
def test_a_damaged_header_is_refused_as_by_the_package(tmp_path: Path, content: object) -> None:
    path = written(tmp_path / "file", content, data=4)
    with pytest.raises(SafetensorError), safe_open(path, "pt"):
        pass
    with pytest.raises(ValueError, match="its header is damaged"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"\x05", bytes(8), b"PAR1" * 10, (99).to_bytes(8, "little") + b"{}"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=f"its {len(content)} bytes do not begin with a header of"):
        read_header(tmp_path / "file")


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        read_header(tmp_path / "absent")


def test_the_size_of_a_file_that_was_cut_is_known(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file(TENSORS, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert read_header(path).file_size == len(whole)
