"""How a run treats its shards: any number of them, bad or replaced ones, copies, and LDDL's own loader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertjobs.data.prepare import PrepareOptions, prepare
from bertjobs.data.shards.manifest import MANIFEST_NAME, DataManifest
from bertjobs.data.shards.shard_check import shards_of
from bertjobs.run.checkpoints import steps
from tests.train.checkpoint.test_damage import assert_refused
from tests.train.conftest import PHASES, Ended, Trial, alter, copied

Alone = Callable[..., Ended]


@pytest.fixture
def data_copy(trial: Trial, tmp_path: Path) -> Trial:
    """The run on data that the test may damage."""
    shutil.copytree(trial.data, tmp_path / "data")
    return replace(trial, data=tmp_path / "data")


def with_settings(trial: Trial, home: Path, **settings: Any) -> Trial:
    """The run with settings that only a recipe can have."""
    recipe = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "num_workers": 1, "phases": PHASES}
    (home / "bertjobs").mkdir(parents=True)
    (home / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": recipe | settings}}))
    return replace(trial, home=home)


def alter_shard(trial: Trial, number: int, phase: int = 1) -> str:
    """Change one byte of a training shard; returns the shard's name."""
    shard = shards_of(DataManifest.read(trial.data).phase(phase))[number]
    content = bytearray(shard.path.read_bytes())
    content[-1] ^= 1
    shard.path.write_bytes(content)
    return shard.name


def state(trial: Trial) -> dict[str, Any]:
    """The data's state in the newest checkpoint of phase 1."""
    folder = steps(trial.phase(1).checkpoints)[-1]
    return json.loads((folder / "training_state.json").read_text())["data"]


def test_more_workers_than_shards_train(trial: Trial, alone: Alone) -> None:
    assert alone(trial.having(NUM_WORKERS=5, STEPS_THIS_RUN=2), 1).code == 75


def test_a_checkpoint_has_the_position_in_the_data(stopped: Trial) -> None:
    data = DataManifest.read(stopped.data)
    epoch, place = divmod(25 * 12, data.phase(1).train.rows)
    assert state(stopped) == {
        "epoch": epoch, "place": place, "step": 25, "seed": 42, "manifest_sha256": data.sha256, "skipped": [],
        "loader": "bertjobs",
    }  # fmt: skip


def test_an_altered_shard_stops_the_run_before_anything_is_written(data_copy: Trial, alone: Alone) -> None:
    name = alter_shard(data_copy, 1)
    end = alone(data_copy, 1)
    assert_refused(end, f"shard {name} was altered", "the manifest says", "on_bad_shard=skip")
    assert not data_copy.results.exists()


def test_an_altered_shard_is_reported_once_on_two_ranks(data_copy: Trial) -> None:
    name = alter_shard(data_copy, 2)
    first, second = data_copy.run(1, 2)
    assert_refused(first, f"shard {name} was altered")
    assert (second.code, second.err) == (0, "")


def test_bad_shards_are_skipped_recorded_and_remembered(data_copy: Trial, tmp_path: Path, alone: Alone) -> None:
    trial = with_settings(data_copy, tmp_path / "home", on_bad_shard="skip")
    altered = alter_shard(trial, 1)
    end = alone(trial.having(STEPS_THIS_RUN=5), 1)
    assert end.code == 75, end
    assert f"shard {altered} was altered" in end.out
    assert "rows are left out" in end.out
    assert state(trial)["skipped"] == [altered]
    events = [event for event in trial.directory.events() if event["event"] == "skipped shards"]
    assert [event["shards"] for event in events] == [[altered]]
    again = alone(trial.having(STEPS_THIS_RUN=5), 1)
    assert again.code == 75, again
    assert "are now" not in again.out
    # Another one is lost: the epoch continues without it.
    shard = shards_of(DataManifest.read(trial.data).phase(1))[0]
    shard.path.unlink()
    last = alone(trial.having(STEPS_THIS_RUN=5), 1)
    assert last.code == 75, last
    assert f"the skipped shards have changed (before: {altered}; now: {shard.name}, {altered})" in last.out
    assert state(trial)["skipped"] == [shard.name, altered]
    assert [line["step"] for line in trial.metrics(1)] == list(range(1, 16))


