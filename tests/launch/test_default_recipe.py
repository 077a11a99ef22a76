"""The recipe of a job by hand that names none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bertjobs.launch.default_recipe import FALLBACK, Gpu, choose, parse_gpus
from bertjobs.recipe.catalogue import Catalogue, builtin_file, load_catalogue


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return load_catalogue([builtin_file()])


@pytest.mark.parametrize(
    ("line", "recipe", "why"),
    [
        ("Tesla V100-SXM2-16GB, 16384, 7.0", "dgx1-16g", "this node has Tesla V100-SXM2-16GB (17 GB)"),
        ("Tesla V100-SXM2-32GB, 32768, 7.0", "dgx1-32g", "this node has Tesla V100-SXM2-32GB (34 GB)"),
        ("NVIDIA A100-SXM4-40GB, 40960, 8.0", "dgxa100-40g", "this node has NVIDIA A100-SXM4-40GB (43 GB)"),
        ("NVIDIA A100-SXM4-80GB, 81920, 8.0", "dgxa100-80g", "this node has NVIDIA A100-SXM4-80GB (86 GB)"),
        ("NVIDIA H100 80GB HBM3, 81559, 9.0", "dgxh100-80g", "this node has NVIDIA H100 80GB HBM3 (86 GB)"),
        ("NVIDIA H200, 143771, 9.0", "h200", "this node has NVIDIA H200 (151 GB)"),
        # No recipe is for these; the nearest has their number formats and fits their memory.
        ("NVIDIA L40S, 46068, 8.9", "dgxa100-40g", "this node has NVIDIA L40S (48 GB): the nearest that fits"),
        ("NVIDIA B200, 183359, 10.0", "h200", "this node has NVIDIA B200 (192 GB): the nearest that fits"),
        ("Tesla T4, 15360, 7.5", "dgx1-16g", "this node has Tesla T4 (16 GB): the nearest that fits"),
        (
            "NVIDIA A10, 23028, 8.6",
            "dgxa100-40g",
            "this node has NVIDIA A10 (24 GB), for which there is no recipe: "
            "raise GRADIENT_STEPS if its memory runs out",
        ),
    ],
)
def test_the_gpu_chooses(catalogue: Catalogue, line: str, recipe: str, why: str) -> None:
    choice = choose(catalogue, parse_gpus(line))
    assert (choice.recipe, choice.why) == (recipe, why)


def test_of_unequal_gpus_the_smallest_counts(catalogue: Catalogue) -> None:
    gpus = parse_gpus("NVIDIA H200, 143771, 9.0\nNVIDIA A100-SXM4-40GB, 40960, 8.0\n")
    assert choose(catalogue, gpus).recipe == "dgxa100-40g"


def test_without_gpus(catalogue: Catalogue) -> None:
    assert FALLBACK in catalogue.keys("recipes")
    assert choose(catalogue, []).recipe == FALLBACK
    on_cpus = choose(catalogue, [Gpu("NVIDIA H200", 150.8, (9, 0))], on_cpus=True)
    assert on_cpus.recipe == FALLBACK
    assert "GPUS=0" in on_cpus.why


@pytest.mark.parametrize(
    "answer", ["", "No devices were found\n", 'Field "compute_cap" is not a valid field to query.\n', "A, [N/A], 8.0\n"]
)
def test_an_answer_of_another_form_names_no_gpu(answer: str) -> None:
    assert parse_gpus(answer) == []


def test_run_sub_reads_nothing_but_the_name_and_needs_neither_torch_nor_nvidia_smi() -> None:
    program = "import runpy, sys; sys.modules['torch'] = None; runpy.run_module(sys.argv[1], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, "bertjobs.launch.default_recipe"],
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{FALLBACK}\n"
    assert done.stderr.startswith(f"recipe {FALLBACK} is assumed: RECIPE is not set, and nvidia-smi names no GPU")
