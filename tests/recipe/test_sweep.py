"""The settings in which a study's runs differ."""

from __future__ import annotations

import pytest

from bertjobs.errors import InputError
from bertjobs.recipe.catalogue import builtin_file, load_catalogue
from bertjobs.recipe.resolve import resolve
from bertjobs.recipe.sweep import check_applied, combinations, read_count, read_sweeps


def test_the_product_of_all_sweeps_each_with_its_seeds() -> None:
    sweeps = read_sweeps(["lr=1e-5,2e-5", "optimizer.beta2=0.98,0.999"], [1])
    rows = [tuple(settings.values()) for settings in combinations(sweeps, 2, 42)]
    assert rows == [
        ("1e-5", "0.98", "42"), ("1e-5", "0.98", "43"), ("1e-5", "0.999", "42"), ("1e-5", "0.999", "43"),
        ("2e-5", "0.98", "42"), ("2e-5", "0.98", "43"), ("2e-5", "0.999", "42"), ("2e-5", "0.999", "43"),
    ]  # fmt: skip
    assert list(combinations(sweeps, 1, 42)[0]) == ["phase1.lr", "optimizer.beta2", "seed"]


def test_seeds_alone_begin_with_the_recipes_own() -> None:
    assert combinations({}, 3, 7) == [{"seed": "7"}, {"seed": "8"}, {"seed": "9"}]


def test_a_sweep_over_seeds_names_them() -> None:
    assert combinations(read_sweeps(["seed=3,11"], [1, 2]), None, 42) == [{"seed": "3"}, {"seed": "11"}]


@pytest.mark.parametrize(
    ("text", "phases", "what"),
    [
        ("lr", [1], "takes KEY=VALUE,VALUE"),
        ("lr=", [1], "takes KEY=VALUE,VALUE"),
        ("lr=1,,2", [1], "takes KEY=VALUE,VALUE"),
        ("=1,2", [1], "takes KEY=VALUE,VALUE"),
        ("lrr=1,2", [1], "unknown key 'lrr'"),
        ("phase3.lr=1,2", [1, 2], "unknown key 'phase3.lr'"),
        ("lr=1,2", [1, 2], "lr is a setting of one phase, but the run has phases 1 and 2"),
        ("lr=1,1", [1], "the value 1 is listed twice"),
        ("results=a,b", [1], "results is the same for all runs"),
    ],
)
def test_a_bad_sweep_is_refused(text: str, phases: list[int], what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_sweeps([text], phases)


def test_a_setting_is_given_once() -> None:
    with pytest.raises(InputError, match=r"phase1\.lr is given twice"):
        read_sweeps(["lr=1,2", "phase1.lr=3,4"], [1])
    with pytest.raises(InputError, match=r"phase1\.lr is given twice"):
        read_sweeps(["lr=1,2"], [1], ["phase1.lr=3"])
    with pytest.raises(InputError, match="seeds are given twice"):
        combinations({"seed": ("1", "2")}, 2, 42)


def test_so_many_runs_are_refused() -> None:
    with pytest.raises(InputError, match="the study would have 1,200 runs"):
        combinations({"phase1.lr": tuple(map(str, range(40)))}, 30, 42)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two", "", "1001", "²"])
def test_a_bad_number_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a whole number from 1 to 1000"):
        read_count(text, "--seeds")


@pytest.mark.parametrize("path", ["phase1.lr", "phase1.micro_batch", "optimizer.beta2", "seed"])
def test_a_flag_would_hide_the_sweep(path: str) -> None:
    value = {"phase1.lr": "1e-3", "phase1.micro_batch": "8", "optimizer.beta2": "0.98", "seed": "3"}[path]
    flags = {"recipe": "laptop-scratch", "phase": "1"}
    catalogue = load_catalogue([builtin_file()])
    resolved = resolve(catalogue, flags=flags, environ={}, sets=[f"{path}={value}"])
    check_applied(resolved, {path: value})
    other = resolve(catalogue, flags=flags, environ={})
    with pytest.raises(InputError, match=f"{path} differs between the runs of the study, but"):
        check_applied(other, {path: value})
