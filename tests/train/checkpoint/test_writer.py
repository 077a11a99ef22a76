"""Checkpoints written in the background by several ranks: whole, or not there at all."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from bertjobs.errors import BertjobsError, InputError
from bertjobs.files.atomic import remove_leftovers
from bertjobs.files.json_lines import read_lines
from bertjobs.model.huggingface import load_pretrained, save_pretrained
from bertjobs.run.checkpoints import folder_name, newest_valid, steps, verify
from bertjobs.run.directory import Done
from bertjobs.train.checkpoint import snapshot
from bertjobs.train.checkpoint.snapshot import plan_parts
from bertjobs.train.checkpoint.state import read_training_state
from tests.cluster.slurm import PATIENCE_S
from tests.train.checkpoints import (
    SETTINGS,
    SPEC,
    begin,
    data,
    named_moments,
    progress,
    trained,
    untrained,
    update,
    write,
    writers,
)
from tests.train.conftest import files_of_at_most

MEGABYTE = 1_000_000
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this module's tests."""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moments of the small model in several files: it has about 14,000 parameters."""
    monkeypatch.setattr(snapshot, "PART_BYTES", 30_000)


def test_a_checkpoint_is_a_model_folder_that_transformers_reads(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = write(writers(tmp_path), 20, model, optimizer)
    assert folder == tmp_path / "phase1" / "checkpoints" / "step-00000020"
    theirs, report = transformers.BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(theirs.bert.embeddings.word_embeddings.weight, model.bert.embeddings.word_embeddings.weight)
    assert type(transformers.AutoModel.from_pretrained(folder)).__name__ == "BertModel"
    assert transformers.AutoTokenizer.from_pretrained(folder).tokenize("The states") == ["the", "state", "##s"]


def test_the_files_are_those_that_save_pretrained_writes(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = write(writers(tmp_path), 20, model, optimizer)
    other = tmp_path / "other"
    other.mkdir()
    save_pretrained(model, tmp_path / "words.txt", other, lowercase=True)
    for file in other.iterdir():
        if file.suffix != ".safetensors":
            assert (folder / file.name).read_bytes() == file.read_bytes()
    ours, expected = load_file(folder / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("small_parts")
def test_the_manifest_names_each_file_with_the_hash_of_its_bytes(tmp_path: Path) -> None:
    model, optimizer = trained()
    folder = write(writers(tmp_path, 3), 20, model, optimizer)
    manifest = verify(folder)
    assert (manifest.format_version, manifest.phase, manifest.step) == (2, 1, 20)
    assert (manifest.recipe_hash, manifest.world_size, manifest.settings) == ("abc", 3, SETTINGS)
    assert {*manifest.files, "MANIFEST.json"} == {file.name for file in folder.iterdir()}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_is_written_is_what_was_there_at_the_snapshot(tmp_path: Path) -> None:
    model, optimizer = trained()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    moments = named_moments(model, optimizer)
    (writer,) = writers(tmp_path)
    for step in (20, 30):  # the same memory again
        writer.begin(model, optimizer, progress(step), data(step))
        for _ in range(5):
            update(model, optimizer)
        writer.wait()
        folder = writer.commit()
        stored = load_pretrained(folder).state
        assert all(torch.equal(stored[name], before[name]) for name in before)
        (part,) = folder.glob("training_state-*.safetensors")
        state = load_file(part)
        assert all(torch.equal(state[f"exp_avg/{name}"], moments[name][0]) for name in moments)
        assert all(torch.equal(state[f"exp_avg_sq/{name}"], moments[name][1]) for name in moments)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        moments = named_moments(model, optimizer)


def test_the_optimizer_waits_for_the_copies_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    (writer,) = writers(tmp_path)
    writer.reserve(model, optimizer)
    copy = snapshot.TensorFile.copy

    let = threading.Event()

    def held(*arguments: Any) -> None:
        assert let.wait(PATIENCE_S)
        copy(*arguments)

    monkeypatch.setattr(snapshot.TensorFile, "copy", held)
    writer.begin(model, optimizer, progress(20), data(20))
    begun_s = writer.stall_s
    assert not let.is_set(), "it must wait for the copy"
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    assert writer.state == "writing"
    threading.Timer(0.2, let.set).start()
    optimizer.step()
    assert let.is_set()
    assert writer.stall_s > begun_s
    writer.wait()
    stored = load_pretrained(writer.commit()).state
    assert all(torch.equal(stored[name], before[name]) for name in before)
    assert not all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_copy_that_fails_is_reported_and_delays_no_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path)

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(snapshot.TensorFile, "copy", broken)
        begin([writer], 20, model, optimizer)
    assert writer.state == "failed"
    assert "out of memory" in str(writer.error)
    update(model, optimizer)
    writer.drop()
    write([writer], 21, model, optimizer)


@pytest.mark.usefixtures("small_parts")
def test_the_number_of_ranks_changes_no_byte(tmp_path: Path) -> None:
    model, optimizer = trained()
    contents = []
    for world_size in (1, 2, 3, 8):
        folder = write(writers(tmp_path / str(world_size), world_size), 20, model, optimizer)
        contents.append({file.name: file.read_bytes() for file in folder.iterdir() if file.name != "MANIFEST.json"})
    assert all(content == contents[0] for content in contents)
    assert sum(name.startswith("training_state-") for name in contents[0]) == 4


@pytest.mark.usefixtures("small_parts")
def test_each_rank_writes_its_own_parts_and_no_other(tmp_path: Path) -> None:
    model, optimizer = trained()
    ranks = writers(tmp_path, 3)
    (tmp_path / "phase1" / "checkpoints").mkdir(exist_ok=True)
    seen: set[str] = set()
    for writer in ranks:
        writer.begin(model, optimizer, progress(20), data(20))
        writer.wait()
        (folder,) = (tmp_path / "phase1" / "checkpoints").iterdir()
        now = {file.name for file in folder.iterdir() if file.suffix == ".safetensors"}
        assert len(now - seen) == {0: 1, 1: 2, 2: 2}[ranks.index(writer)]
        seen = now
    assert {writer.commit() for writer in ranks} == {tmp_path / "phase1" / "checkpoints" / "step-00000020"}


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.integers(1, 300))
def test_each_parameter_is_in_one_part_of_one_rank(sizes: list[int], world_size: int) -> None:
    elements = {f"p{number}": size for number, size in enumerate(sizes)}
    parts = plan_parts(elements, world_size)
    assert sorted(name for part in parts for name in part.parameters) == sorted(elements)
    assert all(0 <= part.rank < world_size for part in parts)
    assert [part.rank for part in parts] == sorted(part.rank for part in parts)
    assert len({part.file for part in parts}) == len(parts) == max(1, -(-sum(sizes) * 8 // snapshot.PART_BYTES))
    # The weights, which rank 0 writes, are half as many bytes.
    written = Counter(part.rank for part in parts)
    written[0] += -(-len(parts) // 2)
    assert max(written.values()) <= max(written[0], -(-(len(parts) * 3 // 2 + 1) // world_size))
    assert written[0] == -(-len(parts) // 2) or max(written.values()) - written[0] <= 1


def test_bert_large_on_eight_ranks() -> None:
    # 334 million parameters, 31 million of them word embeddings: 2.7 GB of moments.
    elements = {"words": 31_254_528, **{f"p{number}": 1_048_576 for number in range(289)}}
    parts = plan_parts(elements, 8)
    assert [part.rank for part in parts] == [2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    assert max(sum(elements[name] for name in part.parameters) * 8 for part in parts) < 280 * MEGABYTE


def test_before_the_first_update_the_moments_are_zeros(tmp_path: Path) -> None:
    folder = write(writers(tmp_path), 2, *trained(updates=0))
    (part,) = folder.glob("training_state-*.safetensors")
    state = load_file(part)
    assert len(state) == 2 * len(list(trained()[0].parameters()))
    assert not any(tensor.any() for tensor in state.values())


def test_no_checkpoint_begins_while_another_is_under_way(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path)
    assert writer.state == "idle"
    writer.begin(model, optimizer, progress(20), data(20))
    assert writer.state in ("writing", "written")
    with pytest.raises(RuntimeError, match="step 20 is neither committed nor dropped"):
        writer.begin(model, optimizer, progress(21), data(21))
    writer.wait()
    writer.commit()
    assert writer.state == "idle"


def test_an_unreadable_vocabulary_is_reported_before_training(tmp_path: Path) -> None:
    (writer,) = writers(tmp_path)
    (tmp_path / "words.txt").unlink()
    with pytest.raises(InputError, match=r"words\.txt"):
        writer.reserve(*trained())


@pytest.mark.usefixtures("small_parts")
def test_a_write_that_fails_leaves_the_checkpoints_before(tmp_path: Path) -> None:
    model, optimizer = trained()
    ranks = writers(tmp_path, 2)
    before = write(ranks, 10, model, optimizer)
    with files_of_at_most(40_000):  # a part has 30,000 bytes, the weights 66,000
        begin(ranks, 20, model, optimizer)
    assert [writer.state for writer in ranks] == ["failed", "written"]
    error = ranks[0].error
    assert error is not None
    assert "the checkpoint of step 20 cannot be written" in error.what
    assert os.strerror(errno.EFBIG) in error.what
    assert error.exit_code == 70
    for writer in ranks:
        writer.drop()
    assert [writer.state for writer in ranks] == ["idle", "idle"]
    assert ranks[0].error is None
    assert list(before.parent.iterdir()) == [before]
    verify(before)
    # There is space again.
    assert newest_valid(write(ranks, 20, model, optimizer).parent)[0] == before.with_name("step-00000020")


def test_a_part_of_another_rank_that_fails(tmp_path: Path) -> None:
    model, optimizer = trained()
    ranks = writers(tmp_path, 2)
    with files_of_at_most(100_000):  # the weights fit, the moments have 130,000 bytes
        begin(ranks, 20, model, optimizer)
    assert [writer.state for writer in ranks] == ["written", "failed"]
    for writer in ranks:
        writer.drop()
    assert list((tmp_path / "phase1" / "checkpoints").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills_and_is_emptied(small_disk: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(small_disk)
    first = write([writer], 10, model, optimizer)
    other = small_disk / "other"
    used = os.statvfs(small_disk)
    other.write_bytes(bytes(used.f_bavail * used.f_frsize - 100_000))
    begin([writer], 20, model, optimizer)
    assert writer.state == "failed"
    assert writer.error is not None
    assert os.strerror(errno.ENOSPC) in writer.error.what
    writer.drop()
    assert list(first.parent.iterdir()) == [first]
    verify(first)
    other.unlink()
    assert newest_valid(write([writer], 30, model, optimizer).parent)[0] == first.with_name("step-00000030")


def test_a_rename_that_fails_leaves_the_checkpoints_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained()
    ranks = writers(tmp_path, 2)
    before = write(ranks, 10, model, optimizer)
    begin(ranks, 20, model, optimizer)
    rename = os.rename

    def broken(source: Path, target: Path) -> None:
        if str(target).endswith("step-00000020"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", broken)
        with pytest.raises(BertjobsError, match=r"step 20 cannot be written: .*Input/output error"):
            ranks[0].commit()
    ranks[1].commit()
    for writer in ranks:
        writer.drop()
    assert list(before.parent.iterdir()) == [before]
    verify(before)
    write(ranks, 20, model, optimizer)


def test_a_part_whose_record_is_lost_is_not_a_checkpoint(tmp_path: Path) -> None:
    model, optimizer = trained()
    ranks = writers(tmp_path, 2)
    begin(ranks, 20, model, optimizer)
    (record,) = (tmp_path / "phase1" / "checkpoints").glob(".tmp-*/.training_state*")
    record.unlink()
    with pytest.raises(BertjobsError, match="step 20 cannot be written"):
        ranks[0].commit()
    ranks[0].drop()
    assert steps(tmp_path / "phase1" / "checkpoints") == []


def test_a_step_that_is_written_again_replaces_the_damaged_one(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path)
    folder = write([writer], 20, model, optimizer)
    os.truncate(folder / "model.safetensors", 100)
    assert write([writer], 20, model, optimizer) == folder
    verify(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_the_newest_are_kept_and_the_last_of_the_phase(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path, keep=2)
    for step in (10, 20, 30):
        folder = write([writer], step, model, optimizer)
        if step == 10:
            directory = writer._series.directory
            directory.write_done(Done(1, 10, folder.name, "0" * 64, "abc", 0.0))
    assert [path.name for path in steps(folder.parent)] == [folder_name(step) for step in (10, 20, 30)]
    write([writer], 40, model, optimizer)
    assert [path.name for path in steps(folder.parent)] == [folder_name(step) for step in (10, 30, 40)]


def test_the_best_stays_until_a_better_one_is_there(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path, keep=1)
    checkpoints = writer._series.directory.checkpoints
    for step in (10, 20, 30):
        if step == 10:
            writer.keep(step)
        write([writer], step, model, optimizer)
    writer.keep(40)
    write([writer], 35, model, optimizer)  # whose old ones go while 40 is still to come
    assert [path.name for path in steps(checkpoints)] == [folder_name(step) for step in (10, 35)]
    begin([writer], 40, model, optimizer)
    writer.abort()
    writer.drop()
    assert writer.best_step == 10
    writer.keep(50)
    write([writer], 50, model, optimizer)
    write([writer], 60, model, optimizer)
    assert [path.name for path in steps(checkpoints)] == [folder_name(step) for step in (50, 60)]


def test_a_rank_that_had_nothing_to_give_up_writes_the_next_one(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path)
    writer.abort()
    writer.drop()
    assert write([writer], 10, model, optimizer).is_dir()


def test_a_damaged_later_one_does_not_push_the_good_ones_out(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path, keep=1)
    last = write([writer], 30, model, optimizer)
    content = bytearray((last / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (last / "model.safetensors").write_bytes(content)
    # Another attempt, which began before step 20.
    (writer,) = writers(tmp_path, keep=1)
    for step in (20, 21):
        write([writer], step, model, optimizer)
    folder, damaged = newest_valid(last.parent)
    assert folder == last.with_name(folder_name(21))
    assert [error.where for error in damaged] == [str(last)]


def in_another_process(call: str, *arguments: object) -> int:
    """The exit code of a process that calls a function of `.checkpoints`."""
    program = f"import sys; from pathlib import Path; from tests.train.checkpoints import *; {call}"
    words = [sys.executable, "-c", program, *map(str, arguments)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, cwd=REPOSITORY, env=environ, timeout=300, check=False).returncode


def test_a_writer_that_is_killed_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    assert in_another_process("kill_writers(Path(sys.argv[1]), 6)", tmp_path) == 0
    for root in tmp_path.iterdir():
        last = read_lines(root / "steps-written")[-1]["step"]
        checkpoints = root / "phase1" / "checkpoints"
        remove_leftovers(checkpoints)
        folders = steps(checkpoints)
        assert sorted(checkpoints.iterdir()) == folders
        # The newest three, and one that could not be deleted in time.
        assert len(folders) - min(3, last) in (0, 1)
        assert newest_valid(checkpoints) == (folders[-1], [])
        newest = verify(folders[-1]).step
        assert newest in (last, last + 1)
        assert read_training_state(folders[-1], *untrained()) == progress(newest)


def test_a_process_may_end_while_it_writes(tmp_path: Path) -> None:
    """A checkpoint that will never be committed delays nothing: a run that ends with an error ends at once."""
    assert in_another_process("write_into_a_pipe(Path(sys.argv[1]))", tmp_path) == 0
    assert steps(tmp_path / "phase1" / "checkpoints") == []


def test_records_hold_what_rank_0_needs_to_know(tmp_path: Path) -> None:
    ranks = writers(tmp_path, 2)
    begin(ranks, 20, *trained())
    (record,) = (tmp_path / "phase1" / "checkpoints").glob(".tmp-step-00000020-17-0-*/.training_state*")
    part = record.with_name(record.name.removeprefix(".").removesuffix(".json"))
    assert json.loads(record.read_text())["bytes"] == part.stat().st_size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_snapshot_is_that_of_the_moment(tmp_path: Path) -> None:
    model, optimizer = trained()
    model = model.cuda()
    expected = {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    (writer,) = writers(tmp_path)
    writer.begin(model, optimizer, progress(20), data(20))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    writer.wait()
    stored = load_pretrained(writer.commit(), SPEC).state
    assert all(torch.equal(stored[name], expected[name]) for name in expected)


def test_a_thread_that_waits_for_a_gpu_s_copies_takes_that_gpu_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread begins with GPU 0, and would open it beside its rank's own: half a GB for each rank."""
    calls: list[tuple[str, threading.Thread]] = []

    class Queued:
        def synchronize(self) -> None:
            calls.append(("waited", threading.current_thread()))

    model, optimizer = untrained()
    (writer,) = writers(tmp_path)
    writer.reserve(model, optimizer)
    copies = writer._snapshot
    assert copies is not None
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: calls.append((str(device), threading.current_thread()))
    )
    take = copies.take

    def take_as_on_a_gpu(*arguments: Any) -> None:
        take(*arguments)
        copies._device, copies._queued = torch.device("cuda", 3), Queued()  # type: ignore[assignment]

    monkeypatch.setattr(copies, "take", take_as_on_a_gpu)
    writer.begin(model, optimizer, progress(1), data(1))
    writer.wait()
    assert writer.error is None
    by_thread: dict[threading.Thread, list[str]] = {}
    for what, thread in calls:
        by_thread.setdefault(thread, []).append(what)
    assert threading.current_thread() not in by_thread
    assert by_thread
    assert all(did == ["cuda:3", "waited"] for did in by_thread.values())
