"""The plan shows the packs that a worker will make, and how useful their computing is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertjobs.data.batches.masked_text import Masking
from bertjobs.data.batches.packed_batches import packing_limits
from bertjobs.data.shards.manifest import DataManifest
from bertjobs.data.shards.shard_set import ShardSet
from bertjobs.launch.plan.packs import Packs, packs_of
from bertjobs.launch.plan.plan import arithmetic, as_json, make_plan
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import Resolved, resolve
from tests.conftest import Bertjobs
from tests.launch.plan.test_plan import row


def resolved(*sets: str, **flags: object) -> Resolved:
    given = {"recipe": "laptop-scratch", **flags}
    return resolve(load_catalogue([builtin_file()]), flags=given, environ={}, sets=sets)


def test_the_packs_are_those_that_a_worker_makes(speeches_data: Path) -> None:
    spec, data = resolved("phase1.global_batch=512", "phase1.micro_batch=16").spec, DataManifest.read(speeches_data)
    packs = packs_of(spec, data)
    assert list(packs) == [1, 2]
    phase = spec.phase(1)
    shards = ShardSet.load(data, 1, "train")
    limits = packing_limits(
        shards, Masking("dynamic", spec.seed, 20), most=16 * 128, max_length=128, global_batch=phase.global_batch
    )
    assert packs[1].is_fixed
    assert packs[1].count == limits.packs > 1
    assert packs[1].tokens == pytest.approx(limits.tokens, rel=0.02)
    lengths = shards.lengths(shards.kept) + 3
    assert packs[1].useful_share == pytest.approx(512 * lengths.mean() / (packs[1].count * packs[1].tokens), abs=0.01)


def test_more_ranks_than_divide_the_packs_work_less_usefully(speeches_data: Path) -> None:
    data = DataManifest.read(speeches_data)
    shares = []
    for nodes in (1, 4, 64):
        packs = packs_of(resolved("phase1.global_batch=512", "phase1.micro_batch=16", nodes=nodes, phase=1).spec, data)
        shares.append(packs[1].useful_share)
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert shares[2] < 0.6 * shares[0], "64 ranks have no more than 32 packs"


def test_without_data_or_without_packs_nothing_is_claimed(speeches_data: Path) -> None:
    data = DataManifest.read(speeches_data)
    assert packs_of(resolved().spec, None) == {}
    assert packs_of(resolved("unpad=false").spec, data) == {}
    assert packs_of(resolved("phase1.sequence_length=64", phase=1).spec, data) == {}
    text = arithmetic(make_plan(resolved(), "local", None, None))
    assert "useful" not in text
    assert "packs per step" not in text
    assert as_json(make_plan(resolved(), "local", None, None))["phases"][0]["packs"] is None


def test_what_is_known_of_one_phase_is_shown() -> None:
    packs = {1: Packs(128, True, 54_656, 0.9951), 2: Packs(6, False, 4096, 0.8)}
    text = arithmetic(make_plan(resolved(), "local", None, None, packs=packs))
    assert row(text, "packs per step") == "128 of 54,656 tokens about 6 of 4,096 tokens"
    assert row(text, "share of useful work") == "99.5% 80.0%"
    text = arithmetic(make_plan(resolved(), "local", None, None, packs={2: packs[2]}))
    assert row(text, "share of useful work") == "unknown 80.0%"


def test_the_command_shows_them(bertjobs: Bertjobs, speeches_data: Path) -> None:
    flags = ("--recipe", "laptop-scratch", "--backend", "local", "--data", speeches_data)
    words = row(bertjobs("plan", *flags).stdout, "share of useful work").split()
    phases = json.loads(bertjobs("plan", *flags, "--json").stdout)["phases"]
    assert words == [f"{phase['packs']['useful_share']:.1%}" for phase in phases]
    assert all(0.5 < phase["packs"]["useful_share"] < 1 for phase in phases)
