"""The held-out score is that of the whole set, whatever the number of ranks."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bertjobs.data.batches.batches import NOT_SCORED, validation_batches
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.launch.local import free_port
from bertjobs.model.bert import BertForPreTraining
from bertjobs.train.job import resolve_job
from bertjobs.train.placement import read_placement
from bertjobs.train.pretraining.objective import Pretraining
from bertjobs.train.pretraining.shards import open_shards
from bertjobs.train.ranks import Ranks
from tests.cluster.slurm import PATIENCE_S
from tests.train.conftest import Trial
from tests.train.forked import CONTEXT
from tests.train.pretraining.one_validation import score, score_slow_shards, score_to_file

COUNTS = ("masked_tokens", "sequences", "mlm_accuracy", "nsp_accuracy")

Score = dict[str, float | int]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """In all of this module's tests."""


@pytest.fixture(scope="module")
def settings(recipe_home: Path, data: DataManifest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(recipe_home, data.folder, tmp_path_factory.mktemp("validation") / "results")


@pytest.fixture(scope="module")
def on_one_rank(settings: Trial) -> Score:
    environ = settings.environment(1)
    return score(environ, Ranks(read_placement(environ)))


def on_ranks(
    settings: Trial, world_size: int, folder: Path, target: Callable[..., None] = score_to_file, *more: float
) -> list[Score]:
    """Each rank's result, from real processes."""
    port, files = free_port(), [folder / f"{rank}.json" for rank in range(world_size)]
    processes = [
        CONTEXT.Process(target=target, args=(settings.environment(1, rank, world_size, port), file, *more))
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * world_size
    return [json.loads(file.read_text()) for file in files]


def test_the_score_is_the_sum_over_single_sequences(settings: Trial, on_one_rank: Score, data: DataManifest) -> None:
    environ = settings.environment(1)
    job = resolve_job(environ, read_placement(environ), Pretraining.of)
    shards = open_shards(DataManifest.read(data.folder), job.spec, job.phase, Ranks(read_placement(environ)))
    torch.manual_seed(0)
    model = BertForPreTraining(job.spec.model).eval()
    sums = torch.zeros(6, dtype=torch.float64)
    longest = 0
    with torch.inference_mode():
        for batch in validation_batches(shards.held_out, shards.masking, batch_size=1):
            assert batch.sequences == 1
            longest = max(longest, int((batch.labels != NOT_SCORED).sum()))
            sums += torch.stack([value.double() for value in model(*batch.tensors())])
    mlm_loss, mlm_hits, masked, nsp_loss, nsp_hits, sequences = sums.tolist()
    assert longest > 1
    rows = sum(file.rows for file in data.phase(1).split("validation").files)
    assert on_one_rank["sequences"] == sequences == rows
    assert on_one_rank["masked_tokens"] == masked
    assert on_one_rank["mlm_loss_nats"] == pytest.approx(mlm_loss / masked, rel=1e-6)
    assert on_one_rank["nsp_loss_nats"] == pytest.approx(nsp_loss / sequences, rel=1e-6)
    assert on_one_rank["mlm_accuracy"] == mlm_hits / masked
    assert on_one_rank["nsp_accuracy"] == nsp_hits / sequences


@pytest.mark.parametrize("world_size", [2, 3])
def test_more_ranks_give_the_same_score(settings: Trial, on_one_rank: Score, world_size: int, tmp_path: Path) -> None:
    rows, micro_batch = on_one_rank["sequences"], 2
    assert -(-rows // micro_batch) % world_size, "the ranks must score different numbers of batches"
    ranks = on_ranks(settings, world_size, tmp_path)
    for result in ranks:
        assert {name: result[name] for name in COUNTS} == {name: on_one_rank[name] for name in COUNTS}
        for name in ("mlm_loss_nats", "nsp_loss_nats"):
            assert result[name] == pytest.approx(on_one_rank[name], rel=1e-12)
        assert result["unigram_cross_entropy_nats"] == on_one_rank["unigram_cross_entropy_nats"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_unigram_line_that_takes_longer_than_a_hang_is_none(
    settings: Trial, on_one_rank: Score, data: DataManifest, world_size: int, tmp_path: Path
) -> None:
    """Each rank reads at least two shards, one after the other; a rank without a beat in that time would be ended."""
    shard_s, timeout_s = 1.5, 2.5
    assert len(data.phase(1).split("train").files) // world_size * shard_s > timeout_s
    scores = on_ranks(settings, world_size, tmp_path, score_slow_shards, shard_s, timeout_s)
    for result in scores:
        assert result["unigram_cross_entropy_nats"] == on_one_rank["unigram_cross_entropy_nats"]


def test_a_rank_without_a_batch_takes_part(settings: Trial, on_one_rank: Score, tmp_path: Path) -> None:
    """One batch of all rows for two ranks."""
    alike = replace(settings, home=tmp_path / "home")
    text = (settings.home / "bertjobs" / "recipes.yml").read_text()
    text = text.replace("micro_batch: 2", "micro_batch: 5000").replace("global_batch: 12", "global_batch: 10000")
    (alike.home / "bertjobs").mkdir(parents=True)
    (alike.home / "bertjobs" / "recipes.yml").write_text(text)
    for result in on_ranks(alike, 2, tmp_path):
        assert result["sequences"] == on_one_rank["sequences"] < 5000
        assert result["mlm_loss_nats"] == pytest.approx(on_one_rank["mlm_loss_nats"], rel=1e-6)
