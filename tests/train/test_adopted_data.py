"""Training from HDF5 files that were adopted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bertjobs.data.prepare.adopt_hdf5 import Hdf5Options, adopt_hdf5
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.text.vocabulary import Vocabulary
from tests.data.hdf5_files import write_instances
from tests.train.conftest import Ended, Trial


def test_a_run_trains_on_adopted_hdf5_files(
    alone: Callable[..., Ended], recipe_home: Path, data: DataManifest, tmp_path: Path
) -> None:
    vocabulary = Vocabulary.read(data.vocabulary_path)
    for number in range(3):
        write_instances(tmp_path / "hdf5" / f"{number}.hdf5", vocabulary, 80, tokens=128, seed=number)
    adopted = tmp_path / "adopted"
    adopt_hdf5(Hdf5Options({1: tmp_path / "hdf5"}, data.vocabulary_path, adopted), lambda *_: None)
    trial = Trial(recipe_home, adopted, tmp_path / "results").having(MASKING="static", STEPS_THIS_RUN=4)
    end = alone(trial, 1)
    assert end.code == 75, end
    losses = [line["mlm_loss_nats"] for line in trial.metrics(1)]
    assert len(losses) == 4
    assert all(0 < loss < 20 for loss in losses)
