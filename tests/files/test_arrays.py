"""Several arrays in one file: written whole or not at all, mapped without a copy."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as any_array
from safetensors import safe_open
from safetensors.numpy import load_file

from bertjobs.files.arrays import ArraysWriter, map_arrays, write_arrays

KINDS = (np.bool_, np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64)
SOME = {
    "flags": np.array([True, False, True]),
    "ids": np.arange(5, dtype=np.uint16),
    "nothing": np.zeros(0, dtype=np.int64),
    "offsets": np.array([0, 2, 5], dtype=np.int64),
    "table": np.arange(6, dtype=np.float32).reshape(2, 3),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.safetensors"
    write_arrays(path, SOME, {"seed": "7"})
    return path


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=4),
        st.sampled_from(KINDS).flatmap(lambda kind: any_array(kind, st.integers(0, 40))),
        max_size=4,
    )
)
def test_what_is_written_is_read(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("arrays") / "some.safetensors"
    write_arrays(path, arrays, {"a": "b"})
    mapped, metadata = map_arrays(path)
    assert metadata == {"a": "b"}
    assert set(mapped) == set(arrays)
    for name, array in arrays.items():
        assert mapped[name].dtype == array.dtype
        assert mapped[name].flags.aligned
        np.testing.assert_array_equal(mapped[name], array)


def test_safetensors_reads_the_file(path):
    for name, array in load_file(path).items():
        assert array.dtype == SOME[name].dtype
        np.testing.assert_array_equal(array, SOME[name])
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"seed": "7"}


def test_arrays_are_mapped_read_only_not_copied(path):
    mapped, _ = map_arrays(path)
    with path.open("rb+") as file:
        place = path.read_bytes().index(SOME["ids"].tobytes())
        file.seek(place)
        file.write(np.uint16(99).tobytes())
    assert mapped["ids"][0] == 99
    with pytest.raises(ValueError, match="read-only"):
        mapped["ids"][0] = 1


@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 3000), max_size=6))
def test_appending_in_chunks_gives_the_bytes_of_writing_at_once(tmp_path_factory, cuts):
    folder = tmp_path_factory.mktemp("arrays")
    ids, flags = np.arange(3000, dtype=np.uint16), np.arange(3000) % 3 == 0
    write_arrays(folder / "once", {"ids": ids, "flags": flags}, {"k": "v"})
    with ArraysWriter(folder / "chunks", {"flags": np.bool_, "ids": np.uint16}, {"k": "v"}) as out:
        for part in np.split(ids, sorted(cuts)):
            out.append("ids", part)
        out.append("flags", flags)
    content = (folder / "chunks").read_bytes()
    assert content == (folder / "once").read_bytes()
    assert (out.sha256, out.bytes) == (hashlib.sha256(content).hexdigest(), len(content))


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    def write():
        with ArraysWriter(tmp_path / "file", {"ids": np.uint16}, {}) as out:
            out.append("ids", np.arange(10, dtype=np.uint16))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0.5, 1, -1, np.uint32(1)])
def test_values_of_a_type_that_does_not_fit_are_refused(tmp_path, value):
    with (
        ArraysWriter(tmp_path / "file", {"ids": np.uint16}, {}) as out,
        pytest.raises(TypeError),
    ):
        out.append("ids", np.array([value]))


def test_a_type_unknown_to_the_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'words' is"):
        write_arrays(tmp_path / "file", {"words": np.array(["a"])}, {})


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_a_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="bytes"):
        map_arrays(path)


def test_leftover_bytes_are_refused_naming_the_expected_size(path):
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=f"its header describes {size} bytes, but it has {size + 1}"):
        map_arrays(path)


@pytest.mark.parametrize("garbage", [b"", b"PAR1" * 100, b"\x20" + bytes(7) + b"[]" + b" " * 30, bytes(1000)])
def test_other_files_are_refused(tmp_path, garbage):
    path = tmp_path / "file"
    path.write_bytes(garbage)
    with pytest.raises(ValueError, match="not an arrays file"):
        map_arrays(path)


@pytest.mark.parametrize(("old", "new"), [(b'"U16"', b'"U99"'), (b"[0,24]", b"[0,16]"), (b"[5]", b"[6]")])
def test_a_damaged_header_is_refused(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(ValueError, match="header is damaged"):
        map_arrays(path)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="absent"):
        map_arrays(tmp_path / "absent")
