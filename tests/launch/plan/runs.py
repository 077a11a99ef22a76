"""Runs of the catalogue's recipes, the partitions that they may ask for, and problems as text."""

from __future__ import annotations

from bertjobs.launch.plan.problem import Problem
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.spec import RunSpec
from bertjobs.slurm.cluster import parse_sinfo

CATALOGUE = load_catalogue([builtin_file()])
SINFO = (
    "batch*|up|1-00:00:00|n/a|4|16|4000|gpu:8|REQUEUE|1\n"
    "short|up|30:00|10:00|2|16|4000|gpu:a100:4|OFF|10\n"
    "closed|inact|infinite|n/a|9|16|4000|(null)|OFF|1\n"
)
PARTITIONS = parse_sinfo(SINFO)


def resolved(recipe: str, *sets: str, **flags: object) -> RunSpec:
    return resolve(CATALOGUE, flags={"recipe": recipe, **flags}, environ={}, sets=sets).spec


def words(problems: list[Problem]) -> str:
    return "\n".join(problem.render() for problem in problems)
