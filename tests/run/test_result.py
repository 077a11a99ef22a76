"""Which weights a name means."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertjobs.errors import InputError
from bertjobs.files.atomic import write_json
from bertjobs.run.directory import RunDirectory
from bertjobs.run.result import weights_of
from bertjobs.run.study import Study
from tests.run.test_checkpoints import checkpoint


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a run called mrpc."""
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(tmp_path / "results" / "mrpc")
    run.create()
    run.write_lockfile("recipes: {}\n")
    run.phase(1).create()
    return checkpoint(run.phase(1).checkpoints, 3)


def test_a_folder_of_data_does_not_hide_a_run_of_its_name(weights: Path) -> None:
    Path("mrpc").mkdir()
    assert weights_of("mrpc", Path("results")) == weights
    Path("rte").mkdir()
    with pytest.raises(InputError, match="neither a model nor a run"):
        weights_of("rte", Path("results"))


def test_a_model_s_folder_and_a_run_s_folder_are_found_by_their_paths(weights: Path) -> None:
    assert weights_of("results/mrpc", Path("elsewhere")) == weights
    Path("mrpc").mkdir()
    Path("mrpc/config.json").write_text("{}")
    assert weights_of("mrpc", Path("results")) == Path("mrpc")


@pytest.mark.usefixtures("weights")
def test_of_a_study_its_best_run_is_named(tmp_path: Path) -> None:
    study = Study.of(tmp_path / "results", "seeds", [{"seed": str(seed)} for seed in (42, 43, 44)])
    study.write()
    with pytest.raises(InputError, match="'seeds' is a study of 3 runs") as caught:
        weights_of("seeds", Path("results"))
    assert caught.value.hint == "give one of its runs: seeds-1"
    for directory, value in zip(study.directories, (0.5, 0.75, 0.25), strict=True):
        directory.create()
        directory.phase(1).root.mkdir()
        write_json(directory.phase(1).result, {"measure": "f1", "dev": {"f1": value}})
    with pytest.raises(InputError) as caught:
        weights_of("seeds", Path("results"))
    assert caught.value.hint == "give one of its runs: seeds-2, the best with dev f1 0.7500"
