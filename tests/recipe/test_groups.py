"""Groups of nodes in a recipe: which ranks there are, and what wins over what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.groups import (
    SLOWEST,
    NodeGroup,
    components,
    groups_of,
    groups_text,
    nodes_words,
    parse_groups,
    parse_ranks_of_nodes,
    place_of,
    ranks_of,
    speeds_of,
)
from bertjobs.recipe.lockfile import lockfile, read_lockfile
from bertjobs.recipe.resolve import Resolved, resolve

GROUPS = (NodeGroup(2, 4, "v100"), NodeGroup(1, 8, "a100"))
RECIPE = """
recipes:
  lab:
    system: dgx1-32g
    model: bert-base
    phases: {1: {micro_batch: 64}, 2: {micro_batch: 8}}
    groups: [{nodes: 2, gpus: 4, constraint: v100}, {nodes: 1, gpus: 8, constraint: a100}]
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    (tmp_path / "recipes.yml").write_text(RECIPE)
    catalogue = load_catalogue([builtin_file(), tmp_path / "recipes.yml"])

    def resolved(*sets: str, recipe: str = "lab", **options: Any) -> Resolved:
        return resolve(catalogue, flags={"recipe": recipe}, environ={}, sets=sets, **options)

    return resolved


def test_a_recipe_s_groups_are_its_nodes(run: Any) -> None:
    resolved = run()
    spec = resolved.spec
    assert spec.groups == GROUPS
    assert (spec.nodes, spec.tasks_per_node, spec.gpus, spec.world_size) == (3, 8, 8, 16)
    assert [spec.node_of(rank) for rank in (0, 3, 4, 7, 8, 15)] == [0, 0, 1, 1, 2, 2]
    assert resolved.provenance["world_size"].origin == "2 nodes x 4 tasks + 1 node x 8 tasks"
    assert {phase.rank_batch * 16 for phase in spec.phases} == {phase.global_batch for phase in spec.phases}


def test_groups_are_dealt_to_by_speed_unless_told_otherwise(run: Any) -> None:
    assert run().spec.rebalance
    assert not run("rebalance=false").spec.rebalance
    assert not run(recipe="dgx1-32g").spec.rebalance
    assert not run("unpad=false").spec.rebalance


