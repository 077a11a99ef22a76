"""What is to be typed after a study."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bertjobs.cli.study import _commands_after
from bertjobs.files.atomic import write_json
from bertjobs.run.study import Study


def test_a_study_that_is_done_names_what_can_be_done_with_its_best_run(tmp_path: Path) -> None:
    study = Study.of(tmp_path, "st", [{"seed": "42"}, {"seed": "43"}])
    task: Any = SimpleNamespace(task="sentences")
    text: Any = SimpleNamespace(task="")
    all_runs = f"bertjobs report st --results {tmp_path}"
    predict = f"bertjobs predict {tmp_path}/st-{{}} --input FILE --output FILE"
    assert _commands_after(study, text) == [
        all_runs,
        f"bertjobs finetune --task TASK --data DIR --from {tmp_path}/st-1",
    ]
    assert _commands_after(study, task) == [all_runs, predict.format(1)]
    for directory, value in zip(study.directories, (0.5, 0.75), strict=True):
        directory.phase(1).root.mkdir(parents=True)
        write_json(directory.phase(1).result, {"measure": "f1", "dev": {"f1": value}})
    assert _commands_after(study, task) == [all_runs, f"bertjobs evaluate {tmp_path}/st-2", predict.format(2)]
