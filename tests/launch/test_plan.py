"""`bertjobs plan`: the arithmetic, where values came from, the script; and nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertjobs.launch.estimate import duration
from bertjobs.launch.progress import ProgressView, progress_line
from tests.conftest import Bertjobs


def test_json_gives_the_batch_arithmetic_per_phase(bertjobs: Bertjobs) -> None:
    done = bertjobs("plan", "--recipe", "dgxa100-80g", "--nodes", 8, "--json")
    first, second = json.loads(done.stdout)["phases"]
    names = ("rank_batch", "gradient_steps", "micro_batch", "global_batch", "world_size", "steps")
    assert [first[name] for name in names] == [1024, 4, 256, 65536, 64, 7038]
    assert [second[name] for name in names] == [512, 16, 32, 32768, 64, 1563]


def test_text_shows_arithmetic_sources_and_script_and_writes_nothing(bertjobs: Bertjobs, tmp_path: Path) -> None:
    done = bertjobs("plan", "--recipe", "dgx1-32g", "--nodes", 4, environ={"PHASE": "1", "LR": "5e-3"})
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "x rank batch (BATCHSIZE) 2,048" in words
    assert "= gradient steps (GRADIENT_STEPS) 32" in words
    assert "phase1.lr 0.005 environment LR" in words
    assert "phase1.gradient_steps 32 65536 / (4 nodes x 8 tasks) / micro-batch 64" in words
    assert "#SBATCH --gpus-per-node=8" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_there_gives_epochs_and_time(bertjobs: Bertjobs, speeches_data: Path) -> None:
    done = bertjobs("plan", "--recipe", "laptop-scratch", "--backend", "local", "--data", speeches_data)
    assert done.returncode == 0, done.stderr
    assert "vocabulary 2,000" in done.stdout
    assert "epochs)" in done.stdout
    assert "GFLOP/s measured here" in done.stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (75, "1 min 15 s"), (7320, "2 h 02 min"), (200_000, "2 d 7 h")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def metrics(step: int) -> dict[str, float]:
    return {
        "phase": 1, "step": step, "loss_nats": 7.5, "mlm_accuracy": 0.25, "sequences_per_s": 16.0, "step_time_s": 2.0,
    }  # fmt: skip


def test_the_progress_line_says_what_matters() -> None:
    assert progress_line([metrics(29), metrics(30)], 120) == (
        "phase 1 [#####...............] step 30/120  loss 7.500  masked words 25.0%  16.0 sequences/s  3 min 00 s left"
    )


def test_the_view_reads_whole_lines_once_and_survives_a_cut(tmp_path: Path) -> None:
    class Terminal(list):
        write = list.append

        def isatty(self) -> bool:
            return True

        def flush(self) -> None: ...

    file, out = tmp_path / "metrics.jsonl", Terminal()
    view = ProgressView(file, 10, out)
    view.update()
    assert out == []
    line = json.dumps(metrics(1))
    file.write_text(line + "\n" + line[:20])
    view.update()
    view.update()
    assert len(out) == 1
    assert out[0].startswith("\r\x1b[Kphase 1 [##")
    file.write_text("")
    view.update()
    file.write_text(json.dumps(metrics(2)) + "\n")
    view.update()
    assert "step 2/10" in out[1]