def test_run_yml_has_the_groups(run: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yml").write_text(lockfile(run().spec))
    assert read_lockfile(tmp_path / "run.yml") == run().spec


def test_text_and_mappings_say_the_same(run: Any) -> None:
    assert run("groups=2x4@v100,1x8@a100", recipe="dgx1-32g").spec.groups == GROUPS
    assert parse_groups("2x4@a|b, 1x8") == (NodeGroup(2, 4, "a|b"), NodeGroup(1, 8))
    assert parse_groups([{"nodes": 1, "tasks_per_node": 3}]) == (NodeGroup(1, 3),)
    borrowed = (NodeGroup(2, 4, gpu_type="1080ti", partition="old", speed=0.4),)
    assert parse_groups("2x1080ti:4/partition=old/0.4") == borrowed
    assert parse_groups([{"nodes": 2, "gpus": "1080ti:4", "partition": "old", "speed": 0.4}]) == borrowed
    assert parse_groups("") == parse_groups(None) == ()


@pytest.mark.parametrize(
    "value",
    [
        *("2", "2x", "0x4", "2x4@", "2x4@a b", "2x4@a#b", 'x"', "2x4;1x8"),
        *("2x4/", "2x4/1/2", "2x4/dgx1-32g/h200", "2x4/0", "2x4/1/h200/3"),
        *("2xv100:", "2x:4", "2xv100:0", "2xa/b:4", "2x4/partition=", "2x4/partition=a/partition=b", "2x4/qos=high"),
        *(7, {"nodes": 2}, [2], [{"nodes": 2}], [{"nodes": 2, "gpus": 4, "tasks_per_node": 8}]),
        *([{"nodes": True, "gpus": 4}], [{"nodes": 2, "gpus": 4, "colour": "red"}]),
        [{"nodes": 2, "gpus": 4, "constraint": "a b"}],
        *([{"nodes": 2, "gpus": value}] for value in ("v100:", "v100:4:2", "v100:-1", 4.0)),
        *([{"nodes": 2, "gpus": 4, "partition": value}] for value in (7, "a,b", "a b")),
        *([{"nodes": 2, "gpus": "v100:4", "gpu_type": "a100"}], [{"nodes": 2, "gpus": 4, "gpu_type": "v100:4"}]),
        *([{"nodes": 2, "gpus": 4, "speed": value}] for value in (0, -1, True, "fast", float("inf"))),
        *([{"nodes": 2, "gpus": 4, "system": value}] for value in (7, "1080", "my node", "a/b", "a,b")),
    ],
)
def test_what_is_no_group_is_refused(run: Any, value: Any) -> None:
    assert parse_groups(value) is None
    if isinstance(value, str):
        with pytest.raises(InputError, match=r"groups must be NODESxGPUS\[@CONSTRAINT\]\[/SYSTEM\]\[/partition=NAME\]"):
            run(f"groups={value}")


@given(
    st.lists(
        st.builds(
            NodeGroup,
            st.integers(1, 999),
            st.integers(1, 99),
            st.sampled_from(("", "v100", "a|b", "[x*2&y*1]")),
            st.sampled_from(("", "dgx1-32g", "h200")),
            st.floats(SLOWEST, 1 / SLOWEST),
            st.sampled_from(("", "v100", "1080ti")),
            st.sampled_from(("", "old", "gpu-2")),
        ),
        min_size=1,
    )
)
def test_groups_are_read_as_they_are_written(groups: list[NodeGroup]) -> None:
    assert parse_groups(groups_text(groups)) == parse_groups([group.plain() for group in groups]) == tuple(groups)


def test_groups_that_a_constraint_tells_apart_are_one_component() -> None:
    alike = (NodeGroup(2, 8, "v100"), NodeGroup(1, 8, "a100"), NodeGroup(1, 8, "v100"))
    assert components(alike) == (NodeGroup(4, 8, "[v100*3&a100*1]"),)
    assert components(alike[::2]) == (NodeGroup(3, 8, "v100"),)
    assert components((NodeGroup(2, 8),)) == (NodeGroup(2, 8),)


@pytest.mark.parametrize(
    "other",
    [
        NodeGroup(1, 4, "a100"),
        NodeGroup(1, 8),
        NodeGroup(1, 8, "a100|h200"),
        NodeGroup(1, 8, "a100", "h200"),
        NodeGroup(1, 8, "a100", speed=2),
        NodeGroup(1, 8, "a100", partition="new"),
        NodeGroup(1, 8, "a100", gpu_type="a100"),
    ],
)
def test_groups_whose_order_matters_or_that_no_constraint_counts_are_several(other: NodeGroup) -> None:
    """Slurm gives the nodes of one component in its own order: ranks would not know which group they are in."""
    groups = (NodeGroup(2, 8, "v100"), other)
    assert components(groups) == groups


def test_a_group_s_system_is_looked_up_and_kept(run: Any, tmp_path: Path) -> None:
    spec = run("groups=2x4@v100,1x8@a100/dgxa100-80g/2.5").spec
    assert [system.gpu for system in spec.group_systems] == ["V100-SXM2-32GB", "A100-SXM4-80GB"]
    assert spec.smallest_system.gpu_memory_gb == 32
    assert speeds_of(spec.groups) == (1.0,) * 8 + (2.5,) * 8
    (tmp_path / "run.yml").write_text(lockfile(spec))
    assert read_lockfile(tmp_path / "run.yml") == spec
    assert run().spec.group_systems == speeds_of(run().spec.groups) == ()
    assert run("groups=2x4,1x8/h200", ranks_of_nodes=(8, 8)).spec.group_systems == ()
    with pytest.raises(InputError, match="unknown system 'dgxa100-80h'") as error:
        run("groups=2x4,1x8/dgxa100-80h")
    with pytest.raises(InputError, match="group 1x8/laptop trains on GPUs, but system laptop has none"):
        run("groups=1x8/laptop,1x8", recipe="h200")
    assert "dgxa100-80g" in str(error.value.hint)


def test_all_groups_compute_in_a_format_that_the_oldest_has(run: Any) -> None:
    mixed = run("groups=1x8,2x4/dgx1-32g", recipe="dgxa100-40g")
    assert mixed.spec.precision == "fp16"
    assert mixed.provenance["precision"].origin == "V100-SXM2-32GB, which a group of nodes has, lacks bf16"
    assert run("groups=1x8,2x4/h200", recipe="dgxa100-40g").spec.precision == "bf16"
    assert run("groups=1x8,2x4/dgx1-32g", "gpus=0", recipe="dgxa100-40g").spec.precision == "bf16"
    with pytest.raises(InputError, match="V100-SXM2-32GB, which a group of nodes has, cannot compute in tf32") as error:
        run("groups=1x8,2x4/dgx1-32g", "precision=tf32", recipe="dgxa100-40g")
    assert "or use fp32" in str(error.value.hint)


def test_what_is_said_of_all_nodes_wins_where_it_is_stronger(run: Any) -> None:
    spec = run("nodes=4").spec
    assert (spec.groups, spec.nodes, spec.world_size, spec.rebalance) == ((), 4, 32, False)
    assert run("gpus=4").spec.groups == ()
    on_cpus = run("gpus=0").spec
    assert (on_cpus.groups, on_cpus.gpus, on_cpus.world_size) == (GROUPS, 0, 16)
    assert run("groups=").spec.groups == ()


def test_two_numbers_of_nodes_in_one_place_contradict_each_other(run: Any) -> None:
    with pytest.raises(InputError, match="nodes 4 contradicts groups 2x4@v100,1x8"):
        run("nodes=4", "groups=2x4@v100,1x8")


def test_the_job_s_nodes_win_and_its_groups_keep_their_constraints(run: Any) -> None:
    assert run(ranks_of_nodes=(4, 4, 8)).spec.groups == GROUPS
    other = run(ranks_of_nodes=(2, 2, 4)).spec
    assert (other.groups, other.world_size) == ((NodeGroup(2, 2), NodeGroup(1, 4)), 8)
    even = run(ranks_of_nodes=(8, 8)).spec
    assert (even.groups, even.nodes, even.tasks_per_node) == ((), 2, 8)
    assert run(recipe="dgx1-32g", ranks_of_nodes=(8, 4, 4)).spec.groups == (NodeGroup(1, 8), NodeGroup(2, 4))


def test_a_batch_that_the_ranks_cannot_share_names_world_sizes(run: Any) -> None:
    with pytest.raises(InputError, match=r"global batch of 65536 cannot be divided over 7 ranks\n") as error:
        run("groups=2x2,1x3", recipe="dgx1-32g")
    assert "nearest world sizes that divide it: 4 or 8" in str(error.value.hint)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_ranks_are_laid_out_node_by_node(nodes: list[int]) -> None:
    ranks = [(node, local) for node, count in enumerate(nodes) for local in range(count)]
    assert [place_of(rank, nodes) for rank in range(sum(nodes))] == ranks
    with pytest.raises(IndexError):
        place_of(sum(nodes), nodes)
    assert ranks_of(groups_of(nodes)) == (tuple(nodes) if len(set(nodes)) > 1 else ())


def test_words_of_nodes() -> None:
    assert nodes_words((4, 4, 8)) == "2 nodes x 4 tasks + 1 node x 8 tasks"
    assert nodes_words((1,)) == "1 node x 1 task"
    assert parse_ranks_of_nodes("2(x2),3") == (2, 2, 3)
    assert parse_ranks_of_nodes("") == parse_ranks_of_nodes("2(x") is None
