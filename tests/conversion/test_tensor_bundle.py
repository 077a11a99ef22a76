"""TensorFlow's checkpoints without TensorFlow: one that TensorFlow wrote, and damaged ones."""

from __future__ import annotations

import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bertjobs.conversion.tensor_bundle import TensorBundle, checksum, index_of
from bertjobs.errors import InputError
from tests.conversion.bundles import write_bundle

ARRAYS = {
    "a/kernel": np.arange(6, dtype="<f4").reshape(2, 3),
    "a/kernel/adam_m": np.zeros((2, 3), dtype="<f4"),
    "b/double": np.linspace(0, 1, 5),
    "b/half": np.array([0.5, -2.0], dtype="<f2"),
    "b/rounded": np.array([1.0, -3.5, 0.15625], dtype="<f4"),
    "b/scalar": np.array(1 << 40, dtype="<i8"),
}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bert_model.ckpt", ARRAYS, keys_per_block=2, bfloat16=("b/rounded",))
    return tmp_path / "bert_model.ckpt"


def test_what_tensorflow_itself_wrote_is_read_and_its_checksums_match() -> None:
    """A model of the package basic-pitch, saved by TensorFlow."""
    spec = find_spec("basic_pitch")  # not imported: it would import more
    assert spec
    assert spec.origin
    bundle = TensorBundle.open(Path(spec.origin).parent / "saved_models/icassp_2022/nmp/variables/variables")
    numbers = {name: entry for name, entry in bundle.entries.items() if entry.dtype == 1}
    assert len(numbers) > 20
    for name, entry in numbers.items():
        array = bundle.read(name)
        assert array.shape == entry.shape
        assert np.isfinite(array).all()
        assert checksum(array.tobytes()) == entry.checksum, name


def test_a_checksum_is_castagnolis() -> None:
    masked = checksum(b"123456789")
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == 0xE3069283


def test_arrays_of_all_types_come_back(prefix: Path) -> None:
    bundle = TensorBundle.open(prefix)
    assert set(bundle.entries) == set(ARRAYS)
    for name, array in ARRAYS.items():
        read = bundle.read(name)
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_a_flipped_bit_of_the_index_is_refused_or_changes_nothing(prefix: Path) -> None:
    draw, whole, before = random.Random(3), index_of(prefix).read_bytes(), TensorBundle.open(prefix)
    refused = 0
    for _ in range(200):
        place = draw.randrange(len(whole) * 8)
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        index_of(prefix).write_bytes(content)
        try:
            assert TensorBundle.open(prefix) == before  # in the padding, or in the empty block of metadata
        except InputError:
            refused += 1
    assert refused > 150


@pytest.mark.parametrize("kept", [0, 7, 48, 100, -1])
def test_a_truncated_index_is_refused(prefix: Path, kept: int) -> None:
    index_of(prefix).write_bytes(index_of(prefix).read_bytes()[:kept])
    with pytest.raises(InputError, match="not the index of a TensorFlow checkpoint"):
        TensorBundle.open(prefix)


@pytest.mark.parametrize("kept", [0, 10])
def test_missing_tensors_are_named(prefix: Path, kept: int) -> None:
    data = prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    data.write_bytes(data.read_bytes()[:kept])
    with pytest.raises(InputError) as caught:
        TensorBundle.open(prefix).read("a/kernel")
    assert caught.value.where == str(data)
    data.unlink()
    with pytest.raises(InputError, match="tensors cannot be read"):
        TensorBundle.open(prefix).read("a/kernel")
