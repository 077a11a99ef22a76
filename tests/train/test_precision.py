"""Number formats, loss scales, gradients that are not finite, and deterministic kernels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from bertjobs.errors import InputError
from bertjobs.optim.schedule import learning_rate
from bertjobs.recipe.setting import PRECISIONS
from bertjobs.train.precision import (
    check_gpu,
    check_precision,
    deterministic_environment,
    use_deterministic,
    use_precision,
)
from tests.train.conftest import PHASES, Ended, Trial, alter


@pytest.fixture(autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    """What a run sets in torch is reset after its test."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)
    use_deterministic(False)


def set_in_recipe(trial: Trial, home: Path, **settings: object) -> Trial:
    """The same run, with settings that only a recipe can have."""
    content = yaml.safe_load((trial.home / "bertjobs" / "recipes.yml").read_text())
    content["recipes"]["trial"] |= settings
    (home / "bertjobs").mkdir(parents=True)
    (home / "bertjobs" / "recipes.yml").write_text(yaml.safe_dump(content))
    return replace(trial, home=home)


def test_bf16_trains(trial: Trial, alone: Callable[..., Ended]) -> None:
    assert alone(trial.having(PRECISION="bf16", STEPS_THIS_RUN=4), 1).code == 75
    lines = trial.metrics(1)
    assert len(lines) == 4
    assert all(math.isfinite(line["loss_nats"]) and line["loss_scale"] == 1.0 for line in lines)


def test_skipped_fp16_steps_advance_the_data_but_not_the_schedule(trial: Trial, alone: Callable[..., Ended]) -> None:
    trial = trial.having(PRECISION="fp16")
    assert alone(trial.having(STEPS_THIS_RUN=2), 1).code == 75
    (folder,) = trial.phase(1).checkpoints.iterdir()
    alter(folder, lambda folder: set_loss_scale(folder, 2.0**30))  # far beyond float16's range
    assert alone(trial, 1).code == 0

    lines = trial.metrics(1)
    total, skipped = int(PHASES[1]["steps"]), lines[-1]["skipped_steps"]
    assert skipped > 3
    # The phase consists of that many updates; skipped steps come on top.
    assert [line["step"] for line in lines] == list(range(1, total + skipped + 1))
    before = 0
    for line in lines:
        finite = math.isfinite(line["gradient_norm"])
        assert line["skipped_steps"] == before + (not finite)
        assert line["learning_rate"] == learning_rate(line["step"] - 1 - before, base=0.01, warmup=0.2, total=total)
        before = line["skipped_steps"]
    after = lines[2 : 2 + 4]
    assert [line["loss_scale"] for line in after] == [2.0**30, 2.0**29, 2.0**28, 2.0**27]
    assert len({line["mlm_loss_nats"] for line in after}) == 4, "each of them must see different data"


def test_a_static_loss_scale_stays_over_a_restart_whatever_the_checkpoint_says(
    trial: Trial, alone: Callable[..., Ended], tmp_path: Path
) -> None:
    trial = set_in_recipe(trial.having(PRECISION="fp16", STEPS_THIS_RUN=2), tmp_path / "home", loss_scale=2048)
    assert alone(trial, 1).code == 75
    (folder,) = trial.phase(1).checkpoints.iterdir()
    alter(folder, lambda folder: set_loss_scale(folder, 2.0**30))
    assert alone(trial, 1).code == 75
    assert [line["loss_scale"] for line in trial.metrics(1)] == [2048.0] * 4
    assert trial.metrics(1)[-1]["skipped_steps"] == 0


