"""Two ranks of unequal speed, made so by sleeps in their forward passes: the slow one is named, and computes less."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import yaml

from bertjobs.data.shards.manifest import DataManifest
from bertjobs.launch.watch.status import read_run
from bertjobs.recipe.spec import RunSpec
from bertjobs.train.pretraining.objective import Pretraining, PretrainingLearner
from bertjobs.train.ranks import Ranks
from tests.train import forked
from tests.train.conftest import PHASES, Trial

SLEEP_S = (0.04, 0.12)


class Unequal(Pretraining):
    """Pretraining whose ranks sleep in each forward pass, rank 1 three times as long."""

    def open(self, ranks: Ranks, device: torch.device) -> PretrainingLearner:
        learner = super().open(ranks, device)
        seconds = SLEEP_S[min(ranks.rank, 1)]
        learner.forward.register_forward_pre_hook(lambda *_: time.sleep(seconds))
        return learner


def unequal(spec: RunSpec) -> Pretraining:
    return Unequal.of(spec)


def losses(trial: Trial) -> list[float]:
    return [line["loss_nats"] for line in trial.metrics(1)]


def trial(folder: Path, data: DataManifest, **settings: object) -> Trial:
    """A run with a recipe of its own."""
    phase = {**PHASES[1], "global_batch": 32}
    recipe = {"system": "cpu-node", "model": "bert-nano", "precision": "fp32", "phases": {1: phase}, **settings}
    (folder / "bertjobs").mkdir(parents=True)
    (folder / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump({"recipes": {"trial": recipe}}))
    return Trial(folder, data.folder, folder / "results")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: DataManifest) -> dict[str, Trial]:
    """The same run on two ranks that take turns, and dealt by speed, stopped after 20 steps and finished on one."""
    folder = tmp_path_factory.mktemp("unequal")
    turns, dealt = trial(folder / "turns", data), trial(folder / "dealt", data, rebalance=True)
    assert forked.attempt(turns, 1, 2, turns.home / "logs") == [0, 0]
    stopped = dealt.having(STEPS_THIS_RUN=20)
    assert forked.attempt(stopped, 1, 2, dealt.home / "logs", objective_of=unequal) == [75, 0]
    assert forked.attempt(dealt, 1, 1, dealt.home / "resumed", objective_of=unequal) == [0]
    return {"turns": turns, "dealt": dealt}


def test_the_slow_rank_is_named_and_computes_fewer_packs(runs: dict[str, Trial]) -> None:
    events = runs["dealt"].directory.events()
    (slow,) = (event for event in events if event["event"] == "slow rank")
    assert (slow["rank"], slow["step"] <= 20) == (1, True)
    assert slow["times"] > 1.5
    assert slow["node"]
    dealt = [event for event in events if event["event"] == "dealt"]
    assert dealt[0]["packs"][0] > dealt[0]["packs"][1]
    logs = (runs["dealt"].home / "logs" / "rank-0.out").read_text()
    assert "warning: rank 1 of 2 on " in logs
    assert f"from step {dealt[0]['step']} on, ranks compute " in logs


def test_the_losses_are_those_of_ranks_that_take_turns(runs: dict[str, Trial]) -> None:
    """On two ranks, and after the resume on another number of them."""
    assert losses(runs["dealt"]) == pytest.approx(losses(runs["turns"]), rel=1e-5)


def test_readers_of_the_run_name_the_slow_rank(runs: dict[str, Trial]) -> None:
    story = read_run(runs["dealt"].directory).story
    first, second = story.begun
    assert [rank.rank for rank in first.slow_ranks] == [1]
    assert str(first.slow_ranks[0]).startswith("rank 1 on ")
    assert not second.slow_ranks