def test_other_data_of_the_same_vocabulary_are_refused(
    stopped: Trial, data: DataManifest, tmp_path: Path, alone: Alone
) -> None:
    corpora = tuple(data.settings["corpora"])
    options = PrepareOptions(corpora, str(data.vocabulary_path), str(tmp_path / "other"), duplicates=2, held_out=0.1)
    prepare(options, lambda *_: None)
    other = DataManifest.read(tmp_path / "other")
    end = alone(replace(stopped, data=other.folder), 1)
    assert_refused(end, data.sha256[:12], other.sha256[:12], str(other.folder), "step-00000025")


def test_data_that_were_moved_are_the_same(stopped: Trial, tmp_path: Path, alone: Alone) -> None:
    shutil.copytree(stopped.data, tmp_path / "moved")
    assert alone(replace(stopped, data=tmp_path / "moved").having(STEPS_THIS_RUN=1), 1).code == 75


def test_a_checkpoint_that_does_not_say_its_data_is_refused(stopped: Trial, alone: Alone) -> None:
    def forget(folder: Path) -> None:
        path = folder / "training_state.json"
        path.write_text(
            json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "data"})
        )

    alter(stopped.phase(1).checkpoints / "step-00000025", forget)
    assert_refused(alone(stopped, 1), "does not say how far its data were read")


def test_a_local_copy_trains_the_same_weights(
    trial: Trial, phase_one_done: Trial, tmp_path: Path, alone: Alone
) -> None:
    local = with_settings(trial, tmp_path / "home", local_copy=str(tmp_path / "node"))
    end = alone(local.having(STEPS_THIS_RUN=25), 1)
    assert end.code == 75, end
    copies = sorted(path.name for path in (tmp_path / "node").rglob("shard*"))
    assert copies == sorted(shard.path.name for shard in shards_of(DataManifest.read(trial.data).phase(1)))
    assert alone(local, 1).code == 0
    assert local.weights(1) == phase_one_done.weights(1)


def test_two_ranks_without_a_place_for_the_copy_read_the_shared_folder(trial: Trial, tmp_path: Path) -> None:
    (tmp_path / "node").write_text("no folder")
    local = with_settings(trial, tmp_path / "home", local_copy=str(tmp_path / "node"))
    first, second = local.having(STEPS_THIS_RUN=1).run(1, 2)
    assert (first.code, second.code) == (75, 0), first
    assert f"no copy on this node, reading from {trial.data}" in first.out
    assert "no copy" not in second.out


@pytest.fixture(scope="module")
def lddl_data(data: DataManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("lddl") / "data"
    options = PrepareOptions(
        tuple(data.settings["corpora"]), str(data.vocabulary_path), str(output),
        duplicates=1, shards=2, held_out=0.1, format="lddl",
    )  # fmt: skip
    prepare(options, lambda *_: None)
    assert (output / MANIFEST_NAME).is_file()
    return output


def test_lddls_loader_trains_and_replays_after_a_restart(
    trial: Trial, lddl_data: Path, tmp_path: Path, alone: Alone
) -> None:
    pytest.importorskip("lddl.torch", reason="pip install --no-deps lddl==0.1.0")
    lddl = replace(with_settings(trial, tmp_path / "home", loader="lddl"), data=lddl_data)
    first = lddl.having(STEPS_THIS_RUN=2).run(1, 2)
    assert [end.code for end in first] == [75, 0], first
    assert state(lddl)["loader"] == "lddl"
    one_rank = copied(lddl, tmp_path / "again")
    end = alone(one_rank.having(STEPS_THIS_RUN=1), 1)
    assert end.code == 75, end
    assert "LDDL's loader rereads 12 micro-batches of the epoch" in end.out


def test_lddls_loader_refuses_shards_of_ids(trial: Trial, tmp_path: Path, alone: Alone) -> None:
    pytest.importorskip("lddl.torch", reason="pip install --no-deps lddl==0.1.0")
    end = alone(with_settings(trial, tmp_path / "home", loader="lddl"), 1)
    assert_refused(end, "LDDL's loader does not read shards of format 'ids'", "--format lddl")
    assert not trial.results.exists()