def test_gradients_that_are_never_finite_end_the_run_with_a_diagnosis(
    stopped: Trial, alone: Callable[..., Ended]
) -> None:
    alter(stopped.phase(1).checkpoints / "step-00000025", corrupt_weights)
    end = alone(stopped, 1)
    assert end.code == 70
    assert "25 steps in a row had gradients that are not finite" in end.err
    assert "cls.predictions.bias (1 NaN of " in end.err
    assert "Traceback" not in end.err
    assert stopped.directory.events()[-1]["cause"] == "gradients not finite"

    (file,) = stopped.phase(1).root.glob("diagnosis-*.json")
    assert str(file) in end.err
    diagnosis = json.loads(file.read_text())
    assert (diagnosis["phase"], diagnosis["step"]) == (1, 50)
    assert [tensor["name"] for tensor in diagnosis["parameters"]] == ["cls.predictions.bias"]
    assert "bert.embeddings.word_embeddings.weight" in [tensor["name"] for tensor in diagnosis["gradients"]]
    assert len(set(diagnosis["sequences"])) == PHASES[1]["global_batch"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_cpu_has_all_but_tf32(precision: str) -> None:
    if precision != "tf32":
        check_precision(precision, torch.device("cpu"))
        return
    with pytest.raises(InputError, match="a CPU does not support tf32") as caught:
        check_precision(precision, torch.device("cpu"))
    assert caught.value.hint == "set PRECISION to one that it supports: fp32, bf16, fp16"


@pytest.mark.parametrize(
    ("name", "capability", "has"),
    [
        ("Tesla K80", (3, 7), ["fp32"]),
        ("Tesla V100-SXM2-16GB", (7, 0), ["fp32", "fp16"]),
        ("Tesla T4", (7, 5), ["fp32", "fp16"]),
        ("NVIDIA A100-SXM4-80GB", (8, 0), ["fp32", "fp16", "tf32", "bf16"]),
        ("NVIDIA B200", (10, 0), ["fp32", "fp16", "tf32", "bf16"]),
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_has_what_its_generation_has(
    name: str, capability: tuple[int, int], has: list[str], precision: str
) -> None:
    if precision in has:
        check_gpu(precision, name, capability)
        return
    with pytest.raises(InputError, match=f"{name} does not support {precision}") as caught:
        check_gpu(precision, name, capability)
    assert caught.value.hint == f"set PRECISION to one that it supports: {', '.join(has)}"


def test_float32_products_are_exact_only_in_fp32() -> None:
    modes = []
    for precision in PRECISIONS:
        use_precision(precision)
        modes.append(torch.get_float32_matmul_precision())
    assert modes == ["highest", "high", "high", "high"]


def test_a_deterministic_run_refuses_operations_that_are_not() -> None:
    places = torch.tensor([0, 0])
    use_deterministic(True)
    with pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(2).put_(places, torch.ones(2))
    use_deterministic(False)
    torch.zeros(2).put_(places, torch.ones(2))


def test_a_deterministic_run_adds_in_float32_and_lets_no_measurement_choose_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._inductor import config

    for name in ("max_autotune", "max_autotune_pointwise", "max_autotune_gemm", "coordinate_descent_tuning"):
        monkeypatch.setattr(config, name, True)
    products = torch.backends.cuda.matmul
    use_deterministic(True)
    assert config.deterministic
    assert not any((config.max_autotune, config.max_autotune_pointwise, config.max_autotune_gemm))
    assert not config.coordinate_descent_tuning
    assert not products.allow_bf16_reduced_precision_reduction
    assert not products.allow_fp16_reduced_precision_reduction
    use_deterministic(False)
    assert not config.deterministic
    assert products.allow_bf16_reduced_precision_reduction
    assert products.allow_fp16_reduced_precision_reduction


def test_the_environment_s_own_determinism_settings_stay() -> None:
    assert deterministic_environment({"NCCL_ALGO": "Ring"}) == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    full = deterministic_environment({})
    assert full["NCCL_ALGO"].startswith("^NVLS")
    assert deterministic_environment(full) == {}


def test_deterministic_changes_nothing_on_a_cpu(trial: Trial, alone: Callable[..., Ended], tmp_path: Path) -> None:
    trial = trial.having(STEPS_THIS_RUN=3)
    assert alone(trial, 1).code == 75
    other = set_in_recipe(trial, tmp_path / "home", deterministic=True)
    other = replace(other, results=tmp_path / "other")
    assert alone(other, 1).code == 75
    assert torch.are_deterministic_algorithms_enabled()
    weights = [one.phase(1).checkpoints / "step-00000003" / "model.safetensors" for one in (trial, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def set_loss_scale(folder: Path, scale: float) -> None:
    path = folder / "training_state.json"
    numbers = json.loads(path.read_text())
    numbers["loss_scale"]["scale"] = scale
    path.write_text(json.dumps(numbers))


def corrupt_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["cls.predictions.bias"][3] = math.nan
    save_file(weights, path, metadata={"format": "pt"})
