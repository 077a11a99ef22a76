"""Checkpoints read on any number of ranks; damaged ones are skipped, those of other models refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertjobs.errors import InputError
from bertjobs.files.atomic import sha256_of
from bertjobs.model.huggingface import initialise_from
from bertjobs.optim.base import Optimizer
from bertjobs.optim.lamb import Lamb
from bertjobs.optim.loss_scale import StaticLossScale
from bertjobs.optim.sharding import StateShare
from bertjobs.run.checkpoints import MANIFEST, check_settings, newest_valid, read_manifest, verify
from bertjobs.train.checkpoint import snapshot
from bertjobs.train.checkpoint.state import read_stream_state, read_training_state
from tests.train.checkpoints import (
    SETTINGS,
    SPEC,
    data,
    named_moments,
    progress,
    same_moments,
    trained,
    untrained,
    update,
    write,
    writers,
)

NUMBERS = "training_state.json"


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this module's tests."""


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parts of moments, in all of this module's tests."""
    monkeypatch.setattr(snapshot, "PART_BYTES", 30_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The checkpoint of step 20 of a trained model, by three ranks."""
    return write(writers(tmp_path, 3), 20, *trained())


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("training_state-*.safetensors"))


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change a file's tensors in place."""
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def sharded(whole: Optimizer, ranks: int) -> list[Optimizer]:
    """The optimizers of all ranks, each with its own share of the moments."""
    optimizers = [Lamb(whole.param_groups, 0.01, shard=StateShare(rank, ranks)) for rank in range(ranks)]
    for optimizer in optimizers:
        optimizer.load_moments(whole.moments(), whole.step_count)
    assert sum(len(optimizer.moments()) for optimizer in optimizers) == len(whole.moments())
    return optimizers


def test_a_checkpoint_reads_back_as_it_was_written(folder: Path) -> None:
    model, optimizer = trained()
    other, theirs = untrained()
    assert initialise_from(other, folder) == ()
    assert read_training_state(folder, other, theirs) == progress(20)
    assert read_stream_state(folder) == data(20)
    assert theirs.step_count == 3
    assert same_moments(named_moments(other, theirs), named_moments(model, optimizer))
    # It continues with the same bits.
    torch.manual_seed(1)
    update(model, optimizer)
    torch.manual_seed(1)
    update(other, theirs)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("writing", "reading"), [(1, 3), (3, 1), (3, 2), (2, 5)])
def test_sharded_states_are_read_on_another_number_of_ranks(tmp_path: Path, writing: int, reading: int) -> None:
    model, whole = trained()
    folder = write(writers(tmp_path, writing), 20, model, *sharded(whole, writing))
    assert len(parts(folder)) == (writing if writing > 1 else 4)
    verify(folder)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for rank in range(reading):
        other, optimizer = untrained(shard=StateShare(rank, reading))
        assert read_training_state(folder, other, optimizer).step == 20
        assert optimizer.step_count == 3
        own = named_moments(other, optimizer)
        assert not own.keys() & seen.keys()
        seen |= own
    assert same_moments(seen, named_moments(model, whole))


def test_a_rank_that_owns_nothing_writes_an_empty_part(tmp_path: Path) -> None:
    ranks = 60  # the model has 46 parameters
    model, whole = trained()
    folder = write(writers(tmp_path, ranks), 20, model, *sharded(whole, ranks))
    assert len(parts(folder)) == ranks
    other, optimizer = untrained()
    read_training_state(folder, other, optimizer)
    assert same_moments(named_moments(other, optimizer), named_moments(model, whole))


def test_the_moments_outlive_the_files(folder: Path) -> None:
    model, optimizer = untrained()
    read_training_state(folder, model, optimizer)
    before = named_moments(model, optimizer)
    for part in parts(folder):
        part.write_bytes(bytes(part.stat().st_size))  # in place: a mapped page would change
    assert same_moments(before, named_moments(model, optimizer))
    assert any(first.any() for first, _ in before.values())


def test_the_recipe_decides_which_kind_of_loss_scale_continues(folder: Path) -> None:
    assert read_training_state(folder, *untrained(), StaticLossScale(128.0)).loss_scale == StaticLossScale(128.0)
    assert read_training_state(folder, *untrained()).loss_scale.scale == 512.0


def test_a_checkpoint_of_format_1_is_read(folder: Path) -> None:
    tensors = {name: tensor for part in parts(folder) for name, tensor in load_file(part).items()}
    for part in parts(folder):
        part.unlink()
    save_file(tensors, folder / "training_state.safetensors")
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["world_size"], manifest["settings"], manifest["sha256"]
    manifest["files"] = {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
        for file in folder.iterdir()
        if file.name != MANIFEST
    }
    manifest["format_version"] = 1
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert newest_valid(folder.parent) == (folder, [])
    assert verify(folder).world_size == 0
    check_settings(verify(folder), SETTINGS, folder)
    other, optimizer = untrained()
    assert read_training_state(folder, other, optimizer) == progress(20)
    assert same_moments(named_moments(other, optimizer), named_moments(*trained()))


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)


