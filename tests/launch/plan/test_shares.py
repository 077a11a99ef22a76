"""What a plan says of groups of unlike nodes."""

from __future__ import annotations

import pytest

from bertjobs.launch.plan.memory import TOO_LARGE
from bertjobs.launch.plan.packs import Packs
from bertjobs.launch.plan.plan import Plan, arithmetic, as_json, make_plan
from bertjobs.launch.plan.resources import group_problems, memory_problems
from bertjobs.launch.plan.shares import shares_of
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import Resolved, resolve

MIXED = "groups=1x8@a100,2x4@v100/dgx1-32g"
A100, V100 = 580.0, 224.0  # sequences/s that NVIDIA publishes for one GPU in fp16


def run(*sets: str, recipe: str = "dgxa100-80g") -> Resolved:
    return resolve(load_catalogue([builtin_file()]), flags={"recipe": recipe, "phase": 1}, environ={}, sets=sets)


def planned(*sets: str, recipe: str = "dgxa100-80g", packs: Packs | None = None) -> Plan:
    return make_plan(run(*sets, recipe=recipe), "slurm", None, None, packs={1: packs} if packs else {})


def test_each_group_gets_a_share_by_its_gpu_s_speed() -> None:
    plan = planned(MIXED)
    shares = plan.shares[1]
    assert shares is not None
    assert [group.ranks for group in shares.groups] == [8, 8]
    assert [group.speed for group in shares.groups] == pytest.approx([A100 / V100, 1])
    assert shares.groups[0].share == pytest.approx(A100 / (A100 + V100))
    assert shares.gain == pytest.approx((A100 + V100) / 2 / V100)
    assert shares.rate == pytest.approx((A100 + V100) / 2)
    text = arithmetic(plan)
    assert "A100-SXM4-80GB and V100-SXM2-32GB, one per task; fp16" in text
    assert " ".join(text.split("shares of the groups")[1].split("\n")[0].split()) == "72% + 28%"
    assert " ".join(text.split("gain over equal shares")[1].split("\n")[0].split()) == "1.79 times"
    (phase,) = as_json(plan)["phases"]
    assert phase["shares"]["gain"] == shares.gain
    assert [group["group"] for group in phase["shares"]["groups"]] == ["1x8@a100", "2x4@v100/dgx1-32g"]


def test_the_gain_shortens_the_expected_time() -> None:
    dealt, equal = planned(MIXED).estimates[1], planned(MIXED, "rebalance=false").estimates[1]
    assert dealt is not None
    assert equal is not None
    assert equal.seconds / dealt.seconds == pytest.approx(1.79, abs=0.1)
    assert "580" in dealt.source
    assert "224" in dealt.source


def test_where_all_get_as_much_all_wait_for_the_slowest() -> None:
    shares = planned(MIXED, "rebalance=false").shares[1]
    assert shares is not None
    assert (shares.gain, shares.rate) == (1.0, V100)
    assert [group.share for group in shares.groups] == [0.5, 0.5]


def test_shares_are_whole_packs_where_their_number_is_known() -> None:
    shares = planned("groups=1x1/2.1,1x1", packs=Packs(8, True, 8192, 1.0)).shares[1]
    assert shares is not None
    assert [group.share for group in shares.groups] == [6 / 8, 2 / 8]
    assert shares.gain == pytest.approx(4 / (6 / 2.1))  # four of the slow rank's, and six of the fast one's


def test_given_speeds_are_multiples_of_the_run_s_own_system() -> None:
    shares = planned("groups=1x8,1x8/0.5", "precision=fp16").shares[1]
    assert shares is not None
    assert shares.rate == pytest.approx(0.75 * A100)
    assert shares.source.endswith(", times the groups' given speeds")
    unknown = shares_of(spec := run("groups=1x8,1x8/0.5", recipe="h200").spec, spec.phase(1), (), None)
    assert unknown is not None
    assert unknown.rate is None
    assert unknown.words() == "67% + 33%"


@pytest.mark.parametrize("sets", [(), ("groups=1x8,2x4",), ("groups=1x8/h200,2x4",)], ids=["none", "alike", "unknown"])
def test_nothing_is_said_of_groups_that_are_alike_or_unknown(sets: tuple[str, ...]) -> None:
    plan = planned(*sets)
    assert plan.shares == {1: None}
    assert "shares" not in arithmetic(plan)


def test_memory_is_judged_by_the_smallest_gpu() -> None:
    plan = planned(MIXED)
    assert plan.fits[1] is not None
    assert (plan.fits[1].of_gb, plan.fits[1].verdict) == (32, TOO_LARGE)
    (problem,) = memory_problems(run(MIXED, "vocabulary=bert-base-uncased").spec)
    assert problem.where == "V100-SXM2-32GB, fp16"
    assert problem.hint.startswith("--set phase1.micro_batch=")


def test_kinds_of_nodes_without_a_system_are_warned_of() -> None:
    (problem,) = group_problems(run("groups=2x4@v100,1x8@a100").spec)
    assert problem.is_warning
    assert problem.what.startswith("groups 2x4@v100 and 1x8@a100 name no system: the memory, number formats and speed")
    for alike in ("groups=2x4,1x8", "groups=2x4@v100/dgx1-32g,1x8@a100", "groups=2x4@v100,1x8@v100"):
        assert group_problems(run(alike).spec) == []
