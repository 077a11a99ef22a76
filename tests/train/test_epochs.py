"""A phase of pretraining whose length is given in epochs: a worker finds its steps in the data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.errors import EXIT_BAD_INPUT, EXIT_CONTINUE, EXIT_DONE, InputError
from bertjobs.files.json_lines import read_lines
from bertjobs.launch.resume import resumed
from bertjobs.recipe.lockfile import read_lockfile
from bertjobs.run.settings import check_unchanged
from tests.train.conftest import Trial

BATCH = 48
PHASE = {"global_batch": BATCH, "epochs": 2, "lr": 0.001, "warmup": 0.2, "micro_batch": 16}
RECIPE = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "num_workers": 1, "phases": {1: PHASE}}


@pytest.fixture
def trial(data: DataManifest, tmp_path: Path) -> Trial:
    (tmp_path / "home" / "bertjobs").mkdir(parents=True)
    (tmp_path / "home" / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": RECIPE}}))
    return Trial(tmp_path / "home", data.folder, tmp_path / "results")


def test_a_phase_of_epochs_is_stopped_and_continued(trial: Trial, data: DataManifest) -> None:
    rows = data.phase(1).train.rows
    steps, epoch = math.ceil(2 * rows / BATCH), math.ceil(rows / BATCH)
    assert 4 < steps < 200
    (first,) = trial.having(STEPS_THIS_RUN=3).run(1, 1)
    assert first.code == EXIT_CONTINUE, first.err
    (phase,) = read_lockfile(trial.directory.lockfile).phases
    assert (phase.steps, phase.epochs, phase.validate_every) == (steps, 2, epoch)
    other = resumed(trial.directory, ["phase1.epochs=3"]).spec
    assert other.phases[0].steps == math.ceil(3 * rows / BATCH)
    with pytest.raises(InputError, match=r"started with other settings: phase1\.steps"):
        check_unchanged(other, trial.directory)

    (second,) = trial.run(1, 2)[:1]
    assert second.code == EXIT_DONE, second.err
    done = trial.phase(1).done()
    assert done is not None
    assert done.step == steps
    assert {epoch, steps} <= {line["step"] for line in read_lines(trial.phase(1).validation)}


def test_epochs_of_data_that_are_not_there_are_refused(trial: Trial, tmp_path: Path) -> None:
    (end,) = trial.having(DATADIR=tmp_path / "nowhere").run(1, 1)
    assert end.code == EXIT_BAD_INPUT
    assert "the length of a phase in epochs follows from the data: data folder" in end.err
    assert not trial.directory.root.exists()