def removed(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, removed, a_folder])
@pytest.mark.parametrize(
    "file",
    ["model.safetensors", "training_state-00002-of-00004.safetensors", NUMBERS, "config.json", "vocab.txt", MANIFEST],
)
def test_any_damage_leads_to_the_checkpoint_before(tmp_path: Path, damage: Callable[[Path], None], file: str) -> None:
    model, optimizer = trained()
    ranks = writers(tmp_path, 2)
    before, newest = (write(ranks, step, model, optimizer) for step in (10, 20))
    damage(newest / file)
    chosen, damaged = newest_valid(newest.parent)
    assert chosen == before
    assert [error.where for error in damaged] == [str(newest)]
    assert file in damaged[0].what


def test_any_flipped_bit_of_the_manifest_is_detected_or_changes_nothing(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path)
    before, newest = (write([writer], step, model, optimizer) for step in (10, 20))
    manifest, content = read_manifest(newest), (newest / MANIFEST).read_bytes()
    for place in range(0, len(content), 7):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 7
        (newest / MANIFEST).write_bytes(altered)
        assert newest_valid(newest.parent)[0] == before or read_manifest(newest) == manifest


def test_a_half_removed_folder_leads_to_the_checkpoint_before(tmp_path: Path) -> None:
    model, optimizer = trained()
    (writer,) = writers(tmp_path)
    before, newest = (write([writer], step, model, optimizer) for step in (10, 20))
    for file in sorted(newest.iterdir())[1:]:
        file.unlink()
        assert newest_valid(newest.parent)[0] == before
    shutil.rmtree(newest)
    assert newest_valid(newest.parent) == (before, [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 3}, r"lacks exp_avg/bert\.encoder\.layer\.2\..* and 31 more"),
        ({"num_hidden_layers": 1}, r"has, unlike the model, exp_avg/bert\.encoder\.layer\.1\.\S+ and 31 more"),
        (
            {"vocab_size": 42},
            r"word_embeddings\.weight has shape \[41, 24\] in the checkpoint, \[42, 24\] in the model",
        ),
    ],
)
def test_the_state_of_another_model_is_refused(folder: Path, change: dict[str, int], words: str) -> None:
    model, optimizer = untrained(replace(SPEC, **change))
    with pytest.raises(InputError, match=words) as error:
        read_training_state(folder, model, optimizer)
    assert error.value.exit_code == 64
    assert error.value.where == str(folder)
    assert optimizer.moments() == {}
    assert optimizer.step_count == 0


def test_a_missing_moment_is_named(folder: Path) -> None:
    name = "exp_avg_sq/cls.predictions.bias"
    (part,) = [part for part in parts(folder) if name in load_file(part)]
    rewrite(part, lambda tensors: tensors.pop(name))
    with pytest.raises(InputError, match=r"lacks exp_avg_sq/cls\.predictions\.bias\n"):
        read_training_state(folder, *untrained())


def test_without_any_state_it_is_refused(folder: Path) -> None:
    for part in parts(folder):
        part.unlink()
    with pytest.raises(InputError, match="the checkpoint has no optimizer state"):
        read_training_state(folder, *untrained())


class Trap:
    """Records that it was unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("unpickled",)


def test_nothing_is_unpickled(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (parts(folder)[1], folder / NUMBERS):
        before = file.read_bytes()
        file.write_bytes(pickle.dumps(Trap()))
        with pytest.raises(InputError, match="cannot be read"):
            read_training_state(folder, *untrained())
        file.write_bytes(before)
    assert not (tmp_path / "unpickled").exists()
    pickle.loads(pickle.dumps(Trap()))
    assert (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "null", '{"step": "a"}', '{"step": 1, "skipped": 0, "loss_scale": 3}'])
def test_numbers_of_another_shape_are_refused(folder: Path, content: str) -> None:
    (folder / NUMBERS).write_text(content)
    with pytest.raises(InputError, match="the checkpoint's numbers are not as expected"):
        read_training_state(folder, *untrained())
    with pytest.raises(InputError, match="does not say how far its data were read"):
        read_stream_state(folder)


def test_other_settings_are_named_with_both_values(folder: Path) -> None:
    manifest = read_manifest(folder)
    check_settings(manifest, SETTINGS, folder)
    check_settings(manifest, {**SETTINGS, "a setting of a later version": 1}, folder)
    with pytest.raises(InputError) as error:
        check_settings(manifest, {**SETTINGS, "optimizer.beta1": 0.95, "precision": "bf16"}, folder)
    assert "precision 'fp16' (here 'bf16'), optimizer.beta1 0.9 (here 0.95)" in error.value.what
    assert error.value.exit_code == 64
