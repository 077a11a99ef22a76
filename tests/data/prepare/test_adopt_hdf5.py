"""`bertjobs data adopt --from hdf5`: what training reads is what the files say, to the last id."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjobs.data.batches.batches import make_batch
from bertjobs.data.batches.masked_text import Masking
from bertjobs.data.check.inspect import inspect_target
from bertjobs.data.check.target import find_target
from bertjobs.data.check.verify import verify
from bertjobs.data.prepare import hdf5_rows
from bertjobs.data.prepare.adopt_hdf5 import Hdf5Options, adopt_hdf5
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.data.text.vocabulary import Vocabulary
from bertjobs.errors import InputError
from tests.data.hdf5_files import Instance, arrays_of, draw_instances, write_hdf5, write_instances
from tests.data.prepare.test_adopt import nothing

Adopt = Callable[..., DataManifest]


@pytest.fixture
def adopted(vocabulary_path: Path, tmp_path: Path) -> Adopt:
    def make(*folders: Path, **options: Any) -> DataManifest:
        phases = dict(enumerate(folders, start=1))
        given = {"phases": phases, "vocabulary": vocabulary_path, "output": tmp_path / "out", **options}
        return adopt_hdf5(Hdf5Options(**given), nothing)

    return make


def trained_on(data: DataManifest, phase: int, split: str) -> Counter[Instance]:
    """What a training step is given of each sequence."""
    shards = ShardSet.load(data, phase, split)
    given: Counter[Instance] = Counter()
    for start in range(0, shards.rows, 64):
        chosen = shards.select(np.arange(start, min(start + 64, shards.rows)))
        batch = make_batch(shards, chosen, None, Masking("static", 1, 20))
        for ids, segments, mask, labels, random in zip(*(tensor.tolist() for tensor in batch.tensors()), strict=True):
            length = sum(mask)
            positions = [place for place, label in enumerate(labels) if label != -1]
            one = Instance(
                tuple(ids[:length]), tuple(segments[:length]), tuple(positions),
                tuple(labels[place] for place in positions), random,
            )  # fmt: skip
            given[one] += 1
    return given


@pytest.mark.parametrize("compression", ["gzip", None])
def test_training_reads_exactly_what_the_files_say(
    adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path, compression: str | None
) -> None:
    folder = tmp_path / "hdf5"
    files = [draw_instances(vocabulary, count, 128, 20, seed) for seed, count in enumerate((150, 90, 60))]
    for number, instances in enumerate(files):
        write_hdf5(folder / f"books_training_{number}.hdf5", arrays_of(instances, 128, 20), compression)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    data = adopted(folder)
    phase = data.phase(1)
    assert (data.shard_format, data.masking) == ("ids", "static")
    assert (phase.sequence_length, phase.max_predictions, data.settings["bin_size"]) == (128, 20, 64)
    assert data.settings["masked_share"] == pytest.approx(0.15, abs=0.01)
    assert trained_on(data, 1, "train") == Counter([*files[0], *files[1]])
    assert trained_on(data, 1, "validation") == Counter(files[2])
    for split in (phase.train, phase.validation):
        assert {file.bin for file in split.files} == {0, 1}
        for number in (0, 1):
            rows = [file.rows for file in split.files if file.bin == number]
            assert max(rows) - min(rows) <= 1
            assert len(rows) == 8
    assert verify(data, 2, nothing) == []
    assert not any(one.wrong for one in inspect_target(find_target(data.folder), nothing).values())
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_two_phases_and_files_of_several_lengths(adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    short = [write_instances(first / f"{n}.hdf5", vocabulary, 30, tokens=n, predictions=6, seed=n) for n in (32, 100)]
    write_instances(first / "test.h5", vocabulary, 20, tokens=64, seed=5)
    for number in range(3):
        write_instances(second / f"{number}.hdf5", vocabulary, 40, tokens=512, predictions=80, seed=number)
    data = adopted(first, second)
    assert {n: (phase.sequence_length, phase.max_predictions) for n, phase in data.phases.items()} == {
        1: (100, 20), 2: (512, 80),
    }  # fmt: skip
    assert {file.bin for file in data.phase(1).train.files} == {0}  # 64 does not divide 100
    assert {file.bin for file in data.phase(2).train.files} == set(range(8))
    assert trained_on(data, 1, "train") == Counter([*short[0], *short[1]])
    assert "bin_size" not in data.settings
    assert not any(one.wrong for one in inspect_target(find_target(data.folder), nothing).values())


@pytest.mark.parametrize(
    ("names", "held_out", "expected"),
    [
        (("a_training_2", "a_training_10", "a_training_1"), 1, {"a_training_10"}),
        (("a_training_2", "a_training_10", "a_training_1"), 2, {"a_training_2", "a_training_10"}),
        (("a_training_0", "a_test_0", "a_test_1"), 1, {"a_test_0", "a_test_1"}),
        (("training/0", "test/0"), 1, {"test/0"}),
        (("latest_0", "contest_1"), 1, {"latest_0"}),
    ],
)
def test_files_named_as_test_files_are_held_out_else_the_last(
    adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path, names: tuple[str, ...], held_out: int, expected: set[str]
) -> None:
    folder = tmp_path / "hdf5"
    for seed, name in enumerate(names):
        write_instances(folder / f"{name}.hdf5", vocabulary, 12, tokens=32, seed=seed)
    data = adopted(folder, held_out_files=held_out)
    assert set(data.settings["held_out_files"]) == {str(folder / f"{name}.hdf5") for name in expected}
    assert data.phase(1).validation.rows == 12 * len(expected)
    assert data.phase(1).train.rows == 12 * (len(names) - len(expected))


def test_folders_behind_links_are_read(adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path) -> None:
    write_instances(tmp_path / "elsewhere" / "a_0.hdf5", vocabulary, 12, tokens=32, seed=0)
    write_instances(tmp_path / "hdf5" / "a_1.hdf5", vocabulary, 12, tokens=32, seed=1)
    (tmp_path / "hdf5" / "more").symlink_to("../elsewhere")
    assert adopted(tmp_path / "hdf5").phase(1).train.rows == 12
    (tmp_path / "hdf5" / "gone").symlink_to("../nowhere")
    with pytest.raises(InputError, match="gone' cannot be read: No such file"):
        hdf5_rows.find_files(tmp_path / "hdf5")


def test_of_one_file_the_last_rows_are_held_out(adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path) -> None:
    instances = write_instances(tmp_path / "one.hdf5", vocabulary, 60, tokens=32)
    data = adopted(tmp_path / "one.hdf5")
    assert trained_on(data, 1, "train") == Counter(instances[:57])
    assert trained_on(data, 1, "validation") == Counter(instances[57:])


@pytest.mark.parametrize("chunks", [{"chunks": (7, 5)}, {"chunks": (60, 1)}, {}])
def test_blocks_of_any_size_give_the_same_bytes(
    adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunks: dict[str, Any]
) -> None:
    instances = draw_instances(vocabulary, 60, 32, 20, 3)
    for number in range(2):
        arrays = arrays_of(instances, 32, 20)
        write_hdf5(tmp_path / "in" / f"{number}.hdf5", {k: v for k, v in arrays.items() if v.ndim == 2}, **chunks)
        import h5py

        with h5py.File(tmp_path / "in" / f"{number}.hdf5", "a") as file:
            file.create_dataset("next_sentence_labels", data=arrays["next_sentence_labels"], dtype="i1")
    hashes = []
    for cells in (32, 32 * 11, 1 << 20):
        monkeypatch.setattr(hdf5_rows, "_CELLS", cells)
        data = adopted(tmp_path / "in", output=tmp_path / str(cells))
        hashes.append([file.sha256 for file in data.phase(1).train.files])
    assert hashes[0] == hashes[1] == hashes[2]


def test_masks_in_any_order_are_put_in_order(adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path) -> None:
    instances = draw_instances(vocabulary, 40, 64, 20, 1)
    arrays = arrays_of(instances, 64, 20)
    for row, instance in enumerate(instances):
        for name in ("masked_lm_positions", "masked_lm_ids"):
            arrays[name][row, : len(instance.positions)] = arrays[name][row, : len(instance.positions)][::-1].copy()
    for number in range(2):
        write_hdf5(tmp_path / "in" / f"{number}.hdf5", arrays)
    data = adopted(tmp_path / "in")
    assert trained_on(data, 1, "train") == Counter(instances)
    wrong = [what for one in inspect_target(find_target(data.folder), nothing).values() for _, what in one.wrong]
    assert not [what for what in wrong if "ascend" in what]


Change = Callable[[dict[str, Any]], object]


def without(name: str) -> Change:
    return lambda arrays: arrays.pop(name)


def setting(name: str, where: Any, value: Any) -> Change:
    return lambda arrays: arrays[name].__setitem__(where, value)


def cut(name: str, where: Any) -> Change:
    return lambda arrays: arrays.__setitem__(name, arrays[name][where])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("masked_lm_ids"), "'b.hdf5' has no array 'masked_lm_ids', only input_ids, input_mask,"),
        (cut("segment_ids", np.s_[:-1]), r"do not match: segment_ids is \[19, 32\], input_ids is \[20, 32\]"),
        (cut("segment_ids", np.s_[:, :-1]), r"do not match: segment_ids is \[20, 31\], input_ids is \[20, 32\]"),
        (cut("masked_lm_ids", np.s_[:, :-1]), r"masked_lm_ids is \[20, 19\], masked_lm_positions is \[20, 20\]"),
        (cut("next_sentence_labels", np.s_[:-2]), r"next_sentence_labels is \[18\], input_ids is \[20, 32\]"),
        (cut("next_sentence_labels", np.s_[:, None]), "'next_sentence_labels' .* is not an array of whole numbers"),
        (setting("input_ids", (4, 1), 9999), "row 4 of 'b.hdf5' has the id 9999, but the vocabulary has"),
        (setting("input_ids", (4, 1), -3), "row 4 of 'b.hdf5' has the id -3"),
        (setting("masked_lm_ids", (3, 0), 9999), "row 3 of 'b.hdf5' has a masked_lm_id that the vocabulary"),
        (setting("input_ids", (2, 0), 7), "row 2 of 'b.hdf5' does not begin with"),
        (setting("input_ids", (0, 31), 7), "row 0 of 'b.hdf5' has a segment that does not end with"),
        (setting("input_mask", (5, 0), 0), "row 5 of 'b.hdf5' has an input_mask that is not 1 for its tokens"),
        (setting("segment_ids", (5, 0), 1), "row 5 of 'b.hdf5' has segment_ids that are not 0"),
        (setting("segment_ids", (6, slice(None)), 0), "row 6 of 'b.hdf5' is not a pair"),
        (setting("masked_lm_positions", (10, 0), 0), "row 10 of 'b.hdf5' has a masked position after a 0"),
        (setting("masked_lm_positions", (5, 0), 31), "row 5 of 'b.hdf5' masks a position that is not in A or B"),
        (setting("masked_lm_positions", (5, 0), 40), "row 5 of 'b.hdf5' masks a position that is not in A or B"),
        (setting("masked_lm_positions", (5, slice(0, 2)), 1), "row 5 of 'b.hdf5' masks a position twice"),
        (setting("next_sentence_labels", 9, 2), "row 9 of 'b.hdf5' has a next_sentence_label"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(
    adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path, change: Change, says: str
) -> None:
    write_instances(tmp_path / "in" / "a.hdf5", vocabulary, 20, tokens=32)
    arrays = arrays_of(draw_instances(vocabulary, 20, 32, 20, 7), 32, 20)
    change(arrays)
    write_hdf5(tmp_path / "in" / "b.hdf5", arrays)
    with pytest.raises(InputError, match=says):
        adopted(tmp_path / "in")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_ids_after_the_tokens_are_not_lost_in_silence(adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path) -> None:
    arrays = arrays_of(draw_instances(vocabulary, 20, 31, 20, 7), 32, 20)
    arrays["input_ids"][8, 31] = 9
    write_hdf5(tmp_path / "in" / "a.hdf5", arrays)
    with pytest.raises(InputError, match=r"row 8 of 'a\.hdf5' has ids that are not 0 after its tokens"):
        adopted(tmp_path / "in")


def test_a_vocabulary_that_is_too_small_is_refused(
    adopted: Adopt, vocabulary: Vocabulary, small_vocabulary_path: Path, tmp_path: Path
) -> None:
    write_instances(tmp_path / "in" / "a.hdf5", vocabulary, 50, tokens=32)
    with pytest.raises(InputError, match=r"has the id \d+, but the vocabulary has") as caught:
        adopted(tmp_path / "in", vocabulary=small_vocabulary_path)
    assert "give the vocab.txt that the files were made with" in str(caught.value)


def test_damaged_and_missing_files_are_named(adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    with pytest.raises(InputError, match="does not exist"):
        adopted(folder)
    folder.mkdir()
    with pytest.raises(InputError, match="the folder holds no HDF5 file"):
        adopted(folder)
    write_instances(folder / "a.hdf5", vocabulary, 20)
    whole = (folder / "a.hdf5").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not HDF5" * 100):
        (folder / "a.hdf5").write_bytes(content)
        with pytest.raises(InputError, match=r"'a\.hdf5' cannot be read") as error:
            adopted(folder)
        assert error.value.hint == "is it a whole HDF5 file? copy it again, or leave it out"
    (folder / "a.hdf5").write_bytes(whole)
    write_instances(folder / "b.hdf5", vocabulary, 20)
    with pytest.raises(InputError, match="none of the 2 HDF5 files would be left for training"):
        adopted(folder, held_out_files=2)


def test_an_output_that_exists_is_left_alone(adopted: Adopt, vocabulary: Vocabulary, tmp_path: Path) -> None:
    write_instances(tmp_path / "a.hdf5", vocabulary, 20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(InputError, match="exists"):
        adopted(tmp_path / "a.hdf5")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


MEMORY = """
import sys
from pathlib import Path
from bertjobs.data.prepare.adopt_hdf5 import Hdf5Options, adopt_hdf5
vocabulary, output, *folders = map(Path, sys.argv[1:])
for number, folder in enumerate(folders):
    adopt_hdf5(Hdf5Options({1: folder}, vocabulary, output / str(number)), lambda *_: None)
    print(*(line.split()[1] for line in Path("/proc/self/status").open() if line.startswith("VmHWM")))
"""


def test_memory_does_not_grow_with_the_files(vocabulary: Vocabulary, vocabulary_path: Path, tmp_path: Path) -> None:
    arrays = arrays_of(draw_instances(vocabulary, 400, 512, 80, 0), 512, 80)
    for name, times in (("small", 10), ("large", 80)):
        many = {key: np.concatenate([array] * times) for key, array in arrays.items()}
        for number in range(2):
            write_hdf5(tmp_path / name / f"{number}.hdf5", many, compression="lzf")
    folders = [str(tmp_path / name) for name in ("small", "large")]
    command = [sys.executable, "-c", MEMORY, str(vocabulary_path), str(tmp_path), *folders]
    small, large = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert large - small < 30_000, "kilobytes; the large files hold 65 MB of ids each"
