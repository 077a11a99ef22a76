"""Which torch has code for which GPU, and the wheel that has it."""

from __future__ import annotations

import pytest

from bertjobs.errors import InputError
from bertjobs.run.torch_wheels import INDEX, check_architecture, lacks_code, runs_on

CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
CU130 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
V100, T4, A100, A10, L40, H200, B200, B300 = (7, 0), (7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3)
RTX5090, NEXT = (12, 0), (13, 0)


@pytest.mark.parametrize(
    ("architectures", "run", "lack"),
    [
        (CU126, [V100, T4, A100, A10, L40, H200], [B200, B300, RTX5090, NEXT]),
        (CU130, [T4, A100, A10, L40, H200, B200, B300, RTX5090, NEXT], [V100]),
        (["sm_86"], [A10, L40], [A100, H200]),  # not for a lower minor version, nor for another major one
        (["sm_90a"], [H200], [B200]),
        (["sm_90a", "compute_90a"], [H200], [B200, RTX5090]),  # PTX of one architecture is for no other
        (["sm_100f"], [B200, B300], [H200, RTX5090]),
        (["sm_60", "compute_80"], [A100, L40, H200, RTX5090, NEXT], [V100, T4]),
        (["gfx90a", "sm_", "sm_x0"], [], [V100, H200]),
        ([], [], [H200]),
    ],
)
def test_which_gpus_run_the_code(
    architectures: list[str], run: list[tuple[int, int]], lack: list[tuple[int, int]]
) -> None:
    assert [gpu for gpu in run + lack if runs_on(gpu, architectures)] == run


@pytest.mark.parametrize(
    ("name", "capability", "torch_version", "cuda", "architectures", "what", "hint"),
    [
        (
            *("Tesla V100-SXM2-16GB", V100, "2.13.0+cu130", "13.0", CU130),
            "Tesla V100-SXM2-16GB needs code for sm_70 (compute capability 7.0), but this torch 2.13.0+cu130 for CUDA "
            "13.0 only has sm_75, sm_80, sm_86, sm_90, sm_100, sm_120, compute_120",
            "install the wheel that has it, cu126 (torch 2.6 to 2.14): "
            "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126",
        ),
        (
            *("NVIDIA B200", B200, "2.11.0+cu126", "12.6", CU126),
            "NVIDIA B200 needs code for sm_100 (compute capability 10.0), but this torch 2.11.0+cu126 for CUDA 12.6 "
            "only has sm_50, sm_60, sm_70, sm_75, sm_80, sm_86, sm_90",
            "install the wheel that has it, cu130 (torch 2.9 and later): "
            "pip install torch==2.11.0 --index-url https://download.pytorch.org/whl/cu130",
        ),
        (
            *("Tesla K80", (3, 7), "2.11.0a1", "13.0", ["sm_90"]),
            "Tesla K80 needs code for sm_37 (compute capability 3.7), but this torch 2.11.0a1 for CUDA 13.0 only has "
            "sm_90",
            "no current wheel of torch has it: use a container or a build of torch made for this GPU",
        ),
    ],
)
def test_what_is_said(
    name: str,
    capability: tuple[int, int],
    torch_version: str,
    cuda: str,
    architectures: list[str],
    what: str,
    hint: str,
) -> None:
    with pytest.raises(InputError) as caught:
        check_architecture(name, capability, architectures, torch_version, cuda)
    assert caught.value.what == what
    assert caught.value.hint == hint


def test_a_gpu_that_is_served_and_a_torch_that_names_nothing_pass() -> None:
    check_architecture("NVIDIA H200", H200, CU130, "2.11.0+cu130", "13.0")
    check_architecture("NVIDIA H200", H200, [], "2.11.0", "13.0")


@pytest.mark.parametrize(
    ("chip", "version", "tag"),
    [
        ("V100-SXM2-16GB", "2.13.0", "cu126"),  # PyPI's
        ("V100-SXM3-32GB", "2.11.0+cu130", "cu126"),
        ("V100-SXM2-16GB", "2.11.0+cu126", None),
        ("V100-SXM2-16GB", "2.11.0a0+nv26.01", None),  # of a container: nobody knows
        ("V100-SXM2-16GB", "2.13.0+cpu", None),
        ("V100-SXM2-16GB", None, None),
        ("A100-SXM4-40GB", "2.13.0", None),
        ("H200-SXM5-141GB", "2.13.0", None),
        ("none", "2.13.0", None),
    ],
)
def test_what_a_recipe_can_tell_before_any_gpu_is_there(chip: str, version: str | None, tag: str | None) -> None:
    hint = lacks_code(chip, version)
    assert (hint is None) == (tag is None)
    assert hint is None or hint.endswith(f"torch=={version.partition('+')[0]} --index-url {INDEX}{tag}")  # type: ignore[union-attr]
